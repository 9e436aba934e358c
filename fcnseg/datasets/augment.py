"""Augmentation of training samples: crop, scale, flip, rotate, color; parts of other images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.errors import OptionError
from fcnseg.io.warp import (
    crop_grid,
    mix_channels,
    rotated,
    sample_image,
    sample_labels,
    vary_levels,
)

MID_GREY = 118.0
"""Contrast turns about this level (18 % reflectance in sRGB)."""

HUE_RANGE = math.pi / 3
"""Hue turns by at most this, in radians, at color strength 1."""

MARGIN = 1 / 8
"""Of a crop's side: a wanted pixel is not nearer to the crop's edge."""

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class Augment:
    """How training samples vary.

    crop: (height, width) of what comes out, in pixels.
    scale: range of the random scale, drawn evenly in its logarithm.
    flip: chance of a left-right mirror.
    rotate: degrees it turns at most, about the crop's centre, to either side.
    color: 0..1, how far brightness, contrast, saturation and hue may go.
    rare: chance that a crop is chosen to contain a pixel of some class, drawn by `rarity`
        among the classes in the image; otherwise it may lie anywhere.
    rarity: how much each class is wanted.
    mix: what of a second sample is laid over it (see mixing.MIXES), or "none"; mix_share: the
        chance of that. The dataset does it, which knows other samples.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.75, 2.0)
    flip: float = 0.5
    color: float = 0.3
    rare: float = 0.0
    rarity: tuple[float, ...] = ()
    rotate: float = 0.0
    mix: str = "none"
    mix_share: float = 0.5

    def __post_init__(self) -> None:
        if min(self.crop) < 1:
            raise OptionError(f"crop: height and width must be above zero; found {self.crop}.")

    def __call__(
        self,
        image: NDArray[Any],
        labels: NDArray[np.uint8],
        rng: np.random.Generator,
        *,
        fill: tuple[float, ...] = (124, 116, 104),
        base_scale: float = 1.0,
        rgb: bool = True,
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """A variation: image (h, w, C) and labels uint8 (h, w), h and w those of `crop`.

        fill: what is around the image where the crop is larger; its labels are 255.
        rgb: whether it is uint8 RGB. Of other bands brightness and contrast vary, in all bands
            alike, contrast about `fill`; there is no hue or saturation to vary.
        base_scale: a scale every image gets besides the random one.
        """
        low, high = (math.log(bound) for bound in self.scale)
        scale = base_scale * math.exp(rng.uniform(low, high))
        wanted = self._wanted_point(labels, rng) if self.rare > 0 else (None, None)
        y, x = (
            _corner(extent * scale, crop, rng, None if point is None else point * scale)
            for extent, crop, point in zip(labels.shape, self.crop, wanted, strict=True)
        )
        mirrored = rng.random() < self.flip
        grid = crop_grid(scale, (y, x), flip_width=self.crop[1] if mirrored else None)
        if self.rotate > 0:
            grid = rotated(grid, self.crop, math.radians(rng.uniform(-self.rotate, self.rotate)))
        image = sample_image(image, grid, self.crop, fill)
        labels = sample_labels(labels, grid, self.crop, IGNORE)
        if self.color > 0 and not rgb:
            gain, contrast = 1 + self.color * rng.uniform(-1, 1, 2)
            image = vary_levels(image, gain, contrast, fill)
        elif self.color > 0:
            image = mix_channels(image, color_matrix(self.color, rng))
        return image, labels

    def _wanted_point(
        self, labels: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[float, float] | tuple[None, None]:
        """(y, x) of the centre of a pixel that the crop must contain, in pixels; or nothing."""
        if rng.random() >= self.rare:
            return None, None
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[: len(self.rarity)]
        chances = np.where(counts > 0, self.rarity, 0.0)
        if not chances.any():
            return None, None
        chosen = rng.choice(len(chances), p=chances / chances.sum())
        pixel = np.flatnonzero(labels.ravel() == chosen)[rng.integers(counts[chosen])]
        y, x = divmod(int(pixel), labels.shape[1])
        return y + 0.5, x + 0.5


def color_matrix(strength: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, 4): random brightness, contrast, saturation and hue as one linear map of (r, g, b, 1).

    Hue is a rotation in the YIQ plane, so luma stays; saturation scales that plane.
    """
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    turn = strength * HUE_RANGE * rng.uniform(-1, 1)
    cos, sin = saturation * math.cos(turn), saturation * math.sin(turn)
    chroma = _FROM_YIQ @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _TO_YIQ
    offset = np.full((3, 1), (1 - contrast) * MID_GREY)
    return np.hstack([brightness * contrast * chroma, offset])


def _corner(
    extent: float, crop: int, rng: np.random.Generator, point: float | None = None
) -> float:
    """Where a crop begins along one axis: inside if the image is larger, around it if not.

    point: what the crop must contain, not at its very edge unless the image ends there.
    """
    room = extent - crop
    low, high = min(0.0, room), max(0.0, room)
    if point is not None:
        low, high = (
            min(max(corner, low), high)
            for corner in (point - (1 - MARGIN) * crop, point - MARGIN * crop)
        )
    return float(rng.uniform(low, high))


Mask = NDArray[np.bool_]


def rectangle(labels: NDArray[np.uint8], rng: np.random.Generator) -> Mask:
    """bool (H, W): a box of the labels' shape, its proportion of the area drawn evenly from 0..1.

    Its centre lies anywhere, so that what lies outside is cut off, as in the original.
    """
    side = math.sqrt(rng.uniform())
    mask = np.zeros(labels.shape, bool)
    rows, columns = (
        slice(max(0, round(centre - side * extent / 2)), max(0, round(centre + side * extent / 2)))
        for centre, extent in ((rng.uniform(0, extent), extent) for extent in labels.shape)
    )
    mask[rows, columns] = True
    return mask


def some_classes(labels: NDArray[np.uint8], rng: np.random.Generator) -> Mask:
    """bool (H, W): the pixels of half of the classes that occur, drawn evenly."""
    there = np.unique(labels)
    there = there[there != IGNORE]
    chosen = rng.choice(there, (len(there) + 1) // 2, replace=False) if len(there) else there
    return np.isin(labels, chosen)


MIXES: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], Mask]] = {
    "cutmix": rectangle,
    "classmix": some_classes,
}
"""What of the second sample is laid over the first, by its labels uint8 (H, W)."""
