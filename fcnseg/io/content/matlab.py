"""Read Matlab's .mat files, versions 4 to 7, following the format's specification.

Every stated size is checked against the data, so that a damaged file raises ValueError; SciPy's
reader crashes the process on some and hangs on others. Numbers keep the type in which they are
stored, which may differ from Matlab's class.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

import numpy as np
from numpy.typing import NDArray

_LARGEST = 1 << 30  # maximum bytes of a variable, decompressed

_HEAD = 1 << 12  # bytes of a compressed variable that contain its class, shape and name

_MATRIX, _PACKED = 14, 15

_STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
    16: "u1",
}  # fmt: skip
"""NumPy's type for an element's data type."""

_STORED_4 = ("f8", "f4", "i4", "i2", "u2", "u1")

_CELL, _STRUCT, _OBJECT, _NUMBERS = 1, 2, 3, range(6, 16)
"""Matlab's classes that may contain labels; not char, sparse or function_handle."""

_OPAQUE, _COMPLEX = 17, 1 << 11


@dataclass(frozen=True)
class _Variable:
    """An array: its class and shape, and the elements that follow."""

    name: str
    kind: int
    shape: tuple[int, ...]
    parts: Iterator[tuple[int, memoryview]]


def read_matlab(data: bytes, choose: Callable[[Sequence[str]], str]) -> NDArray[np.generic]:
    """Read the numbers of a variable, at least 2 dimensions, in the type in which they are stored.

    choose: selects a variable's name, or a struct's field, from a list. ValueError for another
    format, damage, no numbers, and for several structs or cells, as the file does not say which
    one to use (BSDS500: a cell for each annotator).
    """
    if 0 in data[:4]:
        arrays = dict(_version_4(data))
        return arrays[choose(list(arrays))]
    if 2 in data[124:126]:  # the format's number, 0x0200
        raise ValueError("Matlab's version 7.3 (HDF5) is not read; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("no Matlab file")
    found, shapes = {}, dict[str, tuple[int, tuple[int, ...]]]()
    for kind, content in _elements(memoryview(data)[128:], order):
        variable = _variable(_unpacked(kind, content, order, _HEAD), order)
        named = variable.name and not variable.name.startswith("__")  # else Matlab's own
        if named and variable.kind in (_CELL, _STRUCT, _OBJECT, *_NUMBERS):
            found[variable.name] = kind, content
            shapes[variable.name] = variable.kind, variable.shape
    flat = [name for name, (kind, shape) in shapes.items() if kind in _NUMBERS and _is_flat(shape)]
    alone = len(flat) == 1 and not any(kind in (_STRUCT, _OBJECT) for kind, _ in shapes.values())
    kind, content = found[choose(flat if alone else list(found))]  # SIFT Flow: S, beside names
    return _numbers(_variable(_unpacked(kind, content, order, _LARGEST), order), order, choose)


def _is_flat(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and min(shape) > 1


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield the type and content of each element; ValueError if one ends beyond the data."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, room = at + 8, -size % 8
        if kind >> 16:  # a small element: up to four bytes in the header itself
            kind, size, start, room = kind & 0xFFFF, kind >> 16, at + 4, 0
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        if start + size > len(data):
            raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
        yield kind, data[start : start + size]
        at = max(at + 8, start + size + (0 if kind == _PACKED else room))


def _unpacked(kind: int, content: memoryview, order: str, most: int) -> memoryview:
    """A variable's elements; of a compressed one at most those in its first `most` bytes."""
    if kind == _MATRIX:
        return content
    if kind != _PACKED:
        raise ValueError(f"a variable of type {kind}")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(content, most)
        kind, size = struct.unpack_from(f"{order}II", data)
        is_complete = 8 + size <= most
        if is_complete and (unpacker.decompress(unpacker.unconsumed_tail, 1) or not unpacker.eof):
            raise ValueError("a packed variable that is longer than it says or truncated")
    except (zlib.error, struct.error) as error:
        raise ValueError(f"a packed variable that can't be unpacked ({error})") from None
    if kind != _MATRIX or (is_complete and len(data) != 8 + size):
        raise ValueError(f"a packed variable of {len(data)} bytes that says {8 + size}")
    if not is_complete and most == _LARGEST:
        raise ValueError(f"a variable of {size >> 20} MB; at most {_LARGEST >> 20} are read")
    return memoryview(data)[8:]


def _variable(content: memoryview, order: str) -> _Variable:
    parts = _elements(content, order)
    first = [bytes(part) for _, part in islice(parts, 2)]
    if len(first) < 2 or len(first[0]) != 8:
        raise ValueError("an empty array")
    (flags,) = struct.unpack_from(f"{order}I", first[0])
    kind = flags & 0xFF
    if kind == _OPAQUE or flags & _COMPLEX:  # an opaque one has no shape
        return _Variable("", 0, (), parts)
    shape = np.frombuffer(first[1], f"{order}i4")
    name = bytes(next(parts, (0, memoryview(b"")))[1]).decode("latin-1")
    if len(shape) < 2 or (shape < 0).any():
        raise ValueError(f"an array of shape {tuple(shape.tolist())}")
    return _Variable(name, kind, tuple(shape.tolist()), parts)


def _numbers(
    variable: _Variable, order: str, choose: Callable[[Sequence[str]], str]
) -> NDArray[np.generic]:
    """The numbers of a variable, or of the content of its struct or cell."""
    while variable.kind in (_CELL, _STRUCT, _OBJECT):
        if (count := prod(variable.shape)) != 1:
            raise ValueError(f"{count} cells or structs, of several drawings or objects, not one")
        number = 0
        if variable.kind != _CELL:
            number = _field(variable, order, choose)
        part = next(islice(variable.parts, number, None), (0, memoryview(b"")))
        if part[0] != _MATRIX:
            raise ValueError("nothing where an array is named")
        variable = _variable(part[1], order)
    if variable.kind not in _NUMBERS:
        raise ValueError("no array of numbers")
    kind, content = next(variable.parts, (0, memoryview(b"")))
    if kind not in _STORED:
        raise ValueError(f"numbers of type {kind}")
    numbers = np.frombuffer(content, order + _STORED[kind])
    if prod(variable.shape) != len(numbers):
        raise ValueError(f"{len(numbers)} numbers for an array of {variable.shape}")
    return numbers.reshape(variable.shape, order="F")


def _field(variable: _Variable, order: str, choose: Callable[[Sequence[str]], str]) -> int:
    """The index of the chosen field of a struct; the names precede the values."""
    texts = [bytes(part) for _, part in islice(variable.parts, 3 - (variable.kind == _STRUCT))]
    if len(texts) < 2 or len(texts[-2]) != 4:
        raise ValueError("a struct without names")
    (length,) = struct.unpack(f"{order}i", texts[-2])
    if length < 1:
        raise ValueError(f"names of {length} letters")
    names = [
        texts[-1][at : at + length].partition(b"\0")[0].decode("latin-1")
        for at in range(0, len(texts[-1]), length)
    ]
    return names.index(choose(names))


def _version_4(data: bytes) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield each numeric matrix: a header of five numbers, the name, the columns."""
    at = 0
    while at < len(data):
        if at + 20 > len(data):
            raise ValueError("truncated")
        order = "<" if 0 <= struct.unpack_from("<i", data, at)[0] < 5000 else ">"
        form, height, width, imaginary, named = struct.unpack_from(f"{order}5i", data, at)
        if not (0 <= form < 5000 and form // 10 % 10 < 6 and min(height, width, named) >= 0):
            raise ValueError("no Matlab file")
        dtype = np.dtype(order + _STORED_4[form // 10 % 10])
        start = at + 20 + named
        size = height * width * dtype.itemsize
        at = start + size * (2 if imaginary else 1)
        if at > len(data):
            raise ValueError(f"a matrix of {size} bytes where {len(data) - start} are left")
        if form % 10 == 0 and not imaginary:  # else text, sparse or complex
            numbers = np.frombuffer(data, dtype, height * width, start)
            name = data[start - named : start].partition(b"\0")[0].decode("latin-1")
            yield name, numbers.reshape((height, width), order="F")
