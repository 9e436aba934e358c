"""How often each class occurs, by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.data.decoding import decode_values
from fcnseg.data.description import SPLITS
from fcnseg.data.layouts import Scanned
from fcnseg.data.values import values_of


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
    """

    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    ignored: NDArray[np.int64]
    labelled: NDArray[np.int64]
    strange: Mapping[int, tuple[int, list[int]]]
    between: tuple[int, list[int]]
    whole: Mapping[int, list[int]]

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
    declared = {*encoding.class_of(), *encoding.ignore}
    pixels, images = np.zeros((3, count), np.int64), np.zeros((3, count), np.int64)
    ignored, labelled = np.zeros(3, np.int64), np.zeros(len(description.pairs), np.int64)
    strange: dict[int, tuple[int, list[int]]] = {}
    between, blurred = 0, []
    whole: dict[int, list[int]] = {}
    for number, (pair, one) in enumerate(zip(description.pairs, seen.labels.tallies, strict=True)):
        if one is None:
            continue
        row, values = SPLITS.index(pair.split), values_of(one, kind)
        classes = decode_values(np.array(values, np.int64), encoding)
        counts = np.array(one.pixels, np.int64)
        of_class = np.bincount(classes, counts, minlength=IGNORE + 1).astype(np.int64)
        pixels[row] += of_class[:count]
        images[row] += of_class[:count] > 0
        ignored[row] += of_class[IGNORE]
        labelled[number] = of_class[:count].sum()
        if np.count_nonzero(of_class[:count]) == 1:
            whole.setdefault(int(of_class[:count].argmax()), []).append(number)
        odd = [(v, n) for v, n in zip(values, one.pixels, strict=True) if v not in declared]
        if encoding.snap:
            taken = sum(n for _, n in odd) + one.rest
            between += taken
            blurred += [number] if taken else []
        else:
            for value, n in odd:
                total, where = strange.get(value, (0, []))
                strange[value] = total + n, [*where, number]
    return Frequencies(pixels, images, ignored, labelled, strange, (between, blurred), whole)
