"""Measure the alignment of logits and pixels for every backbone and decoder: docs/alignment.md.

    python benchmarks/alignment.py [BACKBONE ...]

For each backbone, each decoder and three sizes: the largest distance between a pixel and the
centroid of |d logit / d input|, over all pixels away from the border. The method is in
fcnseg/models/backbones/timm.py. Without names, docs/alignment.md is written.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fcnseg.models.backbones import Features, offset
from fcnseg.models.backbones.timm import centroids, linearised
from fcnseg.models.fcn import Decoder
from fcnseg.models.networks import BACKBONES, build_backbone
from fcnseg.models.spec import ModelSpec

SIZES = ((33, 47), (500, 375), (720, 960))
DECODERS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s")
OUT = Path(__file__).parents[1] / "docs" / "alignment.md"

HEAD = """# Alignment: where a pixel's logit comes from

Written by `python benchmarks/alignment.py`. Each number is the largest distance in pixels,
vertical or horizontal, between a pixel and the centroid of |d logit / d input| of that
pixel's logit, over all pixels away from the border, for every backbone of the table; the
columns 32s to 2s are the decoders. Weights are positive (strongest in the middle of each
kernel); gates, normalisations and activations are taken out, because they look at the whole
image or at nothing beside the pixel. "Away from the border" is between the outermost
elements of the coarsest map (one further in where there are four or more); fc6 of
`alexnet:fc` is six wide, so that even the first element leans over the border of an image of
two elements.

- *elements*: where the elements of the backbone's maps lie.
- *equal*: all taps of every kernel weigh the same, so that the whole receptive field counts;
  the pixel in the middle of a 720x960 image, decoder 8s. Where the receptive field is
  larger than the image (ConvNeXt's deep ones), its border pulls a little.
- *centre assumed*: fcn8s at 500x375 if the elements were taken to lie at (s - 1) / 2,
  as `interpolate(align_corners=False)` takes them.

| backbone | elements | size | 32s | 16s | 8s | 4s | 2s | equal | centre assumed |
|---|---|---|---|---|---|---|---|---|---|
"""


def inner(offsets: Mapping[int, float], strides: Sequence[int], extent: int) -> tuple[int, int]:
    """The first and last pixel of `extent` that are not affected by a decoder's borders.

    These are bounded by the outermost elements of the coarsest map (the second outermost if there
    are four or more), rounded inwards to the elements of each finer stride.
    """
    count = extent // strides[0]
    ends = (1, count - 2) if count >= 4 else (0, count - 1)
    low, high = (strides[0] * index + offsets[strides[0]] for index in ends)
    for stride in (*strides[1:], 1):
        start = offsets[stride] if stride > 1 else 0.0
        low = math.ceil((low - start) / stride) * stride + start
        high = math.floor((high - start) / stride) * stride + start
    return int(low), int(high)


def main(names: list[str]) -> None:
    """Print the rows of some backbones, or write all."""
    torch.set_num_threads(2)
    rows = []
    for name in names or BACKBONES:
        for row in measure(name):
            print(row, flush=True)
            rows.append(row)
    if not names:
        OUT.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


def measure(name: str) -> list[str]:
    """The rows of one backbone."""
    with torch.device("meta"):  # only its geometry is used
        backbone = build_backbone(name)
    plain = linearised(backbone)
    middle = equal_weights(backbone, name)
    rows = []
    for size in SIZES:
        errors = [error(backbone, plain, name, decoder, size) for decoder in DECODERS]
        first = size == SIZES[0]
        cells = f"`{name}` | {kind(backbone)}" if first else " | "
        last = size == SIZES[-1]
        assumed = error_if_centred(backbone, plain, name, size) if size == SIZES[1] else None
        figures = [*errors, middle if last else None, assumed]
        rows.append(f"| {cells} | {size[0]}x{size[1]} | " + " | ".join(map(text, figures)) + " |")
    return rows


def error(
    backbone: Features, plain: Features, name: str, decoder: str, size: tuple[int, int]
) -> float | None:
    """The largest distance; None when the backbone has no map that fine."""
    if int(decoder[3:-1]) < min(backbone.channels):
        return None
    linear, where = decode(backbone, plain, name, decoder, size)
    off = distances(where)
    (top, bottom), (left, right) = (
        inner(linear.offsets, linear.strides, s) for s in where.shape[1:]
    )
    return float(off[top : min(bottom + 1, size[0]), left : min(right + 1, size[1])].max())


def decode(
    backbone: Features,
    plain: Features,
    name: str,
    decoder: str,
    size: tuple[int, int],
    **more: float,
) -> tuple[Decoder, Tensor]:
    """A linearised decoder, and the centroids of all pixels of the padded image."""
    spec = ModelSpec(backbone=name, num_classes=1, decoder=decoder, fuse="score")
    linear = linearised(Decoder(backbone, spec), **more)
    assert isinstance(linear, Decoder)
    height, width = (-(-side // backbone.stride) * backbone.stride for side in size)
    where = centroids(lambda images: linear(plain(images), (height, width)), height, width)
    return linear, where


def equal_weights(backbone: Features, name: str) -> float:
    """The middle pixel's distance when all taps of each kernel have the same weight."""
    plain = linearised(backbone, tail=1e6)
    size = SIZES[-1]
    _, where = decode(backbone, plain, name, "fcn8s", size, tail=1e6)
    return float(distances(where)[size[0] // 2, size[1] // 2])


def error_if_centred(
    backbone: Features, plain: Features, name: str, size: tuple[int, int]
) -> float:
    """The error with the usual assumption of centred elements."""
    right = backbone.offsets
    backbone.offsets = {stride: offset("centre", stride) for stride in right}
    try:
        return error(backbone, plain, name, "fcn8s", size) or 0.0
    finally:
        backbone.offsets = right


def distances(where: Tensor) -> Tensor:
    """(2, H, W) centroids -> (H, W) distance to the pixel, the larger of y and x."""
    rows, columns = torch.arange(where.shape[1]).view(-1, 1), torch.arange(where.shape[2])
    return torch.maximum((where[0] - rows).abs(), (where[1] - columns).abs())


def kind(backbone: Features) -> str:
    """The alignment's name, or the offsets."""
    for name in ("centre", "corner", "same"):
        if all(at == offset(name, stride) for stride, at in backbone.offsets.items()):
            return name
    return ", ".join(f"{stride}: {at:g}" for stride, at in backbone.offsets.items())


def text(value: float | None) -> str:
    """For a cell of the table."""
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbones", nargs="*", metavar="BACKBONE")
    main(parser.parse_args().backbones)
