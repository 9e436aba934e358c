"""Training options suggested by a dataset, and an estimate of the training time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from fcnseg.errors import counted, percent

Size = tuple[int, int]

Weighing = Literal["none", "sqrt"]

End = Literal["fixed", "subpixel"]

GRAIN = 32
"""Crops are multiples of the coarsest stride."""

SMALL, LARGE = 256, 512
"""Sides up to SMALL are not cropped; no crop is larger than LARGE."""

FRACTION = 0.9
"""Side of a crop relative to the image's, between these."""

LARGE_SIDE = 1080
"""Images with a longer short side (median) are resized where their labels allow it."""

SHORT_SIDES = (720, 1080, 1440, 2160)
"""Short sides to choose from."""

KEPT = 0.9
"""Least IoU of a class's labels after resizing to a short side and back.

Lines that are still six pixels wide, and discs of fifteen, have more; predictions of such thin or
small objects have less.
"""

LEAST = 64
"""Least side of a crop: at stride 32, batch norm still has several elements."""

STEPS = 2000
"""Number of steps that a pretrained FCN needs on a new dataset (CamVid: 45 epochs of 45)."""

RARE = 0.05
"""Of two classes, one with a smaller fraction of the pixels is usually thin, and needs weights."""

HEAVIEST = 50.0
"""Greatest ratio of two class weights."""


@dataclass(frozen=True)
class Suggestion:
    """Options for `fcnseg train`.

    short_side: 0 for no resizing. crop: (height, width), of the resized image.
    reasons: option -> the reason, as text; short_side has one if the images are large.
    """

    short_side: int
    crop: Size
    batch: int
    epochs: int
    class_weights: Weighing
    upsample: End
    reasons: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**vars(self), "crop": list(self.crop)}

    def reasons_for(self, chosen: Mapping[str, Any], images: int) -> dict[str, str]:
        """The reasons for the options of a training that are as suggested, by option.

        images: number of training images.
        """
        epochs, why_epochs = suggest_epochs(images, chosen["batch"])
        values = {**self.as_dict(), "epochs": epochs}
        found = {**self.reasons, "epochs": why_epochs}
        return {name: why for name, why in found.items() if chosen.get(name) == values[name]}


def suggest(
    sizes: Sequence[Size],
    pixels: Sequence[int],
    names: Sequence[str],
    kept: Callable[[int], float] = lambda _: 0.0,
) -> Suggestion:
    """Suggest options from image sizes and the number of pixels of each class.

    sizes: (height, width) of each training image, at least one. kept: see `suggest_short_side`.
    """
    side, why_side = suggest_short_side(sizes, kept)
    crop, why_crop = suggest_crop(sizes, side)
    batch, why_batch = _batch(len(sizes))
    epochs, why_epochs = suggest_epochs(len(sizes), batch)
    weights, why_weights = suggest_class_weights(pixels, names)
    upsample, why_upsample = suggest_upsample(pixels, names)
    return Suggestion(
        side,
        crop,
        batch,
        epochs,
        weights,
        upsample,
        ({"short_side": why_side} if why_side else {})
        | {
            "crop": why_crop,
            "batch": why_batch,
            "epochs": why_epochs,
            "class_weights": why_weights,
            "upsample": why_upsample,
        },
    )


def suggest_short_side(sizes: Sequence[Size], kept: Callable[[int], float]) -> tuple[int, str]:
    """Choose the short side to which large images are resized, 0 for none; returns the reason, too.

    A crop of a large image shows a small part of it, in which objects can't be recognized, and
    validation takes long. The smallest side is chosen at which even thin and small objects remain.
    kept: short side -> the least IoU of a class's labels after resizing to it and back.
    """
    usual = median(min(size) for size in sizes)
    if usual <= LARGE_SIDE:
        return 0, ""
    large = f"the images' short side is {usual:.0f} pixels (median)"
    for side in (side for side in SHORT_SIDES if side < usual):
        if (iou := kept(side)) >= KEPT:
            break
    why = f"{large}; labels resized to {side} and back have an IoU of {percent(iou, 1)}"
    return (side, why) if iou >= KEPT else (0, f"{why} only, so that images are not resized")


def resized(size: Size, short_side: int) -> Size:
    """The (height, width) of an image after resizing its short side; 0: unchanged."""
    scale = short_side / min(size) if short_side else 1.0
    return round(scale * size[0]), round(scale * size[1])


def suggest_crop(sizes: Sequence[Size], short_side: int = 0) -> tuple[Size, str]:
    """Choose (height, width) of crops from the images' median size; returns the reason, too.

    short_side: to which the images are resized before; 0: not at all.
    """
    inputs = [resized(size, short_side) for size in sizes]
    height, width = (median(size[axis] for size in inputs) for axis in (0, 1))
    crop = _side(height), _side(width)
    then = " then" if short_side else ""
    typical = f"the median image is{then} {width:.0f}x{height:.0f} (width x height)"
    if max(height, width) <= SMALL:
        rule = "small images are not cropped"
    elif max(height, width) * FRACTION > LARGE:
        part = crop[0] * crop[1] / (height * width)
        rule = (
            f"large ones are cut to {LARGE}, which fits in memory: {percent(part, 0)} of an image"
        )
    else:
        rule = "nine tenths of it leave room to vary and are multiples of 32"
    return crop, f"{typical}; {rule}"


def suggest_epochs(count: int, batch: int) -> tuple[int, str]:
    """Choose the number of epochs for this many training images; returns the reason, too."""
    steps = max(1, count // batch)
    epochs = min(300, max(10, -(-STEPS // steps)))
    return epochs, f"{counted(steps, 'step')} an epoch: about {epochs * steps} steps in all"


def suggest_class_weights(pixels: Sequence[int], names: Sequence[str]) -> tuple[Weighing, str]:
    """Choose --class-weights as measured in docs/train.md; returns the reason, too."""
    rare = _rare_of_two(pixels)
    if rare is None:
        return "none", "the default loss, ce+dice, counts the overlap of each class, however rare"
    weights, total, often = sqrt_weights(pixels), sum(pixels), 1 - rare
    return "sqrt", (
        f"{names[rare]} has {percent(pixels[rare] / total, 2)} of the pixels, {names[often]} "
        f"{percent(pixels[often] / total, 1)}: by the square root of that, a pixel of the one "
        f"counts {weights[rare] / weights[often]:.1f} times a pixel of the other"
    )


def suggest_upsample(pixels: Sequence[int], names: Sequence[str]) -> tuple[End, str]:
    """Choose --upsample as measured in docs/train.md; returns the reason, too."""
    rare = _rare_of_two(pixels)
    if rare is None:
        return "fixed", "outlines are drawn well enough by bilinear upsampling"
    return "subpixel", (
        f"{names[rare]} is rare, so mostly thin: each element of the finest map says which of its "
        "pixels it is in"
    )


def _rare_of_two(pixels: Sequence[int]) -> int | None:
    """The index of the rare one of two classes; None if neither is rare or one is absent."""
    if len(pixels) != 2:
        return None
    rare = int(pixels[1] < pixels[0])
    return rare if 0 < pixels[rare] < RARE * sum(pixels) else None


def sqrt_weights(pixels: Sequence[int]) -> tuple[float, ...]:
    """Weights 1 / sqrt(frequency), with a mean of 1 over the pixels; 1 for absent classes."""
    total = sum(pixels)
    raw = [(total / count) ** 0.5 if count else 0.0 for count in pixels]
    lightest = min((weight for weight in raw if weight), default=1.0)
    capped = [min(weight, HEAVIEST * lightest) for weight in raw]
    mass = sum(weight * count for weight, count in zip(capped, pixels, strict=True))
    return tuple(weight * total / mass if weight else 1.0 for weight in capped)


def _side(pixels: float) -> int:
    if pixels <= SMALL:
        return max(LEAST, -int(-pixels // GRAIN) * GRAIN)
    return min(LARGE, max(SMALL, int(FRACTION * pixels // GRAIN) * GRAIN))


def _batch(count: int) -> tuple[int, str]:
    """Choose a power of two, at most 8, with several steps per epoch; returns the reason, too."""
    batch = 8
    while batch > 2 and count < 4 * batch:
        batch //= 2
    if batch == 8:
        return batch, "enough for steady batch norms, small enough for one GPU or a CPU"
    return batch, f"with {count} training images an epoch still has several steps"


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


def suggested_seconds(
    suggestion: Suggestion, splits: Mapping[str, int], sizes: Sequence[Size]
) -> float:
    """`training_seconds` of the suggested training."""
    side = suggestion.short_side
    return training_seconds(suggestion.crop, suggestion.epochs, splits, sizes, side)


def training_seconds(
    crop: Size, epochs: int, splits: Mapping[str, int], sizes: Sequence[Size], short_side: int
) -> float:
    """Estimate the seconds that a training takes on this processor.

    crop: (height, width). splits: number of images in each. sizes: (height, width) of images,
    before they are resized to short_side (0: not at all).
    The processor's speed is measured in TRIAL seconds.
    """
    height, width = np.median(np.array([resized(size, short_side) for size in sizes]), axis=0)
    validating = VALIDATING * splits.get("val", 0) * float(height * width)
    pixels = splits.get("train", 0) * crop[0] * crop[1] + validating
    return epochs * pixels / (PIXELS * _speed())


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
