"""Section 3.1: a classifier slid over an image equals the same layers as convolutions."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.models.backbones import as_convolution
from fcnseg.models.fcn import FCN, Decoder, pad_to_multiple

AT_ONCE = 32
"""Windows that are classified together."""

IN_A_ROW = (
    nn.Sequential, nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.Identity,
)  # fmt: skip
"""What an encoder may consist of so that its window is known; no branches that are added."""


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

    network: of convolutions and max-pooling one after another (the backbones `tiny`, `vgg...`,
    `alexnet`), fuse=score; OptionError for others. image: normalised float32 (1, 3, H, W).
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
        [classifier(apart[at : at + AT_ONCE]) for at in range(0, len(apart), AT_ONCE)]
    )  # (h * w, K)
    dense = convolutions(framed[None])[0]  # (K, h, w)
    overlap = apart[:, 0].numel() / framed[0].numel()
    return Slid(alone.T.reshape(-1, rows, columns), dense, window, stride, overlap)


def refuse_others(network: FCN) -> None:
    """OptionError for a network that `slide` can't take apart."""
    parts = [type(part) for stage in network.backbone.stages.values() for part in stage.modules()]
    strange = dict.fromkeys(part.__name__ for part in parts if part not in IN_A_ROW)
    fuse = network.spec.fuse
    if strange:
        found = f"the backbone {network.spec.backbone} has {', '.join(strange)}"
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
    """A copy of an encoder whose layers use pixels only, no zeros around them."""
    encoder = copy.deepcopy(nn.Sequential(*stages.values())).eval()
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = (0, 0)
        elif isinstance(module, nn.MaxPool2d):
            module.padding, module.ceil_mode = 0, False
    return encoder


def window_of(encoder: nn.Module) -> int:
    """Pixels, in height and width, that one element of an unpadded encoder's last map sees."""
    size = 1
    for module in reversed(list(encoder.modules())):
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, dilation = (
                value if isinstance(value, int) else value[0]
                for value in (module.kernel_size, module.stride, module.dilation)
            )
            size = (size - 1) * stride + dilation * (kernel - 1) + 1
    return size
