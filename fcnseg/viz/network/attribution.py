"""What a class's score depends on: Seg-Grad-CAM, integrated gradients, the strongest channels.

The first two explain the mean score of a class over some pixels: those that are predicted as it,
or one.

Seg-Grad-CAM (Vinogradova et al., AAAI 2020): the maps of a stage, each weighted with the mean
gradient of that score, summed, and cut at zero.

Integrated gradients (Sundararajan et al., ICML 2017): the gradient on the way from the image's mean
color (zeros, as the network is given them) to the image, times the way. The attributions of all
pixels sum to the difference of the two scores, but for the error of taking steps: there are more
of them until they do within TOLERANCE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fcnseg.engines.base import Floats
from fcnseg.io.images import resize_labels
from fcnseg.models.fcn import FCN, crop, size_of
from fcnseg.viz import Tile, View, nearest, network_input, plain_network
from fcnseg.viz.drawing import Mask, grey, signed_map, signed_scale
from fcnseg.viz.layout import Section
from fcnseg.viz.skips import stage_name

STEPS, MOST_STEPS = 32, 288
"""Steps at first, and at most: three times as many each time, of which a third is computed."""

BATCH, BATCH_PIXELS = 8, 2**19
"""Places on the way that pass through the network together, at most; and their pixels."""

TOLERANCE = 0.05
"""Of the difference, that the attributions may miss it by."""

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
            seen = view.on_frame(cam / largest, size, stride, network.backbone.offsets[stride])
            scale = view.heat_scale(f"{largest:.2g}", "weighted sum of the channels")
            title = f"{view.name(index)}, {stage_name(view.figures, stride)}"
            drawn = view.heat_on(grey(view.frame.image), seen)
            tiles.append(Tile(drawn, title, f"score of {pixels}", view.figures.color(index), scale))
    return Section(tiles, "gradcam: what speaks for a class (Seg-Grad-CAM)", columns=columns)


def integrated(view: View) -> Section:
    """Integrated gradients of each class in question."""
    network = plain_network(view, "integrated")
    image, size = network_input(view, network)
    tiles = []
    for index in view.subjects:
        mask, pixels = explained(view, index, size)
        tell = partial(view.tell, f"integrated gradients of {view.name(index)}")
        found = integrated_gradients(network, image, index, mask, tell=tell)
        values = found.values[: size[0], : size[1]][nearest(view.frame.size, size)]
        limit = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
        above = found.score - found.baseline
        note = (
            f"score of {pixels}: {found.score:.2f}, {above:+.2f} against the mean color; the "
            f"attributions sum to {above + found.gap:+.2f}"
        )
        scale = signed_scale(
            f"-{limit:.1g}", f"+{limit:.1g}", "attribution of a pixel", image=view.frame.image
        )
        drawn = signed_map(view.frame.image, values / limit)
        tiles.append(Tile(drawn, view.name(index), note, view.figures.color(index), scale))
    return Section(tiles, "integrated gradients: which pixels make a class's score")


def explained(view: View, index: int, size: tuple[int, int]) -> tuple[Mask, str]:
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
        scale = view.heat_scale(f"{largest:.2g}", "absolute value")
        name = stage_name(view.figures, stride)
        for channel in chosen:
            cells = maps[channel] / largest
            seen = view.on_frame(cells, size, stride, network.backbone.offsets[stride])
            note = f"of {len(maps)}, mean {means[channel]:.2g}"
            drawn = view.heat_on(grey(view.frame.image), seen)
            tiles.append(Tile(drawn, f"{name}: channel {channel}", note, scale=scale))
    heading = "channels: the strongest of each stage, one range for a stage"
    return Section(tiles, heading, columns=count)


def grad_cam(network: FCN, image: Tensor, index: int, mask: Mask) -> dict[int, Floats]:
    """Stride -> Seg-Grad-CAM of the backbone's stage there, float32 (H/s, W/s), at least 0.

    image: normalised float (1, C, H, W), H and W multiples of the backbone's stride. index: of the
    class. mask: bool (h, w), the pixels whose score is explained, upper left in the image.
    """
    image = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        taps = network.backbone(image)
        logits = network.decoder(taps, size_of(image))  # (1, K, H, W)
        found = torch.autograd.grad(
            _score(logits, index, mask), list(taps.values()), allow_unused=True
        )
    cams = {}
    for (stride, tap), gradient in zip(taps.items(), found, strict=True):
        if gradient is not None:  # a stage that is used
            weights = gradient.mean(dim=(2, 3), keepdim=True)  # (1, C, 1, 1)
            cam = (weights * tap.detach()).sum(dim=1)[0].relu()  # (H/s, W/s)
            cams[stride] = cam.float().cpu().numpy()
    return cams


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each pixel adds to a score.

    values: float32 (H, W), summed over the image's bands. score, baseline: of the image, and of
    its mean color.
    """

    values: Floats
    score: float
    baseline: float

    @property
    def gap(self) -> float:
        """By how much the attributions miss the difference that they explain."""
        return float(self.values.sum(dtype=np.float64)) - (self.score - self.baseline)


def integrated_gradients(
    network: FCN,
    image: Tensor,
    index: int,
    mask: Mask,
    *,
    steps: int = STEPS,
    tell: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Integrated gradients of a class's score; arguments as for `grad_cam`.

    steps: at first; the most are MOST_STEPS, or these where they are more. tell: hears how many
    passes of how many are done; there are more of them when those were not enough.
    """
    image = image.detach()
    with torch.no_grad():
        ends = [
            float(_score(_logits(network, each), index, mask))
            for each in (image, torch.zeros_like(image))
        ]
    total = _gradients(network, image, index, mask, [(i + 0.5) / steps for i in range(steps)], tell)
    while True:
        values = (image * total / steps).sum(dim=1)[0].float().cpu().numpy()
        found = Attribution(values, ends[0], ends[1])
        close = abs(found.gap) <= TOLERANCE * abs(ends[0] - ends[1])
        if close or 3 * steps > MOST_STEPS:
            return found
        steps *= 3  # the middle of three parts is the middle of the whole, and is known
        between = [(i + 0.5) / steps for i in range(steps) if i % 3 != 1]
        total = total + _gradients(network, image, index, mask, between, tell)


def _gradients(
    network: FCN,
    image: Tensor,
    index: int,
    mask: Mask,
    places: Sequence[float],
    tell: Callable[[int, int], None] | None,
) -> Tensor:
    """The sum of the score's gradients at places on the way, 0..1, from zeros to the image."""
    total = torch.zeros_like(image)
    size = max(1, min(BATCH, BATCH_PIXELS // image[0, 0].numel()))
    for done in range(0, len(places), size):
        some = torch.tensor(places[done : done + size], dtype=image.dtype, device=image.device)
        points = (image * some.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
        points.requires_grad_()
        with torch.enable_grad():
            score = _score(_logits(network, points), index, mask)
            # Images of a batch do not see each other: each one's gradient is its own.
            [gradients] = torch.autograd.grad(len(some) * score, points)
        total += gradients.sum(dim=0, keepdim=True)
        if tell is not None:
            tell(done + len(some), len(places))
    return total


def _logits(network: FCN, image: Tensor) -> Tensor:
    logits: Tensor = network.decoder(network.backbone(image), size_of(image))
    return logits


def _score(logits: Tensor, index: int, mask: Mask) -> Tensor:
    """The mean score of a class over the pixels of a mask, and over the images of a batch."""
    chosen = torch.from_numpy(mask).to(logits.device)
    return crop(logits, *mask.shape)[:, index, chosen].mean()
