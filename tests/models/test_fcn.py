from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fcnseg.errors import InputError, OptionError
from fcnseg.models.fcn import (
    FCN,
    FeatureSkip,
    LearnedUpsample,
    ScoreSkip,
    pad_to_multiple,
    score_layer,
)
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec

DECODERS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s")


def make(backbone: str = "tiny", *, randomise: bool = True, **more: Any) -> FCN:
    """A small network; its scores, which start at or near zero, set to something."""
    torch.manual_seed(0)
    network = build(ModelSpec(backbone=backbone, num_classes=4, **{"width": 8, **more}))
    if randomise:
        for name, parameter in network.decoder.named_parameters():
            if "scores" in name or "entry" in name or "head" in name:
                nn.init.normal_(parameter, std=0.3)
    return network.eval()


def images(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


SUBPIXEL = {"decoder": "fcn4s", "upsample": "subpixel"}

NETWORKS = {
    (decoder, fuse): make(decoder=decoder, fuse=fuse)
    for decoder in DECODERS
    for fuse in ("score", "feature", "concat")
} | {("fcn4s", "subpixel"): make(**SUBPIXEL)}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 130), st.integers(1, 130), st.sampled_from(sorted(NETWORKS)))
@torch.no_grad()
def test_the_size_that_came_in_goes_out(height: int, width: int, which: tuple[str, str]) -> None:
    assert NETWORKS[which](images(height, width)).shape == (1, 4, height, width)


@pytest.mark.parametrize("size", [(33, 47), (500, 375), (360, 480)], ids=str)
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "squeezenet1_1", "alexnet"])
@torch.no_grad()
def test_sizes_of_other_backbones(backbone: str, size: tuple[int, int]) -> None:
    assert make(backbone, decoder="fcn8s")(images(*size)).shape == (1, 4, *size)


@pytest.mark.parametrize("decoder", DECODERS)
def test_how_far_down(decoder: str) -> None:
    finest = int(decoder[3:-1])
    strides = NETWORKS[decoder, "score"].decoder.strides
    assert strides == tuple(s for s in (32, 16, 8, 4, 2) if s >= finest)


@pytest.mark.parametrize(
    ("fuse", "kind"), [("score", ScoreSkip), ("feature", FeatureSkip), ("concat", FeatureSkip)]
)
def test_fuse(fuse: str, kind: type) -> None:
    skips = list(NETWORKS["fcn8s", fuse].decoder.rungs.values())
    assert [type(skip) for skip in skips] == [kind, kind]
    assert all(getattr(skip, "concat", False) == (fuse == "concat") for skip in skips)


# --- the decomposition ---


@pytest.mark.parametrize("upsampling", ["fixed", "learned"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(33, 47), (64, 96)], ids=str)
@torch.no_grad()
def test_the_skips_sum_to_the_logits(decoder: str, upsampling: str, size: tuple[int, int]) -> None:
    network = make(decoder=decoder, fuse="score", upsample=upsampling)
    skips = network.skip_scores(images(*size))
    assert tuple(skips) == network.decoder.strides
    assert all(share.abs().max() > 0.01 for share in skips.values())
    torch.testing.assert_close(sum(skips.values()), network(images(*size)), rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_skips_sum_in_bf16() -> None:
    """bf16 has 8 bits: the sum of three skips is within 2 % of the largest logit."""
    network = make(decoder="fcn8s", fuse="score").bfloat16()
    x = images(64, 96).bfloat16()
    logits, skips = network(x), network.skip_scores(x)
    difference = (sum(share.float() for share in skips.values()) - logits.float()).abs().max()
    assert difference < 0.02 * logits.abs().max()


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(1, 64, 64, 3),
        torch.zeros(3, 64, 64),
        torch.zeros(1, 1, 64, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        np.zeros((1, 3, 64, 64), np.float32),
    ],
    ids=lambda wrong: f"{wrong.dtype} {tuple(wrong.shape)}",
)
def test_images_that_are_not_prepared_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"normalized float32 images \(N, 3, H, W\)") as caught:
        make()(wrong)
    assert "preprocess.normalise" in caught.value.hint


@pytest.mark.parametrize("fuse", ["score", "feature"])
@torch.no_grad()
def test_scores_and_logits_come_from_one_pass(fuse: str) -> None:
    network, x = NETWORKS["fcn8s", fuse], images(33, 47)
    scores, logits = network.scores_and_logits(x)
    assert scores.shape == (1, 4, 8, 8)
    assert torch.equal(scores, network.scores(x))
    assert torch.equal(logits, network(x))


class Both(nn.Module):
    """The logits and the skips' scores, for export."""

    def __init__(self, network: FCN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images), torch.stack(list(self.network.skip_scores(images).values()))


@torch.no_grad()
def test_the_skips_sum_when_exported() -> None:
    network = make(decoder="fcn16s", fuse="score")
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        Both(network), (images(70, 100),), dynamic_shapes={"images": {2: free, 3: free}}
    )
    for size in ((70, 100), (51, 133)):
        logits, skips = program.module()(images(*size))
        torch.testing.assert_close(skips.sum(0), logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(logits, network(images(*size)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fuse", ["feature", "concat"])
def test_only_scores_can_be_taken_apart(fuse: str) -> None:
    with pytest.raises(OptionError, match="fuse=score"):
        NETWORKS["fcn8s", fuse].skip_scores(images(33, 47))


# --- how it starts ---


@torch.no_grad()
def test_skips_start_at_zero() -> None:
    """A fresh FCN-8s says what its coarsest level says."""
    network = make(decoder="fcn8s", fuse="score", randomise=False)
    skips = network.skip_scores(images(64, 96))
    assert skips[16].abs().max() == skips[8].abs().max() == 0
    assert skips[32].abs().max() > 0


def test_zero_skips_learn() -> None:
    network = make(decoder="fcn8s", fuse="score", randomise=False)
    network(images(64, 96)).square().sum().backward()
    for skip in network.decoder.rungs.values():
        assert skip.scores.weight.grad.abs().max() > 0


@torch.no_grad()
def test_scaled_skips() -> None:
    """The at-once way: pool4 by 0.01, pool3 by 0.0001."""
    network = make(decoder="fcn8s", fuse="score", skips="scaled", randomise=False)
    skips = network.decoder.rungs
    assert {stride: skip.scale for stride, skip in skips.items()} == {"16": 0.01, "8": 0.0001}
    skip = torch.randn(1, 48, 4, 4)
    expected = skips["16"].scores(skip * 0.01)
    assert torch.equal(skips["16"].score(skip), expected)
    assert float(skips["16"].scores.weight.std()) == pytest.approx(0.01, rel=0.2)


@torch.no_grad()
def test_learned_starts_as_fixed() -> None:
    for fuse in ("score", "feature"):
        fixed = make(decoder="fcn4s", fuse=fuse)
        learned = make(decoder="fcn4s", fuse=fuse, upsample="learned")
        assert any(isinstance(m, LearnedUpsample) for m in learned.modules())
        learned.load_state_dict(fixed.state_dict(), strict=False)
        x = images(33, 47)
        torch.testing.assert_close(learned(x), fixed(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fuse", ["feature", "concat"])
@torch.no_grad()
def test_subpixel_starts_as_fixed(fuse: str) -> None:
    fixed, subpixel = make(decoder="fcn4s", fuse=fuse), make(fuse=fuse, **SUBPIXEL)
    missing, unexpected = subpixel.load_state_dict(fixed.state_dict(), strict=False)
    assert (missing, unexpected) == (["decoder.detail.1.weight"], [])
    assert torch.equal(subpixel(images(33, 47)), fixed(images(33, 47)))


@torch.no_grad()
def test_each_pixel_has_a_share_of_its_own() -> None:
    """logits[k, y, x] = upsampled scores + sum_c maps[c, y//4, x//4] * weight[c, k, y%4, x%4]."""
    network = make(**SUBPIXEL)
    decoder, x = network.decoder, images(64, 96)
    before = network(x)
    weight = decoder.detail[1].weight.normal_()  # (width, K, 4, 4)
    maps = decoder.fuse(network.backbone(x))[0]  # (width, 16, 24)
    share = torch.einsum("cyx,ckij->kyixj", maps, weight).reshape(4, 64, 96)
    torch.testing.assert_close(network(x)[0], before[0] + share, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_only_subpixel_draws_what_is_thinner_than_a_cell() -> None:
    """A line one pixel wide, in its place, from maps of stride 4 that say where it runs."""
    decoder = make(**SUBPIXEL).decoder
    decoder.detail[1].weight.zero_()
    for offset in range(4):  # map c: a line at row c of the cell
        decoder.detail[1].weight[offset, 1, offset] = 9.0
    maps = torch.zeros(1, 8, 4, 6)
    maps[0, 2, 1] = 1.0
    decoder.fuse = lambda _: maps
    decoder.head = nn.Conv2d(8, 4, 1)
    decoder.head.weight.zero_()
    decoder.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    labels = decoder({}, (16, 24))[0].argmax(0)
    assert torch.equal(labels.nonzero()[:, 0].unique(), torch.tensor([6]))
    assert (labels[6] == 1).all()


@torch.no_grad()
def test_logits_need_no_other_size() -> None:
    """Zeros are added and what they say is cut off: a padded image's logits are the same."""
    network = NETWORKS["fcn8s", "feature"]
    x = images(50, 70)
    padded = nn.functional.pad(x, (0, 26, 0, 14))
    torch.testing.assert_close(network(padded)[..., :50, :70], network(x))


@pytest.mark.parametrize(
    "shape", [{"fuse": "score"}, {"fuse": "feature"}, {"fuse": "concat"}, SUBPIXEL], ids=str
)
@torch.no_grad()
def test_classes_are_planes_in_memory(shape: dict[str, Any]) -> None:
    network = make(**shape).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = network(images(64, 96).to(memory_format=torch.channels_last))
    assert logits.stride() == (4 * 64 * 96, 64 * 96, 96, 1)


# --- the spec ---


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": "fcn64s"}, {"fuse": "sum"}, {"upsample": "nearest"}, {"skips": "one"},
        {"upsample": "subpixel", "fuse": "score"},
        {"num_classes": 0}, {"num_classes": 256}, {"width": 0}, {"dropout": 1.0},
        {"output_stride": 4}, {"backbone": "resnet19"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_options(change: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        build(ModelSpec(**{"backbone": "tiny", "num_classes": 4, **change}))


def test_a_backbone_without_fine_features() -> None:
    with pytest.raises(OptionError, match=r"no features at stride 2") as caught:
        build(ModelSpec(backbone="convnext_tiny", num_classes=2, decoder="fcn2s"))
    assert "--decoder fcn4s" in caught.value.hint


def test_spec_round_trip() -> None:
    spec = ModelSpec(backbone="tiny", num_classes=3, dropout=0, upsample="learned", skips="scaled")
    assert ModelSpec.from_dict(spec.as_dict()) == spec


@pytest.mark.parametrize(
    "data",
    [
        None, {}, {"backbone": "tiny"}, {"backbone": "tiny", "num_classes": "4"},
        {"backbone": "tiny", "num_classes": True}, {"backbone": "tiny", "num_classes": 4, "new": 1},
        {"backbone": "tiny", "num_classes": 4, "dropout": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_broken_specs(data: Any) -> None:
    with pytest.raises(InputError):
        ModelSpec.from_dict(data)


@pytest.mark.parametrize("concat", [False, True])
@torch.no_grad()
def test_a_feature_skip_sums_or_concatenates(concat: bool) -> None:
    skip = FeatureSkip(5, 8, concat=concat).eval()
    x, tap = torch.randn(1, 8, 6, 7), torch.randn(1, 5, 6, 7)
    lateral = skip.lateral(tap)
    joined = torch.cat([x, lateral], dim=1) if concat else x + lateral
    assert torch.equal(skip(x, tap), skip.mix(joined))


def test_an_image_of_whole_strides_is_not_copied() -> None:
    fits, wide = torch.ones(1, 3, 64, 96), torch.ones(1, 3, 64, 97)
    assert pad_to_multiple(fits, 32) is fits
    padded = pad_to_multiple(wide, 32)
    assert padded.shape == (1, 3, 64, 128)
    assert padded.sum() == wide.sum()


@pytest.mark.parametrize(("fuse", "std"), [("score", 0.01), ("feature", 400**-0.5)])
def test_how_large_scores_start(fuse: str, std: float) -> None:
    torch.manual_seed(0)
    layer = score_layer(400, ModelSpec(backbone="tiny", num_classes=40, width=400, fuse=fuse))[1]
    assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert not layer.bias.detach().any()
