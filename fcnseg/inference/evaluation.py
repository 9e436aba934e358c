"""Evaluate a model on labelled images: a confusion matrix over a split, and further metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from fcnseg import __version__
from fcnseg.classes import background_of, is_unnamed
from fcnseg.concurrency import map_ordered
from fcnseg.config import CompareConfig, EvalConfig, VizConfig
from fcnseg.datasets import Description, Encoding, split_sizes
from fcnseg.datasets.encoding.matching import first_names, is_inverted, mapping, match_classes
from fcnseg.datasets.loader import ErrorsAsItems, LabelledImages, Sample, load
from fcnseg.datasets.splits import Provenance
from fcnseg.distributed import Distributed
from fcnseg.engines.averaging import SCALES, AveragingEngine
from fcnseg.errors import DatasetError, FcnsegError, counted, percent, with_name
from fcnseg.inference.prediction import Image, PredictedArrays, PredictLabels
from fcnseg.inference.segmenter import Segmenter
from fcnseg.metrics import Confusion, Report
from fcnseg.metrics.regions import BAND
from fcnseg.metrics.scores import Scores
from fcnseg.progress import Callback, Message, Progress, no_callback

if TYPE_CHECKING:
    from fcnseg.datasets.dataset import SegmentationDataset

_REQUESTED = "as requested"
"""The reason for a split that an option names, or that several models have in common."""

MIOU_RULE = "the mean over the classes that the labels contain"
"""Classes that are predicted but occur in no labels are not part of the mean."""

PredictArrays = Callable[[Sequence[Image]], Sequence[PredictedArrays]]
"""Images uint8 (H, W, 3) -> labels and their confidence, each at its image's size."""

Predicted = TypeVar("Predicted")


def split_of(
    config: EvalConfig | CompareConfig | VizConfig, description: Description, segmenter: Segmenter
) -> tuple[str, str]:
    """Choose the split to score; return it and the reason.

    A randomly drawn validation split is used only for the model that was trained with it. For
    several averaged models, a split that none was trained on, if that is known.
    """
    if config.split:
        return config.split, _REQUESTED
    found = [_split_of(description, network) for network in segmenter.networks]
    unseen = [each for each in found if each[0] != "all"] or found
    return max(unseen, key=lambda each: "changed" in each[1])


def _split_of(description: Description, segmenter: Segmenter) -> tuple[str, str]:
    trained = Provenance.from_dict(segmenter.extra.get("trained_on"))
    here = Provenance.of(description)
    sizes = split_sizes(description)
    if not description.random_split:
        return choose_split(sizes), "the dataset has its own splits"
    if trained is None:
        return "all", "the dataset has no splits, and the model does not say what it was trained on"
    if trained.images == here.images:
        return choose_split(sizes), "the model was trained on the other images"
    if trained.root == here.root and segmenter.extra.get("folds"):
        return choose_split(sizes), "the models were trained on folds of the dataset"
    if trained.root == here.root:
        return choose_split(sizes), (
            "the model was trained on the others, but the folder has changed since: some of "
            "these may have been among them"
        )
    return "all", "the dataset has no splits, and the model was trained on another dataset"


def seen_in_folds(description: Description, split: str, segmenter: Segmenter) -> str:
    """A warning if most models of a cross-validation were trained on the scored images; or ""."""
    here, seen = Provenance.of(description), 0
    for network in segmenter.networks:
        trained = Provenance.from_dict(network.extra.get("trained_on"))
        if trained is None or not network.extra.get("folds") or trained.root != here.root:
            continue
        own = trained.images == here.images and split == "val"  # by the run's own dataset.toml
        seen += not own
    if not seen or split == "test":
        return ""
    count = len(segmenter.networks)
    how = "by this model" if count == 1 else f"by all but one of the {count} models"
    return (
        "These scores are optimistic: in training with --folds, most of these images were seen "
        f"{how}. report.json beside the folds has the scores of each on what it did not see."
    )


def on_split(not_scored: dict[str, int], why: str) -> str:
    """The message on the images that are not scored (split -> count), and the reason."""
    if not not_scored:
        return f"All pairs are scored: {why}."
    parts = ", ".join(f"{count} in {name}" for name, count in not_scored.items())
    reason = "" if why == _REQUESTED else f" ({why})"
    return f"Not scored: {parts}{reason}; --split all scores everything."


def skipped_image(name: str, why: str) -> Message:
    """The warning for an image that can't be read; the others are scored."""
    return Message(f"Skipped: {with_name(name, why)}", "warning")


def is_own(description: Description, segmenter: Segmenter) -> bool:
    """Whether the training images of a dataset are those that the model was trained on."""
    trained = Provenance.from_dict(segmenter.extra.get("trained_on"))
    return trained is not None and trained.images == Provenance.of(description).images


def refuse_meaningless(report: Report, data: Path, *, own: bool = False) -> None:
    """DatasetError for meaningless scores: no labels, only background, or inverted labels.

    own: the model was trained on the dataset: where it scores worse than its inverse, it has
    learned little.
    """
    if np.isnan(report.miou):
        raise DatasetError(f"{data}: no labeled pixel in {counted(report.images, 'image')}.")
    here = [index for index, one in enumerate(report.classes) if one.pixels]
    if here == [background_of(report.names)] and len(report.names) > 1:
        raise DatasetError(
            f"{data}: only {report.names[here[0]]} is labeled in "
            f"{counted(report.images, 'image')}; nothing that the model looks for would be scored.",
            hint="fcnseg check DATA shows how the labels were read",
        )
    swapped = None if own else _miou_if_exchanged(report)
    if swapped is not None:
        raise DatasetError(
            f"{data}: the labels seem to be inverted. As they were read, mIoU is "
            f"{percent(report.miou)}; with {' and '.join(report.names)} exchanged it is "
            f"{percent(swapped)}.",
            hint="fcnseg check DATA --write dataset.toml, exchange the `values` of the two classes "
            "there, and give dataset.toml in place of the folder",
        )


def _miou_if_exchanged(report: Report) -> float | None:
    """The mIoU with two classes exchanged if it is much better than the actual one; else None."""
    if len(report.names) != 2 or any(one.iou is None for one in report.classes):
        return None
    other = Report(report.matrix[:, ::-1], report.names, report.images)
    worst = min(one.iou or 0.0 for one in other.classes)
    best = max(one.iou or 0.0 for one in report.classes)
    return other.miou if worst > max(0.25, 2 * best) else None


def choose_split(sizes: dict[str, int]) -> str:
    """The default split: test if there is one, else val, else all."""
    return next((name for name in ("test", "val") if sizes.get(name)), "all")


def confusion_report(
    predict_labels: PredictLabels,
    dataset: LabelledImages,
    callback: Callback = no_callback,
    *,
    batch: int = 4,
    workers: int = 0,
    ranks: Distributed | None = None,
    num_parallel: int = 1,
    task: str = "evaluation",
) -> Report:
    """Compute a confusion matrix over a dataset; images are loaded during prediction.

    ranks: processes share the images, round-robin, and all get the full report.
    num_parallel: how many threads call `predict_labels` at the same time.
    """
    ranks = ranks or Distributed.single()
    confusion = Confusion(len(dataset.classes))
    for _, sample, labels in _each(
        predict_labels, dataset, callback, batch, workers, ranks, num_parallel, task
    ):
        confusion.add(sample.labels, labels)
    matrix = ranks.sum_array(confusion.matrix)
    return Report.of(matrix, dataset.classes, len(dataset))


def measure(
    predict: PredictArrays,
    dataset: LabelledImages,
    callback: Callback = no_callback,
    *,
    tolerance: int,
    batch: int = 4,
    workers: int = 0,
    ranks: Distributed | None = None,
    num_parallel: int = 1,
) -> Scores:
    """Compute all metrics (Scores), per image and in total; arguments as confusion_report.

    tolerance: for boundaries, in pixels. Images that can't be read are skipped and listed; if
    none can be read, the first error is raised.
    """
    ranks = ranks or Distributed.single()

    def mine() -> Scores:
        scores = Scores(dataset.classes.names, tolerance)
        for index, sample, one in _each(
            predict, dataset, callback, batch, workers, ranks, num_parallel, "evaluation",
            scores.unusable,
        ):  # fmt: skip
            scores.add(index, sample.name, sample.labels, one.labels, one.confidence)
        return scores

    scores = Scores.joined(ranks.gather(mine))
    if scores.unusable and not scores.images:
        raise scores.unusable[0][1]
    return scores


def _each(
    predict: Callable[[Sequence[Image]], Sequence[Predicted]],
    dataset: LabelledImages,
    callback: Callback,
    batch: int,
    workers: int,
    ranks: Distributed,
    num_parallel: int,
    task: str,
    unusable: list[tuple[int, FcnsegError]] | None = None,
) -> Iterator[tuple[int, Sample, Predicted]]:
    """Yield this rank's images: (index in the dataset, sample, prediction).

    unusable: a list for those that can't be read and their errors; None: raise the errors.
    """

    def of_readable(samples: Sequence[Sample | FcnsegError]) -> Sequence[Predicted]:
        images = [sample.image for sample in samples if isinstance(sample, Sample)]
        return predict(images) if images else ()

    mine = range(ranks.rank, len(dataset), ranks.size)
    batches = [mine[start : start + batch] for start in range(0, len(mine), batch)]
    done, began = 0, time.perf_counter()
    loaded = load(ErrorsAsItems(dataset), batches, list[Sample | FcnsegError], workers=workers)
    predictions = map_ordered(of_readable, loaded, num_parallel)
    for indices, (samples, predicted) in zip(batches, predictions, strict=True):
        found = iter(predicted)
        for index, sample in zip(indices, samples, strict=True):
            if isinstance(sample, Sample):
                yield index, sample, next(found)
            elif unusable is None:
                raise sample
            else:
                unusable.append((index, sample))
        done = min(len(dataset), done + len(samples) * ranks.size)
        speed = done / (time.perf_counter() - began)
        values = {"images/s": speed, "left": (len(dataset) - done) / speed}
        callback(Progress(task, done, len(dataset), "images", values))


def protocol_of(
    config: EvalConfig, segmenter: Segmenter, scores: Scores, split: str
) -> dict[str, Any]:
    """The evaluation protocol as plain values: two scores are comparable only if it is equal."""
    sides = dict.fromkeys(one.preprocess.short_side for one in segmenter.networks)
    seen = [f"short side {side} px" if side else "the images' own size" for side in sides]
    engine = segmenter.engine
    return {
        "data": str(config.data),
        "split": split,
        "images": len(scores.images),
        "resolution": "the labels' own",
        "network_input": ", ".join(seen),
        "tta": isinstance(engine, AveragingEngine) and engine.mirrored,
        "tta_views": f"scales {', '.join(map(str, SCALES))}, each also mirrored",
        "absent_classes": f"mIoU is {MIOU_RULE}",
        "ignored": scores.ignored,
        "tolerance": config.tolerance,
        "boundary_iou_band": BAND,
        "model": segmenter.title if segmenter.files else "",
        "engine": engine.name,
        "precision": engine.precision,
        "device": engine.device,
        "fcnseg": __version__,
    }


def with_model_classes(
    description: Description, segmenter: Segmenter, callback: Callback = no_callback
) -> Description:
    """Convert a dataset to the model's classes and their order; a Message if they differ.

    DatasetError when the classes can't be matched.
    """
    ours, theirs = segmenter.classes, description.classes
    stored = segmenter.extra.get("encoding")
    encoding = None if stored is None else Encoding.from_dict(stored)
    matched = match_classes(description, ours, encoding)
    if ours.names == theirs.names:
        return matched
    if set(ours.names) == set(theirs.names):
        text = "The model and the dataset list the same classes in another order; names decide."
        callback(
            Message(
                f"{text} Model: {first_names(ours.names)}; dataset: {first_names(theirs.names)}."
            )
        )
    else:
        text = f"Model: {first_names(ours.names)}; dataset: {first_names(theirs.names)}."
        expected = is_unnamed(theirs.names) and not is_inverted(description.encoding)
        level: Literal["info", "warning"] = "info" if expected else "warning"
        callback(Message(f"{text} So {mapping(description, matched)}.", level))
    return matched


def dataset_for(
    segmenter: Segmenter,
    description: Description,
    split: str,
    callback: Callback = no_callback,
) -> SegmentationDataset:
    """A split with the model's classes: uncropped images, at their own size, in its bands."""
    from fcnseg.datasets.dataset import SegmentationDataset  # imports torch

    description = with_model_classes(description, segmenter, callback)
    return SegmentationDataset(description, split, preprocess=segmenter.preprocess, cache=False)
