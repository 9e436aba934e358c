"""START HERE: the complete network, from normalised images to logits of the same size.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR
2015), in the paper's order:

1. Sections 3.1 and 4.1: an ImageNet classifier (VGG, ResNet, ...) without its last layer is the
   encoder, here called `backbone`. Each of its layers computes y_ij = f_ks({x_(si+di, sj+dj)}),
   whatever the size of the image. It is tapped at strides 2, 4, 8, 16, 32 (VGG: pool1 to pool5).
2. Section 4.1: a 1x1 convolution turns the coarsest features into scores of the K classes.
3. Section 3.3: scores are upsampled by transposed convolution ("deconvolution"), initialised to
   bilinear interpolation (upsample=learned), or by fixed bilinear interpolation (upsample=fixed).
4. Section 4.2: skip connections add the finer taps. FCN-32s has none, FCN-16s adds pool4, FCN-8s
   pool4 and pool3; fcn4s and fcn2s continue in the same way.

`fuse` selects how skips are fused: "score" sums scores (the paper); "feature" sums and "concat"
concatenates features of `width` channels. fcn2s with "concat" mirrors every stage, as U-Net does.

Shapes: N images of any size (h, w), padded to (H, W), multiples of the backbone's stride; C_s
channels at stride s; f the finest stride that is used (8 for fcn8s).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.models.backbones import Features, shift_between, upsample
from fcnseg.models.spec import ModelSpec, check_images

ALL_AT_ONCE = {16: 0.01, 8: 0.0001}
"""Factors of pool4 and pool3 in the authors' all-at-once FCN-8s; finer skips use pool3's."""


class FCN(nn.Module):
    """A backbone and a decoder: normalised float32 (N, C, H, W) in, logits (N, K, H, W) out.

    logits = fcnseg.create_model("fcn8s", num_classes=2)(torch.rand(1, 3, 100, 150))
    """

    decoder: Decoder  # a published network may bring its own (fcnseg.models.zoo)

    def __init__(self, backbone: Features, spec: ModelSpec, decoder: nn.Module | None = None):
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.decoder = decoder or Decoder(backbone, spec)  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, h, w), any size -> logits (N, K, h, w)."""
        taps, size = self._encode(images)
        logits: Tensor = self.decoder(taps, size)  # (N, K, H, W)
        return crop(logits, *size_of(images))  # (N, K, h, w)

    def scores(self, images: Tensor) -> Tensor:
        """Return the scores that the logits are upsampled from: (N, K, H/f, W/f)."""
        return self.decoder.scores(self._encode(images)[0])

    def scores_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return both from one forward pass; the decoder's logits must be its upsampled scores."""
        taps, size = self._encode(images)
        scores = self.decoder.scores(taps)  # (N, K, H/f, W/f)
        return scores, crop(self.decoder.upsample(scores, size), *size_of(images))

    def skip_scores(self, images: Tensor) -> dict[int, Tensor]:
        """Split the logits into a sum of one term per stride: {s: (N, K, h, w)}.

        OptionError unless fuse=score: only then is the decoder linear in its score maps.
        """
        taps, size = self._encode(images)
        parts = self.decoder.skip_scores(taps, size)  # {s: (N, K, H, W)}
        return {stride: crop(part, *size_of(images)) for stride, part in parts.items()}

    def _encode(self, images: Tensor) -> tuple[dict[int, Tensor], tuple[int, int]]:
        check_images(images, self.spec.in_channels)
        padded = pad_to_multiple(images, self.backbone.stride)  # (N, 3, H, W)
        return self.backbone(padded), size_of(padded)  # {s: (N, C_s, H/s, W/s)}, (H, W)


class Decoder(nn.Module):
    """Turns features at several strides into logits at stride 1.

    strides: from coarse to fine. entry: the layer on the coarsest tap. rungs: stride -> the skip
    connection fused there. upsamples: stride -> upsampling to the next finer stride, finally 1.
    head: turns the finest map into scores. detail: sub-pixel part of the logits, or None.
    Do not rename them: they are keys of every checkpoint ("decoder.rungs.16.scores.weight").
    """

    def __init__(self, backbone: Features, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.strides = spec.strides(backbone.channels)
        self.offsets = backbone.offsets | {1: 0.0}
        channels, width, score = backbone.channels, spec.width, spec.fuse == "score"
        top, *skips = self.strides
        self.entry: nn.Module = (
            score_layer(channels[top], spec) if score else conv_bn(channels[top], width, 1)
        )
        self.rungs = nn.ModuleDict({str(s): make_skip(channels[s], s, spec) for s in skips})
        self.upsamples = nn.ModuleDict()
        for stride, finer in zip(self.strides, [*skips, 1], strict=True):
            kind = LearnedUpsample if spec.upsample == "learned" and finer < stride else Upsample
            planes = spec.num_classes if score or finer == 1 else width
            shift = shift_between(self.offsets, stride, finer)
            self.upsamples[str(stride)] = kind(planes, stride // finer, shift)
        self.head: nn.Module = nn.Identity() if score else score_layer(width, spec)
        subpixel = spec.upsample == "subpixel"
        self.detail = subpixel_layer(self.strides[-1], spec) if subpixel else None

    def forward(self, taps: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """{s: (N, C_s, H/s, W/s)}, (H, W) -> logits (N, K, H, W)."""
        fused = self.fuse(taps)  # (N, K or width, H/f, W/f)
        logits = self.upsample(self._score(fused), size)  # (N, K, H, W)
        return logits if self.detail is None else logits + self.detail(fused)

    def fuse(self, taps: dict[int, Tensor]) -> Tensor:
        """Section 4.2, "combining what and where": {s: (N, C_s, H/s, W/s)} -> the finest map."""
        x: Tensor = self.entry(taps[self.strides[0]])  # (N, K or width, H/32, W/32)
        for coarse, fine in pairwise(self.strides):  # fcn8s: (32, 16), (16, 8)
            x = self.upsamples[str(coarse)](x, size_of(taps[fine]))  # (N, ..., H/fine, W/fine)
            x = self.rungs[str(fine)](x, taps[fine])  # + pool4 at 16, + pool3 at 8
        return x  # (N, K or width, H/f, W/f)

    def scores(self, taps: dict[int, Tensor]) -> Tensor:
        """{s: (N, C_s, H/s, W/s)} -> (N, K, H/f, W/f)."""
        return self._score(self.fuse(taps))

    def _score(self, fused: Tensor) -> Tensor:
        # Contiguous (channels first): argmax and the loss read one class plane after the other;
        # with channels last argmax took four times as long.
        return self.head(fused).contiguous()  # type: ignore[no-any-return]

    def upsample(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, K, H/f, W/f), (H, W) -> (N, K, H, W)."""
        return self.upsamples[str(self.strides[-1])](scores, size)  # type: ignore[no-any-return]

    def skip_scores(self, taps: dict[int, Tensor], size: tuple[int, int]) -> dict[int, Tensor]:
        """Return the score map of each stride, upsampled on its own: {s: (N, K, H, W)}."""
        if self.spec.fuse != "score":
            raise OptionError(
                "Only with fuse=score are the logits a sum of one term per skip; this network "
                f"has fuse={self.spec.fuse}.",
                hint="TorchEngine.logits_without_skips shows what each skip changes",
            )
        parts = {}
        for start, stride in enumerate(self.strides):
            score = self.rungs[str(stride)].score if start else self.entry
            x = score(taps[stride])  # type: ignore[operator]  # (N, K, H/s, W/s)
            for coarse, fine in pairwise(self.strides[start:]):
                x = self.upsamples[str(coarse)](x, size_of(taps[fine]))
            parts[stride] = self.upsample(x, size)  # (N, K, H, W)
        return parts


class ScoreSkip(nn.Module):
    """fuse=score, as in the paper: add scores computed from the tap by a 1x1 convolution.

    The weights start at zero (section 4.2), or small on scaled features (skips=scaled): a new skip
    at full scale would override what the coarser strides have learned.
    """

    def __init__(self, channels: int, classes: int, scale: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.scores = conv1x1(channels, classes, std=0.0 if scale is None else 0.01)

    def score(self, tap: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, K, h, w)."""
        return self.scores(tap if self.scale is None else tap * self.scale)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, tap: Tensor) -> Tensor:
        """(N, K, h, w) + scores of (N, C, h, w)."""
        return x + self.score(tap)


class FeatureSkip(nn.Module):
    """fuse=feature or concat: sum or concatenate features, then apply a 3x3 convolution."""

    def __init__(self, channels: int, width: int, *, concat: bool) -> None:
        super().__init__()
        self.concat = concat
        self.lateral = conv_bn(channels, width, 1, relu=concat)
        self.mix = conv_bn(2 * width if concat else width, width, 3)

    def forward(self, x: Tensor, tap: Tensor) -> Tensor:
        """(N, width, h, w), (N, C, h, w) -> (N, width, h, w)."""
        tap = self.lateral(tap)  # (N, width, h, w)
        return self.mix(torch.cat([x, tap], dim=1) if self.concat else x + tap)  # type: ignore[no-any-return]


def make_skip(channels: int, stride: int, spec: ModelSpec) -> nn.Module:
    """Make the skip connection of the spec's `fuse`; channels, stride: of the tap."""
    if spec.fuse == "score":
        scale = ALL_AT_ONCE.get(stride, ALL_AT_ONCE[8]) if spec.skips == "scaled" else None
        return ScoreSkip(channels, spec.num_classes, scale)
    return FeatureSkip(channels, spec.width, concat=spec.fuse == "concat")


def score_layer(channels: int, spec: ModelSpec) -> nn.Sequential:
    """Section 4.1: dropout and a 1x1 convolution, (N, C, h, w) -> (N, K, h, w).

    Initial weights are small on a backbone's many channels. On the few of `width` that would slow
    training (CamVid, Lite0 fcn8s of width 64, loss after 50 steps: 1.76, else 1.06).
    """
    std = 0.01 if spec.fuse == "score" else channels**-0.5
    return nn.Sequential(nn.Dropout(spec.dropout), conv1x1(channels, spec.num_classes, std))


def subpixel_layer(stride: int, spec: ModelSpec) -> nn.Sequential:
    """upsample=subpixel (Shi et al., CVPR 2016): (N, width, H/f, W/f) -> (N, K, H, W), 0 at first.

    Added to the bilinear upsampling, which can't draw structures thinner than f pixels.
    """
    pixels = nn.ConvTranspose2d(spec.width, spec.num_classes, stride, stride, bias=False)
    nn.init.zeros_(pixels.weight)
    return nn.Sequential(nn.Dropout(spec.dropout), pixels)


def conv_bn(channels: int, out: int, kernel: int, *, relu: bool = True) -> nn.Sequential:
    """Convolution that keeps the size, batch norm and, unless relu=False, ReLU."""
    convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), *([nn.ReLU(inplace=True)] * relu))


def conv1x1(channels: int, classes: int, std: float) -> nn.Conv2d:
    """A 1x1 convolution with weights of this standard deviation and zero bias."""
    convolution = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(convolution.weight, std=std)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


class LearnedUpsample(nn.Module):
    """Section 3.3: a transposed convolution, initialised to bilinear interpolation.

    weight: (C, C, k, k), the bilinear kernel on the diagonal and zero elsewhere. k is 2 * factor
    where a map's elements lie between pixels (VGG), else 2 * factor - 1 (ResNet).
    """

    def __init__(self, channels: int, factor: int, shift: float) -> None:
        super().__init__()
        self.factor = factor
        line, self.first = bilinear_kernel(factor, shift)  # (k,)
        weight = torch.zeros(channels, channels, len(line), len(line))
        weight.diagonal().copy_((line[:, None] * line[None, :]).unsqueeze(-1))  # (k, k, C)
        self.weight = nn.Parameter(weight)

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, h, w) -> (N, C, factor * h, factor * w)."""
        wider = F.pad(maps, (1, 1, 1, 1), mode="replicate")  # otherwise the borders fade to 0
        grown = F.conv_transpose2d(wider, self.weight, stride=self.factor)
        start = self.factor - self.first
        return grown.narrow(2, start, size[0]).narrow(3, start, size[1])


def bilinear_kernel(factor: int, shift: float) -> tuple[Tensor, int]:
    """1-d bilinear upsampling: input i adds kernel[m] * x[i] to output factor * i + first + m."""
    first = math.floor(shift - factor) + 1
    positions = torch.arange(first, math.ceil(shift + factor), dtype=torch.float64)
    return (1 - (positions - shift).abs() / factor).float(), first


class Upsample(nn.Module):
    """Bilinear interpolation without weights; `shift` as in models.backbones.upsample."""

    def __init__(self, _channels: int, factor: int, shift: float) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, h, w) -> (N, C, factor * h, factor * w)."""
        return upsample(maps, self.factor, self.shift, size)


def pad_to_multiple(images: Tensor, stride: int) -> Tensor:
    """(N, 3, h, w) -> (N, 3, H, W): zeros below and to the right up to multiples of the stride.

    Zero is the mean color. Replicated pixels cost 2 points of mIoU on CamVid (360 rows to 384).
    """
    height, width = size_of(images)
    # Written so that a traced size is 32 * n, which torch.export can halve without a remainder.
    down = (height + stride - 1) // stride * stride - height
    right = (width + stride - 1) // stride * stride - width
    if not torch.compiler.is_compiling() and down == right == 0:
        return images
    return F.pad(images, (0, right, 0, down))


def crop(maps: Tensor, height: int, width: int) -> Tensor:
    """The top left part of (N, C, H, W); narrow keeps the size that a traced graph knows."""
    return maps.narrow(2, 0, height).narrow(3, 0, width)


def size_of(maps: Tensor) -> tuple[int, int]:
    """(height, width) of (N, C, H, W)."""
    return maps.shape[-2], maps.shape[-1]
