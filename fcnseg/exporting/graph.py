"""The exported graph: a network with its preprocessing and postprocessing.

    images uint8 (N, H, W, C) -> resize -> normalise -> network -> resize -> logits, labels

Every step is a tensor operation with dynamic sizes: a file needs only pixels as input.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.classes import IGNORE
from fcnseg.config import Include
from fcnseg.engines.fuse import InFloat32, fold_batch_norms, score_in_f32
from fcnseg.engines.model_files import LABELS, LOGITS, SCORES
from fcnseg.engines.pytorch import score_grid_of
from fcnseg.errors import OptionError
from fcnseg.models.fcn import FCN
from fcnseg.models.spec import Preprocess

SKIP = "skip_"
"""Prefix of the outputs with one skip's contribution; the stride follows."""


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """Options of an exported graph.

    size: fixed height and width with a batch size of 1; None: dynamic.
    precision: of the features; class scores and everything after them are always f32.
    layout: of the input; inside the graph and in fcnseg it is NHWC.
    include: outputs besides the logits.
    resizes: whether the graph resizes images to the network's input size and logits back to the
        image's size.
    """

    size: tuple[int, int] | None = None
    precision: Literal["f32", "f16"] = "f32"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    include: tuple[Include, ...] = ()
    resizes: bool = True

    @property
    def labels(self) -> bool:
        """Whether labels are an output."""
        return "argmax" in self.include or self.labels_only

    @property
    def labels_only(self) -> bool:
        """Whether labels and the scores replace the logits."""
        return "argmax-only" in self.include


PLAIN = GraphOptions()
"""Images of any size, in f32."""


def needs_logits() -> OptionError:
    """The error for labels without logits where that saves no work."""
    return OptionError(
        "--include argmax-only saves nothing here: the labels are computed from the logits at "
        "every pixel.",
        hint="--include argmax; labels without logits need --format onnx or openvino, bilinear "
        "upsampling, and neither --short-side nor skips",
    )


class Graph(nn.Module):
    """A network with its normalisation, for images at its input size.

    Batch norms are folded and no operation is in place, which halves the time of exporters.

    names: of the outputs, in order.
    """

    def __init__(
        self,
        network: FCN,
        preprocess: Preprocess,
        options: GraphOptions = PLAIN,
        *,
        scores: bool = False,
    ) -> None:
        super().__init__()
        spec = network.spec
        some = torch.zeros(1, spec.in_channels, 64, 64)
        self.network = fold_batch_norms(network.requires_grad_(False), some).eval()
        self.preprocess, self.half_precision = preprocess, options.precision == "f16"
        self.skips = "skips" in options.include
        if self.skips and spec.fuse != "score":
            raise OptionError(
                "--include skips needs logits that are a sum with one term per skip; this network "
                f"has fuse={spec.fuse}.",
                hint="omit it, or train a network with --fuse score",
            )
        grid = score_grid_of(self.network) if scores and not self.skips else None
        self.scores = grid is not None
        if options.labels_only and not self.scores:
            raise needs_logits()
        strides = self.network.skip_scores(some) if self.skips else ()
        self.names = [LOGITS, *[SCORES] * self.scores, *(f"{SKIP}{stride}" for stride in strides)]
        for module in self.modules():
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010 (mypy takes it for a submodule)
        if self.half_precision:
            score_in_f32(self.network)
            self.network.half()
            for module in self.network.modules():
                if isinstance(module, InFloat32):
                    module.float()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, h, w, C) -> float32 logits (N, K, h, w), and the other outputs in `names`."""
        # contiguous: with channels last, exporters take twice as long.
        prepared = self.preprocess.normalise(images).contiguous()
        if self.half_precision:
            prepared = prepared.half()
        if self.scores:
            scores, logits = self.network.scores_and_logits(prepared)
            return logits.float(), scores.float()
        if self.skips:
            parts = self.network.skip_scores(prepared)
            logits = torch.stack(list(parts.values())).sum(0)  # exactly the sum of the outputs
            return logits.float(), *(part.float() for part in parts.values())
        return (self.network(prepared).float(),)


class Preprocessing(nn.Module):
    """Resizes images uint8 (N, H, W, C) to the network's input size, (N, h, w, C).

    opaque: hide sizes from the exporter's symbolic analysis (see resized_images).
    """

    def __init__(self, preprocess: Preprocess, *, opaque: bool = False) -> None:
        super().__init__()
        self.preprocess, self.opaque = preprocess, opaque

    def forward(self, images: Tensor) -> Tensor:
        """The same as fcnseg.io.images.resize_image."""
        return resized_images(images, self.preprocess, opaque=self.opaque)


class Postprocessing(nn.Module):
    """Resizes logits to the images' size, and computes labels."""

    def __init__(self, *, resizes: bool, labels: bool) -> None:
        super().__init__()
        self.resizes, self.labels = resizes, labels

    def forward(self, images: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """Images (N, H, W, C), maps (N, K, h, w) -> (N, K, H, W) each, labels uint8 (N, H, W)."""
        if self.resizes:
            size = (images.shape[1], images.shape[2])
            maps = tuple(F.interpolate(one, size, mode="bilinear") for one in maps)
        labels = [maps[0].argmax(dim=1).to(torch.uint8)] if self.labels else []
        return *maps, *labels


class Complete(nn.Module):
    """The complete graph: images at their own size in, logits (and labels) of that size out.

    Returns a tensor for a single output, else a tuple in the order of `names`.
    """

    def __init__(self, network: FCN, preprocess: Preprocess, options: GraphOptions) -> None:
        super().__init__()
        self.inner = Graph(network, preprocess, options)
        self.before, self.after = pre_and_postprocessing(preprocess, options)
        self.names = [*self.inner.names, *[LABELS] * options.labels]
        self.channels_first = options.layout == "NCHW"

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """uint8 (N, H, W, C), or (N, C, H, W) for NCHW -> the outputs in `names`."""
        if self.channels_first:
            images = images.permute(0, 2, 3, 1)  # (N, H, W, C)
        seen = images if self.before is None else self.before(images)
        maps = self.inner(seen)
        if self.after is not None:
            maps = self.after(images, *maps)
        maps = tuple(maps)
        return maps if len(maps) > 1 else maps[0]


def pre_and_postprocessing(
    preprocess: Preprocess, options: GraphOptions
) -> tuple[Preprocessing | None, Postprocessing | None]:
    """The preprocessing and postprocessing around the network; None where nothing is to be done.

    Bands of more than 8 bits, and 2 or more than 4 bands, are not resized: there OpenCV's
    arithmetic differs.
    """
    bands, short_side = preprocess.bands, preprocess.short_side
    known = bands is None or (bands.dtype == "uint8" and bands.carried in (1, 3, 4))
    resizes = options.resizes and short_side is not None and known
    labels = options.labels
    before = Preprocessing(preprocess) if resizes else None
    return before, Postprocessing(resizes=resizes, labels=labels) if resizes or labels else None


def describe_graph(preprocess: Preprocess, options: GraphOptions) -> dict[str, Any]:
    """The description of a graph in a file's header, as plain data."""
    before, _ = pre_and_postprocessing(preprocess, options)
    bands = preprocess.bands
    return {
        "size": None if options.size is None else list(options.size),
        "precision": options.precision,
        "include": list(options.include),
        "resizes": before is not None,
        "layout": options.layout,
        "channels": 3 if bands is None else bands.carried,
        "dtype": "uint8" if bands is None else bands.dtype,
        "ignore": IGNORE,
    }


def resized_images(images: Tensor, preprocess: Preprocess, *, opaque: bool = False) -> Tensor:
    """Resize uint8 (N, H, W, C) to the network's input size, bit for bit as OpenCV does.

    Downscaling is the mean over the area of a pixel, in float32. Upscaling is bilinear, in
    OpenCV's fixed-point arithmetic: weights of 11 bits, and sums that are shifted by 4, 16 and 2
    bits. Otherwise labels of pixels near a boundary would differ.

    opaque: lengths are tensors instead of symbols, whose analysis takes exporters minutes.
    """
    one = torch.arange(1)
    lengths: list[Any] = [images.shape[1], images.shape[2]]
    if opaque:
        lengths = [one + length for length in lengths]
    new: Sequence[Any] = preprocess.network_size((lengths[0], lengths[1]))
    # bool (1,), part of the graph: tracing makes no decision.
    up = one + new[0] * new[1] >= lengths[0] * lengths[1]
    halved = (one + 2 * new[0] == lengths[0]) & (one + 2 * new[1] == lengths[1])
    rows, down = _taps(lengths[0], new[0], up, opaque)  # (h, T)
    columns, across = _taps(lengths[1], new[1], up, opaque)  # (w, T)
    wide = (images[:, :, columns].float() * across[:, :, None]).sum(dim=3)  # (N, H, w, C)
    wide = torch.where(up, (wide / 16).floor(), wide)
    parts = wide[:, rows] * down[:, :, None, None]  # (N, h, T, w, C)
    sums = torch.where(up, (parts / 65536).floor(), parts).sum(dim=2)  # (N, h, w, C)
    # For exactly half the size OpenCV rounds half up, otherwise half to even.
    pixels = torch.where(up, ((sums + 2) / 4).floor(), (sums + halved * 0.125).round())
    return pixels.clamp(0, 255).to(torch.uint8)


def _count(length: Any, opaque: bool) -> int:
    """Convert a length (at least 1) for use as a size."""
    if not opaque:
        return length  # type: ignore[no-any-return]
    count: int = length.item()
    torch._check(count >= 1)  # type: ignore[no-untyped-call]
    return count


def _taps(length: Any, new: Any, up: Tensor, opaque: bool) -> tuple[Tensor, Tensor]:
    """Source pixels of each new pixel, int64 (new, T), and their weights, float32 (new, T)."""
    at = torch.arange(_count(new, opaque))[:, None]
    tap = torch.arange(_count((length - 1) // new + 2, opaque))[None]
    # Areas in units of 1 / new of a pixel, so that they are integers.
    covering = at * length // new + tap
    overlap = torch.minimum((at + 1) * length, (covering + 1) * new)
    overlap = (overlap - torch.maximum(at * length, covering * new)).clamp(min=0)
    centre = ((2 * at + 1) * length - new).float() / (2 * new)
    first = centre.floor()
    far = centre - first
    weight = torch.where(tap == 0, 1 - far, torch.where(tap == 1, far, 0.0))
    pixel = torch.where(up, first.long() + tap, covering)
    weights = torch.where(up, (weight * 2048).round(), overlap.float() / length)
    return pixel.clamp(min=0).minimum(torch.arange(1) + length - 1), weights


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings and log messages of exporters."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
