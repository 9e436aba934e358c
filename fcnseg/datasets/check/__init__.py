"""Check a dataset before training: its content and its problems."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg import notebook
from fcnseg.datasets import SPLITS, Description, Pair, split_sizes
from fcnseg.datasets.check.findings import (
    SEVERITIES,
    Finding,
    counts_by_severity,
    file_findings,
    file_names,
    layout_of_images,
)
from fcnseg.datasets.check.label_checks import label_findings
from fcnseg.datasets.check.statistics import (
    ClassCount,
    count_classes,
    iou_after_resizing,
    summarize,
    train_sizes,
)
from fcnseg.datasets.check.suggestions import Size, Suggestion, in_words, suggest
from fcnseg.datasets.describe import own_split_sizes, scan
from fcnseg.datasets.draw_splits import Fold, with_fold
from fcnseg.datasets.formats import read_stored
from fcnseg.datasets.scan import ScanResult
from fcnseg.datasets.splits import VAL_FRACTION, Video, find_copies, find_similar, find_videos
from fcnseg.errors import DatasetError, counted, percent, quoted
from fcnseg.io.bands import Layout
from fcnseg.progress import Callback, no_callback


@dataclass(frozen=True)
class Cleaned:
    """A clean copy of a dataset.

    folder: its path. written: number of pairs. repaired, left_out: pair name -> what was done and
    why.
    """

    folder: Path
    written: int
    repaired: dict[str, str]
    left_out: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**vars(self), "folder": str(self.folder)}


@dataclass(frozen=True, eq=False)
class CheckResult:
    """The content of a dataset and its problems.

    frequencies: of each class. train_pixels: labeled pixels of each class in the training images
        (in all images if there are none). train_sizes: their (height, width).
    mean, spread: mean and standard deviation of red, green and blue in 0..1, over all images.
    layout: bands and type of the images; None if they differ.
    suggestion: training options; seconds: the estimated training time on this machine, if
        requested.
    contact, cleaned, written, page: the outputs, or None.
    """

    description: Description
    splits: dict[str, int]
    findings: tuple[Finding, ...]
    frequencies: tuple[ClassCount, ...]
    train_pixels: tuple[int, ...]
    train_sizes: tuple[Size, ...] = field(repr=False)
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    suggestion: Suggestion | None
    layout: Layout | None = None
    contact: Path | None = None
    cleaned: Cleaned | None = None
    written: Path | None = None
    seconds: float | None = None
    page: Path | None = None

    @property
    def summary(self) -> str:
        """A description of the dataset in one paragraph."""
        return summarize(self.description, own_split_sizes(self.description), self.splits)

    @property
    def count(self) -> str:
        """The number of findings as text: "1 error, 3 warnings and 2 notes"."""
        return counts_by_severity(self.findings)

    @property
    def training_time(self) -> str:
        """The estimated training time as text; "" if it was not requested."""
        return "" if self.seconds is None else f"{in_words(self.seconds)}."

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def raise_errors(self, data: Path) -> None:
        """Raise DatasetError with all errors, if there are any, and the command that fixes them.

        data: the dataset, as given by the user.
        """
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if not errors:
            return
        clean = f"fcnseg check {quoted(data)} --fix {quoted(f'{data.resolve().name}_clean')}"
        by_copy = any("--fix" in one.repair for one in errors)
        if len(errors) == 1:
            hint = errors[0].repair + (f": {clean}" if by_copy else "")
            raise DatasetError(errors[0].sentence, hint=hint)
        details = [f"{one.sentence} Fix: {one.repair}." for one in errors]
        hint = (
            f"{clean} writes a copy that can be used" if by_copy else f"fcnseg check {quoted(data)}"
        )
        raise DatasetError(
            f"{data} has {counted(len(errors), 'error')}:", hint=hint, details=details
        )

    def _repr_html_(self) -> str:
        """For notebooks: the summary, class frequencies, and findings."""
        proportions = [(one.name, percent(one.proportion)) for one in self.frequencies]
        found = [(one.severity, one.sentence, one.repair) for one in self.findings]
        return notebook.dataset(self.summary, proportions, f"{self.count}.", found)

    def as_dict(self) -> dict[str, Any]:
        """The output of --json. splits: the folder's own, if any; parts: those in use."""
        description = self.description
        return {
            "summary": self.summary,
            "layout": description.layout,
            "pairs": len(description.pairs),
            "classes": list(description.classes.names),
            "ignore_index": description.ignore_index,
            "splits": own_split_sizes(self.description) or self.splits,
            "parts": self.splits,
            "findings": [finding.as_dict() for finding in self.findings],
            "why": list(description.why),
            "frequencies": [one.as_dict() for one in self.frequencies],
            "mean": list(self.mean),
            "std": list(self.spread),
            "bands": None if self.layout is None else self.layout.as_dict(),
            "suggested": self.suggestion.as_dict() if self.suggestion else None,
            "training_seconds": None if self.seconds is None else round(self.seconds),
            "contact": str(self.contact) if self.contact else None,
            "html": str(self.page) if self.page else None,
            "fixed": self.cleaned.as_dict() if self.cleaned else None,
            "written": str(self.written) if self.written else None,
        }


def examine(
    data: str | Path,
    callback: Callback = no_callback,
    *,
    boxes: bool = False,
    fold: Fold | None = None,
) -> CheckResult:
    """Check without writing files; the first step of a training.

    boxes: see `scan`. fold: the validation images, instead of the folder's own val split.
    """
    return scan_and_check(Path(data), callback, boxes=boxes, fold=fold)[1]


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Disable garbage collection: it takes a sixth of the time, and there are no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collections()
def scan_and_check(
    data: Path, callback: Callback, *, boxes: bool = False, fold: Fold | None = None
) -> tuple[ScanResult, CheckResult]:
    """Scan a folder and check it. boxes, fold: see `examine`."""
    seen = scan(data, callback, images=True, boxes=boxes)
    seen = with_fold(seen, fold) if fold else seen
    counts = count_classes(seen)
    layout, mixed = layout_of_images(seen)
    findings = [*mixed, *file_findings(seen), *label_findings(seen, counts), *leaks(seen)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    names = seen.description.classes.names
    sizes = train_sizes(seen)
    train_pixels = tuple(counts.learned.tolist())
    kept = iou_after_resizing(seen.description, read_stored)
    result = CheckResult(
        description=seen.description,
        splits=split_sizes(seen.description),
        findings=tuple(findings),
        frequencies=counts.by_class(names),
        train_pixels=train_pixels,
        train_sizes=sizes,
        mean=seen.images.mean,
        spread=seen.images.spread,
        suggestion=suggest(sizes, train_pixels, names, kept) if sizes else None,
        layout=layout,
    )
    return seen, result


FEW_PAIRS = 10
"""With fewer training pairs than this there is a warning."""


def leaks(seen: ScanResult) -> Iterable[Finding]:
    """Problems of the splits: identical, similar or neighboring images in two of them."""
    yield from _sizes(seen)
    yield from _copies(seen)
    videos = find_videos(seen.description.pairs, seen.images)
    yield from _similar_images(seen, videos)
    for video in videos:
        yield from _neighbours(seen, video, videos)


def _sizes(seen: ScanResult) -> Iterable[Finding]:
    description = seen.description
    sizes = [sum(pair.split == split for pair in description.pairs) for split in SPLITS]
    if description.random_split and not sizes[1]:
        yield Finding(
            "info",
            "drawn-split",
            "There are no validation images: all images look alike or are of one video, and such "
            "images stay together, so that no val part was drawn.",
            repair="add other images, or choose val images under [splits] in a dataset.toml",
        )
    elif description.random_split:
        yield Finding(
            "info",
            "drawn-split",
            f"The folder has no val part: it gets {sizes[1]} of {sizes[0] + sizes[1]} pairs, "
            "with each class in proportion and similar images kept together.",
            repair="always the same pairs for the same files; --write dataset.toml lists them",
        )
    if 0 < sizes[0] < FEW_PAIRS:
        yield Finding(
            "warning",
            "few-pairs",
            f"Only {counted(sizes[0], 'training pair')}.",
            repair="label more images; a few dozen is a good start",
        )


def _copies(seen: ScanResult) -> Iterable[Finding]:
    """Identical image files."""
    across: list[int] = []
    within: list[int] = []
    for group in find_copies(seen.images):
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


def _similar_images(seen: ScanResult, videos: Sequence[Video]) -> Iterable[Finding]:
    """Similar images in two splits: resized, recompressed, or shot in a burst."""
    pairs, digests = seen.description.pairs, seen.images.digests
    video_of = {number: place for place, video in enumerate(videos) for number in video.members}
    alike = [
        (one, other)
        for one, other in find_similar(seen.images)
        if pairs[one].split != pairs[other].split
        and digests[one] != digests[other]
        and (one not in video_of or video_of[one] != video_of.get(other))
    ]
    if alike:
        yield Finding(
            "warning",
            "lookalikes-across-splits",
            f"{counted(len(alike), 'pair')} of images in different splits look the same "
            f"({pairs[alike[0][0]].name} and {pairs[alike[0][1]].name}): optimistic scores.",
            _images(seen, sorted({number for both in alike for number in both})),
            "keep similar images in one split; --fix OUT leaves the training ones out",
        )


def _neighbours(seen: ScanResult, video: Video, videos: Sequence[Video]) -> Iterable[Finding]:
    """Frames of one video in train and in val or test."""
    pairs = seen.description.pairs
    frames: dict[str, list[int]] = {}
    for member, number in zip(video.members, video.numbers, strict=True):
        frames.setdefault(pairs[member].split, []).append(number)
    for split in ("val", "test"):
        if split not in frames or "train" not in frames:
            continue
        train, numbers = np.array(frames["train"]), np.array(frames[split])  # both in order
        after = np.searchsorted(train, numbers).clip(max=len(train) - 1)
        gap = np.abs(train[[after, np.maximum(after - 1, 0)]] - numbers).min()
        held = [pairs[m].image for m in video.members if pairs[m].split == split]
        yield Finding(
            "info" if seen.description.random_split else "warning",
            "neighbouring-frames",
            f"{split} and train share the video {video.name.rstrip('_-/') or 'of all images'} "
            f"({len(frames[split])} and {len(train)} images), the nearest {gap} frames "
            f"apart: {split} looks like what was trained on, and its scores are optimistic.",
            file_names(seen, held),
            _other_video(pairs, video, videos),
        )


def _other_video(pairs: Sequence[Pair], video: Video, videos: Sequence[Video]) -> str:
    """Which video could be held out as a whole instead."""
    others = [other for other in videos if other is not video]
    if not others:
        return "score on images from another recording"
    wanted = len(pairs) * VAL_FRACTION
    best = min(others, key=lambda other: abs(len(other.members) - wanted))
    pattern = best.name + "*"
    return (
        f"hold out a whole recording: --write dataset.toml, and in it under [splits] "
        f'val = ["{pattern}"] ({counted(len(best.members), "image")}) and train = ["{video.name}*"]'
    )


def _images(seen: ScanResult, numbers: Sequence[int]) -> tuple[str, ...]:
    return file_names(seen, [seen.description.pairs[number].image for number in numbers])
