"""Commands in messages are spelled so that they work where the user is."""

import os
import sys
from pathlib import Path

import pytest

from fcnseg import cli as terminal
from fcnseg.cli.console import print_error


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment that is not activated, in the working folder."""
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    terminal.program.cache_clear()
    yield scripts
    terminal.program.cache_clear()


def install(folder: Path) -> Path:
    script = folder / ("fcnseg.exe" if os.name == "nt" else "fcnseg")
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    return script


def test_a_script_that_is_not_on_the_path_is_named_by_its_path(
    venv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = install(venv)
    assert terminal.program() == str(script.relative_to(Path.cwd()))
    print_error("No model.", "fcnseg train FOLDER makes one", severity="error")
    assert f"hint: {terminal.program()} train FOLDER makes one" in capsys.readouterr().err
    assert terminal.runnable("an fcnseg run") == "an fcnseg run"


def test_a_script_on_the_path_is_named_by_its_name(
    venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(venv)
    monkeypatch.setenv("PATH", str(venv))
    assert terminal.program() == "fcnseg"


def test_another_fcnseg_on_the_path_is_not_meant(
    venv: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = install(venv)
    (tmp_path / "other").mkdir()
    install(tmp_path / "other")
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert terminal.program() == str(script.relative_to(Path.cwd()))


def test_without_a_script_the_module_is_run(venv: Path) -> None:
    assert terminal.program() == "python -m fcnseg"


def test_details_are_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("photos has 2 errors:", details=["a\nb", "c"])
    assert capsys.readouterr().err.splitlines() == [
        "error: photos has 2 errors:",
        "  1. a\\nb",
        "  2. c",
    ]
