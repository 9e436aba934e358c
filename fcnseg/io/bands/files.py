"""Decode image files of any format to their stored values."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import InputError, MediaError, OptionError
from fcnseg.io.bands import COLORS, DTYPES, Bands, Pixels, Stored
from fcnseg.io.content import (
    as_bgr,
    is_heif,
    is_npy,
    is_tiff,
    open_with_pillow,
    tiff_page,
    upright,
)
from fcnseg.io.content.integrity import check_claim, is_cut, opened_image, with_end
from fcnseg.io.content.pixels import decode_npy
from fcnseg.io.content.tiff import (
    ASSOCIATED,
    UNASSOCIATED,
    UNSPECIFIED,
    checked_tags,
    is_known_to_opencv,
    no_data,
    number_in,
    numbers_of,
    read_by_tifffile,
    tiff_tags,
)
from fcnseg.io.images import (
    decode_array,
    decode_deep,
    decode_image,
    read_bytes,
    read_orientation,
)

_MOSTLY = 0.5
"""If more than this proportion of an opacity band is neither 0 nor full, it is a normal band."""


def decode_bands(data: bytes, name: str) -> Stored:
    """Decode an image file's bytes to stored values; `name` is for the MediaError."""
    names: tuple[str, ...]
    data = tiff_page(data)
    check_claim(data, name)
    if is_npy(data):
        pixels, alpha, names = decode_npy(data, name), False, ()
    elif is_tiff(data):
        pixels, alpha, names = decode_tiff_bands(data, name)
    else:
        pixels, alpha, names = _decode_photo(data, name)
    if pixels.dtype.name not in DTYPES:
        pixels = pixels.astype(np.float32)
    if not pixels.size:
        raise MediaError(f"{name} is an image without pixels.")
    names = (*names, *[""] * (pixels.shape[2] - len(names)))[: pixels.shape[2]]
    return Stored(pixels, alpha, names)


def read_bands(path: str | Path) -> Stored:
    """Read an image file's stored values; MediaError when it can't be read."""
    return decode_bands(read_bytes(path), str(path))


def layout_of(data: bytes, name: str) -> str | None:
    """Number of bands and type stored in a .npy file or TIFF: "3 uint8", "5 uint16".

    A band that a tag calls opacity is counted: "4 uint8 opacity"; or "4 uint8 values" if most of it
    is neither 0 nor full. None for a TIFF that is read as a normal image.
    """
    if is_tiff(data) and _is_plain(tiff_tags(data)):
        return None
    found = decode_bands(data, name)
    layout = f"{found.pixels.shape[2]} {found.pixels.dtype}"
    if not found.alpha:
        return layout
    opacity = found.pixels[:, :, -1]
    between = np.mean((opacity != 0) & (opacity != opacity.max()))
    return f"{layout} {'values' if between > _MOSTLY else 'opacity'}"


def _is_plain(tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF is read as a normal image: 8-bit gray, RGB, palette or CMYK, or values packed
    in other bit depths."""
    packed = max(numbers_of(tags.get(258, 8)), default=8) not in (8, 16, 32, 64)
    plain = _stored_type(tags) == np.uint8 and number_in(tags, 277, 1) in (1, 3)
    inks = number_in(tags, 262, 1) == 5 and number_in(tags, 277, 1) == 4 and not packed
    plain = plain or number_in(tags, 262, 1) == 3
    return packed or plain or (inks and _stored_type(tags) == np.uint8)


def bands_of(path: str | Path, bands: Bands) -> Pixels:
    """Read an image file for a model of these bands: stored values (H, W, carried)."""
    return bands.carry(bands.take(read_bands(path), str(path)))


def _decode_photo(data: bytes, name: str) -> tuple[Pixels, bool, tuple[str, ...]]:
    """A PNG, JPEG ...: gray or RGB; a fourth channel is opacity."""
    data = with_end(data)
    deep = None if is_cut(data) or is_heif(data) else decode_deep(data, name)[0]
    if deep is None:
        return decode_image(data, name=name), False, COLORS
    stored: Pixels = deep if deep.ndim == 3 else deep[:, :, None]
    stored = upright(stored, read_orientation(data))
    return _swapped(stored), stored.shape[2] == 4, COLORS if stored.shape[2] > 2 else ()


def decode_tiff_bands(data: bytes, name: str) -> tuple[NDArray[np.generic], bool, tuple[str, ...]]:
    """All bands of a TIFF's first page as stored: (H, W, C), not changed by tags.

    Also returns whether the last band is tagged as opacity, and the bands' names from tags. A
    single band of 16 bits with white at 0 is inverted. The no-data value becomes NaN in types other
    than uint8 and uint16. MissingExtra if tifffile is needed.
    """
    tags = checked_tags(data, name)
    bands, photometric = number_in(tags, 277, 1), number_in(tags, 262, 1)
    extra = numbers_of(tags.get(338, ()))
    planar = number_in(tags, 284, 1) == 2 and bands > 1
    stored = _stored_type(tags)
    pixels = None
    unchanged = stored != np.uint8 or not extra or extra[0] == UNSPECIFIED
    if (
        is_known_to_opencv(tags)
        and not planar
        and (bands in (1, 3) or (bands == 4 and photometric == 2 and unchanged))
    ):
        pixels = _by_opencv(data, (bands, stored))
    if pixels is None:
        pixels = read_by_tifffile(data, name)
    if bands == 1 and photometric == 0 and pixels.dtype == np.uint16:
        pixels = 65535 - pixels
    if pixels.dtype not in (np.uint8, np.uint16) and (nothing := no_data(tags)) is not None:
        pixels = np.where(pixels == nothing, np.float32(np.nan), pixels.astype(np.float32))
    alpha = bands > 1 and bool(extra) and extra[-1] in (ASSOCIATED, UNASSOCIATED)
    return pixels, alpha, _band_names(tags, bands)


def _by_opencv(data: bytes, wanted: tuple[int, np.dtype[Any] | None]) -> NDArray[np.generic] | None:
    """(H, W, C) in the file's order; None if it does not have the wanted bands and type."""
    pixels = decode_array(data)
    if pixels is None:
        return None
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return _swapped(pixels) if (pixels.shape[2], pixels.dtype) == wanted else None


def _swapped(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Swap BGR and RGB in (H, W, C); fewer than three bands are unchanged."""
    return pixels if pixels.shape[2] < 3 else as_bgr(pixels)


def _stored_type(tags: Mapping[int, Any]) -> np.dtype[Any] | None:
    """The type of a TIFF's values; None if they are packed in another bit depth."""
    bits, kind = number_in(tags, 258, 8), number_in(tags, 339, 1)
    known = bits in (8, 16, 32, 64) and kind in (1, 2, 3) and (kind != 3 or bits > 8)
    return np.dtype(f"{' uif'[kind]}{bits // 8}") if known else None


def _band_names(tags: Mapping[int, Any], bands: int) -> tuple[str, ...]:
    """The bands' names from GDAL's metadata; else red, green and blue for an RGB TIFF."""
    names = [""] * bands
    if tags.get(262) in (2, 6):
        names[:3] = ["red", "green", "blue"][:bands]
    for role in ("COLORINTERP", "DESCRIPTION"):
        item = rf'<Item name="{role}" sample="(\d+)"[^>]*>([^<]*)<'
        for number, text in re.findall(item, str(tags.get(42112, ""))):
            word = text.strip().lower()
            if int(number) < bands and word not in ("", "undefined", "gray", "alpha"):
                names[int(number)] = word
    return tuple(names)


def given_bands(image: object, bands: Bands, *, bgr: bool = False) -> Pixels:
    """Convert one image for a model of bands: all its stored values.

    image: a path, the bytes of an image file, an array (H, W) or (H, W, C), a tensor (H, W) or
        (C, H, W), a Pillow image. InputError if it lacks the model's bands. bgr: OptionError.
    """
    if bgr:
        raise OptionError(f"bgr is for models of RGB; this one takes {bands}.")
    if isinstance(image, str | Path):
        return bands.take(read_bands(image), str(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return bands.take(decode_bands(bytes(image), "the image"), "the image")
    if hasattr(image, "detach") and hasattr(image, "permute"):
        tensor: Any = image.detach().cpu()
        array = (tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy()
    else:
        array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not array.size:
        raise InputError(
            f"An image of bands is (H, W, {bands.carried}); found the shape {array.shape}.",
            hint="arrays are channels last, tensors channels first; several images are a list",
        )
    if array.dtype == np.float64 and bands.dtype == "float32":
        array = array.astype(np.float32)
    bands.check(array, "The image")
    return bands.finite(array)


def page_of(data: bytes, page: int, name: str) -> bytes:
    """One page or frame of an image file, from 0 on, as the bytes of a separate file.

    MediaError when it can't be read. A page of a TIFF keeps its values and tags.
    """
    if is_tiff(data):
        return tiff_page(data, page)
    out = io.BytesIO()
    with opened_image(data, name) as image:
        image.seek(page)
        image.convert("RGBA").save(out, "PNG")
    return out.getvalue()


def page_times(data: bytes) -> list[float]:
    """Start times in seconds of an animated GIF, PNG or WebP's frames; empty for other files.

    A frame without a duration is shown for 0.1 seconds, as in browsers.
    """
    if is_tiff(data) or not data:
        return []
    shown = [0.0]
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            for page in range(getattr(image, "n_frames", 1)):
                image.seek(page)
                image.load()  # sets the duration of a WebP
                shortest = 20 if image.format == "GIF" else 1
                milliseconds = float(image.info.get("duration") or 0)
                shown.append(shown[-1] + (milliseconds if milliseconds >= shortest else 100) / 1000)
    except Exception:  # noqa: BLE001 - the decoder reports broken files
        return []
    return shown[:-1] if len(shown) > 2 else []


MEASURED_ON = 256
"""Maximum number of training images for the statistics."""


_SAMPLED = 4096
"""Number of pixels sampled per image."""


_BLACK, _WHITE = 2, 98
"""Percentiles of the values displayed as black and white."""


def measure_bands(
    bands: Bands, images: Sequence[Path]
) -> tuple[Bands, tuple[float, ...], tuple[float, ...]]:
    """Measure the bands' ranges and names on images; also mean and std of each chosen band.

    Images of a large set, and pixels of a large image, are subsampled evenly. Values that are not
    finite are ignored.
    """
    step = -(-len(images) // MEASURED_ON)
    parts, names = [], bands.names
    for path in images[::step]:
        found = read_bands(path)
        pixels = bands.select(found, str(path))[:, :, : bands.stored]
        names = names if any(names) else found.names[: bands.stored]
        every = max(1, int((pixels.shape[0] * pixels.shape[1] / _SAMPLED) ** 0.5))
        parts.append(pixels[::every, ::every].reshape(-1, bands.stored))
    values = np.concatenate(parts).astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    values[:, np.isnan(values).all(axis=0)] = 0.0
    low, high = np.nanpercentile(values, (_BLACK, _WHITE), axis=0)
    at = [number - 1 for number in bands.chosen]
    mean, std = np.nanmean(values, axis=0)[at], np.nanstd(values, axis=0)[at]
    std = np.where(std > 0, std, 1.0)  # a constant band
    measured = replace(bands, shown=(), low=_plain(low), high=_plain(high), names=tuple(names))
    return measured, _plain(mean), _plain(std)


def _plain(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.8g}") for value in values)
