"""Affine sampling of images and labels (crop, scale, flip and rotate at once), and optical flow.

A grid is a 2x3 matrix from output to source: source (x, y) = matrix @ (x, y, 1), with pixel
centers at integer coordinates. Image and labels sampled with the same grid stay aligned to a
fraction of a pixel.

Optical flow (OpenCV's DIS) gives each pixel's position in the previous frame of a video. It is
computed on small gray frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.io import cv2
from fcnseg.io.images import resize_image

Grid = NDArray[np.float64]


def crop_grid(scale: float, corner: tuple[float, float], *, flip_width: int | None = None) -> Grid:
    """The grid of a crop of a scaled image.

    scale: output pixels per source pixel.
    corner: (y, x) of the crop's upper left corner, in pixels of the scaled image; negative if
        the crop begins outside.
    flip_width: the crop's width to flip it horizontally; None for no flip.
    """
    y, x = corner
    to_scaled = np.array([[1, 0, x + 0.5], [0, 1, y + 0.5], [0, 0, 1.0]])  # centers at n + 0.5
    if flip_width is not None:
        to_scaled = to_scaled @ np.array([[-1, 0, flip_width - 1.0], [0, 1, 0], [0, 0, 1]])
    to_source = np.array([[1 / scale, 0, -0.5], [0, 1 / scale, -0.5]])
    return np.asarray(to_source @ to_scaled)


def rotated(grid: Grid, size: tuple[int, int], angle: float) -> Grid:
    """The grid of the same crop (height, width) rotated clockwise about its center, in radians."""
    y, x = (extent / 2 - 0.5 for extent in size)
    cos, sin = math.cos(angle), math.sin(angle)
    about_center = np.array(
        [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]]
    )
    return np.asarray(grid @ about_center)


def sample_image(
    image: NDArray[Any], grid: Grid, size: tuple[int, int], fill: tuple[float, ...]
) -> NDArray[Any]:
    """Sample an image with a grid: (h, w, C), bilinear, area-averaged first if it shrinks.

    uint8 RGB or other bands and types; the result has the same. fill: value of each band outside.
    """
    factor = int(math.hypot(grid[0, 0], grid[1, 0]) + 1e-6)
    if factor >= 2:
        image, grid = _reduced(image, grid, factor)
    if image.shape[2] != 3:  # OpenCV fills four bands at most
        parts = [
            _sampled(np.ascontiguousarray(image[:, :, at : at + 4]), grid, size, fill[at : at + 4])
            for at in range(0, image.shape[2], 4)
        ]
        return np.concatenate([part.reshape(*size, -1) for part in parts], axis=2)
    return _sampled(image, grid, size, fill)


def sample_labels(
    labels: NDArray[np.uint8], grid: Grid, size: tuple[int, int], fill: int
) -> NDArray[np.uint8]:
    """Sample labels with a grid: uint8 (h, w), nearest pixel, `fill` outside."""
    return _sampled(labels, grid, size, fill, cv2.INTER_NEAREST)


def _sampled(
    image: NDArray[Any],
    grid: Grid,
    size: tuple[int, int],
    fill: tuple[float, ...] | int,
    how: int = cv2.INTER_LINEAR,
) -> NDArray[Any]:
    flags, border = how | cv2.WARP_INVERSE_MAP, cv2.BORDER_CONSTANT
    width_height = size[1], size[0]
    return np.asarray(
        cv2.warpAffine(image, grid, width_height, flags=flags, borderMode=border, borderValue=fill)
    )


def mix_channels(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3): each pixel (r, g, b, 1) times a (3, 4) matrix, clipped to 0..255."""
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def blurred(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) blurred by a Gaussian; sigma in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def vary_levels(
    image: NDArray[Any], gain: float, contrast: float, centre: tuple[float, ...]
) -> NDArray[Any]:
    """Change brightness by a gain, and contrast about each band's center; (H, W, C) of any type.

    Integers are clipped to their range.
    """
    middle = np.array(centre, np.float32)
    values = gain * (contrast * (image.astype(np.float32) - middle) + middle)
    if image.dtype.kind == "f":
        return values.astype(image.dtype)
    return np.clip(np.round(values), 0, np.iinfo(image.dtype).max).astype(image.dtype)


def _reduced(image: NDArray[Any], grid: Grid, factor: int) -> tuple[NDArray[Any], Grid]:
    """The image averaged over factor x factor blocks, and the grid in its coordinates."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if not height or not width:
        return image, grid
    blocks = image[: height * factor, : width * factor]
    small = np.asarray(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_AREA))
    small = small.reshape(height, width, -1)
    grid = grid / factor
    grid[:, 2] -= (factor - 1) / 2 / factor
    return small, grid


def histogram(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """int64 (256,): the number of pixels of each value in uint8 labels."""
    # OpenCV counts in float32, exact below 2**24; for small arrays its overhead is larger.
    if labels.size < 1 << 13 or labels.size >= 1 << 24:
        return np.bincount(labels.ravel(), minlength=256)
    counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256])
    return np.asarray(counts).ravel().astype(np.int64)


Floats = NDArray[np.float32]

LONGEST = 480
"""Maximum longer side, in pixels, for optical flow; larger frames are downscaled."""

SURE, UNSURE = 8.0, 24.0
"""Difference, in gray levels, of a pixel from its position in the previous frame: up to SURE it
is the same object, from UNSURE on another one. Noise and compression stay below SURE."""

CUT = 0.2
"""Minimum proportion of pixels of other objects at which a frame begins a new scene.

Measured between consecutive frames of a scene: at most 0.16 (a car's camera at 15 frames/s: 0.02;
synthetic rotating shapes that fill the image: 0.16). Across cuts: mostly 0.4 to 0.8, but 0.18 for
two images of similar streets. A missed cut has little effect: pixels that look different are not
trusted anyway.
"""

_SHORTEST = 64
"""Minimum side for DIS, which crashes below 32 pixels; smaller frames are padded by their edges."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Backward optical flow from a frame to the previous one.

    flow: float32 (h, w, 2), previous (x, y) minus current (x, y), in pixels.
    trust: float32 (h, w), confidence 0..1 that it is the same object.
    """

    flow: Floats
    trust: Floats

    def at(self, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """Previous positions at another (height, width): float32 (H, W, 2) of (x, y) in pixels, and
        the trust float32 (H, W), 0 for positions outside."""
        height, width = size
        scale = np.array([width / self.flow.shape[1], height / self.flow.shape[0]], np.float32)
        places = _places(_resized(self.flow, size) * scale)
        x, y = places[..., 0], places[..., 1]
        inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        return places, _resized(self.trust, size) * inside


class Tracker:
    """Computes the motion from each frame of a video to the previous one; takes frames in order."""

    def __init__(self) -> None:
        # The finer presets take 2 and 8 to 17 times as long and reduce flicker by 0.01 points.
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._past: NDArray[np.uint8] | None = None

    def next(self, image: NDArray[np.uint8]) -> Motion | None:
        """The motion from a frame, uint8 (H, W, 3) RGB, to the previous one.

        None for the first frame, after a change of size and after a scene cut.
        """
        now, past = _small_grey(image), self._past
        self._past = now
        if past is None or past.shape != now.shape:
            return None
        flow = self._flow(now, past)
        trust = _trust(now, past, flow)
        return None if np.mean(trust < 0.5) > CUT else Motion(flow, trust)

    def _flow(self, now: NDArray[np.uint8], past: NDArray[np.uint8]) -> Floats:
        """Optical flow float32 (h, w, 2) of two gray frames (h, w)."""
        height, width = now.shape
        more = (0, max(0, _SHORTEST - height), 0, max(0, _SHORTEST - width))
        if any(more):
            now, past = (
                np.asarray(cv2.copyMakeBorder(grey, *more, cv2.BORDER_REPLICATE), np.uint8)
                for grey in (now, past)
            )
        flow = self._dis.calc(now, past, None)  # type: ignore[call-overload]
        return np.asarray(flow[:height, :width], np.float32)


def warp_labels(labels: NDArray[np.uint8], places: Floats) -> NDArray[np.uint8]:
    """Labels at positions (x, y), float32 (H, W, 2): uint8 (H, W), nearest pixel; outside, that of
    the edge."""
    found = cv2.remap(labels, places, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(found, np.uint8)


def _small_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) as gray uint8 (h, w) with a longer side of at most LONGEST."""
    height, width = image.shape[:2]
    factor = min(1.0, LONGEST / max(height, width))
    small = resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _trust(now: NDArray[np.uint8], past: NDArray[np.uint8], flow: Floats) -> Floats:
    """float32 (h, w): how similar each pixel of a gray frame is to its previous position.

    Only intensities are compared. On uniform ground forward and backward flow seldom agree, but a
    wrong position there does not change the label.
    """
    was = cv2.remap(past, _places(flow), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    change = cv2.blur(now.astype(np.float32) - was, (5, 5))
    change = np.abs(change - np.median(change))  # ignore a change of exposure
    return np.asarray(np.clip((UNSURE - change) / (UNSURE - SURE), 0, 1), np.float32)


def _places(flow: Floats) -> Floats:
    """Absolute positions float32 (h, w, 2) of (x, y) from the flow."""
    places = flow.copy()
    places[..., 0] += np.arange(flow.shape[1], dtype=np.float32)
    places[..., 1] += np.arange(flow.shape[0], dtype=np.float32)[:, None]
    return places


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    """float32 (h, w, ...) resized to another (height, width), bilinear."""
    return np.asarray(cv2.resize(values, (size[1], size[0])), np.float32)
