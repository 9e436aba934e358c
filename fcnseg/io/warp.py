"""Pictures and labels sampled along one grid: crop, scale, flip and rotate in one pass.

A grid is a 2x3 matrix from output to source: source (x, y) = matrix @ (x, y, 1), pixel
centres at whole numbers in both. Image and labels sampled with one grid stay aligned to a
fraction of a pixel.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fcnseg.io.opencv import cv2

Grid = NDArray[np.float64]


def crop_grid(scale: float, corner: tuple[float, float], *, flip_width: int | None = None) -> Grid:
    """The grid of a crop of a scaled picture.

    scale: output pixels per source pixel.
    corner: (y, x) of the crop's upper left corner, in pixels of the scaled picture; negative
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
    image: NDArray[np.uint8], grid: Grid, size: tuple[int, int], fill: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """uint8 (h, w, 3) of an image along a grid; linear, averaged first when it shrinks a lot."""
    factor = int(math.hypot(grid[0, 0], grid[1, 0]) + 1e-6)
    if factor >= 2:
        image, grid = _reduced(image, grid, factor)
    return np.asarray(
        cv2.warpAffine(
            image, grid, (size[1], size[0]), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT, borderValue=fill,
        ),
        np.uint8,
    )  # fmt: skip


def sample_labels(
    labels: NDArray[np.uint8], grid: Grid, size: tuple[int, int], fill: int
) -> NDArray[np.uint8]:
    """uint8 (h, w) of labels along a grid: of each point the nearest pixel, `fill` outside."""
    return np.asarray(
        cv2.warpAffine(
            labels, grid, (size[1], size[0]), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT, borderValue=fill,
        ),
        np.uint8,
    )  # fmt: skip


def mix_channels(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3): each pixel (r, g, b, 1) times a (3, 4) matrix, cut to 0..255."""
    return np.asarray(cv2.transform(image, matrix), np.uint8)


def _reduced(image: NDArray[np.uint8], grid: Grid, factor: int) -> tuple[NDArray[np.uint8], Grid]:
    """The image averaged over factor x factor blocks, and the same grid in its pixels."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    if not height or not width:
        return image, grid
    whole = image[: height * factor, : width * factor]
    small = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
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
