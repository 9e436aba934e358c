"""Section 3.1: a classifier slid over an image equals the same layers as convolutions."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fcnseg.models.backbones import as_convolution
from fcnseg.models.fcn import FCN, pad_to_multiple

AT_ONCE = 32
"""Windows that are classified together."""


@dataclass(frozen=True, eq=False)
class Slid:
    """One classifier in two ways.

    slid: scores float32 (K, h, w) of h * w windows, each classified alone. dense: the same of the
    complete image, from one pass. window, stride: pixels. overlap: how many windows a pixel of the
    framed image is in, on average.
    """

    slid: Tensor
    dense: Tensor
    window: int
    stride: int
    overlap: float

    @property
    def difference(self) -> float:
        """The largest between two scores; they differ by what float32 rounds away."""
        return float((self.slid - self.dense).abs().max())


@torch.no_grad()
def slide(network: FCN, image: Tensor) -> Slid:
    """The classifier inside an FCN-32s: its encoder, and its scores as a fully connected layer.

    Convolutions here add no border, so that a window is all that a score depends on; instead the
    image gets a margin, as in the authors' code, and each cell a window around it.

    network: of plain convolutions one after another (the backbone `tiny`), fuse=score.
    image: normalised float32 (1, 3, H, W).
    """
    encoder = unpadded(network.backbone.stages)
    scores = network.decoder.entry[-1]  # type: ignore[index]
    connected = nn.Linear(scores.in_channels, scores.out_channels)
    connected.weight, connected.bias = nn.Parameter(scores.weight.flatten(1)), scores.bias
    classifier = nn.Sequential(encoder, nn.Flatten(), connected)  # (n, 3, window, window) -> (n, K)
    convolutions = nn.Sequential(encoder, as_convolution(connected, 1, padded=False))

    stride, window = network.backbone.stride, window_of(encoder)
    margin = (window - stride) // 2
    framed = nn.functional.pad(pad_to_multiple(image, stride), (margin,) * 4)[0]
    windows = framed.unfold(1, window, stride).unfold(2, window, stride)  # (3, h, w, win, win)
    rows, columns = windows.shape[1:3]
    apart = windows.permute(1, 2, 0, 3, 4).flatten(0, 1)  # (h * w, 3, window, window)
    alone = torch.cat(
        [classifier(apart[at : at + AT_ONCE]) for at in range(0, len(apart), AT_ONCE)]
    )  # (h * w, K)
    dense = convolutions(framed[None])[0]  # (K, h, w)
    overlap = apart[:, 0].numel() / framed[0].numel()
    return Slid(alone.T.reshape(-1, rows, columns), dense, window, stride, overlap)


def unpadded(stages: nn.ModuleDict) -> nn.Sequential:
    """A copy of an encoder whose convolutions use pixels only, no zeros around them."""
    encoder = copy.deepcopy(nn.Sequential(*stages.values())).eval()
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
    return encoder


def window_of(encoder: nn.Module) -> int:
    """Pixels, in height and width, that one element of an unpadded encoder's last map sees."""
    size = 1
    for module in reversed([each for each in encoder.modules() if isinstance(each, nn.Conv2d)]):
        size = (size - 1) * module.stride[0] + module.kernel_size[0]
    return size
