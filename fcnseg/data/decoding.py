"""Stored numbers and colours -> labels, by an Encoding."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.data.description import Encoding
from fcnseg.io.labels import RawLabels

_BLOCK = 4096  # colours compared at a time


def decode(raw: RawLabels, encoding: Encoding) -> NDArray[np.uint8]:
    """Labels uint8 (H, W) of a label file; values that are no class become 255."""
    if encoding.kind == "color":
        return decode_values(packed_colors(raw), encoding)
    numbers = raw.values if raw.values.ndim == 2 else raw.values[:, :, 0]
    return decode_values(np.asarray(numbers), encoding)


def decode_values(numbers: NDArray[np.integer], encoding: Encoding) -> NDArray[np.uint8]:
    """The class of stored numbers (or packed colours) of any shape; 255 for no class."""
    if encoding.kind == "color":
        return _decode_colors(np.asarray(numbers, np.int32), encoding)
    table = _table(encoding)
    if numbers.size and (int(numbers.min()) < 0 or int(numbers.max()) >= len(table)):
        numbers = np.where((numbers < 0) | (numbers >= len(table)), len(table) - 1, numbers)
    return np.asarray(table[numbers])


def packed_colors(raw: RawLabels) -> NDArray[np.int32]:
    """int32 (H, W): a file's colours as r << 16 | g << 8 | b; a palette is looked up."""
    values = raw.values
    if values.ndim == 3:
        r, g, b = (values[:, :, channel].astype(np.int32) for channel in range(3))
        return r << 16 | g << 8 | b
    if raw.palette is not None:
        palette = np.zeros((256, 3), np.int32)
        palette[: len(raw.palette)] = raw.palette
        packed = palette[:, 0] << 16 | palette[:, 1] << 8 | palette[:, 2]
        return np.asarray(packed[values], np.int32)
    return np.asarray(values, np.int32) * 0x010101


@lru_cache(maxsize=16)
def _table(encoding: Encoding) -> NDArray[np.uint8]:
    """uint8 (largest value + 2,): stored value -> class; the last entry is 255."""
    known = encoding.class_of()
    size = max(256, *(value + 1 for value in (*known, *encoding.ignore))) + 1
    table = np.full(size, IGNORE, np.uint8)
    if encoding.snap:
        stored = np.array([*known, *encoding.ignore])
        classes = np.array([*known.values(), *(IGNORE for _ in encoding.ignore)], np.uint8)
        distance = np.abs(np.arange(size - 1)[:, None] - stored[None])
        table[:-1] = classes[distance.argmin(1)]
    for value, index in known.items():
        table[value] = index
    table[[value for value in encoding.ignore if value >= 0]] = IGNORE
    return table


def _decode_colors(colors: NDArray[np.int32], encoding: Encoding) -> NDArray[np.uint8]:
    classes, known = _sorted_colors(encoding)
    place = np.minimum(np.searchsorted(known, colors), len(known) - 1)
    exact = known[place] == colors
    labels = np.where(exact, classes[place], IGNORE).astype(np.uint8)
    if encoding.snap and not exact.all():
        found, inverse = np.unique(colors[~exact], return_inverse=True)
        labels[~exact] = _nearest_classes(found, encoding)[inverse]
    return labels


@lru_cache(maxsize=16)
def _sorted_colors(encoding: Encoding) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Classes and colours, by ascending packed colour."""
    stored = encoding.class_of()
    known = np.array([*stored, *encoding.ignore], np.int32)
    classes = np.array([*stored.values(), *(IGNORE for _ in encoding.ignore)], np.uint8)
    order = np.argsort(known)
    return classes[order], known[order]


def _nearest_classes(colors: NDArray[np.int32], encoding: Encoding) -> NDArray[np.uint8]:
    """The class (or 255) of the nearest declared colour, for each packed colour."""
    classes, known = _sorted_colors(encoding)
    nearest = np.zeros(len(colors), np.uint8)
    for start in range(0, len(colors), _BLOCK):
        some = _rgb(colors[start : start + _BLOCK])
        distance = ((some[:, None] - _rgb(known)[None]) ** 2).sum(2)
        nearest[start : start + _BLOCK] = classes[distance.argmin(1)]
    return nearest


def _rgb(colors: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.stack([colors >> 16 & 255, colors >> 8 & 255, colors & 255], axis=-1)
