"""A dataset in numbers: class frequencies by split, and a description in one paragraph."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.datasets import SPLITS, Description, Encoding, Pair
from fcnseg.datasets.check.suggestions import Size, resized
from fcnseg.datasets.encoding.values import decode, decode_values, values_of
from fcnseg.datasets.pairing.file_stats import sample
from fcnseg.datasets.scan import ScanResult
from fcnseg.errors import FcnsegError, counted
from fcnseg.io.annotations import rectangles_in
from fcnseg.io.images import resize_labels
from fcnseg.io.labels import RawLabels
from fcnseg.io.warp import histogram

ReadStored = Callable[[Pair, str, Sequence[str]], RawLabels]
"""Reads a pair's labels, given the format and the class words: datasets.formats.read_stored."""


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


def train_sizes(seen: ScanResult) -> tuple[Size, ...]:
    """Sizes of the readable training images, or of all images if there are none."""
    sizes: Sequence[list[int]] = seen.images.sizes.tolist()
    pairs = seen.description.pairs
    train = [(h, w) for (h, w), pair in zip(sizes, pairs, strict=True) if pair.split == "train"]
    chosen = train or [(h, w) for h, w in sizes]
    return tuple((h, w) for h, w in chosen if h and w)


def count_rectangles(description: Description, read: ReadStored) -> tuple[int, int]:
    """Count the labeled areas of a sample of images, and the filled rectangles among them.

    (0, 0) if labels are masks and not annotations.
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


def iou_after_resizing(description: Description, read: ReadStored) -> Callable[[int], float]:
    """A function of a short side: the least IoU of a class between the labels of a sample of
    training images and the same labels resized to it and back; 0.0 if none can be read."""
    encoding = description.encoding
    train = [pair for pair in description.pairs if pair.split == "train"] or description.pairs

    @cache
    def sampled() -> list[NDArray[np.uint8]]:
        found = []
        for pair in sample(train):
            with contextlib.suppress(FcnsegError):
                raw = read(pair, encoding.label_format, encoding.class_words)
                found.append(decode(raw, encoding))
        return found

    def least(short_side: int) -> float:
        both, either = np.zeros((2, IGNORE + 1), np.int64)
        for labels in sampled():
            height, width = labels.shape
            small = resize_labels(labels, resized((height, width), short_side))
            again = resize_labels(small, (height, width))
            counted = (labels != IGNORE) & (again != IGNORE)
            before, after = labels[counted], again[counted]
            same = histogram(before[before == after])
            both += same
            either += histogram(before) + histogram(after) - same
        return float(min(both[either > 0] / either[either > 0], default=0.0))

    return least


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
