"""Engines: arrays in, logits or labels out. The table of those that run exported files; parity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fcnseg.engines.base import PRECISION, ExportedEngine
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


Images = NDArray[Any]

Logits = NDArray[np.float32]

Labels = NDArray[np.uint8]

LogitsFunction = Callable[[Images], Logits]
"""Images uint8 (N, H, W, 3) -> logits float32 (N, K, H, W)."""

LabelsOf = Callable[[Images], Labels]
"""Images uint8 (N, H, W, 3) -> labels uint8 (N, H, W)."""

SIZES = ((33, 47), (64, 96), (97, 131), (240, 320))
"""Heights and widths at which outputs are compared: odd, even, multiples of the stride, not."""


@dataclass(frozen=True)
class Parity:
    """The differences between two implementations of one network.

    max_abs_diff: largest difference of a logit; largest_logit: what it compares with.
    label_agreement: proportion of pixels with the same label, 0..1.
    sizes: (height, width) of the images; batches: how many went in together.
    pixels: how many were compared.
    """

    max_abs_diff: float
    largest_logit: float
    label_agreement: float
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    pixels: int

    @property
    def holds(self) -> bool:
        """Whether one may stand in for the other."""
        return self.label_agreement >= 0.999 and self.max_abs_diff <= 1e-3 * max(
            1.0, self.largest_logit
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "max_abs_diff": self.max_abs_diff,
            "largest_logit": self.largest_logit,
            "label_agreement": self.label_agreement,
            "sizes": [list(size) for size in self.sizes],
            "batches": list(self.batches),
            "pixels": self.pixels,
        }


def compare(
    original: LogitsFunction,
    other: LogitsFunction,
    *,
    labels: LabelsOf | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    batches: Sequence[int] = (1, 3),
    bands: Bands | None = None,
) -> Parity:
    """Run both on the same images: every size with every batch.

    bands: of the network's images; None: RGB.

    labels: the other's, where it has a way to them that does not lead over its logits.
    """
    difference = largest = 0.0
    same = pixels = 0
    for index, size in enumerate(sizes):
        for batch in batches:
            images = sample_images((batch, *size), seed=index, bands=bands)
            expected, found = original(images), other(images)
            if found.shape != expected.shape or not np.isfinite(found).all():
                return Parity(float("inf"), largest, 0.0, tuple(sizes), tuple(batches), pixels)
            difference = max(difference, float(np.abs(expected - found).max()))
            largest = max(largest, float(np.abs(expected).max()))
            predicted = found.argmax(axis=1) if labels is None else labels(images)
            same += int((expected.argmax(axis=1) == predicted).sum())
            pixels += batch * size[0] * size[1]
    return Parity(difference, largest, same / pixels, tuple(sizes), tuple(batches), pixels)


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
