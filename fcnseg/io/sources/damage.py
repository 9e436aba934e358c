"""Find truncation and damage between a video's frames, which FFmpeg skips silently.

The container's stated lengths and structure are compared with the file, or with the data from a
pipe. The decoder finds damage within a frame; formats without such a structure are not checked.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import struct
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

_EBML = b"\x1a\x45\xdf\xa3"

_OPENED = {0x18538067, 0x1F43B675, 0xA0}
"""Matroska's Segment, Cluster and BlockGroup, whose content is parsed."""

_KNOWN = {
    0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367,
    0xEC, 0xBF, 0xE7, 0xAB, 0xA7, 0x5854, 0xA3, 0xA1, 0x9B, 0xFB, 0xFA, 0xA4, 0x75A1, 0x75A2, 0x8E,
    0xAF,
}  # fmt: skip
"""Their other elements, which are skipped."""

_PACKETS = {188: 0, 192: 4}
"""Packet size of a transport stream -> offset of the sync byte 0x47 in a packet."""

_PACK, _PROGRAM_END = 0xBA, 0xB9  # start codes of an MPEG program stream

_ASF, _ASF_DATA, _ASF_DATA_HEAD = b"\x30\x26\xb2\x75", b"\x36\x26\xb2\x75", 50

_NUT = b"nut/multimedia c"

_HEAD = 200  # bytes that identify a container

Steps = Generator[tuple[int, int], bytes, int]
"""Parses a container as a coroutine: yields (offset, count), receives these bytes, fewer only at
the end, and returns the expected length. Raises _DamagedError for invalid data."""


class _DamagedError(Exception):
    """Invalid data at an offset, the argument."""


def find_damage(path: Path) -> int | None:
    """The offset of the first damaged byte of a file; its length if it is truncated; None if it is
    intact or its format can't be checked."""
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return damage_in(data)


def damage_in(data: mmap.mmap | bytes) -> int | None:
    """`find_damage` for a file's bytes."""
    if data[:4] == b"YUV4":
        return _in_y4m(data)
    if data[:3] == b"\xff\xd8\xff":  # MJPEG without a container
        return None if data[-_HEAD:].rstrip(b"\0").endswith(b"\xff\xd9") else len(data)
    if steps := _steps_of(data[:_HEAD]):
        return _walk(steps, data)
    if data[: len(_NUT)] == _NUT:
        return _without_index(data[-12:], len(data))
    size = _packet_size(data[:_HEAD])
    return _in_packets(data, size, _PACKETS[size]) if size else None


class PipedFraming:
    """`find_damage` for a pipe; only the part being parsed is kept in memory."""

    def __init__(self) -> None:
        self._held, self._start = bytearray(), 0
        self._first = b""
        self._steps: Steps | None = None
        self._wanted = (0, 0)
        self._damaged: int | None = None

    def feed(self, data: bytes) -> None:
        """Parse the next bytes."""
        self._held += data
        if len(self._first) < _HEAD:
            self._first += data[: _HEAD - len(self._first)]
            if len(self._first) == _HEAD:
                self._steps = _steps_of(self._first)
                self._go(None)
        while self._steps is not None and sum(self._wanted) <= self._start + len(self._held):
            at = self._wanted[0] - self._start
            self._go(bytes(self._held[at : at + self._wanted[1]]))
        keep = self._wanted[0] if self._steps is not None else self._start + len(self._held) - 12
        dropped = min(max(0, keep - self._start), len(self._held))
        del self._held[:dropped]
        self._start += dropped

    @functools.cached_property
    def is_cut(self) -> bool:
        """After the last byte: whether the stream was truncated or damaged."""
        total = self._start + len(self._held)
        try:
            while self._steps is not None:
                at = max(0, self._wanted[0] - self._start)
                self._wanted = self._steps.send(bytes(self._held[at : at + self._wanted[1]]))
        except StopIteration as end:
            return end.value not in (total, _UNKNOWN)
        except _DamagedError:
            return True
        if self._first.startswith(_NUT):
            return _without_index(bytes(self._held[-12:]), total) is not None
        size = _packet_size(self._first)
        return self._damaged is not None or (size > 0 and total % size > 0)

    def _go(self, data: bytes | None) -> None:
        if self._steps is None:
            return
        try:
            self._wanted = next(self._steps) if data is None else self._steps.send(data)
        except StopIteration:  # the length is unknown
            self._steps = None
        except _DamagedError as error:
            self._steps, self._damaged = None, int(error.args[0])


def _steps_of(start: bytes) -> Steps | None:
    """The parser for a container with these first bytes."""
    if start[4:8] == b"ftyp":
        return _in_boxes()
    return next((steps() for mark, steps in _MARKS.items() if start.startswith(mark)), None)


def _packet_size(start: bytes) -> int:
    """The packet size of a transport stream with these first bytes; 0 for other formats."""
    found = (s for s, at in _PACKETS.items() if start[at : at + 1] == start[s + at :][:1] == b"G")
    return next(found, 0)


def _walk(steps: Steps, data: mmap.mmap | bytes) -> int | None:
    try:
        at, count = next(steps)
        while True:
            at, count = steps.send(data[at : at + count])
    except _DamagedError as error:
        return int(error.args[0])
    except StopIteration as end:
        return None if end.value in (len(data), _UNKNOWN) else len(data)


_UNKNOWN = -1  # returned if the expected length is unknown


def _in_matroska() -> Steps:
    at, end = 0, 0
    while head := (yield at, 12):
        try:
            kind, start = _number(head, 0, marked=True)
            size, start = _number(head, start, marked=False)
        except IndexError:
            if len(head) == 12:
                raise _DamagedError(at) from None
            return at + 12  # within an element's header
        except ValueError:
            raise _DamagedError(at) from None
        start += at
        if kind in _OPENED:
            at = start
            if kind == 0x18538067 and size is not None:
                end = start + size
        elif kind in _KNOWN and size is not None:
            at = start + size
        else:
            raise _DamagedError(at)
        if end and at >= end:  # data after a segment is ignored
            return _UNKNOWN if (yield end - 1, 1) else end
    return max(at, end)


def _number(data: bytes, at: int, *, marked: bool) -> tuple[int | None, int]:
    """Decode EBML's variable-length integer; return it and the offset after it. None: unknown size.

    marked: keep the length marker, as in identifiers.
    """
    length = 9 - data[at].bit_length()
    if length > 8:
        raise ValueError("no length")
    data[at + length - 1]  # IndexError if incomplete
    value = int.from_bytes(data[at : at + length], "big")
    if marked:
        return value, at + length
    value &= (1 << 7 * length) - 1
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _in_boxes() -> Steps:
    """MP4 and MOV: the top-level boxes must fill the file."""
    at = 0
    while len(head := (yield at, 16)) >= 8:
        (size,) = struct.unpack_from(">I", head)
        if size == 1 and len(head) == 16:
            (size,) = struct.unpack_from(">Q", head, 8)
        if size < 8:  # 0: up to the end
            return _UNKNOWN
        at += size
    return at + (8 if head else 0)


def _in_riff() -> Steps:
    """AVI: the top-level chunks must fill the file; the content of a chunk of unknown size (0 or
    the maximum) is parsed."""
    at = 0
    while len(head := (yield at, 8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if size in (0, 0xFFFFFFFF) and head[:4] in (b"RIFF", b"LIST"):
            at += 12
            continue
        at += 8 + size + size % 2
        if size % 2 and (yield at - 2, 1) and not (yield at - 1, 1):
            return at - 1  # the last chunk may lack its padding
    return at + (8 if head else 0)


def _in_ivf() -> Steps:
    """IVF: a header with its length, then frames, each after 12 bytes with its length."""
    head = yield 0, 32
    at: int = struct.unpack_from("<H", head, 6)[0] if len(head) == 32 else 32
    while len(head := (yield at, 12)) == 12:
        at += 12 + struct.unpack_from("<I", head)[0]
    return at + (12 if head else 0)


def _in_flv() -> Steps:
    """FLV: a header with its length, then tags of 11 bytes and their data, each after the length of
    the previous one; the last such length may be missing."""
    head = yield 0, 9
    at: int = struct.unpack_from(">I", head, 5)[0] if len(head) == 9 else 9
    while len(head := (yield at, 15)) == 15:
        at += 15 + int.from_bytes(head[5:8], "big")
    return at + (len(head) if len(head) in (0, 4) else 15)


def _in_asf() -> Steps:
    """WMV and ASF: the top-level objects; if written to a pipe, the stated size of the data object
    is that of its header, and the length is unknown."""
    at = 0
    while len(head := (yield at, 24)) == 24:
        (size,) = struct.unpack_from("<Q", head, 16)
        if size < 24 or (head.startswith(_ASF_DATA) and size <= _ASF_DATA_HEAD):
            return _UNKNOWN
        at += size
    return at + (24 if head else 0)


def _in_ogg() -> Steps:
    """Ogg: pages with segment tables; every stream ends with a page flagged as its last."""
    at, unended = 0, set()
    while len(head := (yield at, 27)) == 27:
        if head[:4] != b"OggS":
            raise _DamagedError(at)
        unended.add(head[14:18])
        if head[5] & 4:
            unended.discard(head[14:18])
        at += 27 + head[26] + sum((yield at + 27, head[26]))
    return at + (27 if head or unended else 0)


def _in_program_stream() -> Steps:
    """MPEG program stream: pack headers, and packets with their lengths."""
    at = 0
    while len(head := (yield at, 14)) >= 6:
        if head[:3] != b"\0\0\1" or head[3] < _PROGRAM_END:
            return _UNKNOWN  # padding
        if head[3] == _PROGRAM_END:
            at += 4
        elif head[3] != _PACK:
            at += 6 + int.from_bytes(head[4:6], "big")
        else:
            at += 14 + (head[-1] & 7) if head[4] >> 6 == 1 else 12
    return at + (14 if head and head != b"\0\0\1\xb9" else len(head))


def _in_packets(data: mmap.mmap | bytes, size: int, sync: int) -> int | None:
    """Transport stream: every packet has its sync byte, and the last one is complete."""
    count = len(data) // size
    marks = np.frombuffer(data, np.uint8, count * size).reshape(count, size)[:, sync]
    lost = np.flatnonzero(marks != 0x47)
    first = int(lost[0]) * size if lost.size else None
    del marks
    if first is not None:
        return first
    return len(data) if len(data) % size else None


def _in_obus() -> Steps:
    """AV1 without a container: units (OBUs) with their lengths."""
    at = 0
    while (head := (yield at, 10)) and head[0] & 2:
        first = at + (2 if head[0] & 4 else 1)
        sizes = [*itertools.takewhile(lambda byte: byte & 0x80, head[first - at :])]
        sizes += head[first - at + len(sizes) :][:1] or b"\1"
        at = first + len(sizes) + sum((size & 127) << 7 * n for n, size in enumerate(sizes))
    return _UNKNOWN if head else at


def _in_dv() -> Steps:
    """Raw DV: frames of constant size, which follows from the fourth byte."""
    at, size = 0, 144_000 if (yield 3, 1) >= b"\x80" else 120_000
    while (yield at, 1):
        at += size
    return at


def _in_mxf() -> Steps:
    """MXF: keys of 16 bytes, each followed by the length of its value."""
    at = 0
    while len(head := (yield at, 25)) > 16:
        end = 17 + (head[16] & 0x7F if head[16] & 0x80 else 0)
        at += end + int.from_bytes(head[17:end] or head[16:17], "big")
    return at + (17 if head else 0)


def _in_y4m(data: mmap.mmap | bytes) -> int | None:
    """Y4M: a header line, then for each frame a line and a constant number of bytes."""
    at = data.find(b"\n") + 1
    line = data.find(b"\n", at) + 1
    second = data.find(b"FRAME", line) if line else -1
    if not at or second < 0:
        return None  # a single frame of unknown length
    size = second - line
    while line and line + size <= len(data):
        at = line + size
        line = data.find(b"\n", at) + 1
        if not b"FRAME".startswith(data[at : at + 5]):
            return None  # the supposed marker of the second frame was pixel data
    return None if at == len(data) else len(data)


def _without_index(tail: bytes, length: int) -> int | None:
    """The length of a NUT file without its index, which FFmpeg writes last; None if it is there."""
    return None if 12 <= int.from_bytes(tail[:8], "big") <= length else length


_MARKS: dict[bytes, Callable[[], Steps]] = {
    _EBML: _in_matroska, b"RIFF": _in_riff, b"DKIF": _in_ivf, b"FLV\x01": _in_flv,
    b"OggS": _in_ogg, b"\0\0\1\xba": _in_program_stream, _ASF: _in_asf,
    b"\x12\0\x0a": _in_obus, b"\x1f\x07\0": _in_dv, b"\x06\x0e\x2b\x34": _in_mxf,
}  # fmt: skip
"""First bytes of a file -> parser."""
