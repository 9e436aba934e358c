"""The contact sheet: a page of pictures with their labels over them, to be looked at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.data.description import Description, Pair
from fcnseg.data.readers import read_sample
from fcnseg.errors import DatasetError, MediaError
from fcnseg.io.draw import caption, legend, overlay, side_by_side
from fcnseg.io.images import resize_image, resize_labels, write_image

COLUMNS, ROWS = 4, 3
HEIGHT = 240
"""Of each picture on the sheet, in pixels."""

_WIDEST = 2 * HEIGHT
_HATCH = 255  # ignored pixels are drawn white: they stand out and no class is white


def write_contact(description: Description, path: Path, doubtful: Sequence[Pair] = ()) -> bool:
    """Write a sheet of overlays with a legend; False when no pair could be read.

    The first row is for the doubtful ones. The others are spread evenly over the dataset, the
    same ones every time.
    """
    cells: list[NDArray[np.uint8]] = []
    ahead = doubtful[:COLUMNS]
    spread = _spread(description.pairs, 3 * COLUMNS * ROWS)
    for pair in [*ahead, *(pair for pair in spread if pair not in ahead)]:
        if len(cells) == COLUMNS * ROWS:
            break
        try:
            image, labels = read_sample(pair, description.encoding)
        except (MediaError, DatasetError):
            continue  # check has a finding for each of these
        height, width = image.shape[:2]
        size = (HEIGHT, max(1, min(_WIDEST, round(width * HEIGHT / height))))
        image, labels = resize_image(image, size), resize_labels(labels, size)
        drawn = overlay(image, labels, description.classes, alpha=0.55)
        drawn[labels == IGNORE] = drawn[labels == IGNORE] // 2 + _HATCH // 2
        cells.append(caption(drawn, f"{pair.split}: {pair.name}{' ?' if pair in ahead else ''}"))
    if not cells:
        return False
    sheet = side_by_side(cells, columns=COLUMNS)
    key = legend(description.classes, height=sheet.shape[0])
    write_image(path, np.hstack([sheet, key]))
    return True


def _spread(pairs: Sequence[Pair], count: int) -> Sequence[Pair]:
    """Pairs evenly over the dataset, those of the sheet first and spares between them after."""
    if len(pairs) <= count:
        return pairs
    places = np.linspace(0, len(pairs) - 1, count).astype(int)
    order = [*places[::3], *places[1::3], *places[2::3]]
    return [pairs[place] for place in order]
