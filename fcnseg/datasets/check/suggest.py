"""What to train with, judging by the data: each suggestion with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Size = tuple[int, int]


Weighing = Literal["none", "sqrt"]


End = Literal["fixed", "subpixel"]

GRAIN = 32
"""Crops are multiples of the coarsest stride."""

SMALL, LARGE = 256, 512
"""Sides up to SMALL are taken whole; no crop is larger than LARGE."""

SHARE = 0.9
"""What a crop takes of sides in between."""

LEAST = 64
"""No crop is smaller: at stride 32 a batch norm still sees several cells."""

STEPS = 2000
"""About as many steps as a pretrained FCN needs on a new data set (CamVid: 45 epochs of 45)."""

RARE = 0.05
"""Of two classes, one with less of the pixels is mostly thin, and found too seldom unweighted."""

HEAVIEST = 50.0
"""No class weighs more than this many times another."""


@dataclass(frozen=True)
class Suggestion:
    """Options for `fcnseg train`.

    crop: (height, width). reasons: option -> why, one sentence each.
    """

    crop: Size
    batch: int
    epochs: int
    class_weights: Weighing
    upsample: End
    reasons: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "crop": list(self.crop),
            "batch": self.batch,
            "epochs": self.epochs,
            "class_weights": self.class_weights,
            "upsample": self.upsample,
            "reasons": self.reasons,
        }


def suggest(sizes: Sequence[Size], pixels: Sequence[int], names: Sequence[str]) -> Suggestion:
    """Options for training images of these sizes with these pixels of each class.

    sizes: (height, width) of each training image, at least one.
    """
    crop, why_crop = suggest_crop(sizes)
    batch, why_batch = _batch(len(sizes))
    epochs, why_epochs = suggest_epochs(len(sizes), batch)
    weights, why_weights = suggest_class_weights(pixels, names)
    upsample, why_upsample = suggest_upsample(pixels, names)
    return Suggestion(
        crop,
        batch,
        epochs,
        weights,
        upsample,
        {
            "crop": why_crop,
            "batch": why_batch,
            "epochs": why_epochs,
            "class_weights": why_weights,
            "upsample": why_upsample,
        },
    )


def suggest_crop(sizes: Sequence[Size]) -> tuple[Size, str]:
    """(height, width) of training crops by the images' median size, and why."""
    height, width = (median(size[axis] for size in sizes) for axis in (0, 1))
    crop = _side(height), _side(width)
    typical = f"the median image is {width:.0f}x{height:.0f} (width x height)"
    if max(height, width) <= SMALL:
        rule = "small images are not cropped"
    elif max(height, width) * SHARE > LARGE:
        rule = f"large ones are cut to {LARGE}, which fits in memory and still shows the context"
    else:
        rule = "nine tenths of it leave room to vary and are multiples of 32"
    return crop, f"{typical}; {rule}"


def suggest_epochs(count: int, batch: int) -> tuple[int, str]:
    """How often to go through so many training images, and why."""
    steps = max(1, count // batch)
    epochs = min(300, max(10, -(-STEPS // steps)))
    return epochs, f"{steps} steps an epoch: about {epochs * steps} steps in all"


def suggest_class_weights(pixels: Sequence[int], names: Sequence[str]) -> tuple[Weighing, str]:
    """--class-weights, and why: what gave the better IoU in docs/train.md."""
    rare = _rare_of_two(pixels)
    if rare is None:
        return "none", "the default loss, ce+dice, counts the overlap of each class, however rare"
    weights, total, often = sqrt_weights(pixels), sum(pixels), 1 - rare
    return "sqrt", (
        f"{names[rare]} has {pixels[rare] / total:.2%} of the pixels, {names[often]} "
        f"{pixels[often] / total:.1%}: by the square root of that, a pixel of the one counts "
        f"{weights[rare] / weights[often]:.1f} times a pixel of the other"
    )


def suggest_upsample(pixels: Sequence[int], names: Sequence[str]) -> tuple[End, str]:
    """--upsample (of maps; scores have nothing but fixed), and why: measured in docs/train.md."""
    rare = _rare_of_two(pixels)
    if rare is None:
        return "fixed", "outlines are drawn well enough by bilinear upsampling"
    return "subpixel", (
        f"{names[rare]} is rare, so mostly thin: each cell of the finest map says which of its "
        "pixels it is in"
    )


def _rare_of_two(pixels: Sequence[int]) -> int | None:
    """Which of two classes, both found, is rare; None where none is, or there are not two."""
    if len(pixels) != 2:
        return None
    rare = int(pixels[1] < pixels[0])
    return rare if 0 < pixels[rare] < RARE * sum(pixels) else None


def sqrt_weights(pixels: Sequence[int]) -> tuple[float, ...]:
    """Weights by 1 / sqrt(frequency), 1 on average over the pixels; 1 for absent classes."""
    total = sum(pixels)
    raw = [(total / count) ** 0.5 if count else 0.0 for count in pixels]
    lightest = min((weight for weight in raw if weight), default=1.0)
    capped = [min(weight, HEAVIEST * lightest) for weight in raw]
    mass = sum(weight * count for weight, count in zip(capped, pixels, strict=True))
    return tuple(weight * total / mass if weight else 1.0 for weight in capped)


def _side(pixels: float) -> int:
    if pixels <= SMALL:
        return max(LEAST, -int(-pixels // GRAIN) * GRAIN)
    return min(LARGE, max(SMALL, int(SHARE * pixels // GRAIN) * GRAIN))


def _batch(count: int) -> tuple[int, str]:
    """A power of two, at most 8, that leaves several steps in an epoch."""
    batch = 8
    while batch > 2 and count < 4 * batch:
        batch //= 2
    if batch == 8:
        return batch, "enough for steady batch norms, small enough for one GPU or a CPU"
    return batch, f"with {count} training images an epoch still has several steps"
