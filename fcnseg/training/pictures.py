"""Pictures of a training for people: the same few images as it learns, the worst at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.data.dataset import Sample, SegmentationDataset
from fcnseg.evaluation import PredictLabels
from fcnseg.media.draw import caption, overlay, side_by_side
from fcnseg.media.images import write_image
from fcnseg.metrics import Confusion, Report

SHOWN = 4
"""Validation images that are drawn again and again."""

WORST = 6

ALPHA = 0.6


def draw_same(
    predict: PredictLabels, dataset: SegmentationDataset, folder: Path, *, epoch: int
) -> list[Path]:
    """Image, labels and answer of a few images spread over the dataset, one file each."""
    written = []
    for index in range(0, len(dataset), max(1, len(dataset) // SHOWN)):
        sample = dataset[index]
        name = f"{_flat(sample.name)}_epoch{epoch:03}.png"
        picture = _beside(sample, predict([sample.image])[0], dataset, f"epoch {epoch}")
        write_image(folder / name, picture)
        written.append(folder / name)
        if len(written) == SHOWN:
            break
    return written


def draw_worst(predict: PredictLabels, dataset: SegmentationDataset, folder: Path) -> list[Path]:
    """The images with the lowest share of right pixels, the worst first."""
    shares = [_share_right(predict, dataset, index) for index in range(len(dataset))]
    written = []
    for rank, index in enumerate(np.argsort(shares, kind="stable")[:WORST], start=1):
        sample = dataset[int(index)]
        text = f"{shares[index]:.1%} right: {sample.name}"
        path = folder / f"worst{rank}_{_flat(sample.name)}.png"
        write_image(path, _beside(sample, predict([sample.image])[0], dataset, text))
        written.append(path)
    return written


def _share_right(predict: PredictLabels, dataset: SegmentationDataset, index: int) -> float:
    """Pixel accuracy of one image; 1 where nothing is labelled."""
    sample = dataset[index]
    confusion = Confusion(len(dataset.classes))
    confusion.add(sample.labels, predict([sample.image])[0])
    share = Report.of(confusion.matrix, dataset.classes, 1).pixel_accuracy
    return 1.0 if np.isnan(share) else share


def _beside(
    sample: Sample, answer: NDArray[np.uint8], dataset: SegmentationDataset, text: str
) -> NDArray[np.uint8]:
    """(image, labels, answer, what is wrong) in a row with their captions."""
    wrong = np.where((sample.labels != IGNORE) & (answer != sample.labels), 255, 0)
    panels: Sequence[tuple[NDArray[np.uint8], str]] = (
        (sample.image, text),
        (overlay(sample.image, sample.labels, dataset.classes, alpha=ALPHA), "labels"),
        (overlay(sample.image, answer, dataset.classes, alpha=ALPHA), "answer"),
        (np.repeat(wrong[..., None], 3, axis=2).astype(np.uint8), "wrong pixels"),
    )
    return side_by_side([caption(picture, title) for picture, title in panels])


def _flat(name: str) -> str:
    """A sample's name as part of a file's."""
    return name.replace("/", "_").replace("\\", "_")
