"""Every program of benchmarks/ starts: what it imports is there, and --help tells what it takes."""

import os
import runpy
import sys
from pathlib import Path

import pytest

from fcnseg.config import TrainConfig
from fcnseg.progress import no_callback

ROOT = Path(__file__).parents[1]
PROGRAMS = [*sorted(ROOT.glob("benchmarks/*.py")), ROOT / "benchmarks" / "accuracy"]


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


def test_another_network_is_trained_as_ours(data, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "accuracy")
    from peers import train_peer

    options = {"crop": (64, 64), "batch": 2, "epochs": 1, "data": data}
    config = TrainConfig.make(
        {**options, "out": tmp_path / "run", "workers": 0, "precision": "f32"}
    )
    network = train_peer("lraspp-lite0", config, no_callback)
    assert network.start == "ImageNet"
    assert (tmp_path / "run" / "last.safetensors").is_file()
