"""Whether a model is as sure as it is right: expected calibration error (ECE).

Naeini, Cooper, Hauskrecht, AAAI 2015: pixels are put into BINS by the probability of the class
predicted; ECE is the mean distance of a bin's accuracy from its mean probability, weighted by its
pixels. By class (the one predicted), and by distance from an outline of the labels, as most errors
lie there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.metrics.boundary import distances

BINS = 15

RADII = (1, 3, 7, 15)
"""Pixels from an outline where one group of distances ends and the next begins."""

GROUPS = ("0 to 1", "2 to 3", "4 to 7", "8 to 15", "16 and more")
"""Distances from an outline, in pixels."""


@dataclass
class Calibration:
    """Sums by predicted class, distance and bin of probability: float64 (3, K, distances, BINS).

    sums: pixels, those that are right, and the sum of their probabilities.
    """

    classes: int
    sums: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((3, self.classes, len(GROUPS), BINS))

    def add(
        self,
        labels: NDArray[np.uint8],
        predicted: NDArray[np.uint8],
        confidence: NDArray[np.float32],
    ) -> None:
        """Count one image: labels and prediction uint8 (H, W), confidence float32 (H, W)."""
        counted = labels != IGNORE
        sure = confidence[counted].astype(np.float64)
        found = predicted[counted].astype(np.int64)
        far = distances(labels, RADII)[counted]
        bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)  # (low, high]
        cells = (found * len(GROUPS) + far) * BINS + bins
        size = self.sums[0].size
        for row, weights in enumerate((None, labels[counted] == found, sure)):
            counts = np.bincount(cells, weights, minlength=size)
            self.sums[row] += counts.reshape(self.sums[row].shape)

    @property
    def ece(self) -> float | None:
        """0..1; None where nothing was counted."""
        return _ece(self.sums.sum(axis=(1, 2)))

    @property
    def by_class(self) -> list[float | None]:
        """ECE of the pixels predicted as each class; None for one that was not predicted."""
        return [_ece(self.sums[:, index].sum(axis=1)) for index in range(self.classes)]

    @property
    def by_distance(self) -> dict[str, float | None]:
        """ECE of the pixels of each group of distances from an outline, in pixels."""
        return {name: _ece(self.sums[:, :, index].sum(axis=1)) for index, name in enumerate(GROUPS)}

    @property
    def curve(self) -> list[tuple[float, float, int]]:
        """(mean probability, accuracy, pixels) of each bin that has pixels."""
        pixels, right, sure = self.sums.sum(axis=(1, 2))
        return [
            (float(sure[b] / pixels[b]), float(right[b] / pixels[b]), int(pixels[b]))
            for b in range(BINS)
            if pixels[b]
        ]


def _ece(sums: NDArray[np.float64]) -> float | None:
    """Of (3, BINS)."""
    pixels, right, sure = sums
    return float(np.abs(right - sure).sum() / pixels.sum()) if pixels.any() else None
