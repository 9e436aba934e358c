"""Probabilities that mean what they say: one temperature, found on the validation images.

Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017): logits are divided by
the number that makes the labels most likely. No predicted changes, only how sure it is. Here
the division is done once, in the weights of the score layers, so that every engine and
every exported file has it for nothing.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.classes import IGNORE
from fcnseg.datasets.loader import LabelledImages, Sample
from fcnseg.errors import MissingExtra, percent, shown
from fcnseg.inference.prediction import PredictLabels
from fcnseg.io.draw import caption, overlay, side_by_side
from fcnseg.io.images import write_image
from fcnseg.metrics import Confusion, Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Callback, EpochEnd, Event
from fcnseg.training.initial_weights import class_axes

IMAGES, PIXELS = 64, 4000
"""How many images are looked at, and how many pixels of each."""

LIMIT = 10.0
"""Temperatures are looked for between 1 / LIMIT and LIMIT."""

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""An image uint8 (H, W, 3) -> float32 (K, H, W)."""


def best_temperature(logits_of: Logits, dataset: LabelledImages) -> float:
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


def _sample(logits_of: Logits, dataset: LabelledImages) -> tuple[Tensor, Tensor]:
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


def with_temperature(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    """The checkpoint with all logits divided by a temperature, which its `extra` remembers."""
    # Scores are linear in these tensors, and what follows them is linear in the scores.
    scores = [name for name in class_axes(checkpoint.spec) if ".upsamples." not in name]
    weights = dict(checkpoint.weights)
    for name in scores:
        weights[name] = weights[name] / temperature
    before = float(checkpoint.extra.get("temperature", 1.0))
    extra = {**checkpoint.extra, "temperature": before * temperature}
    return replace(checkpoint, weights=weights, extra=extra)


SHOWN = 4
"""Validation images that are drawn again and again."""

WORST = 6

ALPHA = 0.6


def draw_same(
    predict: PredictLabels, dataset: LabelledImages, folder: Path, *, epoch: int
) -> list[Path]:
    """Image, labels and prediction of a few images spread over the dataset, one file each."""
    written = []
    for index in range(0, len(dataset), max(1, len(dataset) // SHOWN)):
        sample = dataset[index]
        name = f"{_flat(sample.name)}_epoch{epoch:03}.png"
        image = _beside(sample, predict([sample.image])[0], dataset, f"epoch {epoch}")
        write_image(folder / name, image)
        written.append(folder / name)
        if len(written) == SHOWN:
            break
    return written


def draw_worst(predict: PredictLabels, dataset: LabelledImages, folder: Path) -> list[Path]:
    """The images with the lowest pixel accuracy, the worst first."""
    accuracies = [_pixel_accuracy(predict, dataset, index) for index in range(len(dataset))]
    written = []
    for rank, index in enumerate(np.argsort(accuracies, kind="stable")[:WORST], start=1):
        sample = dataset[int(index)]
        text = f"{percent(accuracies[index], 1)} right: {sample.name}"
        path = folder / f"worst{rank}_{_flat(sample.name)}.png"
        write_image(path, _beside(sample, predict([sample.image])[0], dataset, text))
        written.append(path)
    return written


def _pixel_accuracy(predict: PredictLabels, dataset: LabelledImages, index: int) -> float:
    """Pixel accuracy of one image; 1 where nothing is labelled."""
    sample = dataset[index]
    confusion = Confusion(len(dataset.classes))
    confusion.add(sample.labels, predict([sample.image])[0])
    accuracy = Report.of(confusion.matrix, dataset.classes, 1).pixel_accuracy
    return 1.0 if np.isnan(accuracy) else accuracy


def _beside(
    sample: Sample, predicted: NDArray[np.uint8], dataset: LabelledImages, text: str
) -> NDArray[np.uint8]:
    """(image, labels, prediction, what is wrong) in a row with their captions."""
    image = dataset.to_rgb(sample.image)
    wrong = np.where((sample.labels != IGNORE) & (predicted != sample.labels), 255, 0)
    panels: Sequence[tuple[NDArray[np.uint8], str]] = (
        (image, text),
        (overlay(image, sample.labels, dataset.classes, alpha=ALPHA), "labels"),
        (overlay(image, predicted, dataset.classes, alpha=ALPHA), "prediction"),
        (np.repeat(wrong[..., None], 3, axis=2).astype(np.uint8), "wrong pixels"),
    )
    return side_by_side([caption(panel, title) for panel, title in panels])


def _flat(name: str) -> str:
    """A sample's name as part of a file's."""
    return name.replace("/", "_").replace("\\", "_")


def with_tensorboard(callback: Callback, folder: Path, *, epochs_done: int = 0) -> Callback:
    """A callback that also writes each epoch's row and class IoUs as scalars into a folder.

    epochs_done: rows that are there already; what a killed run wrote beyond them is
    taken back. MissingExtra without the extra "log".
    """
    try:
        tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise MissingExtra("--tensorboard", "log") from None
    writer = tensorboard.SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def listen(event: Event) -> None:
        if isinstance(event, EpochEnd):
            for name, value in event.values.items():
                if name != "epoch":
                    writer.add_scalar(name, value, event.epoch)
            for name, iou in event.class_iou.items():
                if iou is not None:
                    writer.add_scalar(f"iou/{shown(name)}", iou, event.epoch)
            writer.flush()
        callback(event)

    return listen
