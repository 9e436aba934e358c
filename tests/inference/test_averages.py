"""Several models and several views of an image: their probabilities are averaged."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fcnseg
from fcnseg.classes import ClassMap
from fcnseg.engines.averaging import SCALES
from fcnseg.errors import OptionError
from fcnseg.inference.segmenter import Segmenter
from fcnseg.models.checkpoint import Checkpoint
from tests.cli.test_cli import call

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (50, 70, 3), np.uint8)


def load(*models: Path, **options) -> Segmenter:
    return fcnseg.load(list(models), engine="torch", device="cpu", precision="f32", **options)


def probabilities(model: Segmenter, image: np.ndarray = IMAGE) -> np.ndarray:
    found = model.predict([image], probabilities=True, confidence=True)[0]
    np.testing.assert_allclose(found.confidence, found.probabilities.max(axis=0), atol=1e-6)
    assert (found.labels == found.probabilities.argmax(axis=0)).mean() > 0.999
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, atol=1e-4)
    return found.probabilities


def moved_weights(path: Path, folder: Path, **changes) -> Path:
    """Another network of the same shape; `changes` are of the checkpoint."""
    checkpoint = Checkpoint.load(path)
    torch.manual_seed(1)
    weights = {
        name: value + 0.3 * torch.randn_like(value) if "decoder" in name else value
        for name, value in checkpoint.weights.items()
    }
    other = replace(checkpoint, **{"weights": weights, **changes})
    return other.save(folder / "other.safetensors")


@pytest.fixture
def other(random_model: Path, tmp_path: Path) -> Path:
    return moved_weights(random_model, tmp_path)


def test_probabilities_of_several_models_are_averaged(random_model: Path, other: Path) -> None:
    mean = (probabilities(load(random_model)) + probabilities(load(other))) / 2
    both = load(random_model, other)
    np.testing.assert_allclose(probabilities(both), mean, atol=1e-5)
    assert both.files == (random_model, other)
    found = both([IMAGE, IMAGE[:40]])
    assert [one.labels.shape for one in found] == [(50, 70), (40, 70)]
    for same in (pickle.loads(pickle.dumps(both)), copy.deepcopy(both), both.to("cpu")):
        np.testing.assert_allclose(probabilities(same), mean, atol=1e-5)


def test_each_sees_images_at_its_own_short_side(random_model: Path, seen_at_80: Path) -> None:
    mean = (probabilities(load(random_model)) + probabilities(load(seen_at_80))) / 2
    both = load(random_model, seen_at_80)
    np.testing.assert_allclose(probabilities(both), mean, atol=1e-5)
    assert both.sees_fixed_size
    at_40 = load(random_model, seen_at_80, short_side=40)
    np.testing.assert_allclose(
        probabilities(at_40), probabilities(load(random_model, short_side=40)), atol=1e-5
    )


def test_classes_in_another_order_are_the_same_classes(random_model: Path, tmp_path: Path) -> None:
    names = Checkpoint.load(random_model).classes.names
    moved = moved_weights(random_model, tmp_path, classes=ClassMap.of(names[::-1]))
    expected = (probabilities(load(random_model)) + probabilities(load(moved))[::-1]) / 2
    both = load(random_model, moved)
    assert both.classes.names == names
    np.testing.assert_allclose(probabilities(both), expected, atol=1e-5)


def test_what_can_not_be_averaged(random_model: Path, subpixel_model: Path) -> None:
    with pytest.raises(OptionError, match=r"has the classes .*; .* has background, crack"):
        load(random_model, subpixel_model)
    with pytest.raises(OptionError, match="given twice"):
        load(random_model, random_model)
    with pytest.raises(OptionError, match="one network"):
        load(random_model, tta=True).skip_scores(IMAGE)


def test_an_exported_file_is_averaged_with_a_checkpoint(
    exported_model: Path, other: Path, tmp_path: Path
) -> None:
    mean = (probabilities(fcnseg.load(exported_model)) + probabilities(load(other))) / 2
    both = fcnseg.load([exported_model, other], device="cpu", precision="auto")
    np.testing.assert_allclose(probabilities(both), mean, atol=2e-2)  # the other may be in bf16
    with pytest.raises(OptionError, match="one checkpoint"):
        both.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("name", ["random_model", "seen_at_80"])
def test_views_are_scales_of_what_the_network_sees(name: str, request) -> None:
    """Compared with each view on its own, resized from the image itself."""
    model = load(request.getfixturevalue(name))
    side = model.preprocess.short_side or 50
    total = np.zeros((4, 50, 70))
    for scale in SCALES:
        seen = replace(model, preprocess=model.preprocess.at(round(side * scale)))
        total += probabilities(seen)
        total += probabilities(seen, np.ascontiguousarray(IMAGE[:, ::-1]))[..., ::-1]
    found = probabilities(load(model.path, tta=True))
    # A short side of 1.25 * 50 is rounded one way for one axis, another for both.
    assert np.abs(found - total / 8).mean() < 0.02


def test_infer_viz_and_eval_take_several(
    drawn_folder: Path, tiny_run: Path, random_model: Path, tmp_path: Path
) -> None:
    last = tiny_run / "last.safetensors"
    image = drawn_folder / "images/val/0000.png"
    models = ("-m", tiny_run, "-m", last, "--device", "cpu", "--precision", "f32")
    out = tmp_path / "out"
    call("infer", image.parent, *models, "--tta", "-o", out, "--save", "labels")
    both = load(tiny_run, last, tta=True)
    from fcnseg.io.labels import read_raw_labels

    written = read_raw_labels(out / "labels" / "0000.png").values
    assert (written == both(str(image)).labels).mean() > 0.999
    again = call("infer", image.parent, *models, "--tta", "-o", out, "--save", "labels",
                 "--skip-done")  # fmt: skip
    assert "6 images are done already" in again.stderr
    call("viz", image, *models, "-o", tmp_path / "viz")
    assert (tmp_path / "viz").is_dir()
    shown = call("viz", image, *models, "--rungs", "-o", tmp_path / "no", status=2).stderr
    assert "--rungs looks into one network" in shown
    scored = call("eval", drawn_folder, *models, "--workers", "0")
    assert "averaged" in scored.stderr
    assert "fcnseg compare" in scored.stderr
    refused = call("eval", drawn_folder, "-m", tiny_run, "-m", tmp_path / "none", status=1).stderr
    assert "No model" in refused
