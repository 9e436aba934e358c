"""The one thing passed between commands: weights and all that is needed to use them.

`find_model` says which file is meant by -m: a path, a run folder, a name, or the newest there is.

A checkpoint is one .safetensors file; what is not a tensor is JSON in its header, under
the key "fcnseg". Exported files carry the same JSON in their own metadata. Nothing in it
is ever executed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnseg.classes import ClassMap
from fcnseg.errors import (
    PARSE_ERRORS,
    CheckpointError,
    InputError,
    OptionError,
    cannot_read,
    counted,
    did_you_mean,
    path_of,
    typed,
)
from fcnseg.files import atomic_write, utf8_name
from fcnseg.models.spec import ModelSpec, Preprocess
from fcnseg.models.weights import DAMAGED, TORCH, what_else
from fcnseg.overwriting import Named
from fcnseg.progress import Callback, no_callback

if TYPE_CHECKING:
    from torch import Tensor

    from fcnseg.models.fcn import FCN

FORMAT = 1
"""Version of the header; a file with a higher one was written by a newer fcnseg."""

KEY = "fcnseg"
"""Where the header lies in a file's metadata."""

BEST, LAST = "best.safetensors", "last.safetensors"

TRAIN_HINT = "`fcnseg train DATA` makes one; give its path or its run folder"

EXPORT = "export"
"""The key in an exported file's extras of what `fcnseg export` says of the file itself."""

TORCH_SUFFIXES = (".pth", ".pt")
"""Of weights in PyTorch's own format; they are read without running code in them."""


def resizes_itself(extra: Mapping[str, Any]) -> bool:
    """Whether a model's file contains the resizing to what the network sees, by its extras."""
    return bool(extra.get(EXPORT, {}).get("resizes"))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network in a file (.safetensors): its weights, and all that is needed to use them.

    spec: the network's shape. preprocess: how images become its inputs. classes: its K outputs.
    weights: the state dict, name -> tensor. report: the scores it reached, as plain data.
    extra: anything else worth keeping, as plain data.

        checkpoint = fcnseg.Checkpoint.load("best.safetensors")
        network = checkpoint.build()

    CheckpointError where a file can't be read, or its parts contradict each other.
    """

    spec: ModelSpec
    preprocess: Preprocess
    classes: ClassMap
    weights: Mapping[str, Tensor]
    report: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.classes) != self.spec.num_classes:
            raise CheckpointError(
                f"A network of {counted(self.spec.num_classes, 'class')} with "
                f"{counted(len(self.classes), 'name')}."
            )
        if len(self.preprocess.mean) != self.spec.in_channels:
            raise CheckpointError(
                f"A network of {self.spec.in_channels} bands with statistics of "
                f"{len(self.preprocess.mean)}."
            )

    def header_json(self) -> str:
        """Everything but the weights, as JSON."""
        header = {
            "format": FORMAT,
            "spec": self.spec.as_dict(),
            "preprocess": self.preprocess.as_dict(),
            "classes": self.classes.as_dict(),
            "report": dict(self.report),
            "extra": dict(self.extra),
        }
        return json.dumps(header)

    @classmethod
    def from_header(
        cls, text: str, weights: Mapping[str, Tensor] | None = None, *, name: str = "the file"
    ) -> Checkpoint:
        """The inverse of header_json; CheckpointError says what is wrong, in which file."""
        try:
            header = json.loads(text)
            version = int(header["format"])
            if version > FORMAT:
                raise CheckpointError(
                    f"{name} was written by a newer fcnseg (format {version}; this one reads "
                    f"up to {FORMAT}).",
                    hint="pip install --upgrade fcnseg",
                )
            return cls(
                spec=ModelSpec.from_dict(header["spec"]),
                preprocess=Preprocess.from_dict(header["preprocess"]),
                classes=ClassMap.from_dict(header["classes"]),
                weights=weights or {},
                report=dict(header.get("report", {})),
                extra=dict(header.get("extra", {})),
            )
        except CheckpointError:
            raise
        except (InputError, OptionError) as error:
            raise CheckpointError(f"{name} has a broken header. {error.message}") from error
        except PARSE_ERRORS as error:
            what = f"{type(error).__name__}: {error}"[:200]
            raise CheckpointError(f"{name} has a broken header ({what}).") from error

    def half(self) -> Checkpoint:
        """The same with weights in half precision: a file of half the size, near enough in use."""
        weights = {
            name: value.half() if value.is_floating_point() else value
            for name, value in self.weights.items()
        }
        return replace(self, weights=weights)

    def save(self, path: str | Path) -> Path:
        """Write the file: complete or not at all, an old one replaced at the end."""
        from safetensors.torch import save

        path = path_of(path, "path")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.weights.items()}
        try:
            data = save(weights, metadata={KEY: self.header_json()})
            with atomic_write(path, sync=True) as file:
                file.write(data)
        except OSError as error:
            raise CheckpointError(f"Can't write {path}: {error.strerror or error}.") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a file; CheckpointError when it is missing, truncated, newer or not ours."""
        from safetensors import SafetensorError, safe_open

        path = path_of(path, "path")
        if not path.is_file():
            raise CheckpointError(f"No checkpoint {path}.", hint=instead_of(path))
        start = _first_bytes(path)
        is_ours = start[8:9] == b"{"  # safetensors, under whatever name
        if (path.suffix in TORCH_SUFFIXES and not is_ours) or (
            path.suffix != ".safetensors" and start.startswith(TORCH)  # .ckpt, .bin ...
        ):
            kind = what_else(start)
            if start and not start.startswith(TORCH) and kind != DAMAGED:
                raise CheckpointError(f"{path} is not a checkpoint: {kind}.", hint=instead_of(path))
            from fcnseg.models.zoo import read_published

            return cls(*read_published(path))
        try:
            with utf8_name(path) as name, safe_open(name, framework="pt") as file:
                metadata = file.metadata() or {}
                names = list(file.keys())
                weights = {name: file.get_tensor(name) for name in names if KEY in metadata}
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a checkpoint: {DAMAGED if is_ours else what_else(start)}.",
                hint=instead_of(path),
            ) from error
        if KEY not in metadata:
            raise CheckpointError(
                f"{path} holds weights but was not written by fcnseg: its header does not say "
                "which network they belong to.",
                hint="a backbone's weights can start a training: --backbone-weights FILE",
            )
        return cls.from_header(metadata[KEY], weights, name=str(path))

    def build(self) -> FCN:
        """The network with its weights, float32, in evaluation mode."""
        from fcnseg.models.networks import build_trained

        return build_trained(self.spec, self.weights)


def instead_of(path: Path) -> str:
    """What to take for a file that is gone or damaged: the run's other checkpoint, for a hint."""
    other = path.parent / {BEST: LAST, LAST: BEST}.get(path.name, "none")
    is_there = other.name in (BEST, LAST) and other.is_file()
    return f"the run's other checkpoint is there: {typed(other)}" if is_there else TRAIN_HINT


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise cannot_read(path, error, CheckpointError) from None


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
