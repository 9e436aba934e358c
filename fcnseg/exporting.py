"""The verb `export`: a model in another format, proven to give the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcnseg.config import ExportConfig
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.events import Listener, Note, nobody
from fcnseg.fcn.checkpoint import Checkpoint, find_model
from fcnseg.runtime.convert import convert
from fcnseg.runtime.formats import FORMATS, opset_of
from fcnseg.runtime.parity import SIZES, Parity


@dataclass(frozen=True)
class ExportResult:
    """What was written, and the proof.

    opset: the version of the operators, for ONNX; None for formats without one.
    parity: how near the file's answers are to the checkpoint's.
    """

    format: str
    path: Path
    opset: int | None
    size_bytes: int
    parity: Parity

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "format": self.format,
            "path": str(self.path),
            "opset": self.opset,
            "size_bytes": self.size_bytes,
            "parity": self.parity.as_dict(),
        }


def export(config: ExportConfig, listener: Listener = nobody) -> ExportResult:
    """Write a checkpoint in another format and compare the two on pictures of several sizes.

    The file appears only when it gives the same answers. Raises CheckpointError,
    MissingExtra, OptionError.
    """
    model = find_model(config.model, listener=listener)
    if model.suffix.lower() in {format.suffix for format in FORMATS.values()}:
        raise CheckpointError(
            f"{model} is an exported file already.", hint="give the checkpoint it was made from"
        )
    checkpoint = Checkpoint.load(model)
    path = _target(config, model)
    listener(Note(f"Writing {path} and comparing it with {model}"))
    parity = convert(checkpoint, path, config.format, sizes=_sizes(checkpoint))
    parts = [path, *(path.with_suffix(suffix) for suffix in FORMATS[config.format].beside)]
    size = sum(part.stat().st_size for part in parts)
    return ExportResult(config.format, path, opset_of(path), size, parity)


def _target(config: ExportConfig, model: Path) -> Path:
    """The file to write; OptionError when its name would hide what it is."""
    suffix = FORMATS[config.format].suffix
    if config.out is None:
        return model.with_suffix(suffix)
    if config.out.is_dir():
        return config.out / f"{model.stem}{suffix}"
    if config.out.suffix.lower() != suffix:
        raise OptionError(
            f"An exported {config.format} file is named *{suffix}; found {config.out.name!r}.",
            hint=f"--out {config.out.with_suffix(suffix)}",
        )
    return config.out


def _sizes(checkpoint: Checkpoint) -> tuple[tuple[int, int], ...]:
    """Where answers are compared: our sizes, and the one the network was trained for."""
    crop = checkpoint.extra.get("crop")
    own = [(int(crop[0]), int(crop[1]))] if crop else []
    return tuple(dict.fromkeys([*SIZES, *own]))
