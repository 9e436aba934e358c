"""Boundary metrics (boundary IoU and F1), and kinds of errors.

Boundary IoU (Cheng, Girshick, Dollár, Berg, Kirillov, CVPR 2021): the IoU of the pixels of a class
that are within d pixels of its outline, in the labels and in the prediction; d is BAND times the
image's diagonal, distances are Chebyshev distances (their erosion by 3x3 squares), and the image's
border is an outline.

Boundary F1 (Csurka, Larlus, Perronnin, BMVC 2013): an outline pixel of a class is correct when the
other map has an outline pixel of that class within the tolerance, in Euclidean distance; the
image's border is not an outline. Counts are summed over the images before the division.

Ignored pixels are not a class: they have no outline and are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.io.labels import connected_regions

BAND = 0.02
"""Distance d of boundary IoU, relative to an image's diagonal."""

COUNTS = ("band_true", "band_found", "band_both", "edge_true", "edge_met", "edge_found", "edge_hit")
"""Counts per class: band pixels in the labels, in the prediction and in both; outline pixels of the
labels, and those of them that were found; of the prediction, and those of them that are correct."""

Labels = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


def boundary_counts(labels: Labels, predicted: Labels, classes: int, tolerance: int) -> Counts:
    """int64 (K, 7), the COUNTS of one image's labels and prediction, both uint8 (H, W).

    tolerance: of outlines, in pixels.
    """
    predicted = np.where(labels == IGNORE, IGNORE, predicted).astype(np.uint8)
    distance = band_width(labels.shape)
    true_band = np.where(class_band(labels, distance), labels, IGNORE)
    found_band = np.where(class_band(predicted, distance), predicted, IGNORE)
    both_band = np.where(true_band == found_band, true_band, IGNORE)
    true_edge, found_edge = outlines(labels), outlines(predicted)
    met = np.where(matches_within(true_edge, found_edge, tolerance), true_edge, IGNORE)
    hit = np.where(matches_within(found_edge, true_edge, tolerance), found_edge, IGNORE)
    maps = (true_band, found_band, both_band, true_edge, met, found_edge, hit)
    counts = [np.bincount(one[one != IGNORE], minlength=classes) for one in maps]
    return np.stack(counts, axis=1).astype(np.int64)


def boundary_iou(counts: Counts) -> list[float | None]:
    """Boundary IoU of each class from COUNTS; None if the labels have no outline of it."""
    true, found, both = (counts[:, index] for index in range(3))
    return [
        float(both[k] / (true[k] + found[k] - both[k])) if true[k] else None
        for k in range(len(counts))
    ]


def boundary_f1(counts: Counts) -> list[float | None]:
    """Boundary F1 of each class from COUNTS; None if the labels have no outline of it."""
    true, met, found, hit = (counts[:, index] for index in range(3, 7))
    return [_f1(*map(int, row)) if row[0] else None for row in zip(true, met, found, hit)]  # noqa: B905


def _f1(true: int, met: int, found: int, hit: int) -> float:
    if not met:  # then hit is 0 as well, because distances are symmetric
        return 0.0
    precision, recall = hit / found, met / true
    return 2 * precision * recall / (precision + recall)


def band_width(size: tuple[int, ...]) -> int:
    """The distance d of boundary IoU, in pixels, for an image of (height, width)."""
    return max(1, round(BAND * math.hypot(size[0], size[1])))


def class_band(labels: Labels, distance: int) -> Bools:
    """bool (H, W): whether another class, or the image's border, is within `distance` pixels."""
    low = window(labels, distance, np.minimum, IGNORE)
    high = window(np.where(labels == IGNORE, 0, labels), distance, np.maximum, 0)
    band = low < high
    for side in (slice(None, distance), slice(max(0, len(labels) - distance), None)):
        band[side] = True
    for side in (slice(None, distance), slice(max(0, labels.shape[1] - distance), None)):
        band[:, side] = True
    return band


def outlines(labels: Labels) -> Labels:
    """uint8 (H, W): the labels of pixels with a 4-neighbour of another class, else 255."""
    edge = np.zeros(labels.shape, np.bool_)
    for one, other in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        first, second = labels[one], labels[other]
        differ = (first != second) & (first != IGNORE) & (second != IGNORE)
        edge[one] |= differ
        edge[other] |= differ
    return np.where(edge, labels, IGNORE).astype(np.uint8)


def matches_within(one: Labels, other: Labels, tolerance: int) -> Bools:
    """bool (H, W): whether `other` has the value of `one` within `tolerance` pixels, Euclidean.

    The result is meaningless where `one` is 255.
    """
    height, width = one.shape
    padded = np.pad(other, tolerance, constant_values=IGNORE)
    near = np.zeros(one.shape, np.bool_)
    for down, right in _disk(tolerance):
        near |= padded[down : down + height, right : right + width] == one
    return near


def distances(labels: Labels, radii: tuple[int, ...]) -> NDArray[np.uint8]:
    """uint8 (H, W): how many of the radii are less than the distance to the nearest outline.

    Chebyshev distance; an outline pixel has 0.
    """
    edge = (outlines(labels) != IGNORE).astype(np.uint8)
    beyond = np.zeros(labels.shape, np.uint8)
    for radius in radii:
        beyond += window(edge, radius, np.maximum, 0) == 0
    return beyond


def window(
    values: NDArray[Any], radius: int, operation: Callable[..., NDArray[Any]], outside: int
) -> NDArray[Any]:
    """Apply np.minimum or np.maximum over a square window of side 2 radius + 1, to (H, W).

    outside: the padding value.
    """
    result = np.pad(values, radius, constant_values=outside)
    for axis in (0, 1):
        have, wanted = 1, 2 * radius + 1
        while have < wanted:  # double the window's length by combining two windows
            step = min(have, wanted - have)
            first, second = [slice(None)] * 2, [slice(None)] * 2
            first[axis], second[axis] = slice(None, -step), slice(step, None)
            result = operation(result[tuple(first)], result[tuple(second)])
            have += step
    return result


def _disk(radius: int) -> Iterator[tuple[int, int]]:
    """The offsets (down, right) in a square of side 2 radius + 1 that are inside its circle."""
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if down * down + right * right <= radius * radius:
                yield down + radius, right + radius


# --- what is missing to an mIoU of 100, by kind of error ----------------------------------------

KINDS = ("confused", "missed", "invented", "boundary", "extent")
"""Each wrong pixel, labelled a and predicted b, has one kind, the first that applies:

    confused   a region labelled a is missed, and a region predicted b is invented: another class
    missed     a region labelled a is missed
    invented   a region predicted b is invented
    boundary   the labels have a pixel of b within the tolerance: an outline is displaced
    extent     an object is too large or too small by more than that

A region (connected, 8 neighbours) of the labels is missed when less than FOUND of it is predicted
as its class; one of the prediction is invented when less than FOUND of it is labelled as its class.
1 - IoU of a class is the number of its wrong pixels (labelled or predicted as it) over its union:
every wrong pixel reduces the IoU of a by 1 / union, and that of b. Therefore the kinds sum to
1 - mIoU. b is counted if the labels contain it, as in the mIoU.
"""

MEANINGS = {
    "confused": "an object was given another class",
    "missed": "an object was not found",
    "invented": "an object was found that is not there",
    "boundary": "an outline is displaced, by no more than the tolerance",
    "extent": "an object was found, but is too large or too small",
}

COLORS = ((177, 73, 206), (230, 60, 60), (255, 150, 30), (250, 220, 60), (60, 140, 255))
"""RGB colors of the KINDS."""

FOUND = 0.1
"""Minimum proportion of a region's pixels with its class, for the region to count as found."""

RIGHT = 255
"""In a map of kinds: the pixel is correct or ignored."""


def kinds_of_errors(labels: Labels, predicted: Labels, tolerance: int) -> NDArray[np.uint8]:
    """uint8 (H, W): the index in KINDS of each wrong pixel, RIGHT elsewhere.

    labels, predicted: uint8 (H, W); 255 in labels is ignored. tolerance: in pixels.
    """
    predicted = np.where(labels == IGNORE, IGNORE, predicted).astype(np.uint8)
    kinds = np.full(labels.shape, RIGHT, np.uint8)
    wrong = labels != predicted
    if wrong.any():
        missed, invented = _in_lost_regions(labels, wrong), _in_lost_regions(predicted, wrong)
        near = matches_within(predicted, labels, tolerance)[wrong]
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
    """float64 (kinds, K): the loss of mean IoU by each kind of error and class.

    counts: of `count_kinds`, summed over images; matrix: their confusion matrix. The sum is
    1 - mIoU. NaN if nothing is labelled.
    """
    true, right = matrix.sum(1), np.diag(matrix)
    union = true + matrix.sum(0) - right
    here = true > 0
    if not here.any():
        return np.full(counts.shape[:2], np.nan)
    wrong = counts.sum(axis=2) + counts.sum(axis=1)  # labelled, and predicted as a class
    weights = np.where(here, 1 / np.maximum(union, 1), 0) / here.sum()
    return np.asarray(wrong * weights, np.float64)


def _in_lost_regions(labels: Labels, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (wrong pixels,): whether less than FOUND of the pixel's region is correct."""
    regions, sizes = connected_regions(labels)
    mine = regions[wrong]
    right = sizes - np.bincount(mine, minlength=len(sizes))
    lost: NDArray[np.bool_] = (right < FOUND * sizes)[mine]
    return lost
