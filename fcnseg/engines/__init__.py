"""Engines run networks: image arrays in, logits or labels out. The table for exported files.

To add an engine, write a subclass of ExportedEngine and add a line to ENGINES.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fcnseg.config.options import EngineName
from fcnseg.engines.base import ScoreGrid
from fcnseg.engines.exported import ExportedEngine
from fcnseg.engines.mobile import ExecuTorchEngine, LiteRtEngine
from fcnseg.engines.model_files import PRECISION
from fcnseg.engines.onnx import OnnxEngine, OpenCvEngine
from fcnseg.engines.openvino import OpenVinoEngine
from fcnseg.errors import OptionError
from fcnseg.models.checkpoint import EXPORT, Checkpoint

ENGINES: dict[str, type[ExportedEngine]] = {
    "onnxruntime": OnnxEngine,
    "openvino": OpenVinoEngine,
    "opencv": OpenCvEngine,
    "litert": LiteRtEngine,
    "executorch": ExecuTorchEngine,
}
"""The engines that run exported files, by their names on the command line; "torch" runs
checkpoints."""

RUNNABLE = tuple(dict.fromkeys(suffix for kind in ENGINES.values() for suffix in kind.suffixes))
"""Suffixes of exported files that an engine runs."""

STORED = ("int8", "f16")
"""Precisions that are fixed when a file is exported, whatever engine runs it."""


@dataclass(frozen=True)
class EngineOptions:
    """The requested engine.

    engine, device, precision: as in the command's options; "auto" unless given.
    frames: expected number of frames, 0 when few or unknown.
    parallel: allow several threads to call the engine at the same time, where that is faster.
    """

    engine: EngineName = "auto"
    device: str = "auto"
    precision: str = "auto"
    frames: int = 0
    parallel: bool = False


def open_exported(
    path: Path, name: str, *, device: str = "auto", precision: str = "auto", parallel: bool = False
) -> tuple[ExportedEngine, Checkpoint]:
    """Open an exported file in the named engine; return it and the file's header (no weights).

    OptionError when the engine does not support the file's format, the device or the precision;
    CheckpointError for a file that `fcnseg export` did not write; MissingExtra.
    """
    kind = ENGINES.get(name)
    if kind is None or path.suffix.lower() not in kind.suffixes:
        raise OptionError(
            f"{path} is an exported file, which {name} does not run.",
            hint="omit --engine, or give the checkpoint it was exported from",
        )
    if precision not in ("auto", *STORED, *kind.precisions):
        raise OptionError(
            f"The engine {name} computes in {', '.join(kind.precisions)} here; {precision} was "
            "requested.",
            hint="use --engine torch with the checkpoint, or --precision f32",
        )
    own = precision if precision in kind.precisions else "auto"
    engine = kind(path, device=device, precision=own, parallel=parallel)
    header = Checkpoint.from_header(engine.header, name=str(path))
    stored = header.extra.get(PRECISION, "f32")
    possible = ("auto", *kind.precisions) if stored == "f32" else ("auto", stored)
    if precision not in possible:
        raise OptionError(
            f"{path} computes in {stored}; {precision} was requested.",
            hint="omit --precision, or export the checkpoint in that precision",
        )
    if stored != "f32":
        engine.precision = str(stored)
    about = header.extra.get(EXPORT, {})
    size, engine.channels_first = about.get("size"), about.get("layout") == "NCHW"
    engine.fixed_size = None if size is None else (int(size[0]), int(size[1]))
    if engine.has_scores:
        engine.score_grid = _grid(about.get("grid"), header)
    return engine, header


def _grid(stored: Any, header: Checkpoint) -> ScoreGrid | None:
    """The grid of a file's scores; None if unknown: labels are then computed from logits."""
    if (grid := ScoreGrid.from_dict(stored)) is not None or find_spec("torch") is None:
        return grid
    from fcnseg.engines.pytorch import score_grid_of  # a file of an earlier version
    from fcnseg.models.networks import build_empty

    return score_grid_of(build_empty(header.spec))
