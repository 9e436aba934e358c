"""--minutes: the schedule follows the clock, which is a fake one here; nothing waits."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fcnseg.commands import train as command
from fcnseg.commands.multi_run import TrainResult
from fcnseg.commands.train import train
from fcnseg.errors import Interrupted, OptionError
from fcnseg.progress import Event, Progress
from fcnseg.training import schedule, trainer
from fcnseg.training.run_folder import RunFolder
from fcnseg.training.run_folder.state import load_state
from fcnseg.training.step import TrainStep
from tests.conftest import TINY

OPTIONS = {**TINY, "crop": (32, 32), "ema": 0.9}


class Clock:
    """Time passes in steps, in validation and after it; as long as it is said to take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.step, self.validation = 3.0, 5.0
        self.rates: list[float] = []
        fake = SimpleNamespace(perf_counter=lambda: self.now, monotonic=lambda: self.now)
        for module in (command, trainer, schedule):
            monkeypatch.setattr(module, "time", fake)
        finish = command.finish

        def called(train_step: TrainStep, batch, step, steps, **more):
            self.now += self.step
            self.rates.append(train_step.rate(step, steps))
            return torch.zeros(2)  # nothing is learnt: only time is looked at

        def finished(*arguments):
            self.now += 0.5 * self.validation
            finish(*arguments)

        monkeypatch.setattr(TrainStep, "__call__", called)
        monkeypatch.setattr(command, "finish", finished)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.task == "validation":
            self.now += self.validation * (event.done == event.total)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def run(folder: Path, out: Path, clock: Clock, callback=None, **options) -> TrainResult:
    return train(folder, callback or clock, **{**OPTIONS, "out": out, **options})


@pytest.mark.parametrize(("step", "validation"), [(3.0, 2.0), (2.0, 20.0), (7.0, 1.0)])
def test_it_ends_on_time(
    drawn_folder: Path, tmp_path: Path, clock: Clock, step: float, validation: float
) -> None:
    clock.step, clock.validation = step, validation
    began = clock.now
    result = run(drawn_folder, tmp_path / "run", clock, minutes=2)
    assert clock.now - began == pytest.approx(120, rel=0.1)
    assert result.epochs == result.history[-1]["epoch"]
    # It rises, falls, and ends near 0.
    assert clock.rates[0] < max(clock.rates)
    assert clock.rates[-1] < 0.2 * max(clock.rates)
    # Validation takes a part of the time, not most of it.
    assert len(result.history) * validation < 60


def test_a_machine_that_becomes_slow_shortens_the_schedule(
    drawn_folder: Path, tmp_path: Path, clock: Clock
) -> None:
    began = clock.now

    def callback(event: Event) -> None:
        clock(event)
        if clock.now - began > 40:
            clock.step, clock.validation = 6.0, 8.0

    run(drawn_folder, tmp_path / "run", clock, callback, minutes=2)
    assert clock.now - began == pytest.approx(120, rel=0.1)
    assert len(clock.rates) < 30
    assert clock.rates[-1] < 0.2 * max(clock.rates)


def test_the_rest_of_the_time_is_kept_when_interrupted(
    drawn_folder: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    out, began = tmp_path / "run", clock.now

    def callback(event: Event) -> None:
        clock(event)
        if clock.now - began > 50:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run(drawn_folder, out, clock, callback, minutes=2, save_every=0)
    spent = load_state(RunFolder(out).state)[0].spent
    assert 40 < spent < 55
    clock.now += 10000  # nobody trains in the meantime
    again = clock.now
    with pytest.raises(OptionError, match="was started with --minutes 2"):
        train(resume=True, out=out, epochs=3)
    caplog.set_level(logging.INFO, "fcnseg")
    train(None, clock, resume=True, out=out)
    assert "of 2 minutes are spent" in caplog.text
    assert clock.now - again == pytest.approx(120 - spent, rel=0.15)
    rows = len(load_state(RunFolder(out).state)[0].rows)
    train(None, clock, resume=True, out=out)  # finished: nothing more is trained
    assert "is finished: 2 minutes" in caplog.text
    assert len(load_state(RunFolder(out).state)[0].rows) == rows
    with pytest.raises(OptionError, match="can't be resumed with 1"):
        train(resume=True, out=out, minutes=1)
    train(None, clock, resume=True, out=out, minutes=3)
    assert len(load_state(RunFolder(out).state)[0].rows) > rows


def test_the_estimate_is_said_first(
    drawn_folder: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fcnseg")
    run(drawn_folder, tmp_path / "run", clock, minutes=1)
    [said] = [record.message for record in caplog.records if "more steps" in record.message]
    assert said.startswith("--minutes 1: about ")
    assert "steps of 3 s fit" in said
    assert "smaller --crop" in said  # fewer than 200


def test_minutes_and_epochs_exclude_each_other(drawn_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--epochs and --minutes both say how long to train"):
        train(drawn_folder, out=tmp_path / "run", minutes=1, epochs=2, **TINY)
    assert not (tmp_path / "run").exists()
