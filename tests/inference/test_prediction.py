"""A model that is called, and what comes back."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fcnseg
from fcnseg.errors import InputError, OptionError
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import read_image
from fcnseg.io.labels import read_raw_labels

RGB = sample_images((1, 40, 56), seed=3)[0]


@pytest.fixture(scope="module")
def model(random_model: Path) -> Segmenter:
    return fcnseg.load(random_model, precision="f32")


def test_a_model_is_called_with_anything_that_is_an_image(model: Segmenter, tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    tensor = torch.from_numpy(RGB.transpose(2, 0, 1) / 255).float()
    want = model(RGB).labels
    for image in (path, str(path), path.read_bytes(), Image.fromarray(RGB), RGB / 255, tensor):
        np.testing.assert_array_equal(model(image).labels, want)
        np.testing.assert_array_equal(model.predict([image])[0].labels, want)
        np.testing.assert_array_equal(model.logits(image), model.logits(RGB))
    np.testing.assert_array_equal(model(RGB[..., ::-1], bgr=True).labels, want)
    assert (model(path).name, model(path).frame.path) == ("a", path)


def test_a_prediction_as_an_array_is_its_labels(model: Segmenter) -> None:
    prediction = model(RGB)
    assert np.asarray(prediction).dtype == np.uint8
    assert np.shares_memory(np.asarray(prediction), prediction.labels)
    assert not np.shares_memory(np.array(prediction), prediction.labels)
    assert np.asarray(prediction, np.int64).dtype == np.int64


def test_a_list_gives_a_list(model: Segmenter, monkeypatch):
    monkeypatch.setattr("fcnseg.inference.segmenter._BATCH", 2)
    other = RGB[:20]
    found = model([RGB, other, Image.fromarray(RGB)])
    assert [prediction.labels.shape for prediction in found] == [(40, 56), (20, 56), (40, 56)]
    np.testing.assert_array_equal(found[0].labels, found[2].labels)
    batch = torch.from_numpy(np.stack([RGB, RGB]).transpose(0, 3, 1, 2) / 255)
    assert len(model(batch)) == len(model(np.stack([RGB, RGB]))) == 2
    assert model([]) == []


@pytest.mark.parametrize("image", [RGB.astype(np.int64), RGB.astype(float), RGB.transpose(2, 0, 1)])
def test_what_can_not_be_told_is_an_error_everywhere(model: Segmenter, image):
    for ask in (model, model.logits, model.skip_scores, lambda x: model.predict([x])):
        with pytest.raises(ValueError, match="image") as caught:
            ask(image)
        assert isinstance(caught.value, fcnseg.FcnsegError)
    with pytest.raises(InputError, match="for one image"):
        model.predict(RGB)


def test_confidence_and_probabilities_are_there_when_they_are_used(model: Segmenter):
    at_once, later = model(RGB, confidence=True, probabilities=True), model(RGB)
    assert "probabilities" not in vars(later)
    np.testing.assert_array_equal(later.probabilities, at_once.probabilities)
    np.testing.assert_allclose(later.confidence, at_once.confidence, atol=1e-6)
    np.testing.assert_array_equal(later.heatmap("disk"), at_once.probabilities[1])
    assert later.probabilities is later.probabilities
    with pytest.raises(OptionError, match="known: background"):
        later.heatmap("moon")


def test_a_prediction_draws_itself(model: Segmenter, tmp_path: Path):
    prediction = model(RGB)
    assert prediction.overlay().shape == RGB.shape
    np.testing.assert_array_equal(prediction.overlay(alpha=0), RGB)
    assert read_image(prediction.save(tmp_path / "out.png")).shape == RGB.shape
    heat = read_image(prediction.save(tmp_path / "heat.png", heatmap_of="disk"))
    np.testing.assert_array_equal(heat, prediction.overlay(heatmap_of="disk"))
    saved = prediction.save(tmp_path / "labels.png", labels=True)
    np.testing.assert_array_equal(read_raw_labels(saved).values, prediction.labels)
    with pytest.raises(OptionError, match="PNG"):
        prediction.save(tmp_path / "labels.jpg", labels=True)
    with pytest.raises(OptionError, match="alpha"):
        prediction.overlay(alpha=2)
    with Image.open(io.BytesIO(prediction._repr_png_())) as shown:
        assert shown.width > RGB.shape[1], "the legend is beside it"
    assert "56x40" in repr(prediction)
    assert len(repr(model)) < 200, "one line at the prompt"


def test_a_prediction_goes_to_other_processes_without_its_model(model: Segmenter):
    there = pickle.loads(pickle.dumps(model(RGB)))
    np.testing.assert_array_equal(there.labels, model(RGB).labels)
    with pytest.raises(InputError, match="probabilities=True"):
        _ = there.confidence
    assert pickle.loads(pickle.dumps(model(RGB, probabilities=True))).confidence.shape == (40, 56)


def test_smoothed_labels_have_probabilities_when_asked_for(model: Segmenter, drawn_clip: Path):
    plain = next(model.stream(drawn_clip, smooth=0.5))
    with pytest.raises(InputError):
        _ = plain.confidence
    asked = next(model.stream(drawn_clip, smooth=0.5, probabilities=True))
    assert asked.heatmap("disk").shape == asked.labels.shape


def test_saved_and_loaded(model: Segmenter, exported_model: Path, tmp_path: Path):
    folder = model.save_pretrained(tmp_path / "mine")
    again = fcnseg.load(folder, precision="f32")
    np.testing.assert_array_equal(again.logits(RGB), model.logits(RGB))
    assert again.to("cpu") is again
    np.testing.assert_array_equal(again(RGB).labels, model(RGB).labels)
    with pytest.raises(OptionError, match="cuda:99"):
        again.to("cuda:99")
    with pytest.raises(OptionError, match="exported"):
        fcnseg.load(exported_model).save_pretrained(tmp_path)


def test_the_package_lists_its_api():
    assert {"load", "train", "evaluate", "Prediction"} <= set(dir(fcnseg))
    assert all(getattr(fcnseg, name).__doc__ for name in dir(fcnseg) if name != "__version__")
