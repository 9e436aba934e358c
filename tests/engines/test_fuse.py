from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from fcnseg.engines import fuse as folding
from fcnseg.engines.fuse import (
    FusedConvolution,
    fold_batch_norms,
    fuse_activations,
    fuse_for_inference,
)
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.exporting.parity import sample_images
from fcnseg.models.backbones.efficientnet_lite import SameConv2d
from fcnseg.models.fcn import LearnedUpsample
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec


def stirred(network: nn.Module) -> nn.Module:
    """Batch norms with statistics that do something."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize("fuse", ["score", "feature", "concat"])
def test_the_outputs_stay_and_the_norms_go(fuse):
    network = stirred(build(ModelSpec(backbone="tiny", num_classes=3, width=8, fuse=fuse)))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
        after = network(images)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_a_norm_that_follows_something_else_stays():
    network = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    images = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network, images)
        torch.testing.assert_close(network(images), before)
    assert isinstance(network[2], nn.BatchNorm2d)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_backbones_give_the_same(backbone, output_stride):
    spec = ModelSpec(backbone=backbone, num_classes=3, width=8, output_stride=output_stride)
    network = stirred(build(spec))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = network(images)
        fuse_for_inference(network, device=torch.device("cpu"), precision=torch.float32)
        after = network(images)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)
    assert not {nn.Conv2d, SameConv2d} & set(kinds(network))


class ActivatingNorm(nn.BatchNorm2d):
    """A batch norm as timm's networks have them."""

    def __init__(self, channels: int, *, sign: float = 1):
        super().__init__(channels)
        self.drop, self.act, self.sign = nn.Identity(), nn.ReLU6(), sign

    def forward(self, x):
        return self.act(self.drop(super().forward(x))) * self.sign


def test_a_norm_that_activates_too_leaves_its_activation():
    network = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), ActivatingNorm(4), nn.Conv2d(4, 2, 1)))
    images = 4 * torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network, torch.randn(1, 3, 64, 64))
        torch.testing.assert_close(network(images), before, atol=1e-5, rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    before, after = fused_outputs(network, images)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    assert nn.ReLU6 not in kinds(network)


class NegatingNorm(nn.BatchNorm2d):
    def forward(self, x):
        return -super().forward(x)


@pytest.mark.parametrize("norm", [NegatingNorm(4), ActivatingNorm(4, sign=-1)])
def test_a_norm_that_does_what_nobody_knows_stays(norm):
    network = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), norm))
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network, images)
        assert torch.equal(network(images), before)
    assert network[1] is norm


def test_a_convolution_that_others_look_at_keeps_its_norm():
    class Tapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.convolution(x)
            return self.norm(y) + y

    network = stirred(Tapped())
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        before = network(images)
        fold_batch_norms(network, images)
        assert torch.equal(network(images), before)


def test_a_known_activation_of_a_class_of_its_own_stays():
    class Shifted(nn.ReLU):
        def forward(self, x):
            return super().forward(x) + 1

    network = nn.Sequential(nn.Conv2d(3, 4, 3), Shifted()).eval()
    before, after = fused_outputs(network, torch.randn(1, 3, 16, 16))
    torch.testing.assert_close(after, before)
    assert isinstance(network[1], Shifted)


def fused_outputs(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network says before and after its activations are fused."""
    with torch.no_grad():
        before = network(images)
        fuse_activations(network, torch.randn(1, 3, 64, 64))
        return before, network(images)


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in network.modules()]


@pytest.mark.parametrize("fuse", ["score", "feature", "concat"])
@pytest.mark.parametrize("backbone", ["tiny", "efficientnet_lite0", "resnet18"])
def test_convolutions_and_activations_become_one(backbone, fuse):
    network = stirred(build(ModelSpec(backbone=backbone, num_classes=3, width=8, fuse=fuse)))
    fold_batch_norms(network, torch.zeros(1, 3, 64, 64))
    before, after = fused_outputs(network, torch.randn(2, 3, 70, 97))
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)
    assert not {nn.Conv2d, SameConv2d, nn.ReLU6} & set(kinds(network))


def test_an_activation_of_several_places_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.relu = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.two(self.relu(self.one(x))) - x)

    network = Twice().eval()
    before, after = fused_outputs(network, torch.randn(1, 3, 16, 16))
    torch.testing.assert_close(after, before)
    assert isinstance(network.relu, nn.ReLU)
    assert isinstance(network.one, FusedConvolution)


def test_where_the_outputs_would_change_nothing_is_fused():
    class Tapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            y = self.convolution(x)
            return self.relu(y) + y  # what is before the activation is needed, too

    network = Tapped().eval()
    before, after = fused_outputs(network, torch.randn(1, 3, 16, 16))
    assert torch.equal(after, before)
    assert isinstance(network.convolution, nn.Conv2d)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish])
@pytest.mark.parametrize(
    "convolution",
    [
        lambda: nn.Conv2d(3, 6, 3, stride=2, padding=1),
        lambda: nn.Conv2d(3, 6, 3, dilation=2, groups=3, bias=False),
        lambda: SameConv2d(3, 6, 3, stride=2),
        lambda: SameConv2d(3, 6, 5, stride=2, groups=3),
        lambda: SameConv2d(3, 6, 5),
    ],
)
def test_every_activation_is_fused_as_it_is(activation, convolution):
    torch.manual_seed(0)
    network = nn.Sequential(convolution(), activation()).eval()
    before, after = fused_outputs(network, 4 * torch.randn(2, 3, 24, 36))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert kinds(network)[1:] == [FusedConvolution, nn.Identity]


def test_what_can_not_be_fused_stays():
    by_name = nn.Conv2d(3, 3, 3, padding="same")
    around = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")
    network = nn.Sequential(by_name, nn.ReLU(), around, nn.ReLU()).eval()
    before, after = fused_outputs(network, torch.randn(1, 3, 16, 16))
    assert torch.equal(after, before)
    assert kinds(network)[1:] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU]


def test_without_the_operator_nothing_changes(monkeypatch):
    monkeypatch.setattr(folding, "_onednn_fuses", lambda: False)
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval()
    assert kinds(fuse_activations(network, torch.randn(1, 3, 8, 8)))[1] is nn.Conv2d


def test_other_devices_and_arithmetics_keep_their_activations():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    fuse_for_inference(network, device=torch.device("cpu"), precision=torch.bfloat16)
    assert kinds(network)[1:] == [nn.Conv2d, nn.Sequential, nn.ReLU]
    fuse_for_inference(network, device=torch.device("cpu"), precision=torch.float32)
    assert kinds(network)[1:] == [FusedConvolution, nn.Sequential, nn.Identity]


@pytest.mark.parametrize(
    "shape",
    [
        {"decoder": "fcn4s", "fuse": "score"},
        {"decoder": "fcn8s", "fuse": "score", "upsample": "learned"},
        {"decoder": "fcn8s", "fuse": "concat", "upsample": "learned"},
        {"decoder": "fcn4s", "fuse": "feature", "upsample": "subpixel"},
    ],
)
def test_in_bf16_the_order_of_classes_decides_nothing(shape: dict[str, str]):
    """bf16 scores are often equal, and then the first class would win."""
    torch.manual_seed(0)
    spec, order = ModelSpec(backbone="tiny", num_classes=4, width=32, **shape), [3, 0, 1, 2]
    network = build(spec).eval()
    for module in network.decoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.2)
    moved = deepcopy(network)
    for module in moved.decoder.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 4:
            module.weight.data, module.bias.data = module.weight[order], module.bias[order]
        elif isinstance(module, nn.ConvTranspose2d):
            module.weight.data = module.weight[:, order]
        elif isinstance(module, LearnedUpsample) and len(module.weight) == 4:
            module.weight.data = module.weight[order][:, order]
    images = sample_images((1, 96, 128), seed=0)
    labels = []
    for one in (network, moved):
        fuse_for_inference(one, device=torch.device("cpu"), precision=torch.bfloat16)
        engine = TorchEngine(one, network.backbone.preprocess, precision=torch.bfloat16)
        labels.append(engine.labels(images)[0])
    np.testing.assert_array_equal(np.array(order, np.uint8)[labels[1]], labels[0])
