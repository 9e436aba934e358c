"""`fcnseg export --precision int8`: what is rounded, what it costs, and who runs the file."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import fcnseg.inference.quantized as exporting
from fcnseg.commands.eval import evaluate
from fcnseg.commands.export import export
from fcnseg.config import EvalConfig, ExportConfig
from fcnseg.errors import CheckpointError, MediaError, MissingExtra, OptionError
from fcnseg.exporting.graph import GraphOptions
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load
from fcnseg.inference.quantized import exact_layers, spread, write_int8
from fcnseg.io.images import read_image
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Message
from tests.conftest import skip_without

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def rounded(tiny_run: Path, drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run's best in int8, with the result of the export beside it."""
    folder = tmp_path_factory.mktemp("rounded")
    result = export(
        ExportConfig(model=str(tiny_run), precision="int8", data=drawn_folder, out=folder)
    )
    (folder / "export.json").write_text(json.dumps(result.as_dict()))
    return result.path


def test_the_result_tells_what_it_costs(rounded: Path, tiny_run: Path, drawn_folder: Path) -> None:
    result = json.loads(rounded.with_name("export.json").read_text())
    assert rounded.name == "best.int8.onnx"
    report = rounded.with_name("best.int8.parity.json")
    assert sorted(rounded.parent.iterdir()) == sorted(
        [rounded, rounded.with_name("export.json"), report]
    )
    assert json.loads(report.read_text()) == result["int8"]
    assert result["int8"]["ms"] > 0
    assert result["int8"]["ms_before"] > 0
    assert result["parity"] is None
    cost = result["int8"]
    assert cost["images"] == 6
    assert 0.9 < cost["label_agreement"] < 1
    for model, name in ((tiny_run, "miou_before"), (rounded, "miou")):
        # Image by image, as the cost was measured: in a batch ONNX Runtime adds in another order,
        # which in int8 moves a few pixels.
        options = {"data": drawn_folder, "model": str(model), "split": "val", "batch": 1}
        assert evaluate(EvalConfig.make(options)).miou == pytest.approx(cost[name], abs=1e-4)


def test_convolutions_are_rounded_all_but_the_first_and_the_last(
    rounded: Path, tiny_run: Path
) -> None:
    model = onnx.load(rounded)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    exact = exact_layers(graph)[:2]
    assert exact == [convolutions[0].name, convolutions[-1].name]
    for node in convolutions:
        weights = made_by.get(node.input[1])
        assert (weights is None) == (node.name in exact), node.name
    assert len(convolutions) > 4
    integers = [one for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    assert max(np.prod(one.dims) for one in integers) > 1000
    header = {entry.key: entry.value for entry in model.metadata_props}["fcnseg"]
    assert (
        Checkpoint.from_header(header).classes
        == Checkpoint.load(tiny_run / "best.safetensors").classes
    )


def test_logits_are_not_rounded(subpixel_model: Path, tmp_path: Path) -> None:
    """Upsampled scores and each pixel's own share are added as they are."""
    pictures = [sample_images((1, 64, 96), seed=seed) for seed in range(2)]
    options = GraphOptions(size=(64, 96))
    write_int8(Checkpoint.load(subpixel_model), tmp_path / "rounded.onnx", pictures, options)
    graph = onnx.load(tmp_path / "rounded.onnx").graph
    makers = {output: node for node in graph.node for output in node.output}
    (share,) = (node for node in graph.node if node.op_type == "ConvTranspose")
    (total,) = (node for node in graph.node if share.output[0] in node.input)
    assert total.op_type == "Add"
    assert "DequantizeLinear" not in {makers[name].op_type for name in total.input}
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) > 10


@pytest.mark.parametrize("engine", ["auto", "onnxruntime", "openvino"])
def test_every_engine_says_that_it_is_int8(rounded: Path, drawn_folder: Path, engine) -> None:
    skip_without(engine)
    plain = load(rounded, engine="onnxruntime")
    segmenter = load(rounded, engine=engine, precision="int8")
    assert segmenter.engine.precision == "int8"
    image = read_image(next(drawn_folder.rglob("*.jpg"), None) or next(drawn_folder.rglob("*.png")))
    found, expected = (s.predict([image])[0].labels for s in (segmenter, plain))
    assert np.mean(found == expected) > 0.97


def test_precisions_that_a_file_does_not_have(
    rounded: Path, exported_model: Path, tiny_run: Path
) -> None:
    with pytest.raises(OptionError, match="computes in int8; f32 was requested"):
        load(rounded, precision="f32")
    with pytest.raises(OptionError, match="computes in f32; int8 was requested"):
        load(exported_model, precision="int8")
    with pytest.raises(OptionError, match="needs images for calibration") as error:
        load(tiny_run, precision="int8")
    assert "fcnseg export" in str(error.value.hint)


def test_what_int8_needs(tiny_run: Path, drawn_folder: Path, tmp_path: Path) -> None:
    model = str(tiny_run)
    with pytest.raises(OptionError, match="no dataset folder"):
        export(ExportConfig(model=model, precision="int8", out=tmp_path))
    with pytest.raises(OptionError, match="written as onnx"):
        export(ExportConfig(model=model, precision="int8", data=drawn_folder, format="openvino"))
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "model.onnx"
    with pytest.raises(MediaError, match="Can't write"):
        export(ExportConfig(model=model, precision="int8", data=drawn_folder, out=out))


def writes(rounded: Path, times: tuple[float, float]):
    """What stands in for write_int8, which takes seconds."""

    def write(checkpoint, path, *_, **__):
        shutil.copy(rounded, path)
        return times

    return write


@pytest.mark.parametrize(("times", "warned"), [((20.0, 10.0), False), ((10.0, 20.0), True)])
def test_a_file_that_is_not_faster_says_so(
    rounded: Path, tiny_run: Path, drawn_folder: Path, tmp_path: Path, monkeypatch, times, warned
) -> None:
    monkeypatch.setattr(exporting, "write_int8", writes(rounded, times))
    events: list[object] = []
    options = {"model": str(tiny_run), "precision": "int8", "data": drawn_folder, "out": tmp_path}
    result = export(ExportConfig.make(options), events.append)
    assert result.cost is not None
    assert (result.cost.ms_before, result.cost.ms) == times
    told = [one for one in events if isinstance(one, Message) and one.level == "warning"]
    assert [one.text for one in told] == [
        "In int8 the model is not faster on this machine: 20 ms per image, 10 in f32"
    ] * warned


def test_a_file_that_lost_too_much_is_not_written(
    rounded: Path, tiny_run: Path, drawn_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(exporting, "write_int8", writes(rounded, (2.0, 1.0)))
    monkeypatch.setattr(exporting, "MAX_LOSS", -1.0)
    options = {"model": str(tiny_run), "precision": "int8", "data": drawn_folder, "out": tmp_path}
    with pytest.raises(CheckpointError, match="costs too much accuracy: mIoU"):
        export(ExportConfig.make(options))
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_named(
    tiny_run: Path, drawn_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    options = {"model": str(tiny_run), "precision": "int8", "data": drawn_folder, "out": tmp_path}
    with pytest.raises(MissingExtra, match="'onnx'"):
        export(ExportConfig.make(options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "most", "chosen"), [(3, 5, [0, 1, 2]), (10, 5, [0, 2, 4, 6, 8]), (7, 3, [0, 2, 4])]
)
def test_spread(count: int, most: int, chosen: list[int]) -> None:
    assert spread(count, most) == chosen
