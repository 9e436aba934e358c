"""Two training samples made one: things appear where nothing has shown them before.

cutmix: Yun et al., "CutMix" (ICCV 2019), for segmentation as in French et al. (BMVC 2020).
classmix: Olsson et al., "ClassMix" (WACV 2021), with true labels in place of guessed ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE

Mask = NDArray[np.bool_]


def rectangle(labels: NDArray[np.uint8], rng: np.random.Generator) -> Mask:
    """bool (H, W): a box of the labels' shape, its share of the area drawn evenly from 0..1.

    Its centre lies anywhere, so that what lies outside is cut off, as in the original.
    """
    side = math.sqrt(rng.uniform())
    mask = np.zeros(labels.shape, bool)
    rows, columns = (
        slice(max(0, round(centre - side * extent / 2)), max(0, round(centre + side * extent / 2)))
        for centre, extent in ((rng.uniform(0, extent), extent) for extent in labels.shape)
    )
    mask[rows, columns] = True
    return mask


def some_classes(labels: NDArray[np.uint8], rng: np.random.Generator) -> Mask:
    """bool (H, W): the pixels of half of the classes that occur, drawn evenly."""
    there = np.unique(labels)
    there = there[there != IGNORE]
    chosen = rng.choice(there, (len(there) + 1) // 2, replace=False) if len(there) else there
    return np.isin(labels, chosen)


MIXES: dict[str, Callable[[NDArray[np.uint8], np.random.Generator], Mask]] = {
    "cutmix": rectangle,
    "classmix": some_classes,
}
"""What of the second sample is laid over the first, by its labels uint8 (H, W)."""
