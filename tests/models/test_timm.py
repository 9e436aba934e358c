from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from fcnseg.classes import ClassMap
from fcnseg.engines.fuse import fuse_for_inference
from fcnseg.errors import MissingExtra, OptionError
from fcnseg.models.backbones.timm import _offsets
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build, build_backbone
from fcnseg.models.spec import ModelSpec


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra) as caught:
        build_backbone("timm:resnet18")
    assert "fcnseg[timm]" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "offsets"),
    [
        ("resnet10t", {2: 0.0, 4: 0.0, 8: 1.0, 16: 3.0, 32: 7.0}),  # shortcuts pool 2x2
        ("mobilenetv3_small_050", {2: 0.0, 4: 0.0, 8: 0.0, 16: 0.0, 32: 0.0}),
        ("convnext_atto", {4: 1.5, 8: 3.5, 16: 7.5, 32: 15.5}),
        ("tf_mobilenetv3_small_075", {2: 1.0, 4: 3.0, 8: 7.0, 16: 15.0, 32: 31.0}),
    ],
)
def test_measured(name: str, offsets: dict[int, float]) -> None:
    pytest.importorskip("timm")
    backbone = build_backbone(f"timm:{name}")
    assert backbone.offsets == offsets


@torch.no_grad()
def test_in_a_checkpoint() -> None:
    pytest.importorskip("timm")
    spec = ModelSpec(backbone="timm:resnet10t", num_classes=3, width=8, decoder="fcn4s")
    network = build(spec).eval()
    kept = Checkpoint(spec, network.backbone.preprocess, ClassMap.numbered(3), network.state_dict())
    _offsets.cache_clear()  # as in the process that loads it
    x = torch.rand(1, 3, 50, 70)
    torch.testing.assert_close(kept.build()(x), network(x))


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "tf_efficientnet_lite0", "resnet10t"])
def test_joined_they_answer_the_same(name: str) -> None:
    pytest.importorskip("timm")
    network = build(ModelSpec(backbone=f"timm:{name}", num_classes=3, width=8)).train()
    torch.manual_seed(0)
    for _ in range(3):
        network(torch.randn(2, 3, 64, 64))
    network.eval()
    images = torch.randn(1, 3, 70, 97)
    before = network(images)
    fuse_for_inference(network, device=torch.device("cpu"), precision=torch.float32)
    torch.testing.assert_close(network(images), before, atol=1e-4, rtol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.backbone.modules())


@pytest.mark.parametrize("name", ["resnet18_x", "vit_tiny_patch16_224"])
def test_what_can_not_be_a_backbone(name: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(OptionError):
        build_backbone(f"timm:{name}")
