"""How long work tells of itself: the verbs send events, whoever called them listens.

The verbs know nothing of terminals; the command line draws these, a script may ignore
them, a test may collect them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Note:
    """One line for people."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Progress:
    """How far one task has come.

    task: what is being done; a new name starts a new bar.
    done, total: in the task's own unit; total is None when it can't be known.
    unit: what is counted ("frames", "images", "files").
    values: what to show beside the bar, in this order (loss, mIoU, frames/s ...).
    """

    task: str
    done: int
    total: int | None
    unit: str = ""
    values: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochDone:
    """One epoch of training is over.

    values: the row just written to results.csv (loss, miou, pixel_accuracy, seconds ...).
    class_iou: the IoU of each class by name; None where it does not occur in the labels.
    best: whether this epoch's mIoU is the best so far.
    """

    epoch: int
    epochs: int
    values: Mapping[str, float | int]
    class_iou: Mapping[str, float | None]
    best: bool


Event = Note | Progress | EpochDone
Listener = Callable[[Event], None]


def notes_to_log(callback: Listener) -> Listener:
    """A listener that logs notes (logger "fcnseg") and hands everything else to `callback`."""

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            level = logging.WARNING if event.level == "warning" else logging.INFO
            logging.getLogger("fcnseg").log(level, "%s", event.text)
        else:
            callback(event)

    return listen


def nobody(event: Event) -> None:
    """The listener of those who do not want to know."""
