from __future__ import annotations

import numpy as np
import pytest
import torch

from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models.backbones.torchvision import imagenet_names
from fcnseg.viz.imagenet import dense_classifier


@torch.no_grad()
def test_the_cat_is_where_it_is() -> None:
    """Heatmap of cats on scikit-image's cat picture, without any training."""
    image = pytest.importorskip("skimage.data").chelsea()  # 300 x 451
    classifier = dense_classifier("efficientnet_lite0")
    assert classifier.names[281:286] == (
        "tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat",
    )  # fmt: skip
    scores = classifier(classifier.preprocess.normalise(torch.from_numpy(image.copy())[None]))
    assert scores.shape == (1, 1000, 10, 15)
    cats = scores.softmax(1)[:, 281:286].sum(1, keepdim=True)
    heat = classifier.to_pixels(cats, image.shape[:2])[0, 0].numpy()
    assert heat.shape == (300, 451)
    # Face and chest are left of the middle; the far right is wall.
    assert heat[80:220, 120:300].mean() > 0.5 > 2 * heat[:, 420:].mean()
    assert np.unravel_index(heat.argmax(), heat.shape)[1] < 330


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "alexnet", "mobilenet_v3_small"])
@torch.no_grad()
def test_other_classifiers(name: str) -> None:
    classifier = dense_classifier(name, weights="none")
    stride = classifier.backbone.stride
    assert classifier(torch.rand(1, 3, 70, 100)).shape == (
        1,
        1000,
        -(-70 // stride),
        -(-100 // stride),
    )


def test_names() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert names[281] == "tabby"


def test_no_classifier() -> None:
    with pytest.raises(OptionError, match="tiny has no classifier"):
        dense_classifier("tiny")


def test_a_backbones_weights_are_not_enough(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "x.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(CheckpointError, match="do not fit"):
        dense_classifier("resnet18", path)
