"""Export in int8: calibrated on training images, measured on validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcnseg.config import ExportConfig
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.errors import CheckpointError, OptionError, percent
from fcnseg.export import write_report, written_atomically
from fcnseg.export.graph import GraphOptions
from fcnseg.export.int8 import milliseconds, write_int8
from fcnseg.inference.evaluation import as_the_model_sees
from fcnseg.inference.loading import load
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import resize_image, resize_labels
from fcnseg.metrics import Confusion, Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Callback, Message, Progress

FITTED_TO = 64
"""Training images that the ranges of 8 bits are taken from."""

MEASURED_ON = 200
"""Validation images, at most, on which the cost of 8 bits is measured."""

MOST_LOST = 0.02
"""A file that loses more mIoU than this is not written."""


@dataclass(frozen=True)
class Cost:
    """What rounding to 8 bits changed on validation images.

    label_agreement: share of pixels with the original's label, 0..1.
    miou_before, miou: of the original and of the file.
    ms_before, ms: that ONNX Runtime takes for an image in f32, and in int8.
    """

    images: int
    label_agreement: float
    miou_before: float
    miou: float
    ms_before: float = 0.0
    ms: float = 0.0


def export_int8(
    config: ExportConfig,
    model: Path,
    checkpoint: Checkpoint,
    path: Path,
    options: GraphOptions,
    about: Mapping[str, str],
    callback: Callback,
) -> Cost:
    """Round, measure what it costs, and only then give the file its name."""
    if config.data is None:
        raise OptionError(
            "int8 has to be fitted to images; no dataset folder was given.",
            hint="add --data FOLDER, the one the model was trained on",
        )
    if config.format != "onnx":
        raise OptionError(
            f"int8 is written as onnx, which OpenVINO runs, too; found {config.format!r}.",
            hint="omit --format",
        )
    original = load(model, engine="torch", short_side=config.short_side)
    train, val = (dataset_of(config.data, original, split, callback) for split in ("train", "val"))
    callback(Message(f"Writing {path}, fitted to {min(FITTED_TO, len(train))} training images"))
    images = (_fitted(original, train[at].image, config) for at in spread(len(train), FITTED_TO))
    with written_atomically(path) as written:
        ms_before = write_int8(checkpoint, written, images, options, about=about)
        cost = _cost(original, load(written), val, callback, size=config.size)
        cost = replace(cost, ms_before=ms_before, ms=milliseconds(written, options))
        if cost.miou < cost.miou_before - MOST_LOST:
            raise CheckpointError(
                f"In int8 the model loses too much: mIoU {percent(cost.miou)}, before "
                f"{percent(cost.miou_before)}; at most {percent(MOST_LOST)} may be lost.",
                hint="nothing was written; export without --precision int8",
            )
        write_report(written, asdict(cost))
    return cost


def _fitted(
    original: Segmenter, image: NDArray[np.uint8], config: ExportConfig
) -> NDArray[np.uint8]:
    """An image (1, h, w, C) as the network sees it, of the file's only size where it has one."""
    return original.prepare([image if config.size is None else resize_image(image, config.size)])


def _cost(
    original: Segmenter,
    rounded: Segmenter,
    val: SegmentationDataset,
    callback: Callback,
    *,
    size: tuple[int, int] | None,
) -> Cost:
    chosen = spread(len(val), MEASURED_ON)
    matrices = [Confusion(len(val.classes)) for _ in range(2)]
    same = pixels = 0
    for done, index in enumerate(chosen, start=1):
        sample = val[index]
        image, truth = sample.image, sample.labels
        if size is not None:
            image, truth = resize_image(image, size), resize_labels(truth, size)
        before, after = (each.predict([image])[0].labels for each in (original, rounded))
        for matrix, labels in zip(matrices, (before, after), strict=True):
            matrix.add(truth, labels)
        same, pixels = same + int((before == after).sum()), pixels + before.size
        callback(Progress("comparing", done, len(chosen), "images"))
    miou_before, miou = (
        Report.of(matrix.matrix, val.classes, len(chosen)).miou for matrix in matrices
    )
    return Cost(len(chosen), same / pixels, miou_before, miou)


def spread(count: int, most: int) -> list[int]:
    """At most so many of 0 .. count - 1, evenly over all of them."""
    chosen = min(count, most)
    return [index * count // chosen for index in range(chosen)]


def dataset_of(
    folder: Path, original: Segmenter, split: Literal["train", "val"], callback: Callback
) -> SegmentationDataset:
    """A split with the model's classes; images whole, at their own size."""
    description = as_the_model_sees(describe(folder, callback), original, callback)
    return SegmentationDataset(description, split, preprocess=original.preprocess, cache=False)
