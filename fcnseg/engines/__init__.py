"""Engines: arrays in, logits or labels out. The table of those that run exported files.

A new engine is one file with a subclass of ExportedEngine, and one line in ENGINES.
"""

from __future__ import annotations

from pathlib import Path

from fcnseg.engines.argmax import score_grid_of
from fcnseg.engines.base import PRECISION, ExportedEngine
from fcnseg.engines.onnx import OnnxEngine, OpenCvEngine
from fcnseg.engines.openvino import OpenVinoEngine
from fcnseg.errors import OptionError
from fcnseg.models import build_empty
from fcnseg.models.checkpoint import Checkpoint

ENGINES: dict[str, type[ExportedEngine]] = {
    "onnxruntime": OnnxEngine,
    "openvino": OpenVinoEngine,
    "opencv": OpenCvEngine,
}
"""The engines that run exported files, by their names on the command line; "torch" runs
checkpoints."""

RUNNABLE = tuple(dict.fromkeys(suffix for kind in ENGINES.values() for suffix in kind.suffixes))
"""Suffixes of exported files that an engine runs."""


def open_exported(
    path: Path,
    name: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    parallel: bool = False,
) -> tuple[ExportedEngine, Checkpoint]:
    """An engine of the table for an exported file, and the file's header (no weights).

    OptionError where the engine does not run such a file, or not on that device or in that
    precision; CheckpointError for a file that `fcnseg export` did not write; MissingExtra.
    """
    kind = ENGINES.get(name)
    if kind is None or path.suffix.lower() not in kind.suffixes:
        raise OptionError(
            f"{path} is an exported file, which {name} does not run.",
            hint="omit --engine, or give the checkpoint it was exported from",
        )
    if precision not in ("auto", "int8", *kind.precisions):
        raise OptionError(
            f"The engine {name} computes in {', '.join(kind.precisions)} here; {precision} was "
            "requested.",
            hint="use --engine torch with the checkpoint, or --precision f32",
        )
    own = "auto" if precision == "int8" else precision  # int8 is a property of the file
    engine = kind(path, device=device, precision=own, parallel=parallel)
    header = Checkpoint.from_header(engine.header, name=str(path))
    in_int8 = header.extra.get(PRECISION) == "int8"
    if precision != "auto" and in_int8 != (precision == "int8"):
        raise OptionError(
            f"{path} computes in {'int8' if in_int8 else 'f32'}; {precision} was requested.",
            hint="omit --precision, or export the checkpoint in that precision",
        )
    if in_int8:
        engine.precision = "int8"
    if engine.has_scores:
        engine.score_grid = score_grid_of(build_empty(header.spec))
    return engine, header
