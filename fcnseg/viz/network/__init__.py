"""Items of --show-what that inspect the network, which needs torch.

Here: each stage's map with its receptive fields, and the upsampling kernels.

The theoretical receptive field is measured by gradients: with positive random weights, and average
instead of max pooling, no terms cancel, so that every pixel that an element depends on has a
gradient.

The effective receptive field (Luo et al., NeurIPS 2016) is the absolute gradient, averaged over
elements of an image: most of it is near the centre.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.errors import OptionError, percent
from fcnseg.io.images import resize_image
from fcnseg.models.backbones import Features, shift_between
from fcnseg.models.fcn import Decoder, LearnedUpsample, Upsample, bilinear_kernel
from fcnseg.viz import Panel, View, network_input, plain_network
from fcnseg.viz.drawing import Color, Rgb, grey, signed_map, signed_scale
from fcnseg.viz.layout import Section
from fcnseg.viz.skips import stage_name

THEORETICAL: Color = (90, 200, 255)

EFFECTIVE: Color = (60, 225, 120)


def pyramid(view: View) -> Section:
    """Each stage's map, and below it the receptive fields of its central element."""
    network = plain_network(view, "pyramid")
    image, size = network_input(view, network)
    backbone = network.backbone
    with torch.no_grad():
        taps = backbone(image)
    fields = theoretical_fields(backbone, image.shape[1])
    effective = effective_fields(
        backbone, image, partial(view.report, "effective receptive fields")
    )
    maps, gradients = [], []
    for stride, tap in taps.items():
        name = stage_name(view.figures, stride)
        maps.append(_map_panel(view, tap[0], size, stride, backbone.offsets[stride], name))
        gradients.append(_field_panel(view, size, fields[stride], effective[stride], name))
    percent = f"{round(100 * PART)} %"
    keys = {
        "receptive field": [
            ("theoretical: all pixels that an element depends on", THEORETICAL),
            (f"effective: {percent} of the gradient", EFFECTIVE),
        ]
    }
    heading = "pyramid: the stages of the encoder, and their receptive fields"
    return Section([*maps, *gradients], heading, keys, columns=len(maps))


def _map_panel(view: View, tap: Tensor, size: Size, stride: int, offset: float, name: str) -> Panel:
    """The mean absolute value over the channels of a stage (C, h, w)."""
    values = tap.abs().mean(dim=0).float().cpu().numpy()
    channels, height, width = tap.shape
    largest = max(float(values.max()), 1e-9)
    seen = view.on_frame(values / largest, size, stride, offset)
    note = f"{channels} channels of {width} x {height}"
    scale = view.heat_scale(f"{largest:.2g}", "mean absolute value")
    return Panel(view.heat_on(grey(view.frame.image), seen), name, note, scale=scale)


def _field_panel(
    view: View, size: Size, field: Size | None, found: EffectiveField, name: str
) -> Panel:
    """The gradient around the middle of the image, with the outlines of both fields."""
    half = found.gradient.shape[0] // 2
    rows, columns = (slice(half - length // 2, half - length // 2 + length) for length in size)
    shown = found.gradient[rows, columns]
    image = resize_image(grey(view.frame.image), size)
    levels = np.sqrt(shown / max(float(shown.max()), 1e-300))  # makes small gradients visible
    drawn = view.heat_on(image, np.asarray(levels, np.float32))
    _frame(drawn, field, THEORETICAL)
    # A square around an element has an odd side, which may exceed an even field by a pixel.
    effective = tuple(min(found.side, most) for most in field or (found.side, found.side))
    _frame(drawn, (effective[0], effective[1]), EFFECTIVE)
    theoretical = "the entire image" if field is None else f"{field[1]} x {field[0]} px"
    if field is not None and (field[0] > size[0] or field[1] > size[1]):
        theoretical += " (beyond the image)"
    note = f"theoretical: {theoretical}, effective: {effective[1]} x {effective[0]}"
    scale = view.heat_scale("1", "square root of the gradient, relative to its maximum")
    return Panel(resize_image(drawn, view.frame.size), name, note, scale=scale)


def _frame(image: Rgb, field: Size | None, color: Color) -> None:
    """Draw the outline of a field around the middle, clipped to the image, in place."""
    if field is None:
        return
    thick = max(2, min(image.shape[:2]) // 150)
    (top, bottom), (left, right) = (
        (length // 2 - (side + 1) // 2, length // 2 + side // 2)
        for length, side in zip(image.shape, field, strict=False)
    )
    rows, columns = np.arange(image.shape[0])[:, None], np.arange(image.shape[1])
    within = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
    core = (rows >= top + thick) & (rows <= bottom - thick)
    core = core & (columns >= left + thick) & (columns <= right - thick)
    image[within & ~core] = color


Size = tuple[int, int]

LENGTHS = (256, 1024, 4096)
"""Sides of the images tried, in pixels; a field that fills the last one is unlimited."""

PART = 0.95
"""Fraction of the gradient inside an effective field."""

GRID = 3
"""Rows and columns of elements that are averaged."""


@lru_cache(8)
def theoretical_fields(backbone: Features, bands: int = 3) -> dict[int, Size | None]:
    """Stride -> (height, width) in pixels that an element of the stage depends on.

    None: the entire image, whatever its size, as after global pooling.
    """
    tall = _lengths(backbone, bands, axis=2)
    wide = _lengths(backbone, bands, axis=3)
    found: dict[int, Size | None] = {}
    for stride in backbone.channels:
        height, width = tall[stride], wide[stride]
        found[stride] = None if height is None or width is None else (height, width)
    return found


def _lengths(backbone: Features, bands: int, axis: int) -> dict[int, int | None]:
    """The fields along one axis of (N, C, H, W)."""
    found: dict[int, int | None] = dict.fromkeys(backbone.channels)
    narrow = backbone.stride
    for length in LENGTHS:
        open_ones = [stride for stride, field in found.items() if field is None]
        long = -(-length // narrow) * narrow
        shape = (1, bands, long, narrow) if axis == 2 else (1, bands, narrow, long)
        for stride, support in _supports(backbone, shape, open_ones):
            seen = support.any(dim=5 - axis)[0, 0].nonzero().flatten().tolist()
            if seen and (seen[0] > 0 and seen[-1] < long - 1):
                found[stride] = seen[-1] - seen[0] + 1
        if all(field is not None for field in found.values()):
            break
    return found


def _supports(
    backbone: Features, shape: tuple[int, ...], strides: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """For each stride, bool (1, 1, H, W): the pixels that the central element depends on."""
    generator = torch.Generator().manual_seed(0)
    image = (1e-3 * (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5)).to(
        next(backbone.parameters()).device
    )
    image.requires_grad_()
    state = {key: _positive(key, value, generator) for key, value in backbone.state_dict().items()}
    with torch.enable_grad(), _averages(backbone):
        taps = torch.func.functional_call(backbone, state, (image,))
        for stride in strides:
            middle = _element(taps[stride], taps[stride].shape[2] // 2, taps[stride].shape[3] // 2)
            [gradient] = torch.autograd.grad(middle, image, retain_graph=True)
            yield stride, (gradient != 0).any(dim=1, keepdim=True)


def _positive(key: str, value: Tensor, generator: torch.Generator) -> Tensor:
    """Replace a weight by positive random ones that sum to about 1 per output: nothing cancels."""
    if not value.is_floating_point():
        return value
    if value.dim() < 2:
        ones = key.endswith(("running_var", "weight", "gamma"))
        return (torch.ones if ones else torch.zeros)(value.shape).to(value.device).double()
    weights = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
    return (weights / value[0].numel()).to(value.device)


@contextmanager
def _averages(network: nn.Module) -> Iterator[None]:
    """Replace max pooling by average pooling, in evaluation mode."""

    def average(pool: nn.MaxPool2d, inputs: tuple[Tensor, ...], _: Any) -> Tensor:
        return F.avg_pool2d(inputs[0], pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)

    pools = [module for module in network.modules() if isinstance(module, nn.MaxPool2d)]
    hooks = [pool.register_forward_hook(average) for pool in pools]
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()


def _element(maps: Tensor, row: int, column: int) -> Tensor:
    return maps[0, :, row, column].sum()


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """The effective receptive field of a stage's elements.

    gradient: float64 (S, S), the mean absolute gradient around an element, which is in the middle;
        its sum is 1. side: of the square around the middle that contains PART of it, in pixels.
    """

    gradient: NDArray[np.float64]
    side: int


def effective_fields(
    backbone: Features, image: Tensor, progress: Callable[[int, int], None] | None = None
) -> dict[int, EffectiveField]:
    """Stride -> effective receptive field in an image, normalised float (1, C, H, W).

    H and W are multiples of the backbone's stride. Averaged over GRID x GRID elements. progress: is
    called with the number of finished stages and their total.
    """
    image = image.detach().clone().requires_grad_()
    found = {}
    with torch.enable_grad():
        taps = backbone(image)
        for stride, maps in taps.items():
            total, seen = np.zeros(()), np.zeros(())
            for row, column in itertools.product(*map(_spread, maps.shape[2:])):
                element = _element(maps, row, column)
                [grad] = torch.autograd.grad(element, image, retain_graph=True)
                size = grad.abs().sum(dim=(0, 1)).double().cpu().numpy()
                place = [round(backbone.offsets[stride] + stride * at) for at in (row, column)]
                total = total + _centred(size, *place)
                seen = seen + _centred(np.ones_like(size), *place)
            total = total / np.maximum(seen, 1)  # mean over elements whose pixel is in the image
            total /= max(total.sum(), 1e-300)
            found[stride] = EffectiveField(total, side_of(total, PART))
            if progress is not None:
                progress(len(found), len(taps))
    return found


def _spread(length: int) -> list[int]:
    """The indices of at most GRID of `length` elements, evenly spaced."""
    places = (np.arange(GRID) + 0.5) * length / GRID
    return sorted({min(length - 1, int(place)) for place in places})


def _centred(values: NDArray[np.float64], row: int, column: int) -> NDArray[np.float64]:
    """Move values (H, W) to a square centred on a pixel, with zeros outside the image."""
    half = max(values.shape)
    result = np.zeros((2 * half + 1, 2 * half + 1))
    top, left = half - row, half - column
    result[top : top + values.shape[0], left : left + values.shape[1]] = values
    return result


def side_of(gradient: NDArray[np.float64], part: float) -> int:
    """The side of the smallest square around the middle with this fraction of the sum."""
    middle = gradient.shape[0] // 2
    rows, columns = np.indices(gradient.shape)
    rings = np.maximum(abs(rows - middle), abs(columns - middle))
    inside = np.cumsum(np.bincount(rings.ravel(), gradient.ravel()))
    return int(2 * np.searchsorted(inside, part * inside[-1]) + 1)


SIDE = 320
"""Approximate side of a drawn kernel, in pixels."""

Kernel = NDArray[np.float64]


def kernels(view: View) -> Section:
    """Each upsampling layer's bilinear kernel, the learned one, and their difference."""
    decoder = plain_network(view, "kernels").decoder
    if not isinstance(decoder, Decoder):
        raise OptionError("--show-what kernels: this network's decoder is not fcnseg's own.")
    panels, learns = [], False
    for stride, step in zip(decoder.strides, [*decoder.strides[1:], 1], strict=True):
        upsample = decoder.upsamples[str(stride)]
        shift = shift_between(decoder.offsets, stride, step)
        line = bilinear_kernel(stride // step, shift)[0].double().numpy()
        bilinear = np.outer(line, line)
        title = f"stride {stride} to {step}"
        if isinstance(upsample, LearnedUpsample):
            learns = True
            panels += _learned_kernels(
                view, upsample, bilinear, title, decoder.spec.fuse == "score"
            )
        elif isinstance(upsample, Upsample):
            size = " x ".join(map(str, bilinear.shape))
            panels.append(_kernel_panel(bilinear, f"{title}: bilinear", f"{size}, fixed", 1.0))
    heading = "kernels: upsampling, bilinear beside learned"
    if not learns:
        heading = "kernels: upsampling, bilinear and not learned (--upsample fixed)"
    return Section(panels, heading, columns=3 if learns else len(panels))


def _learned_kernels(
    view: View, upsample: LearnedUpsample, bilinear: Kernel, title: str, of_classes: bool
) -> list[Panel]:
    """The bilinear kernel, a channel's learned kernel, and their difference."""
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
        _kernel_panel(bilinear, f"{title}: bilinear", f"{size}, the initial kernel", 1.0),
        _kernel_panel(
            own[channel],
            f"{title}: learned",
            f"{name}; {between} of all weight is between channels",
            1.0,
        ),
        _kernel_panel(difference, "learned minus bilinear", f"at most {limit:.2g}", limit),
    ]


def _kernel_panel(kernel: Kernel, title: str, note: str, limit: float) -> Panel:
    """A kernel (k, k) with its weights as squares."""
    times = max(1, SIDE // len(kernel))
    rows = (np.arange(SIDE) * len(kernel) // SIDE) if times > 1 else np.arange(len(kernel))
    values = (kernel / limit)[rows][:, rows]
    white = np.full((*values.shape, 3), 255, np.uint8)
    scale = signed_scale(f"-{limit:.2g}", f"+{limit:.2g}", "weight")
    return Panel(signed_map(white, values, alpha=1.0), title, note, scale=scale)
