"""Checkpoints: a network's weights and everything needed to use them; the files behind -m.

A checkpoint is one .safetensors file; what is not a tensor is JSON in its header, under
the key "fcnseg". Exported files have the same JSON in their own metadata. Loading executes no
code from a file.
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
    quoted,
    with_name,
)
from fcnseg.files import atomic_write, utf8_name
from fcnseg.models.spec import ModelSpec, Preprocess
from fcnseg.models.weights import DAMAGED, TORCH, guess_content
from fcnseg.overwriting import Named
from fcnseg.progress import Callback, no_callback

if TYPE_CHECKING:
    from torch import Tensor

    from fcnseg.models.fcn import FCN

FORMAT = 1
"""Version of the header; a file with a higher one was written by a newer fcnseg."""

KEY = "fcnseg"
"""The header's key in a file's metadata."""

BEST, LAST = "best.safetensors", "last.safetensors"

TRAIN_HINT = "`fcnseg train DATA` makes one; give its path or its run folder"

EXPORT = "export"
"""The key in `extra` under which `fcnseg export` describes the exported file."""

TORCH_SUFFIXES = (".pth", ".pt")
"""Of weights in PyTorch's own format; they are read without executing code in them."""


def resizes_itself(extra: Mapping[str, Any]) -> bool:
    """Whether an exported file resizes images to the network's input size, by its `extra`."""
    return bool(extra.get(EXPORT, {}).get("resizes"))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network's weights (.safetensors) and everything needed to use them.

    spec: the architecture. preprocess: how images become its inputs. classes: its K outputs.
    weights: the state dict, name -> tensor. report: its validation scores, as plain data.
    extra: anything else, as plain data. name: of the file it was loaded from, for messages.

        checkpoint = fcnseg.Checkpoint.load("best.safetensors")
        network = checkpoint.build()

    CheckpointError when a file can't be read, or its parts contradict each other.
    """

    spec: ModelSpec
    preprocess: Preprocess
    classes: ClassMap
    weights: Mapping[str, Tensor]
    report: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    name: str = field(default="", repr=False)

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
        """Everything except the weights, as JSON."""
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
        """The inverse of header_json. name: of the file, for the CheckpointError."""
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
                name=name,
            )
        except CheckpointError:
            raise
        except (InputError, OptionError) as error:
            raise CheckpointError(f"{name} has a broken header. {error.message}") from error
        except PARSE_ERRORS as error:
            what = f"{type(error).__name__}: {error}"[:200]
            raise CheckpointError(f"{name} has a broken header ({what}).") from error

    def half(self) -> Checkpoint:
        """A copy with float16 weights, for a file of half the size."""
        weights = {
            name: value.half() if value.is_floating_point() else value
            for name, value in self.weights.items()
        }
        return replace(self, weights=weights)

    def save(self, path: str | Path) -> Path:
        """Write the file atomically; an existing one is replaced at the end."""
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
        """Read a file; CheckpointError when it is missing, damaged, newer or not a checkpoint."""
        from safetensors import SafetensorError, safe_open

        path = path_of(path, "path")
        if not path.is_file():
            raise CheckpointError(f"No checkpoint {path}.", hint=alternative_hint(path))
        start = _first_bytes(path)
        is_safetensors = start[8:9] == b"{"  # whatever its suffix
        if (path.suffix in TORCH_SUFFIXES and not is_safetensors) or (
            path.suffix != ".safetensors" and start.startswith(TORCH)  # .ckpt, .bin ...
        ):
            kind = guess_content(start)
            if start and not start.startswith(TORCH) and kind != DAMAGED:
                raise CheckpointError(
                    f"{path} is not a checkpoint: {kind}.", hint=alternative_hint(path)
                )
            from fcnseg.models.zoo import read_published

            return cls(*read_published(path), name=str(path))
        try:
            with utf8_name(path) as name, safe_open(name, framework="pt") as file:
                metadata = file.metadata() or {}
                names = list(file.keys())
                weights = {name: file.get_tensor(name) for name in names if KEY in metadata}
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            kind = DAMAGED if is_safetensors else guess_content(start)
            text = f"{path} is not a checkpoint: {kind}."
            raise CheckpointError(text, hint=alternative_hint(path)) from error
        if KEY not in metadata:
            raise CheckpointError(
                f"{path} holds weights but was not written by fcnseg: its header does not say "
                "which network they belong to.",
                hint="a backbone's weights can start a training: --backbone-weights FILE",
            )
        return cls.from_header(metadata[KEY], weights, name=str(path))

    def build(self) -> FCN:
        """Build the network with its weights, float32, in evaluation mode."""
        from fcnseg.models.networks import build_trained

        try:
            return build_trained(self.spec, self.weights)
        except CheckpointError as error:
            message = with_name(self.name, error.message)
            raise CheckpointError(message, hint=error.hint) from error


def alternative_hint(path: Path) -> str:
    """Hint for a file that is no usable checkpoint: one of its run's, or how to train one."""
    other = path.parent / (LAST if path.name == BEST else BEST)
    what = "other checkpoint" if path.name in (BEST, LAST) else "best checkpoint"
    return f"the run's {what} is there: {quoted(other)}" if other.is_file() else TRAIN_HINT


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise cannot_read(path, error, CheckpointError) from None


SHIPPED = Path(__file__).parent / "zoo"
"""Trained networks that come with fcnseg, NAME.safetensors, each with its model card NAME.md."""


def find_model(
    model: str | None, runs: Path = Path("runs"), callback: Callback = no_callback
) -> Path:
    """Resolve -m to a file.

    model: a file; a run folder (its best checkpoint); the name of a network that comes with
        fcnseg; the name of a published network (its official weights, from torch's cache or
        downloaded); None or "best" for the newest best checkpoint in `runs`.
    callback: receives the progress of a download.
    CheckpointError when there is none.
    """
    found = _files_of(model, runs)
    if len(found) > 1:
        raise OptionError(
            f"{found[0].parent.parent} holds {len(found)} models, and one is expected here.",
            hint=f"give one of them: {found[0].parent}",
        )
    if found:
        return found[0]
    assert model is not None, "_files_of found a file or raised"
    path = path_of(model, "model")
    if path.is_file():
        return path
    if (path / BEST).is_file():
        return path / BEST
    if path.is_dir():
        kinds = ("*.safetensors", "*.onnx", f"*/{BEST}")
        near = sorted(quoted(file) for kind in kinds for file in path.glob(kind))
        hint = alternative_hint(path / BEST)
        if near and hint == TRAIN_HINT:
            hint = f"models there: {', '.join(near[:3])}{' ...' * (len(near) > 3)}"
        raise CheckpointError(f"No {BEST} in the folder {path}.", hint=hint)
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
        hint=did_you_mean(model, [*shipped, *published], alternative_hint(path)),
    )


def _published_names() -> tuple[str, ...]:
    """Names of torchvision's networks; none without torch, which runs them."""
    if find_spec("torch") is None:
        return ()
    from fcnseg.models.zoo import NAMES

    return NAMES


def find_models(
    models: Sequence[str | None] | None, runs: Path = Path("runs"), callback: Callback = no_callback
) -> list[Path]:
    """Resolve several -m to files; OptionError for a duplicate.

    A folder of several runs (train --seeds, --folds) stands for the best checkpoint of each, in
    order.
    """
    found = [
        path
        for model in models or (None,)
        for path in _files_of(model, runs) or [find_model(model, runs, callback)]
    ]
    check_no_duplicates([[path] for path in found])
    return found


def check_no_duplicates(models: Sequence[Sequence[Path]]) -> None:
    """OptionError when two models resolve to the same files."""
    real = [sorted(path.resolve() for path in files) for files in models]
    twice = next((files for index, files in enumerate(models) if real[index] in real[:index]), [])
    if twice:
        raise OptionError(f"--model: {twice[0]} was given twice.", hint="give each model once")


def _files_of(model: str | None, runs: Path) -> list[Path]:
    """The best checkpoints of a folder of several runs; of the newest run for None or "best"."""
    if model is not None and (model != "best" or Path(model).exists()):
        return _best_checkpoints(path_of(model, "model"))
    found = [*runs.glob(f"*/{BEST}"), *runs.glob(f"*/*/{BEST}")]
    if not found:
        raise CheckpointError(
            f"No model was given, and there is no trained one in {runs}{os.sep}.", hint=TRAIN_HINT
        )
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    several = _best_checkpoints(newest.parent.parent)
    return several if newest in several else [newest]


def _best_checkpoints(folder: Path) -> list[Path]:
    """The best checkpoints in a folder of runs: seed0, seed1, ... or fold0, fold1, ..."""
    if (folder / BEST).is_file():
        return []
    numbered = ((re.fullmatch(r"(?:seed|fold)(\d+)", path.parent.name), path)
                for path in folder.glob(f"*/{BEST}"))  # fmt: skip
    return [path for _, path in sorted((int(found[1]), path) for found, path in numbered if found)]


def model_files(paths: Sequence[Path]) -> list[Named]:
    """The files of models, with those of their weights that lie beside them (.bin, .data)."""
    beside = [
        file
        for path in paths
        for file in (path, path.with_suffix(".bin"), path.with_name(f"{path.name}.data"))
    ]
    return [("the model", file) for file in beside if file.exists()]
