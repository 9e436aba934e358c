"""A disk that becomes full at the first, second ... of all files that a command writes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fcnseg
from fcnseg.classes import ClassMap
from fcnseg.config import TrainConfig
from fcnseg.errors import FcnsegError
from fcnseg.inference.prediction import PredictedArrays, ProportionsSink
from fcnseg.io.images import read_image
from fcnseg.io.sources.base import Frame
from fcnseg.io.video_writer import VideoWriter
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.training.run_folder import RunFolder
from fcnseg.training.run_folder.state import TrainState, save_state
from tests.faults.images import RGB
from tests.faults.models import RUN, write_checkpoint

MOST = 60
TWO = ClassMap.of(["a", "b"])


class Full:
    """A disk with room for so many files; named: of which only these count."""

    def __init__(self, room: int, patch: pytest.MonkeyPatch, named: str = "") -> None:
        self.room, self.met = room, False
        own = Path.open

        def write(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if {*mode} & {*"wax"} and named in path.name:
                self.room -= 1
                if self.room < 0:
                    self.met = True
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return own(path, mode, *rest, **more)

        patch.setattr(Path, "open", write)


def outcomes(
    run: Callable[[Path], object], folder: Path, rooms: Iterable[int] = range(MOST), named: str = ""
) -> list[tuple[Path, bool]]:
    """Run with room for 0, 1, 2 ... files until it needs no more: (folder, whether it failed).

    Only fcnseg's own errors may come, and they say why.
    """
    found: list[tuple[Path, bool]] = []
    for room in rooms:
        said, out = "", folder / f"out{room}"
        with pytest.MonkeyPatch.context() as patch:
            disk = Full(room, patch, named)
            try:
                run(out)
            except FcnsegError as error:
                said = str(error)
        found.append((out, bool(said)))
        assert not said or "No space left on device" in said, said
        if not disk.met:
            assert not said
            return found
    raise AssertionError(f"more than {MOST} files")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two images, and a dataset of four."""
    from tests.datasets import test_annotation_formats as tools

    folder = tmp_path_factory.mktemp("place")
    write_checkpoint(folder)
    (folder / "in").mkdir()
    for number in range(2):
        Image.fromarray(RGB).save(folder / "in" / f"{number}.png")
    (folder / "data").mkdir()
    tools.yolo(folder / "data")
    return folder


def test_infer_leaves_whole_outputs_only(place: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def run(out: Path) -> None:
        model = str(place / "model.safetensors")
        save = ("labels", "overlay")
        hear = lambda event: told.append(getattr(event, "text", ""))  # noqa: E731
        fcnseg.infer(str(place / "in"), hear, model=model, out=out, save=save)

    found = outcomes(run, tmp_path)
    finished = [text.partition("are in ")[2] for text in told if "Finished outputs" in text]
    assert finished, "of those that were cut short"
    for folder in ", ".join(finished).split(", "):
        assert any(Path(folder).iterdir()), folder
    assert len(found) > 4
    for out, _ in found:
        for path in out.rglob("*.*"):
            assert not path.name.startswith("."), "nothing half-written is left"
            assert path.suffix == ".jsonl" or read_image(path).size


def test_check_says_what_it_could_not_write(place: Path, tmp_path: Path) -> None:
    def run(out: Path) -> None:
        files = {name: out / name for name in ("fix", "contact.png", "check.html", "d.toml")}
        fcnseg.check(place / "data", fix=files["fix"], contact=files["contact.png"],
                     html=files["check.html"], write=files["d.toml"])  # fmt: skip

    found = outcomes(run, tmp_path)
    assert len(found) > 4
    assert all(failed for _, failed in found[:-1])


def test_a_video_that_has_no_room_at_its_start_leaves_no_hidden_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Full(0, monkeypatch)
    with pytest.raises(FcnsegError) as caught:
        VideoWriter(tmp_path / "out.mp4", Fraction(5), (16, 16))
    assert not list(tmp_path.iterdir()), "while the error, and the writer in it, is still held"
    assert "No space left" in caught.value.message


def test_shares_of_an_earlier_run_stay_until_there_is_a_line(tmp_path: Path) -> None:
    frame, labels = Frame(RGB, name="a"), PredictedArrays(np.zeros(RGB.shape[:2], np.uint8))
    (path := tmp_path / "shares.jsonl").write_text("older\n")
    ProportionsSink(path, TWO).close(complete=False)
    assert path.read_text() == "older\n"
    sink = ProportionsSink(path, TWO)
    sink.write(frame, labels)
    sink.close()
    assert path.read_text().startswith('{"index"')
    if Path("/dev/full").exists():
        full = ProportionsSink(Path("/dev/full"), TWO)
        for call in (lambda: full.write(frame, labels), full.close):
            with pytest.raises(FcnsegError, match="Can't write /dev/full"):
                call()


@pytest.mark.parametrize("command", ["view", "review"])
def test_an_output_folder_without_outputs_is_not_left(
    place: Path, tmp_path: Path, command: str
) -> None:
    given = {"view": (place / "in", {}), "review": (place / "in", {"unlabeled": True})}[command]

    def run(out: Path) -> None:
        model = str(place / "model.safetensors")
        options = {"model": [model] if command == "view" else model, "out": out, **given[1]}
        getattr(fcnseg, command)(given[0], **options)

    found = outcomes(run, tmp_path)
    assert len(found) > 3
    for out, _ in found:
        folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
        empty = [folder for folder in folders if folder.exists() and not any(folder.iterdir())]
        assert not empty
        assert not out.exists() or [path.name for path in out.iterdir()] != ["manifest.jsonl"]


@pytest.mark.parametrize("lines", [0, 1])
def test_shares_hold_whole_lines_after_a_full_disk(tmp_path: Path, lines: int) -> None:
    frame, labels = Frame(RGB, name="a"), PredictedArrays(np.zeros(RGB.shape[:2], np.uint8))
    sink = ProportionsSink(path := tmp_path / "shares.jsonl", TWO)
    for _ in range(lines):
        sink.write(frame, labels)
    written = path.read_bytes()
    sink._file.write('{"index": 7, "na')  # what fits
    sink._file.flush()
    assert sink.close(complete=False) == ([path] if lines else [])
    assert path.read_bytes() == written if lines else not path.exists()


def test_train_can_be_resumed_after_a_full_disk(place: Path, tmp_path: Path) -> None:
    options = {**RUN, "data": place / "data", "save_every": 0, "epochs": 2}

    def run(out: Path) -> None:
        fcnseg.train(TrainConfig.make({**options, "out": out}))

    (never, _), (out, failed), (complete, _) = outcomes(run, tmp_path, (0, 3, MOST), "state")
    assert not never.exists(), "nothing is left of a run that never began"
    assert failed
    fcnseg.train(TrainConfig.make({"data": out, "resume": True}))
    weights, expected = (Checkpoint.load(RunFolder(run).last).weights for run in (out, complete))
    assert all(weights[name].equal(expected[name]) for name in expected)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_becomes_full_within_a_state_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch then closes its archive, and raises an error about a position in it."""
    save_state(path := tmp_path / "state.pt", TrainState(step=3), {})
    whole, own = path.read_bytes(), Path.open
    full = lambda path, mode="r", *rest: own(Path("/dev/full") if "w" in mode else path, mode)  # noqa: E731
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FcnsegError, match=r"state\.pt: No space left on device"):
        save_state(path, TrainState(step=4), {"learner": {"a": torch.zeros(100_000)}})
    assert path.read_bytes() == whole
