"""The README's commands run as written, in order, in one folder; so does its Python."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fcnseg.cli.app import app
from tests.cli.test_cli import TINY_FLAGS
from tests.test_docs import blocks, run_python

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def home(tmp_path: Path, data: Path, drawn_clip: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder after `fcnseg demo`."""
    shutil.copytree(data, tmp_path / "fcnseg-demo/data")
    shutil.copy(drawn_clip, tmp_path / "fcnseg-demo/clip.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[str]:
    lines = "\n".join(blocks(README, "console")).splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")]


def test_it_is_two_screens() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 110


def test_the_commands_run(home: Path) -> None:
    pytest.importorskip("onnxscript")
    lines = commands()
    assert len(lines) >= 8
    for line in lines:
        program, *arguments = shlex.split(line)
        if program != "fcnseg":
            subprocess.run([program, *arguments], check=True)
            continue
        if arguments[0] == "train":  # the default network takes minutes, too long for a test
            arguments += ["--epochs", "1", *TINY_FLAGS]
        if "int8" in arguments:
            arguments += ["--size", "128", "160"]
        if arguments[0] == "bench":
            arguments += ["--frames", "3", "--size", "64", "64"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (line, result.stdout, result.stderr)
    assert (home / "segmented.mp4").stat().st_size > 0
    assert list((home / "heatmaps").rglob("*.png"))
    assert list((home / "segmented" / "labels").glob("*.png"))


def test_the_python_runs(home: Path) -> None:
    shutil.copytree("fcnseg-demo/data", "photos")
    shutil.copy("fcnseg-demo/clip.mp4", "clip.mp4")
    shutil.copy("photos/images/val/0000.png", "cells.png")
    [code] = blocks(README, "python")
    assert re.search(r"\bepochs=40\b", code)
    printed = run_python(code, home)
    assert printed.splitlines()[-1] == "11 (128, 160)"
    assert (home / "overlay.png").is_file()
    assert (home / "heat.png").is_file()
