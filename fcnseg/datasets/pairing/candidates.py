"""Candidates for the images and the labels of a folder, told by how much they look like labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import Found, Pair
from fcnseg.datasets.encoding.values import packed_colors
from fcnseg.datasets.pairing import Listing, suffix_of
from fcnseg.errors import DatasetError, MediaError
from fcnseg.io.labels import RawLabels, read_alpha, read_raw_labels

CHOOSE = "or list the pairs in a CSV, a line each: image,labels[,split]"


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


def mostly_same(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two sets are mostly the same files."""
    return 2 * len(one & other) > min(len(one), len(other))


def two_images(listing: Listing, rivals: Sequence[Sequence[tuple[str, str]]]) -> DatasetError:
    """The refusal of labels with two images each, as change detection has them."""
    shown = " and ".join(f"{pairs[0][0]} with {pairs[0][1]}" for pairs in rivals[:3])
    files = [image for image, _ in rivals[0]]
    pattern = pattern_for(files, [image for pairs in rivals[1:] for image, _ in pairs])
    return DatasetError(
        f"{listing.root} has two images for each label file ({shown}): labels of a change between "
        "two images are not the labels of one.",
        hint=f'if one set of images is meant, write a dataset.toml: root = "{listing.root}", '
        f'images = "{pattern}"; {CHOOSE}',
    )


def two_label_sets(listing: Listing, rivals: Sequence[Candidate]) -> DatasetError:
    """The refusal of a folder with two sets of labels for the same images."""
    lines = []
    for one in rivals:
        others = [name for other in rivals if other is not one for name in other.labels]
        image, labels = one.pairs[0]
        lines.append(f'labels = "{pattern_for(sorted(one.labels), others)}" ({image}: {labels})')
    return DatasetError(
        f"{listing.root} has {len(rivals)} sets of labels for the same images: {'; '.join(lines)}.",
        hint=f'choose one in a dataset.toml: root = "{listing.root}" and one of these lines; '
        f"{CHOOSE}",
    )


def pattern_for(files: Sequence[str], others: Iterable[str]) -> str:
    """A folder or pattern that means these files and none of the others."""
    others = list(others)
    folder = os.path.commonpath(files) if len(files) > 1 else files[0].rpartition("/")[0]
    if folder and not any(name.startswith(f"{folder}/") for name in others):
        return folder
    named = set.intersection(*({*name.split("/")[:-1]} for name in files))
    taken = {part for name in others for part in name.split("/")[:-1]}
    if named - taken:
        return f"*/{min(named - taken)}/*"
    end = _common([name[::-1] for name in files])[::-1].lstrip("0123456789")
    if not any(name.endswith(end) for name in others):
        return f"*{end}"
    return f"{_common(files).rstrip('0123456789')}*"


def _common(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[:same]


def pair(listing: Listing, image: str, labels: Sequence[tuple[str, str]], layered: bool) -> Pair:
    """A pair of files, with the name that both share."""
    files = tuple((term, listing.path(name)) for term, name in sorted(labels))
    return Pair(
        listing.path(image),
        files[0][1],
        "",
        image[: len(image) - len(suffix_of(image))],
        layers=files if layered else (),
    )


def why(chosen: Sequence[Candidate]) -> str:
    """How the two sides are told apart, in words."""
    image, labels = chosen[0].pairs[0]
    return f"files match one to one and show images and labels: {image} and {labels}"


def leaves(found: Found, listing: Listing) -> bool:
    """Whether enough image files are left over to be another set of labels (or of images)."""
    used = len({pair.labels for pair in found.pairs}) + len(found.pairs)
    twice = used < 2 * len(found.pairs)
    return twice or len(listing.images) - used >= max(2, len(found.pairs) / 4)


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


WITHIN = 0.7
"""A class within another covers no more of it than this; two drawings of one thing do."""


@dataclass(frozen=True, eq=False)
class Look:
    """What a file shows.

    flat: the proportion of neighbours in a row that are equal. few: how many values hold 90% of the
    pixels. levels: how many cover areas, not edges. small: int32 (64, 64), the file resampled
    (nearest). color: whether it holds colours. through: what its transparency shows, if it varies.
    """

    flat: float
    few: int
    levels: int
    small: NDArray[np.int32]
    color: bool
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


def look(path: Path) -> Look | None:
    """What a file shows; None when it can't be read."""
    try:
        raw = read_raw_labels(path)
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
    apart = np.abs(np.diff(seen, axis=1)).reshape(len(rows), max(0, seen.shape[1] - 1), -1)
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
    cut_out = [[one.through for one in side if one.through is not None] for side in sides]
    for side in (0, 1):  # photographs of which the transparency is the label
        mine, theirs = cut_out[side], sides[1 - side]
        if mine and len(mine) == len(sides[side]) and theirs and not cut_out[1 - side]:
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
    regions = [one.region for one in looks]
    return len(regions) > 1 and all(_overlap(regions[0], other) >= SAME for other in regions[1:])


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
        regions = [some[image].region for some in sets if image in some]
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
