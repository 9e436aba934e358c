"""Random splits: validation images for a folder without any, and cross-validation folds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import Encoding, Pair, SplitName
from fcnseg.datasets.encoding.values import values_of
from fcnseg.datasets.many_files import CountsOfFiles
from fcnseg.datasets.scan import ScanResult
from fcnseg.datasets.splits import (
    VAL_FRACTION,
    Video,
    draw_folds,
    draw_val,
    find_similar,
    find_videos,
    group_numbers,
    sort_pairs,
)
from fcnseg.errors import OptionError, counted


@dataclass(frozen=True)
class Fold:
    """A cross-validation fold. number: from 0. of: number of folds. seed: of the random split."""

    number: int
    of: int
    seed: int = 0


def with_val(scanned: ScanResult) -> ScanResult:
    """Add a random validation split; groups of similar images and videos stay together."""
    pairs = scanned.description.pairs
    training = [i for i, pair in enumerate(pairs) if pair.split == "train"]
    groups, present, (videos, longest) = _to_draw(scanned, VAL_FRACTION)
    chosen = draw_val([pairs[i].name for i in training], groups[training], present[training])
    splits: dict[int, SplitName] = {training[i]: "val" for i in chosen}
    return _with_splits(scanned, splits, _split_reason(len(chosen), videos, longest), drawn=True)


def with_fold(scanned: ScanResult, fold: Fold) -> ScanResult:
    """Move a fold's images to val, and all others of train and val to train.

    Stratified by class; similar images, videos and the pages of a file stay together. OptionError
    if there are fewer such groups than folds.
    """
    pairs = scanned.description.pairs
    ours = [i for i, pair in enumerate(pairs) if pair.split in ("train", "val")]
    together = _pages(pairs, ours, fold.of)
    groups, present, (videos, longest) = _to_draw(scanned, 1 / fold.of, together)
    found = len(np.unique(groups[ours]))
    if found < fold.of:
        raise OptionError(
            f"--folds {fold.of}: the {counted(len(ours), 'image')} of train and val are "
            f"{counted(found, 'group')}: images that look alike or are of one video stay together.",
            hint=f"use --folds {found} or fewer" if found > 1 else "--seeds needs no groups",
        )
    names = [pairs[i].name for i in ours]
    numbers = draw_folds(names, groups[ours], present[ours], fold.of, fold.seed).tolist()
    splits: dict[int, SplitName] = {
        i: "val" if number == fold.number else "train"
        for i, number in zip(ours, numbers, strict=True)
    }
    why = f"fold {fold.number} of 0 to {fold.of - 1}: its images validate, the others train"
    if any(len(video.members) > longest for video in videos):
        why += f"; the one long video was cut into stretches of {longest} frames"
    return _with_splits(scanned, splits, why, drawn=False)


_Videos = tuple[Sequence[Video], int]


def _to_draw(
    scanned: ScanResult, fraction: float, together: Sequence[tuple[int, int]] = ()
) -> tuple[NDArray[np.int64], NDArray[np.bool_], _Videos]:
    """For all pairs: their groups (N,), their classes (N, K), and the videos among them.

    fraction: size of a split. together: further pairs to put into one group.
    """
    pairs, images = scanned.description.pairs, scanned.images
    videos = find_videos(pairs, images)
    longest = _longest_kept(videos, len(pairs), fraction)
    groups = group_numbers(len(pairs), videos, [*find_similar(images), *together], longest)
    encoding = scanned.description.encoding
    return groups, presence(scanned.labels.counts, encoding, scanned.values.kind), (videos, longest)


def _pages(pairs: Sequence[Pair], ours: Sequence[int], folds: int) -> list[tuple[int, int]]:
    """(i, j) for pairs that are pages of the same file, unless there are fewer files than folds."""
    first: dict[str, int] = {}
    found = [(first.setdefault(str(pairs[i].image), i), i) for i in ours]
    return [both for both in found if both[0] != both[1]] if len(first) >= folds else []


def _with_splits(
    scanned: ScanResult, splits: Mapping[int, SplitName], why: str, *, drawn: bool
) -> ScanResult:
    """Assign other splits to some pairs, by index. why: a sentence that explains it."""
    before = scanned.description
    order = sort_pairs(
        [
            dataclasses.replace(pair, split=splits.get(i, pair.split))
            for i, pair in enumerate(before.pairs)
        ]
    )
    place = {pair.name: i for i, pair in enumerate(before.pairs)}
    moved = [place[pair.name] for pair in order]

    def renumbered(problems: Mapping[int, str]) -> dict[int, str]:
        return {new: problems[old] for new, old in enumerate(moved) if old in problems}

    labels, images = scanned.labels, scanned.images
    arrays = {k: v[np.array(moved)] for k, v in vars(images).items() if isinstance(v, np.ndarray)}
    return ScanResult(
        dataclasses.replace(before, pairs=order, random_split=drawn, why=(*before.why, why)),
        dataclasses.replace(
            labels,
            counts=labels.counts.taken(moved),
            alphas=labels.alphas.taken(moved),
            problems=renumbered(labels.problems),
        ),
        scanned.values,
        dataclasses.replace(
            images,
            **arrays,
            layouts=[images.layouts[old] for old in moved],
            problems=renumbered(images.problems),
        ),
    )


def _longest_kept(videos: Sequence[Video], count: int, fraction: float) -> int:
    """Maximum frames of a video kept together: all, unless it has over half of all images."""
    longest = max((len(video.members) for video in videos), default=0)
    return max(1, round(count * fraction / 2)) if longest > count / 2 else max(1, longest)


def _split_reason(count: int, videos: Sequence[Video], longest: int) -> str:
    if not count:
        return "no val part, and none was drawn: all images look alike, or are of one video"
    text = f"no val part: {counted(count, 'pair')} chosen at random for it, stratified by class"
    if any(len(video.members) > longest for video in videos):
        return f"{text}; the one long video was cut into stretches of {longest} frames"
    return f"{text}; each video stays in one part" if videos else text


def presence(counts: CountsOfFiles, encoding: Encoding, kind: str) -> NDArray[np.bool_]:
    """bool (N, K): which classes each label file contains. kind: of the dataset's values."""
    index = encoding.class_of()
    present = np.zeros((len(counts), len(encoding.values)), np.bool_)
    for row, one in enumerate(counts):
        if one is not None:
            for value in values_of(one, kind):
                if value in index:
                    present[row, index[value]] = True
    return present
