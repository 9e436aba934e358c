from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from fcnseg.classes import ClassMap
from fcnseg.datasets.loader import Sample
from fcnseg.metrics import Confusion, Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import IMAGENET, ModelSpec
from fcnseg.progress import Message
from fcnseg.training.validation import (
    LabelledLogits,
    best_offsets,
    best_temperature,
    calibrate,
    with_offsets,
    with_temperature,
)


def random_checkpoint(fuse: str, upsample: str) -> Checkpoint:
    torch.manual_seed(1)
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, fuse=fuse, upsample=upsample)
    weights = {
        name: torch.randn_like(tensor)
        if "score" in name or "detail" in name or name.endswith("bias")
        else tensor
        for name, tensor in build(spec).state_dict().items()
    }
    return Checkpoint(spec, IMAGENET, ClassMap.numbered(3), weights)


class Scene:
    """Three pictures whose labels are drawn from known logits: honest at temperature 1."""

    classes = ClassMap.numbered(4)

    def __init__(self, ignored: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.logits = 2 * rng.standard_normal((3, 4, 40, 50)).astype(np.float32)
        shares = np.exp(self.logits) / np.exp(self.logits).sum(1, keepdims=True)
        drawn = (rng.random((3, 1, 40, 50)) > shares.cumsum(1)).sum(1)
        self.labels = drawn.clip(0, 3).astype(np.uint8)
        self.labels[:, :5] = 255
        if ignored:
            self.labels[:] = 255

    def sample(self, scale: float = 1.0) -> LabelledLogits:
        return LabelledLogits.of(lambda image: scale * self.logits[image[0, 0, 0]], self)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.full((40, 50, 3), index, np.uint8), self.labels[index], str(index))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature: float) -> None:
    scene = Scene()
    found = best_temperature(scene.sample(temperature))
    assert found == pytest.approx(temperature, rel=0.1)


def test_it_is_the_minimum() -> None:
    scene = Scene()
    found = best_temperature(scene.sample(2))
    logits = torch.from_numpy(2 * scene.logits).permute(0, 2, 3, 1).reshape(-1, 4)
    labels = torch.from_numpy(scene.labels.astype(np.int64)).flatten()

    def surprise(at: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / at, labels, ignore_index=255))

    assert surprise(found) <= min(surprise(found * 1.02), surprise(found / 1.02))


def test_without_labels_nothing_changes() -> None:
    scene = Scene(ignored=True)
    assert best_temperature(scene.sample()) == 1.0
    assert best_offsets(scene.sample()) is None


@pytest.mark.parametrize(
    ("fuse", "upsample"),
    [*product(["score", "feature", "concat"], ["fixed", "learned"]), ("feature", "subpixel")],
)
def test_cooling_divides_every_logit(fuse: str, upsample: str) -> None:
    hot = random_checkpoint(fuse, upsample)
    cool = with_temperature(with_temperature(hot, 2.0), 1.25)
    assert cool.extra["temperature"] == 2.5
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before, after = hot.build()(images), cool.build()(images)
    assert before.abs().max() > 0
    assert torch.allclose(after, before / 2.5, atol=1e-5)


@pytest.mark.parametrize(
    ("fuse", "decoder", "upsample"),
    [
        ("score", "fcn8s", "fixed"),
        ("score", "fcn32s", "fixed"),
        ("feature", "fcn8s", "subpixel"),
        ("concat", "fcn8s", "fixed"),
    ],
)
def test_offsets_are_added_to_the_logits(fuse: str, decoder: str, upsample: str) -> None:
    before = random_checkpoint(fuse, upsample)
    spec = replace(before.spec, decoder=decoder)
    before = replace(before, spec=spec, weights={**build(spec).state_dict()})
    after = with_offsets(before, [0.5, -2.0, 1.5])
    assert after is not None
    assert after.extra["class_offsets"] == [0.5, -2.0, 1.5]
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        difference = after.build()(images) - before.build()(images)
    assert torch.allclose(difference, torch.tensor([0.5, -2.0, 1.5]).view(1, 3, 1, 1), atol=1e-5)


def test_a_learned_upsampling_takes_no_offsets() -> None:
    assert with_offsets(random_checkpoint("score", "learned"), [1.0, 0.0, 0.0]) is None


def rare(pixels: int = 4000, *, images: int = 4) -> LabelledLogits:
    """Class 2 is rare and its logits are too low by 2, as a loss that counts pixels makes them."""
    rng = torch.Generator().manual_seed(0)
    labels = (torch.rand(pixels, generator=rng) > 0.6).long()
    labels[::20] = 2
    logits = torch.randn(pixels, 3, generator=rng, dtype=torch.float64)
    logits += 3 * torch.nn.functional.one_hot(labels, 3)
    logits[:, 2] -= 2
    return LabelledLogits(logits, labels, torch.arange(pixels) * images // pixels)


def test_offsets_raise_the_mean_iou() -> None:
    sample = rare()
    found = best_offsets(sample)
    assert found is not None
    assert found.values[2] > found.values[:2].max() + 0.3
    assert min(found.gains) > 0.002
    assert (sample + found.values).miou() > sample.miou() + 0.002


@pytest.mark.parametrize("absent", [False, True])
def test_the_mean_iou_of_a_sample(absent: bool) -> None:
    sample = rare()
    if absent:  # a class that is predicted and not labelled is left out of the mean
        sample.labels[sample.labels == 2] = 1
    confusion = Confusion(3)
    confusion.add(
        sample.labels.numpy().astype(np.uint8)[None],
        sample.logits.argmax(1).numpy().astype(np.uint8)[None],
    )
    expected = Report.of(confusion.matrix, ClassMap.numbered(3), 1).miou
    assert sample.miou() == pytest.approx(expected)


def test_offsets_that_help_one_half_alone_are_not_taken() -> None:
    sample = rare()
    first = sample.images < 2
    logits = sample.logits.clone()
    logits[first, 2] += 4.0  # too high in one half, too low in the other
    assert best_offsets(replace(sample, logits=logits)) is None
    assert best_offsets(rare(images=1)) is None  # no halves


def test_what_is_chosen_is_told_and_kept() -> None:
    told: list[str] = []
    before = random_checkpoint("feature", "fixed")

    def tell(event: object) -> None:
        assert isinstance(event, Message)
        told.append(event.text)

    after = calibrate(before, rare(), tell, adjust=True, scale=True)
    assert "class_offsets" in after.extra
    assert "temperature" in after.extra
    assert told[0].startswith("Class logits adjusted: +")
    calibrate(before, rare(images=1), tell, adjust=True, scale=False)
    assert told[2:] == ["Class logits not adjusted: the validation images would not gain"]
