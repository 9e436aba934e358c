"""The whole of a training between two steps: saved, and gone on from bit for bit.

What is random follows from (seed, step) and (seed, epoch, image) and is not stored: no
generator's state can be lost. Where the loader stands follows from the number of steps.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fcnseg.errors import CheckpointError
from fcnseg.models.weights import why_unreadable
from fcnseg.training.runs import write_atomically

FORMAT = 1


@dataclass
class Track:
    """How far a training has come; the only thing about it that changes beside tensors.

    step: steps done. loss_sum, loss_steps: of the epoch under way. seconds: spent so far,
    epoch_seconds: on the steps of the epoch under way.
    rows: the finished epochs, as in results.csv. best: the best mIoU so far.
    parts: how many parts a step is computed in. calm: what the learning rate is multiplied
    by after roll-backs, of which there were `rollbacks`.
    images: how many training images there are.
    """

    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    rows: list[dict[str, float | int | None]] = field(default_factory=list)
    best: float = -1.0
    parts: int = 1
    calm: float = 1.0
    rollbacks: int = 0
    images: int = 0


def save_state(path: Path, track: Track, tensors: Mapping[str, Any]) -> None:
    """Write a training's state: complete or not at all.

    tensors: what else belongs to it: state dicts by name.
    """
    content = {"format": FORMAT, "track": dataclasses.asdict(track), **tensors}
    write_atomically(path, lambda file: torch.save(content, file))


def load_state(path: Path) -> tuple[Track, dict[str, Any]]:
    """Read what save_state wrote, on the CPU; CheckpointError when it is something else.

    Nothing in the file is executed (weights_only).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no {path} to go on from.") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        weights = next(
            (
                path.with_name(f"{n}.safetensors")
                for n in ("last", "best")
                if path.with_name(f"{n}.safetensors").is_file()
            ),
            None,
        )
        raise CheckpointError(
            f"{path} is damaged or no training state: {why_unreadable(path, error)}.",
            hint="start a new run"
            + (f" from its weights: fcnseg train DATA --finetune {weights}" if weights else ""),
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no training state of this version of fcnseg.",
            hint="go on with the version it was started with, or --finetune from last.safetensors",
        )
    return Track(**content.pop("track")), content
