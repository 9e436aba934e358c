import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fcnseg.config import TrainConfig
from fcnseg.errors import InputError, OptionError, quoted
from fcnseg.training.run_folder import RunFolder, write_atomically
from fcnseg.training.run_folder.resume import (
    continued,
    find_run,
    find_unfinished,
    new_run,
    refuse_edited,
    stored_options,
)
from fcnseg.training.run_folder.state import TrainState, locked, save_state

DECIDED = {"crop": (32, 32), "upsample": "fixed", "class_weights": "none"}
"""What a training decides by the data, besides the number of epochs."""


def make_run(folder: Path, data: Path, *, epochs: int, done: int, age: int) -> RunFolder:
    """A run folder as training leaves it, `age` seconds old."""
    folder.mkdir(parents=True)
    run = RunFolder(folder)
    run.write_config(TrainConfig(data=data.resolve(), epochs=epochs, **DECIDED).with_fallbacks())
    run.write_results([{"epoch": epoch + 1, "loss": 0.5} for epoch in range(done)])
    run.state.write_bytes(b"state")
    os.utime(run.state, (1e9 - age, 1e9 - age))
    return run


def test_new_runs_are_numbered(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert [new_run(None, runs).folder.name for _ in range(3)] == ["train1", "train2", "train3"]
    assert new_run(tmp_path / "mine", runs).folder == tmp_path / "mine"


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    run = new_run(tmp_path / "mine")
    assert new_run(tmp_path / "mine") == run, "an empty folder is no run"
    run.best.write_bytes(b"weights")
    with pytest.raises(OptionError, match="already contains a run") as caught:
        new_run(tmp_path / "mine")
    assert "--resume" not in caught.value.hint, "there is no state"
    run.state.write_bytes(b"state")
    with pytest.raises(OptionError, match="already contains a run") as caught:
        new_run(tmp_path / "mine")
    assert "--resume" in caught.value.hint


def test_a_run_that_another_process_trains_is_not_to_be_deleted(tmp_path: Path) -> None:
    run = new_run(tmp_path / "mine")
    run.config.write_bytes(b"")
    with locked(run), pytest.raises(OptionError, match="trained by another process") as caught:
        new_run(tmp_path / "mine")
    assert "delete" not in caught.value.hint


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Can't make the folder") as caught:
        new_run(tmp_path / "file" / "run")
    assert "--out FOLDER" in caught.value.hint


def test_what_a_training_that_could_not_start_takes_away(tmp_path: Path) -> None:
    def begun(name: str) -> RunFolder:
        run = new_run(tmp_path / name)
        run.write_config(TrainConfig())
        run.write_results([])
        run.tensorboard.mkdir()
        return run

    begun("nothing").discard()
    assert not (tmp_path / "nothing").exists()
    (run := begun("notes")).folder.joinpath("notes.txt").write_text("mine")
    run.discard()
    assert [path.name for path in run.folder.iterdir()] == ["notes.txt"]
    (run := begun("weights")).best.write_bytes(b"weights")
    run.discard()
    assert run.best.exists()
    assert run.config.exists()


def test_which_run_is_meant(tmp_path: Path) -> None:
    runs, one, other = tmp_path / "runs", tmp_path / "one", tmp_path / "other"
    first = make_run(runs / "train1", one, epochs=3, done=1, age=30)
    second = make_run(runs / "train2", other, epochs=3, done=2, age=20)
    finished = make_run(runs / "train3", one, epochs=2, done=2, age=10)
    for data, out, wanted in [
        (None, None, second),
        (one, None, finished),
        (other, None, second),
        (first.folder, None, first),
        (None, first.folder, first),
        (one, second.folder, second),
    ]:
        assert find_run(TrainConfig(data=data, out=out, resume=True), runs) == wanted


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No unfinished run in"):
        find_run(TrainConfig(resume=True), tmp_path)
    with pytest.raises(OptionError, match="was trained on data"):
        find_run(TrainConfig(data=Path("data"), resume=True), tmp_path)
    with pytest.raises(OptionError, match=r"no state\.pt"):
        find_run(TrainConfig(out=tmp_path, resume=True), tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).state.touch()
    with pytest.raises(OptionError, match="is a run to resume, and --out names"):
        find_run(TrainConfig(data=tmp_path / "a", out=tmp_path / "b", resume=True), tmp_path)
    found = find_run(TrainConfig(data=tmp_path / "a", out=tmp_path / "a", resume=True), tmp_path)
    assert found.folder == tmp_path / "a"


def test_a_file_of_a_run_is_no_dataset(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "data", epochs=3, done=1, age=0)
    with pytest.raises(OptionError, match="a file of a run, not a dataset") as caught:
        find_run(TrainConfig(data=run.last, resume=True), tmp_path / "runs")
    assert f"fcnseg train {run.folder} --resume" in caught.value.hint


def test_a_run_whose_patience_is_over_is_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "train1", tmp_path / "data", epochs=9, done=2, age=0)
    run.write_config(replace(stored_options(run), patience=1))
    for rows, found in (([{"miou": 0.5}], True), ([{"miou": 0.5}, {"miou": 0.5}], False)):
        save_state(run.state, TrainState(rows=rows), {})
        unfinished = find_unfinished(TrainConfig(data=tmp_path / "data"), tmp_path)
        assert (unfinished == run) is found


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    run = RunFolder(tmp_path)
    refused = pytest.raises(OptionError, match="is being trained by another process")
    with locked(run), refused, locked(run):
        pass
    with locked(run):
        pass


def test_a_run_without_a_state(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tmp_path / "data", epochs=3, done=0, age=0)
    run.state.unlink()
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    for given in ({"data": run.folder}, {"out": run.folder}):
        with pytest.raises(OptionError, match="ended before the first was saved") as caught:
            find_run(TrainConfig(resume=True, **given), tmp_path / "runs")
        assert f"--like {run.folder}" in caught.value.hint
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before
    run.last.write_bytes(b"weights")
    with pytest.raises(OptionError, match="only weights are there") as caught:
        find_run(TrainConfig(resume=True, out=run.folder), tmp_path / "runs")
    assert f"--finetune {run.last}" in caught.value.hint


def test_a_job_that_starts_again_resumes_only_what_is_unfinished(tmp_path: Path) -> None:
    runs, data = tmp_path / "runs", tmp_path / "data"
    assert find_unfinished(TrainConfig(data=data), runs) is None
    begun = make_run(runs / "train1", data, epochs=3, done=1, age=20)
    assert find_unfinished(TrainConfig(data=data), runs) == begun
    make_run(runs / "train2", data, epochs=3, done=3, age=10)
    assert find_unfinished(TrainConfig(data=data), runs) is None


def test_a_job_killed_before_its_first_state_begins_again_in_its_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run = make_run(tmp_path / "run", data, epochs=3, done=0, age=0)
    again = TrainConfig(data=data, out=run.folder)
    assert find_unfinished(again) == run
    run.state.unlink()
    run.last.write_bytes(b"weights")
    assert find_unfinished(again) is None
    assert run.config.exists(), "weights: something would be lost"
    run.last.unlink()
    assert find_unfinished(again) is None
    assert new_run(run.folder) == run
    run.config.write_text("theirs = 1\n")
    assert find_unfinished(again) is None
    assert run.config.exists(), "another program's"


UNDECIDED = (
    "crop", "backbone", "decoder", "fuse", "width", "dropout", "upsample", "skips", "output_stride",
    "class_weights",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, None) for name in (*UNDECIDED, "epochs")),
        *((name, '"auto"') for name in ("batch", "class_weights", "upsample")),
        ("epochs", "0"),
        ("epochs", "3\nminutes = 2.0"),
    ],
)
def test_a_stored_option_that_decides_nothing(name: str, text: str | None, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs/train1", tmp_path / "data", epochs=3, done=1, age=0)
    assert stored_options(run) == TrainConfig.load(run.config)
    lines = run.config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{name} = ")]
    run.config.write_text("\n".join([*kept, *([f"{name} = {text}"] if text else [])]))
    for reads in (
        lambda: stored_options(run),
        lambda: find_run(TrainConfig(resume=True), tmp_path / "runs"),
    ):
        with pytest.raises(OptionError, match=f"it no longer sets {name}") as caught:
            reads()
        assert f"--finetune {run.folder}" in caught.value.hint


STORED = {"data": Path("data").resolve(), "epochs": 5, "backbone": "tiny", "lr": 0.01}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, {}),
        ({"backbone": "tiny", "lr": 0.01, "epochs": 5}, {}),
        ({"epochs": 9}, {"epochs": 9}),
        ({"workers": 2, "device": "cpu"}, {"workers": 2, "device": "cpu"}),
        ({"data": Path("moved")}, {"data": Path("moved").resolve()}),
    ],
)
def test_options_of_a_resumed_run(given, changed, tmp_path: Path) -> None:
    stored = TrainConfig(**STORED)
    config = continued(stored, {**given, "resume": True}, RunFolder(tmp_path))
    assert config == TrainConfig(**{**STORED, **changed})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"backbone": "vgg16"}, "--backbone tiny; it can't be resumed with vgg16"),
        ({"backbone": "efficientnet_lite0"}, "--backbone tiny"),  # the default, but asked for
        ({"epochs": 4}, "--epochs 5; it can't be resumed with 4"),
        ({"crop": (64, 96)}, "started without --crop; it can't be resumed with 64 96"),
    ],
)
def test_contradictions(given, says: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=says):
        continued(TrainConfig(**STORED), given, RunFolder(tmp_path))


def test_what_a_config_leaves_at_its_default_contradicts_nothing(tmp_path: Path) -> None:
    stored = TrainConfig(**STORED)
    assert continued(stored, TrainConfig(resume=True).chosen(), RunFolder(tmp_path)) == stored
    with pytest.raises(OptionError, match="--lr"):
        continued(stored, TrainConfig(lr=0.02, resume=True).chosen(), RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("edited", "says"),
    [
        ({}, None),
        ({"epochs": 9, "workers": 3, "data": Path("moved"), "unlabeled": Path("moved")}, None),
        ({"epochs": 4}, "epochs was 5 and is now 4"),
        ({"lr": 0.5, "seed": 7}, "lr was 0.01 and is now 0.5, seed was 0 and is now 7"),
        ({"crop": (64, 96)}, "crop was not set and is now 64 96"),
    ],
)
def test_a_config_edited_between_two_parts_of_a_run(edited, says, tmp_path: Path) -> None:
    begun, stored = TrainConfig(**STORED).as_dict(), TrainConfig(**{**STORED, **edited})
    refuse_edited(RunFolder(tmp_path), stored, None)
    if says is None:
        refuse_edited(RunFolder(tmp_path), stored, begun)
    else:
        with pytest.raises(OptionError, match=f"since the run began: {says}") as caught:
            refuse_edited(RunFolder(tmp_path), stored, begun)
        assert "--like" in caught.value.hint


def test_results_are_the_rows(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.epochs_done() == 0
    run.write_results([])
    assert run.epochs_done() == 0
    rows = [{"epoch": 1, "loss": 0.5, "iou a, b": None}, {"epoch": 2, "loss": 0.25, "iou a, b": 1}]
    run.write_results(rows)
    run.write_results(rows)
    with run.results.open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "loss": "0.5", "iou a, b": ""},
            {"epoch": "2", "loss": "0.25", "iou a, b": "1"},
        ]
    assert run.epochs_done() == 2
    run.results.write_text('epoch\n"' + "1\n" * 100_000)  # an open quote
    assert run.epochs_done() == 0


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file) -> None:
        file.write(b"new, but")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left") as caught:
        write_atomically(path, fail)
    assert "--resume" not in caught.value.hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path], "nothing half-written stays"
    (tmp_path / "state.pt").touch()
    with pytest.raises(InputError, match="No space left") as caught:
        write_atomically(path, fail)
    assert f"fcnseg train {quoted(tmp_path)} --resume" in caught.value.hint
