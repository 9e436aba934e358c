"""The README's commands run, in order, in a folder with photos/ and clip.mp4."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fcnseg.cli.app import app
from tests.cli.test_cli import TINY_FLAGS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def home(
    tmp_path: Path, drawn_folder: Path, drawn_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    shutil.copytree(drawn_folder, tmp_path / "photos")
    shutil.copy(drawn_clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_commands_run(home: Path) -> None:
    pytest.importorskip("onnxscript")
    lines = commands()
    assert len(lines) >= 8
    for line in lines:
        _, *arguments = shlex.split(line)
        if arguments[0] == "train":  # the default network is a matter of minutes, not of a test
            arguments += ["--epochs", "1", *TINY_FLAGS]
        if arguments[0] == "bench":
            arguments += ["--frames", "3", "--size", "64", "64"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (line, result.stdout, result.stderr)
    assert (home / "segmented.mp4").stat().st_size > 0
    assert list((home / "heatmaps").rglob("*.png"))
    assert list((home / "segmented" / "labels").glob("*.png"))


def test_the_python_runs(home: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    small = 'epochs=1, backbone="tiny", backbone_weights="none", width=16, workers=0'
    assert "epochs=40" in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace("epochs=40", small)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "11 (128, 160)"


def test_links_lead_somewhere() -> None:
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (root / target).exists(), target
