"""The kernels by which scores or features grow: bilinear, and what was learned from there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import OptionError, percent
from fcnseg.models.fcn import Decoder, LearnedUpsample, Upsample, bilinear_kernel
from fcnseg.viz import Tile, signed_map, signed_scale
from fcnseg.viz.layout import Section
from fcnseg.viz.view import View, plain_network

SIDE = 320
"""Pixels that a kernel is drawn on, about."""

Floats = NDArray[np.float64]


def kernels(view: View) -> Section:
    """Each step's bilinear kernel beside the learned one and the difference of the two."""
    decoder = plain_network(view, "kernels").decoder
    if not isinstance(decoder, Decoder):
        raise OptionError("--show-what kernels: this network's decoder is not fcnseg's own.")
    tiles, learns = [], False
    for stride, step in zip(decoder.strides, [*decoder.strides[1:], 1], strict=True):
        upsample = decoder.upsamples[str(stride)]
        shift = (decoder.offsets[stride] - decoder.offsets[step]) / step
        line = bilinear_kernel(stride // step, shift)[0].double().numpy()
        bilinear = np.outer(line, line)
        title = f"stride {stride} to {step}"
        if isinstance(upsample, LearnedUpsample):
            learns = True
            tiles += _learned_tiles(view, upsample, bilinear, title, decoder.spec.fuse == "score")
        elif isinstance(upsample, Upsample):
            size = " x ".join(map(str, bilinear.shape))
            tiles.append(_tile(bilinear, f"{title}: bilinear", f"{size}, fixed", 1.0))
    heading = "kernels: upsampling, bilinear beside learned"
    if not learns:
        heading = "kernels: upsampling, bilinear and not learned (--upsample fixed)"
    return Section(tiles, heading, columns=3 if learns else len(tiles))


def _learned_tiles(
    view: View, upsample: LearnedUpsample, bilinear: Floats, title: str, of_classes: bool
) -> list[Tile]:
    """The bilinear kernel, a channel's learned one, and what was learned."""
    weights = upsample.weight.detach().double().cpu().numpy()  # (C, C, k, k)
    own = weights[range(len(weights)), range(len(weights))]  # (C, k, k)
    changed = np.abs(own - bilinear).max(axis=(1, 2))
    channel = view.subjects[0] if of_classes else int(changed.argmax())
    name = view.name(channel) if of_classes else f"channel {channel}, which changed most"
    difference = own[channel] - bilinear
    limit = max(float(np.abs(difference).max()), 1e-9)
    size = " x ".join(map(str, bilinear.shape))
    others = np.abs(weights).sum(axis=(0, 1)) - np.abs(own).sum(axis=0)
    between = percent(others.sum() / max(np.abs(weights).sum(), 1e-12), 1)
    return [
        _tile(bilinear, f"{title}: bilinear", f"{size}, where learning starts", 1.0),
        _tile(own[channel], f"{title}: learned", f"{name}; {between} between channels", 1.0),
        _tile(difference, "learned minus bilinear", f"at most {limit:.2g}", limit),
    ]


def _tile(kernel: Floats, title: str, note: str, limit: float) -> Tile:
    """A kernel (k, k) with its weights as squares."""
    times = max(1, SIDE // len(kernel))
    rows = (np.arange(SIDE) * len(kernel) // SIDE) if times > 1 else np.arange(len(kernel))
    values = (kernel / limit)[rows][:, rows]
    white = np.full((*values.shape, 3), 255, np.uint8)
    scale = signed_scale(f"-{limit:.2g}", f"+{limit:.2g}", "weight")
    return Tile(signed_map(white, values, alpha=1.0), title, note, scale=scale)
