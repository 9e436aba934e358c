"""The size that an image file claims, looked at before anything decodes it."""

from __future__ import annotations

import io
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from fcnseg.errors import MediaError

_MAX_PIXELS = 2**30  # OpenCV's limit

_PLAIN = 2**26
"""Pixels that any file may claim: 67 megapixels of one colour are 38 bytes of lossless WebP."""

_PER_BYTE = 2**14
"""Pixels that one byte may stand for in a larger image. Deflate (PNG, TIFF) at one bit a pixel
reaches 8256, LZW 10,700, JPEG 512."""

_lock = threading.Lock()
_readers: list[int | None] = []  # Pillow's own limit, once for each reader at work


@contextmanager
def open_with_pillow(file: str | Path | io.BytesIO) -> Iterator[Image.Image]:
    """Pillow's image, however large: to Pillow that is a possible attack, here the user's file.

    Its limit is one of the process and is restored when the last reader has finished.
    """
    with _lock:
        _readers.append(_readers[0] if _readers else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
    try:
        with Image.open(file) as image:
            yield image
    finally:
        with _lock:
            before = _readers.pop()
            if not _readers:
                Image.MAX_IMAGE_PIXELS = before


def check_claim(data: bytes, name: str | Path) -> None:
    """MediaError for an image file that claims more pixels than its bytes can stand for.

    A damaged or hostile file of a kilobyte may claim what takes gigabytes and minutes to decode.
    """
    if len(data) * _PER_BYTE >= _MAX_PIXELS:  # whatever it claims
        return
    refuse_claim(claimed_size(data), len(data), name)


def refuse_claim(size: tuple[int, int] | None, length: int, name: str | Path) -> None:
    """MediaError where (width, height) are too much for a file of so many bytes; None passes."""
    if size is None or size[0] * size[1] <= max(_PLAIN, length * _PER_BYTE):
        return
    raise MediaError(
        f"{name} claims {size[0]}x{size[1]} pixels, and its {length:,} bytes can't hold them.",
        hint="it is damaged or cut short; if it is meant to be that large, save it as PNG",
    )


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that the header of an image file states; None where it is not found."""
    if data[:4] == b"\x89PNG" and len(data) >= 24:
        return struct.unpack_from(">II", data, 16)
    if data[:2] == b"\xff\xd8":
        return jpeg_size(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        return _size_in_lines(data[:4096])


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) as stored, from the frame header of a JPEG; None for other files."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            width = int.from_bytes(data[at + 7 : at + 9], "big")
            return (width, height) if height and width else None
        if marker == 0xFF:  # padding
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """By hand: Pillow takes memory for two images when it opens one."""
    kind, head = data[12:16], data[20:30]
    if len(head) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:], "little")
    if kind == b"VP8L":
        sides = int.from_bytes(head[1:5], "little")
        return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 6)
    return width & 0x3FFF, height & 0x3FFF


def _size_in_lines(head: bytes) -> tuple[int, int] | None:
    """Of Radiance and OpenEXR, which Pillow does not know."""
    if found := re.search(rb"\n-Y (\d{1,9}) \+X (\d{1,9})\n", head):
        return int(found[2]), int(found[1])
    if found := re.search(rb"dataWindow\0box2i\0\x10\0\0\0(.{16})", head, re.DOTALL):
        left, top, right, bottom = struct.unpack("<4i", found[1])
        return right - left + 1, bottom - top + 1
    return None
