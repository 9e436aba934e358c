"""The network as a row of feature maps, encoder then decoder, with its skips as arrows above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.io.draw import font_for, heatmap
from fcnseg.io.images import resize_image
from fcnseg.models.fcn import FCN, Decoder
from fcnseg.viz import Panel, View, network_input, plain_network
from fcnseg.viz.drawing import THEMES, Rgb, Theme
from fcnseg.viz.layout import WIDEST, Section
from fcnseg.viz.skips import pool_name

WIDTH = WIDEST - 16
"""Maximum width of the drawing, in pixels, to fit into a figure."""

TEXT_SIZES = (24, 20, 16)

SMALLEST, LARGEST = 320, 560
"""Range of the image's longer side in the drawing, in pixels."""

MARGIN = 16  # pixels between two columns


@dataclass(frozen=True, eq=False)
class Column:
    """A feature map in the drawing, uint8 (h, w, 3) RGB, and the lines of text below it."""

    image: Rgb
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """A skip connection between two columns, given by their indices."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, eq=False)
class Hourglass:
    """The feature maps of a network for an image.

    columns: the image, the encoder's maps, the decoder's, the labels. code: the coarsest map of
    the encoder, (1, C, h, w).
    """

    columns: list[Column]
    links: list[Link]
    code: Tensor


def autoencoder(view: View) -> Section:
    """Encoder, code and decoder in one row."""
    network = plain_network(view, "autoencoder")
    if not isinstance(network.decoder, Decoder):
        raise OptionError("--show-what autoencoder: this network's decoder is not fcnseg's own.")
    padded, size = network_input(view, network)
    inputs = padded[:, :, : size[0], : size[1]]  # the network pads as it needs
    labels = view.predicted.labels
    image, painted = (
        resize_image(each, size)
        for each in (view.frame.image, view.figures.labelled(view.frame, labels, "").image)
    )
    found = hourglass(network, inputs, image, painted)
    columns, text = _fitting(found.columns)
    drawn = row_of_maps(columns, found.links, text=text, theme=view.figures.theme)
    numbers = f"{inputs[0].numel():,} numbers in the image, {found.code[0].numel():,} in the code"
    title = f"{network.decoder.spec.decoder}, fuse {network.decoder.spec.fuse}: {numbers}"
    note = "channels x height x width; of each map the channel that varies most, in its own range"
    heading = "autoencoder: the maps of the encoder and of the decoder, and the skips"
    keys = {"classes": view.figures.key(labels)}
    return Section([Panel(drawn, title, note)], heading, keys, columns=1, as_drawn=True)


@torch.no_grad()
def hourglass(network: FCN, inputs: Tensor, image: Rgb, painted: Rgb) -> Hourglass:
    """Collect the feature maps of a network with fcnseg's decoder.

    inputs: normalised float (1, C, H, W). image, painted: uint8 (H, W, 3) RGB, drawings of the
    input and the prediction.
    """
    taps: dict[int, Tensor] = {}
    grown: dict[int, Tensor] = {}
    hooks = [network.backbone.register_forward_hook(lambda _, __, maps: taps.update(maps))]
    for stride, layer in _decoder_layers(network.decoder).items():
        hooks.append(
            layer.register_forward_hook(lambda _, __, maps, at=stride: grown.update({at: maps}))
        )
    try:
        logits = network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    columns = [Column(image, ("image", _shape(inputs)))]
    for stride, maps in sorted(taps.items()):
        pool = pool_name(network, stride)
        columns.append(
            Column(_first(maps), (f"stride {stride}", *[pool] * bool(pool), _shape(maps)))
        )
    strides = network.decoder.strides
    columns += [Column(_first(grown[s]), (f"decoder, {s}", _shape(grown[s]))) for s in strides]
    columns.append(Column(painted, ("logits", _shape(logits))))
    label = "concatenated" if network.decoder.spec.fuse == "concat" else "+"
    links = [
        Link(1 + sorted(taps).index(stride), 1 + len(taps) + at, label)
        for at, stride in enumerate(strides)
        if at
    ]
    return Hourglass(columns, links, taps[max(taps)])


def _decoder_layers(decoder: Decoder) -> dict[int, nn.Module]:
    """The decoder's layers whose outputs are its maps, by stride, from coarse to fine."""
    skips = {int(stride): layer for stride, layer in decoder.rungs.items()}
    return {decoder.strides[0]: decoder.entry} | skips


def _fitting(columns: list[Column]) -> tuple[list[Column], int]:
    """Scale columns and choose a text size so that the row is legible and fits the width."""
    longer = max(columns[0].image.shape[:2])
    for text in TEXT_SIZES:
        for side in range(LARGEST, SMALLEST - 1, -8):
            factor = side / longer
            if sum(_width(each, text, factor) for each in columns) + MARGIN <= WIDTH:
                return [_scaled(each, factor) for each in columns], text
    return [_scaled(each, SMALLEST / longer) for each in columns], TEXT_SIZES[-1]


def _scaled(column: Column, factor: float) -> Column:
    height, width = (max(1, round(length * factor)) for length in column.image.shape[:2])
    resized = as_cells if factor > 1 else resize_image
    return replace(column, image=resized(column.image, (height, width)))


def _width(column: Column, text: int, factor: float = 1.0) -> int:
    """The width of a column in pixels, including the gap to the next."""
    font = font_for("", text)
    widest = max(round(font.getlength(line)) for line in column.lines)
    return MARGIN + max(round(int(column.image.shape[1]) * factor), widest)


def row_of_maps(
    columns: Sequence[Column],
    links: Sequence[Link] = (),
    *,
    text: int = 12,
    theme: Theme = THEMES["dark"],
) -> Rgb:
    """Draw maps from left to right, all at the same scale, with the skip connections above.

    text: font size in pixels.
    """
    font, line_height, level = font_for("", text), round(text * 1.4), text + 8
    lefts = np.cumsum([8, *(_width(column, text) for column in columns)]).tolist()
    centres = [(left + end) // 2 for left, end in pairwise(lefts)]
    tallest = max(column.image.shape[0] for column in columns)
    middle = text + level * len(links) + tallest // 2
    below = middle + tallest // 2 + 8
    bottom = below + max(len(column.lines) for column in columns) * line_height + 8
    canvas = Image.new("RGB", (lefts[-1] + 8, bottom), theme.paper)
    pen, thick, tip = ImageDraw.Draw(canvas), text // 12, text * 5 // 12
    for centre, column in zip(centres, columns, strict=True):
        height, width = column.image.shape[:2]
        canvas.paste(Image.fromarray(column.image), (centre - width // 2, middle - height // 2))
        for number, line in enumerate(column.lines):
            left = centre - font.getlength(line) / 2
            ink = theme.faint if number else theme.ink
            pen.text((left, below + number * line_height), line, fill=ink, font=font)
    for at in range(len(columns) - 1):
        start = centres[at] + columns[at].image.shape[1] // 2 + 2
        end = centres[at + 1] - columns[at + 1].image.shape[1] // 2 - 3
        pen.line((start, middle, end - tip, middle), fill=theme.faint, width=thick)
        back, half = end - tip, tip * 3 // 5
        head = [(end, middle), (back, middle - half), (back, middle + half)]
        pen.polygon(head, fill=theme.faint)
    tops = [middle - column.image.shape[0] // 2 - 3 for column in columns]
    for number, link in enumerate(sorted(links, key=lambda one: one.start - one.end), start=1):
        ends = [(centres[at], tops[at]) for at in (link.start, link.end)]
        _draw_link(pen, link.label, ends, (level * number, text, theme))
    return np.asarray(canvas)


def _draw_link(
    pen: ImageDraw.ImageDraw,
    label: str,
    ends: list[tuple[int, int]],
    how: tuple[int, int, Theme],
) -> None:
    """Draw a skip: up, across and down to the other column. how: height, text size, theme."""
    height, text, theme = how
    font, ((x, y), (tip_x, tip_y)) = font_for(label, text), ends
    top = tip_y - text * 5 // 12
    half = (tip_y - top) * 3 // 5
    path = [(x, y), (x, height), (tip_x, height), (tip_x, top)]
    pen.line(path, fill=theme.faint, width=text // 12)
    pen.polygon([(tip_x, tip_y), (tip_x - half, top), (tip_x + half, top)], fill=theme.faint)
    left = (x + tip_x) / 2 - font.getlength(label) / 2
    pen.text((left, height - text - 4), label, fill=theme.faint, font=font)


def maps_of(maps: Tensor) -> Tensor:
    """(1, C, h, w) on any device -> (C, h, w) float32 on the CPU."""
    return maps[0].detach().to("cpu", torch.float32)


def strongest(maps: Tensor, count: int) -> Tensor:
    """The channels of (C, h, w) that vary most over the image, (count, h, w), strongest first."""
    return maps[maps.flatten(1).std(dim=1, correction=0).argsort(descending=True)[:count]]


def colored(values: Tensor) -> Rgb:
    """Draw a map float (h, w), from its minimum (black) to its maximum: uint8 (h, w, 3) RGB."""
    low, high = values.min(), values.max()
    levels = ((values - low) / (high - low).clamp(min=1e-12)).float().numpy()
    return heatmap(np.zeros((*levels.shape, 3), np.uint8), levels, alpha=1.0)


def as_cells(image: Rgb, size: tuple[int, int]) -> Rgb:
    """Resize an image (h, w, 3) to (height, width) by nearest-neighbour sampling."""
    rows, columns = (
        np.arange(wanted) * have // wanted
        for wanted, have in zip(size, image.shape[:2], strict=True)
    )
    cells: Rgb = image[rows][:, columns]
    return cells


def _first(maps: Tensor) -> Rgb:
    """Draw the channel of (1, C, h, w) that varies most, one pixel per element."""
    return colored(strongest(maps_of(maps), 1)[0])


def _shape(maps: Tensor) -> str:
    return " x ".join(map(str, maps.shape[1:]))
