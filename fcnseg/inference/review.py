"""Find labels that are probably wrong, and images that are most worth labelling.

Label errors: connected regions where the model confidently predicts another class than the label
(Northcutt, Jiang, Chuang, JAIR 2021, rank samples by the predicted probability of the label).
Slightly displaced boundaries do not count.

Images to label: those that the model is least certain about, each different from those chosen
before (greedy k-centre: Sener, Savarese, ICLR 2018), to avoid near-duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.engines.base import Floats, Labels
from fcnseg.io.images import resize_image
from fcnseg.io.labels import connected_regions
from fcnseg.metrics.regions import matches_within

MAX_REGIONS = 5
"""Regions kept per image, those with the highest score."""

MIN_PROBABILITY = 1e-3
"""Probabilities are clamped to this, so that no pixel outweighs the others."""

NEAR_DUPLICATE = 0.15
"""Images closer than this, relative to the median distance, are near-duplicates."""


@dataclass(frozen=True)
class Suspect:
    """A region whose labels are probably wrong.

    index: of the image in the dataset. labelled: the most frequent label in the region.
    score: the higher, the more probably the labels are wrong (see _scores). box: left, top, width,
    height in pixels; area: its pixels. p_predicted, p_labelled: mean probabilities, 0..1.
    """

    index: int
    name: str
    labelled: int
    predicted: int
    score: float
    area: int
    box: tuple[int, int, int, int]
    p_predicted: float
    p_labelled: float


def find_suspects(
    index: int, name: str, labels: Labels, probabilities: Floats, tolerance: int
) -> list[Suspect]:
    """The suspicious regions of one image, by descending score.

    labels: uint8 (H, W); probabilities: float32 (K, H, W). tolerance: of boundaries, in pixels.
    """
    counted = labels != IGNORE
    predicted = np.where(counted, probabilities.argmax(axis=0), IGNORE).astype(np.uint8)
    differs = counted & (labels != predicted)
    wrong = differs & ~(
        matches_within(predicted, labels, tolerance) & matches_within(labels, predicted, tolerance)
    )
    if not wrong.any():
        return []
    regions, _ = connected_regions(np.where(wrong, predicted, IGNORE).astype(np.uint8))
    rows, columns = np.nonzero(wrong)
    _, mine = np.unique(regions[wrong], return_inverse=True)
    truth = labels[wrong]
    p_predicted = probabilities[predicted[wrong], rows, columns]
    p_labelled = probabilities[truth, rows, columns]
    complete = np.maximum(_part_of_object(predicted, differs), _part_of_object(labels, differs))
    scores = _scores(mine, p_predicted, p_labelled, complete[wrong]) / np.sqrt(counted.sum())
    found = []
    for region in np.argsort(-scores)[:MAX_REGIONS].tolist():
        inside = mine == region
        y, x = rows[inside], columns[inside]
        box = (int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1)
        found.append(
            Suspect(
                index,
                name,
                int(np.bincount(truth[inside]).argmax()),
                int(predicted[y[0], x[0]]),
                float(scores[region]),
                int(inside.sum()),
                box,
                float(p_predicted[inside].mean()),
                float(p_labelled[inside].mean()),
            )
        )
    return found


def _part_of_object(labels: Labels, differs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 (H, W): the proportion of each pixel's connected region that differs, 0..1."""
    regions, areas = connected_regions(labels)
    part: NDArray[np.float64] = np.bincount(regions[differs], minlength=len(areas)) / areas
    return part[regions]


def _scores(
    mine: NDArray[np.intp], p_predicted: Floats, p_labelled: Floats, complete: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The score of each region; all arguments are per pixel, mine: the index of its region.

    The product of: the mean log-odds of the predicted class against the labelled one, cubed; the
    proportion of the predicted or labelled object that differs (1 for a missing object, less for a
    poor outline); the square root of the area and of the region's proportion of all differences in
    the image (low when the model fails on the entire image). The exponents were chosen on
    simulated errors: benchmarks/review.py.
    """
    area = np.bincount(mine)
    odds = np.log(p_predicted) - np.log(np.maximum(p_labelled, MIN_PROBABILITY))
    margin = np.bincount(mine, (p_predicted - p_labelled) ** 2)
    wanting = np.bincount(mine, complete) / area
    size = np.sqrt(area * margin / margin.sum())
    scores: NDArray[np.float64] = (np.bincount(mine, odds) / area) ** 3 * wanting * size
    return scores


def uncertainty(probabilities: Floats) -> float:
    """Mean entropy of probabilities (K, H, W), divided by its maximum: 0..1."""
    count = len(probabilities)
    if count == 1:
        return 0.0
    bits = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
    return float(bits.mean() / np.log(count))


def features(image: NDArray[np.uint8], probabilities: Floats) -> Floats:
    """A feature vector float32 (D,) of an image: mean colors on an 8x8 grid, classes on a 4x4."""
    colors = resize_image(image, (8, 8)).astype(np.float32) / 255
    classes = [
        part.mean(axis=(1, 2))
        for rows in np.array_split(probabilities, 4, axis=1)
        for part in np.array_split(rows, 4, axis=2)
        if part.size
    ]
    grid = np.stack(classes).astype(np.float32)
    return np.concatenate(
        [colors.ravel() / np.sqrt(colors.size), grid.ravel() / np.sqrt(len(grid))]
    )


def choose(unsure: Sequence[float], found: Sequence[Floats], count: int) -> list[int]:
    """Indices of the images most worth labelling, in order; fewer than count if others are alike.

    unsure: the uncertainty of each image; found: the features of each.
    """
    doubts, points = np.asarray(unsure, np.float64), np.stack(found).astype(np.float64)
    chosen = [int(doubts.argmax())]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    usual = float(np.median(nearest))
    while len(chosen) < min(count, len(points)):
        gain = np.where(nearest > NEAR_DUPLICATE * usual, doubts * nearest, -1)
        best = int(gain.argmax())
        if gain[best] < 0 or best in chosen:
            break
        chosen.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(points - points[best], axis=1))
    return chosen
