from itertools import count

import pytest
import torch

from fcnseg.config import TrainConfig
from fcnseg.errors import TrainingError
from fcnseg.models.fcn import FCN
from fcnseg.progress import Message
from fcnseg.training.preflight import preflight
from fcnseg.training.step import TrainStep
from tests.training.test_step import make_batch, make_step


def look(clock=None, **options) -> list[Message]:
    config = TrainConfig.make({"lr": 0.01, "backbone_lr": 1.0, **options})
    network = make_step().model.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    told: list[Message] = []

    def make(other: FCN, chosen: TrainConfig) -> TrainStep:
        train_step = make_step()
        return TrainStep(
            other, chosen, criterion=train_step.criterion, preprocess=train_step.preprocess,
            ranks=train_step.ranks, precision=train_step.precision,
        )  # fmt: skip

    ticks = count()
    preflight(
        network, config, make_batch(), make, told.append, clock or (lambda: next(ticks) / 999)
    )
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), "the network itself is left alone"
    return told


def test_what_can_be_learned_is_told_so() -> None:
    learning, rates, cost = look()
    assert learning.level == "info"
    assert "two images are overfitted in 29 steps at 0.01" in learning.text
    assert "falls fastest at learning rates around" in rates.text
    fastest = float(rates.text.split("around ")[1].split(" ")[0].rstrip(";."))
    assert 1e-4 < fastest < 1
    assert "a step of 4 images takes" in cost.text


def test_a_rate_that_is_too_small_is_told() -> None:
    learning, rates, _ = look(lr=1e-7)
    assert learning.level == "warning"
    assert "hardly overfitted" in learning.text
    assert rates.level == "info"


def test_a_rate_that_breaks_it_is_told(monkeypatch) -> None:
    honest = TrainStep.__call__

    def call(self, batch, step, steps, *, micro_batches=1, lr_scale=1.0):
        broken = self.config.lr * lr_scale > 0.05 and step > 0
        return honest(self, batch, step, steps, lr_scale=lr_scale) + (50.0 if broken else 0.0)

    monkeypatch.setattr(TrainStep, "__call__", call)
    _, rates, _ = look(lr=0.2)
    assert rates.level == "warning"
    assert "too high" in rates.text


def test_a_slow_machine_does_fewer_steps() -> None:
    seconds = count()
    learning, _, cost = look(clock=lambda: next(seconds))
    assert "in 3 steps" in learning.text, "four seconds, one each"
    assert "takes 1 s" in cost.text


def test_what_can_not_begin(monkeypatch) -> None:
    def spoiled(self, *_):
        return self._parameters[0].sum() * float("nan"), torch.zeros(())

    monkeypatch.setattr(TrainStep, "_loss", spoiled)
    with pytest.raises(TrainingError, match="very first step"):
        look()
