"""Colour profiles: what a photo's values mean where they are not sRGB (Display P3, Adobe RGB).

Networks are trained on sRGB, which is what values without a profile are taken for.
"""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SEARCHED = 1 << 18  # bytes from the beginning, in which a profile is announced

_SAME = 4
"""Levels of 255 by which the many versions of sRGB's own profile differ, at most."""


def may_have_profile(data: bytes) -> bool:
    """Whether an image file's bytes announce an ICC profile; costs next to nothing."""
    if data[:2] == b"\xff\xd8":
        return data.find(b"ICC_PROFILE\0", 0, _SEARCHED) >= 0
    if data[:4] == b"\x89PNG":
        return data.find(b"iCCP", 0, min(_SEARCHED, max(0, data.find(b"IDAT")))) >= 0
    if data[:4] == b"RIFF":
        return data[12:16] == b"VP8X" and bool(data[20:21] > b"" and data[20] & 0x20)
    if data[4:8] == b"ftyp":
        return any(data.find(b"colr" + kind, 0, _SEARCHED) >= 0 for kind in (b"prof", b"rICC"))
    return data[:4] in (b"II*\0", b"MM\0*")


def to_srgb(image: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB in a profile's colours as sRGB.

    The same array where there is no profile, or one of sRGB, of other than RGB, or a broken one.
    """
    transform = _transform(profile) if profile else None
    if transform is None:
        return image
    return np.array(transform.apply(Image.fromarray(np.ascontiguousarray(image))))


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> Any:
    """Pillow's transform from a profile of RGB to sRGB; None where it changes next to nothing."""
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
