"""The original FCN-32s, 16s and 8s, as ported to PyTorch by wkentaro/pytorch-fcn.

The first convolution is padded by 100 pixels so that the unpadded fc6 fits into any
image; pools round up; every sum and the output are cropped at fixed places. Layers have
the port's names, so that its state dicts load. The offsets are those of the Caffe models
(voc-fcn32s, voc-fcn16s, voc-fcn8s, voc-fcn8s-atonce of shelhamer/fcn.berkeleyvision.org).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.models.backbone import Features
from fcnseg.models.spec import PUBLISHED, ModelSpec, Preprocess
from fcnseg.models.weights import State

BGR = Preprocess((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3)
"""Its mean, subtracted on 0..255; in our order (RGB), the network swaps."""

GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
FC = 4096


class _Skip(NamedTuple):
    """stride and channels of a pool, what it is multiplied by, where its scores are cropped."""

    stride: int
    channels: int
    crop: int
    scale: float


class _Kind(NamedTuple):
    """The names of the upsamplings from coarse to fine, the skips, the last crop."""

    upsamples: tuple[str, ...]
    skips: tuple[_Skip, ...]
    crop: int


KINDS: dict[str, _Kind] = {
    "pytorch_fcn32s": _Kind(("upscore",), (), 19),
    "pytorch_fcn16s": _Kind(("upscore2", "upscore16"), (_Skip(16, 512, 5, 1.0),), 27),
    "pytorch_fcn8s": _Kind(
        ("upscore2", "upscore_pool4", "upscore8"),
        (_Skip(16, 512, 5, 1.0), _Skip(8, 256, 9, 1.0)),
        31,
    ),
    "pytorch_fcn8s_atonce": _Kind(
        ("upscore2", "upscore_pool4", "upscore8"),
        (_Skip(16, 512, 5, 0.01), _Skip(8, 256, 9, 0.0001)),
        31,
    ),
}


class OriginalVGG(Features):
    """VGG-16 with fc6 and fc7 as convolutions, padded by 100.

    slim: what the published widths are divided by (for small models in tests).
    """

    def __init__(self, slim: int = 1) -> None:
        super().__init__()
        channels = 3
        for group, widths in enumerate(GROUPS, start=1):
            for index, width in enumerate(widths, start=1):
                padding = 100 if (group, index) == (1, 1) else 1
                layer = nn.Conv2d(channels, width // slim, 3, 1, padding)
                setattr(self, f"conv{group}_{index}", layer)
                channels = width // slim
        self.fc6 = nn.Conv2d(channels, FC // slim, 7)
        self.fc7 = nn.Conv2d(FC // slim, FC // slim, 1)
        self.channels = {8: 256 // slim, 16: 512 // slim, 32: FC // slim}
        self.offsets = {stride: (stride - 1) / 2 for stride in self.channels}
        self.preprocess = BGR
        self.stride, self.output_stride = 1, 32
        self.stages = nn.ModuleDict()

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W) RGB, mean subtracted -> pool3, pool4, fc7 by stride."""
        x = images.flip(1)  # BGR
        taps = {}
        for group, widths in enumerate(GROUPS, start=1):
            for index in range(1, len(widths) + 1):
                x = F.relu(getattr(self, f"conv{group}_{index}")(x))
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            taps[2**group] = x
        x = F.dropout(F.relu(self.fc6(x)), 0.5, self.training)
        taps[32] = F.dropout(F.relu(self.fc7(x)), 0.5, self.training)
        return {stride: taps[stride] for stride in self.channels}


class OriginalDecoder(nn.Module):
    """Scores, transposed convolutions and crops, under the port's names."""

    def __init__(self, kind: str, classes: int, slim: int = 1) -> None:
        super().__init__()
        self.kind = KINDS[kind]
        self.strides = (32, *(skip.stride for skip in self.kind.skips))
        self.score_fr = nn.Conv2d(FC // slim, classes, 1)
        for skip in self.kind.skips:
            setattr(self, self._score_name(skip), nn.Conv2d(skip.channels // slim, classes, 1))
        for name, (coarse, fine) in zip(
            self.kind.upsamples, pairwise((*self.strides, 1)), strict=True
        ):
            factor = coarse // fine
            up = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, bias=False)
            setattr(self, name, up)

    def forward(self, taps: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """{8, 16, 32: maps of the padded image}, (H, W) -> logits (N, K, H, W)."""
        x: Tensor = self.score_fr(taps[32])
        for up, skip in zip(self.kind.upsamples, self.kind.skips, strict=False):
            x = getattr(self, up)(x)
            x = x + self._scores(skip, taps, x)
        return self._finish(x, size)

    def skip_scores(self, taps: dict[int, Tensor], size: tuple[int, int]) -> dict[int, Tensor]:
        """The score map of each stride, upsampled alone to the end: {s: (N, K, H, W)}."""
        maps = {32: self.score_fr(taps[32])}
        for up, skip in zip(self.kind.upsamples, self.kind.skips, strict=False):
            maps = {stride: getattr(self, up)(x) for stride, x in maps.items()}
            maps[skip.stride] = self._scores(skip, taps, maps[32])
        return {stride: self._finish(x, size) for stride, x in maps.items()}

    def _scores(self, skip: _Skip, taps: dict[int, Tensor], like: Tensor) -> Tensor:
        scores: Tensor = getattr(self, self._score_name(skip))(taps[skip.stride] * skip.scale)
        height, width = like.shape[-2:]
        return scores.narrow(2, skip.crop, height).narrow(3, skip.crop, width)

    def _finish(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        grown: Tensor = getattr(self, self.kind.upsamples[-1])(x)
        return grown.narrow(2, self.kind.crop, size[0]).narrow(3, self.kind.crop, size[1])

    @staticmethod
    def _score_name(skip: _Skip) -> str:
        return {16: "score_pool4", 8: "score_pool3"}[skip.stride]


def recognised(state: State, name: str) -> tuple[ModelSpec, Preprocess, State] | None:
    """What a state dict of the port is of, and its tensors under our names; None: another's.

    name: of the file; it alone tells the all-at-once FCN-8s from the staged one.
    """
    if "score_fr.weight" not in state:
        return None
    if "score_pool3.weight" in state:
        kind = "pytorch_fcn8s_atonce" if "atonce" in name.lower() else "pytorch_fcn8s"
    else:
        kind = "pytorch_fcn16s" if "score_pool4.weight" in state else "pytorch_fcn32s"
    classes = int(state["score_fr.weight"].shape[0])
    spec = ModelSpec(
        backbone=kind, num_classes=classes, decoder=PUBLISHED, fuse="score", dropout=0.0
    )
    parts = {key: "backbone" if key.startswith(("conv", "fc")) else "decoder" for key in state}
    return spec, BGR, {f"{parts[key]}.{key}": value for key, value in state.items()}
