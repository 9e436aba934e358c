"""Networks that exist already: others' published ones, and those that come with fcnseg.

nuclei.safetensors and its card nuclei.md lie beside this file.
"""

from __future__ import annotations

import os
from pathlib import Path

from fcnseg.errors import CheckpointError, did_you_mean
from fcnseg.models.spec import ModelSpec, Preprocess
from fcnseg.models.weights import State, download
from fcnseg.models.zoo import published
from fcnseg.models.zoo.published import NAMES, official_url
from fcnseg.overwriting import Named
from fcnseg.progress import Callback, no_callback

SHIPPED = Path(__file__).parent
"""Trained networks that come with fcnseg, NAME.safetensors, each with its card NAME.md."""

BEST = "best.safetensors"

TRAIN_HINT = "`fcnseg train DATA` makes one; -m MODEL takes its path or its run folder"


def recognised(state: State, name: str = "") -> tuple[ModelSpec, Preprocess, State] | None:
    """What a published state dict is of, and its tensors under our names; None: unknown.

    name: of the file.
    """
    return published.recognise_original(state, name) or published.recognise_torchvision(state)


def find_model(
    model: str | None, runs: Path = Path("runs"), callback: Callback = no_callback
) -> Path:
    """The file meant by -m: a file, a run folder (its best); the newest best for None or "best".

    The name of a network that comes with fcnseg means that one. A published network's name
    means its official weights, from torch's cache or downloaded (with progress).
    Raises CheckpointError saying what was looked for.
    """
    if model is None or (model == "best" and not Path(model).exists()):
        found = sorted(runs.glob(f"*/{BEST}"), key=lambda path: path.stat().st_mtime_ns)
        if not found:
            raise CheckpointError(
                f"No model was given, and there is no trained one in {runs}{os.sep}.",
                hint=TRAIN_HINT,
            )
        return found[-1]
    path = Path(model)
    if path.is_file():
        return path
    if (path / BEST).is_file():
        return path / BEST
    if path.is_dir():
        raise CheckpointError(f"No {BEST} in the folder {path}.", hint=TRAIN_HINT)
    shipped = {path.stem: path for path in SHIPPED.glob("*.safetensors")}
    if model in shipped:
        return shipped[model]
    if model in NAMES:
        return download(official_url(model), callback)
    raise CheckpointError(
        f"No model {model!r}: no such file, run folder, or network known by that name "
        f"({', '.join([*shipped, *NAMES])}).",
        hint=did_you_mean(model, [*shipped, *NAMES], TRAIN_HINT),
    )


def model_files(path: Path | None) -> list[Named]:
    """A model's file and what may lie beside it and belong to it."""
    if path is None:
        return []
    beside = (path.with_suffix(".bin"), path.with_name(f"{path.name}.data"))
    return [("the model", file) for file in (path, *beside) if file.exists()]
