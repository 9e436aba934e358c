"""Engines: arrays in, logits or labels out. The table of those that run exported files.

A new engine is one file with a subclass of ExportedEngine, and one line in ENGINES.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fcnseg.engines.base import EXPORT, PRECISION, ExportedEngine, Images
from fcnseg.engines.onnx import OnnxEngine, OpenCvEngine
from fcnseg.engines.openvino import OpenVinoEngine
from fcnseg.engines.pytorch import score_grid_of
from fcnseg.errors import OptionError
from fcnseg.io.bands import Bands
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


STORED = ("int8", "f16")
"""Precisions that are a file's own, whatever runs it."""


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
    size = header.extra.get(EXPORT, {}).get("size")
    engine.fixed_size = None if size is None else (int(size[0]), int(size[1]))
    if engine.has_scores:
        engine.score_grid = score_grid_of(build_empty(header.spec))
    return engine, header


def sample_images(shape: tuple[int, int, int], *, seed: int, bands: Bands | None = None) -> Images:
    """Synthetic images with large shapes, edges and fine grain. uint8 (N, H, W, 3).

    bands: in their range and type instead, (N, H, W, carried).
    """
    if bands is not None:
        return np.concatenate(
            [_sample_band(shape, seed, bands, at) for at in range(bands.carried)], axis=3
        )
    count, height, width = shape
    random = torch.Generator().manual_seed(seed)
    image = torch.zeros(count, 3, height, width)
    for side in (2, 5, 13, 40):  # octaves: the coarser, the stronger
        noise = torch.randn(count, 3, side, side, generator=random) * (30 + 60 / side)
        mode = "nearest" if side == 5 else "bilinear"  # hard edges from one of them
        image += F.interpolate(noise, (height, width), mode=mode)
    grain = torch.randn(count, 3, height, width, generator=random) * 8
    pixels = (128 + image + grain).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def _sample_band(shape: tuple[int, int, int], seed: int, bands: Bands, at: int) -> Images:
    """(N, H, W, 1): one band of synthetic images, from its black to its white."""
    grey = sample_images(shape, seed=seed + 1000 * (at + 1))[..., :1].astype(np.float64) / 255
    values = bands.low[at] + grey * (bands.high[at] - bands.low[at])
    if bands.dtype != "float32":
        values = np.round(values)
    return np.asarray(values.astype(bands.dtype))
