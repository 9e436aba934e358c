"""Images in any Python type -> uint8 RGB (H, W, 3), as a file with the same content is read.

Accepts paths, bytes, Pillow images, arrays and tensors. Ambiguous input is refused with a hint
that shows how to make it unambiguous: predictions must not be silently wrong.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from fcnseg.errors import InputError, MediaError, reason, user_path
from fcnseg.io.content.pixels import eight_bits, over_white
from fcnseg.io.content.profiles import to_srgb
from fcnseg.io.images import VIDEO_SUFFIXES, decode_image, from_file_url, read_image

if TYPE_CHECKING:
    from typing import BinaryIO

    from torch import Tensor


Pixels = NDArray[np.uint8]

ImageInput: TypeAlias = "str | Path | bytes | BinaryIO | Image.Image | NDArray[Any] | Tensor"
"""Types accepted as an image; see `to_rgb`."""

_OVER = 1e-5
"""How far floats may exceed 0..1, because of rounding."""

_CHANNELS = (1, 3, 4)

_COLORS = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA")
"""Pillow modes to which an RGB profile applies."""


def is_batch(images: object) -> bool:
    """Whether the input is several images: a list, or an array or tensor with 4 dimensions."""
    return isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4


def source_name(source: object) -> str:
    """A path, a URL or a camera's number as text; InputError for images in memory."""
    if isinstance(source, str | Path | int) and not isinstance(source, bool) and str(source):
        return str(source)
    raise InputError(
        "A stream's source is a path, an address or a camera's number; found "
        f"{repr(source) if isinstance(source, str) else type(source).__name__}.",
        hint="images in memory: model(image), or model(list of images)",
    )


def to_rgb(image: object, *, bgr: bool = False) -> Pixels:
    """Convert an image to uint8 RGB (H, W, 3), upright.

    image: a path; an image file as bytes or as an open binary file; a Pillow image of any mode; an
        array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or a tensor (H, W), (1, H, W), (3, H, W) or
        (4, H, W), of uint8, uint16 (its full range is scaled) or floats in 0..1. Transparency is
        composited over white.
    bgr: arrays and tensors are in BGR order, as in OpenCV.

    InputError (a ValueError) if the meaning of the values is ambiguous.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, bgr=bgr)
    if isinstance(image, str | os.PathLike):
        return _from_path(os.fsdecode(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), name="the file in memory")
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if hasattr(image, "read"):
        return decode_image(_contents(image), name="the file's content")
    if hasattr(image, "detach") and hasattr(image, "permute"):  # a tensor; torch may not be loaded
        return _from_tensor(image, bgr=bgr)
    raise InputError(
        f"An image is a path, bytes, an open file, a Pillow image, an array or a tensor; found "
        f"{type(image).__name__}.",
        hint="np.asarray(image, np.uint8) makes an array of it"
        if isinstance(image, list | tuple)
        else "several images are given as a list",
    )


def _contents(file: Any) -> bytes:
    """The content of an open file, from its beginning if it is seekable."""
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        data = file.read()
    except (OSError, ValueError) as error:  # closed, or a text file
        raise MediaError(f"The open file can't be read: {reason(error)}.") from None
    if not isinstance(data, bytes):
        raise InputError(
            f"The open file gives {type(data).__name__}, not bytes.", hint='open(path, "rb")'
        )
    return data


def _from_path(path: str) -> Pixels:
    if not path:
        raise InputError("An image's path is empty.")
    path = from_file_url(path)
    named = user_path(path)
    try:
        if named.is_dir() or named.suffix.lower() in VIDEO_SUFFIXES or "://" in path:
            raise MediaError(
                f"{path} is not an image file.",
                hint=f"for folders, videos and streams: for prediction in model.stream({path!r})",
            )
        return read_image(named)
    except (ValueError, OSError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path!r} is not the path of an image: {error}.") from None


def _from_array(array: NDArray[Any], *, bgr: bool) -> Pixels:
    """Convert an array with channels last."""
    usual = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    if usual and array.size and not bgr and type(array) is np.ndarray:
        return np.ascontiguousarray(array)
    shape = array.shape
    if array.ndim == 3 and shape[2] not in _CHANNELS and shape[0] in _CHANNELS:
        raise InputError(
            f"An array is (H, W), (H, W, 3) or (H, W, 4); found {shape}, channels first.",
            hint="image.transpose(1, 2, 0), or torch.from_numpy(image): tensors are channels first",
        )
    _check_shape(shape, array.ndim in (2, 3) and (array.ndim == 2 or shape[2] in _CHANNELS))
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise InputError("The array has masked pixels.", hint="fill them: image.filled(0)")
    pixels = _meant(np.asarray(array))
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*shape[:2], 1), 3, axis=2)
    colors = pixels[:, :, 2::-1] if bgr else pixels[:, :, :3]
    if pixels.shape[2] == 4:
        return over_white(colors, pixels[:, :, 3])
    return np.ascontiguousarray(colors)


def _check_shape(shape: tuple[int, ...], known: bool) -> None:
    if not known:
        raise InputError(
            f"An image is (H, W), (H, W, 3) or (H, W, 4); found the shape {shape}.",
            hint="several images of one size are an array (N, H, W, 3), a tensor or a list",
        )
    if 0 in shape:
        raise InputError(f"The image is empty: its shape is {shape}.")


def _meant(array: NDArray[Any]) -> Pixels:
    """Values as uint8; InputError if their range is ambiguous."""
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return eight_bits(array.astype(array.dtype.newbyteorder("="), copy=False), "the array")
    if array.dtype.kind != "f":
        raise InputError(
            f"The image is of {array.dtype}, which does not say what is white; uint8, uint16 or "
            "floats in 0..1 do.",
            hint="image.astype(np.uint8) * 255"
            if array.dtype == np.bool_
            else "image.astype(np.uint8), where its values are in 0..255",
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -_OVER and high <= 1 + _OVER):  # NaN is neither
        raise InputError(
            f"An image of floats is in 0..1; found {low:.6g} to {high:.6g}.",
            hint=_range_hint(low, high),
        )
    levels = np.round(np.clip(array, 0, 1).astype(np.float64) * 255)
    return np.asarray(levels, np.uint8)


def _range_hint(low: float, high: float) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return "np.nan_to_num(image, posinf=1, neginf=0) replaces what is not a number"
    if low >= 0 and high <= 255:
        return "image / 255, or image.astype(np.uint8), if 255 is white"
    if low >= -10 and high <= 10:
        return "give the image before it is normalized: the model does that itself"
    return "scale it: (image - image.min()) / (image.max() - image.min())"


def _from_tensor(tensor: Any, *, bgr: bool) -> Pixels:
    """Convert a tensor with channels first, on any device."""
    try:
        shape = tuple(tensor.shape)
    except RuntimeError:  # a nested tensor: images of several sizes
        raise InputError(
            "The tensor has no shape of its own.", hint="model(list of images)"
        ) from None
    if tensor.ndim == 3 and shape[0] not in _CHANNELS and shape[2] in _CHANNELS:
        raise InputError(
            f"A tensor is (H, W), (3, H, W) or (N, 3, H, W); found {shape}, channels last.",
            hint="image.permute(2, 0, 1), or image.numpy(): arrays are channels last",
        )
    _check_shape(shape, tensor.ndim == 2 or (tensor.ndim == 3 and shape[0] in _CHANNELS))
    try:
        plain = tensor.detach().cpu()
        if plain.is_floating_point():
            plain = plain.double()  # NumPy has no bfloat16
        array = plain.permute(1, 2, 0).numpy() if plain.ndim == 3 else plain.numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:  # sparse, quantized or meta
        raise InputError(f"The tensor holds no plain numbers: {error}") from None
    try:
        return _from_array(array, bgr=bgr)
    except InputError as error:  # name torch's methods in the hint
        hint = error.hint.replace("astype(np.uint8)", "to(torch.uint8)").replace("np.", "torch.")
        raise InputError(error.message, hint=hint) from None


def _from_pillow(image: Image.Image) -> Pixels:
    """Convert a Pillow image as its file would be read: upright, transparency over white."""
    if not image.width or not image.height:
        raise InputError(f"The image is empty: {image.width}x{image.height}.")
    try:
        image.load()  # rotates TIFFs
        image = ImageOps.exif_transpose(image)
        return _pillow_pixels(image)
    except (OSError, SyntaxError, ValueError) as error:  # ValueError: it was closed
        if isinstance(error, InputError):
            raise
        raise MediaError(f"The Pillow image is incomplete: {error}.") from None


def _pillow_pixels(image: Image.Image) -> Pixels:
    mode = image.mode
    profile = image.info.get("icc_profile") if mode in _COLORS else None
    if mode.startswith("I"):
        stored = _sixteen_bits(np.asarray(image))
        # As for a file of 32 bits, 0..255 (from convert("I")) is 8-bit. A PNG has 16 bits.
        in_bytes = mode == "I" and image.format != "PNG" and stored.max() <= 255
        return _from_array(stored.astype(np.uint8) if in_bytes else stored, bgr=False)
    if mode == "F":
        values = np.asarray(image)
        # As for a file of floats: in 0..1, or 0..255 (from Image.convert("F")).
        in_bytes = values.max() > 1 and values.min() >= 0 and values.max() <= 255
        return _from_array(values / 255 if in_bytes else values, bgr=False)
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None, "None only if converted in place"
        return np.array(converted)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(mode, mode)
        rgba = np.asarray(image.convert(straight).convert("RGBA"))
        return over_white(to_srgb(rgba[:, :, :3], profile), rgba[:, :, 3])
    try:
        return to_srgb(np.array(image.convert("RGB")), profile)
    except ValueError as error:
        raise InputError(
            f"A Pillow image of mode {mode} can't be used: {error}.",
            hint='convert it first: image.convert("RGB")',
        ) from None


def _sixteen_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The values of mode I, 16 bits stored in 32; InputError outside 0..65535."""
    if values.min() < 0 or values.max() > 65535:
        raise InputError(
            f"A Pillow image of mode I is in 0..65535; found {values.min()} to {values.max()}.",
            hint="scale it to 16 bits",
        )
    return values.astype(np.uint16)


def as_list(images: Any) -> list[Any]:
    """The images of a list, an array or a tensor with 4 dimensions; InputError for one image."""
    if is_batch(images):
        return list(images)
    raise InputError(
        f"Several images are a list, an array (N, H, W, 3) or a tensor (N, 3, H, W); found "
        f"{type(images).__name__}.",
        hint="for one image: model(image), or predict([image])",
    )
