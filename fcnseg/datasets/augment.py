"""Augmentation of training samples: crop, scale, flip, rotation, color; mixing two images."""

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
"""Fixed point of contrast changes (18 % reflectance in sRGB)."""

HUE_RANGE = math.pi / 3
"""Maximum hue rotation in radians at color strength 1."""

MARGIN = 1 / 8
"""Minimum distance of a required pixel from the crop's edge, as a fraction of its side."""

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training samples.

    crop: (height, width) of the result, in pixels.
    scale: range of the random scale, log-uniform.
    flip: probability of a horizontal flip.
    rotate: maximum rotation in degrees about the crop's center, in either direction.
    color: 0..1, strength of brightness, contrast, saturation and hue changes.
    rare: probability that a crop must contain a pixel of some class, chosen among the classes in
        the image with the probabilities `rarity`; otherwise crops are uniform.
    rarity: weight of each class.
    mix: which part of a second sample is pasted (see MIXES), or "none"; mix_share: its
        probability. Done by the dataset, which has the other samples.
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
        """Augment a sample: image (h, w, C) and labels uint8 (h, w) of the size `crop`.

        fill: value outside the image; labels there are 255.
        rgb: whether it is uint8 RGB. For other bands only brightness and contrast are changed,
            equally in all bands, contrast about `fill`.
        base_scale: a constant factor of the scale.
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
        """(y, x) of the center of a pixel that the crop must contain; or (None, None)."""
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
    """(3, 4): random brightness, contrast, saturation and hue as an affine map of (r, g, b, 1).

    Hue is a rotation in the IQ plane, which preserves luma; saturation scales that plane.
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
    """The start of a crop along one axis: within the image, or around it if the crop is larger.

    point: coordinate that the crop must contain, with a margin unless the image ends there.
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
    """bool (H, W): a box with the labels' aspect ratio and a uniform random proportion of the area.

    Its center is uniform, and it is clipped to the image, as in the original CutMix.
    """
    side = math.sqrt(rng.uniform())
    mask = np.zeros(labels.shape, bool)
    rows, columns = (
        slice(max(0, round(center - side * extent / 2)), max(0, round(center + side * extent / 2)))
        for center, extent in ((rng.uniform(0, extent), extent) for extent in labels.shape)
    )
    mask[rows, columns] = True
    return mask


def some_classes(labels: NDArray[np.uint8], rng: np.random.Generator) -> Mask:
    """bool (H, W): the pixels of a random half of the classes in the labels."""
    present = np.unique(labels)
    present = present[present != IGNORE]
    half = (len(present) + 1) // 2
    chosen = rng.choice(present, half, replace=False) if len(present) else present
    return np.isin(labels, chosen)


MIXES: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], Mask]] = {
    "cutmix": rectangle,
    "classmix": some_classes,
}
"""Name -> mask of the second sample's pasted pixels, from its labels uint8 (H, W)."""
