"""Identify image formats and read their headers; shared by the modules for single formats."""

from __future__ import annotations

import io
import itertools
import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MAGIC = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\0\x0cJXL ", b"\xff\x0a", b"v/1\1",
    b"SDPX", b"XPDS", b"\x93NUMPY", b"8BPS", b"DDS ", b"#?RADIANCE", b"PF\n", b"Pf\n", b"P7\n",
)  # fmt: skip

_STILL_BRANDS = (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1")

_HEIF_BRANDS = _STILL_BRANDS[1:]

_NETPBM_OR_ICON = re.compile(rb"P[1-6][\s#]|\0\0[\1\2]\0[^\0]\0", re.DOTALL)

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

SEARCHED = 1 << 18
"""Number of bytes at the beginning that are searched for headers."""

MAX_PIXELS = 2**30
"""Maximum pixels of an image, OpenCV's limit."""

_lock = threading.Lock()
_readers: list[int | None] = []  # Pillow's own limit, once for each active reader

_SRGB_GAMMA, _SAME_GAMMA = 1 / 2.2, 0.03


@contextmanager
def open_with_pillow(file: str | Path | io.BytesIO) -> Iterator[Image.Image]:
    """Open an image with Pillow, raising its limit on pixels to MAX_PIXELS.

    The limit is process-wide; it is restored when the last reader has finished.
    """
    with _lock:
        _readers.append(_readers[0] if _readers else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with Image.open(file) as image:
            yield image
    finally:
        with _lock:
            before = _readers.pop()
            if not _readers:
                Image.MAX_IMAGE_PIXELS = before


def is_image(start: bytes) -> bool:
    """Whether a file that begins with these bytes (at least 12) is an image."""
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    still = start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS
    return webp or still or start.startswith(_MAGIC) or _NETPBM_OR_ICON.match(start) is not None


def is_heif(data: bytes) -> bool:
    """Whether the bytes are a HEIC photo, which Pillow and OpenCV can't decode."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in data[8:64]


_OTHERS = (
    (128, b"DICM", "a DICOM file", "export it as PNG or TIFF, or save its array as .npy"),
    (344, b"n+1\0", "a NIfTI volume", "save its slices as PNG, TIFF or .npy"),
    (344, b"ni1\0", "a NIfTI volume", "save its slices as PNG, TIFF or .npy"),
    (0, b"%PDF", "a PDF document", "save its pages as PNG"),
    (0, b"%!PS", "a PostScript document", "save its pages as PNG"),
    (0, b"version https://git-lfs", "only a Git LFS pointer", "git lfs pull"),
    (0, b"PK\3\4", "a ZIP archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"\x89HDF\r\n", "an HDF5 file", "save its arrays as .npy, PNG or TIFF"),
    (0, b"CDF", "a NetCDF file", "save its arrays as .npy, PNG or TIFF"),
    (4, b"ftypcrx", "a camera's raw file", "develop it to a TIFF or JPEG first"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file", "develop it to a TIFF or JPEG first"),
    (0, b"IIU\0", "a camera's raw file", "develop it to a TIFF or JPEG first"),
    (12, b"CgBI", "a PNG of Apple's own kind (CgBI)", "save it as PNG on a Mac, with sips"),
    (0, b"IIRO", "a camera's raw file", "develop it to a TIFF or JPEG first"),
)
"""Offset of a signature, the signature, the kind of file, and a hint."""

_TEXTS = (("<svg", "an SVG drawing", "save it as PNG"),
          ("<html", "a web page", "the download may have failed: open it in a browser"),
          ("<!doctype html", "a web page", "the download may have failed: open it in a browser"),
)  # fmt: skip


def name_other(start: bytes) -> tuple[str, str] | None:
    """The kind of a file that is neither an image nor a video, and a hint; None if unknown.

    start: its first bytes, at least 400.
    """
    for at, mark, kind, hint in _OTHERS:
        if start[at : at + len(mark)] == mark:
            return kind, hint
    text = start[:400].decode("latin-1").lower()
    is_markup = text.lstrip("\xef\xbb\xbf \r\n\t").startswith("<")
    return next(((kind, hint) for mark, kind, hint in _TEXTS if is_markup and mark in text), None)


def is_tiff(data: bytes) -> bool:
    """Whether the bytes are a TIFF or BigTIFF."""
    return data[:4] in _TIFF


def is_npy(data: bytes) -> bool:
    """Whether the bytes are an array saved by NumPy (.npy)."""
    return data[:6] == b"\x93NUMPY"


def as_bgr(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """RGB(A) in OpenCV's order; gray as (H, W), gray with opacity as BGRA."""
    channels = values.shape[2]
    if channels == 2:
        values, channels = values[:, :, [0, 0, 0, 1]], 4
    if channels >= 3:
        return np.ascontiguousarray(values[:, :, [2, 1, 0, *range(3, min(channels, 4))]])
    return np.ascontiguousarray(values[:, :, 0])


def add_png_transparency(data: bytes, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Gray PNG pixels as BGRA if one value is transparent (tRNS), which OpenCV ignores."""
    if data[:4] != b"\x89PNG" or data[25:26] != b"\0" or pixels.ndim != 2:
        return pixels
    if len(stated := _before_pixels(data).get(b"tRNS", b"")) != 2:
        return pixels
    value = int.from_bytes(stated, "big")
    bits = data[24]
    if bits < 8:
        value = value * 255 // ((1 << bits) - 1)
    opaque = 255 if pixels.dtype == np.uint8 else 65535
    alpha = np.where(pixels == value, 0, opaque).astype(pixels.dtype)
    return np.dstack([pixels, pixels, pixels, alpha])


def upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image rotated and mirrored by EXIF's orientation (1..8)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def may_be_turned(data: bytes) -> bool:
    """Whether an image may have an EXIF orientation; Pillow would decode a whole PNG to find out.

    False for TIFF, which its decoders rotate.
    """
    if is_tiff(data):
        return False
    if data[:2] == b"\xff\xd8":
        return b"Exif" in data[: 1 << 17]
    if data[:4] == b"\x89PNG":
        return b"eXIf" in data or b"Raw profile" in data
    return True


def may_have_profile(data: bytes) -> bool:
    """Whether an image file may have an ICC profile, by a cheap search of its header."""
    if data[:2] == b"\xff\xd8":
        return data.find(b"ICC_PROFILE\0", 0, SEARCHED) >= 0
    if data[:4] == b"\x89PNG":
        return b"iCCP" in _before_pixels(data)
    if data[:4] == b"RIFF":
        return data[12:16] == b"VP8X" and bool(data[20:21] > b"" and data[20] & 0x20)
    if data[4:8] == b"ftyp":
        return any(data.find(b"colr" + kind, 0, SEARCHED) >= 0 for kind in (b"prof", b"rICC"))
    return is_tiff(data)


def coded_colors(data: bytes) -> tuple[int, int] | None:
    """The code points of primaries and transfer (ITU-T H.273) in an AVIF, HEIC or PNG."""
    if data[4:8] == b"ftyp":
        at = data.find(b"colrnclx", 0, SEARCHED)
        found = data[at + 8 : at + 12] if at >= 0 else b""
        return struct.unpack(">HH", found) if len(found) == 4 else None
    stated = _before_pixels(data).get(b"cICP", b"")
    return (stated[0], stated[1]) if len(stated) == 4 else None


def stated_gamma(data: bytes) -> float | None:
    """The gamma of a PNG (gAMA) if it differs from sRGB's; else None."""
    chunks = _before_pixels(data)
    if len(stated := chunks.get(b"gAMA", b"")) != 4 or chunks.keys() & {b"iCCP", b"sRGB", b"cICP"}:
        return None
    gamma = int.from_bytes(stated, "big") / 100_000
    return gamma if 0.1 <= gamma <= 10 and abs(gamma - _SRGB_GAMMA) >= _SAME_GAMMA else None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and content of a PNG's chunks; the last may be truncated. Nothing otherwise."""
    at, view = 8, memoryview(data)
    while data[:4] == b"\x89PNG" and at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, view[at + 8 : at + 8 + size]
        at += 12 + size


def _before_pixels(data: bytes) -> dict[bytes, memoryview]:
    """The chunks of a PNG before its pixels; {} for other files."""
    return dict(itertools.takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(data)))


# TIFF's pages


REDUCED = 5
"""Bits of NewSubfileType that mark a reduced version or a mask instead of a page."""

_SUBFILE_TYPE, _SIZE_TAGS = 254, (256, 257)
"""NewSubfileType; ImageWidth and ImageLength."""

_MOST_TAGS = 4096  # per page; libtiff's limit, too

_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes per value by a tag's type; 1 for others."""

_INTEGERS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}

Read = Callable[[int, int], bytes]
"""Reads bytes of a file: offset, count -> bytes; fewer at the end."""


class TiffTag(NamedTuple):
    """A tag: its number, the type and count of its values, and the values or their offset."""

    code: int
    kind: int
    length: int
    stored: bytes

    @property
    def size(self) -> int:
        """Size of its values in bytes."""
        return self.length * _SIZES.get(self.kind, 1)


class TiffForm:
    """Byte order and offset size of a TIFF or BigTIFF, from its first bytes.

    order: byte order, as in `struct`. inline: maximum bytes of values stored in the tag itself.
    place: format of an offset.
    """

    def __init__(self, start: bytes) -> None:
        self.order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
        self.inline, place = (8, "Q") if big else (4, "L")
        self.place = struct.Struct(self.order + place)
        self._count = struct.Struct(self.order + ("Q" if big else "H"))
        self._tag = struct.Struct(f"{self.order}HH{place}{self.inline}s")

    def read_place(self, read: Read, at: int) -> int:
        """Read an offset; struct.error at the end of the file."""
        return int(self.place.unpack(read(at, self.inline))[0])

    def read_tags(self, read: Read, at: int) -> tuple[list[TiffTag], int]:
        """Read the tags of a directory, as far as present, and the offset of its end.

        The offset of the next directory is stored there. struct.error if the number of tags is
        missing.
        """
        (count,) = self._count.unpack(read(at, self._count.size))
        at += self._count.size
        data = read(at, min(count, _MOST_TAGS) * self._tag.size)
        whole = data[: len(data) // self._tag.size * self._tag.size]
        return [*map(TiffTag._make, self._tag.iter_unpack(whole))], at + count * self._tag.size

    def place_of(self, tag: TiffTag) -> int | None:
        """The offset of a tag's values; None if they are in the tag itself."""
        return int(self.place.unpack(tag.stored)[0]) if tag.size > self.inline else None

    def numbers(self, tag: TiffTag, read: Read) -> tuple[int, ...]:
        """A tag's integers; () for other types. struct.error if the file ends before."""
        if tag.kind not in _INTEGERS:
            return ()
        place = self.place_of(tag)
        data = tag.stored if place is None else read(place, tag.size)
        return struct.unpack_from(f"{self.order}{tag.length}{_INTEGERS[tag.kind]}", data)


def page_offsets(data: bytes) -> Iterator[int]:
    """Yield the offsets of a TIFF's or BigTIFF's pages, without reduced versions and masks.

    Of a damaged file, those that can be found.
    """
    form, read, seen = TiffForm(data), reader_of(data), {0}
    with suppress(struct.error):
        at = form.read_place(read, form.inline)
        while at not in seen:
            seen.add(at)
            tags, end = form.read_tags(read, at)
            kinds = [form.numbers(tag, read) for tag in tags if tag.code == _SUBFILE_TYPE]
            if not any(kind[0] & REDUCED for kind in kinds[:1] if kind):
                yield at
            at = form.read_place(read, end)


def reader_of(data: bytes) -> Read:
    """A Read function for bytes in memory."""
    return lambda at, count: data[at : at + count]


def first_tags(data: bytes) -> tuple[list[TiffTag], int]:
    """The tags of a TIFF's first page, and the offset of their end; struct.error without a page."""
    for at in page_offsets(data):
        return TiffForm(data).read_tags(reader_of(data), at)
    raise struct.error("no page")


def page_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in the first page's tags; None if missing."""
    form, read = TiffForm(data), reader_of(data)
    try:
        tags = {tag.code: tag for tag in first_tags(data)[0]}
        width, height = (form.numbers(tags[code], read)[0] for code in _SIZE_TAGS)
    except (struct.error, LookupError):
        return None
    return (width, height) if width and height else None


def tiff_page(data: bytes, page: int = 0) -> bytes:
    """The same TIFF with another page as its first, from 0 on; values and tags are unchanged.

    Other files, and a TIFF without that page, are returned unchanged.
    """
    form = TiffForm(data)
    offset = next(itertools.islice(page_offsets(data), page, None), None) if is_tiff(data) else None
    if offset is None or offset == form.read_place(reader_of(data), form.inline):
        return data
    return data[: form.inline] + form.place.pack(offset) + data[2 * form.inline :]
