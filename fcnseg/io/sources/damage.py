"""Where a video file is cut or damaged between its frames, which FFmpeg passes over in silence.

What a container says of its own length and structure is compared with the file. Damage within a
frame is the decoder's to find, and formats without such a structure say nothing.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

_EBML = b"\x1a\x45\xdf\xa3"

_OPENED = {0x18538067, 0x1F43B675, 0xA0}
"""Matroska's Segment, Cluster and BlockGroup: their content is looked through."""

_KNOWN = {
    0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367,
    0xEC, 0xBF, 0xE7, 0xAB, 0xA7, 0x5854, 0xA3, 0xA1, 0x9B, 0xFB, 0xFA, 0xA4, 0x75A1, 0x75A2, 0x8E,
    0xAF,
}  # fmt: skip
"""The others that stand in those, passed over."""

_PACKETS = {188: 0, 192: 4}
"""Sizes of a transport stream's packets, and where the byte 0x47 stands in each."""


def find_damage(path: Path) -> int | None:
    """The first byte of a file that is not as its container says; its length where the rest is
    missing; None for a whole file and for formats that can't tell."""
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] == _EBML:
            return _in_matroska(data)
        if data[:4] == b"RIFF":
            return _in_boxes(data, riff=True)
        if data[4:8] == b"ftyp":
            return _in_boxes(data, riff=False)
        if data[:4] in _WALKED:
            return _WALKED[data[:4]](data)
        for size, sync in _PACKETS.items():
            if len(data) > 2 * size and data[sync] == data[size + sync] == 0x47:
                return _in_packets(data, size, sync)
    return None


def _in_matroska(data: mmap.mmap) -> int | None:
    at, end = 0, len(data)
    while at < end:
        try:
            kind, start = _number(data, at, marked=True)
            size, start = _number(data, start, marked=False)
        except (IndexError, ValueError):
            return at
        if kind in _OPENED:
            at = start
            if kind == 0x18538067 and size is not None:
                end = start + size
        elif kind in _KNOWN and size is not None:
            at = start + size
        else:
            return at
    return len(data) if at > len(data) or end > len(data) else None


def _number(data: mmap.mmap, at: int, *, marked: bool) -> tuple[int | None, int]:
    """EBML's variable number and what follows it; None for an unknown size.

    marked: with the bit that says how long it is, as identifiers are written.
    """
    length = 9 - data[at].bit_length()
    if length > 8:
        raise ValueError("no length")
    value = int.from_bytes(data[at : at + length], "big")
    if marked:
        return value, at + length
    value &= (1 << 7 * length) - 1
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _in_boxes(data: mmap.mmap, *, riff: bool) -> int | None:
    """The outermost boxes of MP4 and MOV, or chunks of AVI, have to fill the file."""
    at = 0
    while at + 8 <= len(data):
        if riff:
            size = 8 + struct.unpack_from("<I", data, at + 4)[0]
            size = len(data) - at if size == 8 else size + size % 2  # 8: still being recorded
        else:
            size = struct.unpack_from(">I", data, at)[0]
            if size == 1 and at + 16 <= len(data):
                size = struct.unpack_from(">Q", data, at + 8)[0]
            size = size or len(data) - at  # 0: up to the end
        if size < 8:
            return None
        at += size
    at -= riff and at == len(data) + 1  # the last chunk of an odd size may go without its padding
    return None if at == len(data) else len(data)


def _in_packets(data: mmap.mmap, size: int, sync: int) -> int | None:
    """Every packet of a transport stream begins with its mark, and the last one is whole."""
    count = len(data) // size
    marks = np.frombuffer(data, np.uint8, count * size).reshape(count, size)[:, sync]
    lost = np.flatnonzero(marks != 0x47)
    first = int(lost[0]) * size if lost.size else None
    del marks
    if first is not None:
        return first
    return len(data) if len(data) % size else None


def _in_ivf(data: mmap.mmap) -> int | None:
    """A header that says its length, then frames behind 12 bytes with the length of each."""
    at = struct.unpack_from("<H", data, 6)[0] if len(data) >= 32 else len(data) + 1
    while at + 12 <= len(data):
        at += 12 + struct.unpack_from("<I", data, at)[0]
    return None if at == len(data) else len(data)


def _in_flv(data: mmap.mmap) -> int | None:
    """A header that says its length, then tags of 11 bytes and their data, each behind the length
    of the one before; the last such length may be missing."""
    at = struct.unpack_from(">I", data, 5)[0] if len(data) >= 9 else len(data) + 1
    while at + 15 <= len(data):
        at += 15 + int.from_bytes(data[at + 5 : at + 8], "big")
    return None if at in (len(data), len(data) - 4) else len(data)


def _in_y4m(data: mmap.mmap) -> int | None:
    """A line that says what the frames are, then a line and as many bytes for each of them."""
    at = data.find(b"\n") + 1
    line = data.find(b"\n", at) + 1
    second = data.find(b"FRAME", line) if line else -1
    if not at or second < 0:
        return None  # of one frame, whose length is not known
    size = second - line
    while line and line + size <= len(data):
        at = line + size
        line = data.find(b"\n", at) + 1
        if not b"FRAME".startswith(data[at : at + 5]):
            return None  # what was taken for the second frame's mark were pixels
    return None if at == len(data) else len(data)


_WALKED = {b"DKIF": _in_ivf, b"FLV\x01": _in_flv, b"YUV4": _in_y4m}
"""First bytes of a file -> what looks through it."""
