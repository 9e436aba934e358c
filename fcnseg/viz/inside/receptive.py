"""Receptive fields: what an element of a stage can see of the image, and what it looks at.

The theoretical field is found by gradients: with positive random weights, and averages for maxima,
nothing cancels and nothing is cut off, so every pixel that an element depends on has one.

The effective field (Luo et al., NeurIPS 2016) is the gradient's size, averaged over elements of
an image: most of it lies near the centre.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.models.backbones import Features

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


def effective_fields(backbone: Features, image: Tensor) -> dict[int, EffectiveField]:
    """Stride -> what the elements look at in an image, normalised float (1, C, H, W).

    H and W are multiples of the backbone's stride. Averaged over GRID x GRID elements.
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
