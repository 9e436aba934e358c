from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fcnseg
from fcnseg import exporting
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MediaError
from fcnseg.exporting import FORMATS, Format, convert, graph
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


def wrong_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that subtracts another mean than the network was trained with."""
    right = exporting.Complete

    def wrong(network, preprocess, options):
        mean = tuple(value + 0.05 for value in preprocess.mean)
        return right(network, replace(preprocess, mean=mean), options)

    monkeypatch.setattr(exporting, "Complete", wrong)


def wrong_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that resizes to the nearest pixel where infer takes means of areas and lines."""

    def wrong(images, preprocess, *, opaque=False):
        size = preprocess.network_size((images.shape[1], images.shape[2]))
        pixels = F.interpolate(images.permute(0, 3, 1, 2).float(), size, mode="nearest")
        return pixels.permute(0, 2, 3, 1).to(torch.uint8)

    monkeypatch.setattr(graph, "resized_images", wrong)


@pytest.mark.parametrize("mistake", [wrong_mean, wrong_resize])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_broken_export_is_refused(seen_at_80, tmp_path, monkeypatch, mistake):
    mistake(monkeypatch)
    out = tmp_path / "broken.torchscript"
    with pytest.raises(CheckpointError, match="do not match the checkpoint's"):
        fcnseg.export(seen_at_80, format="torchscript", out=out)
    assert list(tmp_path.iterdir()) == []


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
