"""Figures of what a class's score depends on, and of the strongest channels of each stage."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fcnseg.io.images import resize_labels
from fcnseg.viz import Tile, heat_scale, signed_map, signed_scale
from fcnseg.viz.inside.attribution import grad_cam, integrated_gradients
from fcnseg.viz.layout import Section
from fcnseg.viz.skips import stage_name
from fcnseg.viz.view import View, cell_map, nearest, network_input, plain_network

Floats = NDArray[np.float32]

STRONGEST = 5
"""Channels of a stage that are drawn."""


def gradcam(view: View) -> Section:
    """Seg-Grad-CAM of each stage, for each class in question."""
    network = plain_network(view, "gradcam")
    image, size = network_input(view, network)
    tiles, columns = [], 1
    for index in view.subjects:
        mask, pixels = explained(view, index, size)
        cams = dict(sorted(grad_cam(network, image, index, mask).items(), reverse=True))
        columns = len(cams)
        for stride, cam in cams.items():
            largest = max(float(cam.max()), 1e-9)
            seen = on_frame(view, cam / largest, size, stride, network.backbone.offsets[stride])
            scale = heat_scale("0", f"{largest:.2g}", "weighted sum of the channels")
            title = f"{view.name(index)}, {stage_name(view.figures, stride)}"
            drawn = view.heat(seen, "", "", "").image
            tiles.append(Tile(drawn, title, f"of {pixels}", view.figures.color(index), scale))
    return Section(tiles, "gradcam: what speaks for a class (Seg-Grad-CAM)", columns=columns)


def integrated(view: View) -> Section:
    """Integrated gradients of each class in question."""
    network = plain_network(view, "integrated")
    image, size = network_input(view, network)
    tiles = []
    for index in view.subjects:
        mask, pixels = explained(view, index, size)
        found = integrated_gradients(network, image, index, mask)
        values = found.values[: size[0], : size[1]][nearest(view.frame.size, size)]
        limit = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
        above = found.score - found.baseline
        note = (
            f"of {pixels}: score {found.score:.2f}, {above:.2f} above that of the mean color; the "
            f"attributions sum to {above + found.gap:.2f}"
        )
        scale = signed_scale(f"-{limit:.1g}", f"+{limit:.1g}", "attribution of a pixel")
        drawn = signed_map(view.frame.image, values / limit)
        tiles.append(Tile(drawn, view.name(index), note, view.figures.color(index), scale))
    return Section(tiles, "integrated gradients: which pixels make a class's score")


def explained(view: View, index: int, size: tuple[int, int]) -> tuple[NDArray[np.bool_], str]:
    """The pixels whose score is explained, bool of the network's size, and what they are.

    That of --at, else those predicted as the class, else all.
    """
    if view.at is not None:
        (x, y), (height, width) = view.at, view.frame.size
        mask = np.zeros(size, np.bool_)
        mask[y * size[0] // height, x * size[1] // width] = True
        return mask, f"the pixel {x}, {y}"
    mask = resize_labels(view.predicted.labels, size) == index
    if mask.any():
        return mask, "the pixels predicted so"
    return np.ones(size, np.bool_), "all pixels"


def channels(view: View) -> Section:
    """The channels of each stage with the largest mean absolute values."""
    network = plain_network(view, "channels")
    image, size = network_input(view, network)
    with torch.no_grad():
        taps = network.backbone(image)
    tiles = []
    count = min(STRONGEST, *(tap.shape[1] for tap in taps.values()))
    for stride, tap in taps.items():
        maps = tap[0].abs().float().cpu().numpy()  # (C, h, w)
        means = maps.mean(axis=(1, 2))
        chosen = np.argsort(-means)[:count].tolist()
        largest = max(float(maps[chosen].max()), 1e-9)
        scale = heat_scale("0", f"{largest:.2g}", "absolute value")
        name = stage_name(view.figures, stride)
        for channel in chosen:
            cells = maps[channel] / largest
            seen = on_frame(view, cells, size, stride, network.backbone.offsets[stride])
            note = f"of {len(maps)}, mean {means[channel]:.2g}"
            drawn = view.heat(seen, "", "", "").image
            tiles.append(Tile(drawn, f"{name}: channel {channel}", note, scale=scale))
    heading = "channels: the strongest of each stage, one range for a stage"
    return Section(
        tiles, heading, columns=min(STRONGEST, min(tap.shape[1] for tap in taps.values()))
    )


def on_frame(
    view: View, cells: Floats, size: tuple[int, int], stride: int, offset: float
) -> Floats:
    """A stage's elements (h, w) as an image of the frame's size, element by element."""
    seen = cell_map(np.asarray(cells, np.float32), size, stride, offset)
    return np.asarray(seen[nearest(view.frame.size, size)])
