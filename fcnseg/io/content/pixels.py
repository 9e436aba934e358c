"""Conversion of any depth to 8 bits, and decoders for what OpenCV and Pillow do not read correctly.

PGM, PPM and PAM with their stated maximum, .npy files; HEIC, JPEG XL, EXR, DPX and 12-bit JPEG by
other packages, if installed.
"""

from __future__ import annotations

import io
import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, MissingExtra
from fcnseg.io.content import SEARCHED, as_bgr, coded_colors, stated_gamma
from fcnseg.io.content.profiles import of_gamma, of_light, shown_colors, to_srgb

_MOST_BANDS = 16

_RUN_LENGTHS = (b"\1\0\0\0", b"\2\0\0\0")
"""Run-length compressions of BMP: 8 and 4 bits."""

_RADIANCE = b"#?"
"""How files begin whose values are light, not levels of a screen."""

_OVERSHOOT = 2.0
"""Floats up to here are 0..1 where processing (sharpening, resampling) or a cloud exceeds it."""

_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")

_JPEG_FRAME = re.compile(
    rb"\xff(?P<kind>[\xc0-\xc2\xf7])..(?P<bits>[\2-\x10]).{4}(?P<components>[\1-\4])", re.DOTALL
)
"""A JPEG's frame header; 0xf7 is JPEG-LS."""

_DEPTHS = (8, 10, 12, 14)
"""Bit depths of sensors whose values are stored unscaled in 16 bits."""


def shown_levels(
    pixels: NDArray[np.generic], data: bytes, name: str, *, maximum: int | None = None
) -> NDArray[np.uint8]:
    """Convert gray, BGR or BGRA of an image file to uint8, by its stated gamma.

    Radiance's light is tone-mapped. data: the file. name, maximum: see `eight_bits`.
    """
    if data.startswith(_RADIANCE) and pixels.dtype == np.float32:
        return of_light(pixels)
    if (gamma := stated_gamma(data)) is not None:
        pixels = of_gamma(gamma, pixels)
        maximum = 255 if pixels.dtype == np.uint8 else 65535
    return eight_bits(pixels, name, maximum=maximum)


def eight_bits(
    pixels: NDArray[np.generic], name: str, *, maximum: int | None = None
) -> NDArray[np.uint8]:
    """Convert values of any type to uint8; name: for the MediaError.

    maximum: the value of white, if the file states it. Otherwise uint16 and other integers that fit
    are scaled by the smallest of 8, 10, 12, 14 and 16 bits that holds the maximum. Floats are in
    0..1 (up to 2 is white), or in 0..255 if they exceed 2, and stretched from minimum to maximum if
    they exceed that, as are other integers.
    """
    if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8:
        least, most = int(pixels.min(initial=0)), int(pixels.max(initial=0))
        pixels = pixels.astype(np.uint16) if 0 <= least <= most <= 65535 else pixels
    if pixels.dtype == np.uint8:
        if maximum in (None, 255):
            return pixels.astype(np.uint8, copy=False)
        return _scaled(pixels, 0, float(maximum or 255))
    if pixels.dtype == np.uint16:
        if maximum is None:
            maximum = next(((1 << d) - 1 for d in _DEPTHS if most < 1 << d), 65535)
        if maximum == 65535:
            return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return _scaled(pixels, 0, float(maximum))
    if pixels.dtype.kind in "fiu":
        return _stretched(pixels)
    raise MediaError(
        f"{name} has pixels of type {pixels.dtype}; integers or floats can be used.",
        hint="save it as an 8-bit PNG or JPEG",
    )


def _stretched(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Convert floats and wide integers; values that are not finite become the minimum."""
    values = pixels.astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    values = np.where(np.isfinite(values), values, low)
    if low >= 0 and high <= 255:
        is_one = high <= _OVERSHOOT and pixels.dtype.kind == "f"
        return _scaled(values, 0, 1.0 if is_one else 255.0)
    return _scaled(values, low, high)


def _scaled(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Map low..high to 0..255, rounded."""
    wide = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-30))
    return np.clip(np.floor(wide + 0.5), 0, 255).astype(np.uint8)


def over_white(rgb: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB (H, W, 3) composited over white; opacity is (H, W), 255 is opaque."""
    if opacity.min() == 255:
        return np.ascontiguousarray(rgb)
    alpha = opacity[:, :, None].astype(np.uint16)
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def decode_netpbm(data: bytes) -> tuple[NDArray[np.generic], int] | None:
    """Decode PGM, PPM and PAM: BGR or gray values, and the stated value of white.

    None for other files and incomplete ones.
    """
    is_text, raster = data[:2] in (b"P2", b"P3"), b""
    gap = rb"(?:\s|#[^\n]*\n)+"
    if data[:2] == b"P7":
        head, _, raster = data.partition(b"ENDHDR\n")
        stated = dict(re.findall(rb"(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d+)", head))
        if len(stated) < 4:
            return None
        names = (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL")
        height, width, channels, maximum = (int(stated[name]) for name in names)
    elif found := re.match(rb"P[2356]" + (gap + rb"(\d+)") * 3, data):
        width, height, maximum = map(int, found.groups())
        channels = 3 if data[:2] in (b"P3", b"P6") else 1
        raster = data[found.end() + (not is_text) :]
    else:
        return None
    count = height * width * channels
    if not 0 < maximum < 65536 or not count:
        return None
    try:
        if is_text:
            words = re.sub(rb"#[^\n]*", b"", raster).split()
            values = np.array(words[:count], np.uint16)
        else:
            values = np.frombuffer(raster, np.uint8 if maximum < 256 else ">u2", count)
        values = values.reshape(height, width, channels)
    except (ValueError, OverflowError):  # too few values, or not numbers
        return None
    return as_bgr(values.astype(values.dtype.newbyteorder("="))), maximum


def jpeg_2000_maximum(data: bytes) -> int | None:
    """The value of white of a JPEG 2000 image (from its SIZ marker); None for other files."""
    if not data.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return None
    at = data.find(b"\xff\x4f\xff\x51") + 42  # ITU-T T.800, A.5.1
    return (1 << (data[at] & 0x7F) + 1) - 1 if 42 <= at < len(data) else None


def decode_npy(data: bytes, name: str) -> NDArray[np.generic]:
    """Decode a .npy file as (H, W, C), without pickle.

    (H, W) is one band. In three dimensions, bands are last if there are at most 16, else first if
    there are at most 16. MediaError for other content.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise MediaError(f"{name} is truncated or damaged: {error}.") from None
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.dtype.kind not in "buif" or min(array.shape) < 1:
        raise MediaError(
            f"{name} holds {array.dtype} {array.shape}; an image is numbers (H, W), (H, W, bands) "
            "or (bands, H, W)."
        )
    if array.shape[2] > _MOST_BANDS:
        if array.shape[0] > _MOST_BANDS:
            raise MediaError(
                f"{name} is {array.shape}: no axis is one of bands, which are at most "
                f"{_MOST_BANDS}, first or last."
            )
        array = np.moveaxis(array, 0, -1)
    array = array.astype(np.uint8) if array.dtype.kind == "b" else array
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def decode_heif(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode HEIC to uint8 (H, W, 3 or 4) RGB(A), upright; MissingExtra without pillow-heif."""
    try:
        import pillow_heif
    except ImportError:
        raise MissingExtra(f"Reading {name}, a HEIC photo,", "images") from None
    try:
        photo = pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
        if photo.mode.startswith("I;16"):  # grey of 10 or 12 bits, scaled to 16
            return np.repeat(_scaled(np.asarray(photo), 0, 65535)[:, :, None], 3, axis=2)
        pixels = np.asarray(photo.convert("RGBA" if photo.has_transparency_data else "RGB"))
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise MediaError(f"{name} is truncated or damaged: {error}.") from None
    colors = pixels[:, :, :3]
    converted = as_srgb(colors, photo.info.get("icc_profile"), data)
    return pixels if converted is colors else np.dstack([converted, pixels[:, :, 3:]])


def as_srgb(rgb: NDArray[np.uint8], profile: bytes | None, data: bytes) -> NDArray[np.uint8]:
    """Convert RGB to sRGB from a file's ICC profile, or else from its code points."""
    if profile:
        return to_srgb(rgb, profile)
    coded = coded_colors(data)
    return rgb if coded is None else shown_colors(rgb, coded)


def decode_rare(data: bytes, name: str) -> NDArray[np.generic] | None:
    """Decode a format that Pillow does not know: (H, W, C) gray or RGB(A); None for other files.

    uint8, uint16 or float32. MissingExtra if a decoder for JPEG XL, JPEG-LS or 12-bit JPEG is
    needed.
    """
    if how := _by_imagecodecs(data):
        return _decode_other(data, name, how)
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as file:
            form = file.format.name
            is_still = form.endswith("_pipe") or form.startswith("image2")
            return _values(next(file.decode(video=0))) if is_still else None
    except Exception:  # noqa: BLE001 - decoders raise anything on invalid data
        return None


def _values(frame: Any) -> NDArray[np.generic]:
    """A frame's values in the smallest sufficient type."""
    shape = frame.format
    parts = shape.components
    alpha, grey = any(part.is_alpha for part in parts), len(parts) == 1
    deep = max(part.bits for part in parts)
    if "f32" in shape.name or "f16" in shape.name:
        layout = "grayf32le" if grey else "gbrapf32le" if alpha else "gbrpf32le"
    elif deep > 8:
        layout = "gray16le" if grey else "rgba64le" if alpha else "rgb48le"
    else:
        layout = "gray" if grey else "rgba" if alpha else "rgb24"
    values = np.asarray(frame.reformat(format=layout).to_ndarray())
    return values.reshape(*values.shape[:2], -1)


def _by_imagecodecs(data: bytes) -> tuple[str, str, int] | None:
    """imagecodecs' function for a format that FFmpeg misreads, its name, and its bit depth."""
    if data.startswith(_JPEG_XL):
        return "jpegxl_decode", "a JPEG XL image", 16
    frame = _JPEG_FRAME.search(data, 0, SEARCHED) if data[:2] == b"\xff\xd8" else None
    if frame is None:
        return None
    if frame["kind"] == b"\xf7":
        return "jpegls_decode", "a JPEG-LS image", frame["bits"][0]
    if frame["bits"] == b"\x0c" and frame["components"] != b"\1":
        return "jpeg_decode", "a JPEG of 12 bits", 12
    return None


def _decode_other(data: bytes, name: str, how: tuple[str, str, int]) -> NDArray[np.generic]:
    decoder, kind, bits = how
    try:
        import imagecodecs
    except ImportError:
        raise MissingExtra(f"Reading {name}, {kind},", "images") from None
    try:
        values = np.asarray(getattr(imagecodecs, decoder)(data))
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        raise MediaError(f"{name} is truncated or damaged: {error}.") from None
    if values.ndim == 4:  # an animation: its first frame
        values = values[0]
    if values.dtype == np.uint16 and bits < 16:
        most = (1 << bits) - 1
        values = ((values.astype(np.uint32) * 65535 + most // 2) // most).astype(np.uint16)
    return values[:, :, None] if values.ndim == 2 else values


def is_rare_bmp(data: bytes) -> bool:
    """Whether a BMP has OS/2's short header or run lengths, both of which OpenCV misreads."""
    return data[:2] == b"BM" and (data[14:18] == b"\x0c\0\0\0" or data[30:34] in _RUN_LENGTHS)


def decode_bit_fields(data: bytes) -> NDArray[np.generic] | None:
    """Decode a BMP of 16 or 32 bits with bit masks to BGR or BGRA.

    None for other and incomplete files. Opacity that is 0 everywhere is ignored.
    """
    if data[:2] != b"BM" or len(data) < 70:
        return None
    start, size, width, height, _, bits, method = struct.unpack_from("<10xIIiiHHI", data)
    rows, step = abs(height), (width * bits // 8 + 3) // 4 * 4
    complete = width > 0 and rows > 0 and start + rows * step <= len(data)
    if size < 40 or method not in (3, 6) or bits not in (16, 32) or not complete:
        return None
    masks = list(struct.unpack_from("<4I", data, 54))
    if size < 56 and method == 3:
        masks[3] = 0
    if not all(masks[:3]):
        return None
    lines = np.frombuffer(data, np.uint8, rows * step, start).reshape(rows, step)
    stored = np.ascontiguousarray(lines[:: 1 if height < 0 else -1]).view(f"<u{bits // 8}")
    channels = []
    for mask in (masks[2], masks[1], masks[0], masks[3]):
        low = (mask & -mask).bit_length() - 1 if mask else 0
        values = (stored[:, :width].astype(np.uint64) & np.uint64(mask)) >> np.uint64(low)
        most = max(mask >> low, 1)
        channels.append(((values * 255 + most // 2) // most).astype(np.uint8))
    return np.dstack(channels if channels[3].any() else channels[:3])
