"""Images and labels sampled along one grid: crop, scale, flip and rotate in one pass.

A grid is a 2x3 matrix from output to source: source (x, y) = matrix @ (x, y, 1), pixel
centres at whole numbers in both. Image and labels sampled with one grid stay aligned to a
fraction of a pixel.

Dense motion between video frames, by OpenCV's DIS, is such a sampling too: where each pixel of a
frame was in the frame before. It is found on small grey frames.
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
    corner: (y, x) of the crop's upper left corner, in pixels of the scaled image; negative
        where the crop begins outside.
    flip_width: the crop's width, to mirror it left-right; None: not mirrored.
    """
    y, x = corner
    to_scaled = np.array([[1, 0, x + 0.5], [0, 1, y + 0.5], [0, 0, 1.0]])  # centres at n + 0.5
    if flip_width is not None:
        to_scaled = to_scaled @ np.array([[-1, 0, flip_width - 1.0], [0, 1, 0], [0, 0, 1]])
    to_source = np.array([[1 / scale, 0, -0.5], [0, 1 / scale, -0.5]])
    return np.asarray(to_source @ to_scaled)


def turned(grid: Grid, size: tuple[int, int], angle: float) -> Grid:
    """The same crop of (height, width) turned about its centre, by radians, clockwise."""
    y, x = (extent / 2 - 0.5 for extent in size)
    cos, sin = math.cos(angle), math.sin(angle)
    about_centre = np.array(
        [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]]
    )
    return np.asarray(grid @ about_centre)


def sample_image(
    image: NDArray[Any], grid: Grid, size: tuple[int, int], fill: tuple[float, ...]
) -> NDArray[Any]:
    """(h, w, C) of an image along a grid; linear, averaged first when it shrinks a lot.

    uint8 RGB, or other bands and types: the result is of the same. fill: of each band.
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
    """uint8 (h, w) of labels along a grid: of each point the nearest pixel, `fill` outside."""
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
    """uint8 (H, W, 3): each pixel (r, g, b, 1) times a (3, 4) matrix, cut to 0..255."""
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def blurred(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) under a Gaussian of so many pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def vary_levels(
    image: NDArray[Any], gain: float, contrast: float, centre: tuple[float, ...]
) -> NDArray[Any]:
    """(H, W, C) of any type, brighter by a gain, its contrast changed about each band's centre.

    Integers are cut to their range.
    """
    middle = np.array(centre, np.float32)
    values = gain * (contrast * (image.astype(np.float32) - middle) + middle)
    if image.dtype.kind == "f":
        return values.astype(image.dtype)
    return np.clip(np.round(values), 0, np.iinfo(image.dtype).max).astype(image.dtype)


def _reduced(image: NDArray[Any], grid: Grid, factor: int) -> tuple[NDArray[Any], Grid]:
    """The image averaged over factor x factor blocks, and the same grid in its pixels."""
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
    """int64 (256,): how many pixels of uint8 labels have each value."""
    # OpenCV counts in float32, exact below 2**24; for a few numbers its start costs more.
    if labels.size < 1 << 13 or labels.size >= 1 << 24:
        return np.bincount(labels.ravel(), minlength=256)
    counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256])
    return np.asarray(counts).ravel().astype(np.int64)


Floats = NDArray[np.float32]

LONGEST = 480
"""The longer side, in pixels, at which motion is found; larger frames are made smaller."""

SURE, UNSURE = 8.0, 24.0
"""How much a pixel may differ from its past, in grey levels: up to the first it is taken for
the same thing, from the second on for another. Noise and compression stay below the first."""

CUT = 0.2
"""The proportion of pixels that are another thing from which on a frame begins a new scene.

Between neighbouring frames of one scene 0.16 were seen at most (a car's camera at 15 frames a
second: 0.02; drawn things that fill the image and turn: 0.16); across cuts 0.4 to 0.8 mostly,
0.18 for two images of the same kind of street. A cut that is missed does little: what looks
like another thing has no past anyway.
"""

_SHORTEST = 64
"""Smaller frames are repeated at their edges up to this: DIS crashes below 32 pixels."""


@dataclass(frozen=True, eq=False)
class Motion:
    """The way back from one frame to the one before, for every pixel.

    flow: float32 (h, w, 2), the (x, y) where it was less where it is, in pixels.
    trust: float32 (h, w), how surely it is the same thing: 0 (not at all) to 1.
    """

    flow: Floats
    trust: Floats

    def at(self, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """For frames of another (height, width): where each pixel was, as float32 (H, W, 2) of
        (x, y) in their pixels, and the trust float32 (H, W), 0 for what was outside."""
        height, width = size
        scale = np.array([width / self.flow.shape[1], height / self.flow.shape[0]], np.float32)
        places = _places(_resized(self.flow, size) * scale)
        x, y = places[..., 0], places[..., 1]
        inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        return places, _resized(self.trust, size) * inside


class Tracker:
    """Takes the frames of a video in order and finds how each goes back to the one before."""

    def __init__(self) -> None:
        # The finer presets take 2 and 8 to 17 times as long, for 0.01 points of flicker.
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._past: NDArray[np.uint8] | None = None

    def next(self, image: NDArray[np.uint8]) -> Motion | None:
        """The motion back from a frame, uint8 (H, W, 3) RGB.

        None where there is nothing to go back to: for the first frame, for one of another size
        and after a scene cut.
        """
        now, past = _small_grey(image), self._past
        self._past = now
        if past is None or past.shape != now.shape:
            return None
        flow = self._flow(now, past)
        trust = _trust(now, past, flow)
        return None if np.mean(trust < 0.5) > CUT else Motion(flow, trust)

    def _flow(self, now: NDArray[np.uint8], past: NDArray[np.uint8]) -> Floats:
        """float32 (h, w, 2) of two grey frames (h, w)."""
        height, width = now.shape
        more = (0, max(0, _SHORTEST - height), 0, max(0, _SHORTEST - width))
        if any(more):
            now, past = (
                np.asarray(cv2.copyMakeBorder(grey, *more, cv2.BORDER_REPLICATE), np.uint8)
                for grey in (now, past)
            )
        flow = self._dis.calc(now, past, None)  # type: ignore[call-overload]
        return np.asarray(flow[:height, :width], np.float32)


def look_up(labels: NDArray[np.uint8], places: Floats) -> NDArray[np.uint8]:
    """uint8 (H, W): the label nearest to each place (x, y), float32 (H, W, 2); the edge's
    for places outside."""
    found = cv2.remap(labels, places, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(found, np.uint8)


def _small_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (h, w) of uint8 (H, W, 3), the longer side LONGEST at most."""
    height, width = image.shape[:2]
    factor = min(1.0, LONGEST / max(height, width))
    small = resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _trust(now: NDArray[np.uint8], past: NDArray[np.uint8], flow: Floats) -> Floats:
    """float32 (h, w): how much each pixel of a grey frame looks like its past.

    Looks alone decide: on bare ground the flow forward and back seldom agree, where being
    wrong about the place does no harm to the label.
    """
    was = cv2.remap(past, _places(flow), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    change = cv2.blur(now.astype(np.float32) - was, (5, 5))
    change = np.abs(change - np.median(change))  # a camera's change of exposure is no motion
    return np.asarray(np.clip((UNSURE - change) / (UNSURE - SURE), 0, 1), np.float32)


def _places(flow: Floats) -> Floats:
    """Where each pixel was, float32 (h, w, 2) of (x, y), from how far that is."""
    places = flow.copy()
    places[..., 0] += np.arange(flow.shape[1], dtype=np.float32)
    places[..., 1] += np.arange(flow.shape[0], dtype=np.float32)[:, None]
    return places


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    """float32 (h, w, ...) at another (height, width), linear."""
    return np.asarray(cv2.resize(values, (size[1], size[0])), np.float32)
