"""Conversion to sRGB from ICC profiles, code points, gamma and HDR.

Networks are trained on sRGB, which is assumed for images without a profile.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SAME = 4
"""Maximum difference, in levels of 255, between versions of the sRGB profile."""

_NITS_WHITE = 203.0  # diffuse white, ITU-R BT.2408

_NITS_PEAK = 1000.0  # peak of an HLG display

_KNEE = 0.8  # proportion of white up to which light is unchanged

_PQ = 16  # as in ITU-T H.273

_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # linear BT.2020 to linear BT.709, ITU-R BT.2087

_FROM_P3 = np.array(
    [[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0983]], np.float32
)  # linear Display P3 to linear BT.709, same white point

_BT709 = 1

_TO_BT709_FROM = {9: _TO_BT709, 12: _FROM_P3}
"""Matrix by ITU-T H.273 code point of the primaries."""

HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics by ITU-T H.273 code point."""

_SRGB_GAMMA = 1 / 2.2


def to_srgb(image: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """Convert uint8 (H, W, 3) RGB with a profile to sRGB.

    Returns the same array without a profile, and for one that is sRGB, not RGB, or broken.
    """
    transform = _transform(profile) if profile else None
    if transform is None:
        return image
    return np.array(transform.apply(Image.fromarray(np.ascontiguousarray(image))))


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> Any:
    """Pillow's transform from an RGB profile to sRGB; None if it changes at most _SAME levels."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != "RGB":
            return None
        found = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        levels = np.linspace(0, 255, 16).astype(np.uint8)
        colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, -1, 3)
        changed = np.asarray(found.apply(Image.fromarray(colors))).astype(int) - colors
    except (ImageCms.PyCMSError, OSError, ImportError, ValueError):
        return None
    return found if np.abs(changed).max() > _SAME else None


def shown_colors(image: NDArray[np.uint8], coded: tuple[int, int]) -> NDArray[np.uint8]:
    """Convert uint8 (H, W, 3) RGB with these code points to sRGB; HDR (PQ, HLG) is tone-mapped.

    Returns the same array for sRGB, BT.709 and unknown code points.
    """
    primaries, transfer = coded
    if transfer in HDR:
        return tone_mapped(image.astype(np.uint16) * np.uint16(257), transfer, primaries)
    if primaries not in _TO_BT709_FROM:
        return image
    levels = np.arange(256) / 255
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    linear = light.astype(np.float32)[image] @ _TO_BT709_FROM[primaries].T
    return np.asarray(np.round(_srgb(np.clip(linear, 0, 1)) * 255), np.uint8)


def of_gamma(gamma: float, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Convert gray, BGR or BGRA with a gamma (0.4545 is nearly sRGB's) to sRGB of the same type."""
    most = 255 if pixels.dtype == np.uint8 else 65535
    light = (np.arange(most + 1) / most) ** (1 / gamma)
    table = np.round(light**_SRGB_GAMMA * most).astype(pixels.dtype)
    if pixels.ndim == 2:
        return np.asarray(table[pixels])
    return np.dstack([table[pixels[:, :, :3]], pixels[:, :, 3:]])


def _srgb(light: NDArray[Any]) -> NDArray[Any]:
    """Linear light 0..1 -> sRGB signal 0..1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def tone_mapped(image: NDArray[np.uint16], transfer: int, primaries: int = 9) -> NDArray[np.uint8]:
    """Tone-map HDR uint16 (H, W, 3) RGB to SDR uint8.

    transfer: 16 (PQ) or 18 (HLG). primaries: code point; default BT.2020.
    """
    linear = _linear_light(transfer)[image]
    if primaries != _BT709:
        linear = linear @ _TO_BT709_FROM.get(primaries, _TO_BT709).T
    return of_light(linear)


def of_light(linear: NDArray[Any]) -> NDArray[np.uint8]:
    """Tone-map linear light (H, W, 3), 1.0 being diffuse white, to SDR uint8.

    Light up to 0.8 of white is unchanged; brighter light is compressed.
    """
    brightest = np.maximum(linear.max(2, keepdims=True), 1e-6)
    compressed = 1 - (1 - _KNEE) * np.exp(-np.maximum(brightest - _KNEE, 0) / (1 - _KNEE))
    scale = np.where(brightest <= _KNEE, 1, compressed / brightest)
    levels = np.clip(linear * scale, 0, 1) * (len(_display_levels()) - 1)
    return np.asarray(_display_levels()[levels.astype(np.uint16)])


@functools.cache
def _linear_light(transfer: int) -> NDArray[np.float32]:
    """Linear light of each 16-bit level; 1.0 is diffuse white."""
    signal = np.arange(65536) / 65535
    if transfer == _PQ:  # SMPTE ST 2084
        power = signal ** (1 / 78.84375)
        ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        nits = 10000 * ratio ** (1 / 0.1593017578125)
    else:  # HLG, ARIB STD-B67, with the system gamma of a 1000 cd/m2 display
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        nits = _NITS_PEAK * scene**1.2
    return (nits / _NITS_WHITE).astype(np.float32)


@functools.cache
def _display_levels() -> NDArray[np.uint8]:
    """The 8-bit level (gamma 2.2) of 65536 steps of linear light from 0 to 1."""
    return np.round(255 * (np.arange(65536) / 65535) ** (1 / 2.2)).astype(np.uint8)
