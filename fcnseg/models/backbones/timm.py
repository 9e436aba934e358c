"""Backbones of timm by name, `timm:NAME`; where the elements of their maps lie is measured."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.errors import CheckpointError, MissingExtra, OptionError, did_you_mean
from fcnseg.models.backbones import Features
from fcnseg.models.backbones.torchvision import import_torchvision
from fcnseg.models.spec import Preprocess
from fcnseg.models.weights import State, first_line

PREFIX = "timm:"

STRIDES = (2, 4, 8, 16, 32)


class TimmBackbone(Features):
    """A convolutional network of timm, as features at strides 2 to 32."""

    def __init__(self, name: str, output_stride: int = 32) -> None:
        super().__init__()
        self.network = _create(name, output_stride)
        info = self.network.feature_info
        # Of several maps at one stride (dilated stages) the deepest is taken.
        reductions = enumerate(info.reduction())
        self.taps = {int(stride): index for index, stride in reductions if stride > 1}
        self.channels = {stride: info.channels()[index] for stride, index in self.taps.items()}
        if not set(self.channels) <= set(STRIDES):
            raise OptionError(
                f"{name} has features at strides {sorted(self.channels)}; the decoder takes "
                f"{', '.join(map(str, STRIDES))}.",
                hint="take another backbone",
            )
        cfg = getattr(self.network, "pretrained_cfg", {})
        self.preprocess = Preprocess(tuple(cfg["mean"]), tuple(cfg["std"]))
        self.stride = max(self.channels)
        self.output_stride = output_stride
        self.offsets = dict(_offsets(name, output_stride))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W), H and W multiples of stride -> {s: (N, C_s, H/s, W/s)}."""
        maps = self.network(images)
        return {stride: maps[index] for stride, index in self.taps.items()}


def pretrained_state(name: str) -> State:
    """timm's weights for a backbone, from its cache or downloaded; CheckpointError otherwise."""
    try:
        network = _create(name, 32, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The weights of {name} could not be loaded: {first_line(error)}.",
            hint="connect to the internet once, or start without: --backbone-weights none",
        ) from error
    return {f"network.{key}": value for key, value in network.state_dict().items()}


def _create(name: str, output_stride: int, *, pretrained: bool = False) -> Any:
    try:
        import_torchvision()  # before timm imports it
        import timm
    except ModuleNotFoundError:
        raise MissingExtra(f"The backbone {name}", "timm") from None
    wanted = name.removeprefix(PREFIX)
    if wanted.split(".")[0] not in timm.list_models():
        known = timm.list_models()
        hint = did_you_mean(wanted, known, "timm.list_models() has all", most=3)
        raise OptionError(f"timm has no model {wanted!r}.", hint=hint)
    dilated: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        return timm.create_model(wanted, features_only=True, pretrained=pretrained, **dilated)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        if pretrained:
            raise
        raise OptionError(
            f"{name} can't be a backbone at output stride {output_stride}: {first_line(error)}.",
            hint="take a convolutional network, or leave --output-stride at 32",
        ) from error


@functools.cache
def _offsets(name: str, output_stride: int) -> tuple[tuple[int, float], ...]:
    """Measured on a copy of its own, because the backbone itself may have no memory yet."""
    try:
        with torch.device("cpu"):
            network: Any = linearised(_create(name, output_stride))
            strides = network.feature_info.reduction()
            found = measured(lambda images: dict(zip(strides, network(images), strict=True)))
        if not all(map(math.isfinite, found.values())):
            raise RuntimeError("its weights can't be made positive")
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"It can't be measured where the features of {name} lie: {first_line(error)}.",
            hint="take a convolutional network",
        ) from error
    return tuple((int(stride), _snapped(where)) for stride, where in found.items())


def _snapped(where: float) -> float:
    """To half pixels, where the borders' pull alone can explain the difference."""
    half = round(where * 2) / 2
    return half if abs(where - half) < 0.1 else where


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
        elif isinstance(kernel := getattr(module, "weight", None), Tensor) and kernel.ndim == 4:
            module.weight = nn.Parameter(kernel[:1, :1].clone(), requires_grad=False)  # upsamples
        else:  # what scales channels
            for name, parameter in list(module.named_parameters(recurse=False)):
                one = torch.ones(1, *parameter.shape[1:])
                setattr(module, name, nn.Parameter(one, requires_grad=False))
    return plain.double()


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
