"""What the chapters draw from: trained networks, one image, and how both are shown.

Feature maps are drawn as cells, at their true sizes, on the way through a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from fcnseg.classes import ClassMap
from fcnseg.io.draw import font_for, heatmap, overlay
from fcnseg.models.fcn import FCN, pad_to_multiple
from fcnseg.viz import grey

if TYPE_CHECKING:
    from fcnseg.inference.segmenter import Segmenter

Rgb = NDArray[np.uint8]

PAPER, INK, FAINT = (24, 24, 24), (240, 240, 240), (150, 150, 150)

TEXT = 12  # pixels

_LINE = 17  # pixels

WIDTH = 880
"""Pixels an image is wide at most: what a page of documentation shows at its full size."""

ALPHA = 0.6

LEVEL = 20
"""Pixels between two links that lie one over the other."""


@dataclass(frozen=True, eq=False)
class Column:
    """One stop on the way through a network: its map uint8 (h, w, 3) RGB, and lines below it."""

    image: Rgb
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """A skip connection from a column to another, by their indices."""

    start: int
    end: int
    label: str


def colored(values: Tensor) -> Rgb:
    """A map float (h, w), its lowest value black and its highest light: uint8 (h, w, 3) RGB."""
    low, high = values.min(), values.max()
    levels = ((values - low) / (high - low).clamp(min=1e-12)).float().numpy()
    return heatmap(np.zeros((*levels.shape, 3), np.uint8), levels, alpha=1.0)


def as_cells(image: Rgb, size: tuple[int, int]) -> Rgb:
    """An image (h, w, 3) at another (height, width), its elements as cells with sharp edges."""
    rows, columns = (
        np.arange(wanted) * have // wanted
        for wanted, have in zip(size, image.shape[:2], strict=True)
    )
    cells: Rgb = image[rows][:, columns]
    return cells


def on_canvas(image: Rgb, size: tuple[int, int]) -> Rgb:
    """In the middle of an empty image of this (height, width), which is not smaller."""
    canvas = np.full((*size, 3), PAPER, np.uint8)
    height, width = image.shape[:2]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def strongest(maps: Tensor, count: int) -> Tensor:
    """The channels of (C, h, w) that vary most over the image, (count, h, w), strongest first."""
    return maps[maps.flatten(1).std(dim=1, correction=0).argsort(descending=True)[:count]]


def mosaic(maps: Tensor, size: tuple[int, int]) -> Rgb:
    """Four maps (4, h, w), each in its own range, two by two in an image (height, width, 3)."""
    half = (size[0] // 2 - 1, size[1] // 2 - 1)
    image = np.full((*size, 3), PAPER, np.uint8)
    for index, one in enumerate(maps):
        top, left = index // 2 * (size[0] - half[0]), index % 2 * (size[1] - half[1])
        image[top : top + half[0], left : left + half[1]] = as_cells(colored(one), half)
    return image


def squares(values: Tensor, size: tuple[int, int]) -> Rgb:
    """A small map (k, k) -1..1, such as a kernel, as large squares in an image of this size."""
    side = min(size)
    return on_canvas(as_cells(colored(values), (side, side)), size)


def way(columns: Sequence[Column], links: Sequence[Link] = ()) -> Rgb:
    """Maps at their true proportions, from left to right, with the skip connections above."""
    font = font_for("", TEXT)
    widths = [
        max(column.image.shape[1], *(round(font.getlength(line)) for line in column.lines)) + 16
        for column in columns
    ]
    lefts = np.cumsum([8, *widths]).tolist()
    centres = [left + width // 2 for left, width in zip(lefts, widths, strict=False)]
    tallest = max(column.image.shape[0] for column in columns)
    middle = 12 + LEVEL * len(links) + tallest // 2
    below = middle + tallest // 2 + 8
    bottom = below + max(len(column.lines) for column in columns) * _LINE + 8
    canvas = Image.new("RGB", (lefts[-1] + 8, bottom), PAPER)
    pen = ImageDraw.Draw(canvas)
    for centre, column in zip(centres, columns, strict=True):
        height, width = column.image.shape[:2]
        canvas.paste(Image.fromarray(column.image), (centre - width // 2, middle - height // 2))
        for number, line in enumerate(column.lines):
            left = centre - font.getlength(line) / 2
            ink = FAINT if number else INK
            pen.text((left, below + number * _LINE), line, fill=ink, font=font)
    for at in range(len(columns) - 1):
        start = centres[at] + columns[at].image.shape[1] // 2 + 2
        end = centres[at + 1] - columns[at + 1].image.shape[1] // 2 - 3
        pen.line((start, middle, end, middle), fill=FAINT)
        pen.polygon([(end, middle), (end - 5, middle - 3), (end - 5, middle + 3)], fill=FAINT)
    tops = [middle - column.image.shape[0] // 2 - 3 for column in columns]
    for level, link in enumerate(sorted(links, key=lambda one: one.start - one.end), start=1):
        _draw_link(pen, link, (centres, tops), LEVEL * level)
    return np.asarray(canvas)


def _draw_link(
    pen: ImageDraw.ImageDraw, link: Link, places: tuple[list[int], list[int]], height: int
) -> None:
    """Up from one column, across at this height, and down to another. places: x and y of each."""
    font = font_for(link.label, TEXT)
    (x, y), (tip_x, tip_y) = ((places[0][at], places[1][at]) for at in (link.start, link.end))
    pen.line([(x, y), (x, height), (tip_x, height), (tip_x, tip_y)], fill=FAINT)
    pen.polygon([(tip_x, tip_y), (tip_x - 3, tip_y - 5), (tip_x + 3, tip_y - 5)], fill=FAINT)
    left = (x + tip_x) / 2 - font.getlength(link.label) / 2
    pen.text((left, height - TEXT - 4), link.label, fill=FAINT, font=font)


def maps_of(maps: Tensor) -> Tensor:
    """(1, C, h, w) on any device -> (C, h, w) float32 on the CPU."""
    return maps[0].detach().to("cpu", torch.float32)


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
