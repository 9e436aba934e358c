import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from fcnseg.errors import MissingExtra
from fcnseg.progress import EpochEnd, Event, Message
from fcnseg.training.validation import with_tensorboard


class Writer:
    """A stand-in for TensorBoard's."""

    made: ClassVar["list[Writer]"] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.scalars = folder, purge_step, []
        self.flushed = 0
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed += 1


def test_epochs_become_scalars(monkeypatch, tmp_path: Path) -> None:
    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    heard: list[Event] = []
    listen = with_tensorboard(heard.append, tmp_path, epochs_done=2)
    done = EpochEnd(3, 9, {"epoch": 3, "loss": 0.5, "miou": 0.25}, {"a": 0.5, "b": None}, True)
    events = [Message("hello"), done]
    for event in events:
        listen(event)
    writer = Writer.made[-1]
    assert heard == events, "the other callback is called for everything"
    assert writer.scalars == [("loss", 0.5, 3), ("miou", 0.25, 3), ("iou/a", 0.5, 3)]
    assert (writer.folder, writer.purge_step, writer.flushed) == (str(tmp_path), 3, 1)


def test_without_the_extra(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match="'log'"):
        with_tensorboard(lambda event: None, tmp_path)


def test_the_real_one_writes_a_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    listen = with_tensorboard(lambda event: None, tmp_path)
    listen(EpochEnd(1, 1, {"loss": 0.5}, {"a": 0.5}, True))
    assert [path.name.startswith("events.") for path in tmp_path.iterdir()] == [True]
