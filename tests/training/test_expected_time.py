"""A long training says after a few steps how long it will take."""

import logging
from pathlib import Path

import pytest

from fcnseg.commands.train import train
from fcnseg.training import schedule, trainer
from tests.conftest import TINY


def messages(folder: Path, out: Path, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.INFO, "fcnseg")
    train(folder, out=out, epochs=1, crop=(64, 64), **TINY)
    return caplog.text


def test_a_long_training_says_so(
    drawn_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(trainer, "ANNOUNCED_AFTER", 2)
    assert "This takes about" not in messages(drawn_folder, tmp_path / "short", caplog)
    monkeypatch.setattr(schedule, "LONG_MINUTES", 0)
    text = messages(drawn_folder, tmp_path / "long", caplog)
    assert "1 more step, in 1 epoch. Fewer --epochs take less" in text
