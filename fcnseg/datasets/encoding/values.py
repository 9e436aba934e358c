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
"""Of a lossy file (JPEG, a photograph) only the most frequent values are kept."""

LOSSY = 256
"""A file with more different values than this is lossy."""

MOST_NUMBERS = 1 << 14
"""Unless it numbers objects, up to this many, in long runs."""

LONG_RUN = 3
"""Of labels, a run of equal pixels has at least so many, on average."""

_NARROW = ("1", "L", "P", "LA", "PA")  # modes of Pillow that hold 0..255

GREYS = 32
"""Values from here on are greys rather than indices, where another file stores indices."""

FEWEST_FILES, MANY = 3, 5
"""Numbers of objects are known by so many files that have different numbers of them, and by a file
with so many objects."""

GREY = 0x010101
"""A grey level times this is its packed color."""


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """The stored values of one label file.

    size: (height, width). kind: "index" or "color".
    values, pixels, border: stored values, how many pixels have each, how many of these on the
        edge of the image.
    palette: the packed colors of the values, when the file has a palette.
    rest: pixels whose value is not listed (lossy files only).
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

    kind: "index" when every file can be read as single numbers, else "color".
    pixels, border, files: value -> pixels, pixels on the image's edge, files it occurs in.
    palette: value -> packed color, where the files have palettes.
    count: files. rest: pixels whose value is not listed. lossy: whether some file was JPEG.
    terms: what the values 1, 2, ... are called, where labels use words.
    aliases: greys of some files (0, 255) -> what other files store for the same (0, 1).
    instances: whether the values are numbers of objects, 1..n anew in each file.
    solid: the values that cover areas, where all others are known to be smoothed edges.
    exact: whether no value is a smoothed edge. band: one that says "ignore"; rim: one that may.
    alone: whether files of 0 and 255 alone stand beside files that hold 1 and 255.
    """

    kind: str = "index"
    pixels: dict[int, int] = field(default_factory=dict)
    border: dict[int, int] = field(default_factory=dict)
    files: dict[int, int] = field(default_factory=dict)
    palette: dict[int, int] = field(default_factory=dict)
    count: int = 0
    rest: int = 0
    lossy: bool = False
    terms: tuple[str, ...] = ()
    aliases: dict[int, int] = field(default_factory=dict)
    instances: bool = False
    solid: tuple[int, ...] = ()
    exact: bool = False
    band: int | None = None
    rim: int | None = None
    alone: bool = False

    def add(self, values: Sequence[int], counts: ValueCounts) -> None:
        """Count one file, whose values are these."""
        self.count += 1
        self.rest += counts.rest
        for value, inside, edge in zip(values, counts.pixels, counts.border, strict=True):
            self.pixels[value] = self.pixels.get(value, 0) + inside
            self.border[value] = self.border.get(value, 0) + edge
            self.files[value] = self.files.get(value, 0) + 1

    @property
    def total(self) -> int:
        """All pixels."""
        return sum(self.pixels.values()) + self.rest


def count_values(raw: RawLabels, *, lossy: bool = False) -> ValueCounts:
    """The stored values of one file. lossy: it is JPEG, so rare values mean little."""
    numbers, kind = single_numbers(raw)
    narrow = raw.mode in _NARROW
    values, pixels = _count(numbers, narrow=narrow)
    edge = np.concatenate([numbers[0], numbers[-1], numbers[1:-1, 0], numbers[1:-1, -1]])
    at_edge = dict(zip(*(part.tolist() for part in _count(edge, narrow=narrow)), strict=True))
    rest = 0
    if len(values) > (MOST_VALUES if lossy else LOSSY) and not (
        kind == "index" and not lossy and _numbers_objects(numbers, len(values))
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


def _numbers_objects(numbers: NDArray[np.int32], count: int) -> bool:
    """Whether a file of many numbers has them in long runs, as objects' numbers are."""
    runs = 1 + int((numbers.ravel()[1:] != numbers.ravel()[:-1]).sum())
    return count <= MOST_NUMBERS and numbers.size >= LONG_RUN * runs


def total(
    counts: Iterable[ValueCounts], *, lossy: bool = False, terms: Sequence[str] = ()
) -> Values:
    """The values of all files; colors if any file is in color or palettes do not agree."""
    counts = list(counts)
    in_color = any(one.kind == "color" for one in counts) or _palettes_speak(counts)
    counted = Values("color" if in_color else "index", lossy=lossy, terms=tuple(terms))
    for one in counts:
        counted.add(values_of(one, counted.kind), one)
        if not in_color:
            counted.palette.update(zip(one.values, one.palette, strict=False))
    if not in_color and not terms and not counted.rest:
        stored = [frozenset(one.values) - {0} for one in counts]
        counted.aliases = _aliases(stored)
        counted.instances = 0 in counted.pixels and are_instances(stored)
        counted.alone = {*stored} <= _OBJECT_AND_IGNORED and {*stored} >= _BOTH_MEANINGS
    return counted


_BOTH_MEANINGS = {frozenset((1, 255)), frozenset((255,))}
"""The values but 0 of some files where 255 can't mean the same in all."""

_OBJECT_AND_IGNORED = {*_BOTH_MEANINGS, frozenset((1,)), frozenset[int]()}


def _aliases(stored: Sequence[frozenset[int]]) -> dict[int, int]:
    """What greys of some files (0, 255) mean in terms of the indices (0, 1) of others.

    stored: the values of each file but 0. {} where files of both kinds share values, or one kind
    has another number of them.
    """
    indices = frozenset[int]().union(*(some for some in stored if some and max(some) < GREYS))
    greys = frozenset[int]().union(*(some for some in stored if some and max(some) >= GREYS))
    if not indices or indices & greys or len(indices) != len(greys):
        return {}
    return dict(zip(sorted(greys), sorted(indices), strict=True))


def are_instances(stored: Sequence[frozenset[int]]) -> bool:
    """Whether files number their objects 1..n; n differs, as no list of classes does.

    stored: the values of each file but 0.
    """
    some = [values for values in stored if values]
    every = frozenset[int]().union(*some)
    if len(some) < FEWEST_FILES:
        return False
    differ = len({*map(len, some)}) >= FEWEST_FILES and max(map(len, some)) >= MANY
    large = MAX_CLASSES < max(every) < 65535  # with gaps; of crops hardly one is in two files
    gaps = sum(map(len, some)) <= 1.5 * len(every) or (differ and len(every) <= MAX_CLASSES)
    in_a_row = sum(min(values) == 1 and len(values) >= 0.9 * max(values) for values in some)
    return (large and gaps) or (differ and in_a_row >= 0.8 * len(some))


def values_of(one: ValueCounts, kind: str) -> tuple[int, ...]:
    """A file's values as the dataset's kind has them: colors of a file of numbers, if need be."""
    if kind == "color" and one.kind == "index":
        return one.palette or tuple(value * GREY for value in one.values)
    return one.values


def single_numbers(raw: RawLabels) -> tuple[NDArray[np.int32], str]:
    """(H, W) numbers and their kind; an RGB file of greys only is numbers."""
    values = raw.values
    if values.ndim == 2:
        return np.asarray(values, np.int32), "index"
    red, green, blue = (values[:, :, channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return red.astype(np.int32), "index"
    return packed_colors(raw), "color"


def _palettes_speak(counts: Sequence[ValueCounts]) -> bool:
    """Whether palettes, not indices, say what is what.

    So when an index has different colors in different files (programs chose a palette for each:
    GIF), which recur, or when the colors are levels of grey other than the indices.
    """
    if any(len({*one.palette}) < len(one.palette) for one in counts):
        return False  # a palette that does not tell its entries apart says nothing
    pairs = {both for one in counts for both in zip(one.values, one.palette, strict=False)}
    if len(pairs) > len({value for value, _ in pairs}):
        every = [color for one in counts for color in {*one.palette}]
        recur = len({*every}) < len(every)  # else as telling as numbers
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
    """Distinct values, ascending, and how often each occurs. narrow: all are known in 0..255."""
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


_BLOCK, _TABLE = 4096, 1 << 20  # colors compared at a time; values that are looked up in a table


def decode(raw: RawLabels, encoding: Encoding) -> NDArray[np.uint8]:
    """Labels uint8 (H, W) of a label file; values that are no class become 255."""
    if encoding.kind == "color":
        return decode_values(packed_colors(raw), encoding)
    numbers: NDArray[np.integer] = raw.values if raw.values.ndim == 2 else raw.values[:, :, 0]
    if encoding.alone:
        encoding = encoding.in_file(_count(numbers, narrow=False)[0].tolist())
    return decode_values(numbers, encoding)


def decode_values(numbers: NDArray[np.integer], encoding: Encoding) -> NDArray[np.uint8]:
    """The class of stored numbers (or packed colors) of any shape; 255 for no class."""
    table = _table(encoding)
    if table is None:
        return _decode_sorted(np.asarray(numbers), encoding)
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >= len(table)):
        numbers = np.where((numbers < 0) | (numbers >= len(table)), len(table) - 1, numbers)
    return np.asarray(table[numbers])


def packed_colors(raw: RawLabels) -> NDArray[np.int32]:
    """int32 (H, W): a file's colors as r << 16 | g << 8 | b; a palette is looked up."""
    if raw.values.ndim == 3:
        return _packed(raw.values)
    if raw.palette is not None:
        return np.asarray(_palette(raw.palette)[raw.values])
    return np.asarray(raw.values, np.int32) * GREY


def _packed(channels: NDArray[np.integer]) -> NDArray[np.int32]:
    """int32: red, green and blue along the last axis as one number."""
    red, green, blue = (channels[..., number].astype(np.int32) for number in range(3))
    return np.asarray(red << 16 | green << 8 | blue)


@lru_cache(maxsize=16)
def _table(encoding: Encoding) -> NDArray[np.uint8] | None:
    """uint8 (largest value + 2,): stored value -> class; the last entry is 255. None where stored
    values are colors, negative or very large."""
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
    """Classes, and stored values or packed colors, ascending."""
    stored = encoding.class_of()
    known = np.array([*stored, *encoding.ignore], np.int32)
    classes = np.array([*stored.values(), *(IGNORE for _ in encoding.ignore)], np.uint8)
    order = np.argsort(known)
    return classes[order], known[order]


def _nearest_classes(colors: NDArray[np.integer], encoding: Encoding) -> NDArray[np.uint8]:
    """The class (or 255) of the nearest declared one, for each packed color or stored value."""
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
