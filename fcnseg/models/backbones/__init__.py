"""The encoder: a classifier tapped at strides 2 to 32, and the alignment of its feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.models.spec import IMAGENET, Preprocess
from fcnseg.models.weights import State
from fcnseg.progress import Callback

PROBE = 64  # pixels; large enough to infer a stride from the size of a map

MARGIN_PROBE = 128  # for networks that lose elements at the borders


def known_keys(state: State, model: nn.Module) -> dict[str, Tensor]:
    """The weights that the model has, without those of the classifier."""
    places = model.state_dict()
    return {key: value for key, value in state.items() if key in places}


@dataclass(frozen=True)
class BackboneSpec:
    """One entry of fcnseg.models.networks.BACKBONES.

    model: makes the network, randomly initialised.
    layers: its modules in the order they run, up to the classifier's pooling.
    alignment: of its feature maps, by name or as stride -> offset.
    preprocess: of its ImageNet weights.
    official: returns the ImageNet weights, as published; None when there are none.
    rename: published weights -> a state dict of `model`.
    margin: pixels of padding (top and left, bottom and right) for networks whose unpadded
        kernels lose elements.
    head: the classifier as convolutions on the last map; None: not available.
    """

    model: Callable[[], nn.Module]
    layers: Callable[[nn.Module], list[nn.Module]]
    alignment: Alignment | Mapping[int, float]
    preprocess: Preprocess = IMAGENET
    official: Callable[[Callback], State] | None = None
    rename: Callable[[State, nn.Module], dict[str, Tensor]] = known_keys
    margin: tuple[int, int] = (0, 0)
    head: Callable[[nn.Module], nn.Module] | None = None


class Features(nn.Module):
    """The interface of backbones, as the decoder uses it.

    channels: stride -> channels of its feature map, from fine to coarse.
    offsets: stride -> the pixel position of element 0 (see `Alignment`).
    preprocess: of its pretrained weights.
    stride: input sizes must be multiples of it.
    stages: stride -> the part of the backbone that ends there.
    output_stride: the coarsest stride allowed (coarser ones became dilation).
    """

    channels: dict[int, int]
    offsets: dict[int, float]
    preprocess: Preprocess
    stride: int
    stages: nn.ModuleDict
    output_stride: int


class Backbone(Features):
    """A classifier up to its pooling, split into stages, one per stride."""

    def __init__(
        self, name: str, spec: BackboneSpec, model: nn.Module, output_stride: int = 32
    ) -> None:
        super().__init__()
        layers = spec.layers(model)
        dilate(layers, output_stride, name)
        self.channels, strides = _channels_and_strides(layers, spec.margin)
        self.stages = nn.ModuleDict()
        for stride in self.channels:
            stage = [module for module, at in zip(layers, strides, strict=True) if at == stride]
            self.stages[str(stride)] = nn.Sequential(*stage)
        kind = spec.alignment
        self.offsets = offsets(kind, self.channels) if isinstance(kind, str) else dict(kind)
        self.preprocess = spec.preprocess
        self.stride = max(self.channels)
        self.margin = spec.margin
        self.output_stride = output_stride

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W), H and W multiples of stride -> {s: (N, C_s, H/s, W/s)}."""
        height, width = images.shape[-2:]
        before, after = self.margin
        x = images
        if before or after:
            x = F.pad(images, (before, after, before, after), mode="replicate")
        taps = {}
        for name, stage in self.stages.items():
            x = stage(x)
            stride = int(name)
            taps[stride] = x
            if before or after:
                taps[stride] = x.narrow(2, 0, height // stride).narrow(3, 0, width // stride)
        return taps


@torch.no_grad()
def _channels_and_strides(
    layers: list[nn.Module], margin: tuple[int, int]
) -> tuple[dict[int, int], list[int]]:
    """Channels by stride, and the output stride of each module.

    Measured by a forward pass of a small image with all weights zero: the real weights may be on
    device "meta", where a pass would be slower, because torch then runs in Python and imports its
    compiler.
    """
    size = MARGIN_PROBE + sum(margin) if any(margin) else PROBE
    zero = torch.zeros((), device="cpu")
    x = zero.expand(1, 3, size, size)
    channels, strides = {}, []
    for module in layers:
        zeros = {name: zero.expand(value.shape) for name, value in module.state_dict().items()}
        x = torch.func.functional_call(module.eval(), zeros, (x,))
        module.train()
        # Unpadded kernels lose a few elements, so round to the nearest power of two.
        stride = 2 ** round(math.log2(size / x.shape[-1]))
        channels[stride] = x.shape[1]
        strides.append(stride)
    return channels, strides


# --- bands: a backbone for images of other bands than red, green and blue. Only its first
# convolution depends on them.


def first_convolution(backbone: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution on the image, and its name; OptionError when there is none."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.groups == 1:
                return name, module
            break
    raise OptionError(
        f"{type(backbone).__name__} has no first convolution that could take other bands than RGB.",
        hint="use another backbone",
    )


def take_bands(backbone: nn.Module, count: int) -> None:
    """Change a backbone's number of input bands in place, widening its first RGB kernels."""
    _, layer = first_convolution(backbone)
    layer.weight = nn.Parameter(widened(layer.weight.detach(), [None] * count))
    layer.in_channels = count


def with_bands(
    state: State, backbone: nn.Module, colors: Sequence[int | None] | None = None
) -> State:
    """A state dict with the first convolution's RGB kernels widened to the backbone's bands."""
    name, layer = first_convolution(backbone)
    key = f"{name}.weight"
    count = layer.in_channels
    if key not in state or state[key].shape[1] != 3 or (count == 3 and colors is None):
        return state
    return {**state, key: widened(state[key], colors or [None] * count)}


def widened(weight: Tensor, colors: Sequence[int | None]) -> Tensor:
    """Widen RGB kernels (O, 3, k, k) to other bands: (O, len(colors), k, k).

    colors: 0, 1, 2 for a band that is red, green, blue; None for the mean of the three kernels.
    All are scaled by 3 / bands, so that identical bands give the same sums as in RGB.
    """
    mean = weight.mean(dim=1)
    kernels = [mean if color is None else weight[:, color] for color in colors]
    return torch.stack(kernels, dim=1) * (3 / len(kernels))


# --- output stride: strides are replaced by dilation (the "hole" algorithm). A convolution that
# would halve the map keeps its size, and all later kernels take every second element instead: same
# weights, same receptive field, outputs twice as dense.


def dilate(layers: Sequence[nn.Module], output_stride: int, name: str) -> None:
    """Replace strides by dilation in place, so that no map is coarser than output_stride.

    Raises OptionError when pooling or even kernels would have to be dilated.
    """
    stride = rate = 1
    for module in layers:
        step = _step(module)
        if rate == 1 and stride * step <= output_stride:
            stride *= step
            continue
        rate = _dilated(module, rate, name)


def _step(module: nn.Module) -> int:
    """A module's downsampling factor: a block downsamples once, on one or two branches."""
    return max((_stride(part) for part in module.modules()), default=1)


def _stride(module: nn.Module) -> int:
    stride = getattr(module, "stride", 1) if hasattr(module, "kernel_size") else 1
    return int(stride[0] if isinstance(stride, tuple) else stride)


def _dilated(module: nn.Module, rate: int, name: str) -> int:
    """Dilate one module in place; return the dilation rate of those after it."""
    after = rate * _step(module)
    current = rate
    for part in module.modules():
        odd = isinstance(part, nn.Conv2d) and part.kernel_size[0] % 2 == 1
        if _stride(part) > 1 and not odd:
            raise OptionError(
                f"The backbone {name} can't be dilated: {type(part).__name__} makes it coarser.",
                hint="leave --output-stride at 32, or use a ResNet, MobileNet or EfficientNet",
            )
        if not isinstance(part, nn.Conv2d):
            continue
        # Up to and including the strided convolution, neighbours are still `rate` apart.
        kernel = part.kernel_size[0]
        part.dilation = (current, current)
        part.padding = (current * (kernel // 2), current * (kernel // 2))
        if _stride(part) > 1:
            part.stride = (1, 1)
            if kernel > 1:  # a 1x1 is the block's shortcut, parallel to its other layers
                current = after
    return after


def convolutional_head(model: nn.Module, *, padded: bool = True) -> nn.Sequential:
    """The layers after a classifier's pooling, as convolutions with shared weights.

    padded: keep the size of the map (kernels of even width give one element more); otherwise
        a map of the size that the classifier expects gives one output.
    """
    owner: Any = model
    layers = owner.fc if hasattr(owner, "fc") else owner.classifier
    size = owner.avgpool.output_size if hasattr(owner, "avgpool") else 1
    grid = size if isinstance(size, int) else int(size[0])
    convolutions: list[nn.Module] = []
    for layer in layers if isinstance(layers, nn.Sequential) else [layers]:
        if isinstance(layer, nn.Linear):
            convolutions.append(as_convolution(layer, grid, padded=padded))
            grid = 1
        elif not isinstance(layer, nn.Flatten | nn.AdaptiveAvgPool2d):
            convolutions.append(layer)
    return nn.Sequential(*convolutions)


def as_convolution(layer: nn.Linear, grid: int, *, padded: bool) -> nn.Conv2d:
    """Convert a linear layer on a flattened (C, grid, grid) map to a grid x grid convolution."""
    channels = layer.in_features // grid**2
    convolution = nn.Conv2d(
        channels,
        layer.out_features,
        grid,
        padding=grid // 2 if padded else 0,
        bias=layer.bias is not None,
        device="meta",  # its weights are the layer's
    )
    weight = layer.weight.view(layer.out_features, channels, grid, grid)
    convolution.weight = nn.Parameter(weight.detach())
    convolution.bias = layer.bias
    return convolution


def split_last(layers: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """Split off the last layer with weights; the dropout before it is omitted."""
    row = list(layers.children())
    last = max(index for index, layer in enumerate(row) if list(layer.parameters()))
    before = last
    while isinstance(row[before - 1], nn.Dropout):
        before -= 1
    return nn.Sequential(*row[:before]), nn.Sequential(*row[last:])


# --- alignment: element i of a map of stride s is centred on pixel s * i + offset of the image.
# Decoders shift maps by the difference of two offsets when they upsample, to keep them aligned.

Alignment = Literal["centre", "corner", "same"]
"""centre: even kernels with even strides (VGG's 2x2 pools). corner: odd kernels, padded evenly
(ResNet). same: odd kernels with TensorFlow's SAME padding (EfficientNet-Lite)."""


def offset(alignment: Alignment, stride: int) -> float:
    """The pixel position of element 0 of a map of this stride."""
    return {"centre": (stride - 1) / 2, "corner": 0.0, "same": stride - 1.0}[alignment]


def offsets(alignment: Alignment, strides: Iterable[int]) -> dict[int, float]:
    """stride -> the pixel position of element 0."""
    return {stride: offset(alignment, stride) for stride in strides}


def shift_between(offsets: Mapping[int, float], coarse: int, fine: int) -> float:
    """Position of element 0 of the map at stride `coarse` on the map at stride `fine`."""
    return (offsets[coarse] - offsets[fine]) / fine


def upsample(maps: Tensor, factor: int, shift: float, size: tuple[int, int]) -> Tensor:
    """Upsample bilinearly: (N, C, h, w) -> (N, C, *size); size is (factor * h, factor * w).

    shift: position of element 0 on the output. The size is an argument so that a traced graph
    knows that it equals the size of the map to which this is added.
    """
    if factor == 1:
        return maps
    if shift == (factor - 1) / 2:
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)
    if shift not in (0, factor - 1):
        return _interpolate(
            _interpolate(maps, factor, shift, size[0], 2), factor, shift, size[1], 3
        )
    # n elements and one replicated at the border span exactly factor * n steps:
    # align_corners=True puts output j at element j / factor.
    before = int(shift > 0)  # the replicated element comes first, and its output is cropped
    wider = F.pad(maps, (before, 1 - before, before, 1 - before), mode="replicate")
    spare = (size[0] + 1, size[1] + 1)
    grown = F.interpolate(wider, spare, mode="bilinear", align_corners=True)
    return grown.narrow(2, before, size[0]).narrow(3, before, size[1])


def _interpolate(maps: Tensor, factor: int, shift: float, length: int, axis: int) -> Tensor:
    """Linear interpolation along one axis with any shift."""
    last = maps.shape[axis] - 1
    outputs = torch.arange(length, device=maps.device, dtype=torch.float32)
    places = ((outputs - shift) / factor).clamp(0, last)
    low = places.floor().long()
    weight = (places - low).to(maps.dtype).view(-1, *[1] * (3 - axis))
    high = (low + 1).clamp(max=last)
    return maps.index_select(axis, low) * (1 - weight) + maps.index_select(axis, high) * weight
