"""Resolve ambiguous encodings by where values lie: classes cover areas, smoothing leaves values
along their edges, an object is one connected region, an "ignore" value is a thin band."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE, unpack
from fcnseg.datasets import Pair
from fcnseg.datasets.encoding.objects import (
    Seen,
    are_objects,
    are_of_one_file,
    divide_by_step,
    may_be_few_objects,
    may_be_sparse_objects,
    numbered_in_channel,
    regions_by_number,
)
from fcnseg.datasets.encoding.values import (
    LOSSY,
    ValueCounts,
    Values,
    are_instances,
    packed_colors,
    single_numbers,
)
from fcnseg.errors import MediaError
from fcnseg.io import cv2
from fcnseg.io.images import read_image
from fcnseg.io.labels import RawLabels

SOLID = 0.1
"""Least fraction of a class's pixels whose eight neighbors all belong to the class."""

EXACT = 0.9
"""If this fraction of the values covers areas, no value comes from compression or resizing."""

BEYOND = 0.12
"""Overshoot of bicubic resizing at an edge, relative to the difference of the two values."""

LEAST_LEVEL = 12
"""Values up to this are class indices: thin classes among them are not smoothing."""

MOST_LOSSY = 0.25
"""Greatest fraction of the pixels that smoothing can change."""

BAND = 11
"""An "ignore" band is so narrow that a square with this side, in pixels, around any of its pixels
contains two classes."""

MOST_BETWEEN = 0.9
"""Least fraction of the pixels for which the above must hold."""

SAMPLES = 16
"""Number of label files read again if counts alone are ambiguous."""

_Samples = Callable[[], Iterable[NDArray[np.int32]]]


def analyze_areas(
    values: Values,
    pairs: Sequence[Pair],
    counts: Iterable[ValueCounts | None],
    read: Callable[[Pair], RawLabels],
) -> Values:
    """Set the attributes of `values` that depend on where values lie, not only on their counts.

    `solid`: values that cover areas, if the others are smoothed edges between them; `exact`:
    whether all cover areas; `instances`: kept only if most numbers form one connected region;
    `band`: a value that means "ignore"; `rim`: one that may; `few_objects`: whether numbers may be
    objects', of which there are too few to be sure. A few files are read again.
    """
    if values.class_words or values.lossy or values.rest:
        return values
    sampled = partial(_sample_labels, pairs, counts, read, values.kind)

    def samples() -> Iterator[NDArray[np.int32]]:
        return (numbers for _, numbers in sampled())

    if values.instances or are_of_one_file(values, counts) or numbered_in_channel(values, counts):
        return replace(values, instances=_in_one_piece(samples))
    step, stored = divide_by_step(values, counts)
    if step > 1 and are_instances(stored) and _in_one_piece(samples):
        return replace(values, instances=True)
    few = may_be_few_objects(stored)
    if (few or may_be_sparse_objects(values, counts)) and are_objects(
        counts, map(_with_image, sampled()), few=few and step > 1
    ):
        return replace(values, instances=True)
    places = (f"{pair.labels.parent.name}/{pair.labels.name}" for pair in pairs)
    named = all("trimap" in place.lower() for place in places)
    band, rim = _trimap_band(values, samples, named=named)
    solid, exact = _covering_values(values, samples)
    band = _ignore_band(values, samples) if band is None else band
    asked = False
    if may_be_few_objects(stored, 2) and band is None and rim is None:
        asked = are_objects(counts, map(_with_image, sampled()), few=True, again=3)
    return replace(values, solid=solid, exact=exact, band=band, rim=rim, few_objects=asked)


def _in_one_piece(samples: _Samples) -> bool:
    """Whether most numbers form one connected region per file, as objects do."""
    pieces = [one.count for numbers in samples() for one in regions_by_number(numbers)]
    return sum(count == 1 for count in pieces) >= 0.8 * len(pieces)


def _with_image(one: tuple[Pair, NDArray[np.int32]]) -> Seen:
    pair, numbers = one
    with suppress(MediaError):
        return numbers, read_image(pair.image) if pair.page is None else None
    return numbers, None


def _sample_labels(
    pairs: Sequence[Pair],
    counts: Iterable[ValueCounts | None],
    read: Callable[[Pair], RawLabels],
    kind: str,
) -> Iterator[tuple[Pair, NDArray[np.int32]]]:
    """Yield the pairs with the most label values; their numbers or packed colors, int32 (H, W)."""
    held = [0 if one is None else len(one.values) for one in counts]
    for index in np.argsort([-count for count in held], kind="stable")[:SAMPLES].tolist():
        try:
            raw = read(pairs[index])
        except MediaError:
            continue  # reported by the scan
        yield pairs[index], packed_colors(raw) if kind == "color" else single_numbers(raw)[0]


def _covering_values(values: Values, samples: _Samples) -> tuple[tuple[int, ...], bool]:
    """The values that cover areas, if at least as many others lie between them, else (); and
    whether nearly all values cover areas."""
    color = values.kind == "color"
    least, most = min(values.pixels, default=0), max(values.pixels, default=0)
    if color:
        most = max((max(unpack(one)) for one in values.pixels), default=0)
    if not 5 <= len(values.pixels) <= LOSSY or least < 0 or not LEAST_LEVEL <= most < LOSSY:
        return (), False
    inside, area = Counter[int](), Counter[int]()
    for numbers in samples():
        _count_areas(numbers, inside, area)
    solid = sorted(value for value in area if inside[value] >= SOLID * area[value])
    others = [value for value in values.pixels if value not in solid]
    if len(solid) < 2 or len(others) < max(3, len(solid)):
        return (), len(solid) >= EXACT * len(area)
    channels = unpack if color else lambda value: (value,)
    between = _between([channels(value) for value in others], [channels(v) for v in solid])
    pixels = sum(values.pixels[value] for value in others)
    return (tuple(solid) if between and pixels <= MOST_LOSSY * values.total else ()), False


def _ignore_band(values: Values, samples: _Samples) -> int | None:
    """The largest index if a gap precedes it and its pixels lie only between two classes.

    MaSTr1325 stores 0, 1, 2, and 4 for "unknown". A thin class (a pole, a lane marking) after a
    gap has the same class on both sides.
    """
    seen = sorted(value for value in values.pixels if 0 <= value != IGNORE)
    if values.kind != "index" or len(seen) < 3 or not 1 < seen[-1] - seen[-2] <= LEAST_LEVEL:
        return None
    last = seen[-1]
    if last > LOSSY or values.files[last] < MOST_BETWEEN * values.count:
        return None
    between = total = 0
    for numbers in samples():
        band = numbers == last
        around = np.ones((BAND, BAND), np.uint8)
        classes = sum(
            cv2.dilate((numbers == value).astype(np.uint8), around)[band].astype(int)
            for value in np.unique(numbers[~band]).tolist()
        )
        between, total = between + int(np.sum(classes >= 2)), total + int(band.sum())
    return last if total and between >= MOST_BETWEEN * total else None


MIDDLE = 8
"""Greatest distance from the middle of 0..255 of a gray that may mean "uncertain"."""

NARROW = 6, 0.02
"""Greatest width of such a band, in pixels and as a fraction of the image's shorter side, if it is
a gray; an index may be twice as wide."""

TOUCHING = 0.05
"""Greatest fraction of the object's outline that touches the background."""


def _trimap_band(
    values: Values, samples: _Samples, *, named: bool
) -> tuple[int | None, int | None]:
    """The uncertain band around the object in a trimap: its value, and a value that may be one.

    The band is the middle of 0, 128 and 255, if it is thin or the files are `named` trimap; or the
    last of 0, 1, 2 or 1, 2, 3, if they are. In other files, a thin last index may be a class.
    """
    seen = sorted(value for value in values.pixels if value >= 0)
    numbered = seen in ([0, 1, 2], [1, 2, 3])
    greys = len(seen) == 3 and (seen[0], seen[2]) == (0, IGNORE)
    if values.kind != "index" or not (
        numbered or (greys and abs(2 * seen[1] - IGNORE) <= 2 * MIDDLE)
    ):
        return None, None
    between = seen.pop(2 if numbered else 1)
    ground, thing = sorted(seen, key=lambda value: -values.border.get(value, 0))
    most = max(values.border, key=lambda value: values.border[value])
    if (
        most != ground
        or (greys and ground)
        or values.files[between] < (MOST_BETWEEN * values.files[thing])
    ):
        return None, None
    narrow = total = touching = outline = 0
    for numbers in samples():
        near, far = (_distances(numbers, value) for value in (ground, thing))
        band = numbers == between
        if not band.any() or thing not in numbers:
            continue
        widest = max(NARROW[0], NARROW[1] * min(numbers.shape)) * (1 + numbered)
        narrow, total = (
            narrow + int((near + far <= widest + 1)[band].sum()),
            total + int(band.sum()),
        )
        edge = (numbers == thing) & (_distances(numbers, between, ground) < 1.5)
        touching, outline = touching + int((near < 1.5)[edge].sum()), outline + int(edge.sum())
    thin = total and narrow >= MOST_BETWEEN * total
    if not outline or touching > TOUCHING * outline or not (named or thin):
        return None, None
    return (between, None) if named or greys else (None, between)


def _distances(numbers: NDArray[np.int32], *values: int) -> NDArray[np.float32]:
    """float (H, W): the distance to the nearest pixel with one of these values."""
    other = ~np.isin(numbers, values)
    return np.asarray(cv2.distanceTransform(other.astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def _count_areas(numbers: NDArray[np.int32], inside: Counter[int], total: Counter[int]) -> None:
    """Count a file's pixels of each value, and of these the ones with eight equal neighbors."""
    middle = numbers[1:-1, 1:-1]
    same = np.ones(middle.shape, np.bool_)
    height, width = numbers.shape
    for y in range(3):
        for x in range(3):
            same &= numbers[y : height - 2 + y, x : width - 2 + x] == middle
    for counts, some in ((total, middle), (inside, middle[same])):
        found, often = np.unique(some, return_counts=True)
        counts.update(dict(zip(found.tolist(), often.tolist(), strict=True)))


def _between(some: Sequence[tuple[int, ...]], ends: Sequence[tuple[int, ...]]) -> bool:
    """Whether values lie, in every channel, within the range of `ends`, extended by BEYOND."""
    low, high = np.min(ends, axis=0), np.max(ends, axis=0)
    low, high = low - BEYOND * (high - low), high + BEYOND * (high - low)
    return bool(((np.array(some) >= low) & (np.array(some) <= high)).all())
