"""The command `check`: report what a dataset folder contains and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.config import CheckConfig
from fcnseg.datasets.check import CheckResult, doubtful, scan_and_check
from fcnseg.datasets.check.clean import write_clean
from fcnseg.datasets.dataset_toml import write_declared
from fcnseg.datasets.description import Description, Pair
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import DatasetError, MediaError, OptionError
from fcnseg.files import mark
from fcnseg.io.draw import caption, legend, overlay, side_by_side
from fcnseg.io.images import resize_image, resize_labels, write_image
from fcnseg.overwriting import Named, is_below, refuse_overwriting
from fcnseg.progress import Callback, Message, Progress, no_callback


def check(config: CheckConfig, callback: Callback = no_callback) -> CheckResult:
    """Look at a dataset and write the contact sheet, and a clean copy or dataset.toml if asked.

    DatasetError when it can't be a dataset at all.
    """
    outputs = _outputs(config)
    refuse_overwriting(outputs, [("the dataset", config.data)])
    seen, result = scan_and_check(config.data, callback)
    refuse_overwriting(outputs, seen.description.inputs())
    if config.write is not None:
        write_declared(seen.description, config.write)
        callback(Message(f"Wrote {config.write}: edit it, then fcnseg train {config.write}"))
        result = replace(result, written=config.write)
    if config.fix is not None:
        count = len(seen.description.pairs)
        cleaned = write_clean(
            seen, config.fix, lambda done: callback(Progress("copy", done, count, "pairs"))
        )
        callback(
            Message(f"Wrote {cleaned.written} of {count} pairs to {cleaned.folder}: "
                 f"{len(cleaned.repaired)} repaired, {len(cleaned.left_out)} left out")
        )  # fmt: skip
        result = replace(result, cleaned=cleaned)
    try:
        if write_contact(seen.description, config.contact, doubtful(seen, result.findings)):
            if config.contact == CheckConfig.contact:  # below a dataset it would be taken for one
                mark(config.contact.parent, [config.contact.name])
            callback(Message(f"Look at {config.contact}: do the labels line up with the objects?"))
            result = replace(result, contact=config.contact)
    except MediaError as error:  # a folder that can't be written to is no fault of the dataset
        callback(Message(error.message, "warning"))
    return result


def _outputs(config: CheckConfig) -> list[Named]:
    """What is written; OptionError for a copy that would be taken for a part of the dataset."""
    given = (("--contact", config.contact), ("--write", config.write), ("--fix", config.fix))
    if config.fix is not None and config.data.is_dir() and is_below(config.fix, config.data):
        raise OptionError(
            f"--fix {config.fix} is inside {config.data}: it would be taken for a part of it.",
            hint=f"name a folder outside, e.g. --fix {config.data.resolve().name}_clean",
        )
    return [(flag, path) for flag, path in given if path is not None]


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
