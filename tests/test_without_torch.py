"""Exported files are run without torch: what a small installation can do, and what it says."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcnseg.commands.infer import infer
from fcnseg.engines.base import ScoreGrid, softmax
from fcnseg.io.video_writer import VideoWriter

pytest.importorskip("onnxruntime")

CODE = """
import json, sys
missing = "torch", "torchvision", "safetensors", "jinja2", "av", "openvino", "onnx", "onnxscript"
sys.modules.update(dict.fromkeys(missing))  # importing one raises ModuleNotFoundError
from fcnseg.cli.app import app
from fcnseg.cli.console import run
for arguments in json.loads(sys.argv[1]):
    print("status", run(app, arguments), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images and a video of five frames."""
    folder = tmp_path_factory.mktemp("small")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 48, 64, 3), np.uint8)
    (folder / "images").mkdir()
    for index in range(2):
        cv2.imwrite(str(folder / f"images/{index}.png"), pixels[index])
    cv2.imwrite(str(folder / "large.png"), cv2.resize(pixels[0], (450, 90)))
    with VideoWriter(folder / "clip.avi", 5, (48, 64)) as video:
        for index in range(2, 7):
            video.write(pixels[index])
    return folder


@pytest.fixture(scope="module")
def said(folder: Path, exported_model: Path, random_model: Path) -> list[tuple[str, str]]:
    """The exit status of each command, and what all of them wrote on standard error."""
    image, model = str(folder / "images/0.png"), ["-m", str(exported_model)]
    commands = [
        ["--help"],
        ["doctor"],
        ["infer", image, *model, "-o", str(folder / "one")],
        ["infer", str(folder / "images"), *model, "-o", str(folder / "all"), "--conf", "0.3"],
        ["infer", str(folder / "large.png"), *model, "-o", str(folder / "tiled"), "--tile", "384"],
        ["infer", str(folder / "clip.avi"), *model, "-o", str(folder / "out.avi")],
        ["viz", image, *model, "-o", str(folder / "viz")],
        ["viz", image, *model, "-o", str(folder / "shown"), "--show-what", "runner-up,entropy"],
        ["train", str(folder / "images")],
        ["infer", image, "-m", str(random_model), "-o", str(folder / "no")],
        ["infer", image, "-m", "modle.onnx", "-o", str(folder / "no")],
        ["viz", image, *model, "--show-what", "gradcam", "-o", str(folder / "no")],
    ]
    call = [sys.executable, "-c", CODE, json.dumps(commands)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    status = [line[7:] for line in done.stdout.splitlines() if line.startswith("status ")]
    assert len(status) == len(commands), done.stderr
    return [(each, done.stderr) for each in status]


def test_exported_files_are_run(said: list[tuple[str, str]], folder: Path) -> None:
    assert [status for status, _ in said[:8]] == ["0"] * 8, said[0][1]
    assert (folder / "out.avi").stat().st_size
    assert (folder / "viz/0/overview.png").is_file()
    assert list((folder / "shown/0").iterdir())


def test_labels_are_those_of_the_whole_installation(
    said: list[tuple[str, str]], folder: Path, exported_model: Path
) -> None:
    del said
    for name, source, more in (
        ("one", "images/0.png", {}),
        ("all", "images", {"conf": 0.3}),
        ("tiled", "large.png", {"tile": "384"}),
    ):
        here = folder / f"{name}_here"
        infer(folder / source, model=str(exported_model), out=here, **more)
        files = sorted((here / "labels").iterdir())
        assert files
        for path in files:
            assert path.read_bytes() == (folder / name / "labels" / path.name).read_bytes()


def test_what_needs_torch_says_so(said: list[tuple[str, str]]) -> None:
    assert [status for status, _ in said[8:]] == ["1", "1", "1", "2"]
    errors = [line for line in said[0][1].splitlines() if line.startswith("error: ")]
    assert errors[:2] == ["error: This needs torch, which is not installed."] * 2
    assert "No model 'modle.onnx'" in errors[2]
    assert "which an exported file does not show" in errors[3]
    assert len(errors) == 4
    assert "Traceback" not in said[0][1]


def test_a_softmax_of_arrays_is_that_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).normal(0, 20, (2, 5, 7, 3)).astype(np.float32)
    expected = torch.from_numpy(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(softmax(logits, axis=1), expected, rtol=1e-5, atol=1e-7)
    assert np.array_equal(softmax(torch.from_numpy(logits), axis=1), expected)


@pytest.mark.parametrize(
    "data",
    [None, 4, {}, {"factor": 4}, {"factor": 10**9, "shift": 1}, {"factor": 4, "shift": -1}],
    ids=str,
)
def test_a_header_with_another_grid_has_none(data: object) -> None:
    assert ScoreGrid.from_dict(data) is None


def test_a_grid_is_read_back() -> None:
    grid = ScoreGrid(4, 1.5)
    assert ScoreGrid.from_dict(json.loads(json.dumps(dataclasses.asdict(grid)))) == grid
