"""Metrics of predicted labels, derived from one confusion matrix over an entire split.

Definitions (Long, Shelhamer, Darrell, CVPR 2015, section 5), with n[i, j] the pixels of
true class i labelled j and t[i] the row sums: IoU of a class = n[i, i] / (t[i] + sum_j
n[j, i] - n[i, i]); its accuracy = n[i, i] / t[i]; pixel accuracy = trace / total;
frequency-weighted IoU = sum_i t[i] IoU[i] / total. Dice = 2 IoU / (1 + IoU). Classes without a
labelled pixel are excluded from all means; pixels wrongly predicted as them still count as errors
of the labelled classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg import notebook
from fcnseg.classes import IGNORE, ClassMap
from fcnseg.errors import InputError, counted, percent


class Confusion:
    """A confusion matrix, accumulated over images.

    matrix: int64 (K, K), rows are the true classes, columns the predicted ones.
    """

    def __init__(self, num_classes: int) -> None:
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def add(self, labels: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> None:
        """Count the pixels of arrays of the same shape; 255 in labels is ignored.

        InputError when the shapes differ or a value is not a class.
        """
        if labels.shape != predicted.shape:
            raise InputError(
                f"Labels are {labels.shape}, the prediction {predicted.shape}; "
                "they must be of one size."
            )
        here, size = labels != IGNORE, len(self.matrix)
        true, found = labels[here].astype(np.int64), predicted[here].astype(np.int64)
        for values, what in ((true, "labels"), (found, "the prediction")):
            if values.size and values.max() >= size:
                raise InputError(
                    f"Class {values.max()} in {what}, but there are {size} classes "
                    f"(0 to {size - 1}, and {IGNORE} for pixels that do not count)."
                )
        counts = np.bincount(true * size + found, minlength=size * size)
        self.matrix += counts.reshape(size, size)


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class; all except `pixels` are None when the labels do not contain it.

    accuracy is also called recall; precision is 0 for a class that is never predicted.
    """

    name: str
    iou: float | None
    accuracy: float | None
    pixels: int
    precision: float | None = None

    @property
    def dice(self) -> float | None:
        """Dice coefficient: the F1 score of its pixels."""
        return None if self.iou is None else 2 * self.iou / (1 + self.iou)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "iou": self.iou,
            "accuracy": self.accuracy,
            "pixels": self.pixels,
            "dice": self.dice,
            "precision": self.precision,
            "recall": self.accuracy,
        }


@dataclass(frozen=True, eq=False)
class Report:
    """A confusion matrix with class names; all scores are derived from it.

    matrix: int64 (K, K) [true, predicted].
    images: number of images counted.
    The means are NaN when no pixel was labelled (None in as_dict).
    """

    matrix: NDArray[np.int64]
    names: tuple[str, ...]
    images: int

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.matrix.shape != (count, count):
            raise InputError(f"{counted(count, 'class')}: expected a ({count}, {count}) matrix.")

    @classmethod
    def of(
        cls, matrix: NDArray[np.int64], classes: ClassMap | Sequence[str], images: int
    ) -> Report:
        """Create a report from a matrix and classes."""
        names = classes.names if isinstance(classes, ClassMap) else tuple(classes)
        return cls(matrix.astype(np.int64), names, images)

    @cached_property
    def _counts(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(right, true, union) pixels per class."""
        right = np.diag(self.matrix).astype(np.float64)
        true = self.matrix.sum(1).astype(np.float64)
        return right, true, true + self.matrix.sum(0) - right

    @cached_property
    def classes(self) -> tuple[ClassScore, ...]:
        """The score of each class, in the order of the class map."""
        right, true, union = self._counts
        found = self.matrix.sum(0)
        return tuple(
            ClassScore(
                name,
                float(right[index] / union[index]) if true[index] else None,
                float(right[index] / true[index]) if true[index] else None,
                int(true[index]),
                float(right[index] / max(1, found[index])) if true[index] else None,
            )
            for index, name in enumerate(self.names)
        )

    def _repr_html_(self) -> str:
        """For notebooks: a row per class, in percent."""
        rows = [
            (one.name, *(percent(v) for v in (one.iou, one.dice, one.precision, one.accuracy)))
            for one in self.classes
        ]
        title = f"mIoU {percent(self.miou)} on {counted(self.images, 'image')}"
        heading = ("class", "IoU", "Dice", "precision", "recall")
        return notebook.table(title, heading, rows)

    @property
    def class_iou(self) -> dict[str, float | None]:
        """IoU by class name; None if the labels do not contain the class."""
        return {score.name: score.iou for score in self.classes}

    @property
    def miou(self) -> float:
        """Mean IoU of the classes that occur."""
        return mean([score.iou for score in self.classes])

    @property
    def absent_predicted(self) -> dict[str, int]:
        """Pixels predicted as classes that the labels do not contain, by class name."""
        found = self.matrix.sum(0)
        return {
            one.name: int(found[index])
            for index, one in enumerate(self.classes)
            if one.iou is None and found[index]
        }

    @property
    def miou_with_absent(self) -> float:
        """Mean IoU, with 0 for classes that are predicted but do not occur."""
        return mean([*self.class_iou.values(), *(0.0 for _ in self.absent_predicted)])

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy of the classes that occur."""
        return mean([score.accuracy for score in self.classes])

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the classes that occur."""
        return mean([score.dice for score in self.classes])

    @property
    def mean_precision(self) -> float:
        """Mean precision of the classes that occur."""
        return mean([score.precision for score in self.classes])

    @property
    def pixel_accuracy(self) -> float:
        """Proportion of labelled pixels that are predicted correctly."""
        right, true, _ = self._counts
        return float(right.sum() / true.sum()) if true.any() else float("nan")

    @property
    def fw_iou(self) -> float:
        """Mean IoU weighted by class frequency."""
        right, true, union = self._counts
        here = true > 0
        if not here.any():
            return float("nan")
        return float((true[here] * right[here] / union[here]).sum() / true.sum())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as printed by `fcnseg eval --json`."""
        means = {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "fw_iou": self.fw_iou,
            "mean_dice": self.mean_dice,
            "mean_precision": self.mean_precision,
        }
        return {
            **{name: none_for_nan(value) for name, value in means.items()},
            "images": self.images,
            "classes": [score.as_dict() for score in self.classes],
        }


def mean(values: Iterable[float | None]) -> float:
    """The mean of the values that are not None; NaN without any."""
    here = [value for value in values if value is not None]
    return float(np.mean(here)) if here else float("nan")


def none_for_nan(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if np.isnan(value) else value
