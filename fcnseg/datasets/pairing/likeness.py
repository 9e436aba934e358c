"""How much a file looks like labels: few values in long runs, regions that vary with the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.encoding.values import packed_colors
from fcnseg.datasets.pairing.listing import Listing
from fcnseg.errors import MediaError
from fcnseg.io.labels import read_raw_labels

_T = TypeVar("_T")

LOOKED_AT = 12
"""Files of each side whose pixels are looked at."""

ROWS = 64
"""Rows of a file that are looked at, evenly spaced."""

TINT = 6
"""JPEG changes a flat area by no more than this."""

FLAT = 0.7
"""Of labels, at least this share of neighbouring pixels have the same value."""

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


@dataclass(frozen=True, eq=False)
class Look:
    """What a file shows.

    flat: the share of neighbours in a row that are equal. few: how many values hold 90% of the
    pixels. levels: how many cover areas, not edges. small: int32 (64, 64), the file resampled
    (nearest). color: whether it holds colours.
    """

    flat: float
    few: int
    levels: int
    small: NDArray[np.int32]
    color: bool

    @property
    def like_labels(self) -> bool:
        """Few values in long runs."""
        return self.flat >= FLAT and self.few <= FEW

    @property
    def region(self) -> NDArray[np.bool_]:
        """bool (64, 64): everything but the most frequent value."""
        values, counts = np.unique(self.small, return_counts=True)
        return np.asarray(self.small != values[counts.argmax()])


def look(path: Path) -> Look | None:
    """What a file shows; None when it can't be read."""
    try:
        raw = read_raw_labels(path)
    except MediaError:
        return None
    values = raw.values
    rows = np.unique(np.linspace(0, len(values) - 1, ROWS).astype(int))
    seen = values[rows].astype(np.int32)
    apart = np.abs(np.diff(seen, axis=1)).reshape(len(rows), max(0, seen.shape[1] - 1), -1)
    lossy = path.suffix.lower() in (".jpg", ".jpeg", ".webp")
    equal = apart.max(2) <= (TINT if lossy else 0) if apart.size else np.ones((1, 1), np.bool_)
    numbers = values if values.ndim == 2 else packed_colors(raw)
    stored, counts = np.unique(numbers[rows], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    few = int(np.searchsorted(counts[order].cumsum(), HELD * counts.sum())) + 1
    levels = _levels(stored[order], counts[order], lossy=lossy)
    small = numbers[_spread(numbers.shape[0])][:, _spread(numbers.shape[1])].astype(np.int32)
    color = values.ndim == 3 and not _is_grey(values)
    return Look(float(equal.mean()), few, levels, small, color)


def looks_at(listing: Listing, names: Sequence[str]) -> list[Look]:
    """What a few of many files show."""
    seen = (look(listing.path(name)) for name in sample(names))
    return [one for one in seen if one is not None]


def tell_labels(first: Sequence[Look], second: Sequence[Look]) -> int:
    """Which of two sides holds labels of the other: 0, 1, or -1 when neither (or both) might."""
    sides = first, second
    for side in (0, 1):
        mine, theirs = sides[side], sides[1 - side]
        if mine and theirs and _are_labels_of(mine, theirs):
            return side
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
    regions = [one.region for one in looks]
    return len(regions) > 1 and all(_overlap(regions[0], other) >= SAME for other in regions[1:])


def same_regions(first: Mapping[str, Look], second: Mapping[str, Look]) -> bool:
    """Whether two sets of labels draw the same borders, in other values. By image."""
    both = first.keys() & second.keys()
    edges = [(_edges(first[name].small), _edges(second[name].small)) for name in both]
    return bool(both) and all(float((a == b).mean()) >= 0.99 for a, b in edges)


def apart_in_space(sets: Sequence[Mapping[str, Look]]) -> bool:
    """Whether sets of two-valued masks of the same images hardly overlap: a class each."""
    if any(one.levels > 2 for some in sets for one in some.values()):
        return False
    several = 0
    for image in {name for some in sets for name in some}:
        regions = [some[image].region for some in sets if image in some]
        several += len(regions) > 1
        covered = np.sum(regions, axis=0)
        if (covered > 1).sum() > 0.1 * max(1, (covered > 0).sum()):
            return False
    return several > 0


def sample(things: Sequence[_T]) -> list[_T]:
    """A few of many, evenly spaced."""
    places = np.unique(np.linspace(0, len(things) - 1, min(len(things), LOOKED_AT)).astype(int))
    return [things[place] for place in places]


def _overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
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
