"""All metrics of an evaluation, per image and in total.

Expected calibration error (ECE; Naeini, Cooper, Hauskrecht, AAAI 2015): pixels are put into BINS
by the probability of the predicted class; ECE is the mean absolute difference of a bin's accuracy
and its mean probability, weighted by its pixels. Also by predicted class, and by distance from an
outline of the labels, where most errors are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.errors import FcnsegError
from fcnseg.metrics import Confusion, Report, mean, none_for_nan
from fcnseg.metrics.regions import (
    COUNTS,
    KINDS,
    boundary_counts,
    boundary_f1,
    boundary_iou,
    count_kinds,
    distances,
    missing_iou,
)

TOLERANCE = 2
"""Of outlines, in pixels."""


BINS = 15

RADII = (1, 3, 7, 15)
"""Limits of the groups of distances from an outline, in pixels."""

GROUPS = ("0 to 1", "2 to 3", "4 to 7", "8 to 15", "16 and more")
"""Distances from an outline, in pixels."""


@dataclass
class Calibration:
    """Accumulates the calibration error.

    sums: float64 (3, K, distances, BINS): pixels, correct pixels and the sum of probabilities, by
    predicted class, distance and bin of probability.
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
        """The ECE, 0..1; None if nothing was counted."""
        return _ece(self.sums.sum(axis=(1, 2)))

    @property
    def by_class(self) -> list[float | None]:
        """ECE of the pixels predicted as each class; None for classes never predicted."""
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
    """The ECE of sums (3, BINS)."""
    pixels, right, sure = sums
    return float(np.abs(right - sure).sum() / pixels.sum()) if pixels.any() else None


@dataclass(frozen=True, eq=False)
class ImageScore:
    """The scores of one image, with a sparse confusion matrix.

    index: in the dataset. size: height, width. ignored: number of ignored pixels.
    cells, counts: int64 (C,), indices into the flat matrix and their values that are not 0.
    boundary: int64 (K, 7), see fcnseg.metrics.regions.COUNTS.
    """

    index: int
    name: str
    size: tuple[int, int]
    ignored: int
    classes: tuple[str, ...]
    cells: NDArray[np.int64]
    counts: NDArray[np.int64]
    boundary: NDArray[np.int64]

    @property
    def matrix(self) -> NDArray[np.int64]:
        """int64 (K, K) [true, predicted]."""
        size = len(self.classes)
        flat = np.zeros(size * size, np.int64)
        flat[self.cells] = self.counts
        return flat.reshape(size, size)

    @property
    def report(self) -> Report:
        """The scores of this image only, over the classes in its labels."""
        return Report(self.matrix, self.classes, 1)

    @property
    def outline_f1(self) -> float:
        """The mean boundary F1 of the classes with outlines in this image; NaN without any."""
        return mean(boundary_f1(self.boundary))


@dataclass
class Scores:
    """All metrics, accumulated over images.

    tolerance: of outlines, in pixels. errors: int64 (kinds, K, K), wrong pixels.
    unusable: indices of images that could not be read, and their errors.
    """

    classes: tuple[str, ...]
    tolerance: int = TOLERANCE
    images: list[ImageScore] = field(default_factory=list)
    unusable: list[tuple[int, FcnsegError]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.classes)
        self.matrix: NDArray[np.int64] = np.zeros((count, count), np.int64)
        self.boundary: NDArray[np.int64] = np.zeros((count, len(COUNTS)), np.int64)
        self.errors: NDArray[np.int64] = np.zeros((len(KINDS), count, count), np.int64)
        self.calibration = Calibration(count)

    def add(
        self,
        index: int,
        name: str,
        labels: NDArray[np.uint8],
        predicted: NDArray[np.uint8],
        confidence: NDArray[np.float32] | None = None,
    ) -> None:
        """Count one image: labels and prediction uint8 (H, W), confidence float32 (H, W)."""
        count = len(self.classes)
        confusion = Confusion(count)
        confusion.add(labels, predicted)
        boundary = boundary_counts(labels, predicted, count, self.tolerance)
        flat = confusion.matrix.ravel()
        cells = np.flatnonzero(flat)
        size, ignored = (labels.shape[0], labels.shape[1]), int((labels == IGNORE).sum())
        self.images.append(
            ImageScore(index, name, size, ignored, self.classes, cells, flat[cells], boundary)
        )
        self.matrix += confusion.matrix
        self.boundary += boundary
        self.errors += count_kinds(labels, predicted, count, self.tolerance)
        if confidence is not None:
            self.calibration.add(labels, predicted, confidence)

    @classmethod
    def joined(cls, parts: Iterable[Scores]) -> Scores:
        """Merge the scores of several parts of a dataset, with images in order."""
        first, *rest = parts
        for part in rest:
            first.images += part.images
            first.unusable += part.unusable
            first.matrix += part.matrix
            first.boundary += part.boundary
            first.errors += part.errors
            first.calibration.sums += part.calibration.sums
        first.images.sort(key=lambda image: image.index)
        first.unusable.sort(key=lambda one: one[0])
        return first

    def reordered(self, names: tuple[str, ...]) -> Scores:
        """A copy with the classes in another order."""
        if names == self.classes:
            return self
        order = [self.classes.index(name) for name in names]
        made = Scores(names, self.tolerance, unusable=self.unusable)
        made.matrix = self.matrix[np.ix_(order, order)]
        made.boundary = self.boundary[order]
        made.errors = self.errors[:, order][:, :, order]
        made.calibration.sums = self.calibration.sums[:, order]
        for image in self.images:
            flat = image.matrix[np.ix_(order, order)].ravel()
            cells = np.flatnonzero(flat)
            boundary = image.boundary[order]
            made.images.append(
                replace(image, classes=names, cells=cells, counts=flat[cells], boundary=boundary)
            )
        return made

    @property
    def report(self) -> Report:
        """IoU, Dice and accuracy of all images together."""
        return Report(self.matrix, self.classes, len(self.images))

    @property
    def missing(self) -> dict[str, float]:
        """The loss of mIoU by each kind of error; the sum is 1 - mIoU."""
        rows = missing_iou(self.errors, self.matrix).sum(axis=1)
        return dict(zip(KINDS, rows.tolist(), strict=True))

    @property
    def ignored(self) -> float:
        """The proportion of ignored pixels, 0..1."""
        total = sum(math.prod(image.size) for image in self.images)
        return sum(image.ignored for image in self.images) / max(1, total)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: those of the report and the other metrics, per class and mean."""
        values = self.report.as_dict()
        outlines = boundary_iou(self.boundary), boundary_f1(self.boundary)
        missing = missing_iou(self.errors, self.matrix)
        here = self.matrix.sum(1) > 0
        for k, row in enumerate(values["classes"]):
            row["boundary_iou"], row["boundary_f1"] = outlines[0][k], outlines[1][k]
            row["ece"] = self.calibration.by_class[k]
            kinds = dict(zip(KINDS, missing[:, k].tolist(), strict=True))
            row["missing"] = kinds if here[k] else None
        return {
            **values,
            "boundary_iou": none_for_nan(mean(outlines[0])),
            "boundary_f1": none_for_nan(mean(outlines[1])),
            "ece": self.calibration.ece,
            "ece_by_distance": self.calibration.by_distance,
            "missing": {kind: none_for_nan(value) for kind, value in self.missing.items()},
        }
