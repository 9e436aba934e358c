"""What samples of image files show: which look like labels, and of which other labels."""

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

LOOKED_AT = 12
"""Files of each side whose pixels are looked at."""

ROWS = 64
"""Rows of a file that are looked at, evenly spaced."""

TINT = 6
"""JPEG changes a flat area by no more than this."""

FLAT = 0.7
"""Of labels, at least this fraction of neighbouring pixels have the same value."""

SMOOTHER = 3.0
"""And where the image is flat too (X-rays on black), so many times fewer of them differ."""

HELD = 0.9

FEW = 256
"""Of labels no more values than this hold nine tenths of the pixels."""

FEWEST = 4
"""Of an image it takes at least so many."""

AREA = 0.05
"""A value covers areas when it has this much of what is not the most frequent value."""

SAME = 0.9
"""Regions that overlap by this much (intersection over union) are the same regions."""


POINT = 1.5
"""Runs of marks for places are no longer, on average."""

WITHIN = 0.7
"""A class within another covers no more of it than this; two drawings of one thing do."""


@dataclass(frozen=True, eq=False)
class Look:
    """What a file shows.

    flat: the proportion of neighbours in a row that are equal. few: how many values hold 90% of the
    pixels. levels: how many cover areas, not edges. small: int32 (64, 64), the file resampled
    (nearest). color: whether it holds colors. size: its sides, the shorter first. run: how many
    neighbours in a row have one value, of what is not the most frequent one; 0 where all is.
    through: what its transparency shows, if it varies.
    """

    flat: float
    few: int
    levels: int
    small: NDArray[np.int32]
    color: bool
    size: tuple[int, int] = (0, 0)
    run: float = 0.0
    through: Look | None = None

    @property
    def like_labels(self) -> bool:
        """Few values in long runs."""
        return self.flat >= FLAT and self.few <= FEW

    @property
    def region(self) -> NDArray[np.bool_]:
        """bool (64, 64): everything but the most frequent value."""
        values, counts = np.unique(self.small, return_counts=True)
        return np.asarray(self.small != values[counts.argmax()])

    @property
    def shown(self) -> NDArray[np.bool_]:
        """bool (64, 64): what is not black, as masks of one thing each are read."""
        most = int(self.small.max())
        return np.asarray(self.small > (127 if 127 < most < 256 else 0))

    @property
    def is_mask(self) -> bool:
        """Whether one value beside 0 is all."""
        return len({0, *np.unique(self.small).tolist()}) == 2


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to read a folder: images with their labels, listed names.

    image_words, label_words: what tells the two sides apart.
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
        """How many words tell the sides apart: of two readings the simpler is meant."""
        return len(self.image_words) + len(self.label_words)


class Looks:
    """What files of a folder show, each looked at once."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._seen: dict[str, Look | None] = {}

    def of(self, names: Iterable[str]) -> list[Look]:
        """Of those that can be read."""
        return [one for name in names if (one := self._look(name)) is not None]

    def by_image(self, candidate: Candidate, images: Sequence[str]) -> dict[str, Look]:
        """What a candidate's labels of some images show."""
        labels = dict(candidate.pairs)
        shown = {image: self._look(labels[image]) for image in images if image in labels}
        return {image: one for image, one in shown.items() if one is not None}

    def _look(self, name: str) -> Look | None:
        if name not in self._seen:
            self._seen[name] = look(self.listing.path(name))
        return self._seen[name]


def look(path: Path) -> Look | None:
    """What a file shows; None when it can't be read."""
    try:
        raw = read_raw_labels(path)
    except MediaError:
        try:  # an image of fractions (radar, heights) is none of labels
            raw = RawLabels(read_image(path), None, "RGB")
        except MediaError:
            return None
    seen = look_at(raw, lossy=path.suffix.lower() in (".jpg", ".jpeg", ".webp"))
    alpha = read_alpha(path) if raw.mode[-1] in "Aa" else None
    if alpha is None or alpha.min() == alpha.max():
        return seen
    return replace(seen, through=look_at(RawLabels(alpha, None, "L")))


def look_at(raw: RawLabels, *, lossy: bool = False) -> Look:
    """What a file shows that has been read."""
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
    return Look(float(equal.mean()), few, levels, small, color, size, run)


def looks_at(listing: Listing, names: Sequence[str]) -> list[Look]:
    """What a few of many files show."""
    return Looks(listing).of(sample(names))


def tell_labels(first: Sequence[Look], second: Sequence[Look]) -> int:
    """Which of two sides holds labels of the other: 0, 1, or -1 when neither (or both) might."""
    sides = first, second
    for side in (0, 1):
        mine, theirs = sides[side], sides[1 - side]
        if mine and theirs and _are_labels_of(mine, theirs):
            return side
    cut_out = [[one.through for one in side if one.through is not None] for side in sides]
    for side in (0, 1):  # photographs of which the transparency is the label
        mine, theirs = cut_out[side], sides[1 - side]
        many = 3 * len(mine) >= len(sides[side])  # images without a thing are clear throughout
        if len(mine) > 1 and many and theirs and not cut_out[1 - side]:
            return side if _are_labels_of(mine, theirs) else -1
    return -1


def _are_labels_of(labels: Sequence[Look], images: Sequence[Look]) -> bool:
    fit = [one.like_labels for one in labels]
    rough_labels = float(np.median([1 - one.flat for one in labels]))
    rough_images = float(np.median([1 - one.flat for one in images]))
    most = float(np.median([one.few for one in images]))
    fewer = max(FEWEST, 2 * float(np.median([one.few for one in labels]))) <= most
    return sum(fit) >= 0.8 * len(fit) and fewer and rough_images >= SMOOTHER * rough_labels


def is_constant(looks: Sequence[Look]) -> bool:
    """Whether the regions are the same in every file: a camera's field of view, a frame."""
    masks = all(one.is_mask for one in looks)
    regions = [one.shown if masks else one.region for one in looks]
    return len(regions) > 1 and all(overlap(regions[0], other) >= SAME for other in regions[1:])


def are_points(looks: Sequence[Look]) -> bool:
    """Whether files mark places by single pixels (the centres of things), which are no areas."""
    runs = [one.run for one in looks if one.run]
    return bool(runs) and max(runs) <= POINT


def refines(fine: Mapping[str, Look], coarse: Mapping[str, Look]) -> bool:
    """Whether labels tell apart what others call one (crop and weed, plants), as classes do.

    By image. Each value of the fine ones then lies within one value of the coarse ones, the same
    in every image. Objects' numbers do so too, but another number of them in each image.
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
    """Whether the values of each file number its things: those of a file with few are among those
    of one with more, or hardly a value is in two files."""
    every = set[int]().union(*stored)
    ordered = sorted(stored, key=len)
    nested = all(few <= more for few, more in pairwise(ordered))
    counts = {len(values) for values in stored}
    return (nested and len(counts) > 2) or (
        len(stored) > 2 and sum(len(values) - 1 for values in stored) <= 1.5 * (len(every) - 1)
    )


def same_regions(first: Mapping[str, Look], second: Mapping[str, Look]) -> bool:
    """Whether two sets of labels draw the same borders, in other values. By image."""
    both = first.keys() & second.keys()
    edges = [(_edges(first[name].small), _edges(second[name].small)) for name in both]
    return bool(both) and all(float((a == b).mean()) >= 0.99 for a, b in edges)


def apart_in_space(sets: Sequence[Mapping[str, Look]]) -> bool:
    """Whether sets of two-valued masks of the same images are a class each: they hardly overlap,
    or the one lies within the other (the cup in the disc)."""
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
    """Whether each region but the largest lies within a clearly larger one."""
    ordered = sorted(regions, key=lambda region: -int(region.sum()))
    return all(
        inner.sum() <= WITHIN * outer.sum() and (inner & outer).sum() >= SAME * inner.sum()
        for outer, inner in pairwise(ordered)
    )


def sample(things: Sequence[_T]) -> list[_T]:
    """A few of many, evenly spaced."""
    places = np.unique(np.linspace(0, len(things) - 1, min(len(things), LOOKED_AT)).astype(int))
    return [things[place] for place in places]


def _run(rows: NDArray[np.int32], most: int) -> float:
    """The mean length of runs of other values than the most frequent."""
    other = rows != most
    starts = other & np.diff(rows, axis=1, prepend=rows[:, :1] - 1).astype(np.bool_)
    return float(other.sum() / starts.sum()) if other.any() else 0.0


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The intersection over the union of two masks; 1 where both are empty."""
    either = (first | second).sum()
    return float((first & second).sum() / either) if either else 1.0


def _levels(stored: NDArray[np.int32], counts: NDArray[np.int64], *, lossy: bool) -> int:
    """How many values cover areas; the most frequent first. lossy: near ones are the same."""
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
