"""The one thing passed between commands: weights and all that is needed to use them.

A checkpoint is one .safetensors file; what is not a tensor is JSON in its header, under
the key "fcnseg". Exported files carry the same JSON in their own metadata. Nothing in it
is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnseg.classes import ClassMap
from fcnseg.errors import (
    STRANGE,
    CheckpointError,
    InputError,
    OptionError,
    cannot_read,
    counted,
    path_of,
    typed,
)
from fcnseg.files import atomic_write, utf8_name
from fcnseg.models.spec import ModelSpec, Preprocess

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

_TORCH = (b"PK\x03\x04", b"\x80")  # how files of torch.save begin: a zip archive, or a pickle


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
        except STRANGE as error:
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
            path.suffix != ".safetensors" and start.startswith(_TORCH)  # .ckpt, .bin ...
        ):
            kind = what_else(start)
            if start and not start.startswith(_TORCH) and kind != _DAMAGED:
                raise CheckpointError(f"{path} is not a checkpoint: {kind}.", hint=instead_of(path))
            return cls._published(path)
        try:
            with utf8_name(path) as name, safe_open(name, framework="pt") as file:
                metadata = file.metadata() or {}
                names = list(file.keys())
                weights = {name: file.get_tensor(name) for name in names if KEY in metadata}
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a checkpoint: {_DAMAGED if is_ours else what_else(start)}.",
                hint=instead_of(path),
            ) from error
        if KEY not in metadata:
            raise CheckpointError(
                f"{path} holds weights but was not written by fcnseg: its header does not say "
                "which network they belong to.",
                hint="a backbone's weights can start a training: --backbone-weights FILE",
            )
        return cls.from_header(metadata[KEY], weights, name=str(path))

    @classmethod
    def _published(cls, path: Path) -> Checkpoint:
        """Somebody else's weights, recognised by their names."""
        from fcnseg.models.weights import read_state
        from fcnseg.models.zoo import NAMES, recognised, voc_classes

        found = recognised(read_state(path), path.name)
        if found is None:
            raise CheckpointError(
                f"{path} holds weights of a network that is not known here; known are "
                f"{', '.join(NAMES)} of torchvision and the FCN-32s, 16s and 8s of "
                "wkentaro/pytorch-fcn.",
                hint="a backbone's weights can start a training: --backbone-weights FILE",
            )
        spec, preprocess, weights = found
        voc = voc_classes()
        classes = voc if len(voc) == spec.num_classes else ClassMap.numbered(spec.num_classes)
        return cls(spec, preprocess, classes, weights)

    def build(self) -> FCN:
        """The network with its weights, float32, in evaluation mode."""
        from fcnseg.models.networks import build_empty
        from fcnseg.models.weights import first_line

        try:
            network = build_empty(self.spec)  # no memory is taken before the shapes fit
        except OptionError as error:
            raise CheckpointError(
                f"The checkpoint's network can't be built. {error.message}", hint=error.hint
            ) from error
        except RuntimeError as error:  # sizes beyond any memory
            raise CheckpointError(
                f"The checkpoint's network can't be built: {first_line(error)}."
            ) from error
        _check_shapes(network.state_dict(), self.weights)
        weights = {
            name: value.detach().float().clone() if value.is_floating_point() else value.clone()
            for name, value in self.weights.items()
        }
        _check_finite(weights)
        network.load_state_dict(weights, assign=True)
        return network.requires_grad_(True).eval()


def instead_of(path: Path) -> str:
    """What to take for a file that is gone or damaged: the run's other checkpoint, for a hint."""
    other = path.parent / {BEST: LAST, LAST: BEST}.get(path.name, "none")
    is_there = other.name in (BEST, LAST) and other.is_file()
    return f"the run's other checkpoint is there: {typed(other)}" if is_there else TRAIN_HINT


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    problems = [f"{len(missing)} missing ({missing[0]} ...)"] if missing else []
    problems += [f"{len(unexpected)} too many ({unexpected[0]} ...)"] if unexpected else []
    problems += sorted(wrong)[:1]
    if problems:
        raise CheckpointError(f"The weights do not fit the network: {'; '.join(problems)}.")


def _check_finite(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError where a network would compute, but nothing that means anything."""
    # numpy: torch would start its threads, and a model that is loaded before a fork needs none
    wrong = [name for name, value in weights.items() if not np.isfinite(value.cpu().numpy()).all()]
    if wrong:
        raise CheckpointError(
            f"NaN or infinite values in {counted(len(wrong), 'tensor')} of the weights "
            f"({wrong[0]} ...): the training that wrote them diverged, or the file is damaged.",
            hint="use an earlier checkpoint, or train again with a lower --lr",
        )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise cannot_read(path, error, CheckpointError) from None


_DAMAGED = "it is damaged, truncated or something else"


def what_else(start: bytes) -> str:
    """What a file that is no model, or not of the kind of its name, is by its first bytes."""
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is what Git keeps in its place (`git lfs pull` gets the file itself)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, perhaps a download that failed"
    if start.startswith(b"\x89HDF") or start[4:8] == b"TFL3":
        return "it is a model of TensorFlow"
    if start.startswith(_TORCH):
        return "it looks like a PyTorch file (.pt, .pth), which can hold code"
    if start.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"RIFF")):
        return "it looks like an image"
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x3a"):  # ir_version; producer or graph
        return "it looks like an ONNX file, which is named *.onnx and runs as it is"
    if b"<net " in start:
        return "it looks like a model for OpenVINO, which is named *.xml and runs as it is"
    if start[8:9] == b"{":
        return "it looks like a checkpoint, which is named *.safetensors"
    return _DAMAGED
