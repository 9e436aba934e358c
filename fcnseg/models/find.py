"""The file meant by -m: a path, a run folder, a name, or the newest there is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fcnseg.errors import CheckpointError, OptionError, did_you_mean, path_of
from fcnseg.models.checkpoint import BEST, TRAIN_HINT, instead_of
from fcnseg.overwriting import Named
from fcnseg.progress import Callback, no_callback

SHIPPED = Path(__file__).parent / "zoo"
"""Trained networks that come with fcnseg, NAME.safetensors, each with its card NAME.md."""


def find_model(
    model: str | None, runs: Path = Path("runs"), callback: Callback = no_callback
) -> Path:
    """The file meant by -m: a file, a run folder (its best); the newest best for None or "best".

    The name of a network that comes with fcnseg means that one. A published network's name
    means its official weights, from torch's cache or downloaded (with progress).
    Raises CheckpointError saying what was looked for.
    """
    found = _files_of(model, runs)
    if len(found) > 1:
        raise OptionError(
            f"{found[0].parent.parent} holds {len(found)} models, and one is expected here.",
            hint=f"give one of them: {found[0].parent}",
        )
    if found:
        return found[0]
    assert model is not None, "it stands for what was found"
    path = path_of(model, "model")
    if path.is_file():
        return path
    if (path / BEST).is_file():
        return path / BEST
    if path.is_dir():
        raise CheckpointError(f"No {BEST} in the folder {path}.", hint=instead_of(path / BEST))
    shipped = {path.stem: path for path in SHIPPED.glob("*.safetensors")}
    if model in shipped:
        return shipped[model]
    published = _published_names()
    if model in published:
        from fcnseg.models.backbones.torchvision import official_url
        from fcnseg.models.weights import download

        return download(official_url(model), callback)
    if "://" in model:
        raise CheckpointError(
            f"{model} is an address; expected a model on this machine.", hint="download it first"
        )
    raise CheckpointError(
        f"No model {model!r}: no such file, run folder, or network known by that name "
        f"({', '.join([*shipped, *published])}).",
        hint=did_you_mean(model, [*shipped, *published], instead_of(path)),
    )


def _published_names() -> tuple[str, ...]:
    """Networks of torchvision; none where there is no torch to run them."""
    if find_spec("torch") is None:
        return ()
    from fcnseg.models.zoo import NAMES

    return NAMES


def find_models(
    models: Sequence[str | None] | None, runs: Path = Path("runs"), callback: Callback = no_callback
) -> list[Path]:
    """The files meant by several -m; OptionError for one given twice.

    A folder of several runs (train --seeds, --folds) means the best of each, in their order.
    """
    found = [
        path
        for model in models or (None,)
        for path in _files_of(model, runs) or [find_model(model, runs, callback)]
    ]
    refuse_twice([[path] for path in found])
    return found


def refuse_twice(models: Sequence[Sequence[Path]]) -> None:
    """OptionError where two models are the same files, by whatever names."""
    real = [sorted(path.resolve() for path in files) for files in models]
    twice = next((files for index, files in enumerate(models) if real[index] in real[:index]), [])
    if twice:
        raise OptionError(f"--model: {twice[0]} was given twice.", hint="give each model once")


def _files_of(model: str | None, runs: Path) -> list[Path]:
    """The best of the newest run for None or "best", those of a folder of several runs; or none."""
    if model is not None and (model != "best" or Path(model).exists()):
        return _bests(path_of(model, "model"))
    found = [*runs.glob(f"*/{BEST}"), *runs.glob(f"*/*/{BEST}")]
    if not found:
        raise CheckpointError(
            f"No model was given, and there is no trained one in {runs}{os.sep}.", hint=TRAIN_HINT
        )
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    several = _bests(newest.parent.parent)
    return several if newest in several else [newest]


def _bests(folder: Path) -> list[Path]:
    """The checkpoints in a folder of several runs: of seed0, seed1, ... or fold0, fold1, ..."""
    if (folder / BEST).is_file():
        return []
    numbered = ((re.fullmatch(r"(?:seed|fold)(\d+)", path.parent.name), path)
                for path in folder.glob(f"*/{BEST}"))  # fmt: skip
    return [path for _, path in sorted((int(found[1]), path) for found, path in numbered if found)]


def model_files(paths: Sequence[Path]) -> list[Named]:
    """The files of models and what may lie beside them and belong to them."""
    beside = [
        file
        for path in paths
        for file in (path, path.with_suffix(".bin"), path.with_name(f"{path.name}.data"))
    ]
    return [("the model", file) for file in beside if file.exists()]
