from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MediaError
from fcnseg.exporting import FORMATS, Format, convert
from fcnseg.exporting.parity import Trial
from fcnseg.models.checkpoint import Checkpoint
from tests.faults.test_full_disk import Full


@pytest.fixture(scope="module")
def checkpoint(random_model: Path) -> Checkpoint:
    return Checkpoint.load(random_model)


def a_format(run) -> Format:
    return Format(".fake", (), lambda checkpoint, path, options: path.write_bytes(b"new"), run)


def test_a_file_appears_only_when_it_answers_alike(checkpoint, tmp_path, monkeypatch):
    right = TorchEngine(checkpoint.build(), checkpoint.preprocess).logits
    monkeypatch.setitem(FORMATS, "good", a_format(lambda path: (right, None)))
    wrong = a_format(lambda path: (lambda images: right(images) + 1, None))
    monkeypatch.setitem(FORMATS, "bad", wrong)
    path = tmp_path / "deep" / "model.fake"
    with pytest.raises(CheckpointError, match="differ by up to 1"):
        convert(checkpoint, path, "bad", trial=Trial(sizes=[(32, 32)]))
    assert list(path.parent.iterdir()) == []
    assert convert(checkpoint, path, "good", trial=Trial(sizes=[(32, 32)])).holds
    with pytest.raises(CheckpointError):
        convert(checkpoint, path, "bad", trial=Trial(sizes=[(32, 32)]))
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_short_way_to_labels_is_proven_too(checkpoint, tmp_path, monkeypatch):
    right = TorchEngine(checkpoint.build(), checkpoint.preprocess).logits
    astray = a_format(lambda path: (right, lambda images: right(images).argmin(axis=1)))
    monkeypatch.setitem(FORMATS, "astray", astray)
    with pytest.raises(CheckpointError, match="labels agree on"):
        convert(checkpoint, tmp_path / "model.fake", "astray", trial=Trial(sizes=[(32, 32)]))


def test_a_place_that_can_not_be_written(checkpoint, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MediaError, match="Can't write"):
        convert(checkpoint, tmp_path / "file" / "model.onnx", "onnx")


def test_a_network_that_the_exporter_does_not_know(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    def export(*_: object, **__: object) -> None:
        raise torch.onnx.OnnxExporterError("No ONNX function for aten.new\nat line 3")

    monkeypatch.setattr("torch.onnx.export", export)
    with pytest.raises(
        CheckpointError, match=r"this network: No ONNX function for aten.new\.\nhint"
    ):
        convert(checkpoint, tmp_path / "model.onnx", "onnx")


@pytest.mark.parametrize("format", ["torchscript", "torch-export"])
def test_no_library_of_torch_writes_a_file_itself(checkpoint, tmp_path, monkeypatch, format):
    """On a full disk it ends the process."""
    monkeypatch.setattr("torch.export.export", lambda *_, **__: SimpleNamespace())
    save = lambda _, file, **__: file.write(b"all of it")  # noqa: E731 - a name is no file
    monkeypatch.setattr("torch.export.save", save)
    Full(0, monkeypatch)
    with pytest.raises(MediaError, match="No space left"):
        convert(checkpoint, tmp_path / f"model{FORMATS[format].suffix}", format)
    assert list(tmp_path.iterdir()) == []


def test_what_openvino_could_not_write_is_one_error(checkpoint, tmp_path, monkeypatch):
    def save_model(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    stub = SimpleNamespace(save_model=save_model)
    monkeypatch.setattr("fcnseg.exporting.import_openvino", lambda: stub)
    model = SimpleNamespace(set_rt_info=lambda *_: None)
    monkeypatch.setattr("fcnseg.exporting.read_model", lambda _: model)
    monkeypatch.setattr("fcnseg.exporting.write_onnx", lambda *_: None)
    with pytest.raises(MediaError, match=r"Can't write .*m\.xml: OpenVINO did not write all of it"):
        convert(checkpoint, tmp_path / "m.xml", "openvino")
    assert list(tmp_path.iterdir()) == []
