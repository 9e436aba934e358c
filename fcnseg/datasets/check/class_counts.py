"""How often each class occurs, by split."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.datasets.describe import Scanned
from fcnseg.datasets.description import SPLITS, Encoding
from fcnseg.datasets.encoding.values import decode_values, values_of


@dataclass(frozen=True)
class ClassShare:
    """How often one class occurs.

    pixels: of all splits. share: of the pixels that count. images: split -> pictures that
    have it.
    """

    name: str
    pixels: int
    share: float
    images: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "name": self.name,
            "pixels": self.pixels,
            "share": round(self.share, 6),
            "images": dict(self.images),
        }


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Pixels and pictures of each class.

    pixels: int64 (3, K) by split (train, val, test) and class; images: the same, pictures
        that have the class. ignored: int64 (3,), pixels that do not count.
    labelled: int64 (N,), pixels of each pair that count.
    strange: stored value that is no class -> (pixels, pair numbers).
    between: (pixels, pair numbers) of values taken for the nearest class.
    whole: class -> numbers of pairs that it covers altogether.
    spread: for each class, int64 (M,) numbers of the pairs that have it and its pixels there.
    """

    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: NDArray[np.int64]
    labelled: NDArray[np.int64]
    strange: Mapping[int, tuple[int, list[int]]]
    between: tuple[int, list[int]]
    whole: Mapping[int, list[int]]
    spread: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

    def shares(self, names: tuple[str, ...]) -> tuple[ClassShare, ...]:
        """A ClassShare for each class."""
        total = max(1, int(self.pixels.sum()))
        return tuple(
            ClassShare(
                name,
                int(self.pixels[:, index].sum()),
                float(self.pixels[:, index].sum()) / total,
                {split: int(self.images[row, index]) for row, split in enumerate(SPLITS)},
            )
            for index, name in enumerate(names)
        )


def count_classes(seen: Scanned) -> Frequencies:
    """Add up what was seen in the label files."""
    description, kind = seen.description, seen.values.kind
    encoding, count = description.encoding, len(description.classes)
    # Plain numbers: a file has a few values, for which arrays cost more than they save.
    pixels, images = ([[0] * count for _ in SPLITS] for _ in range(2))
    ignored, labelled = [0] * len(SPLITS), [0] * len(description.pairs)
    strange: dict[int, tuple[int, list[int]]] = {}
    between: tuple[int, list[int]] = 0, []
    whole: dict[int, list[int]] = {}
    spread = [(array("q"), array("q")) for _ in range(count)]  # eight bytes a number
    meaning = _meanings(encoding)
    for number, (pair, one) in enumerate(zip(description.pairs, seen.labels.tallies, strict=True)):
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
            whole.setdefault(next(iter(of_class)), []).append(number)
        if encoding.snap:
            taken = sum(one.pixels[at] for at in odd) + one.rest
            between = _with(between, taken, number) if taken else between
        else:
            for at in odd:
                strange[values[at]] = _with(
                    strange.get(values[at], (0, [])), one.pixels[at], number
                )
    return Frequencies(
        np.array(pixels, np.int64).reshape(len(SPLITS), count),
        np.array(images, np.int64).reshape(len(SPLITS), count),
        np.array(ignored, np.int64),
        np.array(labelled, np.int64),
        strange,
        between,
        whole,
        [(np.array(numbers, np.int64), np.array(n, np.int64)) for numbers, n in spread],
    )


def _meanings(encoding: Encoding) -> Callable[[tuple[int, ...]], tuple[list[int], list[int]]]:
    """Of stored values: their classes (255: none), and the places of those not declared.

    Remembered, because most files have the same values as some other.
    """
    declared = {*encoding.class_of(), *encoding.ignore}

    @lru_cache(maxsize=1024)
    def meaning(values: tuple[int, ...]) -> tuple[list[int], list[int]]:
        classes: list[int] = decode_values(np.array(values, np.int64), encoding).tolist()
        return classes, [at for at, value in enumerate(values) if value not in declared]

    return meaning


def _with(counted: tuple[int, list[int]], pixels: int, number: int) -> tuple[int, list[int]]:
    """(pixels, pair numbers) and one pair more."""
    counted[1].append(number)
    return counted[0] + pixels, counted[1]
