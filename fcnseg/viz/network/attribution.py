"""Attribution of a class's score: Seg-Grad-CAM, integrated gradients, the strongest channels.

The first two explain the mean score of a class over the pixels predicted as it, or at one pixel.

Seg-Grad-CAM (Vinogradova et al., AAAI 2020): the sum of a stage's channels, weighted with the mean
gradient of that score, followed by ReLU.

Integrated gradients (Sundararajan et al., ICML 2017): the gradient integrated along the line from
the baseline (the mean color, zeros as network input) to the image, times their difference. The
attributions sum to the difference of the two scores, except for the integration error: the number
of steps is raised until this is within TOLERANCE.
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
from fcnseg.viz import Panel, View, nearest, network_input, plain_network
from fcnseg.viz.drawing import Mask, grey, signed_map, signed_scale
from fcnseg.viz.layout import Section
from fcnseg.viz.skips import stage_name

STEPS, MAX_STEPS = 32, 288
"""Initial and maximum number of steps; it is tripled, and a third of them is known already."""

BATCH, BATCH_PIXELS = 8, 2**19
"""Maximum batch size of points on the line; and of their pixels."""

TOLERANCE = 0.05
"""Maximum integration error, relative to the difference of the scores."""

STRONGEST = 5
"""Channels of a stage that are drawn."""


def gradcam(view: View) -> Section:
    """Seg-Grad-CAM of each stage, for each of the view's subjects."""
    network = plain_network(view, "gradcam")
    image, size = network_input(view, network)
    panels, columns = [], 1
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
            panels.append(
                Panel(drawn, title, f"score of {pixels}", view.figures.color(index), scale)
            )
    return Section(panels, "gradcam: evidence for a class (Seg-Grad-CAM)", columns=columns)


def integrated(view: View) -> Section:
    """Integrated gradients, for each of the view's subjects."""
    network = plain_network(view, "integrated")
    image, size = network_input(view, network)
    panels = []
    for index in view.subjects:
        mask, pixels = explained(view, index, size)
        progress = partial(view.report, f"integrated gradients of {view.name(index)}")
        found = integrated_gradients(network, image, index, mask, progress=progress)
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
        panels.append(Panel(drawn, view.name(index), note, view.figures.color(index), scale))
    return Section(panels, "integrated gradients: contribution of each pixel to a class's score")


def explained(view: View, index: int, size: tuple[int, int]) -> tuple[Mask, str]:
    """The pixels whose score is explained, bool at the network's size, and their description.

    The one of --at, else those predicted as the class, else all.
    """
    if view.at is not None:
        (x, y), (height, width) = view.at, view.frame.size
        mask = np.zeros(size, np.bool_)
        mask[y * size[0] // height, x * size[1] // width] = True
        return mask, f"the pixel {x}, {y}"
    mask = resize_labels(view.predicted.labels, size) == index
    if mask.any():
        return mask, "the pixels predicted as this class"
    return np.ones(size, np.bool_), "all pixels"


def channels(view: View) -> Section:
    """The channels of each stage with the largest mean absolute values."""
    network = plain_network(view, "channels")
    image, size = network_input(view, network)
    with torch.no_grad():
        taps = network.backbone(image)
    panels = []
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
            panels.append(Panel(drawn, f"{name}: channel {channel}", note, scale=scale))
    heading = "channels: the strongest of each stage, with one color scale per stage"
    return Section(panels, heading, columns=count)


def grad_cam(network: FCN, image: Tensor, index: int, mask: Mask) -> dict[int, Floats]:
    """Stride -> Seg-Grad-CAM of the backbone's stage, float32 (H/s, W/s), at least 0.

    image: normalised float (1, C, H, W), H and W multiples of the backbone's stride. index: of the
    class. mask: bool (h, w), the pixels whose score is explained, in the upper left of the image.
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
        if gradient is not None:  # the decoder uses the stage
            weights = gradient.mean(dim=(2, 3), keepdim=True)  # (1, C, 1, 1)
            cam = (weights * tap.detach()).sum(dim=1)[0].relu()  # (H/s, W/s)
            cams[stride] = cam.float().cpu().numpy()
    return cams


@dataclass(frozen=True, eq=False)
class Attribution:
    """The contribution of each pixel to a score.

    values: float32 (H, W), summed over the image's bands. score: of the image. baseline: score of
    the mean color.
    """

    values: Floats
    score: float
    baseline: float

    @property
    def gap(self) -> float:
        """The integration error: the sum of attributions minus the difference of the scores."""
        return float(self.values.sum(dtype=np.float64)) - (self.score - self.baseline)


def integrated_gradients(
    network: FCN,
    image: Tensor,
    index: int,
    mask: Mask,
    *,
    steps: int = STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Compute integrated gradients of a class's score; arguments as for `grad_cam`.

    steps: initial number; the maximum is MAX_STEPS, or `steps` if larger. progress: is called with
    the number of finished passes and their total, which grows if more steps are needed.
    """
    image = image.detach()
    with torch.no_grad():
        ends = [
            float(_score(_logits(network, each), index, mask))
            for each in (image, torch.zeros_like(image))
        ]
    total = _gradients(
        network, image, index, mask, [(i + 0.5) / steps for i in range(steps)], progress
    )
    while True:
        values = (image * total / steps).sum(dim=1)[0].float().cpu().numpy()
        found = Attribution(values, ends[0], ends[1])
        close = abs(found.gap) <= TOLERANCE * abs(ends[0] - ends[1])
        if close or 3 * steps > MAX_STEPS:
            return found
        steps *= 3  # the midpoint of the middle third is the previous midpoint, already computed
        between = [(i + 0.5) / steps for i in range(steps) if i % 3 != 1]
        total = total + _gradients(network, image, index, mask, between, progress)


def _gradients(
    network: FCN,
    image: Tensor,
    index: int,
    mask: Mask,
    places: Sequence[float],
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """The sum of the score's gradients at points (0..1) on the line from zeros to the image."""
    total = torch.zeros_like(image)
    size = max(1, min(BATCH, BATCH_PIXELS // image[0, 0].numel()))
    for done in range(0, len(places), size):
        some = torch.tensor(places[done : done + size], dtype=image.dtype, device=image.device)
        points = (image * some.view(-1, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
        points.requires_grad_()
        with torch.enable_grad():
            score = _score(_logits(network, points), index, mask)
            # Images of a batch are independent: the gradient of the sum is that of each.
            [gradients] = torch.autograd.grad(len(some) * score, points)
        total += gradients.sum(dim=0, keepdim=True)
        if progress is not None:
            progress(done + len(some), len(places))
    return total


def _logits(network: FCN, image: Tensor) -> Tensor:
    logits: Tensor = network.decoder(network.backbone(image), size_of(image))
    return logits


def _score(logits: Tensor, index: int, mask: Mask) -> Tensor:
    """The mean score of a class over the pixels of a mask, and over the images of a batch."""
    chosen = torch.from_numpy(mask).to(logits.device)
    return crop(logits, *mask.shape)[:, index, chosen].mean()
