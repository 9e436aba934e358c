"""Shared by the chapters: trained networks, an image, and functions to draw them.

`slide`, for section 3.1: a sliding-window classifier equals the same layers as convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.classes import ClassMap
from fcnseg.errors import OptionError
from fcnseg.io.draw import heatmap, overlay
from fcnseg.models.backbones import as_convolution
from fcnseg.models.fcn import FCN, Decoder, pad_to_multiple
from fcnseg.viz.drawing import THEMES, grey
from fcnseg.viz.network.autoencoder import Hourglass, as_cells, colored, hourglass

if TYPE_CHECKING:
    from fcnseg.inference.segmenter import Segmenter

Rgb = NDArray[np.uint8]

WIDTH = 880
"""Maximum width of a figure in pixels, the full width of a documentation page."""

ALPHA = 0.6


def on_canvas(image: Rgb, size: tuple[int, int]) -> Rgb:
    """Center an image on an empty one of this (height, width), which must not be smaller."""
    canvas = np.full((*size, 3), THEMES["dark"].paper, np.uint8)
    height, width = image.shape[:2]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def mosaic(maps: Tensor, size: tuple[int, int]) -> Rgb:
    """Four maps (4, h, w) as a 2 x 2 grid in an image (height, width, 3), each in its own range."""
    half = (size[0] // 2 - 1, size[1] // 2 - 1)
    image = np.full((*size, 3), THEMES["dark"].paper, np.uint8)
    for index, one in enumerate(maps):
        top, left = index // 2 * (size[0] - half[0]), index % 2 * (size[1] - half[1])
        image[top : top + half[0], left : left + half[1]] = as_cells(colored(one), half)
    return image


def squares(values: Tensor, size: tuple[int, int]) -> Rgb:
    """A small map (k, k) in -1..1, such as a kernel, as large squares in an image of this size."""
    side = min(size)
    return on_canvas(as_cells(colored(values), (side, side)), size)


@dataclass(frozen=True, eq=False)
class Section:
    """One topic. place: its section in the paper. numbers: measured values by name."""

    title: str
    place: str
    text: str
    numbers: Mapping[str, float]
    image: Rgb = field(repr=False)

    @property
    def facts(self) -> dict[str, str]:
        """The numbers as text, to three digits."""
        return {
            name: f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
            for name, value in self.numbers.items()
        }


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, as a Segmenter and as a module. miou: on validation images, 0..1."""

    model: Segmenter
    module: FCN
    miou: float


@dataclass(frozen=True, eq=False)
class Lab:
    """Trained networks and images for the chapters.

    networks: by name: "fcn32s", "fcn16s", "fcn8s", "learned", "concat", "symmetric"; "classifier"
    is an FCN-32s with the backbone tiny. image: uint8 (H, W, 3), labels: uint8 (H, W) of one
    validation image at the networks' size. more: three others of the same size.
    """

    networks: Mapping[str, Network]
    image: Rgb
    labels: NDArray[np.uint8]
    more: tuple[Rgb, ...]

    @property
    def classes(self) -> ClassMap:
        """Names and colors."""
        return self.networks["fcn8s"].model.classes

    @cached_property
    def main(self) -> int:
        """The class shown in figures of a single class: the largest except the background."""
        counts = np.bincount(self.labels.ravel(), minlength=256)[: len(self.classes)]
        if self.classes.background is not None and counts.sum() > counts.max():
            counts[self.classes.background] = -1
        return int(counts.argmax())

    @property
    def name(self) -> str:
        """The name of that class."""
        return self.classes.names[self.main]

    def inputs(self, name: str, image: Rgb | None = None) -> Tensor:
        """The image as a network's input: float32 (1, 3, H, W)."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.image if image is None else image))
        return self.networks[name].model.preprocess.normalise(pixels[None])

    def painted(self, labels: NDArray[np.uint8], image: Rgb | None = None) -> Rgb:
        """An overlay of labels on the image."""
        return overlay(self.image if image is None else image, labels, self.classes, alpha=ALPHA)

    def key(self, *labels: NDArray[np.uint8]) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and colors of the classes in the labels."""
        seen = np.unique(np.concatenate([each.ravel() for each in labels])).tolist()
        shown = [index for index in seen if index < len(self.classes)]
        return [(self.classes.names[i], self.color(i)) for i in shown]

    def color(self, index: int) -> tuple[int, int, int]:
        """Red, green and blue of a class, 0 to 255."""
        red, green, blue = self.classes.colors[index].tolist()
        return red, green, blue

    def heat(self, values: NDArray[np.float32], low: float, high: float) -> Rgb:
        """Scores (H, W) as a heatmap on the gray image, from `low` to `high`."""
        return heatmap(grey(self.image), (values - low) / max(high - low, 1e-12), alpha=ALPHA)

    def hourglass(self, name: str) -> Hourglass:
        """The feature maps along the path through a network."""
        module = self.networks[name].module
        labels = self.networks[name].model(self.image).labels
        return hourglass(module, self.inputs(name), self.image, self.painted(labels))


WINDOW_BATCH = 32
"""Windows classified per batch."""

SEQUENTIAL = (
    nn.Sequential, nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Identity,
)  # fmt: skip
"""Modules allowed in an encoder for `slide`: without branches, its receptive field is known."""


@dataclass(frozen=True, eq=False)
class WindowScores:
    """The scores of a classifier, computed in two ways.

    slid: float32 (K, h, w), of h * w windows that were classified one by one. dense: the same
    scores from one forward pass of the complete image. window, stride: pixels. overlap: mean
    number of windows that contain a pixel of the padded image.
    """

    slid: Tensor
    dense: Tensor
    window: int
    stride: int
    overlap: float

    @property
    def difference(self) -> float:
        """The largest difference of two scores, which is float32 rounding error."""
        return float((self.slid - self.dense).abs().max())


@torch.no_grad()
def slide_window(network: FCN, image: Tensor) -> WindowScores:
    """Apply the classifier inside an FCN-32s, its encoder and score layer, window by window.

    Convolutions are not padded here, so that a score depends on its window only. Instead the image
    is padded, as in the authors' code, so that each cell has a window around it.

    network: a sequence of convolutions and max-pooling (the backbones `tiny`, `vgg...`,
    `alexnet`), fuse=score; OptionError for others. image: normalized float32 (1, 3, H, W).
    """
    refuse_others(network)
    encoder = unpadded(network.backbone.stages)
    scores = network.decoder.entry[-1]  # type: ignore[index]
    connected = nn.Linear(scores.in_channels, scores.out_channels)
    connected.weight, connected.bias = nn.Parameter(scores.weight.flatten(1)), scores.bias
    classifier = nn.Sequential(encoder, nn.Flatten(), connected)  # (n, 3, window, window) -> (n, K)
    convolutions = nn.Sequential(encoder, as_convolution(connected, 1, padded=False))

    stride, window = network.backbone.stride, window_of(encoder)
    before = (window - stride) // 2
    margins = (before, window - stride - before)  # left and right; the same above and below
    framed = nn.functional.pad(pad_to_multiple(image, stride), margins * 2)[0]
    windows = framed.unfold(1, window, stride).unfold(2, window, stride)  # (3, h, w, win, win)
    rows, columns = windows.shape[1:3]
    apart = windows.permute(1, 2, 0, 3, 4).flatten(0, 1)  # (h * w, 3, window, window)
    alone = torch.cat(
        [classifier(apart[at : at + WINDOW_BATCH]) for at in range(0, len(apart), WINDOW_BATCH)]
    )  # (h * w, K)
    dense = convolutions(framed[None])[0]  # (K, h, w)
    overlap = apart[:, 0].numel() / framed[0].numel()
    return WindowScores(alone.T.reshape(-1, rows, columns), dense, window, stride, overlap)


def refuse_others(network: FCN) -> None:
    """OptionError for a network that `slide` does not support."""
    parts = [type(part) for stage in network.backbone.stages.values() for part in stage.modules()]
    others = dict.fromkeys(part.__name__ for part in parts if part not in SEQUENTIAL)
    fuse = network.spec.fuse
    if others:
        found = f"the backbone {network.spec.backbone} has {', '.join(others)}"
    elif not isinstance(network.decoder, Decoder) or fuse != "score":
        found = f"this network has fuse={fuse}"
    else:
        return
    raise OptionError(
        "slide needs a network of convolutions and max-pooling one after another, and fuse=score; "
        f"{found}.",
        hint="give a network with the backbone tiny, vgg11 to vgg19 or alexnet, and fuse=score",
    )


def unpadded(stages: nn.ModuleDict) -> nn.Sequential:
    """A copy of an encoder without padding."""
    encoder = copy.deepcopy(nn.Sequential(*stages.values())).eval()
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
        elif isinstance(module, nn.MaxPool2d):
            module.padding, module.ceil_mode = 0, False
    return encoder


def window_of(encoder: nn.Module) -> int:
    """Receptive field of an unpadded encoder: the side of a square, in pixels."""
    size = 1
    for module in reversed(list(encoder.modules())):
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, dilation = (
                value if isinstance(value, int) else value[0]
                for value in (module.kernel_size, module.stride, module.dilation)
            )
            size = (size - 1) * stride + dilation * (kernel - 1) + 1
    return size
