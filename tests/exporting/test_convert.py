from pathlib import Path

import pytest

from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MediaError
from fcnseg.exporting import FORMATS, Format, convert
from fcnseg.exporting.parity import Trial
from fcnseg.models.checkpoint import Checkpoint


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
