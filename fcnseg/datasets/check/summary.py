"""A description of a dataset in one paragraph, and an estimate of the training time."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fcnseg.datasets import SPLITS, Description
from fcnseg.datasets.check.statistics import Size, Suggestion
from fcnseg.errors import counted

MATRIX = 512
"""Rows of the matrices whose product measures the processor's speed."""

TRIAL, PRODUCTS = 0.1, 5
"""Seconds for that measurement, and the least number of products."""

PIXELS = 4200.0
"""Pixels of training crops a second for each 10^9 operations a second of a float32 matrix product.

Measured with the default network (EfficientNet-Lite0, fcn4s) and batches of eight, in bf16 where
the processor has it: 4,100 on two cores of a Xeon with AMX that had other work, too.
"""

VALIDATING = 0.3
"""Time for a validation pixel relative to a training pixel."""

FEW = 4
"""Maximum number of stored values that are listed individually."""


def summarize(description: Description, own: Mapping[str, int], used: Mapping[str, int]) -> str:
    """Describe a dataset in one paragraph.

    own: number of pairs in each split of the folder; used: in each split as used.
    """
    images = counted(len(description.pairs), "image")
    labels = f"labels in {_where(description)}" if _where(description) else "labels beside them"
    return f"{images} with {labels} ({_stored(description)}), {_split(description, own, used)}."


def _where(description: Description) -> str:
    """The files or folders of the labels; "" if they are beside the images."""
    root, pairs = description.root, description.pairs
    if any(pair.part and pair.page is None for pair in pairs) or any(p.page for p in pairs):
        files = sorted({os.path.relpath(pair.labels, root) for pair in pairs})
        return files[0] + (f" and {counted(len(files) - 1, 'more file')}" if files[1:] else "")
    folders, images = (
        {
            Path(os.path.relpath(folder, root)).as_posix()
            for folder in {path.parent for path in some}
        }
        for some in ([pair.labels for pair in pairs], [pair.image for pair in pairs])
    )
    if folders <= images:
        return ""
    top = os.path.commonpath(sorted(folders))
    if top not in ("", "."):
        return f"{top}/"
    first, *more = sorted(folders)
    return f"{first}/" + (f" and {counted(len(more), 'more folder')}" if more else "")


def _stored(description: Description) -> str:
    """The content of the label files."""
    encoding = description.encoding
    if encoding.label_format == "layers":
        return f"files for each of {counted(len(encoding.class_words), 'class')}"
    if encoding.class_words:
        return f"{encoding.label_format}, {len(encoding.class_words)} named"
    values = sorted({value for some in encoding.values for value in some})
    if encoding.kind == "color":
        text = f"{len(values)} colors"
    elif len(values) <= FEW:
        text = "/".join(map(str, values))
    else:
        text = f"{len(values)} values, {values[0]} to {values[-1]}"
    ignored = [value for value in encoding.ignore if value >= 0]
    return text + (", others ignored" if len(ignored) > 1 else ", one ignored" if ignored else "")


def _split(description: Description, own: Mapping[str, int], used: Mapping[str, int]) -> str:
    named = [f"{name} ({own[name]:,})" for name in SPLITS if own.get(name)]
    drawn = used.get("val", 0) if description.random_split else 0
    if not named:
        return f"not split: {drawn:,} held out for validation" if drawn else "not split"
    several = ", ".join(named[:-1]) + f" and {named[-1]}" if len(named) > 1 else named[0]
    held = f"; {drawn:,} of train held out" if drawn else ""
    return f"split by the folder's {several}{held}"


def training_seconds(crop: Size, epochs: int, train: int, val: Sequence[Size]) -> float:
    """Estimate the seconds that a training takes on this processor.

    crop: (height, width). train: training images. val: (height, width) of each validation image.
    The processor's speed is measured in TRIAL seconds.
    """
    pixels = train * crop[0] * crop[1] + VALIDATING * sum(height * width for height, width in val)
    return epochs * pixels / (PIXELS * _speed())


def suggested_seconds(suggestion: Suggestion, splits: Mapping[str, int], sizes: Sequence[Size]
) -> float:  # fmt: skip
    """`training_seconds` of the suggested training. sizes: of the training images."""
    side = np.median(np.array(sizes), axis=0)
    val = [(int(side[0]), int(side[1]))] * splits.get("val", 0)
    train = splits.get("train", 0)
    return training_seconds(suggestion.crop, suggestion.epochs, train, val)


def in_words(seconds: float) -> str:
    """A training time as text: a minute or two, 40 minutes, 3 hours."""
    minutes = seconds / 60
    if minutes < 2:
        text = "a minute or two"
    elif minutes < 90:
        text = f"{minutes:.0f} minutes" if minutes < 10 else f"{round(minutes, -1):.0f} minutes"
    else:
        text = f"{minutes / 60:.0f} hours"
    return f"Training takes about {text} on this processor (estimated from its speed)"


@functools.cache
def _speed() -> float:
    """10^9 operations a second of a float32 matrix product on all cores, measured once.

    The fastest of several is used: other programs can slow one down tenfold.
    """
    matrix = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)
    matrix @ matrix  # starts the threads
    took: list[float] = []
    until = time.perf_counter() + TRIAL
    while (began := time.perf_counter()) < until or len(took) < PRODUCTS:
        matrix @ matrix
        took.append(max(time.perf_counter() - began, 1e-9))
    return 2 * MATRIX**3 / min(took) / 1e9
