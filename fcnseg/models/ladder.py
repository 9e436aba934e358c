"""The ladder: a trunk's coarse answer, refined rung by rung, at the size of the input.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation"
(CVPR 2015). One decoder told how far down to go: fcn32s stops at the coarsest map, each
further one adds a skip from a map twice as fine, down to fcn2s.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.models.backbones import Features, build_backbone
from fcnseg.models.published import published_parts
from fcnseg.models.rungs import conv_bn, make_detail, make_rung, make_scores
from fcnseg.models.spec import PUBLISHED, ModelSpec
from fcnseg.models.upsample import Upsample, make_upsample, upsample

__all__ = ["FCN", "Ladder", "ModelSpec"]


class FCN(nn.Module):
    """A trunk and a ladder: float images in, logits of the same size out.

    spec: what it was made from. With decoder "published" both parts are somebody else's,
        and the decoder has forward and shares only.
    backbone, decoder: its two parts (they learn at different rates).
    """

    backbone: Features
    decoder: Ladder

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.decoder == PUBLISHED:
            self.backbone, self.decoder = published_parts(spec)
        else:
            self.backbone = build_backbone(spec.backbone, spec.output_stride)
            self.decoder = Ladder(spec, self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W), any size -> logits (N, K, H, W)."""
        height, width = size_of(images)
        padded = pad_to_multiple(images, self.backbone.stride)
        logits: Tensor = self.decoder(self.backbone(padded), size_of(padded))
        return crop(logits, height, width)

    @property
    def lift(self) -> Upsample | None:
        """What makes logits of `scores`, where that is fixed and bilinear; None elsewhere."""
        if self.spec.decoder == PUBLISHED or self.decoder.detail is not None:
            return None
        last = self.decoder.upsamples[str(self.decoder.strides[-1])]
        return last if isinstance(last, Upsample) and last.factor > 1 else None

    def scores(self, images: Tensor) -> Tensor:
        """The scores of the padded picture at the finest rung's stride: (N, K, h, w).

        Only for a network with a `lift`; its logits are their upsampling, cut to the picture.
        """
        return self.decoder.scores(self.backbone(pad_to_multiple(images, self.backbone.stride)))

    def scores_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both, from one pass."""
        height, width = size_of(images)
        padded = pad_to_multiple(images, self.backbone.stride)
        scores = self.decoder.scores(self.backbone(padded))
        return scores, crop(self.decoder.to_logits(scores, size_of(padded)), height, width)

    def rungs(self, images: Tensor) -> dict[int, Tensor]:
        """What each rung says: stride -> (N, K, H, W); their sum is the logits.

        Needs fuse=score, where the ladder is linear in its score maps; OptionError
        otherwise.
        """
        height, width = size_of(images)
        padded = pad_to_multiple(images, self.backbone.stride)
        shares = self.decoder.shares(self.backbone(padded), size_of(padded))
        return {stride: crop(share, height, width) for stride, share in shares.items()}


class Ladder(nn.Module):
    """From feature maps at several strides to logits at stride 1.

    strides: the rungs, from coarse to fine.
    entry: makes the first map from the coarsest features.
    rungs: stride -> what joins that stride's features in (none for fcn32s).
    upsamples: stride -> the way from that stride to the next finer; the last one goes to 1.
    head: what remains to be done at the finest rung.
    detail: with upsample=subpixel, each pixel's own share of the logits, from its cell's maps.
    """

    def __init__(self, spec: ModelSpec, backbone: Features) -> None:
        super().__init__()
        self.spec = spec
        self.strides = _strides(spec, backbone)
        self.offsets = backbone.offsets | {1: 0.0}
        channels, score = backbone.channels, spec.fuse == "score"
        top, *skips = self.strides
        entry = make_scores(channels[top], spec) if score else conv_bn(channels[top], spec.width, 1)
        self.entry: nn.Module = entry
        self.rungs = nn.ModuleDict({str(s): make_rung(channels[s], s, spec) for s in skips})
        self.upsamples = nn.ModuleDict()
        for stride, finer in zip(self.strides, [*skips, 1], strict=True):
            self.upsamples[str(stride)] = make_upsample(
                spec.num_classes if score or finer == 1 else spec.width,
                stride // finer,
                self._shift(stride, finer),
                learned=spec.upsample == "learned",
            )
        self.head: nn.Module = nn.Identity() if score else make_scores(spec.width, spec)
        subpixel = spec.upsample == "subpixel"
        self.detail = make_detail(self.strides[-1], spec) if subpixel else None

    def forward(self, taps: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """{s: (N, C_s, H/s, W/s)}, (H, W) -> logits (N, K, H, W)."""
        maps = self.maps(taps)
        logits = self.to_logits(self._scored(maps), size)
        return logits if self.detail is None else logits + self.detail(maps)

    def scores(self, taps: dict[int, Tensor]) -> Tensor:
        """{s: (N, C_s, H/s, W/s)} -> scores (N, K, H/f, W/f), f the finest rung's stride."""
        return self._scored(self.maps(taps))

    def _scored(self, maps: Tensor) -> Tensor:
        # Class by class in memory: whoever looks for the best class of each pixel, or for the
        # loss, then reads whole planes; with channels last argmax took four times as long.
        return self.head(maps).contiguous()  # type: ignore[no-any-return]

    def maps(self, taps: dict[int, Tensor]) -> Tensor:
        """{s: (N, C_s, H/s, W/s)} -> the finest rung's (N, K or width, H/f, W/f)."""
        x: Tensor = self.entry(taps[self.strides[0]])
        for coarse, fine in pairwise(self.strides):
            x = self.upsamples[str(coarse)](x, size_of(taps[fine]))
            x = self.rungs[str(fine)](x, taps[fine])  # (N, K or width, H/fine, W/fine)
        return x

    def to_logits(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores (N, K, H/f, W/f), (H, W) -> logits (N, K, H, W)."""
        logits: Tensor = self.upsamples[str(self.strides[-1])](scores, size)
        return logits

    def shares(self, taps: dict[int, Tensor], size: tuple[int, int]) -> dict[int, Tensor]:
        """Each rung's score map, carried alone to the end: {s: (N, K, H, W)}."""
        if self.spec.fuse != "score":
            raise OptionError(
                "Only the ladder of fuse=score is a sum of its rungs; this one is "
                f"fuse={self.spec.fuse}.",
                hint="train one with --fuse score",
            )
        shares = {}
        for start, stride in enumerate(self.strides):
            rung = self.rungs[str(stride)].score if start else self.entry
            x = rung(taps[stride])  # type: ignore[operator]
            for coarse, fine in pairwise(self.strides[start:]):
                x = self.upsamples[str(coarse)](x, size_of(taps[fine]))
            shares[stride] = self.upsamples[str(self.strides[-1])](x, size)
        return shares

    @property
    def grid(self) -> tuple[int, int]:
        """(step, first): the pixels the cells of a fine map sit at, whole ones, each way.

        Every fourth, where the trunk has such a map; else those of the finest rung.
        """
        step = 4 if 4 in self.offsets else self.strides[-1]
        return step, int(self.offsets[step])

    def to_grid(self, maps: Tensor, stride: int) -> Tensor:
        """A map of one of its strides, not finer than the grid, bilinearly at the grid's pixels."""
        step, _ = self.grid
        factor = stride // step
        size = (maps.shape[-2] * factor, maps.shape[-1] * factor)
        return upsample(maps, factor, self._shift(stride, step), size)

    def _shift(self, coarse: int, fine: int) -> float:
        """Where cell 0 of the coarse map sits on the fine one."""
        return (self.offsets[coarse] - self.offsets[fine]) / fine


def lift_of(spec: ModelSpec) -> Upsample | None:
    """The `lift` of a network of this shape; no weights are made."""
    with torch.device("meta"):
        return FCN(spec).lift


def size_of(maps: Tensor) -> tuple[int, int]:
    """(height, width) of (N, C, H, W)."""
    return maps.shape[-2], maps.shape[-1]


def crop(maps: Tensor, height: int, width: int) -> Tensor:
    """The top left part of (N, C, H, W); narrow keeps the size a traced graph knows."""
    return maps.narrow(2, 0, height).narrow(3, 0, width)


def pad_to_multiple(images: Tensor, stride: int) -> Tensor:
    """Add zeros below and to the right until both sizes are multiples of the stride.

    Zero is the mean colour, and what every convolution pads with. Repeated pixels would be
    stripes that no training has shown: on CamVid (360 rows, padded to 384) they cost 2 points
    of mIoU, and 44 of 100 pixels in the last 24 rows.
    """
    height, width = size_of(images)
    # Written so that a traced size is 32 * n, which halves without a remainder.
    down = (height + stride - 1) // stride * stride - height
    right = (width + stride - 1) // stride * stride - width
    if not torch.compiler.is_compiling() and down == right == 0:
        return images
    return F.pad(images, (0, right, 0, down))


def _strides(spec: ModelSpec, backbone: Features) -> tuple[int, ...]:
    """The rungs from coarse to fine; OptionError when the trunk has no map that fine."""
    finest = int(spec.decoder.removeprefix("fcn").removesuffix("s"))
    strides = sorted(backbone.channels, reverse=True)
    if finest < strides[-1]:
        raise OptionError(
            f"The backbone {spec.backbone} has no features at stride {finest}, which "
            f"{spec.decoder} needs; its finest are at {strides[-1]}.",
            hint=f"take --decoder fcn{strides[-1]}s",
        )
    return tuple(s for s in strides if s >= finest or s == strides[0])
