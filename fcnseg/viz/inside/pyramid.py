"""The downsampling encoder: each stage's map, its size, and what its elements see of the image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.io.images import resize_image
from fcnseg.viz import Tile, grey, heat_scale
from fcnseg.viz.drawing import Color
from fcnseg.viz.inside.receptive import (
    PART,
    EffectiveField,
    Size,
    effective_fields,
    theoretical_fields,
)
from fcnseg.viz.layout import Section
from fcnseg.viz.skips import stage_name
from fcnseg.viz.view import View, cell_map, nearest, network_input, plain_network

Rgb = NDArray[np.uint8]

THEORETICAL: Color = (90, 200, 255)

EFFECTIVE: Color = (60, 225, 120)


def pyramid(view: View) -> Section:
    """Above, each stage's map; below, what an element in the middle looks at."""
    network = plain_network(view, "pyramid")
    image, size = network_input(view, network)
    backbone = network.backbone
    with torch.no_grad():
        taps = backbone(image)
    fields = theoretical_fields(backbone, image.shape[1])
    looked = effective_fields(backbone, image)
    maps, gradients = [], []
    for stride, tap in taps.items():
        name = stage_name(view.figures, stride)
        maps.append(_map_tile(view, tap[0], size, stride, backbone.offsets[stride], name))
        gradients.append(_field_tile(view, size, fields[stride], looked[stride], name))
    percent = f"{round(100 * PART)} %"
    keys = {
        "receptive field": [
            ("theoretical: all that an element depends on", THEORETICAL),
            (f"effective: {percent} of the gradient", EFFECTIVE),
        ]
    }
    heading = "pyramid: the stages of the encoder, and what an element of each sees"
    return Section([*maps, *gradients], heading, keys, columns=len(maps))


def _map_tile(view: View, tap: Tensor, size: Size, stride: int, offset: float, name: str) -> Tile:
    """The mean absolute value over the channels of a stage (C, h, w), element by element."""
    values = tap.abs().mean(dim=0).float().cpu().numpy()
    channels, height, width = tap.shape
    largest = max(float(values.max()), 1e-9)
    cells = np.asarray(values / largest, np.float32)
    seen = cell_map(cells, size, stride, offset)[nearest(view.frame.size, size)]
    note = f"{channels} channels of {width} x {height}"
    scale = heat_scale("0", f"{largest:.2g}", "mean absolute value")
    return Tile(view.heat(seen, "", "", "").image, name, note, scale=scale)


def _field_tile(
    view: View, size: Size, field: Size | None, looked: EffectiveField, name: str
) -> Tile:
    """The gradient around the middle of the image, with both fields as frames."""
    half = looked.gradient.shape[0] // 2
    rows, columns = (slice(half - length // 2, half - length // 2 + length) for length in size)
    shown = looked.gradient[rows, columns]
    image = resize_image(grey(view.frame.image), size)
    levels = np.sqrt(shown / max(float(shown.max()), 1e-300))  # the faint outskirts are seen, too
    drawn = view.heat_on(image, np.asarray(levels, np.float32))
    _frame(drawn, field, THEORETICAL)
    _frame(drawn, (looked.side, looked.side), EFFECTIVE)
    sees = "sees the entire image" if field is None else f"sees {field[1]} x {field[0]} px"
    if field is not None and (field[0] > size[0] or field[1] > size[1]):
        sees += " (beyond the image)"
    note = f"{sees}, looks at {looked.side} x {looked.side}"
    scale = heat_scale("0", "1", "square root of the gradient, of its largest")
    return Tile(resize_image(drawn, view.frame.size), name, note, scale=scale)


def _frame(image: Rgb, field: Size | None, color: Color) -> None:
    """Draw the outline of a field around the middle; what is beyond the image is not seen."""
    if field is None:
        return
    thick = max(2, min(image.shape[:2]) // 150)
    (top, bottom), (left, right) = (
        (length // 2 - (side + 1) // 2, length // 2 + side // 2)
        for length, side in zip(image.shape, field, strict=False)
    )
    rows, columns = np.arange(image.shape[0])[:, None], np.arange(image.shape[1])
    within = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
    core = (rows >= top + thick) & (rows <= bottom - thick)
    core = core & (columns >= left + thick) & (columns <= right - thick)
    image[within & ~core] = color
