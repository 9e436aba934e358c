"""The encoder: a classifier's network, tapped at strides 2 to 32; where its maps' elements lie."""

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

PROBE = 64  # pixels; large enough for the stride to be told from the size of a map

MARGIN_PROBE = 128  # where elements are lost at the borders


def known_keys(state: State, model: nn.Module) -> dict[str, Tensor]:
    """The weights the model has a place for; a classifier's are omitted."""
    places = model.state_dict()
    return {key: value for key, value in state.items() if key in places}


@dataclass(frozen=True)
class BackboneSpec:
    """One entry of fcnseg.models.networks.BACKBONES.

    model: makes the network, randomly initialised.
    row: its modules in the order they run, up to where a classifier pools.
    alignment: where the elements of its maps lie, by name or as stride -> offset.
    preprocess: what its ImageNet weights were fed with.
    official: the ImageNet weights, as published; None when there are none.
    rename: published weights -> a state dict of `model`.
    margin: pixels the image is extended by (top and left, bottom and right) for networks
        whose unpadded kernels lose elements.
    head: what the classifier does with the last map, as convolutions; None: nothing.
    """

    model: Callable[[], nn.Module]
    row: Callable[[nn.Module], list[nn.Module]]
    alignment: Alignment | Mapping[int, float]
    preprocess: Preprocess = IMAGENET
    official: Callable[[Callback], State] | None = None
    rename: Callable[[State, nn.Module], dict[str, Tensor]] = known_keys
    margin: tuple[int, int] = (0, 0)
    head: Callable[[nn.Module], nn.Module] | None = None


class Features(nn.Module):
    """What every backbone is to the decoder.

    channels: stride -> channels of its feature map, from fine to coarse.
    offsets: stride -> the pixel that element 0 lies at (fcnseg.models.backbones).
    preprocess: what its pretrained weights were fed with.
    stride: input sizes must be multiples of it.
    stages: stride -> the part of the backbone that ends there.
    output_stride: the coarsest it was allowed to get (coarser strides became dilation).
    """

    channels: dict[int, int]
    offsets: dict[int, float]
    preprocess: Preprocess
    stride: int
    stages: nn.ModuleDict
    output_stride: int


class Backbone(Features):
    """A classifier's network up to its pooling, cut into stages, one per stride."""

    def __init__(
        self, name: str, spec: BackboneSpec, model: nn.Module, output_stride: int = 32
    ) -> None:
        super().__init__()
        row = spec.row(model)
        dilate(row, output_stride, name)
        self.channels, cut = _shape(row, spec.margin)
        self.stages = nn.ModuleDict()
        for stride in self.channels:
            stage = [module for module, at in zip(row, cut, strict=True) if at == stride]
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
def _shape(row: list[nn.Module], margin: tuple[int, int]) -> tuple[dict[int, int], list[int]]:
    """Channels by stride, and the stride behind each module of the row.

    Found by sending a small empty image through the row, with zeros for weights: the row's own may
    have no memory yet (device "meta"), and a pass without memory would be slower, because torch
    then runs in Python and imports its compiler.
    """
    size = MARGIN_PROBE + sum(margin) if any(margin) else PROBE
    zero = torch.zeros((), device="cpu")
    x = zero.expand(1, 3, size, size)
    channels, cut = {}, []
    for module in row:
        zeros = {name: zero.expand(value.shape) for name, value in module.state_dict().items()}
        x = torch.func.functional_call(module.eval(), zeros, (x,))
        module.train()
        # Unpadded kernels lose an element here and there: the nearest power of two is meant.
        stride = 2 ** round(math.log2(size / x.shape[-1]))
        channels[stride] = x.shape[1]
        cut.append(stride)
    return channels, cut


# --- bands: a backbone for images of other bands than red, green and blue. Only its first
# convolution knows of them.


def first_convolution(backbone: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution that takes the image, and its name; OptionError where there is none."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.groups == 1:
                return name, module
            break
    raise OptionError(
        f"{type(backbone).__name__} has no first convolution that could take other bands than RGB.",
        hint="take another backbone",
    )


def take_bands(backbone: nn.Module, count: int) -> None:
    """Have a backbone take so many bands, in place: its first kernels are those of RGB, widened."""
    _, layer = first_convolution(backbone)
    layer.weight = nn.Parameter(widened(layer.weight.detach(), [None] * count))
    layer.in_channels = count


def with_bands(
    state: State, backbone: nn.Module, colors: Sequence[int | None] | None = None
) -> State:
    """A state whose first convolution is widened to the backbone's bands where it is of RGB."""
    name, layer = first_convolution(backbone)
    key = f"{name}.weight"
    count = layer.in_channels
    if key not in state or state[key].shape[1] != 3 or (count == 3 and colors is None):
        return state
    return {**state, key: widened(state[key], colors or [None] * count)}


def widened(weight: Tensor, colors: Sequence[int | None]) -> Tensor:
    """Kernels (O, 3, k, k) of RGB for other bands: (O, len(colors), k, k).

    colors: 0, 1, 2 for a band that is red, green, blue; None starts from the mean of the three.
    All are scaled by 3 / bands: alike bands then give the sums that RGB gave.
    """
    mean = weight.mean(dim=1)
    kernels = [mean if color is None else weight[:, color] for color in colors]
    return torch.stack(kernels, dim=1) * (3 / len(kernels))


# --- output stride: a backbone that stays finer, its strides turned into dilation ("hole"
# algorithm). A convolution that would halve the map keeps its size, and all behind it look at
# every second element instead: same weights, same receptive field, outputs twice as dense.


def dilate(row: Sequence[nn.Module], output_stride: int, name: str) -> None:
    """Change a row of modules in place so that it never gets coarser than output_stride.

    Raises OptionError where pooling or even kernels downsample: there it can't be done.
    """
    stride = rate = 1
    for module in row:
        step = _step(module)
        if rate == 1 and stride * step <= output_stride:
            stride *= step
            continue
        rate = _dilated(module, rate, name)


def _step(module: nn.Module) -> int:
    """How much coarser its output is: a block downsamples once, on one or two branches."""
    return max((_stride(part) for part in module.modules()), default=1)


def _stride(module: nn.Module) -> int:
    stride = getattr(module, "stride", 1) if hasattr(module, "kernel_size") else 1
    return int(stride[0] if isinstance(stride, tuple) else stride)


def _dilated(module: nn.Module, rate: int, name: str) -> int:
    """Dilate one module of the row; the rate for what follows."""
    after = rate * _step(module)
    current = rate
    for part in module.modules():
        odd = isinstance(part, nn.Conv2d) and part.kernel_size[0] % 2 == 1
        if _stride(part) > 1 and not odd:
            raise OptionError(
                f"The backbone {name} can't be dilated: {type(part).__name__} makes it coarser.",
                hint="leave --output-stride at 32, or take a ResNet, MobileNet or EfficientNet",
            )
        if not isinstance(part, nn.Conv2d):
            continue
        # What comes before the step, and the step itself, still sees neighbours `rate` apart.
        kernel = part.kernel_size[0]
        part.dilation = (current, current)
        part.padding = (current * (kernel // 2), current * (kernel // 2))
        if _stride(part) > 1:
            part.stride = (1, 1)
            if kernel > 1:  # a 1x1 is a shortcut beside the block, not a step before it
                current = after
    return after


def fully_connected(model: nn.Module, *, padded: bool = True) -> nn.Sequential:
    """The layers behind the pooling of a classifier, as convolutions.

    padded: keep the size of the map (kernels of even width give one element more); otherwise
        a map as large as the classifier's gives one output. The weights are shared.
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
    """A layer on a flattened (C, grid, grid) map as a grid x grid convolution."""
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
    """All up to the last layer with weights, without dropout at the end; and that layer."""
    row = list(layers.children())
    last = max(index for index, layer in enumerate(row) if list(layer.parameters()))
    before = last
    while isinstance(row[before - 1], nn.Dropout):
        before -= 1
    return nn.Sequential(*row[:before]), nn.Sequential(*row[last:])


# --- alignment: element i of a map of stride s lies at pixel s * i + offset of the image. Decoders
# shift what they upsample by the difference of two offsets, so that no map drifts from the image.

Alignment = Literal["centre", "corner", "same"]
"""centre: kernels as even as their stride (VGG's 2x2 pools). corner: odd kernels, padded evenly
(ResNet). same: odd kernels under TensorFlow's SAME padding (EfficientNet-Lite)."""


def offset(alignment: Alignment, stride: int) -> float:
    """The pixel that element 0 of a map of this stride lies at."""
    return {"centre": (stride - 1) / 2, "corner": 0.0, "same": stride - 1.0}[alignment]


def offsets(alignment: Alignment, strides: Iterable[int]) -> dict[int, float]:
    """stride -> the pixel that element 0 lies at."""
    return {stride: offset(alignment, stride) for stride in strides}


def shift_between(offsets: Mapping[int, float], coarse: int, fine: int) -> float:
    """Where element 0 of the map at stride `coarse` lies on the one at stride `fine`."""
    return (offsets[coarse] - offsets[fine]) / fine


def upsample(maps: Tensor, factor: int, shift: float, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), bilinear; size is (factor * h, factor * w).

    shift: where element 0 lies on the output. The size is passed rather than computed so that a
    traced graph knows that it equals the size of the map this is added to.
    """
    if factor == 1:
        return maps
    if shift == (factor - 1) / 2:
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)
    if shift not in (0, factor - 1):
        return _between(_between(maps, factor, shift, size[0], 2), factor, shift, size[1], 3)
    # The n elements and one more beyond the border span factor * n steps exactly:
    # align_corners=True puts output j at element j / factor.
    before = int(shift > 0)  # the spare element comes first, and its output is cut off
    wider = F.pad(maps, (before, 1 - before, before, 1 - before), mode="replicate")
    spare = (size[0] + 1, size[1] + 1)
    grown = F.interpolate(wider, spare, mode="bilinear", align_corners=True)
    return grown.narrow(2, before, size[0]).narrow(3, before, size[1])


def _between(maps: Tensor, factor: int, shift: float, length: int, axis: int) -> Tensor:
    """Linear interpolation along one axis at any shift."""
    last = maps.shape[axis] - 1
    outputs = torch.arange(length, device=maps.device, dtype=torch.float32)
    places = ((outputs - shift) / factor).clamp(0, last)
    low = places.floor().long()
    weight = (places - low).to(maps.dtype).view(-1, *[1] * (3 - axis))
    high = (low + 1).clamp(max=last)
    return maps.index_select(axis, low) * (1 - weight) + maps.index_select(axis, high) * weight
