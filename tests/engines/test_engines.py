import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from fcnseg.engines.onnx import OnnxEngine
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MissingExtra, OptionError
from fcnseg.exporting.parity import sample_images
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec

SIZES = [(33, 47), (64, 96), (70, 50)]


@pytest.fixture(scope="module")
def checkpoint(random_model: Path) -> Checkpoint:
    return Checkpoint.load(random_model)


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> TorchEngine:
    return TorchEngine(checkpoint.build(), checkpoint.preprocess)


def by_hand(checkpoint: Checkpoint, images: np.ndarray) -> torch.Tensor:
    """The network in float64, with the normalisation written out."""
    mean, std = torch.tensor(checkpoint.preprocess.mean), torch.tensor(checkpoint.preprocess.std)
    pixels = (torch.from_numpy(images).double() / 255 - mean) / std
    with torch.no_grad():
        return checkpoint.build().double()(pixels.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", SIZES)
def test_torch_gives_what_the_network_gives(checkpoint, engine, size):
    images = sample_images((2, *size), seed=1)
    expected = by_hand(checkpoint, images)
    logits = engine.logits(images)
    assert logits.dtype == np.float32
    assert logits.shape == (2, 4, *size)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    labels, confidence = engine.labels(images)
    assert labels.dtype == np.uint8
    assert confidence is None
    assert (labels == expected.argmax(1).numpy()).mean() > 0.999


def test_confidence_and_probabilities_are_softmax(checkpoint, engine):
    images = sample_images((1, 40, 56), seed=2)
    expected = by_hand(checkpoint, images).softmax(dim=1)
    labels, confidence = engine.labels(images, confidence=True)
    again, probabilities = engine.probabilities(images)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(confidence, expected.amax(1).numpy(), atol=1e-4)
    np.testing.assert_array_equal(labels, again)


def test_logits_not_labels_are_resized(checkpoint, engine):
    images = sample_images((1, 32, 48), seed=3)
    size = (75, 101)
    expected = F.interpolate(by_hand(checkpoint, images), size, mode="bilinear")
    labels, confidence = engine.labels(images, confidence=True, size=size)
    assert labels.shape == confidence.shape == (1, *size)
    assert (labels == expected.argmax(1).numpy()).mean() > 0.999
    np.testing.assert_allclose(engine.logits(images, size=size), expected.numpy(), atol=1e-4)
    _, shares = engine.probabilities(images, size=size)
    np.testing.assert_allclose(shares, expected.softmax(1).numpy(), atol=1e-4)


def test_read_only_images_are_taken(engine):
    images = sample_images((1, 32, 32), seed=4)
    expected = engine.logits(images)
    images.flags.writeable = False
    np.testing.assert_array_equal(engine.logits(images), expected)


def test_reduced_precision_still_gives_float32_logits(checkpoint):
    engine = TorchEngine(checkpoint.build(), checkpoint.preprocess, precision=torch.bfloat16)
    images = sample_images((1, 64, 64), seed=5)
    exact = by_hand(checkpoint, images).numpy()
    logits = engine.logits(images)
    assert engine.precision == "bf16"
    assert logits.dtype == np.float32
    difference = np.abs(logits - exact).max()
    assert 1e-4 < difference < 0.05 * np.abs(exact).max()


def test_skips_sum_to_the_logits(engine):
    images = sample_images((1, 50, 70), seed=6)
    skips = engine.skip_scores(images, size=(60, 80))
    assert list(skips) == [32, 16, 8, 4]
    assert all(np.abs(share).max() > 0 for share in skips.values())
    total = np.sum(list(skips.values()), axis=0)
    np.testing.assert_allclose(total, engine.logits(images, size=(60, 80)), atol=1e-4)


def test_skips_need_a_sum_of_scores(checkpoint):
    network = build(ModelSpec(backbone="tiny", num_classes=2, width=8, fuse="feature"))
    with pytest.raises(OptionError, match="feature"):
        TorchEngine(network, checkpoint.preprocess).skip_scores(sample_images((1, 32, 32), seed=0))


@pytest.mark.parametrize("fuse", ["feature", "concat"])
def test_without_a_skip_its_features_are_zero(checkpoint, fuse):
    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=2, width=8, decoder="fcn8s", fuse=fuse)
    network = build(spec).eval()
    engine = TorchEngine(network, checkpoint.preprocess)
    images = sample_images((1, 50, 70), seed=6)
    before, without = engine.logits(images), engine.logits_without_skips(images)
    assert list(without) == [16, 8]
    np.testing.assert_array_equal(engine.logits(images), before)
    norm = network.decoder.rungs["8"].lateral[1]
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.zeros_(norm.bias)
    np.testing.assert_allclose(without[8], engine.logits(images), atol=1e-5)
    assert np.abs(without[8] - before).max() > 1e-3


def test_a_sum_of_scores_needs_no_ablation(engine):
    with pytest.raises(OptionError, match="no skips"):
        engine.logits_without_skips(sample_images((1, 32, 32), seed=0))


@pytest.mark.parametrize("size", [*SIZES, (16, 20)])
@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_runtime_gives_the_same(checkpoint, exported_model, size, batch):
    onnx_engine = OnnxEngine(exported_model)
    images = sample_images((batch, *size), seed=7)
    logits = onnx_engine.logits(images)
    np.testing.assert_allclose(logits, by_hand(checkpoint, images).numpy(), atol=1e-4)
    np.testing.assert_array_equal(onnx_engine.labels(images)[0], logits.argmax(1))
    assert (onnx_engine.device, onnx_engine.precision) == ("cpu", "f32")


def test_onnx_runtime_does_not_phone_home(tmp_path):
    """Its import would write a device id under the home folder."""
    code = "from fcnseg.engines.onnx import import_onnxruntime as go; go()"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    subprocess.run([sys.executable, "-c", code], env=kept | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_a_foreign_onnx_file_is_refused(exported_model, tmp_path):
    model = onnx.load(exported_model)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="not one written by fcnseg"):
        OnnxEngine(tmp_path / "foreign.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(1000)])
def test_what_is_not_onnx_is_refused(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.onnx"):
        OnnxEngine(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_onnx_runtime_says_which_devices_it_has(exported_model):
    with pytest.raises(OptionError, match="cuda"):
        OnnxEngine(exported_model, device="cuda")


def test_without_onnx_runtime_the_extra_is_named(monkeypatch, exported_model):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match="'onnx'"):
        OnnxEngine(exported_model)
