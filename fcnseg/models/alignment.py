"""Measuring where the elements of a feature map lie (fcnseg.models.geometry).

What is measured is a copy made linear and positive: weights positive and strongest in the
middle of a kernel, gates, normalisations and activations taken out, a pool's maximum replaced
by such a kernel. With the same weights in every channel all channels say the same, so the copy
has one. In such a network the centroid of |d output / d input| is a ratio of two forward
passes, of an image of coordinates and an image of ones, for all outputs at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.models.fcn import LearnedUpsample

TAIL = 0.002
"""Sum of a kernel's uniform part, where its middle has 1: small, so that borders stay far."""


def linearised(network: nn.Module, tail: float = TAIL) -> nn.Module:
    """A copy that is linear and positive, one channel wide, with the original's geometry.

    network: its weights are not looked at, it may be on the device "meta" (but for what
        upsamples). tail: as TAIL; with a large one all taps of a kernel weigh the same.
    The copy is float64, on the CPU.
    """
    plain = _replaced(copy.deepcopy(network).eval().requires_grad_(False), tail)
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            _narrow(module, tail)
        elif isinstance(module, LearnedUpsample):
            module.weight = nn.Parameter(module.weight[:1, :1].clone(), requires_grad=False)
        else:  # what scales channels
            for name, parameter in list(module.named_parameters(recurse=False)):
                one = torch.ones(1, *parameter.shape[1:])
                setattr(module, name, nn.Parameter(one, requires_grad=False))
    return plain.double()


def inner(offsets: Mapping[int, float], strides: Sequence[int], extent: int) -> tuple[int, int]:
    """The first and the last pixel of `extent` that a decoder's borders do not touch.

    Up to the outermost elements of the coarsest map, or one further in where there are four
    or more; and from stride to stride to the next element within.
    """
    count = extent // strides[0]
    ends = (1, count - 2) if count >= 4 else (0, count - 1)
    low, high = (strides[0] * index + offsets[strides[0]] for index in ends)
    for stride in (*strides[1:], 1):
        start = offsets[stride] if stride > 1 else 0.0
        low = math.ceil((low - start) / stride) * stride + start
        high = math.floor((high - start) / stride) * stride + start
    return int(low), int(high)


@torch.no_grad()
def centroids(network: Callable[[Tensor], Tensor], height: int, width: int) -> Tensor:
    """Where every output looks: (2, h, w), y and x in pixels of the input.

    network: a linearised one, (N, 3, height, width) -> (N, 1, h, w).
    """
    return _ratio(network(_coordinates(height, width)))


@torch.no_grad()
def measured(features: Callable[[Tensor], dict[int, Tensor]], size: int = 256) -> dict[int, float]:
    """stride -> the pixel that element 0 lies at, of a linearised backbone.

    Read off an element in the middle, far from the borders of a size x size image.
    """
    found = {}
    for stride, maps in features(_coordinates(size, size)).items():
        where = _ratio(maps)
        middle = where.shape[-1] // 2
        found[stride] = float(where[0, middle, middle]) - stride * middle
    return found


def _coordinates(height: int, width: int) -> Tensor:
    """(3, 3, height, width): images of y, of x and of ones."""
    shape = (1, 3, height, width)
    rows = torch.arange(height, dtype=torch.float64).view(1, 1, -1, 1).expand(shape)
    columns = torch.arange(width, dtype=torch.float64).expand(shape)
    return torch.cat([rows, columns, torch.ones(shape, dtype=torch.float64)])


def _ratio(maps: Tensor) -> Tensor:
    """(3, C, h, w) of y, x and ones -> (2, h, w)."""
    total = maps.sum(dim=1)
    return total[:2] / total[2]


# Modules without geometry, by what their class is called, in torchvision's and timm's words.
_GATES = ("SqueezeExc", "SEModule", "EffectiveSE", "Gate", "Dropout", "DropPath", "StochasticDepth")
_POINTWISE = (
    "Norm",
    "ReLU",
    "GELU",
    "SiLU",
    "Swish",
    "Hardswish",
    "Hardsigmoid",
    "Sigmoid",
    "Mish",
)


def _replaced(module: nn.Module, tail: float) -> nn.Module:
    """The module, or what stands in for it; its children likewise."""
    kind = type(module).__name__
    mixes = any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules())
    if any(word in kind for word in (_GATES if mixes else _GATES + _POINTWISE)):
        return nn.Identity()
    if isinstance(module, nn.Linear):
        return nn.Identity()
    if isinstance(module, nn.MaxPool2d):
        return _SoftPool(module, tail)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, tail))
    return module


class _SoftPool(nn.Module):
    """A max pool's windows, with a kernel as the convolutions have."""

    def __init__(self, pool: nn.MaxPool2d, tail: float) -> None:
        super().__init__()
        self.tail = tail
        self.kernel, self.stride, self.padding = (
            int(value[0] if isinstance(value, tuple) else value)
            for value in (pool.kernel_size, pool.stride, pool.padding)
        )
        self.spare = self.stride - 1 if pool.ceil_mode else 0  # a last window may stick out

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.mean(1, keepdim=True), (0, self.spare, 0, self.spare))
        weight = _peak(self.kernel, self.kernel, self.tail).to(x.dtype)
        return F.conv2d(x, weight, None, self.stride, self.padding)


def _peak(height: int, width: int, tail: float) -> Tensor:
    """A kernel (1, 1, height, width): 1 in the middle (of an even width: both), sum 1."""
    weight = torch.full((1, 1, height, width), tail / (height * width))
    weight[..., (height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1] += 1
    return weight / weight.sum()


def _narrow(layer: nn.Conv2d, tail: float) -> None:
    """One channel in, one out; the layer's own way to pad stays."""
    height, width = layer.kernel_size
    layer.weight = nn.Parameter(_peak(height, width, tail), requires_grad=False)
    layer.bias = None
    layer.groups = layer.in_channels = layer.out_channels = 1
    layer.register_forward_pre_hook(lambda _layer, inputs: inputs[0].mean(1, keepdim=True))
