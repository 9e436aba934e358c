"""Class frequencies by split, and training options suggested from them."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.datasets import SPLITS, Description, Encoding, Pair
from fcnseg.datasets.encoding.values import decode_values, values_of
from fcnseg.datasets.pairing.file_stats import sample
from fcnseg.datasets.scan import ScanResult
from fcnseg.errors import FcnsegError, counted, percent
from fcnseg.io.annotations import rectangles_in
from fcnseg.io.labels import RawLabels


@dataclass(frozen=True)
class ClassCount:
    """Frequency of one class.

    pixels: number in all splits. proportion: of the labeled pixels, 0..1. images: split -> number
    of images with the class.
    """

    name: str
    pixels: int
    proportion: float
    images: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "name": self.name,
            "pixels": self.pixels,
            "share": round(self.proportion, 6),
            "images": dict(self.images),
        }


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Pixels and images of each class.

    pixels: int64 (3, K) by split (train, val, test) and class; images: int64 (3, K), number of
        images with the class. ignored: int64 (3,), number of ignored pixels.
    labelled: int64 (N,), number of labeled pixels of each pair.
    undeclared: stored value without a class -> (pixels, pair numbers).
    between: (pixels, pair numbers) of values assigned to the nearest class.
    covered: class -> numbers of the pairs that it covers completely.
    spread: for each class, int64 (M,) numbers of the pairs with it, and its pixels there.
    """

    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: NDArray[np.int64]
    labelled: NDArray[np.int64]
    undeclared: Mapping[int, tuple[int, list[int]]]
    between: tuple[int, list[int]]
    covered: Mapping[int, list[int]]
    spread: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

    @property
    def learned(self) -> NDArray[np.int64]:
        """int64 (K,): pixels of each class in the training images; if none, in all images."""
        return np.asarray(self.pixels[0] if self.pixels[0].any() else self.pixels.sum(0))

    def by_class(self, names: tuple[str, ...]) -> tuple[ClassCount, ...]:
        """A ClassCount for each class."""
        total = max(1, int(self.pixels.sum()))
        return tuple(
            ClassCount(
                name,
                int(self.pixels[:, index].sum()),
                float(self.pixels[:, index].sum()) / total,
                {split: int(self.images[row, index]) for row, split in enumerate(SPLITS)},
            )
            for index, name in enumerate(names)
        )


def count_classes(seen: ScanResult) -> Frequencies:
    """Add up the values of all label files by class."""
    description, kind = seen.description, seen.values.kind
    encoding, count = description.encoding, len(description.classes)
    # Lists of integers: a file has few values, for which arrays are slower.
    pixels, images = ([[0] * count for _ in SPLITS] for _ in range(2))
    ignored, labelled = [0] * len(SPLITS), [0] * len(description.pairs)
    undeclared: dict[int, tuple[int, list[int]]] = {}
    between: tuple[int, list[int]] = 0, []
    covered: dict[int, list[int]] = {}
    spread = [(array("q"), array("q")) for _ in range(count)]  # 8 bytes per number
    meaning = _meanings(encoding)
    for number, (pair, one) in enumerate(zip(description.pairs, seen.labels.counts, strict=True)):
        if one is None:
            continue
        row, values = SPLITS.index(pair.split), values_of(one, kind)
        classes, odd = meaning(values)
        of_class: dict[int, int] = {}
        for index, n in zip(classes, one.pixels, strict=True):
            of_class[index] = of_class.get(index, 0) + n
        ignored[row] += of_class.pop(IGNORE, 0)
        for index, n in of_class.items():
            pixels[row][index] += n
            images[row][index] += 1
            spread[index][0].append(number)
            spread[index][1].append(n)
        labelled[number] = sum(of_class.values())
        if len(of_class) == 1:
            covered.setdefault(next(iter(of_class)), []).append(number)
        if encoding.nearest:
            taken = sum(one.pixels[at] for at in odd) + one.rest
            between = _with(between, taken, number) if taken else between
        else:
            for at in odd:
                undeclared[values[at]] = _with(
                    undeclared.get(values[at], (0, [])), one.pixels[at], number
                )
    return Frequencies(
        np.array(pixels, np.int64).reshape(len(SPLITS), count),
        np.array(images, np.int64).reshape(len(SPLITS), count),
        np.array(ignored, np.int64),
        np.array(labelled, np.int64),
        undeclared,
        between,
        covered,
        [(np.array(numbers, np.int64), np.array(n, np.int64)) for numbers, n in spread],
    )


def count_rectangles(
    description: Description, read: Callable[[Pair, str, Sequence[str]], RawLabels]
) -> tuple[int, int]:
    """Count the labeled areas of a sample of images, and the filled rectangles among them.

    read: datasets.formats.read_stored. (0, 0) if labels are masks and not annotations.
    """
    encoding = description.encoding
    if not encoding.class_words or encoding.label_format == "layers":
        return 0, 0
    counts = [(0, 0)]
    for pair in sample(description.pairs):
        with contextlib.suppress(FcnsegError):
            values = read(pair, encoding.label_format, encoding.class_words).values
            counts.append(rectangles_in(values))
    regions, rectangles = (sum(some) for some in zip(*counts, strict=True))
    return regions, rectangles


def _meanings(encoding: Encoding) -> Callable[[tuple[int, ...]], tuple[list[int], list[int]]]:
    """A function: stored values -> their classes (255: none), indices of undeclared values.

    Cached, because many files have the same values.
    """
    declared = {*encoding.class_of(), *encoding.ignore}

    @lru_cache(maxsize=1024)
    def meaning(values: tuple[int, ...]) -> tuple[list[int], list[int]]:
        classes: list[int] = decode_values(
            np.array(values, np.int64), encoding.in_file(values)
        ).tolist()
        return classes, [at for at, value in enumerate(values) if value not in declared]

    return meaning


def _with(counted: tuple[int, list[int]], pixels: int, number: int) -> tuple[int, list[int]]:
    """Add a pair to (pixels, pair numbers)."""
    counted[1].append(number)
    return counted[0] + pixels, counted[1]


Size = tuple[int, int]

Weighing = Literal["none", "sqrt"]

End = Literal["fixed", "subpixel"]

GRAIN = 32
"""Crops are multiples of the coarsest stride."""

SMALL, LARGE = 256, 512
"""Sides up to SMALL are not cropped; no crop is larger than LARGE."""

FRACTION = 0.9
"""Side of a crop relative to the image's, between these."""

SMALL_PART = 0.1
"""A crop of less than this fraction of the image shows little of a large object."""

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

    crop: (height, width). reasons: option -> the reason, as text.
    """

    crop: Size
    batch: int
    epochs: int
    class_weights: Weighing
    upsample: End
    reasons: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**vars(self), "crop": list(self.crop)}


def suggest(sizes: Sequence[Size], pixels: Sequence[int], names: Sequence[str]) -> Suggestion:
    """Suggest options from image sizes and the number of pixels of each class.

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
    """Choose (height, width) of crops from the images' median size; returns the reason, too."""
    height, width = (median(size[axis] for size in sizes) for axis in (0, 1))
    crop = _side(height), _side(width)
    typical = f"the median image is {width:.0f}x{height:.0f} (width x height)"
    if max(height, width) <= SMALL:
        rule = "small images are not cropped"
    elif max(height, width) * FRACTION > LARGE:
        rule = f"large ones are cut to {LARGE}, which fits in memory"
        part = crop[0] * crop[1] / (height * width)
        if part < SMALL_PART:
            rule += f", {percent(part, 0)} of an image; --short-side 720 shows more of it"
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
