"""The three proofs: at one size, at every window, and on every crop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fcnseg.models.backbones import as_convolution, convolutional_head, split_last
from fcnseg.models.backbones.torchvision import import_torchvision
from fcnseg.models.networks import find_backbone

models = import_torchvision().models


class SmallVGG(nn.Module):
    """VGG's form with few channels: three pools, a 7x7 grid, two hidden layers."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        row: list[nn.Module] = []
        for channels, out in ((3, 6), (6, 8), (8, 10)):
            row += [nn.Conv2d(channels, out, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*row)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(10 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 16), nn.ReLU(),
            nn.Dropout(), nn.Linear(16, 5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture
def model() -> SmallVGG:
    torch.manual_seed(0)
    return SmallVGG().eval()


@torch.no_grad()
def test_at_the_classifiers_size(model: SmallVGG) -> None:
    images = torch.rand(2, 3, 56, 56)
    dense = convolutional_head(model, padded=False)(model.features(images))
    assert dense.shape == (2, 5, 1, 1)
    assert relative(dense[..., 0, 0], model(images)) < 1e-5


@torch.no_grad()
def test_every_window_of_the_last_pool(model: SmallVGG) -> None:
    maps = model.features(torch.rand(1, 3, 88, 104))  # (1, 10, 11, 13)
    dense = convolutional_head(model, padded=False)(maps)
    assert dense.shape == (1, 5, 5, 7)
    for i in range(5):
        for j in range(7):
            window = maps[..., i : i + 7, j : j + 7].flatten(1)
            assert relative(dense[..., i, j], model.classifier(window)) < 1e-5


@torch.no_grad()
def test_every_crop_of_an_unpadded_backbone() -> None:
    """A cell is its receptive field's classification: with padding inside it could not be."""
    torch.manual_seed(0)
    model = SmallVGG(padding=0).eval()
    field = next(
        size
        for size in range(56, 200)
        if model.features(torch.zeros(1, 3, size, size)).shape[-1] == 7
    )
    images = torch.rand(1, 3, field + 8 * 2, field + 8 * 3)
    dense = convolutional_head(model, padded=False)(model.features(images))
    assert dense.shape == (1, 5, 3, 4)
    for i in range(3):
        for j in range(4):
            crop = images[..., 8 * i : 8 * i + field, 8 * j : 8 * j + field]
            assert relative(dense[..., i, j], model(crop)) < 1e-5


@torch.no_grad()
def test_the_wrong_flattening_order_fails(model: SmallVGG) -> None:
    images = torch.rand(2, 3, 56, 56)
    dense = convolutional_head(model, padded=False)
    fc6 = model.classifier[0].weight
    dense[0].weight = nn.Parameter(fc6.view(32, 7, 7, 10).permute(0, 3, 1, 2))
    assert relative(dense(model.features(images))[..., 0, 0], model(images)) > 1e-2


@torch.no_grad()
def test_padded_keeps_the_size(model: SmallVGG) -> None:
    maps = torch.rand(1, 10, 11, 13)
    dense = convolutional_head(model)(maps)
    assert dense.shape == (1, 5, 11, 13)
    unpadded = convolutional_head(model, padded=False)(maps)
    torch.testing.assert_close(dense[..., 3:-3, 3:-3], unpadded)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "regnet_x_400mf"]
)
def test_pooling_classifiers(name: str) -> None:
    """On a map of one cell, the dense head is the classifier."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).eval()
    images = torch.rand(1, 3, 32, 32)
    maps = images
    for module in find_backbone(name).layers(model):
        maps = module(maps)
    dense = convolutional_head(model)(maps)
    assert relative(dense.mean((2, 3)), model(images)) < 1e-5


@torch.no_grad()
def test_torchvisions_alexnet() -> None:
    """Its grid is 6 wide; the same for the real thing, VGG-16, in benchmarks/classifiers.py."""
    torch.manual_seed(0)
    model = models.alexnet(weights=None).eval()
    images = torch.rand(1, 3, 224, 224)
    dense = convolutional_head(model, padded=False)(model.features(images))
    assert relative(dense[..., 0, 0], model(images)) < 1e-5
    assert convolutional_head(model)(model.features(images)).shape[-2:] == (7, 7)


def test_split_last(model: SmallVGG) -> None:
    before, last = split_last(convolutional_head(model))
    kinds = [type(layer) for layer in before]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Dropout, nn.Conv2d, nn.ReLU]
    assert [layer.weight.shape for layer in last] == [(5, 16, 1, 1)]


def test_weights_are_shared() -> None:
    layer = nn.Linear(4 * 9, 2, bias=False)
    convolution = as_convolution(layer, 3, padded=True)
    assert convolution.weight.data_ptr() == layer.weight.data_ptr()
    assert convolution.bias is None
