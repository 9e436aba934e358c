"""What the places of stored values tell, and numbers of objects.

Classes cover areas, smoothing leaves values along their edges, an object is in one piece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import BINARY, IGNORE, ClassMap, unpack
from fcnseg.datasets import Encoding, Pair, Reading
from fcnseg.datasets.encoding.entries import Entry
from fcnseg.datasets.encoding.values import (
    FEWEST_FILES,
    LOSSY,
    ValueCounts,
    Values,
    are_instances,
    packed_colors,
    single_numbers,
    values_of,
)
from fcnseg.errors import MediaError, counted
from fcnseg.io import cv2
from fcnseg.io.labels import RawLabels, region_areas

SOLID = 0.1
"""Of a class's pixels at least this proportion has all eight neighbours of the class."""

BEYOND = 0.12
"""Bicubic resizing overshoots both values at an edge by this much of their distance."""

LEAST_LEVEL = 12
"""Numbers up to this are class indices: thin classes among them are no smoothing."""

MOST_LOSSY = 0.25
"""The proportion of pixels that smoothing can hold; more is something else."""

OF_ONE_FILE = 0.8
"""The least proportion of the pixels of numbered objects whose number no other file has."""

COLORS_APART = 24
"""And colors of one file's objects are this far apart in RGB, most of them."""

BAND = 11
"""A value that stands for "ignore" is a band so narrow that within a square of so many pixels about
each of its pixels are two classes."""

MOST_BETWEEN = 0.9
"""At least this fraction of its pixels."""

SAMPLES = 16
"""Label files read again where their counts alone leave the meaning open."""

_Samples = Callable[[], Iterable[NDArray[np.int32]]]


def look_closer(
    values: Values,
    pairs: Sequence[Pair],
    counts: Iterable[ValueCounts | None],
    read: Callable[[Pair], RawLabels],
) -> Values:
    """The values, with what only the pixels' places tell where counts leave two meanings.

    `solid` becomes the values that cover areas, where the others are smoothed edges between
    them; `instances` stays only where most numbers are one piece; `band` a value that stands for
    "ignore". A few files are read again.
    """
    samples = partial(_sampled, pairs, counts, read, values.kind)
    if values.terms or values.lossy or values.rest:
        return values
    if values.instances or _are_of_one_file(values, counts) or _numbered_in_channel(values, counts):
        pieces = [count for numbers in samples() for count in _pieces(numbers)]
        one_piece = sum(count == 1 for count in pieces) >= 0.8 * len(pieces)
        return replace(values, instances=one_piece)
    return replace(values, solid=_solid(values, samples), band=_band(values, samples))


def _sampled(
    pairs: Sequence[Pair],
    counts: Iterable[ValueCounts | None],
    read: Callable[[Pair], RawLabels],
    kind: str,
) -> Iterator[NDArray[np.int32]]:
    """The numbers or packed colors, int32 (H, W), of the label files that hold most values."""
    held = [0 if one is None else len(one.values) for one in counts]
    for index in np.argsort([-count for count in held], kind="stable")[:SAMPLES].tolist():
        try:
            raw = read(pairs[index])
        except MediaError:
            continue  # told of by the scan
        yield packed_colors(raw) if kind == "color" else single_numbers(raw)[0]


def _are_of_one_file(values: Values, counts: Iterable[ValueCounts | None]) -> bool:
    """Whether each file has numbers (or colors) of its own: objects, numbered throughout."""
    own = [value for value in values.pixels if value > 0 and values.files[value] == 1]
    pixels = sum(number for value, number in values.pixels.items() if value)
    if (
        0 not in values.pixels
        or values.count < FEWEST_FILES
        or len(own) < FEWEST_FILES * values.count
        or sum(values.pixels[value] for value in own) < OF_ONE_FILE * pixels
    ):
        return False
    some = [one for one in islice(counts, SAMPLES) if one is not None]
    return values.kind == "index" or all(_colors_apart(one.values) for one in some)


def _numbered_in_channel(values: Values, counts: Iterable[ValueCounts | None]) -> bool:
    """Whether one channel numbers the objects of each file anew, the others being 0."""
    factor = only_channel(values) if values.kind == "color" and 0 in values.pixels else 0
    return factor > 0 and are_instances(
        [
            frozenset(color // factor for color in values_of(one, "color")) - {0}
            for one in counts
            if one is not None
        ]
    )


def numbered_by_video(pairs: Sequence[Pair], counts: Iterable[ValueCounts | None]) -> bool:
    """Whether JPEGImages/VIDEO/ and Annotations/VIDEO/ (DAVIS, YouTube-VOS) number each video's
    objects anew: 1..n, n often the same in all videos. PASCAL VOC has no folders of videos."""
    of_video: dict[str, set[int]] = {}
    for pair, one in zip(pairs, counts, strict=True):
        sides = [[part.lower() for part in file.parent.parts] for file in (pair.image, pair.labels)]
        same = sides[0][-1] == sides[1][-1] and pair.image.stem.isdigit()
        if not same or "jpegimages" not in sides[0][:-1] or "annotations" not in sides[1][:-1]:
            return False
        seen = of_video.setdefault(str(pair.labels.parent), set())
        seen.update(() if one is None else one.values)
    numbers = [values - {0, IGNORE} for values in of_video.values()]
    in_a_row = all(values == {*range(1, len(values) + 1)} for values in numbers)
    return in_a_row and max(map(len, numbers), default=0) > 1


def _colors_apart(colors: Sequence[int]) -> bool:
    """Whether colors are drawn ones: shades of one, as compression leaves them, are near."""
    points = np.array([unpack(color) for color in colors], np.float64).reshape(-1, 3)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    np.fill_diagonal(distances, np.inf)
    return bool(np.median(distances.min(1)) >= COLORS_APART)


def _solid(values: Values, samples: _Samples) -> tuple[int, ...]:
    """The values that cover areas, if there are as many others, all of them between these."""
    color = values.kind == "color"
    least, most = min(values.pixels, default=0), max(values.pixels, default=0)
    if color:
        most = max((max(unpack(one)) for one in values.pixels), default=0)
    if not 5 <= len(values.pixels) <= LOSSY or least < 0 or not LEAST_LEVEL <= most < LOSSY:
        return ()
    inside, area = Counter[int](), Counter[int]()
    for numbers in samples():
        _count_areas(numbers, inside, area)
    solid = sorted(value for value in area if inside[value] >= SOLID * area[value])
    others = [value for value in values.pixels if value not in solid]
    if len(solid) < 2 or len(others) < max(3, len(solid)):
        return ()
    channels = unpack if color else lambda value: (value,)
    between = _between([channels(value) for value in others], [channels(v) for v in solid])
    pixels = sum(values.pixels[value] for value in others)
    return tuple(solid) if between and pixels <= MOST_LOSSY * values.total else ()


def _band(values: Values, samples: _Samples) -> int | None:
    """The largest index, if the one before is in no file and it lies only between classes.

    MaSTr1325 stores 0, 1, 2 and 4 for "unknown". A thin class (a pole, a lane's line) after a gap
    has one class on both sides.
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


def _count_areas(numbers: NDArray[np.int32], inside: Counter[int], total: Counter[int]) -> None:
    """Add a file's pixels of each value, and those whose neighbours all have it too."""
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
    """Whether values lie, in every channel, within what the ends span, or BEYOND it by a little."""
    low, high = np.min(ends, axis=0), np.max(ends, axis=0)
    low, high = low - BEYOND * (high - low), high + BEYOND * (high - low)
    return bool(((np.array(some) >= low) & (np.array(some) <= high)).all())


def _pieces(numbers: NDArray[np.int32]) -> list[int]:
    """How many separate areas each value but 0 covers."""
    found = []
    order = np.argsort(numbers, axis=None, kind="stable")
    values, starts = np.unique(numbers.ravel()[order], return_index=True)
    for value, places in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
        if value > 0:  # only the box about it is looked at: there may be thousands
            rows, columns = np.divmod(places, numbers.shape[1])
            box = numbers[rows[0] : rows[-1] + 1, columns.min() : columns.max() + 1]
            areas = region_areas(box == value)
            found.append(int((areas >= areas.max() / 20).sum()))  # specks do not count
    return found


NUMBERS = 64
"""Numbers below this in one channel, the others being 0, are class numbers, not shades."""

_BASES = (1000, 256)
"""class * 1000 + object (Cityscapes), class * 256 + object (KITTI, Mapillary)."""


def read_objects(values: Values, base: int, entries: Sequence[Entry] = ()) -> Reading:
    """Numbers of objects: what has one is object, 0 is background.

    base: of `class_base`; where the numbers hold classes, a class for each, named by entries.
    """
    numbers = tuple(sorted(value for value in values.pixels if value > 0))
    border = values.kind == "index" and IGNORE in numbers and IGNORE - 1 not in numbers
    if border and len(numbers) > 1:  # VOC's: 1, 2, 3 and 255 around them
        rest = {value: pixels for value, pixels in values.pixels.items() if value != IGNORE}
        reading = read_objects(replace(values, pixels=rest), base, entries)
        encoding = replace(reading.encoding, ignore=(IGNORE,))
        reasons = (*reading.why, f"value {IGNORE} is ignored")
        return replace(reading, encoding=encoding, ignore_index=IGNORE, why=reasons)
    if base:
        return _read_classes(values, numbers, base, entries)
    shown = f"values up to {numbers[-1]}" if values.kind == "index" else f"{len(numbers)} colors"
    why = (
        f"{shown} number the objects of each file anew: read as background and "
        "object (a dataset.toml with a [[class]] for each value reads them otherwise)"
    )
    kind: Literal["index", "color"] = "index" if values.kind == "index" else "color"
    return Reading(Encoding(kind, ((0,), numbers)), ClassMap.of(BINARY), None, (why,))


def class_base(values: Values) -> int:
    """What numbers of objects divide by to give classes; 0 where they hold none.

    Each class then numbers its objects from 0 or 1 on, with few gaps; other large numbers do not.
    """
    numbers = sorted(value for value in values.pixels if value > 0)
    if values.kind != "index" or values.rest or not numbers:
        return 0
    for base in _BASES:
        of_class: dict[int, list[int]] = {}
        for number in numbers:
            of_class.setdefault(number // base, []).append(number % base)
        in_a_row = all(max(some) <= 2 * len(some) for some in of_class.values())
        if numbers[0] >= base and 1 < len(of_class) < len(numbers) and in_a_row:
            return base
    return 0


def class_channel(values: Values) -> int:
    """Which channel holds classes where others number their objects (Synthia, KITTI-STEP): what
    a class number is multiplied with in a packed color; 0 where colors are colors.

    Class numbers are small, in a row, and far fewer than the colors; of two such channels that
    with fewer numbers, red before green and blue. A single class stands in all colors but black.
    """
    colors = [color for color in values.pixels if color]
    if values.kind != "color" or values.lossy or values.rest or values.solid:
        return 0
    found = []
    for factor in (1 << 16, 1 << 8, 1):
        numbers = {color // factor % 256 for color in colors}
        classes = numbers - {0, IGNORE}
        several = len(classes) > 1 or all(color // factor % 256 for color in colors)
        in_a_row = several and 0 < max(classes, default=0) <= min(2 * len(classes), NUMBERS)
        if in_a_row and len(colors) >= 2 * len(numbers):
            found.append((len(numbers), -factor))
    return -min(found)[1] if found else 0


def only_channel(values: Values) -> int:
    """The same where one channel alone holds numbers (CARLA: red), the others being 0."""
    if len(values.pixels) < 2 or values.lossy or values.rest:
        return 0
    for factor in (1 << 16, 1 << 8, 1):
        if all(color % factor == 0 and color // factor < NUMBERS for color in values.pixels):
            return factor
    return 0


def classes_of_channel(values: Values, factor: int) -> tuple[Values, dict[int, tuple[int, ...]]]:
    """Colors as the class numbers in one of their channels; and the colors of each."""
    one = replace(values, kind="index", pixels={}, border={}, files={}, palette={}, solid=())
    one.instances, one.band = False, None
    colors: dict[int, tuple[int, ...]] = {}
    for color, pixels in sorted(values.pixels.items()):
        number = color // factor % 256
        colors[number] = (*colors.get(number, ()), color)
        one.pixels[number] = one.pixels.get(number, 0) + pixels
        one.border[number] = one.border.get(number, 0) + values.border[color]
        one.files[number] = max(one.files.get(number, 0), values.files[color])
    return one, colors


def _read_classes(
    values: Values, numbers: Sequence[int], base: int, entries: Sequence[Entry]
) -> Reading:
    found = sorted({number // base for number in numbers})
    stored = [tuple(n for n in numbers if n // base == one) for one in found]
    why = (
        f"values are class * {base} + object: {counted(len(found), 'class')} "
        f"({', '.join(map(str, found[:12]))})"
    )
    names = {n if e.value is None else e.value: e.name for n, e in enumerate(entries)}
    classes = [names.get(number, "") for number in found]
    if 0 in values.pixels:
        stored.insert(0, (0,))
        classes.insert(0, names.get(0, BINARY[0]))
    named = all(classes) and len(set(classes)) == len(classes)
    read = ClassMap.of(classes) if named else ClassMap.numbered(len(stored))
    return Reading(Encoding("index", tuple(stored)), read, None, (why,))
