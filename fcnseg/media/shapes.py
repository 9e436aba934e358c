"""Outlines and runs -> labels: polygons, circles, COCO's run lengths; and alpha as labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcnseg.errors import MediaError
from fcnseg.media._opencv import cv2
from fcnseg.media.images import _UNIDENTIFIED, _unreadable, _upright, read_bytes

_FAR = 1 << 20  # pixels; OpenCV's fixed point overflows beyond


def fill_polygon(labels: NDArray[np.int32], outline: NDArray[np.floating], value: int) -> None:
    """Draw an area into int32 (H, W) labels, in place, by OpenCV's convention (cv2.fillPoly).

    outline: float (N, 2) x, y in pixels, pixel centres at whole numbers, rounded to the
        nearest; the border belongs to the area.
    """
    corners = np.rint(np.clip(outline, -_FAR, _FAR)).astype(np.int32)
    if len(corners):
        cv2.fillPoly(labels, [corners], (value,))


def fill_circle(
    labels: NDArray[np.int32], centre: tuple[float, float], radius: float, value: int
) -> None:
    """Draw a filled circle into int32 (H, W) labels, in place. centre: x, y."""
    at = (round(centre[0]), round(centre[1]))
    cv2.circle(labels, at, max(0, round(radius)), (value,), thickness=-1)


def decode_runs(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (H, W) of COCO's run lengths: down the columns, beginning with a run of zeros.

    MediaError when the runs do not add up to the picture.
    """
    lengths = np.asarray(counts, np.int64)
    if lengths.size == 0 or lengths.min() < 0 or int(lengths.sum()) != size[0] * size[1]:
        raise MediaError(
            f"Run lengths of {int(lengths.sum())} pixels for a picture of {size[0] * size[1]}."
        )
    filled = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(filled.reshape(size[1], size[0]).T)


def unpack_runs(text: str | bytes) -> list[int]:
    """COCO's compressed run lengths as numbers.

    Six bits a character from "0" on: five of the number, one for "more follows"; from the
    third on a number is the difference to the one two before. Source: cocoapi, maskApi.c.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    at = 0
    while at < len(data):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(data):
                raise MediaError("Compressed run lengths end in the middle of a number.")
            code = data[at] - 48
            value |= (code & 31) << shift
            more = bool(code & 32)
            at, shift = at + 1, shift + 5
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def read_alpha(path: str | Path) -> NDArray[np.int32] | None:
    """int32 (H, W) opacity 0..255 of an image file; None when it has none."""
    data = read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
                return None
            return np.asarray(image.getchannel("A"), np.int32)
    except _UNIDENTIFIED as error:
        raise _unreadable(path, error) from None


def decode_mask(data: bytes) -> NDArray[np.bool_]:
    """bool (h, w) of a small picture in which everything but 0 counts (labelme's masks)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("L")) > 0
    except _UNIDENTIFIED as error:
        raise _unreadable("a mask", error) from None


def turn(labels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """uint8 (H, W) labels turned and mirrored as EXIF's orientation (1..8) says."""
    return np.ascontiguousarray(_upright(labels[..., None], orientation)[..., 0])
