import copy

import pytest
import torch
from torch import nn

from fcnseg.config import TrainConfig
from fcnseg.errors import OptionError
from fcnseg.models.fcn import FCN
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.training.schedule import Average, freeze, make_optimizer, rate_factor, set_rate


@pytest.fixture
def network() -> FCN:
    torch.manual_seed(0)
    return build(ModelSpec(backbone="tiny", num_classes=3, width=8))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_groups_by_rate_and_decay(network: FCN, optimizer: str) -> None:
    config = TrainConfig(lr=0.1, backbone_lr=0.25, weight_decay=0.02, optimizer=optimizer)
    made = make_optimizer(network, config)
    found = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in made.param_groups
        for parameter in group["params"]
    }
    for name, parameter in network.named_parameters():
        share = 0.25 if name.startswith("backbone.") else 1.0
        decay = 0.02 if parameter.ndim > 1 else 0.0
        assert found.pop(id(parameter)) == (share, decay), name
    assert not found
    set_rate(made, 0.04)
    assert {group["lr"] for group in made.param_groups} == {0.01, 0.04}


def test_inside_another_module_the_backbone_is_still_the_backbone(network: FCN) -> None:
    outer = nn.ModuleDict({"network": network})
    config = TrainConfig(backbone_lr=0.5)
    normalizers = {group["lr_scale"] for group in make_optimizer(outer, config).param_groups}
    assert normalizers == {0.5, 1.0}


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_rate_rises_then_falls_to_nothing(schedule: str) -> None:
    steps = 200
    rates = [rate_factor(s, steps, warmup=0.1, schedule=schedule) for s in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[20] == 1
    assert rates[0] == pytest.approx(1 / 21)
    assert rates[-1] < 0.02
    middle = {"poly": 0.5**0.9, "cosine": 0.5}[schedule]
    assert rates[110] == pytest.approx(middle)


def test_without_warm_up_the_first_rate_is_the_peak() -> None:
    assert rate_factor(0, 10, warmup=0, schedule="poly") == 1
    assert rate_factor(0, 1, warmup=1, schedule="poly") == 0.5


def test_the_average_follows_the_weights(network: FCN) -> None:
    average = Average(network, 0.9)
    first = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.add_(1)
    average.update(network, step=1000)
    for name, tensor in average.network.state_dict().items():
        moved = 0.1 if tensor.is_floating_point() else 1
        assert torch.allclose(tensor, first[name] + moved, atol=1e-5), name
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_the_average_forgets_the_start_soon(network: FCN) -> None:
    average = Average(network, 0.9999)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    before = next(average.network.parameters()).clone()
    average.update(network, step=0)
    assert torch.allclose(next(average.network.parameters()), before + 0.9)


def test_without_decay_the_average_is_the_network(network: FCN) -> None:
    average = Average(network, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.7)
    average.update(network, step=5)
    for ours, theirs in zip(average.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_frozen_stages_do_not_learn(network: FCN) -> None:
    freeze(network.train(), TrainConfig(freeze=2))
    before = copy.deepcopy(network.state_dict())
    optimizer = make_optimizer(network, TrainConfig(lr=0.1))
    for _ in range(2):
        network(torch.randn(2, 3, 32, 32)).square().mean().backward()
        optimizer.step()
    stages = list(network.backbone.stages)
    for name, tensor in network.state_dict().items():
        frozen = name.startswith(tuple(f"backbone.stages.{stage}." for stage in stages[:2]))
        if frozen:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(network.decoder.head[1].weight, before["decoder.head.1.weight"])
    third = f"backbone.stages.{stages[2]}"
    assert any(
        not torch.equal(tensor, before[name])
        for name, tensor in network.state_dict().items()
        if name.startswith(third)
    )


def test_frozen_norms_keep_their_statistics(network: FCN) -> None:
    freeze(network.train(), TrainConfig(freeze_norm=True))
    before = copy.deepcopy(dict(network.named_buffers()))
    network(torch.randn(2, 3, 32, 32))
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name])
    assert network.decoder.head[0].training, "dropout still drops"


def test_there_are_only_so_many_stages(network: FCN) -> None:
    with pytest.raises(OptionError, match="5 stages"):
        freeze(network, TrainConfig(freeze=6))
