from itertools import count

import pytest
import torch

from fcnseg.config import TrainConfig
from fcnseg.errors import TrainingError
from fcnseg.events import Note
from fcnseg.models.fcn import FCN
from fcnseg.training.sanity import look_before
from fcnseg.training.step import Stepper
from tests.test_step import make_batch, make_stepper


def look(clock=None, **options) -> list[Note]:
    config = TrainConfig.make({"lr": 0.01, "backbone_lr": 1.0, **options})
    network = make_stepper().learner.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    told: list[Note] = []

    def make(other: FCN, chosen: TrainConfig) -> Stepper:
        stepper = make_stepper()
        return Stepper(
            other, chosen, criterion=stepper.criterion, preprocess=stepper.preprocess,
            ranks=stepper.ranks, precision=stepper.precision,
        )  # fmt: skip

    ticks = count()
    look_before(
        network, config, make_batch(), make, told.append, clock or (lambda: next(ticks) / 999)
    )
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), "the network itself is left alone"
    return told


def test_what_can_be_learned_is_told_so() -> None:
    learning, rates, cost = look()
    assert learning.level == "info"
    assert "two images are learned in 29 steps at 0.01" in learning.text
    assert "falls fastest at learning rates around" in rates.text
    fastest = float(rates.text.split("around ")[1].split(" ")[0].rstrip(";."))
    assert 1e-4 < fastest < 1
    assert "a step of 4 images takes" in cost.text


def test_a_rate_that_is_too_small_is_told() -> None:
    learning, rates, _ = look(lr=1e-7)
    assert learning.level == "warning"
    assert "hardly learned" in learning.text
    assert rates.level == "info"


def test_a_rate_that_breaks_it_is_told(monkeypatch) -> None:
    honest = Stepper.__call__

    def call(self, batch, step, steps, *, parts=1, calm=1.0):
        broken = self.config.lr * calm > 0.05 and step > 0
        return honest(self, batch, step, steps, calm=calm) + (50.0 if broken else 0.0)

    monkeypatch.setattr(Stepper, "__call__", call)
    _, rates, _ = look(lr=0.2)
    assert rates.level == "warning"
    assert "too high" in rates.text


def test_a_slow_machine_does_fewer_steps() -> None:
    seconds = count()
    learning, _, cost = look(clock=lambda: next(seconds))
    assert "in 3 steps" in learning.text, "four seconds, one each"
    assert "takes 1 s" in cost.text


def test_what_can_not_begin(monkeypatch) -> None:
    monkeypatch.setattr(Stepper, "_loss", lambda self, *_: self._parameters[0].sum() * float("nan"))
    with pytest.raises(TrainingError, match="very first step"):
        look()
