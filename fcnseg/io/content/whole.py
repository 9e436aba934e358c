"""Whether the data of an image file are all there: decoders fill in what is missing.

And what is said of a file that can't be read.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fcnseg.errors import MediaError
from fcnseg.io.content import name_other

_PNG = b"\x89PNG"
_EXR = b"v/1\1"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel, by a PNG's type of colour."""

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
"""The passes of an interlaced PNG: first column and row, and the steps to the next ones."""

_GREY = 128  # of what libjpeg has no data for


_PNM = re.compile(rb"P([4-6])\s+(\d{1,6})\s+(\d{1,6})(?:\s+(\d{1,5}))?\s")


def stated_length(start: bytes) -> int | None:
    """The bytes of an image whose first ones say so: BMP, WebP, PBM, PGM, PPM; None for others.

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
    """Whether a JPEG or PNG has no end.

    OpenCV fills what is missing of a JPEG with grey and says nothing; for a PNG its library
    writes to the terminal, and takes as much memory as a chunk claims to need. Inside a JPEG's
    scan 0xff is always followed by 0x00 or a restart marker, so the last end-of-image stands
    after the last start-of-scan in every whole file.
    """
    if data[:2] == b"\xff\xd8":
        if data.endswith(b"\xff\xd9"):  # as nearly all do: no need to look through them
            return False
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data[:4] == _PNG and not _has_whole_chunks(data)


def _has_whole_chunks(data: bytes) -> bool:
    """Whether a PNG's chunks follow one another up to IEND."""
    at = 8
    while (kind := data[at + 4 : at + 8]) and kind != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return bool(kind)


def check_rows(data: bytes, pixels: NDArray[Any] | None, name: str) -> None:
    """MediaError for a JPEG, PNG or OpenEXR file with an end whose last rows are not in it.

    pixels: what was decoded, of a JPEG; None for a PNG that OpenCV refused and for OpenEXR.
    """
    if data[:2] == b"\xff\xd8":
        short = pixels is not None and ends_in_grey(pixels) and not _is_sound_jpeg(data)
    else:
        short = (data[:4] == _PNG and _lacks_rows(data)) or (data[:4] == _EXR and _is_cut_exr(data))
    if short:
        raise MediaError(
            f"{name} is not a whole image: its last rows are missing.",
            hint="the file may be cut short",
        )


def ends_in_grey(pixels: NDArray[Any], block: int = 8) -> bool:
    """Whether the last block of pixels is what libjpeg fills in where a JPEG's data end."""
    return pixels.dtype == np.uint8 and bool((pixels[-block:, -block:] == _GREY).all())


def _is_sound_jpeg(data: bytes) -> bool:
    """Whether FFmpeg, which does not fill in, decodes a JPEG; True where it is not there."""
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
    except Exception:  # noqa: BLE001 - of a kind that FFmpeg does not know
        return True
    return False


def _lacks_rows(data: bytes) -> bool:
    """Whether a PNG's compressed data are of fewer bytes than its rows take."""
    width, height, bits, color, *_, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + -(-columns * bits * _CHANNELS.get(color, 1) // 8))
    inflate, at = zlib.decompressobj(), 8
    try:
        while at + 8 <= len(data) and missing > 0:
            size, kind = struct.unpack_from(">I4s", data, at)
            if kind == b"IDAT":
                missing -= len(inflate.decompress(data[at + 8 : at + 8 + size], missing))
            at += 12 + size
    except zlib.error:
        return True
    return missing > 0


def _is_cut_exr(data: bytes) -> bool:
    """Whether a piece that the offsets after an OpenEXR file's header name is not all there."""
    (flags,) = struct.unpack_from("<I", data, 4)
    if flags & 0x1800:  # several parts, or deep data: laid out in another way
        return False
    at, sizes = 8, 16 if flags & 0x200 else 4  # a piece begins with its tile's place, or its row
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
    """The MediaError for a file that can't be read, saying what was found; data: its bytes."""
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
    return MediaError(f"{path} is not a whole image: {error}.", hint="the file may be cut short")
