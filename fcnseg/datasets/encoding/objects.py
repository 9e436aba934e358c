"""Instance labels: distinguish object numbers from class indices, and read them as classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from math import gcd
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import BINARY, IGNORE, MAX_CLASSES, ClassMap, unpack
from fcnseg.datasets import Encoding, LabelMeaning, Pair
from fcnseg.datasets.encoding.entries import Entry
from fcnseg.datasets.encoding.values import (
    FEWEST_FILES,
    MANY,
    ValueCounts,
    Values,
    are_instances,
    values_of,
)
from fcnseg.errors import counted
from fcnseg.io.labels import region_areas

OF_ONE_FILE = 0.8
"""Least fraction of the objects' pixels whose number occurs in no other file."""

COMPARED = 16
"""Maximum number of files whose numbers are compared."""

COLORS_APART = 24
"""Least median distance (in RGB) between the colors of one file's objects."""


def are_of_one_file(values: Values, counts: Iterable[ValueCounts | None]) -> bool:
    """Whether each file has its own numbers (or colors): objects numbered across files."""
    own = [value for value in values.pixels if value > 0 and values.files[value] == 1]
    pixels = sum(number for value, number in values.pixels.items() if value)
    if (
        0 not in values.pixels
        or values.count < FEWEST_FILES
        or len(own) < FEWEST_FILES * values.count
        or sum(values.pixels[value] for value in own) < OF_ONE_FILE * pixels
    ):
        return False
    some = [one for one in islice(counts, COMPARED) if one is not None]
    return values.kind == "index" or all(_colors_apart(one.values) for one in some)


def numbered_in_channel(values: Values, counts: Iterable[ValueCounts | None]) -> bool:
    """Whether one channel numbers the objects of each file from 1, and the others are 0."""
    factor = only_channel(values) if values.kind == "color" and 0 in values.pixels else 0
    return factor > 0 and are_instances(
        [
            frozenset(color // factor for color in values_of(one, "color")) - {0}
            for one in counts
            if one is not None
        ]
    )


def numbered_by_video(pairs: Sequence[Pair], counts: Iterable[ValueCounts | None]) -> bool:
    """Whether JPEGImages/VIDEO/ and Annotations/VIDEO/ (DAVIS, YouTube-VOS) number the objects of
    each video 1..n; n is often the same in all. PASCAL VOC has no folders for videos."""
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
    """Whether colors are distinct, and not shades of one color after compression."""
    points = np.array([unpack(color) for color in colors], np.float64).reshape(-1, 3)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    np.fill_diagonal(distances, np.inf)
    return bool(np.median(distances.min(1)) >= COLORS_APART)


@dataclass(frozen=True)
class RegionsOfNumber:
    """The connected regions of a number in a file: count, pixels, center (x, y), first row."""

    number: int
    count: int
    area: int
    middle: tuple[float, float]
    top: int


def regions_by_number(numbers: NDArray[np.int32]) -> list[RegionsOfNumber]:
    """The connected regions of each number except 0, without specks, by number."""
    found = []
    order = np.argsort(numbers, axis=None, kind="stable")
    values, starts = np.unique(numbers.ravel()[order], return_index=True)
    for value, places in zip(values.tolist(), np.split(order, starts[1:]), strict=True):
        if value > 0:  # only its bounding box: there may be thousands of numbers
            rows, columns = np.divmod(places, numbers.shape[1])
            box = numbers[rows[0] : rows[-1] + 1, columns.min() : columns.max() + 1]
            areas = region_areas(box == value)
            count = int((areas >= areas.max() / 20).sum())
            middle = float(columns.mean()), float(rows.mean())
            found.append(RegionsOfNumber(value, count, len(places), middle, int(rows[0])))
    return found


ONE_PIECE = 0.9
"""Least fraction of object numbers that form one connected region."""

DIFFERENT = 0.6
"""Greatest mean overlap (intersection over union) of two files' numbers if numbers have gaps."""

BY_CHANCE = 2.0, 8.0
"""Size, position and color are independent of the number if their variance between numbers is at
most this many times that within numbers; the second is for few numbers in steps."""

FEWEST_AGAIN = 20, 6
"""Least number of repeated occurrences of numbers for that comparison; the second as above."""

LEAST = np.array([*[1e-9] * 3, *[4.0] * 3])
"""Variances of x, y, size, red, green and blue that count as zero: two levels for colors."""


def divide_by_step(
    values: Values, counts: Iterable[ValueCounts | None]
) -> tuple[int, list[frozenset[int]]]:
    """The common step of the numbers (10, 20, 30), 0 if none; and each file's numbers except 0,
    divided by it."""
    step = gcd(*values.pixels) if values.kind == "index" and 0 in values.pixels else 0
    files = [one.values for one in counts if one is not None] if step else []
    return step, [frozenset(value // step for value in some) - {0} for some in files]


def may_be_few_objects(stored: Sequence[frozenset[int]], least: int = FEWEST_FILES) -> bool:
    """Whether numbers may be few objects per file: 1..n in every file, with `least` different n."""
    in_a_row = all(some == {*range(1, len(some) + 1)} for some in stored)
    return in_a_row and len({*map(len, stored)} - {0}) >= least


def may_be_sparse_objects(values: Values, counts: Iterable[ValueCounts | None]) -> bool:
    """Whether numbers up to 255 may be objects with gaps: many, and different in each file."""
    some = [frozenset(one.values) - {0} for one in counts if one is not None]
    some = [stored for stored in some if stored]
    if values.kind != "index" or 0 not in values.pixels or len(some) < FEWEST_FILES:
        return False
    if max(values.pixels) >= MAX_CLASSES or np.median([*map(len, some)]) < MANY - 1:
        return False
    few = some[:: max(1, len(some) // COMPARED)]
    common = [len(a & b) / len(a | b) for a, b in combinations(few, 2)]
    return max(map(len, some)) >= MANY and float(np.mean(common)) <= DIFFERENT


Seen = tuple[NDArray[np.int32], NDArray[np.uint8] | None]
"""Numbers, and the image, uint8 (H, W, 3), if it can be read."""


def are_objects(
    counts: Iterable[ValueCounts | None],
    seen: Iterable[Seen],
    *,
    few: bool = False,
    again: int | None = None,
) -> bool:
    """Whether numbers that may be objects are: each is one connected region, and either in hardly
    more than one file, or without a typical size, position and color.

    few: see BY_CHANCE. again: the least number of repeated occurrences, if not FEWEST_AGAIN.
    """
    stored = [frozenset(one.values) - {0} for one in counts if one is not None]
    every = frozenset[int]().union(*stored)
    once = sum(map(len, stored)) <= 1.5 * len(every) and len(every) > 2 * max(map(len, stored))
    rows, single, in_order, files = list[NDArray[np.float64]](), 0, 0, 0
    for numbers, image in seen:
        found = regions_by_number(numbers)
        if len(found) < 2:
            continue
        single += sum(one.count == 1 for one in found)
        rows.append(_features(found, numbers, image))
        tops = [one.top for one in found]
        files, in_order = files + 1, in_order + (tops == sorted(tops))
        if single < ONE_PIECE / 2 * sum(map(len, rows)):
            return False
    if not rows or single < ONE_PIECE * sum(map(len, rows)):
        return False
    x, y, *others = _ratios(np.concatenate(rows), again or FEWEST_AGAIN[few])
    placed = max(x, y) >= BY_CHANCE[few] and in_order < ONE_PIECE * files
    return once or (max(others) < BY_CHANCE[few] and not placed)


def _features(
    found: Sequence[RegionsOfNumber], numbers: NDArray[np.int32], image: NDArray[np.uint8] | None
) -> NDArray[np.float64]:
    """float (numbers, 7): the number, and the differences of x, y, the logarithm of the area, red,
    green and blue from their means over the file."""
    rows = np.zeros((len(found), 7))
    rows[:, 1:4] = [(*one.middle, np.log(one.area)) for one in found]
    if image is not None and image.shape[:2] == numbers.shape:
        areas = np.bincount(numbers.ravel())
        sums = [np.bincount(numbers.ravel(), image[..., at].ravel()) for at in range(3)]
        wanted = [one.number for one in found]
        rows[:, 4:] = np.stack([one[wanted] / areas[wanted] for one in sums], 1)
    rows -= rows.mean(0)
    rows[:, 0] = [one.number for one in found]
    return rows


def _ratios(rows: NDArray[np.float64], fewest: int) -> list[float]:
    """Each feature's variance between numbers relative to that within numbers (F of an analysis of
    variance); infinite if too few numbers occur in several files."""
    numbers, which = np.unique(rows[:, 0], return_inverse=True)
    free = len(rows) - len(numbers)
    if free < fewest or len(numbers) < 2:
        return [np.inf] * (rows.shape[1] - 1)
    times = np.bincount(which)[:, None]
    features = rows[:, 1:]
    means = np.stack([np.bincount(which, one) for one in features.T], 1) / times
    within = ((features - means[which]) ** 2).sum(0) / free
    between = (times * (means - features.mean(0)) ** 2).sum(0) / (len(numbers) - 1)
    return [*(between / np.maximum(within, LEAST)).tolist()]


NUMBERS = 64
"""Values below this in one channel, if the others are 0, are class numbers, not shades."""

_BASES = (1000, 256)
"""class * 1000 + object (Cityscapes), class * 256 + object (KITTI, Mapillary)."""


def read_objects(values: Values, base: int, entries: Sequence[Entry] = ()) -> LabelMeaning:
    """Read object numbers as two classes: 0 is background, all others are object.

    base: from `class_base`; if not 0, numbers contain classes, which `entries` name.
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
    return LabelMeaning(Encoding(kind, ((0,), numbers)), ClassMap.of(BINARY), None, (why,))


def class_base(values: Values) -> int:
    """The divisor that gives the class of an object number; 0 if numbers contain no class.

    With it, each class numbers its objects from 0 or 1, with few gaps; other large numbers do not.
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
    """The factor (1 << 16, 1 << 8 or 1) of the channel with class numbers, where other channels
    number objects (Synthia, KITTI-STEP); 0 if there is none.

    Class numbers are small, consecutive, and far fewer than the colors. Of two such channels the
    one with fewer numbers is chosen, red before green and blue. A single class is in all colors
    except black.
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
    """The factor of the channel with class numbers if the others are 0 (CARLA: red); else 0."""
    if len(values.pixels) < 2 or values.lossy or values.rest:
        return 0
    for factor in (1 << 16, 1 << 8, 1):
        if all(color % factor == 0 and color // factor < NUMBERS for color in values.pixels):
            return factor
    return 0


def classes_of_channel(values: Values, factor: int) -> tuple[Values, dict[int, tuple[int, ...]]]:
    """Convert colors to the class numbers in one channel; also returns the colors of each class."""
    one = replace(values, kind="index", pixels={}, border={}, files={}, palette={}, solid=())
    one.instances, one.band, one.rim = False, None, None
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
) -> LabelMeaning:
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
    return LabelMeaning(Encoding("index", tuple(stored)), read, None, (why,))
