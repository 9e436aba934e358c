"""What a class's score depends on: Seg-Grad-CAM, and integrated gradients.

Both explain the mean score of a class over some pixels: those that are predicted as it, or one.

Seg-Grad-CAM (Vinogradova et al., AAAI 2020): the maps of a stage, each weighted with the mean
gradient of that score, summed, and cut at zero.

Integrated gradients (Sundararajan et al., ICML 2017): the gradient on the way from the image's mean
color (zeros, as the network is given them) to the image, times the way. The attributions of all
pixels sum to the difference of the two scores, but for the error of taking steps: there are more
of them until they do within TOLERANCE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.models.fcn import FCN, crop, size_of

Floats = NDArray[np.float32]

Mask = NDArray[np.bool_]

STEPS, MOST_STEPS = 32, 288
"""Steps at first, and at most: three times as many each time, of which a third is computed."""

TOLERANCE = 0.05
"""Of the difference, that the attributions may miss it by."""


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
    network: FCN, image: Tensor, index: int, mask: Mask, *, steps: int = STEPS
) -> Attribution:
    """Integrated gradients of a class's score; arguments as for `grad_cam`.

    steps: at first; the most are MOST_STEPS, or these where they are more.
    """
    image = image.detach()
    with torch.no_grad():
        ends = [
            float(_score(_logits(network, each), index, mask))
            for each in (image, torch.zeros_like(image))
        ]
    total = _gradients(network, image, index, mask, [(i + 0.5) / steps for i in range(steps)])
    while True:
        values = (image * total / steps).sum(dim=1)[0].float().cpu().numpy()
        found = Attribution(values, ends[0], ends[1])
        close = abs(found.gap) <= TOLERANCE * abs(ends[0] - ends[1])
        if close or 3 * steps > MOST_STEPS:
            return found
        steps *= 3  # the middle of three parts is the middle of the whole, and is known
        between = [(i + 0.5) / steps for i in range(steps) if i % 3 != 1]
        total = total + _gradients(network, image, index, mask, between)


def _gradients(
    network: FCN, image: Tensor, index: int, mask: Mask, places: Sequence[float]
) -> Tensor:
    """The sum of the score's gradients at places on the way, 0..1, from zeros to the image."""
    total = torch.zeros_like(image)
    for place in places:
        point = (image * place).requires_grad_()
        with torch.enable_grad():
            score = _score(_logits(network, point), index, mask)
            [gradient] = torch.autograd.grad(score, point)
        total += gradient
    return total


def _logits(network: FCN, image: Tensor) -> Tensor:
    logits: Tensor = network.decoder(network.backbone(image), size_of(image))
    return logits


def _score(logits: Tensor, index: int, mask: Mask) -> Tensor:
    """The mean score of a class over the pixels of a mask."""
    chosen = torch.from_numpy(mask).to(logits.device)
    return crop(logits, *mask.shape)[0, index][chosen].mean()
