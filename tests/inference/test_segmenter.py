import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fcnseg.classes import ClassMap
from fcnseg.engines.base import Engine
from fcnseg.errors import CheckpointError, MediaError, OptionError
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import resize_image, write_image
from fcnseg.models.spec import Preprocess

AS_IS = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RGB = ClassMap.of(["red", "green", "blue"])


class Colors(Engine):
    """The logits of a pixel are its color: its class is the strongest channel."""

    name, device, precision = "torch", "cpu", "f32"

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: np.ndarray) -> torch.Tensor:
        self.seen.append(images.shape)
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 16


def picture(*size: int, seed: int = 0) -> np.ndarray:
    return sample_images((1, *size), seed=seed)[0]


def test_images_of_one_size_go_together_and_predictions_keep_the_order():
    engine = Colors()
    images = [picture(20, 30, seed=1), picture(8, 9, seed=2), picture(20, 30, seed=3)]
    predictions = Segmenter(engine, RGB, AS_IS).predict(images)
    assert sorted(engine.seen) == [(1, 8, 9, 3), (2, 20, 30, 3)]
    for image, prediction in zip(images, predictions, strict=True):
        np.testing.assert_array_equal(
            np.take_along_axis(image, prediction.labels[..., None].astype(int), 2)[..., 0],
            image.max(axis=2),
        )
        assert prediction.confidence is None
        assert prediction.probabilities is None


def test_large_images_are_not_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnseg.inference.prediction.MOST_PIXELS", 2 * 20 * 30)
    engine, images = Colors(), [picture(20, 30, seed=seed) for seed in range(5)]
    predictions = Segmenter(engine, RGB, AS_IS).predict([*images, picture(90, 90)])
    assert [shape[:2] for shape in engine.seen] == [(2, 20), (2, 20), (1, 20), (1, 90)]
    for image, prediction in zip(images, predictions, strict=False):
        np.testing.assert_array_equal(prediction.labels, image.argmax(axis=2))


def test_confidence_and_probabilities_come_when_asked_for():
    segmenter = Segmenter(Colors(), RGB, AS_IS)
    image = picture(12, 16)
    expected = torch.from_numpy(image.astype(np.float32) / 16).softmax(dim=-1).permute(2, 0, 1)
    sure = segmenter.predict([image], confidence=True)[0]
    full = segmenter.predict([image], probabilities=True)[0]
    both = segmenter.predict([image], confidence=True, probabilities=True)[0]
    np.testing.assert_allclose(sure.confidence, expected.amax(0).numpy(), atol=1e-5)
    np.testing.assert_allclose(full.probabilities, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(both.confidence, sure.confidence, atol=1e-6)
    assert full.confidence is None
    np.testing.assert_array_equal(full.labels, sure.labels)


def test_short_side_resizes_the_image_and_the_logits_back():
    engine = Colors()
    segmenter = Segmenter(engine, RGB, Preprocess(AS_IS.mean, AS_IS.std, short_side=16))
    image = picture(45, 60)
    labels = segmenter.predict([image])[0].labels
    assert engine.seen == [(1, 16, 21, 3)]
    assert labels.shape == (45, 60)
    small = torch.from_numpy(resize_image(image, (16, 21))).permute(2, 0, 1).float() / 16
    expected = F.interpolate(small[None], (45, 60), mode="bilinear")[0]
    np.testing.assert_array_equal(labels, expected.argmax(0).numpy())
    np.testing.assert_allclose(segmenter.logits(image), expected.numpy(), atol=1e-4)


def test_nothing_in_nothing_out():
    assert Segmenter(Colors(), RGB, AS_IS).predict([]) == []


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_stream_gives_every_frame_of_a_folder(tmp_path: Path, batch, caplog):
    (tmp_path / "clip.mp4").write_bytes(b"a video")
    for index in range(3):
        write_image(tmp_path / f"{index}.png", picture(10, 12, seed=index))
    engine = Colors()
    found = list(Segmenter(engine, RGB, AS_IS).stream(tmp_path, batch=batch))
    assert [prediction.name for prediction in found] == ["0", "1", "2"]
    assert "Skipped clip.mp4: only images are taken here" in caplog.text
    assert max(shape[0] for shape in engine.seen) == min(batch, 3)
    for prediction in found:
        assert prediction.labels.shape == prediction.frame.size


def test_stream_of_a_video(drawn_clip: Path):
    found = list(Segmenter(Colors(), RGB, AS_IS).stream(drawn_clip, every=5, limit=2))
    assert [prediction.index for prediction in found] == [0, 5]
    assert [prediction.time for prediction in found] == pytest.approx([0, 0.4], abs=0.01)
    assert found[0].confidence.shape == found[0].image.shape[:2]


@pytest.mark.parametrize(
    ("options", "error"), [({"batch": 0}, OptionError), ({"every": 0}, OptionError)]
)
def test_stream_refuses_what_makes_no_sense(tmp_path, options, error):
    with pytest.raises(error):
        list(Segmenter(Colors(), RGB, AS_IS).stream(tmp_path, **options))


def test_stream_of_nothing(tmp_path):
    with pytest.raises(MediaError):
        list(Segmenter(Colors(), RGB, AS_IS).stream(tmp_path / "missing.png"))


def test_skips_are_of_torch_only():
    with pytest.raises(OptionError, match="torch"):
        Segmenter(Colors(), RGB, AS_IS).skip_scores(picture(8, 8))


def test_load_finds_the_model(random_model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        load()
    for number, name in enumerate(["train1", "train2"]):
        best = tmp_path / "runs" / name / "best.safetensors"
        best.parent.mkdir(parents=True)
        best.write_bytes(random_model.read_bytes())
        os.utime(best, (number + 1, number + 1))
    newest = Path("runs", "train2", "best.safetensors")
    assert load().path == newest
    assert load("best").path == newest
    assert load("runs/train1").path == Path("runs", "train1", "best.safetensors")
    assert load(random_model).path == random_model


@pytest.mark.parametrize(("precision", "agree"), [("f32", 0.999), ("bf16", 0.99)])
def test_a_checkpoint_and_its_export_agree(
    random_model: Path, exported_model: Path, precision: str, agree: float
):
    ours, theirs = load(random_model, precision=precision), load(exported_model)
    assert (ours.engine.name, theirs.engine.name) == ("torch", "onnxruntime")
    assert ours.classes == theirs.classes
    assert ours.preprocess == theirs.preprocess
    image = picture(70, 90)
    first, second = (one.predict([image])[0].labels for one in (ours, theirs))
    assert (first == second).mean() >= agree
    total = np.sum(list(ours.skip_scores(image).values()), axis=0)
    np.testing.assert_allclose(total, ours.logits(image), atol=1e-4)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_program_s_own_defaults_of_torch_change_nothing(random_model: Path, precision):
    image = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    expected = load(random_model, device="cpu", precision=precision)(image).labels
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        found = load(random_model, device="cpu", precision=precision)(image).labels
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(found, expected)
