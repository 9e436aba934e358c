"""Images that neither OpenCV nor Pillow reads: HEIC, JPEG XL, EXR, DPX, JPEG of 12 bits."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, MissingExtra

_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")

_STILL_CONTAINERS = ("_pipe", "image2")
"""How FFmpeg's names of formats that are one image end, or begin."""


def decode_heif(data: bytes, name: str) -> NDArray[np.uint8]:
    """A HEIC photo as uint8 (H, W, 3 or 4) RGB(A), upright; MissingExtra without pillow-heif."""
    try:
        import pillow_heif
    except ImportError:
        raise MissingExtra(f"Reading {name}, a HEIC photo,", "images") from None
    try:
        photo = pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
        return np.asarray(photo.convert("RGBA" if photo.has_transparency_data else "RGB"))
    except Exception as error:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        raise MediaError(f"{name} is not a whole image: {error}.") from None


def decode_rare(data: bytes, name: str) -> NDArray[np.generic] | None:
    """(H, W, C) grey or RGB(A) values of an image that Pillow does not know; None for no image.

    uint8, uint16 or float32. MissingExtra where JPEG XL's decoder is needed.
    """
    if data.startswith(_JPEG_XL):
        return _decode_jpeg_xl(data, name)
    try:
        import av
    except ImportError:
        return None
    try:
        with av.open(io.BytesIO(data), "r") as file:
            form = file.format.name
            if not form.endswith(_STILL_CONTAINERS[0]) and not form.startswith(
                _STILL_CONTAINERS[1]
            ):
                return None
            return _values(next(file.decode(video=0)))
    except Exception:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        return None


def _values(frame: Any) -> NDArray[np.generic]:
    """A frame's values at the least depth that holds them."""
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


def _decode_jpeg_xl(data: bytes, name: str) -> NDArray[np.generic]:
    try:
        from imagecodecs import jpegxl_decode
    except ImportError:
        raise MissingExtra(f"Reading {name}, a JPEG XL image,", "images") from None
    try:
        values = np.asarray(jpegxl_decode(data))
    except Exception as error:  # noqa: BLE001 - decoders of strangers' bytes raise anything
        raise MediaError(f"{name} is not a whole image: {error}.") from None
    if values.ndim == 4:  # an animation: its first frame
        values = values[0]
    return values[:, :, None] if values.ndim == 2 else values
