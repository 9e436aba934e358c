"""Measure samples of image files, to recognize labels and relations between sets of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.encoding.values import packed_colors
from fcnseg.datasets.pairing import Listing
from fcnseg.errors import MediaError
from fcnseg.io.images import read_image
from fcnseg.io.labels import RawLabels, read_alpha, read_raw_labels

_T = TypeVar("_T")

SAMPLED_FILES = 12
"""Number of files per side that are sampled."""

ROWS = 64
"""Number of evenly spaced rows of a file that are sampled."""

TINT = 6
"""Maximum change of a flat area by JPEG."""

FLAT = 0.7
"""Minimum fraction of equal adjacent pixels in labels."""

SMOOTHER = 3.0
"""If the image is flat, too (X-rays on black): minimum ratio of differing pixels to labels'."""

HELD = 0.9

FEW = 256
"""Maximum number of values that cover 90% of the pixels of labels."""

FEWEST = 4
"""Minimum number of values that cover 90% of the pixels of an image."""

AREA = 0.05
"""Minimum proportion of a value among the pixels other than the most frequent value."""

SAME = 0.9
"""Minimum IoU of regions that count as the same."""


POINT = 1.5
"""Maximum mean run length of point annotations."""

WITHIN = 0.7
"""Maximum proportion of a class covered by one within it; more are two drawings of one object."""


@dataclass(frozen=True, eq=False)
class FileStats:
    """Statistics of a file.

    flat: proportion of equal adjacent pixels in rows. few: number of values that cover 90% of the
    pixels. levels: number of values that cover areas, not edges. small: int32 (64, 64), resampled
    (nearest). color: whether it is in color. size: its sides, the shorter first. run: mean run
    length in rows of values other than the most frequent; 0 if there are none.
    through: statistics of its opacity, if that varies.
    """

    flat: float
    few: int
    levels: int
    small: NDArray[np.int32]
    color: bool
    size: tuple[int, int] = (0, 0)
    run: float = 0.0
    through: FileStats | None = None

    @property
    def like_labels(self) -> bool:
        """Whether it has few values in long runs."""
        return self.flat >= FLAT and self.few <= FEW

    @property
    def region(self) -> NDArray[np.bool_]:
        """bool (64, 64): all values except the most frequent."""
        values, counts = np.unique(self.small, return_counts=True)
        return np.asarray(self.small != values[counts.argmax()])

    @property
    def shown(self) -> NDArray[np.bool_]:
        """bool (64, 64): pixels that are not black, as in a binary mask."""
        most = int(self.small.max())
        return np.asarray(self.small > (127 if 127 < most < 256 else 0))

    @property
    def is_mask(self) -> bool:
        """Whether there is exactly one value besides 0."""
        return len({0, *np.unique(self.small).tolist()}) == 2


@dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate pairing of a folder: listed names of images and labels.

    image_words, label_words: words that only one side has.
    """

    pairs: tuple[tuple[str, str], ...]
    image_words: tuple[str, ...] = ()
    label_words: tuple[str, ...] = ()

    @cached_property
    def images(self) -> frozenset[str]:
        """The image files."""
        return frozenset(image for image, _ in self.pairs)

    @cached_property
    def labels(self) -> frozenset[str]:
        """The label files."""
        return frozenset(labels for _, labels in self.pairs)

    @property
    def words(self) -> int:
        """Number of words that distinguish the sides; candidates with fewer are preferred."""
        return len(self.image_words) + len(self.label_words)


class StatsCache:
    """Cached statistics of a folder's files."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._seen: dict[str, FileStats | None] = {}

    def of(self, names: Iterable[str]) -> list[FileStats]:
        """The statistics of the readable files."""
        return [one for name in names if (one := self._look(name)) is not None]

    def by_image(self, candidate: Candidate, images: Sequence[str]) -> dict[str, FileStats]:
        """The statistics of a candidate's labels, by image."""
        labels = dict(candidate.pairs)
        shown = {image: self._look(labels[image]) for image in images if image in labels}
        return {image: one for image, one in shown.items() if one is not None}

    def _look(self, name: str) -> FileStats | None:
        if name not in self._seen:
            self._seen[name] = measure_file(self.listing.path(name))
        return self._seen[name]


def measure_file(path: Path) -> FileStats | None:
    """The statistics of a file; None if it can't be read."""
    try:
        raw = read_raw_labels(path)
    except MediaError:
        try:  # not integers (radar, heights): an image
            raw = RawLabels(read_image(path), None, "RGB")
        except MediaError:
            return None
    seen = stats_of(raw, lossy=path.suffix.lower() in (".jpg", ".jpeg", ".webp"))
    alpha = read_alpha(path) if raw.mode[-1] in "Aa" else None
    if alpha is None or alpha.min() == alpha.max():
        return seen
    return replace(seen, through=stats_of(RawLabels(alpha, None, "L")))


def stats_of(raw: RawLabels, *, lossy: bool = False) -> FileStats:
    """The statistics of a file's content."""
    values = raw.values
    rows = np.unique(np.linspace(0, len(values) - 1, ROWS).astype(int))
    seen = values[rows].astype(np.int32)
    apart = np.abs(np.diff(np.atleast_3d(seen), axis=1))
    equal = apart.max(2) <= (TINT if lossy else 0) if apart.size else np.ones((1, 1), np.bool_)
    numbers = values if values.ndim == 2 else packed_colors(raw)
    stored, counts = np.unique(numbers[rows], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    few = int(np.searchsorted(counts[order].cumsum(), HELD * counts.sum())) + 1
    levels = _levels(stored[order], counts[order], lossy=lossy)
    small = numbers[_spread(numbers.shape[0])][:, _spread(numbers.shape[1])].astype(np.int32)
    color = values.ndim == 3 and not _is_grey(values)
    size = (min(values.shape[:2]), max(values.shape[:2]))
    run = _run(numbers[rows], stored[order[0]])
    return FileStats(float(equal.mean()), few, levels, small, color, size, run)


def sample_stats(listing: Listing, names: Sequence[str]) -> list[FileStats]:
    """The statistics of a sample of files."""
    return StatsCache(listing).of(sample(names))


def tell_labels(first: Sequence[FileStats], second: Sequence[FileStats]) -> int:
    """Which of two sides has labels of the other: 0 or 1; -1 if neither or both."""
    sides = first, second
    for side in (0, 1):
        mine, theirs = sides[side], sides[1 - side]
        if mine and theirs and _are_labels_of(mine, theirs):
            return side
    cut_out = [[one.through for one in side if one.through is not None] for side in sides]
    for side in (0, 1):  # photographs whose opacity is the label
        mine, theirs = cut_out[side], sides[1 - side]
        many = 3 * len(mine) >= len(sides[side])  # images without an object are fully transparent
        if len(mine) > 1 and many and theirs and not cut_out[1 - side]:
            return side if _are_labels_of(mine, theirs) else -1
    return -1


def _are_labels_of(labels: Sequence[FileStats], images: Sequence[FileStats]) -> bool:
    fit = [one.like_labels for one in labels]
    rough_labels = float(np.median([1 - one.flat for one in labels]))
    rough_images = float(np.median([1 - one.flat for one in images]))
    most = float(np.median([one.few for one in images]))
    fewer = max(FEWEST, 2 * float(np.median([one.few for one in labels]))) <= most
    return sum(fit) >= 0.8 * len(fit) and fewer and rough_images >= SMOOTHER * rough_labels


def is_constant(stats: Sequence[FileStats]) -> bool:
    """Whether the regions are the same in every file: a camera's field of view, a frame."""
    masks = all(one.is_mask for one in stats)
    regions = [one.shown if masks else one.region for one in stats]
    return len(regions) > 1 and all(overlap(regions[0], other) >= SAME for other in regions[1:])


def are_points(stats: Sequence[FileStats]) -> bool:
    """Whether files mark points by single pixels (the centers of objects), not areas."""
    runs = [one.run for one in stats if one.run]
    return bool(runs) and max(runs) <= POINT


def refines(fine: Mapping[str, FileStats], coarse: Mapping[str, FileStats]) -> bool:
    """Whether labels divide the classes of others (crop and weed instead of plant); by image.

    Each fine value is then within one coarse value, the same in every image. This also holds for
    object numbers, but their count differs by image.
    """
    both = fine.keys() & coarse.keys()
    if not both or len({*fine.values()} & {*coarse.values()}):
        return False
    shared: Counter[tuple[int, int]] = Counter()
    for name in both:
        pairs = np.stack([fine[name].small.ravel(), coarse[name].small.ravel()])
        found, counts = np.unique(pairs, axis=1, return_counts=True)
        shared.update({(a, b): n for a, b, n in zip(*found.tolist(), counts.tolist(), strict=True)})
    most: Counter[int] = Counter()
    for (value, _), count in shared.items():
        most[value] = max(most[value], count)
    finer = max(fine[n].levels for n in both) > max(coarse[n].levels for n in both)
    return (
        finer
        and sum(most.values()) >= 0.99 * shared.total()
        and not are_numbered([{*np.unique(fine[name].small).tolist()} for name in both])
    )


def are_numbered(stored: Sequence[set[int]]) -> bool:
    """Whether the values of each file number its objects: smaller sets are subsets of larger ones,
    or hardly any value occurs in two files."""
    every = set[int]().union(*stored)
    ordered = sorted(stored, key=len)
    nested = all(few <= more for few, more in pairwise(ordered))
    counts = {len(values) for values in stored}
    return (nested and len(counts) > 2) or (
        len(stored) > 2 and sum(len(values) - 1 for values in stored) <= 1.5 * (len(every) - 1)
    )


def same_regions(first: Mapping[str, FileStats], second: Mapping[str, FileStats]) -> bool:
    """Whether two sets of labels have the same borders with other values; by image."""
    both = first.keys() & second.keys()
    edges = [(_edges(first[name].small), _edges(second[name].small)) for name in both]
    return bool(both) and all(float((a == b).mean()) >= 0.99 for a, b in edges)


def apart_in_space(sets: Sequence[Mapping[str, FileStats]]) -> bool:
    """Whether sets of binary masks of the same images are one class each: they hardly overlap, or
    one is within the other (the cup in the disc)."""
    if any(one.levels > 2 for some in sets for one in some.values()):
        return False
    several = 0
    for image in {name for some in sets for name in some}:
        regions = [some[image].shown for some in sets if image in some]
        several += len(regions) > 1
        covered = np.sum(regions, axis=0)
        overlap = (covered > 1).sum() > 0.1 * max(1, (covered > 0).sum())
        if overlap and not _nested(regions):
            return False
    return several > 0


def _nested(regions: Sequence[NDArray[np.bool_]]) -> bool:
    """Whether each region is within the next larger one, which is clearly larger."""
    ordered = sorted(regions, key=lambda region: -int(region.sum()))
    return all(
        inner.sum() <= WITHIN * outer.sum() and (inner & outer).sum() >= SAME * inner.sum()
        for outer, inner in pairwise(ordered)
    )


def sample(things: Sequence[_T]) -> list[_T]:
    """At most SAMPLED_FILES evenly spaced elements."""
    places = np.unique(np.linspace(0, len(things) - 1, min(len(things), SAMPLED_FILES)).astype(int))
    return [things[place] for place in places]


def _run(rows: NDArray[np.int32], most: int) -> float:
    """The mean run length of values other than the most frequent."""
    other = rows != most
    starts = other & np.diff(rows, axis=1, prepend=rows[:, :1] - 1).astype(np.bool_)
    return float(other.sum() / starts.sum()) if other.any() else 0.0


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The IoU of two masks; 1 if both are empty."""
    either = (first | second).sum()
    return float((first & second).sum() / either) if either else 1.0


def _levels(stored: NDArray[np.int32], counts: NDArray[np.int64], *, lossy: bool) -> int:
    """Number of values that cover areas. lossy: similar values count as one."""
    large = stored[1:][counts[1:] >= AREA * max(1, counts[1:].sum())]
    kept = [int(stored[0])]
    for value in large.tolist():
        if not lossy or all(abs(value - other) > 2 * TINT for other in kept):
            kept.append(value)
    return len(kept)


def _edges(small: NDArray[np.int32]) -> NDArray[np.bool_]:
    return np.asarray(np.diff(small, axis=1) != 0)


def _spread(extent: int) -> NDArray[np.int64]:
    return np.linspace(0, extent - 1, ROWS).round().astype(np.int64)


def _is_grey(values: NDArray[np.int32] | NDArray[np.uint8]) -> bool:
    return bool(
        (values[..., 0] == values[..., 1]).all() and (values[..., 1] == values[..., 2]).all()
    )
