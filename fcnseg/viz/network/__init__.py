"""Items of --show-what that look into the network, which needs torch.

Here: each stage's map, what its elements see of the image, the upsampling kernels.

The theoretical receptive field is found by gradients: with positive random weights, and averages
for maxima, nothing cancels and nothing is cut off, so every pixel that an element depends on has
one.

The effective field (Luo et al., NeurIPS 2016) is the gradient's size, averaged over elements of
an image: most of it lies near the centre.
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
from fcnseg.viz import Tile, View, network_input, plain_network
from fcnseg.viz.drawing import Color, Rgb, grey, signed_map, signed_scale
from fcnseg.viz.layout import Section
from fcnseg.viz.skips import stage_name

THEORETICAL: Color = (90, 200, 255)

EFFECTIVE: Color = (60, 225, 120)


def pyramid(view: View) -> Section:
    """Above, each stage's map; below, what an element in the middle looks at."""
    network = plain_network(view, "pyramid")
    image, size = network_input(view, network)
    backbone = network.backbone
    with torch.no_grad():
        taps = backbone(image)
    fields = theoretical_fields(backbone, image.shape[1])
    looked = effective_fields(backbone, image, partial(view.tell, "effective receptive fields"))
    maps, gradients = [], []
    for stride, tap in taps.items():
        name = stage_name(view.figures, stride)
        maps.append(_map_tile(view, tap[0], size, stride, backbone.offsets[stride], name))
        gradients.append(_field_tile(view, size, fields[stride], looked[stride], name))
    percent = f"{round(100 * PART)} %"
    keys = {
        "receptive field": [
            ("theoretical: all that an element depends on", THEORETICAL),
            (f"effective: {percent} of the gradient", EFFECTIVE),
        ]
    }
    heading = "pyramid: the stages of the encoder, and what an element of each sees"
    return Section([*maps, *gradients], heading, keys, columns=len(maps))


def _map_tile(view: View, tap: Tensor, size: Size, stride: int, offset: float, name: str) -> Tile:
    """The mean absolute value over the channels of a stage (C, h, w), element by element."""
    values = tap.abs().mean(dim=0).float().cpu().numpy()
    channels, height, width = tap.shape
    largest = max(float(values.max()), 1e-9)
    seen = view.on_frame(values / largest, size, stride, offset)
    note = f"{channels} channels of {width} x {height}"
    scale = view.heat_scale(f"{largest:.2g}", "mean absolute value")
    return Tile(view.heat_on(grey(view.frame.image), seen), name, note, scale=scale)


def _field_tile(
    view: View, size: Size, field: Size | None, looked: EffectiveField, name: str
) -> Tile:
    """The gradient around the middle of the image, with both fields as frames."""
    half = looked.gradient.shape[0] // 2
    rows, columns = (slice(half - length // 2, half - length // 2 + length) for length in size)
    shown = looked.gradient[rows, columns]
    image = resize_image(grey(view.frame.image), size)
    levels = np.sqrt(shown / max(float(shown.max()), 1e-300))  # the faint outskirts are seen, too
    drawn = view.heat_on(image, np.asarray(levels, np.float32))
    _frame(drawn, field, THEORETICAL)
    # A square around an element has an odd side, and may be a pixel wider than an even field.
    effective = tuple(min(looked.side, most) for most in field or (looked.side, looked.side))
    _frame(drawn, (effective[0], effective[1]), EFFECTIVE)
    sees = "sees the entire image" if field is None else f"sees {field[1]} x {field[0]} px"
    if field is not None and (field[0] > size[0] or field[1] > size[1]):
        sees += " (beyond the image)"
    note = f"{sees}, looks at {effective[1]} x {effective[0]}"
    scale = view.heat_scale("1", "square root of the gradient, of its largest")
    return Tile(resize_image(drawn, view.frame.size), name, note, scale=scale)


def _frame(image: Rgb, field: Size | None, color: Color) -> None:
    """Draw the outline of a field around the middle; what is beyond the image is not seen."""
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
"""Pixels of the images that are tried; what is seen to both ends of the last sees everything."""

PART = 0.95
"""Of the gradient that lies in an effective field."""

GRID = 3
"""So many rows and columns of elements are averaged."""


@lru_cache(8)
def theoretical_fields(backbone: Features, bands: int = 3) -> dict[int, Size | None]:
    """Stride -> (height, width) in pixels that an element of the stage depends on.

    None: the entire image, however large, as behind a pooling over all of it.
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
    """For each stride, bool (1, 1, H, W) on the pixels that the middle element depends on."""
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
    """A weight with which nothing cancels: sums are averages with random positive weights."""
    if not value.is_floating_point():
        return value
    if value.dim() < 2:
        ones = key.endswith(("running_var", "weight", "gamma"))
        return (torch.ones if ones else torch.zeros)(value.shape).to(value.device).double()
    weights = torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5
    return (weights / value[0].numel()).to(value.device)


@contextmanager
def _averages(network: nn.Module) -> Iterator[None]:
    """The network with averages in place of maxima, in evaluation mode."""

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
    """What elements of a stage look at.

    gradient: float64 (S, S), the mean absolute gradient around an element, which is in the middle;
        it sums to 1. side: pixels of the square around the middle with PART of it.
    """

    gradient: NDArray[np.float64]
    side: int


def effective_fields(
    backbone: Features, image: Tensor, tell: Callable[[int, int], None] | None = None
) -> dict[int, EffectiveField]:
    """Stride -> what the elements look at in an image, normalised float (1, C, H, W).

    H and W are multiples of the backbone's stride. Averaged over GRID x GRID elements. tell: hears
    how many stages of how many are done.
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
            total = total / np.maximum(seen, 1)  # of the elements for which it is in the image
            total /= max(total.sum(), 1e-300)
            found[stride] = EffectiveField(total, side_of(total, PART))
            if tell is not None:
                tell(len(found), len(taps))
    return found


def _spread(length: int) -> list[int]:
    """Some of so many elements, evenly over them."""
    places = (np.arange(GRID) + 0.5) * length / GRID
    return sorted({min(length - 1, int(place)) for place in places})


def _centred(values: NDArray[np.float64], row: int, column: int) -> NDArray[np.float64]:
    """Values (H, W) on a square of which a pixel is the middle; zero beyond the image."""
    half = max(values.shape)
    result = np.zeros((2 * half + 1, 2 * half + 1))
    top, left = half - row, half - column
    result[top : top + values.shape[0], left : left + values.shape[1]] = values
    return result


def side_of(gradient: NDArray[np.float64], part: float) -> int:
    """The side of the smallest square around the middle that holds a part of the sum."""
    middle = gradient.shape[0] // 2
    rows, columns = np.indices(gradient.shape)
    rings = np.maximum(abs(rows - middle), abs(columns - middle))
    inside = np.cumsum(np.bincount(rings.ravel(), gradient.ravel()))
    return int(2 * np.searchsorted(inside, part * inside[-1]) + 1)


SIDE = 320
"""Pixels that a kernel is drawn on, about."""

Kernel = NDArray[np.float64]


def kernels(view: View) -> Section:
    """Each step's bilinear kernel beside the learned one and the difference of the two."""
    decoder = plain_network(view, "kernels").decoder
    if not isinstance(decoder, Decoder):
        raise OptionError("--show-what kernels: this network's decoder is not fcnseg's own.")
    tiles, learns = [], False
    for stride, step in zip(decoder.strides, [*decoder.strides[1:], 1], strict=True):
        upsample = decoder.upsamples[str(stride)]
        shift = shift_between(decoder.offsets, stride, step)
        line = bilinear_kernel(stride // step, shift)[0].double().numpy()
        bilinear = np.outer(line, line)
        title = f"stride {stride} to {step}"
        if isinstance(upsample, LearnedUpsample):
            learns = True
            tiles += _learned_kernels(view, upsample, bilinear, title, decoder.spec.fuse == "score")
        elif isinstance(upsample, Upsample):
            size = " x ".join(map(str, bilinear.shape))
            tiles.append(_kernel_tile(bilinear, f"{title}: bilinear", f"{size}, fixed", 1.0))
    heading = "kernels: upsampling, bilinear beside learned"
    if not learns:
        heading = "kernels: upsampling, bilinear and not learned (--upsample fixed)"
    return Section(tiles, heading, columns=3 if learns else len(tiles))


def _learned_kernels(
    view: View, upsample: LearnedUpsample, bilinear: Kernel, title: str, of_classes: bool
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
        _kernel_tile(bilinear, f"{title}: bilinear", f"{size}, where learning starts", 1.0),
        _kernel_tile(
            own[channel],
            f"{title}: learned",
            f"{name}; {between} of all weight is between channels",
            1.0,
        ),
        _kernel_tile(difference, "learned minus bilinear", f"at most {limit:.2g}", limit),
    ]


def _kernel_tile(kernel: Kernel, title: str, note: str, limit: float) -> Tile:
    """A kernel (k, k) with its weights as squares."""
    times = max(1, SIDE // len(kernel))
    rows = (np.arange(SIDE) * len(kernel) // SIDE) if times > 1 else np.arange(len(kernel))
    values = (kernel / limit)[rows][:, rows]
    white = np.full((*values.shape, 3), 255, np.uint8)
    scale = signed_scale(f"-{limit:.2g}", f"+{limit:.2g}", "weight")
    return Tile(signed_map(white, values, alpha=1.0), title, note, scale=scale)
