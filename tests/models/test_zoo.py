"""The networks that come with fcnseg: small, described, and good at what they are for."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fcnseg.commands.eval import evaluate
from fcnseg.commands.export import export
from fcnseg.commands.infer import infer
from fcnseg.config import EvalConfig, ExportConfig, InferConfig
from fcnseg.models.checkpoint import SHIPPED, Checkpoint, find_model

MODELS = sorted(SHIPPED.glob("*.safetensors"))
REAL = Path(__file__).parents[3] / "shared" / "data" / "nuclei"


def test_there_is_one() -> None:
    assert [model.stem for model in MODELS] == ["nuclei"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_each_is_small_and_described(model: Path) -> None:
    assert model.stat().st_size <= 8_000_000
    card = model.with_suffix(".md").read_text(encoding="utf-8")
    checkpoint = Checkpoint.load(model)
    for word in ("Data", "Licence", "Recipe", "IoU", *checkpoint.classes.names):
        assert word in card
    assert find_model(model.stem) == model


def test_cells_are_found_by_name_alone(tmp_path: Path) -> None:
    """Bright ellipses on a dark, uneven ground, as under a fluorescence microscope."""
    random = np.random.default_rng(0)
    image, cells = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint8)
    for _ in range(14):
        centre = [int(value) for value in random.integers(20, 236, 2)]
        axes, angle = [int(value) for value in random.integers(9, 15, 2)], int(random.integers(180))
        cv2.ellipse(image, centre, axes, angle, 0, 360, int(random.integers(90, 160)), -1)
        cv2.ellipse(cells, centre, axes, angle, 0, 360, 1, -1)
    noisy = cv2.GaussianBlur(image, (0, 0), 1.5) + random.normal(12, 3, image.shape)
    cv2.imwrite(str(tmp_path / "cells.png"), noisy.clip(0, 255).astype(np.uint8))
    options = {"source": str(tmp_path / "cells.png"), "model": "nuclei", "save": ("labels",)}
    infer(InferConfig.make({**options, "out": tmp_path / "labels.png"}))
    found = np.array(Image.open(tmp_path / "labels.png")) == 1
    iou = (found & (cells == 1)).sum() / (found | (cells == 1)).sum()
    assert iou > 0.7


def test_an_export_does_not_go_into_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = export(ExportConfig(model="nuclei", size=(64, 64)))
    assert result.path == Path("nuclei.onnx")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["nuclei.onnx", "nuclei.parity.json"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real nuclei pictures are not here")
def test_the_card_says_what_eval_says() -> None:
    options = {"data": REAL, "model": "nuclei", "split": "val", "precision": "f32"}
    result = evaluate(EvalConfig.make(options))
    card = (SHIPPED / "nuclei.md").read_text(encoding="utf-8")
    assert f"mIoU {100 * result.miou:.2f}" in card
    assert f"{result.report.images} images" in card
