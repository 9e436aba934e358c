"""The command line as a user meets it: exit status, one message, JSON on stdout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fcnseg.__main__ import main
from fcnseg.cli.app import app
from fcnseg.cli.console import run
from fcnseg.config import CONFIGS
from fcnseg.config.options import suggest_option
from fcnseg.config.texts import ADVICE, RELATED, SYNONYMS
from fcnseg.io.images import write_image
from tests.conftest import TINY_FLAGS


def call(*arguments: object, status: int = 0) -> Any:
    """Run a command in this process; assert its exit status and that no traceback is shown."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    shown = result.stdout + result.stderr
    assert result.exit_code == status, shown
    assert "Traceback" not in shown
    return result


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with pictures and no labels."""
    for name in "ab":
        write_image(tmp_path / "photos" / f"{name}.png", np.full((40, 50, 3), 90, np.uint8))
    return tmp_path / "photos"


def test_version() -> None:
    from fcnseg import __version__

    assert call("--version").stdout.strip() == f"fcnseg {__version__}"


def test_no_arguments_shows_help() -> None:
    result = CliRunner().invoke(app, [])
    assert "Usage" in result.stdout + result.stderr


def test_check_json(drawn_folder: Path) -> None:
    found = json.loads(call("check", drawn_folder, "--json").stdout)
    assert set(found) >= {"layout", "pairs", "classes", "ignore_index", "splits", "findings"}
    assert found["pairs"] == 30
    assert found["classes"] == ["background", "disk", "box", "star"]
    assert found["splits"] == {"train": 24, "val": 6}
    for finding in found["findings"]:
        assert set(finding) >= {"severity", "code", "message", "files", "repair"}


def test_a_note_of_check_is_no_fault(drawn_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("images", "labels"):
        shutil.copytree(drawn_folder / name / "train", folder / name)
    page = tmp_path / "page.html"
    shown = call("check", folder, "--contact", tmp_path / "sheet.png", "--html", page).stdout
    note = shown.partition("note drawn-split: ")[2]
    assert note.partition("hint: ")[2].startswith("always the same pairs")
    assert "fix: " not in shown.partition("note ")[2]
    assert "Hint: always the same pairs" in page.read_text(encoding="utf-8")


def test_eval_json(drawn_folder: Path, tiny_run: Path) -> None:
    report = json.loads(call("eval", drawn_folder, "-m", tiny_run, "--json").stdout)
    assert report["images"] == 6
    assert 0 <= report["miou"] <= 1
    assert set(report) >= {"miou", "pixel_accuracy", "mean_accuracy", "fw_iou", "classes"}
    row = report["classes"][1]
    assert set(row) >= {"name", "iou", "accuracy", "pixels"}
    assert row["name"] == "disk"


def test_infer_json_and_files(tiny_run: Path, drawn_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    found = json.loads(call("infer", drawn_clip, "-m", tiny_run, "-o", out, "--json").stdout)
    assert (found["frames_in"], found["frames_out"], found["failed"]) == (12, 12, [])
    assert found["outputs"] == [str(out)]
    assert out.stat().st_size > 0
    assert found["fps"] > 0
    assert found["seconds"] > 0


def test_viz_writes_heatmaps(tiny_run: Path, drawn_folder: Path, tmp_path: Path) -> None:
    image = drawn_folder / "images/val/0000.png"
    call("viz", image, "-m", tiny_run, "-o", tmp_path / "maps", "--class", "star")
    assert list((tmp_path / "maps").rglob("*star*.png"))


def test_doctor() -> None:
    rows = json.loads(call("doctor", "--json").stdout)
    parts = {row["part"] for row in rows}
    assert {"Python", "torch", "OpenCV", "GPU", "precision", "display"} <= parts
    assert "torch" in call("doctor").stdout


def test_train_resume_and_newest_run(
    drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("train", drawn_folder, "--epochs", 1, *TINY_FLAGS)
    result = call("train", drawn_folder, "--epochs", 2, "--resume", *TINY_FLAGS)
    assert "epoch 2/2" in result.stderr
    assert "epoch 1/2" not in result.stderr
    rows = (tmp_path / "runs/train1/results.csv").read_text().splitlines()
    assert len(rows) == 3
    # without -m, the newest run's best is taken, and the program says which
    result = call("eval", drawn_folder)
    assert "train1" in result.stderr


def test_options_from_a_file(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text(f'data = "{drawn_folder.as_posix()}"\nmodel = "nowhere"\nsplit = "train"\n')
    result = call("eval", "--config", file, "-m", tiny_run, "--json")
    assert json.loads(result.stdout)["images"] == 24


def bad_inputs(
    folder: Path, photos: Path, drawn: Path, run: Path
) -> list[tuple[list[object], int, str]]:
    """Arguments, exit status, and words the message must hold."""
    text = folder / "note.png"
    text.write_text("not a picture")
    fake = folder / "fake.safetensors"
    fake.write_bytes(b"not a checkpoint at all")
    empty = folder / "empty"
    empty.mkdir()
    picture = photos / "a.png"
    nowhere = folder / "nowhere"
    tiny = ["--epochs", 1, *TINY_FLAGS]
    return [
        (["train", nowhere, *tiny], 1, "nowhere"),
        (["train", empty, *tiny], 1, "empty"),
        (["train", photos, *tiny], 1, "labels"),
        (["train", text, *tiny], 1, "note.png"),
        (["train", drawn, "--backbone", "resnet7"], 2, "resnet7"),
        (["train", photos, "--epoch", 1], 2, "--epochs"),
        (["train", photos, "--decoder", "fcn9s"], 2, "fcn9s"),
        (["train", drawn, "--device", "abacus"], 2, "abacus"),
        (["train"], 2, "folder"),
        (["check", nowhere], 1, "nowhere"),
        (["check", empty], 1, "empty"),
        (["check", photos], 1, "labels"),
        (["eval", photos, "-m", run], 1, "labels"),
        (["infer", nowhere, "-m", run], 1, "nowhere"),
        (["infer", empty, "-m", run], 1, "empty"),
        (["infer", text, "-m", run], 1, "note.png"),
        (["infer", picture, "-m", fake], 1, "fake.safetensors"),
        (["infer", picture, "-m", nowhere], 1, "nowhere"),
        (["infer", picture, "-m", run, "--class", "cat"], 2, "cat"),
        (["infer", picture, "-m", run, "--save", "video"], 2, "save"),
        (["infer"], 2, "SOURCE is missing; expected: images, videos"),
        (["viz", nowhere, "-m", run], 1, "nowhere"),
        (["viz", picture, "-m", run, "--class", "cat"], 2, "cat"),
        (["export", fake], 1, "fake.safetensors"),
        (["export", run, "--format", "floppy"], 2, "floppy"),
        (["bench", fake], 1, "fake.safetensors"),
        (["nonsense"], 2, "nonsense"),
        (["infer", picture, "--config", nowhere], 2, "nowhere"),
    ]


def test_every_mistake_has_one_clear_message(
    tmp_path: Path,
    photos: Path,
    drawn_folder: Path,
    tiny_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, status, says in bad_inputs(tmp_path, photos, drawn_folder, tiny_run):
        result = call(*arguments, status=status)
        assert says in result.stderr, (arguments, result.stderr)
        assert result.stderr.count("error: ") + result.stderr.count(" Error ") == 1, arguments
        assert not result.stdout, arguments


def test_some_failed_is_exit_3(tiny_run: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_text("not a picture")
    out = tmp_path / "out"
    result = call("infer", photos, "-m", tiny_run, "-o", out, "--json", status=3)
    found = json.loads(result.stdout)
    assert (found["frames_in"], found["frames_out"]) == (3, 2)
    assert "broken" in str(found["failed"])
    assert len(list((out / "labels").glob("*.png"))) == 2


def test_a_bug_of_ours_is_told_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("fcnseg.commands.check.check", broken)
    result = call("check", tmp_path, status=1)
    assert "A bug in fcnseg: ZeroDivisionError: boom" in result.stderr
    assert "--debug" in result.stderr


def test_warnings_of_pillow_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as caught:
        run(app, ["--version"])
        warnings.warn_explicit("EXIF", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")
    assert caught == []


def test_debug_shows_where(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fcnseg", "--debug", "check", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "DatasetError" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (["train", "--image-size", "64"], "--image-size", "did you mean --crop or --short-side?"),
        (["bench", "--image-size", "64"], "--image-size", "did you mean --short-side or --size?"),
        (["train", "--epoch", "3"], "--epoch", "did you mean --epochs?"),
        (["predict", "a.png"], "predict", "fcnseg infer`?"),
        (["TRAIN", "data"], "TRAIN", "fcnseg train`?"),
        (["train", "x", "--smooth", "0.5"], "--smooth", "--smooth is an option of: infer"),
        (["doctor", "--epochs", "3"], "--epochs", "--help"),
        (["train", "--gpu", "0"], "--gpu", "--device"),
        (["train", "--work-dir", "x"], "--work-dir", "--out?"),
        (["train", "--conf-thres", "1"], "--conf-thres", "--conf is an option of: infer"),
        (["export", "x", "-m", "y"], "MODEL was given twice, also as --model", "give one"),
        (["check", "-m", "x"], "-m", "--model is an option of: "),
        (["eval", "x", "-o", "y"], "-o", "--out is an option of: "),
        (["train", "--num-classes", "3"], "--num-classes", "follows from the labels"),
        (["infer", "x", "-o", "A", "-o", "B"], "--out was given 2 times: A, B", "once for each"),
        (["eval", "x", "--csv", "a.xlsx"], "ends in .csv, .txt; found '.xlsx'", "--csv a.csv"),
        (["trian"], "'trian'", "--help"),
        (["train", "x", "--crop", "3"], "requires 2 arguments", "between them: H W"),
        (["train", "x", "--crop", "3", "-o", "y"], "requires 2 arguments", "between them: H W"),
        (["bench", "--size", "3", "--json"], "requires 2 arguments", "between them: H W"),
        (
            ["train", "x", "--scale", "2", "1"],
            "--scale: expected MIN MAX; found 2 1",
            "--scale 1 2",
        ),
        (["doctor", "--jsn"], "--jsn", "did you mean --json?"),
        (["infer", "0", "1", "-m", "nuclei"], "Camera 0 can't be one of several", "this one alone"),
        (["infer", "--webcam", "0"], "--webcam", "a camera's number is the SOURCE: "),
        (["infer", "--save", "color", "side"], "folder side", "commas between: --save color,side"),
        (["viz", "p", "--show-what", "image,", "errors"], "errors", "--show-what image,errors"),
        (["export", "m", "--include", "argmax", "skips"], "(skips)", "option: --include skips"),
        (["compare", "p", "-m", "a", "b"], "(b)", "repeat the option: -m b"),
        (["train", "p", "--lr", "1", "2"], "(2)", "train --help`"),
        (["--versio"], "--versio", "did you mean --version?"),
        (["train", "--skips", "all"], "expected zero, scaled", ""),
        (["viz", "x", "--limit", "many"], "a whole number at least 0; found 'many'", ""),
        (["train", "x", "--decoder", "fcn9s"], "expected fcn32s, fcn16s", ""),
    ],
)
def test_wrong_arguments_are_told_as_other_mistakes(
    arguments: list[str], says: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert hint in error
    assert "valid integer" not in error, "the words of a validator"


def test_no_hint_names_an_option_that_the_command_lacks() -> None:
    """What a hint says is typed as it stands; arguments are no options."""
    words = ["image_size", "epoch", "tiles", "batchsize", "data", "source", "clas", "jso", "model"]
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for config in CONFIGS:
        parameters = commands[config.command].params
        known = {flag for one in parameters for flag in (*one.opts, *one.secondary_opts)}
        for word in (
            *RELATED,
            *SYNONYMS,
            *ADVICE,
            *words,
            "no_calibrat",
            "proportion",
            "classes",
        ):
            hint = suggest_option(f"--{word}", config)
            own = "" if " is an option of: " in hint else hint
            assert set(re.findall("--[a-z-]+", own)) <= known, (word, hint)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("check --data x", "fcnseg check DATA"),
        ("export --weights x", "fcnseg export MODEL"),
        ("infer --source a.png", "fcnseg infer SOURCE"),
        ("demo --images x", "--images is an option of: export\n"),
        ("infer --classes x", "did you mean --class?"),
    ],
)
def test_an_argument_is_no_option(
    arguments: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, arguments.split()) == 2
    assert hint in capsys.readouterr().err


def test_switches_of_the_help_take_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["--help"]) == 0
    printed = capsys.readouterr().out
    assert "--install-completion" in printed
    assert "<bool>" not in printed


@pytest.mark.parametrize("command", ["infer", "check", "bench"])
def test_the_help_names_arguments_without_python_types(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"]).output
    arguments = text.partition("Arguments")[2].partition("Options")[0]
    assert not re.search(r"<\w+(\[\w+\])?>", arguments)
    assert "..." not in arguments


@pytest.mark.parametrize("where", ["fcnseg.cli.console.run", "typer.main.get_command"])
def test_ctrl_c_before_a_command_begins(where: str, monkeypatch, capsys) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    handlers: list[tuple[int, object]] = []
    monkeypatch.setattr(where, interrupted)
    monkeypatch.setattr(signal, "signal", lambda *both: handlers.append(both))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert handlers[-1] == (signal.SIGINT, signal.SIG_DFL), "a second one would print a traceback"
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize(
    "words",
    [
        ["train", ""],
        ["train", "data", "--out", ""],
        ["infer", "a.png", ""],
        ["infer", "a.png", "--model", ""],
        ["infer", "a.png", "--class", ""],
        ["eval", "data", "--csv", ""],
        ["export", "model", "--config", ""],
    ],
    ids=" ".join,
)
def test_an_empty_variable_of_the_shell_does_not_mean_the_current_folder(words: list[str]) -> None:
    assert "found an empty text" in call(*words, status=2).stderr


def test_memory_that_ran_out_is_no_bug(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        cv2.resize(np.zeros((9, 9, 3), np.uint8), (2_000_000, 2_000_000))

    monkeypatch.setattr("fcnseg.commands.check.check", fail)
    assert "error: Memory ran out" in call("check", photos, status=1).stderr

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")  # as Python does

    monkeypatch.setattr("fcnseg.commands.check.check", refused)
    assert "No more threads can be started" in call("check", photos, status=1).stderr


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    command = f"cd gone; rmdir ../gone; {sys.executable} -m fcnseg doctor"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == (
        "error: The current folder can't be used: No such file or directory."
    )


@pytest.mark.parametrize("columns", ["0", "1", "5"])
def test_a_terminal_without_a_width(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "Python" in "".join(call("doctor").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("infer a.png model=b", "--model b"), ("train data=c", "c"), ("viz source=d", "d")],
)
def test_options_in_another_programs_spelling(
    arguments: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, arguments.split())
    assert shown.exit_code != 0
    assert f"expected {expected}; nothing is given by =" in shown.stderr
    (tmp_path / "model=b").touch()  # a file of that name is one
    assert "expected --model" not in CliRunner().invoke(app, ["infer", "model=b"]).stderr


@pytest.mark.parametrize("command", ["", "train", "doctor"])
def test_the_help_without_docstrings(command: str) -> None:
    """`python -OO` removes them; a dataclass then describes itself by its fields."""
    words = ["-m", "fcnseg", *command.split(), "--help"]
    shown = [
        subprocess.run([sys.executable, *flags, *words], capture_output=True, check=True).stdout
        for flags in (["-OO"], [])
    ]
    assert shown[0] == shown[1]


@pytest.mark.skipif(os.name == "nt", reason="a shell closes the streams")
def test_streams_that_are_closed_are_not_a_bug(drawn_clip: Path, random_model: Path) -> None:
    words = f"infer {drawn_clip} -m {random_model} --limit 2"
    command = f"{sys.executable} -m fcnseg {words} -o - >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, "bug" in done.stderr) == (0, False), done.stderr
    opened = "import os; print(os.open(os.devnull, os.O_RDONLY), flush=True)"
    code = f"from fcnseg.__main__ import _open_missing_streams as o; o(); {opened}"
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -c '{code}' 2>&-"], capture_output=True, text=True
    )
    assert int(done.stdout) > 2
