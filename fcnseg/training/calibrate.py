"""Probabilities that mean what they say: one temperature, found on the validation images.

Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017): logits are divided by
the number that makes the labels most likely. No answer changes, only how sure it is. Here
the division is done once, in the weights of the score layers, so that every engine and
every exported file has it for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.classes import IGNORE
from fcnseg.data.dataset import SegmentationDataset
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.training.start import class_axes

IMAGES, PIXELS = 64, 4000
"""How many images are looked at, and how many pixels of each."""

LIMIT = 10.0
"""Temperatures are looked for between 1 / LIMIT and LIMIT."""

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A picture uint8 (H, W, 3) -> float32 (K, H, W)."""


def best_temperature(logits_of: Logits, dataset: SegmentationDataset) -> float:
    """The temperature under which a sample of the labelled pixels is most likely.

    1.0 when there is no labelled pixel.
    """
    logits, labels = _sample(logits_of, dataset)
    if not len(labels):
        return 1.0

    def surprise(log_scale: float) -> float:
        return float(F.cross_entropy(logits * math.exp(log_scale), labels))

    # Convex in the scale, so a golden section finds the minimum.
    return math.exp(-_golden_section(surprise, -math.log(LIMIT), math.log(LIMIT)))


def _sample(logits_of: Logits, dataset: SegmentationDataset) -> tuple[Tensor, Tensor]:
    """(P, K) float64 logits and (P,) labels of pixels spread over images spread over the set."""
    logits, labels = [torch.empty(0, len(dataset.classes))], [torch.empty(0, dtype=torch.long)]
    for index in range(0, len(dataset), max(1, len(dataset) // IMAGES)):
        sample = dataset[index]
        counted = np.flatnonzero(sample.labels.ravel() != IGNORE)
        chosen = counted[:: max(1, len(counted) // PIXELS)]
        scores = logits_of(sample.image).reshape(len(dataset.classes), -1)[:, chosen]
        logits.append(torch.from_numpy(scores.T.copy()))
        labels.append(torch.from_numpy(sample.labels.ravel()[chosen].astype(np.int64)))
    return torch.cat(logits).double(), torch.cat(labels)


def _golden_section(
    function: Callable[[float], float], low: float, high: float, *, width: float = 1e-4
) -> float:
    """Where a function with one minimum has it."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > width:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def cooled(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    """The checkpoint with all logits divided by a temperature, which its `extra` remembers."""
    # Scores are linear in these tensors, and what follows them is linear in the scores.
    scores = [name for name in class_axes(checkpoint.spec) if ".upsamples." not in name]
    weights = dict(checkpoint.weights)
    for name in scores:
        weights[name] = weights[name] / temperature
    before = float(checkpoint.extra.get("temperature", 1.0))
    extra = {**checkpoint.extra, "temperature": before * temperature}
    return replace(checkpoint, weights=weights, extra=extra)
