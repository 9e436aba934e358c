"""Image files <-> uint8 RGB arrays.

OpenCV decodes (keeping 16 bits and alpha); Pillow reads headers (size, orientation) and formats
that OpenCV was built without. Colors of other profiles are converted to sRGB.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from fcnseg.errors import MediaError, cannot_write
from fcnseg.files import atomic_write
from fcnseg.io import cv2
from fcnseg.io.content import (
    REDUCED,
    SEARCHED,
    add_png_transparency,
    as_bgr,
    is_heif,
    is_npy,
    is_tiff,
    may_be_turned,
    may_have_profile,
    open_with_pillow,
    tiff_page,
    upright,
)
from fcnseg.io.content.integrity import (
    check_claim,
    check_rows,
    is_cut,
    unreadable_image,
    with_end,
)
from fcnseg.io.content.pixels import (
    as_srgb,
    decode_bit_fields,
    decode_heif,
    decode_netpbm,
    decode_npy,
    decode_rare,
    eight_bits,
    is_rare_bmp,
    jpeg_2000_maximum,
    over_white,
    shown_levels,
)
from fcnseg.io.content.tiff import decode_packed, decode_tiff

IMAGE_SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif",
    ".jp2", ".j2k", ".pbm", ".pgm", ".ppm", ".pnm", ".pam", ".pfm", ".avif", ".heic", ".heif",
    ".ico", ".tga", ".pcx", ".mpo", ".apng", ".j2c", ".jpx", ".hif", ".jxl", ".exr", ".hdr", ".dds",
    ".sgi", ".qoi", ".dpx", ".btf",
})  # fmt: skip
"""Suffixes (lower case) that identify images when a folder is searched."""

VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts",
    ".wmv", ".flv", ".ogv", ".3gp", ".mjpeg", ".mjpg",
})  # fmt: skip
"""Suffixes (lower case) that identify videos."""

# Run-length strategy: for synthetic images as small as the default level 6, four times as fast.
_PNG_OPTIONS = [
    cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
]  # fmt: skip

_ROWS = 1024  # rows of a large image that are processed at a time

ORIENTATION = 0x0112  # the EXIF tag


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 (H, W, 3) RGB, upright.

    Gray is repeated to three channels, 16 bits are scaled to 8, transparency is composited over
    white. MediaError when the file is missing, truncated or damaged.
    """
    return decode_image(read_bytes(path), name=str(path))


def decode_image(data: bytes, *, name: str = "the data") -> NDArray[np.uint8]:
    """Decode an image file's bytes to uint8 (H, W, 3) RGB; `name` is for the MediaError."""
    data = tiff_page(with_end(data))  # a reduced version may precede a TIFF's first page
    check_claim(data, name)
    if is_heif(data):
        rgba = decode_heif(data, name)
        return over_white(rgba[:, :, :3], rgba[:, :, 3]) if rgba.shape[2] == 4 else rgba
    pixels, maximum = (None, None) if is_cut(data) else decode_deep(data, name)
    if pixels is None:
        return _decode_with_pillow(data, name)
    return _shown(shown_levels(pixels, data, name, maximum=maximum), data)


def decode_deep(data: bytes, name: str) -> tuple[NDArray[np.generic] | None, int | None]:
    """Pixels at full depth (gray, BGR or BGRA), not rotated, and the value of white if stated.

    None if OpenCV can't decode them correctly; Pillow may.
    """
    if data[:1] == b"P" and (netpbm := decode_netpbm(data)) is not None:
        return netpbm
    if is_npy(data):  # the first three of more bands
        is_bool = b"'|b1'" in data[:128]
        return as_bgr(decode_npy(data, name)[:, :, :3]), 1 if is_bool else None
    has_default = data[:4] == b"\x89PNG" and b"acTL" in data[:4096]
    if has_default or data[:4] == b"GIF8" or is_rare_bmp(data):
        return None, None  # OpenCV omits a default image before an animation, and transparency
    if data[:2] == b"BM" and (fields := decode_bit_fields(data)) is not None:
        return fields, None
    pixels = decode_array(data)
    if is_tiff(data):
        return decode_tiff(data, pixels, name)
    if data[:2] == b"\xff\xd8":
        check_rows(data, pixels, name)
    if pixels is None or (data[4:8] == b"ftyp" and pixels.dtype != np.uint8):
        return None, None  # 10 or 12 bits; OpenCV does not say which
    is_palette = data[4:8] == b"jP  " and b"pclr" in data[:SEARCHED]
    if pixels.ndim == 2 and (is_palette or data[4:8] == b"ftyp"):
        return None, None  # OpenCV grays palettes, and takes an AVIF's 16..235 for 0..255
    return add_png_transparency(data, pixels), jpeg_2000_maximum(data)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image file as returned by `read_image`.

    Reads only the header, except for formats that Pillow does not know.
    """
    try:
        with open_with_pillow(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):  # some versions of Pillow swap its size themselves
                while image.tag_v2.get(254, 0) & REDUCED:
                    image.seek(image.tell() + 1)
                width, height = image.tag_v2[256], image.tag_v2[257]
            if image.format == "PNG":  # Pillow decodes it completely to look for EXIF data
                turned = read_orientation(read_bytes(path)) >= 5
            else:
                turned = image.getexif().get(ORIENTATION, 1) >= 5
    except Exception:  # noqa: BLE001 - decoders raise anything on invalid data
        height, width = read_image(path).shape[:2]
        return height, width
    return (width, height) if turned else (height, width)


def write_image(path: str | Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3) RGB or (H, W) gray; the suffix selects the format.

    An existing file is replaced atomically. MediaError when it can't be written.
    """
    write_bytes(path, encode_image(image, Path(path).suffix or ".png"))


def encode_image(image: NDArray[np.uint8], suffix: str = ".png", *, scratch: bool = False) -> bytes:
    """Encode uint8 (H, W, 3) RGB or (H, W) gray as an image file's bytes.

    scratch: the array may be overwritten, which saves a copy of a large image.
    """
    if image.ndim == 2:
        pixels = image
    elif scratch:
        pixels = swap_in_place(image)
    else:
        pixels = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
    options = _PNG_OPTIONS if suffix.lower() == ".png" else []
    try:
        done, data = cv2.imencode(suffix, pixels, options)
    except cv2.error:
        done = False
    if not done:
        raise MediaError(
            f"Can't write an image of {pixels.shape[1]}x{pixels.shape[0]} as {suffix!r}.",
            hint="name it .png, .jpg, .bmp, .tif or .webp",
        )
    return data.tobytes()


def write_labels(
    path: str | Path, labels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None
) -> None:
    """Write uint8 (H, W) labels as an index PNG, atomically.

    palette: uint8 (N, 3) RGB; the file is then in mode P and shows these colors, with the same
    indices.
    """
    write_bytes(path, encode_labels(labels, palette))


def encode_labels(labels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> bytes:
    """Encode uint8 (H, W) labels as an index PNG's bytes."""
    image = Image.fromarray(np.ascontiguousarray(labels))
    if palette is not None:
        image.putpalette(palette.tobytes())  # changes mode L to P; the indices stay
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def swap_in_place(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Swap RGB and BGR in place, uint8 (H, W, 3): images may be gigabytes."""
    for top in range(0, len(image), _ROWS):
        rows = image[top : top + _ROWS]
        rows[:] = cv2.cvtColor(rows, cv2.COLOR_RGB2BGR)
    return image


def resize_image(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize (H, W, C) or (H, W) to (height, width): area averaging to shrink, bilinear to enlarge.

    uint8 RGB or other bands and types; the result has the same.
    """
    if image.shape[:2] == tuple(size):
        return image
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    if image.ndim == 3 and image.shape[2] > 4:  # more than INTER_AREA supports
        parts = [image[:, :, first : first + 4] for first in range(0, image.shape[2], 4)]
        return np.concatenate([resize_image(part, size) for part in parts], axis=2)
    resized = cv2.resize(image, (size[1], size[0]), interpolation=how)
    return np.asarray(resized).reshape(*size, *image.shape[2:])  # OpenCV drops a single band's axis


def resize_labels(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize uint8 (H, W) labels to (height, width), nearest neighbor."""
    if labels.shape == tuple(size):
        return labels
    # NEAREST_EXACT takes the pixel with the nearest center, like Pillow and torch's nearest-exact.
    resized = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes; MediaError if it is missing or empty."""
    try:
        data = (path if isinstance(path, Path) else Path(path)).read_bytes()
    except OSError as error:
        raise unreadable_image(path, error) from None
    if not data:
        raise MediaError(f"{path} is empty (0 bytes).")
    return data


def from_file_url(text: str) -> str:
    """The path of a file:// URL; other text is returned unchanged."""
    if not text.startswith("file://"):
        return text
    return url2pathname(f"/{text.removeprefix('file://').partition('/')[2]}")


def first_bytes(path: Path) -> bytes:
    """The first 512 bytes of a file, which identify its format."""
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise unreadable_image(path, error) from None


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically; MediaError when it can't be written."""
    path = path if isinstance(path, Path) else Path(path)
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise cannot_write(path, error) from None


def decode_array(data: bytes) -> NDArray[np.generic] | None:
    """Decode with OpenCV at full depth, not rotated; None if it can't."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels)


def _decode_with_pillow(data: bytes, name: str) -> NDArray[np.uint8]:
    """Decode what OpenCV was built without; MediaError with the reason for a broken file."""
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            wide = image.mode[0] in "FI"  # Pillow would clip these at 255
            plain = image.convert("RGB") if image.mode == "LAB" else image
            values = np.asarray(image if wide else plain.convert("RGBA"))
    except Exception as error:  # noqa: BLE001 - decoders raise anything on invalid data
        values = _unknown_to_pillow(data, name, error)
    if not values.size:
        raise MediaError(f"{name} is an image without pixels.")
    check_rows(data, None, name)
    pixels = as_bgr(values.reshape(*values.shape[:2], -1))
    return _shown(eight_bits(pixels, name), data)


def _unknown_to_pillow(data: bytes, name: str, error: Exception) -> NDArray[np.generic]:
    """(H, W, C), gray or RGB(A), decoded by other packages; else Pillow's error as a MediaError."""
    values: NDArray[np.generic] | None = None
    if isinstance(error, UnidentifiedImageError) and is_tiff(data):
        packed, maximum = decode_packed(data, name)
        return eight_bits(packed, name, maximum=maximum)
    if isinstance(error, UnidentifiedImageError | OSError) and not (is_tiff(data) or is_cut(data)):
        values = decode_rare(data, name)
    if values is None:
        raise unreadable_image(name, error, data) from None
    return values


def _shown(pixels: NDArray[np.uint8], data: bytes) -> NDArray[np.uint8]:
    """Stored gray, BGR or BGRA as upright sRGB; data: the file, for profile and orientation."""
    return upright(_three_channels(pixels, data), read_orientation(data))


def _three_channels(pixels: NDArray[np.uint8], data: bytes) -> NDArray[np.uint8]:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    if pixels.shape[2] == 3:
        return as_srgb(swap_in_place(pixels), _profile_of(data), data)
    rgb = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB), np.uint8)
    return over_white(as_srgb(rgb, _profile_of(data), data), pixels[:, :, 3])


def _profile_of(data: bytes) -> bytes | None:
    """The ICC profile in an image file's bytes."""
    if not may_have_profile(data):
        return None
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            found = image.info.get("icc_profile")
    except Exception:  # noqa: BLE001 - a broken header is treated as no profile
        return None
    return found if isinstance(found, bytes) else None


def read_orientation(data: bytes) -> int:
    """EXIF's orientation, 1..8; 1 for TIFF, which its decoders rotate themselves."""
    if not may_be_turned(data):
        return 1
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            orientation = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a broken header is treated as no orientation
        return 1
    return orientation if 1 <= orientation <= 8 else 1
