"""The command `compare`: compare models on a dataset folder, with confidence intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg import notebook
from fcnseg.commands.eval import (
    EvalResult,
    check_outputs,
    evaluate_split,
    predict_for_report,
    write_outputs,
)
from fcnseg.config import CompareConfig, EvalConfig
from fcnseg.datasets import Description
from fcnseg.datasets.check import examine
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.errors import DatasetError, OptionError, percent, points, to_bytes
from fcnseg.inference.evaluation import dataset_for, split_of
from fcnseg.inference.loading import load_as
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import write_bytes
from fcnseg.metrics import ClassScore, none_for_nan
from fcnseg.metrics.bootstrap import Difference, paired_difference
from fcnseg.models.checkpoint import check_no_duplicates
from fcnseg.progress import Callback, Message, no_callback
from fcnseg.report import comparison_page
from fcnseg.report.gallery import Gallery, Predict, fill
from fcnseg.report.tables import comparison_table, write_table

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, eq=False)
class CompareResult:
    """Scores of models on the same images; the first model is the reference.

    results: one for each model, with the classes of the first. differences: the mIoU of each
    further model minus that of the first, with its confidence interval.
    """

    results: tuple[EvalResult, ...]
    differences: tuple[Difference, ...]
    outputs: tuple[Path, ...] = ()
    failed: tuple[Path, ...] = ()

    @property
    def unusable(self) -> tuple[tuple[str, str], ...]:
        """Images that could not be read and are not scored: (name, reason)."""
        return self.results[0].unusable

    @property
    def models(self) -> dict[str, str]:
        """Each model's letter and file."""
        return {
            letter: str(result.model) for letter, result in zip(LETTERS, self.results, strict=False)
        }

    def images(self) -> list[tuple[str, list[float]]]:
        """Each image's mIoU by model; images that differ most first."""
        rows = [
            (parts[0].name, [one.report.miou for one in parts])
            for parts in zip(*(result.scores.images for result in self.results), strict=True)
        ]
        return sorted(rows, key=lambda row: -np.nan_to_num(np.ptp(row[1]), nan=-1))

    @property
    def _by_class(self) -> list[tuple[ClassScore, ...]]:
        return list(zip(*(result.classes for result in self.results), strict=True))

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """For each class and the mean: IoU by model in percent, and differences in points."""
        values = [(row[0].name, [one.iou for one in row]) for row in self._by_class]
        values.append(("mean", [result.miou for result in self.results]))
        return [
            (name, *map(percent, found), *(points(one, found[0]) for one in found[1:]))
            for name, found in values
        ]

    def _repr_html_(self) -> str:
        """For notebooks: the IoU of each class by model, and the differences' significance."""
        pairs = zip(LETTERS[1:], self.differences, strict=False)
        verdicts = [verdict(letter, one) for letter, one in pairs]
        return notebook.comparison(self.models, self.rows, verdicts)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        first = self.results[0]
        return {
            "models": self.models,
            "protocol": {**first.protocol, "model": self.models},
            "miou": [result.miou for result in self.results],
            "classes": [
                {"name": row[0].name, "iou": [one.iou for one in row]} for row in self._by_class
            ],
            "differences": [
                {
                    "models": f"{letter} - A",
                    "miou": one.value,
                    "interval": [none_for_nan(one.low), none_for_nan(one.high)],
                    "level": one.level,
                    "better": none_for_nan(one.better),
                    "clear": one.clear,
                    "verdict": verdict(letter, one),
                }
                for letter, one in zip(LETTERS[1:], self.differences, strict=False)
            ],
            "images": [
                {"name": name, "miou": list(map(none_for_nan, values))}
                for name, values in self.images()
            ],
            "unusable": [{"name": name, "why": why} for name, why in self.unusable],
            "outputs": [str(path) for path in self.outputs],
            "failed": [str(path) for path in self.failed],
        }


def compare(
    data: CompareConfig | Path | str, callback: Callback = no_callback, **options: Any
) -> CompareResult:
    """Score models on one split of a dataset folder, with confidence intervals of the differences.

    data: the folder, or a CompareConfig. options: those of CompareConfig, by name: model=[A, B].
    Scores and differences are fractions, 0..1. OptionError for fewer than two models;
    DatasetError if their classes differ.

        result = fcnseg.compare("photos", model=["runs/train1", "runs/train2"])
        for difference in result.differences:
            print(difference.value, difference.low, difference.high)
    """
    config = CompareConfig.of(data, options)
    if not 2 <= len(config.model) <= len(LETTERS):
        raise OptionError(
            f"--model: expected 2 to {len(LETTERS)} models; found {len(config.model)}.",
            hint="fcnseg compare DATA -m A -m B; fcnseg eval DATA -m A scores one model",
        )
    models = [load_as(config, callback, model=name) for name in config.model]
    check_no_duplicates([model.files for model in models])
    _refuse_other_classes(models)
    checked = examine(config.data, callback, boxes=config.fill_boxes)
    description = checked.description
    outputs = check_outputs(config, ("html", "csv"), description, models)
    split = _common_split(config, description, models, callback)
    alike = {name: getattr(config, name) for name in ("batch", "workers", "tolerance")}
    results = []
    for letter, model in zip(LETTERS, models, strict=False):
        callback(Message(f"Model {letter}: {model.title}"))
        scoring = EvalConfig.make({**alike, "data": config.data, "split": split})
        result, _ = evaluate_split(scoring, model, checked, callback)
        scores = result.scores.reordered(models[0].classes.names)
        results.append(dataclasses.replace(result, scores=scores))
        if result.unusable != results[0].unusable:
            name, why = sorted({*result.unusable} ^ {*results[0].unusable})[0]
            raise DatasetError(f"Only some of the models can be scored on {name}: {why}")
    matrices = [[image.matrix for image in result.scores.images] for result in results]
    _refuse_other_labels(matrices)
    differences = tuple(paired_difference(other, matrices[0]) for other in matrices[1:])
    made = CompareResult(tuple(results), differences)
    dataset = dataset_for(models[0], description, split)
    table = comparison_table(made.models, made.images())
    writers = {
        "csv": lambda path: write_table(path, table),
        "html": lambda path: _write_page(path, made, models, dataset, config, callback),
    }
    written, failed = write_outputs(outputs, writers, callback)
    return dataclasses.replace(made, outputs=written, failed=failed)


def _write_page(
    path: Path,
    made: CompareResult,
    models: Sequence[Segmenter],
    dataset: SegmentationDataset,
    config: CompareConfig,
    callback: Callback,
) -> None:
    """Write the comparison as an HTML page; its images are predicted again."""
    first = models[0]
    gallery = Gallery(dataset.classes, config.tolerance)
    indices = {image.name: image.index for image in made.results[0].scores.images}
    miou = {indices[name]: values for name, values in made.images()}
    predict = {
        letter: _with_classes_of(first, model)
        for letter, model in zip(LETTERS, models, strict=False)
    }
    fill(gallery, dataset, predict, list(miou), miou, callback)
    values, protocol = made.as_dict(), made.results[0].protocol
    write_bytes(path, to_bytes(comparison_page(values, protocol, gallery, indices)))


def _with_classes_of(first: Segmenter, model: Segmenter) -> Predict:
    """A function that predicts labels with the class indices of the first model."""
    predict = predict_for_report(model)
    table = np.arange(256, dtype=np.uint8)
    for index, name in enumerate(model.classes.names):
        table[index] = first.classes.names.index(name)
    return lambda image, _: PredictedArrays(table[predict(image, False).labels])


def verdict(letter: str, found: Difference) -> str:
    """A sentence that states the difference from model A and its significance."""
    text = f"{letter} - A: {100 * found.value:+z.2f} points of mIoU"
    if np.isnan(found.low):
        return f"{text}; one image is too few to tell how certain that is."
    text += (
        f", {percent(found.level, 0)} interval {100 * found.low:+z.2f} to {100 * found.high:+z.2f}"
    )
    if not found.clear:
        return f"{text}: the difference is not significant."
    return f"{text}: {letter if found.value > 0 else 'A'} is better."


def _refuse_other_classes(models: Sequence[Segmenter]) -> None:
    names = models[0].classes.names
    for letter, model in zip(LETTERS, models, strict=False):
        if set(model.classes.names) != set(names):
            raise DatasetError(
                f"Model A has the classes {', '.join(names)}; model {letter} has "
                f"{', '.join(model.classes.names)}.",
                hint="only models of the same classes are compared",
            )


def _refuse_other_labels(matrices: Sequence[Sequence[np.ndarray[Any, Any]]]) -> None:
    """DatasetError if the labels' values were mapped differently for another model."""
    true = [np.stack([matrix.sum(1) for matrix in one]) for one in matrices]
    if any(not np.array_equal(one, true[0]) for one in true):
        raise DatasetError(
            "The labels mean something else to one model than to another: their stored values "
            "are matched to its classes in another way.",
            hint="name the classes in the dataset: fcnseg check DATA --write dataset.toml",
        )


def _common_split(
    config: CompareConfig, description: Description, models: Sequence[Segmenter], callback: Callback
) -> str:
    """The split for all models: one that none was trained on, where that is known."""
    splits = list(dict.fromkeys(split_of(config, description, model)[0] for model in models))
    if len(splits) > 1:
        splits = [name for name in splits if name != "all"]
        callback(Message(f"Scored on the split {splits[0]}: a model was trained on the others."))
    return splits[0]
