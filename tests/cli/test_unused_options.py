"""An option that was given is obeyed, or refused; never passed over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcnseg.commands.bench import bench
from fcnseg.commands.export import export
from fcnseg.commands.infer import infer
from fcnseg.commands.viz import view
from fcnseg.config import BenchConfig, ExportConfig, InferConfig, VizConfig
from fcnseg.errors import OptionError
from fcnseg.io.images import write_image
from tests.inference.test_pipeline import FakeSegmenter, run
from tests.test_live import FakeCamera


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("--start", {"start": 1.0}),
        ("--end", {"end": 1.0}),
        ("--alpha", {"alpha": 0.3, "save": ("labels",)}),
        ("--alpha", {"alpha": 0.3, "save": ("color", "coco")}),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_infer(tmp_path: Path, flag: str, options: dict[str, Any], folder: bool) -> None:
    write_image(tmp_path / "in" / "a.png", np.zeros((8, 8, 3), np.uint8))
    source = tmp_path / "in" if folder else tmp_path / "in" / "a.png"
    values = {"source": str(source), "out": tmp_path / "out", **options}
    with pytest.raises(OptionError, match=f"{flag} has no effect here"):
        infer(InferConfig.make(values), segmenter=FakeSegmenter())
    assert not (tmp_path / "out").exists()


def test_batch_of_a_camera(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--batch has no effect here"):
        run("0", tmp_path / "out", batch=2, connect=lambda _: FakeCamera())


@pytest.mark.parametrize(
    "option", [{"rungs": True}, {"engine": "opencv"}, {"precision": "f32"}, {"short_side": 64}]
)
def test_classify(tmp_path: Path, option: dict[str, Any]) -> None:
    values = {"source": str(tmp_path), "classify": True, "out": tmp_path / "out", **option}
    with pytest.raises(OptionError, match="has no effect with --classify"):
        view(VizConfig.make(values))


def test_bench_and_export(tmp_path: Path, random_model: Path) -> None:
    with pytest.raises(OptionError, match="--size is that of the synthetic video"):
        bench(BenchConfig.make({"model": str(random_model), "source": "a.mp4", "size": (64, 64)}))
    with pytest.raises(OptionError, match="--data is for --precision int8"):
        export(ExportConfig.make({"model": str(random_model), "data": tmp_path}))
