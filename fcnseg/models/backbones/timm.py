"""Backbones of timm by name, `timm:NAME`; the alignment of their feature maps is measured."""

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
    """A convolutional network of timm; features at strides 2 to 32."""

    def __init__(self, name: str, output_stride: int = 32) -> None:
        super().__init__()
        self.network = _create(name, output_stride)
        info = self.network.feature_info
        # Of several maps at one stride (dilated stages), use the deepest.
        reductions = enumerate(info.reduction())
        self.taps = {int(stride): index for index, stride in reductions if stride > 1}
        self.channels = {stride: info.channels()[index] for stride, index in self.taps.items()}
        if not set(self.channels) <= set(STRIDES):
            raise OptionError(
                f"{name} has features at strides {sorted(self.channels)}; the decoder takes "
                f"{', '.join(map(str, STRIDES))}.",
                hint="use another backbone",
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
    """Return timm's weights of a backbone, cached or downloaded; CheckpointError otherwise."""
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
            hint="use a convolutional network, or leave --output-stride at 32",
        ) from error


@functools.cache
def _offsets(name: str, output_stride: int) -> tuple[tuple[int, float], ...]:
    """(stride, offset) of each map, measured on a copy: the backbone may be on device "meta"."""
    try:
        with torch.device("cpu"):
            network: Any = linearised(_create(name, output_stride))
            strides = network.feature_info.reduction()
            found = measured(lambda images: dict(zip(strides, network(images), strict=True)))
        if not all(map(math.isfinite, found.values())):
            raise RuntimeError("its weights can't be made positive")
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"The alignment of the features of {name} can't be measured: {first_line(error)}.",
            hint="use a convolutional network",
        ) from error
    return tuple((int(stride), _snapped(where)) for stride, where in found.items())


def _snapped(where: float) -> float:
    """Round to half pixels if the difference is within the error caused by the borders."""
    half = round(where * 2) / 2
    return half if abs(where - half) < 0.1 else where


TAIL = 0.002
"""Sum of a kernel's uniform part, relative to 1 at its centre: small, so that the borders have
little influence."""


def linearised(network: nn.Module, tail: float = TAIL) -> nn.Module:
    """Return a copy that is linear and positive, with one channel and the original's geometry.

    network: its weights are not used and may be on device "meta" (except those of upsampling
        layers). tail: as TAIL; with a large one all taps of a kernel have the same weight.
    The copy is float64, on the CPU.
    """
    plain = _replaced(copy.deepcopy(network).eval().requires_grad_(False), tail)
    for module in plain.modules():
        if isinstance(module, nn.Conv2d):
            _narrow(module, tail)
        elif isinstance(kernel := getattr(module, "weight", None), Tensor) and kernel.ndim == 4:
            module.weight = nn.Parameter(kernel[:1, :1].clone(), requires_grad=False)  # upsampling
        else:  # scales of channels
            for name, parameter in list(module.named_parameters(recurse=False)):
                one = torch.ones(1, *parameter.shape[1:])
                setattr(module, name, nn.Parameter(one, requires_grad=False))
    return plain.double()


@torch.no_grad()
def centroids(network: Callable[[Tensor], Tensor], height: int, width: int) -> Tensor:
    """The centre of every output's receptive field: (2, h, w), y and x in pixels of the input.

    network: linearised, (N, 3, height, width) -> (N, 1, h, w).
    """
    return _ratio(network(_coordinates(height, width)))


@torch.no_grad()
def measured(features: Callable[[Tensor], dict[int, Tensor]], size: int = 256) -> dict[int, float]:
    """stride -> the pixel position of element 0, of a linearised backbone.

    Measured at the centre, far from the borders of a size x size image.
    """
    found = {}
    for stride, maps in features(_coordinates(size, size)).items():
        where = _ratio(maps)
        middle = where.shape[-1] // 2
        found[stride] = float(where[0, middle, middle]) - stride * middle
    return found


def _coordinates(height: int, width: int) -> Tensor:
    """(3, 3, height, width): an image of y, one of x and one of ones."""
    shape = (1, 3, height, width)
    rows = torch.arange(height, dtype=torch.float64).view(1, 1, -1, 1).expand(shape)
    columns = torch.arange(width, dtype=torch.float64).expand(shape)
    return torch.cat([rows, columns, torch.ones(shape, dtype=torch.float64)])


def _ratio(maps: Tensor) -> Tensor:
    """(3, C, h, w), outputs for y, x and ones -> (2, h, w): y and x, divided by those of ones."""
    total = maps.sum(dim=1)
    return total[:2] / total[2]


# Modules without geometry, by parts of their class names in torchvision and timm.
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
    """The module or its replacement; children are replaced as well."""
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
    """The windows of a max pool, with the same kernel as the convolutions."""

    def __init__(self, pool: nn.MaxPool2d, tail: float) -> None:
        super().__init__()
        self.tail = tail
        self.kernel, self.stride, self.padding = (
            int(value[0] if isinstance(value, tuple) else value)
            for value in (pool.kernel_size, pool.stride, pool.padding)
        )
        self.extra = self.stride - 1 if pool.ceil_mode else 0  # for a window over the border

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.mean(1, keepdim=True), (0, self.extra, 0, self.extra))
        weight = _peak(self.kernel, self.kernel, self.tail).to(x.dtype)
        return F.conv2d(x, weight, None, self.stride, self.padding)


def _peak(height: int, width: int, tail: float) -> Tensor:
    """A kernel (1, 1, height, width) with its peak at the centre and sum 1."""
    weight = torch.full((1, 1, height, width), tail / (height * width))
    weight[..., (height - 1) // 2 : height // 2 + 1, (width - 1) // 2 : width // 2 + 1] += 1
    return weight / weight.sum()


def _narrow(layer: nn.Conv2d, tail: float) -> None:
    """Reduce a convolution to one channel in and out, in place; its padding stays."""
    height, width = layer.kernel_size
    layer.weight = nn.Parameter(_peak(height, width, tail), requires_grad=False)
    layer.bias = None
    layer.groups = layer.in_channels = layer.out_channels = 1
    layer.register_forward_pre_hook(lambda _layer, inputs: inputs[0].mean(1, keepdim=True))
