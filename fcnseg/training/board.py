"""The epochs' numbers for TensorBoard, for those who watch many runs side by side."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from fcnseg.errors import MissingExtra
from fcnseg.events import EpochDone, Event, Listener


def with_board(listener: Listener, folder: Path, *, epochs_done: int = 0) -> Listener:
    """A listener that also writes each epoch's row and class IoUs as scalars into a folder.

    epochs_done: rows that are there already; what a killed run wrote beyond them is
    taken back. MissingExtra without the extra "log".
    """
    try:
        tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise MissingExtra("--tensorboard", "log") from None
    writer = tensorboard.SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def listen(event: Event) -> None:
        if isinstance(event, EpochDone):
            for name, value in event.values.items():
                if name != "epoch":
                    writer.add_scalar(name, value, event.epoch)
            for name, iou in event.class_iou.items():
                if iou is not None:
                    writer.add_scalar(f"iou/{name}", iou, event.epoch)
            writer.flush()
        listener(event)

    return listen
