"""Every program of benchmarks/ starts: what it imports is there, and --help tells what it takes."""

import os
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(ROOT.glob("benchmarks/*.py"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help(path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] in ("fcnseg", "tests", "benchmarks"):
            raise
        pytest.skip(f"{error.name} is not installed")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")
