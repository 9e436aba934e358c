"""The verb `eval`: how good a model is on a dataset folder, class by class."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.config import EvalConfig
from fcnseg.data.adopting import adopt_classes
from fcnseg.data.dataset import Sample, SegmentationDataset
from fcnseg.data.description import Description, Encoding
from fcnseg.data.layouts import describe, split_sizes
from fcnseg.data.loading import choose_workers, load
from fcnseg.errors import DatasetError
from fcnseg.events import Listener, Note, Progress, nobody
from fcnseg.media.stages import abreast
from fcnseg.metrics import ClassScore, Confusion, Report
from fcnseg.runtime.ranks import Ranks, join_ranks
from fcnseg.runtime.segmenter import Segmenter
from fcnseg.runtime.segmenter import load as load_model
from fcnseg.runtime.views import labels_of_views

Image = NDArray[np.uint8]
Labels = NDArray[np.uint8]
PredictLabels = Callable[[Sequence[Image]], Sequence[Labels]]
"""Pictures uint8 (H, W, 3) -> labels uint8 (H, W), each at its picture's size."""


@dataclass(frozen=True)
class EvalResult:
    """What a model reached, and where.

    report: the scores. split: the part of the dataset. model: the file.
    """

    report: Report
    split: str
    model: Path | None
    seconds: float

    @property
    def miou(self) -> float:
        """Mean IoU of the classes that occur."""
        return self.report.miou

    @property
    def classes(self) -> tuple[ClassScore, ...]:
        """The score of each class."""
        return self.report.classes

    def as_dict(self) -> dict[str, Any]:
        """miou, pixel_accuracy, mean_accuracy, fw_iou, images, classes."""
        return self.report.as_dict()


def evaluate(config: EvalConfig, listener: Listener = nobody) -> EvalResult:
    """Score a model on one part of a dataset folder, at the labels' own resolution.

    Under torchrun each process takes its share of the images; the result is the same.
    Raises DatasetError when the classes of model and folder can't be compared.
    """
    ranks = join_ranks(config.device)
    listener = listener if ranks.main else nobody
    began = time.perf_counter()
    segmenter = load_model(
        config.model,
        engine=config.engine,
        device=str(ranks.device),
        precision=config.precision,
        short_side=config.short_side,
        parallel=True,
    )
    description = as_the_model_sees(describe(config.data, listener), segmenter, listener)
    split = config.split or choose_split(split_sizes(description))
    dataset = SegmentationDataset(description, split, preprocess=segmenter.preprocess, cache=False)
    listener(Note(f"{segmenter.path or 'The model'} on {len(dataset)} images ({split})"))
    look = labels_of_all_views(segmenter) if config.tta else labels_of(segmenter)
    report = score(
        look,
        dataset,
        listener,
        batch=config.batch,
        workers=choose_workers(config.workers, ranks.device.type),
        ranks=ranks,
        lanes=segmenter.lanes,
    )
    if np.isnan(report.miou):
        raise DatasetError(f"{config.data}: no labelled pixel in {len(dataset)} images.")
    return EvalResult(report, split, segmenter.path, time.perf_counter() - began)


def choose_split(sizes: dict[str, int]) -> str:
    """The part that is scored when none is named: test if there is one, else val, else all."""
    return next((name for name in ("test", "val") if sizes.get(name)), "all")


def score(
    predict_labels: PredictLabels,
    dataset: SegmentationDataset,
    listener: Listener = nobody,
    *,
    batch: int = 4,
    workers: int = 0,
    ranks: Ranks | None = None,
    lanes: int = 1,
    task: str = "evaluation",
) -> Report:
    """One confusion matrix over all images of a dataset; reading goes on during prediction.

    Several ranks take an image each in turn, none twice, and all get the whole report.
    lanes: how many threads may ask `predict_labels` at the same time.
    """
    ranks = ranks or Ranks.alone()
    mine = range(ranks.rank, len(dataset), ranks.size)
    batches = [mine[start : start + batch] for start in range(0, len(mine), batch)]
    confusion = Confusion(len(dataset.classes))
    done, began = 0, time.perf_counter()
    loaded = load(dataset, batches, list[Sample], workers=workers)
    answered = abreast(
        lambda samples: predict_labels([sample.image for sample in samples]), loaded, lanes
    )
    for samples, predicted in answered:
        for sample, labels in zip(samples, predicted, strict=True):
            confusion.add(sample.labels, labels)
        done = min(len(dataset), done + len(samples) * ranks.size)
        speed = done / (time.perf_counter() - began)
        values = {"images/s": speed, "left": (len(dataset) - done) / speed}
        listener(Progress(task, done, len(dataset), "images", values))
    matrix = ranks.sum_array(confusion.matrix)
    return Report.of(matrix, dataset.classes, len(dataset))


def labels_of(segmenter: Segmenter) -> PredictLabels:
    """A segmenter as a function from pictures to labels."""
    return lambda images: [prediction.labels for prediction in segmenter.predict(images)]


def labels_of_all_views(segmenter: Segmenter) -> PredictLabels:
    """The same with every picture looked at in several sizes and mirrored."""
    return lambda images: [labels_of_views(segmenter, image) for image in images]


def as_the_model_sees(
    description: Description, segmenter: Segmenter, listener: Listener = nobody
) -> Description:
    """The dataset with the model's classes, in the model's order; a Note where they differ.

    As many classes of quite other names are compared by number, with a warning. DatasetError
    when the two can't be compared.
    """
    ours, theirs = segmenter.classes, description.classes
    stored = segmenter.extra.get("encoding")
    encoding = None if stored is None else Encoding.from_dict(stored)
    try:
        adopted = adopt_classes(description, ours, encoding)
    except DatasetError:
        if len(ours) != len(theirs):
            raise
        adopted = dataclasses.replace(description, classes=ours)
        text = "Class names differ; classes are compared by their number."
        names = f"Model: {_some(ours.names)}; dataset: {_some(theirs.names)}."
        listener(Note(f"{text} {names}", "warning"))
    if ours.names != theirs.names and set(ours.names) == set(theirs.names):
        text = "The model and the dataset list the same classes in another order; names decide."
        names = f"Model: {_some(ours.names)}; dataset: {_some(theirs.names)}."
        listener(Note(f"{text} {names}"))
    elif len(ours) != len(theirs):
        text = f"The dataset seems to have {len(theirs)} classes; the model's {len(ours)} count."
        listener(Note(text))
    return adopted


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown} ..." if len(names) > 6 else shown
