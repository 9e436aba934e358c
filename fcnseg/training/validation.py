"""Images of how training goes: the same few each time, the worst at the end; TensorBoard's log."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.datasets.loader import LabelledImages, Sample
from fcnseg.errors import MissingExtra, percent, shown
from fcnseg.inference.prediction import PredictLabels
from fcnseg.io.draw import caption, overlay, side_by_side
from fcnseg.io.images import write_image
from fcnseg.metrics import Confusion, Report
from fcnseg.progress import Callback, EpochEnd, Event

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
