"""What is missing to an mIoU of 100, by kind of error.

Each wrong pixel, labelled a and predicted b, has one kind, the first that fits of

    confused   a region labelled a was not found, and one predicted b is not there: another class
    missed     a region labelled a was not found
    invented   a region predicted b is not there
    boundary   the labels have a pixel of b within the tolerance: an outline is off
    extent     what was found is too large or too small by more than that

A region (connected, 8 neighbours) of the labels was not found when less than FOUND of it is
predicted as its class; one of the prediction is not there when less than FOUND of it is labelled
so. 1 - IoU of a class is its wrong pixels, those labelled so and those predicted so, over its
union: every wrong pixel takes 1 / union from the IoU of a, and from that of b. So the kinds sum to
1 - mIoU. b counts where the labels contain it, as in the mIoU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.io.labels import connected_regions
from fcnseg.metrics.boundary import near_same

KINDS = ("confused", "missed", "invented", "boundary", "extent")

MEANINGS = {
    "confused": "an object was given another class",
    "missed": "an object was not found",
    "invented": "an object was found that is not there",
    "boundary": "an outline is off, by no more than the tolerance",
    "extent": "an object was found, but is too large or too small",
}

COLORS = ((177, 73, 206), (230, 60, 60), (255, 150, 30), (250, 220, 60), (60, 140, 255))
"""RGB of the KINDS on maps."""

FOUND = 0.1
"""Of a region's pixels that have to have its class for it to count as found."""

RIGHT = 255
"""In a map of kinds: the pixel is right, or does not count."""

Labels = NDArray[np.uint8]


def kinds_of_errors(labels: Labels, predicted: Labels, tolerance: int) -> NDArray[np.uint8]:
    """uint8 (H, W): the index in KINDS of each wrong pixel, RIGHT elsewhere.

    labels, predicted: uint8 (H, W); 255 in labels does not count. tolerance: in pixels.
    """
    predicted = np.where(labels == IGNORE, IGNORE, predicted).astype(np.uint8)
    kinds = np.full(labels.shape, RIGHT, np.uint8)
    wrong = labels != predicted
    if wrong.any():
        missed, invented = _in_lost_regions(labels, wrong), _in_lost_regions(predicted, wrong)
        near = near_same(predicted, labels, tolerance)[wrong]
        conditions = [missed & invented, missed, invented, near]
        kinds[wrong] = np.select(conditions, [0, 1, 2, 3], default=KINDS.index("extent"))
    return kinds


def count_kinds(
    labels: Labels, predicted: Labels, classes: int, tolerance: int
) -> NDArray[np.int64]:
    """int64 (kinds, K, K): wrong pixels of one image by kind, true class and predicted class."""
    kinds = kinds_of_errors(labels, predicted, tolerance)
    wrong = kinds != RIGHT
    cells = kinds[wrong].astype(np.int64) * classes + labels[wrong]
    cells = cells * classes + predicted[wrong]
    shape = (len(KINDS), classes, classes)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(np.int64)


def missing_iou(counts: NDArray[np.int64], matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 (kinds, K): what each kind of error takes from the mean IoU, by class.

    counts: of `count_kinds`, summed over images; matrix: their confusion matrix. The sum is
    1 - mIoU. NaN where nothing is labelled.
    """
    true, right = matrix.sum(1), np.diag(matrix)
    union = true + matrix.sum(0) - right
    here = true > 0
    if not here.any():
        return np.full(counts.shape[:2], np.nan)
    wrong = counts.sum(axis=2) + counts.sum(axis=1)  # labelled so, and predicted so
    weights = np.where(here, 1 / np.maximum(union, 1), 0) / here.sum()
    return np.asarray(wrong * weights, np.float64)


def _in_lost_regions(labels: Labels, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (wrong pixels,): less than FOUND of the pixel's region is right."""
    regions, sizes = connected_regions(labels)
    mine = regions[wrong]
    right = sizes - np.bincount(mine, minlength=len(sizes))
    lost: NDArray[np.bool_] = (right < FOUND * sizes)[mine]
    return lost
