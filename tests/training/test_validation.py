from itertools import product

import numpy as np
import pytest
import torch

from fcnseg.classes import ClassMap
from fcnseg.datasets.loader import Sample
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import IMAGENET, ModelSpec
from fcnseg.training.validation import best_temperature, with_temperature


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

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.full((40, 50, 3), index, np.uint8), self.labels[index], str(index))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature: float) -> None:
    scene = Scene()
    found = best_temperature(lambda image: temperature * scene.logits[image[0, 0, 0]], scene)
    assert found == pytest.approx(temperature, rel=0.1)


def test_it_is_the_minimum() -> None:
    scene = Scene()
    found = best_temperature(lambda image: 2 * scene.logits[image[0, 0, 0]], scene)
    logits = torch.from_numpy(2 * scene.logits).permute(0, 2, 3, 1).reshape(-1, 4)
    labels = torch.from_numpy(scene.labels.astype(np.int64)).flatten()

    def surprise(at: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / at, labels, ignore_index=255))

    assert surprise(found) <= min(surprise(found * 1.02), surprise(found / 1.02))


def test_without_labels_nothing_changes() -> None:
    scene = Scene(ignored=True)
    assert best_temperature(lambda image: scene.logits[image[0, 0, 0]], scene) == 1.0


@pytest.mark.parametrize(
    ("fuse", "upsample"),
    [*product(["score", "feature", "concat"], ["fixed", "learned"]), ("feature", "subpixel")],
)
def test_cooling_divides_every_logit(fuse: str, upsample: str) -> None:
    torch.manual_seed(1)
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, fuse=fuse, upsample=upsample)
    weights = {
        name: torch.randn_like(tensor)
        if "score" in name or "detail" in name or name.endswith("bias")
        else tensor
        for name, tensor in build(spec).state_dict().items()
    }
    hot = Checkpoint(spec, IMAGENET, ClassMap.numbered(3), weights)
    cool = with_temperature(with_temperature(hot, 2.0), 1.25)
    assert cool.extra["temperature"] == 2.5
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        before, after = hot.build()(images), cool.build()(images)
    assert before.abs().max() > 0
    assert torch.allclose(after, before / 2.5, atol=1e-5)
