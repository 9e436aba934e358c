"""Properties of an image file, computed in one pass, for checks of datasets."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.io import cv2
from fcnseg.io.bands.files import layout_of
from fcnseg.io.content import is_heif, is_npy, is_tiff, tiff_page, upright
from fcnseg.io.content.integrity import check_claim, ends_in_grey, is_cut, jpeg_size, with_end
from fcnseg.io.content.pixels import eight_bits
from fcnseg.io.images import (
    decode_deep,
    decode_image,
    read_bytes,
    read_orientation,
)

THUMBNAIL = 8
"""Height and width of a thumbnail, in pixels."""

_HASHED = 32  # side of the image for the perceptual hash

_SAMPLED = 200_000  # pixels used for mean and standard deviation

_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_IGNORE_ORIENTATION,
}


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """Properties of an image file.

    size: (height, width), upright. orientation: EXIF's, 1..8 (5 and more: rotated by 90 degrees).
    bits: 8, or 16 (reduced to 8 when read). alpha: whether any pixel is transparent.
    digest: 64 bits from the file's length and checksum, equal for copies.
    fingerprint: 64-bit perceptual hash; few bits differ for similar images.
    thumbnail: THUMBNAIL x THUMBNAIL gray bytes, as hexadecimal text.
    mean, spread: mean and standard deviation of red, green and blue in 0..1; () when not
        requested.
    layout: number of bands and type as stored ("5 uint16"), see fcnseg.io.bands.files.layout_of.
    """

    size: tuple[int, int]
    orientation: int
    bits: int
    alpha: bool
    digest: int
    fingerprint: int
    thumbnail: str
    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    layout: str = "3 uint8"


def summarize_image(
    path: str | Path, *, data: bytes | None = None, colors: bool = True
) -> ImageSummary:
    """Compute the properties of an image file; MediaError when it can't be read completely.

    data: its bytes, if known (a page of the file). colors: also compute mean and spread. Without
    them a JPEG is decoded at down to an eighth of its size, which is faster and does not affect
    the rest.
    """
    data = tiff_page(with_end(read_bytes(path) if data is None else data))
    check_claim(data, path)
    orientation = read_orientation(data)
    stored = jpeg_size(data)
    size = None if stored is None else stored[::-1]
    small = None if size is None or is_cut(data) else _reduced(data, size)
    pixels = None
    if small is None or size is None or colors:
        pixels, orientation = _decoded(data, path, orientation)
        size = pixels.shape[0], pixels.shape[1]
    shown = None if pixels is None else eight_bits(pixels, str(path))
    basis = shown if small is None else small
    assert basis is not None, "either was decoded"
    grey = upright(_small_grey(basis), orientation)
    mean, spread = _statistics(shown) if colors and shown is not None else ((), ())
    return ImageSummary(
        size=(size[1], size[0]) if orientation >= 5 else size,
        orientation=orientation,
        bits=8 if pixels is None or pixels.dtype == np.uint8 else 16,
        alpha=shown is not None and shown.shape[2:] == (4,) and int(shown[:, :, 3].min()) < 255,
        digest=zlib.crc32(data) | (len(data) & 0xFFFFFFFF) << 32,
        fingerprint=_fingerprint(grey),
        thumbnail=_thumbnail(grey).tobytes().hex(),
        mean=mean,
        spread=spread,
        layout=_layout(data, path, pixels),
    )


def _layout(data: bytes, path: str | Path, pixels: NDArray[np.generic] | None) -> str:
    """Stored number of bands and type; pixels: as decoded by OpenCV, 1 or 3 bands."""
    if (is_npy(data) or is_tiff(data)) and (stored := layout_of(data, str(path))) is not None:
        return stored
    if pixels is None:
        return "3 uint8"
    return f"{3 if pixels.ndim == 3 and pixels.shape[2] > 1 else 1} {pixels.dtype}"


def _reduced(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """A JPEG decoded at the smallest size that suffices for the fingerprint; None if it must be
    decoded at full size, because its end may be missing or it is small."""
    for factor, flags in _REDUCED.items():
        if min(size) >= factor * _HASHED * 3 // 4:
            try:
                pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            except cv2.error:
                return None
            if pixels is None or ends_in_grey(np.asarray(pixels), 1):
                return None
            return np.asarray(pixels, np.uint8)
    return None


def _decoded(data: bytes, path: str | Path, orientation: int) -> tuple[NDArray[np.generic], int]:
    """The pixels as decoded by OpenCV, and the orientation that remains to be applied."""
    pixels, maximum = (
        (None, None) if is_cut(data) or is_heif(data) else decode_deep(data, str(path))
    )
    if pixels is not None:
        stated = maximum is not None and maximum != 255
        return (eight_bits(pixels, str(path), maximum=maximum) if stated else pixels), orientation
    # Decodes what OpenCV can't, or raises the reason. The result is upright.
    return np.ascontiguousarray(decode_image(data, name=str(path))[:, :, ::-1]), 1


def _statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of red, green and blue; of every n-th pixel in large images."""
    step = max(1, int((pixels.shape[0] * pixels.shape[1] / _SAMPLED) ** 0.5))
    means, spreads = cv2.meanStdDev(np.ascontiguousarray(pixels[::step, ::step]))
    channels = [0, 0, 0] if len(means) < 3 else [2, 1, 0]
    mean, spread = means[channels, 0] / 255, spreads[channels, 0] / 255
    return tuple(round(float(v), 6) for v in mean), tuple(round(float(v), 6) for v in spread)


def _small_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image as _HASHED x _HASHED gray, averaged over all pixels."""
    height, width = pixels.shape[:2]
    factor = min(height, width) // (2 * _HASHED)
    if factor > 1:  # an integer factor first is ten times as fast
        cut = pixels[: height // factor * factor, : width // factor * factor]
        size = (width // factor, height // factor)
        pixels = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        kind = cv2.COLOR_BGR2GRAY if pixels.shape[2] == 3 else cv2.COLOR_BGRA2GRAY
        pixels = np.asarray(cv2.cvtColor(pixels, kind), np.uint8)
    small = cv2.resize(pixels, (_HASHED, _HASHED), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8).reshape(_HASHED, _HASHED)


def _fingerprint(small: NDArray[np.uint8]) -> int:
    """pHash: the 64 lowest DCT coefficients compared with their median."""
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    middle = np.partition(low[1:], 31)[31]  # the median of 63
    return int.from_bytes(np.packbits(low > middle).tobytes(), "big")


def _thumbnail(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = _HASHED // THUMBNAIL
    sums = small.reshape(THUMBNAIL, side, THUMBNAIL, side).sum((1, 3), dtype=np.uint16)
    return np.asarray((sums + side * side // 2) // (side * side), np.uint8)
