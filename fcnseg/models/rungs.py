"""The parts a ladder is made of: what joins a skip in, and what makes scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fcnseg.models.spec import ModelSpec

AT_ONCE = {16: 0.01, 8: 0.0001}
"""What the at-once original multiplies pool4 and pool3 by; ours go on with pool3's."""


class ScoreRung(nn.Module):
    """The paper's: scores of the skip are added. They start at zero, or small when scaled.

    A skip that starts at full scale would drown what the coarser rungs have learned.
    """

    def __init__(self, channels: int, classes: int, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.scores = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.scores.weight, std=0.0 if scale is None else 0.01)
        assert self.scores.bias is not None
        nn.init.zeros_(self.scores.bias)

    def score(self, skip: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, K, h, w): this rung's share."""
        return self.scores(skip if self.scale is None else skip * self.scale)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, K, h, w) + scores of (N, C, h, w)."""
        return x + self.score(skip)


class FeatureRung(nn.Module):
    """Wide maps are added, a 3x3 convolution mixes them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lateral = conv_bn(channels, width, 1, relu=False)
        self.mix = conv_bn(width, width, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, h, w), (N, C, h, w) -> (N, width, h, w)."""
        return self.mix(x + self.lateral(skip))  # type: ignore[no-any-return]


class ConcatRung(nn.Module):
    """Wide maps are stacked, a 3x3 convolution mixes them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lateral = conv_bn(channels, width, 1)
        self.mix = conv_bn(2 * width, width, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, width, h, w), (N, C, h, w) -> (N, width, h, w)."""
        return self.mix(torch.cat([x, self.lateral(skip)], dim=1))  # type: ignore[no-any-return]


def make_rung(channels: int, stride: int, spec: ModelSpec) -> nn.Module:
    """The rung of the spec's fuse, for a skip of so many channels."""
    if spec.fuse == "score":
        scale = AT_ONCE.get(stride, AT_ONCE[8]) if spec.skips == "scaled" else None
        return ScoreRung(channels, spec.num_classes, scale)
    kind = FeatureRung if spec.fuse == "feature" else ConcatRung
    return kind(channels, spec.width)


def make_scores(channels: int, spec: ModelSpec) -> nn.Sequential:
    """Dropout and the 1x1 convolution to scores.

    On a trunk's many channels (fuse score) it starts small. On the few of a rung that would hold
    everything before it back: CamVid, Lite0 fcn8s of width 64, the loss after 50 steps was 1.76
    with 0.01 and 1.06 with scores of unit size.
    """
    scores = nn.Conv2d(channels, spec.num_classes, 1)
    nn.init.normal_(scores.weight, std=0.01 if spec.fuse == "score" else channels**-0.5)
    assert scores.bias is not None
    nn.init.zeros_(scores.bias)
    return nn.Sequential(nn.Dropout(spec.dropout), scores)


def make_detail(stride: int, spec: ModelSpec) -> nn.Sequential:
    """Dropout and stride x stride pixels for each cell of (N, width, h, w); at the start all zero.

    A sub-pixel convolution (Shi et al., CVPR 2016) beside the bilinear upsampling, which can't
    draw what is thinner than a cell: a cell's maps may know where in it a line runs. It is written
    as the transposed one that it equals, whose weights keep the classes on an axis of their own.
    """
    pixels = nn.ConvTranspose2d(spec.width, spec.num_classes, stride, stride, bias=False)
    nn.init.zeros_(pixels.weight)
    return nn.Sequential(nn.Dropout(spec.dropout), pixels)


def conv_bn(channels: int, out: int, kernel: int, *, relu: bool = True) -> nn.Sequential:
    """Convolution of the same size, batch norm and, unless told otherwise, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))
