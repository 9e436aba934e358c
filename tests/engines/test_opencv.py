from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from fcnseg import io as dnn
from fcnseg.engines import EngineOptions
from fcnseg.engines.model_files import metadata
from fcnseg.engines.onnx import OpenCvEngine
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import open_engine
from fcnseg.models.checkpoint import Checkpoint

needs_5 = pytest.mark.skipif(int(cv2.__version__[0]) < 5, reason="free sizes need OpenCV 5")


@needs_5
@pytest.mark.parametrize("shape", [(1, 33, 47), (2, 64, 96), (3, 97, 50)])
def test_it_gives_the_same(random_model: Path, exported_model: Path, shape):
    checkpoint = Checkpoint.load(random_model)
    reference = TorchEngine(checkpoint.build(), checkpoint.preprocess)
    engine, header = open_engine(exported_model, EngineOptions(engine="opencv"), [].append)
    assert isinstance(engine, OpenCvEngine)
    assert header.classes == checkpoint.classes
    images = sample_images(shape, seed=1)
    np.testing.assert_allclose(engine.logits(images), reference.logits(images), atol=1e-4)


def test_metadata_are_what_onnx_reads(exported_model: Path):
    model = onnx.load(exported_model)
    expected = {entry.key: entry.value for entry in model.metadata_props}
    assert expected
    assert metadata(exported_model.read_bytes()) == expected


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x72\x05\x0a", b"no model at all", bytes(99)])
def test_what_is_no_model_has_no_metadata(data):
    assert metadata(data) == {}


@pytest.mark.parametrize("data", [None, b"", b"no model"])
def test_what_is_no_model_is_refused(tmp_path: Path, data):
    path = tmp_path / "model.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        OpenCvEngine(path)


def test_an_older_opencv_says_so(exported_model: Path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise cv2.error("dynamic shapes")

    monkeypatch.setattr(dnn.cv2.dnn, "readNetFromONNX", refuse)
    with pytest.raises(OptionError, match="can't run this network"):
        OpenCvEngine(exported_model)


def test_a_device_it_has_not(exported_model: Path):
    with pytest.raises(OptionError, match="cuda"):
        OpenCvEngine(exported_model, device="cuda")
