"""Images that training has all but seen: copies, look-alikes and neighbours across splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fcnseg.datasets import SPLITS, Pair
from fcnseg.datasets.check.findings import Finding, counted, file_names
from fcnseg.datasets.describe import Scanned
from fcnseg.datasets.splits import VAL_SHARE, Video, find_copies, find_lookalikes, find_videos

FEW_PAIRS = 10
"""Fewer training pairs than this are remarked on."""


def leaks(seen: Scanned) -> Iterable[Finding]:
    """Everything about the splits."""
    yield from _sizes(seen)
    if seen.pictures is not None:
        videos = find_videos(seen.description.pairs, seen.pictures)
        yield from _copies(seen)
        yield from _lookalikes(seen, videos)
        for video in videos:
            yield from _neighbours(seen, video, videos)


def _sizes(seen: Scanned) -> Iterable[Finding]:
    description = seen.description
    sizes = [sum(pair.split == split for pair in description.pairs) for split in SPLITS]
    if description.drawn_split:
        yield Finding(
            "info",
            "drawn-split",
            f"The folder has no val part: of {sizes[0] + sizes[1]} pairs {sizes[1]} were drawn for "
            "it, with each class in proportion and look-alikes kept together.",
            repair="always the same pairs for the same files; --write dataset.toml lists them",
        )
    if 0 < sizes[0] < FEW_PAIRS:
        yield Finding(
            "warning",
            "few-pairs",
            f"Only {counted(sizes[0], 'training pair')}.",
            repair="label more images; a few dozen is a good start",
        )


def _copies(seen: Scanned) -> Iterable[Finding]:
    """The same file twice."""
    assert seen.pictures is not None
    across: list[int] = []
    within: list[int] = []
    for group in find_copies(seen.pictures):
        splits = {seen.description.pairs[number].split for number in group}
        (across if len(splits) > 1 else within).extend(group)
    if across:
        yield Finding(
            "warning",
            "copies-across-splits",
            f"{counted(len(across), 'image')} in more than one split: what is trained on is "
            "scored on: scores will be optimistic.",
            _images(seen, across),
            "keep each in one split only; --fix OUT leaves the training copies out",
        )
    if within:
        yield Finding(
            "info",
            "copies",
            f"{counted(len(within), 'image')} are copies of each other within a split.",
            _images(seen, within),
            "remove all but one of each; check that their labels agree",
        )


def _lookalikes(seen: Scanned, videos: Sequence[Video]) -> Iterable[Finding]:
    """Nearly the same image in two splits: resized, compressed again, a burst of shots."""
    assert seen.pictures is not None
    pairs, pictures = seen.description.pairs, seen.pictures
    video_of = {number: place for place, video in enumerate(videos) for number in video.members}
    alike = [
        (one, other)
        for one, other in find_lookalikes(pictures)
        if pairs[one].split != pairs[other].split
        and pictures.digests[one] != pictures.digests[other]
        and (one not in video_of or video_of[one] != video_of.get(other))
    ]
    if alike:
        yield Finding(
            "warning",
            "lookalikes-across-splits",
            f"{counted(len(alike), 'pair')} of images in different splits look the same "
            f"({pairs[alike[0][0]].name} and {pairs[alike[0][1]].name}): optimistic scores.",
            _images(seen, sorted({number for both in alike for number in both})),
            "keep look-alikes in one split; --fix OUT leaves the training ones out",
        )


def _neighbours(seen: Scanned, video: Video, videos: Sequence[Video]) -> Iterable[Finding]:
    """Frames of one video in train and in what is scored."""
    pairs = seen.description.pairs
    frames: dict[str, list[int]] = {}
    for member, number in zip(video.members, video.numbers, strict=True):
        frames.setdefault(pairs[member].split, []).append(number)
    for split in ("val", "test"):
        if split not in frames or "train" not in frames:
            continue
        train = np.array(frames["train"])
        gaps = [int(np.abs(train - number).min()) for number in frames[split]]
        held = [pairs[m].image for m in video.members if pairs[m].split == split]
        yield Finding(
            "info" if seen.description.drawn_split else "warning",
            "neighbouring-frames",
            f"{split} and train share the video {video.name.rstrip('_-/') or 'of all pictures'} "
            f"({len(frames[split])} and {len(train)} images), the nearest {min(gaps)} frames "
            f"apart: {split} looks like what was trained on, and its scores are optimistic.",
            file_names(seen, held),
            _other_video(pairs, video, videos),
        )


def _other_video(pairs: Sequence[Pair], video: Video, videos: Sequence[Video]) -> str:
    """Which video could be held out as a whole instead."""
    others = [other for other in videos if other is not video]
    if not others:
        return "score on images from another recording"
    wanted = len(pairs) * VAL_SHARE
    best = min(others, key=lambda other: abs(len(other.members) - wanted))
    pattern = best.name + "*"
    return (
        f"hold out a whole recording: --write dataset.toml, and in it under [splits] "
        f'val = ["{pattern}"] ({len(best.members)} images) and train = ["{video.name}*"]'
    )


def _images(seen: Scanned, numbers: Sequence[int]) -> tuple[str, ...]:
    return file_names(seen, [seen.description.pairs[number].image for number in numbers])
