"""What the chapters draw from: trained networks, one image, and how both are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.classes import ClassMap
from fcnseg.commands.demo.maps import Column, Rgb, colored, maps_of, strongest
from fcnseg.io.draw import heatmap, overlay
from fcnseg.models.fcn import FCN, pad_to_multiple
from fcnseg.viz import grey

if TYPE_CHECKING:
    from fcnseg.inference.segmenter import Segmenter

WIDTH = 880
"""Pixels an image is wide at most: what a page of documentation shows at its full size."""

ALPHA = 0.6


@dataclass(frozen=True, eq=False)
class Section:
    """One topic. place: where the paper has it. numbers: what was measured, by name."""

    title: str
    place: str
    text: str
    numbers: Mapping[str, float]
    image: Rgb = field(repr=False)

    @property
    def facts(self) -> dict[str, str]:
        """The numbers as they are written, to three digits."""
        return {
            name: f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
            for name, value in self.numbers.items()
        }


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network: ready for images (`model`), and as a module. miou: 0..1, validation."""

    model: Segmenter
    module: FCN
    miou: float


@dataclass(frozen=True, eq=False)
class Lab:
    """What the chapters draw from.

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
        """Names and colours."""
        return self.networks["fcn8s"].model.classes

    @cached_property
    def main(self) -> int:
        """The class that the figures of one class show: the largest but the background."""
        counts = np.bincount(self.labels.ravel(), minlength=256)[: len(self.classes)]
        if self.classes.background is not None and counts.sum() > counts.max():
            counts[self.classes.background] = -1
        return int(counts.argmax())

    @property
    def name(self) -> str:
        """Of that class."""
        return self.classes.names[self.main]

    def inputs(self, name: str, image: Rgb | None = None) -> Tensor:
        """The image as a network takes it: float32 (1, 3, H, W)."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.image if image is None else image))
        return self.networks[name].model.preprocess.normalise(pixels[None])

    def painted(self, labels: NDArray[np.uint8], image: Rgb | None = None) -> Rgb:
        """The classes of labels over the image."""
        return overlay(self.image if image is None else image, labels, self.classes, alpha=ALPHA)

    def key(self, *labels: NDArray[np.uint8]) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and colours of the classes that occur."""
        seen = np.unique(np.concatenate([each.ravel() for each in labels])).tolist()
        shown = [index for index in seen if index < len(self.classes)]
        return [(self.classes.names[i], self.color(i)) for i in shown]

    def color(self, index: int) -> tuple[int, int, int]:
        """Red, green and blue of a class, 0 to 255."""
        red, green, blue = self.classes.colors[index].tolist()
        return red, green, blue

    def heat(self, values: NDArray[np.float32], low: float, high: float) -> Rgb:
        """Scores (H, W) over the grey image, from `low` to `high`."""
        return heatmap(grey(self.image), (values - low) / max(high - low, 1e-12), alpha=ALPHA)

    @torch.no_grad()
    def hourglass(self, name: str) -> tuple[list[Column], Tensor]:
        """The way through a network, map by map; and the coarsest map of the encoder, the code."""
        module, network_input = self.networks[name].module, self.inputs(name)
        taps = module.backbone(pad_to_multiple(network_input, module.backbone.stride))
        grown = {}
        hooks = [
            layer.register_forward_hook(lambda _, __, maps, at=stride: grown.update({at: maps}))
            for stride, layer in _joined(module).items()
        ]
        try:
            logits = module(network_input)
        finally:
            for hook in hooks:
                hook.remove()
        columns = [Column(self.image, ("image", _shape(network_input)))]
        for stride, maps in sorted(taps.items()):
            columns.append(Column(_first(maps), (f"stride {stride}", _shape(maps))))
        for stride, maps in sorted(grown.items(), reverse=True):
            columns.append(Column(_first(maps), (f"decoder, {stride}", _shape(maps))))
        labels = logits[0].argmax(dim=0).numpy().astype(np.uint8)
        columns.append(Column(self.painted(labels), ("logits", _shape(logits))))
        return columns, taps[max(taps)]


def _joined(module: FCN) -> dict[int, torch.nn.Module]:
    """The decoder's layers whose outputs are its maps, by stride, from coarse to fine."""
    decoder = module.decoder
    return {decoder.strides[0]: decoder.entry} | {
        int(stride): layer for stride, layer in decoder.rungs.items()
    }


def _first(maps: Tensor) -> Rgb:
    """The channel of (1, C, h, w) that varies most, one pixel an element."""
    return colored(strongest(maps_of(maps), 1)[0])


def _shape(maps: Tensor) -> str:
    return " x ".join(map(str, maps.shape[1:]))
