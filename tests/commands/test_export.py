import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fcnseg.commands.export import export
from fcnseg.config import ExportConfig
from fcnseg.engines import sample_images
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MissingExtra, OptionError
from fcnseg.models.checkpoint import Checkpoint
from tests.conftest import skip_without


def test_the_result_tells_what_was_proven(exported_model: Path):
    result = json.loads(exported_model.with_name("export.json").read_text())
    assert result["format"] == "onnx"
    assert result["path"] == str(exported_model)
    assert result["size_bytes"] == exported_model.stat().st_size
    parity = result["parity"]
    assert parity["label_agreement"] >= 0.999
    assert parity["max_abs_diff"] < 1e-3
    assert [33, 47] in parity["sizes"]
    assert parity["batches"] == [1, 3]
    assert parity["pixels"] > 300_000


def test_the_onnx_file_is_one_documented_graph(exported_model: Path, random_model: Path):
    model = onnx.load(exported_model)
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits, scores) = model.graph.input, model.graph.output
    assert (image.name, logits.name, scores.name) == ("images", "logits", "scores")
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    dims = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert dims == ["batch", "height", "width", 3]
    header = {entry.key: entry.value for entry in model.metadata_props}["fcnseg"]
    assert Checkpoint.from_header(header).classes == Checkpoint.load(random_model).classes
    result = json.loads(exported_model.with_name("export.json").read_text())
    assert result["opset"] == next(o.version for o in model.opset_import if o.domain == "")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("format", "suffix"), [("torchscript", ".torchscript"), ("torch-export", ".pt2")]
)
def test_formats_of_torch(random_model: Path, tmp_path: Path, format, suffix):
    result = export(ExportConfig(model=str(random_model), format=format, out=tmp_path))
    assert result.path == tmp_path / f"random{suffix}"
    assert result.opset is None
    assert list(tmp_path.iterdir()) == [result.path]
    files = {"fcnseg": ""}
    if format == "torchscript":
        module = torch.jit.load(str(result.path), _extra_files=files)
    else:
        module = torch.export.load(result.path, extra_files=files).module()
    checkpoint = Checkpoint.load(random_model)
    text = files["fcnseg"]
    header = text.decode() if isinstance(text, bytes) else text
    assert Checkpoint.from_header(header).classes == checkpoint.classes
    reference = TorchEngine(checkpoint.build(), checkpoint.preprocess)
    for shape in [(1, 64, 96), (2, 45, 50)]:  # sizes that divide by the stride, and not
        images = sample_images(shape, seed=0)
        with torch.no_grad():
            logits = module(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(logits, reference.logits(images), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript", "torch-export"])
def test_a_share_for_each_pixel_is_shipped(subpixel_model: Path, tmp_path: Path, format):
    if format == "openvino":
        skip_without(format)
    result = export(ExportConfig(model=str(subpixel_model), format=format, out=tmp_path))
    assert result.parity.label_agreement >= 0.999
    assert result.parity.max_abs_diff < 1e-3


def test_a_name_that_hides_what_it_is(random_model: Path, tmp_path: Path):
    with pytest.raises(OptionError, match=r"\*\.onnx") as error:
        export(ExportConfig(model=str(random_model), out=tmp_path / "model.bin"))
    assert "model.onnx" in error.value.hint


def test_an_exported_file_is_not_exported_again(exported_model: Path):
    with pytest.raises(CheckpointError, match="already"):
        export(ExportConfig(model=str(exported_model)))


def test_without_the_extra_it_is_named(random_model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtra, match="'onnx'"):
        export(ExportConfig(model=str(random_model), out=tmp_path))
    assert list(tmp_path.iterdir()) == []
