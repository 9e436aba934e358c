"""Check that image files are complete, as decoders silently fill in missing data.

Also the error for a file that can't be read.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fcnseg.errors import MediaError
from fcnseg.io.content import (
    MAX_PIXELS,
    is_tiff,
    name_other,
    open_with_pillow,
    page_size,
    png_chunks,
    tiff_page,
)

_PLAIN = 2**26
"""Pixels that any file may state: 67 megapixels of one color are 38 bytes of lossless WebP."""

_PER_BYTE = 2**14
"""Maximum pixels per byte of larger images. Deflate (PNG, TIFF) with one bit per pixel reaches
8256, LZW 10,700, JPEG 512."""

_NO_IMAGES = {"MPEG", "BUFR", "GRIB", "HDF5"}  # identified by Pillow, but not readable

_PNG = b"\x89PNG"
_EXR = b"v/1\1"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Number of channels by a PNG's color type."""

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
"""The passes of an interlaced PNG: first column and row, column and row increments."""

_GREY = 128  # libjpeg's value for missing data


_PNM = re.compile(rb"P([4-6])\s+(\d{1,6})\s+(\d{1,6})(?:\s+(\d{1,5}))?\s")


@contextmanager
def opened_image(data: bytes, name: str | Path) -> Iterator[Image.Image]:
    """Open a file's bytes with Pillow; the first page of a TIFF.

    MediaError if its stated size is implausible, or if opening or decoding in the block fails.
    """
    check_claim(data, name)
    try:
        with open_with_pillow(io.BytesIO(tiff_page(with_end(data)))) as image:
            yield image
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise unreadable_image(name, error, data) from None


def is_known_to_pillow(path: Path) -> bool:
    """Whether Pillow identifies a file without a known signature as an image (PCX, TGA ...)."""
    try:
        with open_with_pillow(path) as image:
            return image.format not in _NO_IMAGES
    except Exception:  # noqa: BLE001 - Pillow may raise anything
        return False


def check_claim(data: bytes, name: str | Path) -> None:
    """MediaError for an image file that states more pixels than its bytes can hold.

    A damaged or malicious file of a kilobyte may state a size that takes gigabytes and minutes to
    decode. A PNG's header is verified by its checksum, which FFmpeg does not do.
    """
    if data[:4] == _PNG and zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        raise MediaError(
            f"{name} is damaged: its size does not match its checksum.",
            hint="the file is damaged: copy or download it again",
        )
    if len(data) * _PER_BYTE >= MAX_PIXELS:  # large enough for any size
        return
    refuse_claim(claimed_size(data), len(data), name)


def refuse_claim(size: tuple[int, int] | None, length: int, name: str | Path) -> None:
    """MediaError if (width, height) is too large for a file of `length` bytes; accepts None."""
    if size is None or size[0] * size[1] <= max(_PLAIN, length * _PER_BYTE):
        return
    raise MediaError(
        f"{name} claims {size[0]}x{size[1]} pixels, and its {length:,} bytes can't hold them.",
        hint="it is damaged or truncated; if it is meant to be that large, save it as PNG",
    )


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in the header of an image file; None if not found."""
    if data[:4] == _PNG and len(data) >= 24:
        return struct.unpack_from(">II", data, 16)
    if data[:2] == b"\xff\xd8":
        return jpeg_size(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if is_tiff(data):
        return page_size(data)
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # noqa: BLE001 - decoders raise anything on invalid data
        return _size_in_lines(data[:4096])


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) as stored, from the frame header of a JPEG; None for other files."""
    if data[:2] != b"\xff\xd8":
        return None
    for marker, at in _segments(data):
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height = int.from_bytes(data[at + 5 : at + 7], "big")
            width = int.from_bytes(data[at + 7 : at + 9], "big")
            return (width, height) if height and width else None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG before its pixels, with their offsets."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        yield marker, at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The size of a WebP file; Pillow would allocate two images to open it."""
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
    """The size of Radiance and OpenEXR files, which Pillow does not know."""
    if found := re.search(rb"\n-Y (\d{1,9}) \+X (\d{1,9})\n", head):
        return int(found[2]), int(found[1])
    if found := re.search(rb"dataWindow\0box2i\0\x10\0\0\0(.{16})", head, re.DOTALL):
        left, top, right, bottom = struct.unpack("<4i", found[1])
        return right - left + 1, bottom - top + 1
    return None


def stated_length(start: bytes) -> int | None:
    """The file length stated by the header of BMP, WebP, PBM, PGM or PPM; None for other formats.

    start: its first 64 bytes.
    """
    if start[:2] == b"BM":
        return int.from_bytes(start[2:6], "little") or None
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return 8 + int.from_bytes(start[4:8], "little")
    found = _PNM.match(start)
    if found is None or (found[1] == b"4") != (found[4] is None):
        return None
    width, height, most = int(found[2]), int(found[3]), int(found[4] or 1)
    row = {b"4": (width + 7) // 8, b"5": width, b"6": 3 * width}[found[1]]
    return found.end() + row * height * (1 + (most > 255))


def is_cut(data: bytes) -> bool:
    """Whether the end marker of a JPEG or PNG is missing.

    OpenCV silently fills missing parts of a JPEG with gray; for a PNG its library prints to the
    terminal and allocates the stated size of a chunk. Inside a JPEG's scan 0xff is always followed
    by 0x00 or a restart marker, so in a complete file the last end-of-image is after the last
    start-of-scan.
    """
    if data[:2] == b"\xff\xd8":
        if data.endswith(_END):  # the common case, without a search
            return False
        return data.rfind(_END) < data.rfind(b"\xff\xda")
    return data[:4] == _PNG and all(kind != b"IEND" for kind, _ in png_chunks(data))


_END = b"\xff\xd9"

_OTHER_BITS = tuple(
    b"".join(bits * 32 + bytes((0xFF, 0xD0 + number)) for number in range(8))
    for bits in (b"\x55\x13", b"\xaa\x77", b"\xf0\x31", b"\xc9\xe2")
)
"""Bits that might continue a JPEG's scan, including restart markers."""


def with_end(data: bytes) -> bytes:
    """An image file's bytes; adds the end-of-image marker to a JPEG that lacks nothing else.

    Such a JPEG decodes to the same pixels whatever bits follow. Files with several scans
    (progressive, or one per component) are unchanged, as another scan might be missing.
    """
    if data[:2] != b"\xff\xd8" or not is_cut(data) or not _is_one_scan(data):
        return data
    data, seen = data.rstrip(b"\xff"), set()  # it may end with half a marker
    for bits in (b"", *_OTHER_BITS):
        try:
            with open_with_pillow(io.BytesIO(data + bits + _END)) as image:
                seen.add(zlib.crc32(image.tobytes()))
        except Exception:  # noqa: BLE001 - decoders raise anything on invalid data
            return data
    return data + _END if len(seen) == 1 else data


def _is_one_scan(data: bytes) -> bool:
    """Whether a JPEG is not progressive and its first scan contains all components."""
    colors = 0
    for marker, at in _segments(data):
        if marker in (0xC0, 0xC1):
            colors = data[at + 9]
        elif marker == 0xDA:
            return data[at + 4] == colors
    return False


def check_rows(data: bytes, pixels: NDArray[Any] | None, name: str) -> None:
    """MediaError for a JPEG, PNG or OpenEXR file with an end marker but without its last rows.

    pixels: the decoded JPEG; None for a PNG that OpenCV refused and for OpenEXR.
    """
    if data[:2] == b"\xff\xd8":
        short = pixels is not None and ends_in_grey(pixels) and not _is_intact_jpeg(data)
    else:
        short = (data[:4] == _PNG and _lacks_rows(data)) or (data[:4] == _EXR and _is_cut_exr(data))
    if short:
        raise MediaError(f"{name} is truncated: its last rows are missing.")


def ends_in_grey(pixels: NDArray[Any], block: int = 8) -> bool:
    """Whether the last block of pixels has the gray that libjpeg uses for missing data."""
    return pixels.dtype == np.uint8 and bool((pixels[-block:, -block:] == _GREY).all())


def _is_intact_jpeg(data: bytes) -> bool:
    """Whether FFmpeg decodes a JPEG without errors; True without PyAV."""
    try:
        import av
    except ImportError:
        return True
    try:
        with av.open(io.BytesIO(data), "r") as file:
            decoder = file.streams.video[0].codec_context
            decoder.options = {"err_detect": "explode"}
            for _ in file.decode(video=0):
                return True
    except av.InvalidDataError:
        return False
    except Exception:  # noqa: BLE001 - a variant that FFmpeg does not support
        return True
    return False


def _lacks_rows(data: bytes) -> bool:
    """Whether a PNG's compressed data are too short for its rows, or do not end.

    The end is checked because zeros, left by a disk or a download, decompress to rows, too.
    """
    width, height, bits, color, *_, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + -(-columns * bits * _CHANNELS.get(color, 1) // 8))
    inflate = zlib.decompressobj()
    try:
        for kind, content in png_chunks(data):
            if kind == b"IDAT" and missing > 0:
                missing -= len(inflate.decompress(content, missing))
        inflate.decompress(inflate.unconsumed_tail, 1)  # the end, with its checksum
    except zlib.error:
        return True
    return missing > 0 or not inflate.eof


def _is_cut_exr(data: bytes) -> bool:
    """Whether an OpenEXR file ends before the last chunk of its offset table."""
    (flags,) = struct.unpack_from("<I", data, 4)
    if flags & 0x1800:  # several parts or deep data, which have another layout
        return False
    at, sizes = 8, 16 if flags & 0x200 else 4  # a chunk begins with its tile coordinates or row
    try:
        while data[at]:  # name, type, size, value
            at = data.index(b"\0", data.index(b"\0", at) + 1) + 1
            at += 4 + struct.unpack_from("<I", data, at)[0]
        at += 1
        first = struct.unpack_from("<Q", data, at)[0]
        offsets = np.frombuffer(data, "<u8", max(0, (int(first) - at) // 8), at)
        last = int(offsets.max())
        end = last + sizes + 4 + struct.unpack_from("<I", data, last + sizes)[0]
    except (IndexError, ValueError, struct.error):
        return True
    return end > len(data) or not offsets.all()


def unreadable_image(path: str | Path, error: BaseException, data: bytes = b"") -> MediaError:
    """The MediaError for a file that can't be read, with the reason; data: its bytes."""
    if isinstance(error, MediaError):
        return error
    if isinstance(error, FileNotFoundError):
        return MediaError(f"There is no file {path}.", hint="check the path")
    if isinstance(error, IsADirectoryError):
        return MediaError(f"{path} is a folder, not an image file.")
    if isinstance(error, OSError) and error.strerror:
        return MediaError(f"{path} can't be read: {error.strerror.lower()}.")
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return MediaError(f"{path} claims to be larger than can be read: {error}.")
    if other := name_other(data[:400]):
        return MediaError(f"{path} is {other[0]}, not an image.", hint=other[1])
    if isinstance(error, UnidentifiedImageError):
        return MediaError(f"{path} is not an image: its content is of no known format.")
    return MediaError(f"{path} is truncated or damaged: {error}.")
