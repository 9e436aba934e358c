"""TIFF: tags, and layouts that OpenCV decodes incorrectly."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from fcnseg.errors import MediaError, MissingExtra
from fcnseg.io.content import TiffForm, as_bgr, first_tags, open_with_pillow, upright

for _name in ("tifffile", "PIL.TiffImagePlugin"):  # they write to the terminal
    logging.getLogger(_name).addHandler(logging.NullHandler())

UNSPECIFIED, ASSOCIATED, UNASSOCIATED = 0, 1, 2  # ExtraSamples

_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8

_STRICT = frozenset({5, 8, 32946})
"""Compressions for which Pillow detects damage: LZW, Deflate."""

_LABS = (_LAB, 9, 10)  # of CIE, ICC and ITU

_OLD_JPEG = 6
"""A compression that only libtiff (in Pillow, not in OpenCV's wheels) knows."""

_SENSOR = (32803, 34892)  # photometric interpretations of DNG: CFA, LinearRaw

_KNOWN_TO_OPENCV = frozenset({1, 2, 3, 4, 5, 7, 8, 32771, 32773, 32946, 34887, 34925, 50000})
"""Compressions; others are silently decoded to black pixels."""


# Tags


_LAYOUT_TAGS = {258, 273, 279, 284, 317, 320, 324, 325, 338, 339, 347}
"""Array tags that are required to decode: bits, offsets, a palette ..."""


def checked_tags(data: bytes, name: str) -> dict[int, Any]:
    """A TIFF's tags; MediaError for a truncated one, and for a camera's raw file."""
    _refuse_cut(data, name)
    tags = tiff_tags(data)
    _refuse_raw(data, tags, name)
    return tags


def _refuse_cut(data: bytes, name: str) -> None:
    """MediaError for a TIFF that ends within the tags of its first page.

    Decoders ignore such a tag, and so read 8 bits as one. Programs write tags last.
    """
    form = TiffForm(data)
    try:
        tags, end = first_tags(data)
    except struct.error:  # the decoder reports it
        return
    ends = [(form.place_of(tag) or 0) + tag.size for tag in tags if tag.code in _LAYOUT_TAGS]
    if max([end, *ends]) > len(data):
        raise MediaError(f"{name} is truncated: it ends within the tags that describe it.")


def tiff_tags(data: bytes | Path) -> dict[int, Any]:
    """The tags of a TIFF's first page, by number; reads only the necessary part of a file."""
    try:
        with open_with_pillow(data if isinstance(data, Path) else io.BytesIO(data)) as image:
            return dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
    except Exception:  # noqa: BLE001 - Pillow knows fewer layouts; tifffile may know it
        return _tags_by_tifffile(data)


def numbers_of(value: Any) -> tuple[int, ...]:
    """A tag's value as a tuple; single values come as scalars. () if not numeric."""
    try:
        return tuple(int(number) for number in np.ravel(value))
    except (TypeError, ValueError, OverflowError):
        return ()


def number_in(tags: Mapping[int, Any], code: int, usual: int) -> int:
    """The first number of a tag; `usual` if it is missing or not numeric."""
    return (numbers_of(tags.get(code, usual)) or (usual,))[0]


def no_data(tags: Mapping[int, Any]) -> float | None:
    """GDAL's no-data value; None if not stated."""
    try:
        return float(str(tags.get(42113, "")).strip("\0 "))
    except ValueError:
        return None


def _tags_by_tifffile(data: bytes | Path) -> dict[int, Any]:
    try:
        import tifffile

        with tifffile.TiffFile(data if isinstance(data, Path) else io.BytesIO(data)) as file:
            return {tag.code: tag.value for tag in file.pages.first.tags}
    except Exception:  # noqa: BLE001 - absent, or no TIFF either
        return {}


# Values


def decode_tiff(
    data: bytes, pixels: NDArray[np.generic] | None, name: str
) -> tuple[NDArray[np.generic] | None, int | None]:
    """A TIFF's first page as correct pixels (gray, BGR, BGRA), and the value of white if stated.

    pixels: as decoded by OpenCV. Returns None for those to be decoded by Pillow. Bands beyond red,
    green and blue are opacity only if a tag says so. GDAL's no-data value becomes black.
    MissingExtra if tifffile is needed.
    """
    tags = checked_tags(data, name)
    bands, photometric = number_in(tags, 277, 1), number_in(tags, 262, 1)
    bits = max(numbers_of(tags.get(258, 8)), default=8)
    deep = bits > 8
    extra = numbers_of(tags.get(338, ()))
    planar = number_in(tags, 284, 1) == 2 and bands > 1
    grey_and_more = photometric in (_MINISWHITE, _MINISBLACK) and bands > 1
    opaque = not extra or extra[-1] not in (ASSOCIATED, UNASSOCIATED)
    if grey_and_more and bands == 2 and not deep and not opaque and not planar:
        return None, None  # Pillow decodes it
    if photometric == _LAB or (photometric == _CMYK and (deep or bands > 4)):
        return None, None
    if (photometric == _PALETTE and bits == 1) or number_in(tags, 259, 1) == _OLD_JPEG:
        return None, None
    if photometric == _PALETTE and deep:
        return _colored(read_by_tifffile(data, name)[:, :, 0], tags, name), None
    misread = (grey_and_more and (bands > 2 or not opaque)) or not is_known_to_opencv(tags)
    misread = misread or (planar and (deep or not opaque))
    by_tifffile = misread or bands > 4 or (pixels is None and deep)
    if by_tifffile:
        values = read_by_tifffile(data, name)
        pixels = _first_bands(values, photometric, is_opaque=opaque)
    if pixels is None or (not by_tifffile and _may_lack_pieces(pixels, tags)):
        return None, None
    if photometric == _RGB and pixels.ndim == 3 and pixels.shape[2] > 3:
        if not extra or extra[0] == UNSPECIFIED:
            pixels = np.ascontiguousarray(pixels[:, :, :3])
        elif not deep and not by_tifffile:  # OpenCV premultiplies the colors by the opacity
            return None, None
        elif extra[0] == ASSOCIATED:
            pixels = _unmultiplied(pixels)
    pixels = _without_no_data(pixels, tags)
    stated = number_in(tags, 281, 0)
    maximum = stated if 255 < stated <= 65535 and deep else None
    if 8 < bits < 16:  # OpenCV shifts them left to fill 16
        maximum = ((1 << bits) - 1) << (0 if by_tifffile else 16 - bits)
    if photometric == _MINISWHITE and pixels.dtype == np.uint16:
        pixels = (maximum or 65535) - pixels
    elif photometric == _MINISWHITE and pixels.dtype != np.uint8:  # OpenCV inverts uint8
        pixels = _inverted(pixels)
    return pixels, maximum


def is_known_to_opencv(tags: Mapping[int, Any]) -> bool:
    """Whether OpenCV supports a TIFF's compression, and no strip or tile is missing: it would leave
    their memory uninitialized."""
    places = numbers_of(tags.get(324, tags.get(273, ())))
    counts = numbers_of(tags.get(325, tags.get(279, ())))
    is_sparse = 0 in places or (0 in counts and len(counts) > 1)  # libtiff estimates a single one
    return number_in(tags, 259, 1) in _KNOWN_TO_OPENCV and not is_sparse


def _may_lack_pieces(pixels: NDArray[np.generic], tags: Mapping[int, Any]) -> bool:
    """Whether OpenCV may have ignored a damaged strip or tile of 8 bits: one that is all black or
    all white. Pillow raises an error for a damaged one."""
    plain = pixels.dtype == np.uint8 and number_in(tags, 262, 1) in (_MINISWHITE, _MINISBLACK, _RGB)
    if not plain or number_in(tags, 277, 1) not in (1, 3) or number_in(tags, 259, 1) not in _STRICT:
        return False
    height, width = pixels.shape[:2]
    high, wide = number_in(tags, 323, number_in(tags, 278, height)), number_in(tags, 322, width)
    return any(
        not piece.any() or piece.min() == 255
        for top in range(0, height, max(high, 1))
        for left in range(0, width, max(wide, 1))
        if (piece := pixels[top : top + high, left : left + wide]).size
    )


def _refuse_raw(data: bytes, tags: Mapping[int, Any], name: str) -> None:
    """MediaError for a camera's raw file (DNG, NEF, CR2, ARW): sensor values and a preview."""
    preview = number_in(tags, 254, 0) & 1 and 330 in tags
    if number_in(tags, 262, 1) in _SENSOR or 50706 in tags or preview or data[8:10] == b"CR":
        raise MediaError(
            f"{name} is a camera's raw file: values of a sensor, not colors.",
            hint="develop it to a TIFF or JPEG first",
        )


def decode_packed(data: bytes, name: str) -> tuple[NDArray[np.generic], int | None]:
    """(H, W, C) of a TIFF whose values may have fewer than 8 bits, and then the value of white."""
    tags = tiff_tags(data)
    bits = min(numbers_of(tags.get(258, 8)), default=8)
    if number_in(tags, 262, 1) in _LABS:
        raise MediaError(f"{name} has colors in L*a*b* of a rare layout.", hint="save it as RGB")
    values = read_by_tifffile(data, name)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    maximum = (1 << bits) - 1 if 0 < bits < 8 else None
    if maximum and number_in(tags, 262, 1) == _MINISWHITE:
        values = maximum - values
    return values, maximum


def _inverted(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Invert floats and wide integers whose smallest value is white.

    Values in 0..1 or 0..255 are inverted in that range, others between minimum and maximum.
    """
    kind = np.float32 if values.dtype.kind == "f" else np.int64
    numbers = values.astype(kind)
    finite = numbers[np.isfinite(numbers)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    top = low + high
    if low >= 0 and high <= 255:
        top = 1 if high <= 1 and kind == np.float32 else 255
    return np.asarray(top - numbers)


def _colored(
    indices: NDArray[np.generic], tags: Mapping[int, Any], name: str
) -> NDArray[np.generic]:
    """The colors of palette indices, BGR uint8 (H, W, 3); MediaError if there are too few."""
    colors = np.array(numbers_of(tags.get(320, ())), np.uint16)  # all red, all green, all blue
    colors = colors.reshape(3, -1)[::-1].T
    if colors.shape[0] <= indices.max():
        raise MediaError(f"{name} is damaged: its palette has {len(colors)} colors, too few.")
    return np.asarray(colors[indices] >> 8, np.uint8)


def _first_bands(
    values: NDArray[np.generic], photometric: int, *, is_opaque: bool
) -> NDArray[np.generic]:
    """The displayed bands of (H, W, C), in OpenCV's order.

    Gray with opacity, RGB with or without opacity, else the first three bands (the first of two).
    """
    count = values.shape[2]
    if photometric in (_MINISWHITE, _MINISBLACK):
        if count == 2 and not is_opaque:
            return as_bgr(values)
        return as_bgr(values[:, :, : 3 if count > 2 else 1])
    return as_bgr(values[:, :, : 4 if count == 4 else 3])


def _without_no_data(pixels: NDArray[np.generic], tags: Mapping[int, Any]) -> NDArray[np.generic]:
    """Replace the no-data value with NaN, or with 0 in uint16; uint8 is unchanged."""
    nothing = no_data(tags)
    if nothing is None or pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return np.where(pixels == nothing, np.uint16(0), pixels)
    return np.where(pixels == nothing, np.float32(np.nan), pixels.astype(np.float32))


def read_by_tifffile(data: bytes, name: str) -> NDArray[np.generic]:
    """(H, W, C) in the file's order, upright."""
    try:
        import tifffile
    except ImportError:
        raise MissingExtra(f"Reading {name}, a TIFF of an unusual layout,", "images") from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            first: Any = file.pages.first
            _refuse_short(first, len(data), name)
            array = np.asarray(first.asarray())
            turned = int(first.tags.valueof(274, 1))
            planar = int(first.planarconfig or 1) == 2
    except MediaError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        if "imagecodecs" in str(error):
            raise MissingExtra(f"Reading {name}, a compressed TIFF,", "images") from None
        raise MediaError(f"{name} is truncated or damaged: {error}.") from None
    if array.ndim not in (2, 3):
        raise MediaError(f"{name} is a TIFF of {array.ndim} axes; an image has two, and bands.")
    if array.ndim == 2:
        array = array[:, :, None]
    elif planar:
        array = np.moveaxis(array, 0, -1)
    return upright(array, turned)


def _refuse_short(page: Any, length: int, name: str) -> None:
    """MediaError for an uncompressed page larger than its file, which tifffile pads with zeros."""
    bits = page.bitspersample * page.samplesperpixel * page.imagewidth * page.imagelength
    is_plain = page.compression == 1 and page.photometric != _YCBCR
    if is_plain and 0 not in page.databytecounts and bits // 8 > length:  # 0: a missing strip
        raise MediaError(f"{name} is truncated: its last rows are missing.")


def _unmultiplied(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Unpremultiply BGRA uint8 or uint16."""
    if pixels.dtype not in (np.uint8, np.uint16):
        return pixels
    white = 255 if pixels.dtype == np.uint8 else 65535
    colors, alpha = pixels[:, :, :3].astype(np.float32), pixels[:, :, 3:]
    colors = np.clip(colors * (white / np.maximum(alpha, 1).astype(np.float32)), 0, white)
    return np.dstack([np.round(colors).astype(pixels.dtype), alpha])
