"""The values that label files hold, counted and turned into class indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE, MAX_CLASSES
from fcnseg.datasets import Encoding
from fcnseg.io.labels import RawLabels, flat_colors
from fcnseg.io.warp import histogram

MOST_VALUES = 64
"""Number of values kept of a lossy file (JPEG, a photograph), the most frequent."""

LOSSY = 256
"""A file with more distinct values than this is lossy ..."""

MOST_NUMBERS = 1 << 14
"""... unless they are object numbers: at most this many, in long runs."""

LONG_RUN = 3
"""Least mean length of runs of equal pixels in object numbers."""

_NARROW = ("1", "L", "P", "LA", "PA")  # modes of Pillow that hold 0..255

GREYS = 32
"""Least value that is a gray and not an index, if another file stores indices."""

FEWEST_FILES, MANY = 3, 5
"""Object numbers: this many files with different numbers of objects, one with that many."""

GREY = 0x010101
"""A grey level times this is its packed color."""


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """The stored values of one label file.

    size: (height, width). kind: "index" or "color".
    values, pixels, border: stored values, their numbers of pixels, and of pixels at the image's
        edge.
    palette: packed colors of the values, if the file has a palette.
    rest: number of pixels with values that are not listed (lossy files only).
    """

    size: tuple[int, int]
    kind: str
    values: tuple[int, ...]
    pixels: tuple[int, ...]
    border: tuple[int, ...]
    palette: tuple[int, ...] = ()
    rest: int = 0


@dataclass
class Values:
    """The stored values of many label files.

    kind: "index" if every file can be read as single numbers, else "color".
    pixels, border, files: value -> number of pixels, of pixels at images' edges, of files.
    palette: value -> packed color, if files have palettes.
    count: number of files. rest: pixels with values that are not listed. lossy: any file is JPEG.
    terms: names of the values 1, 2, ..., for labels that use words.
    aliases: grays of some files (0, 255) -> the indices of the same classes in others (0, 1).
    instances: whether values number the objects of each file from 1.
    solid: values that cover areas, if all others are known to be smoothed edges. exact: whether no
        value is a smoothed edge. band, rim: a value that means "ignore", and one that may.
    few_objects: whether numbers may be objects'.
    alone: whether some files contain only 0 and 255, and others 1 and 255.
    """

    kind: str = "index"
    pixels: dict[int, int] = field(default_factory=dict)
    border: dict[int, int] = field(default_factory=dict)
    files: dict[int, int] = field(default_factory=dict)
    palette: dict[int, int] = field(default_factory=dict)
    count: int = 0
    rest: int = 0
    lossy: bool = False
    class_words: tuple[str, ...] = ()
    aliases: dict[int, int] = field(default_factory=dict)
    instances: bool = False
    solid: tuple[int, ...] = ()
    exact: bool = False
    band: int | None = None
    rim: int | None = None
    few_objects: bool = False
    alone: bool = False

    def add(self, values: Sequence[int], counts: ValueCounts) -> None:
        """Add the counts of a file. values: in the dataset's kind."""
        self.count += 1
        self.rest += counts.rest
        for value, inside, edge in zip(values, counts.pixels, counts.border, strict=True):
            self.pixels[value] = self.pixels.get(value, 0) + inside
            self.border[value] = self.border.get(value, 0) + edge
            self.files[value] = self.files.get(value, 0) + 1

    @property
    def total(self) -> int:
        """Number of all pixels."""
        return sum(self.pixels.values()) + self.rest


def count_values(raw: RawLabels, *, lossy: bool = False) -> ValueCounts:
    """Count the stored values of a file. lossy: it is JPEG, so rare values are unreliable."""
    numbers, kind = single_numbers(raw)
    narrow = raw.mode in _NARROW
    values, pixels = _count(numbers, narrow=narrow)
    edge = np.concatenate([numbers[0], numbers[-1], numbers[1:-1, 0], numbers[1:-1, -1]])
    at_edge = dict(zip(*(part.tolist() for part in _count(edge, narrow=narrow)), strict=True))
    rest = 0
    if len(values) > (MOST_VALUES if lossy else LOSSY) and not (
        kind == "index" and not lossy and _are_object_numbers(numbers, len(values))
    ):
        if kind == "color":
            values, pixels = flat_colors(numbers) or (values, pixels)
        kept = np.sort(np.argsort(-pixels, kind="stable")[:MOST_VALUES])
        rest = int(numbers.size - pixels[kept].sum())
        values, pixels = values[kept], pixels[kept]
    stored = tuple(values.tolist())
    return ValueCounts(
        size=(numbers.shape[0], numbers.shape[1]),
        kind=kind,
        values=stored,
        pixels=tuple(pixels.tolist()),
        border=tuple([at_edge.get(value, 0) for value in stored]),
        palette=() if raw.palette is None else tuple(_palette(raw.palette)[values].tolist()),
        rest=rest,
    )


def _are_object_numbers(numbers: NDArray[np.int32], count: int) -> bool:
    """Whether a file's many values occur in long runs, as object numbers do."""
    runs = 1 + int((numbers.ravel()[1:] != numbers.ravel()[:-1]).sum())
    return count <= MOST_NUMBERS and numbers.size >= LONG_RUN * runs


def total(
    counts: Iterable[ValueCounts], *, lossy: bool = False, class_words: Sequence[str] = ()
) -> Values:
    """Add up the values of all files; as colors if any file is in color or palettes disagree."""
    counts = list(counts)
    in_color = any(one.kind == "color" for one in counts) or _palettes_identify_classes(counts)
    counted = Values("color" if in_color else "index", lossy=lossy, class_words=tuple(class_words))
    for one in counts:
        counted.add(values_of(one, counted.kind), one)
        if not in_color:
            counted.palette.update(zip(one.values, one.palette, strict=False))
    if not in_color and not class_words and not counted.rest:
        stored = [frozenset(one.values) - {0} for one in counts]
        counted.aliases = _aliases(stored)
        counted.instances = 0 in counted.pixels and are_instances(stored)
        counted.alone = {*stored} <= _OBJECT_AND_IGNORED and {*stored} >= _BOTH_MEANINGS
    return counted


_BOTH_MEANINGS = {frozenset((1, 255)), frozenset((255,))}
"""The values except 0 of two files in which 255 can't have the same meaning."""

_OBJECT_AND_IGNORED = {*_BOTH_MEANINGS, frozenset((1,)), frozenset[int]()}


def _aliases(stored: Sequence[frozenset[int]]) -> dict[int, int]:
    """Map the grays of some files (0, 255) to the indices (0, 1) of others.

    stored: each file's values except 0. {} if both kinds of files share values or have different
    numbers of them.
    """
    indices = frozenset[int]().union(*(some for some in stored if some and max(some) < GREYS))
    greys = frozenset[int]().union(*(some for some in stored if some and max(some) >= GREYS))
    if not indices or indices & greys or len(indices) != len(greys):
        return {}
    return dict(zip(sorted(greys), sorted(indices), strict=True))


def are_instances(stored: Sequence[frozenset[int]]) -> bool:
    """Whether files number their objects 1..n, with different n.

    stored: each file's values except 0.
    """
    some = [values for values in stored if values]
    every = frozenset[int]().union(*some)
    if len(some) < FEWEST_FILES:
        return False
    differ = len({*map(len, some)}) >= FEWEST_FILES and max(map(len, some)) >= MANY
    large = MAX_CLASSES < max(every) < 65535  # with gaps; few occur in two files
    gaps = sum(map(len, some)) <= 1.5 * len(every) or (differ and len(every) <= MAX_CLASSES)
    in_a_row = sum(min(values) == 1 and len(values) >= 0.9 * max(values) for values in some)
    return (large and gaps) or (differ and in_a_row >= 0.8 * len(some))


def values_of(one: ValueCounts, kind: str) -> tuple[int, ...]:
    """A file's values in the dataset's kind: those of index files as colors if necessary."""
    if kind == "color" and one.kind == "index":
        return one.palette or tuple(value * GREY for value in one.values)
    return one.values


def single_numbers(raw: RawLabels) -> tuple[NDArray[np.int32], str]:
    """A file as numbers (H, W), and their kind; an RGB file with only grays is "index"."""
    values = raw.values
    if values.ndim == 2:
        return np.asarray(values, np.int32), "index"
    red, green, blue = (values[:, :, channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return red.astype(np.int32), "index"
    return packed_colors(raw), "color"


def _palettes_identify_classes(counts: Sequence[ValueCounts]) -> bool:
    """Whether palette colors, not indices, identify classes.

    They do if an index has different colors in different files (GIF writers choose a palette per
    file) and colors recur, or if the colors are grays that differ from the indices.
    """
    if any(len({*one.palette}) < len(one.palette) for one in counts):
        return False  # two entries with the same color
    pairs = {both for one in counts for both in zip(one.values, one.palette, strict=False)}
    if len(pairs) > len({value for value, _ in pairs}):
        every = [color for one in counts for color in {*one.palette}]
        recur = len({*every}) < len(every)
        return len(counts) < FEWEST_FILES or recur
    grey = all(color % GREY == 0 for _, color in pairs)
    return grey and any(color != value * GREY for value, color in pairs)


def _palette(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """int32 (256,): the packed colors of a palette; 0 beyond its end."""
    packed = np.zeros(256, np.int32)
    packed[: len(colors)] = _packed(colors)
    return packed


def _count(
    numbers: NDArray[np.integer], *, narrow: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted distinct values, and their counts. narrow: all are known to be in 0..255."""
    if narrow or (numbers.min() >= 0 and numbers.max() < 256):
        counts = histogram(numbers.astype(np.uint8))
        values = np.flatnonzero(counts)
        return values, counts[values]
    # Labels come in runs: counting runs sorts far fewer numbers than counting pixels.
    flat = numbers.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, len(flat)))
    values, inverse = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(inverse, weights=lengths).astype(np.int64)
    return values.astype(np.int64), counts


_BLOCK, _TABLE = 4096, 1 << 20  # colors compared at once; maximum size of a lookup table


def decode(raw: RawLabels, encoding: Encoding) -> NDArray[np.uint8]:
    """Decode a label file to labels uint8 (H, W); values without a class become 255."""
    if encoding.kind == "color":
        return decode_values(packed_colors(raw), encoding)
    numbers: NDArray[np.integer] = raw.values if raw.values.ndim == 2 else raw.values[:, :, 0]
    if encoding.alone:
        encoding = encoding.in_file(_count(numbers, narrow=False)[0].tolist())
    return decode_values(numbers, encoding)


def decode_values(numbers: NDArray[np.integer], encoding: Encoding) -> NDArray[np.uint8]:
    """The classes of stored numbers (or packed colors) of any shape; 255 for none."""
    table = _table(encoding)
    if table is None:
        return _decode_sorted(np.asarray(numbers), encoding)
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >= len(table)):
        numbers = np.where((numbers < 0) | (numbers >= len(table)), len(table) - 1, numbers)
    return np.asarray(table[numbers])


def packed_colors(raw: RawLabels) -> NDArray[np.int32]:
    """int32 (H, W): a file's colors as r << 16 | g << 8 | b; palette colors for indices."""
    if raw.values.ndim == 3:
        return _packed(raw.values)
    if raw.palette is not None:
        return np.asarray(_palette(raw.palette)[raw.values])
    return np.asarray(raw.values, np.int32) * GREY


def _packed(channels: NDArray[np.integer]) -> NDArray[np.int32]:
    """int32: red, green and blue of the last axis, packed."""
    red, green, blue = (channels[..., number].astype(np.int32) for number in range(3))
    return np.asarray(red << 16 | green << 8 | blue)


@lru_cache(maxsize=16)
def _table(encoding: Encoding) -> NDArray[np.uint8] | None:
    """Lookup table, uint8 (largest value + 2,): stored value -> class; the last entry is 255. None
    if stored values are colors, negative or very large."""
    known = encoding.class_of()
    largest = max(255, *known, *encoding.ignore)
    if encoding.kind == "color" or min(known, default=0) < 0 or largest >= _TABLE:
        return None
    table = np.full(largest + 2, IGNORE, np.uint8)
    if encoding.nearest:
        stored = np.array([*known, *encoding.ignore])
        classes = np.array([*known.values(), *(IGNORE for _ in encoding.ignore)], np.uint8)
        distance = np.abs(np.arange(largest + 1)[:, None] - stored[None])
        table[:-1] = classes[distance.argmin(1)]
    table[[*known]] = [*known.values()]
    table[[value for value in encoding.ignore if value >= 0]] = IGNORE
    return table


def _decode_sorted(colors: NDArray[np.integer], encoding: Encoding) -> NDArray[np.uint8]:
    classes, known = _sorted_values(encoding)
    place = np.minimum(np.searchsorted(known, colors), len(known) - 1)
    exact = known[place] == colors
    labels = np.where(exact, classes[place], IGNORE).astype(np.uint8)
    if encoding.nearest and not exact.all():
        found, inverse = np.unique(colors[~exact], return_inverse=True)
        labels[~exact] = _nearest_classes(found, encoding)[inverse]
    return labels


@lru_cache(maxsize=16)
def _sorted_values(encoding: Encoding) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Classes and their stored values or packed colors, sorted by value."""
    stored = encoding.class_of()
    known = np.array([*stored, *encoding.ignore], np.int32)
    classes = np.array([*stored.values(), *(IGNORE for _ in encoding.ignore)], np.uint8)
    order = np.argsort(known)
    return classes[order], known[order]


def _nearest_classes(colors: NDArray[np.integer], encoding: Encoding) -> NDArray[np.uint8]:
    """The class (or 255) of the nearest known value, for each packed color or stored value."""
    classes, known = _sorted_values(encoding)
    nearest = np.zeros(len(colors), np.uint8)
    for start in range(0, len(colors), _BLOCK):
        some = _parts(colors[start : start + _BLOCK], encoding)
        distance = ((some[:, None] - _parts(known, encoding)[None]) ** 2).sum(2)
        nearest[start : start + _BLOCK] = classes[distance.argmin(1)]
    return nearest


def _parts(colors: NDArray[np.integer], encoding: Encoding) -> NDArray[np.number]:
    if encoding.kind == "index":
        return colors.astype(np.float64)[:, None]
    return np.stack([colors >> 16 & 255, colors >> 8 & 255, colors & 255], axis=-1)
