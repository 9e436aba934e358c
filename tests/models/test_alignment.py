"""Where a pixel's logit comes from: exactly from around the pixel, whatever the backbone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.alignment import inner
from fcnseg.models.backbones import Backbone, offset, offsets
from fcnseg.models.backbones.timm import centroids, linearised, measured
from fcnseg.models.fcn import Decoder, pad_to_multiple
from fcnseg.models.networks import BACKBONES, build, build_backbone
from fcnseg.models.spec import ModelSpec

# One of each geometry; benchmarks/alignment.py has all decoders, sizes and backbones.
SAMPLE = (
    "tiny", "efficientnet_lite0", "resnet18", "vgg11", "mobilenet_v2", "mobilenet_v3_small",
    "squeezenet1_0", "squeezenet1_1", "regnet_y_400mf", "convnext_tiny", "alexnet",
)  # fmt: skip
DECODERS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s")
SIZES = ((33, 47), (500, 375))


@cache
def pair_of(name: str) -> tuple[Backbone, Backbone]:
    """A backbone and its linearised copy."""
    with torch.device("meta"):  # only its geometry counts
        backbone = build_backbone(name)
    assert isinstance(backbone, Backbone)
    plain = linearised(backbone)
    assert isinstance(plain, Backbone)
    return backbone, plain


def decoder_of(backbone: Backbone, name: str, decoder: str, fuse: str, upsample: str) -> Decoder:
    spec = ModelSpec(
        backbone=name, num_classes=2, decoder=decoder, fuse=fuse, width=4, upsample=upsample
    )
    plain = linearised(Decoder(backbone, spec))
    assert isinstance(plain, Decoder)
    return plain


def furthest(where: Tensor, decoder: Decoder, height: int, width: int) -> float:
    """The largest distance, y or x, of a pixel's centroid from the pixel, borders left out."""
    frame = where.shape[-2:]
    rows, columns = torch.arange(frame[0]).view(-1, 1), torch.arange(frame[1])
    off = torch.maximum((where[0] - rows).abs(), (where[1] - columns).abs())
    (top, bottom), (left, right) = (inner(decoder.offsets, decoder.strides, side) for side in frame)
    kept = off[top : min(bottom + 1, height), left : min(right + 1, width)]
    assert kept.numel()
    return float(kept.max())


def centroid_error(
    name: str,
    size: tuple[int, int],
    *,
    fuse: str = "score",
    upsample: str = "fixed",
    decoders: tuple[str, ...] = DECODERS,
) -> float:
    backbone, plain = pair_of(name)
    frame = [-(-side // backbone.stride) * backbone.stride for side in size]
    worst = 0.0
    for decoder in decoders:
        if int(decoder[3:-1]) < min(backbone.channels):
            continue
        steps = decoder_of(backbone, name, decoder, fuse, upsample)

        def network(images: Tensor, steps: Decoder = steps) -> Tensor:
            return steps(plain(images), (frame[0], frame[1]))  # type: ignore[no-any-return]

        where = centroids(network, *frame)
        worst = max(worst, furthest(where, steps, *size))
    return worst


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SAMPLE)
def test_every_decoder_is_centred(name: str, size: tuple[int, int]) -> None:
    assert centroid_error(name, size) < 0.5


OTHERS = [
    name for name in BACKBONES if name not in SAMPLE and not name.endswith(("8gf", "16gf", "32gf"))
]


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_backbone(name: str) -> None:
    """At a size with cells to spare: alexnet:fc leans over a border one cell away."""
    assert centroid_error(name, (97, 131), decoders=("fcn32s", "fcn4s")) < 0.5


@pytest.mark.parametrize("fuse", ["feature", "concat"])
@pytest.mark.parametrize("name", ["tiny", "resnet18", "efficientnet_lite0"])
def test_every_fuse_and_learned_upsampling(name: str, fuse: str) -> None:
    assert centroid_error(name, (97, 131), fuse=fuse, upsample="learned") < 0.5


@settings(max_examples=12, deadline=None)
@given(st.integers(33, 375), st.integers(33, 375))
def test_any_size(height: int, width: int) -> None:
    assert centroid_error("tiny", (height, width)) < 0.5


@pytest.mark.parametrize(
    ("name", "assumed"),
    [("tiny", "corner"), ("resnet18", "centre"), ("efficientnet_lite0", "centre")],
)
def test_a_wrong_alignment_is_seen(name: str, assumed: str) -> None:
    backbone, _plain = pair_of(name)
    right = backbone.offsets
    backbone.offsets = offsets(assumed, backbone.channels)  # type: ignore[arg-type]
    try:
        assert centroid_error(name, (97, 131)) > 3
    finally:
        backbone.offsets = right


@pytest.mark.parametrize("name", SAMPLE)
def test_measured_is_declared(name: str) -> None:
    backbone, plain = pair_of(name)
    found = measured(plain, 192)
    assert found.keys() == backbone.offsets.keys()
    for stride, where in found.items():
        assert where == pytest.approx(backbone.offsets[stride], abs=0.3)


def test_a_kernel_of_even_width_moves_half_a_cell() -> None:
    """fc6 of AlexNet is 6 wide."""
    with torch.device("meta"):
        backbone = build_backbone("alexnet:fc")
    assert measured(linearised(backbone), 192)[32] == pytest.approx(15.0, abs=0.3)


@pytest.mark.parametrize("decoder", ["fcn32s", "fcn8s", "fcn2s"])
def test_centroids_are_those_of_the_gradient(decoder: str) -> None:
    """What the passes over coordinates compute is the centroid of |d logit / d input|."""
    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=2, decoder=decoder, fuse="score")
    network = linearised(build(spec)).double()
    height, width = 64, 96
    images = torch.rand(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    y, x = 31, 44
    network(images)[0, :, y, x].sum().backward()
    assert images.grad is not None
    share = images.grad.abs().sum(dim=(0, 1))
    share /= share.sum()
    expected = [
        float((share.sum(1) * torch.arange(height)).sum()),
        float((share.sum(0) * torch.arange(width)).sum()),
    ]
    where = centroids(lambda pictures: network(pictures.double()), height, width)[:, y, x]
    assert where.tolist() == pytest.approx(expected, abs=1e-3)
    assert expected == pytest.approx([y, x], abs=0.5)


def test_padding_goes_below_and_to_the_right() -> None:
    images = torch.arange(6.0).view(1, 1, 2, 3)
    padded = pad_to_multiple(images, 4)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0, :2, :3].equal(images[0, 0])
    assert padded[0, 0, 3].tolist() == [0, 0, 0, 0]
    assert padded[0, 0, :, 3].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("kind", "at"), [("centre", 15.5), ("corner", 0.0), ("same", 31.0)])
def test_offset(kind: str, at: float) -> None:
    assert offset(kind, 32) == at  # type: ignore[arg-type]
