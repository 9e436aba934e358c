"""Verify networks of full size: VGG-16 as a dense classifier, and the original FCN-8s.

    python benchmarks/classifiers.py

With random weights (no download): the checks of tests/viz/test_classifier.py and
tests/models/test_original_fcn.py, which use small networks. Prints the largest difference relative
to the largest output; each should be below 1e-5, with the wrong flattening order far above.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.models.backbones import convolutional_head
from fcnseg.models.backbones.torchvision import import_torchvision
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec

FIELD = 404  # the receptive field of fc6 on VGG's last pool


def main() -> None:
    """Run and print all checks."""
    models = import_torchvision().models  # takes seconds, so not for --help

    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    vgg = models.vgg16(weights=None).eval()
    for layer in vgg.classifier:  # torchvision's initial weights are too small
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    dense = convolutional_head(vgg, padded=False)
    images = torch.rand(1, 3, 224, 224)
    show("224 input: dense = classifier", dense(vgg.features(images))[..., 0, 0], vgg(images))
    show("every 7x7 window of pool5 = FC head", *windows(vgg, dense))
    show("unpadded backbone: every 404 px crop = its output", *crops(vgg, dense))
    fc6 = vgg.classifier[0].weight
    dense[0].weight = nn.Parameter(fc6.view(4096, 7, 7, 512).permute(0, 3, 1, 2))
    show("wrong flattening order (must fail)", dense(vgg.features(images))[..., 0, 0], vgg(images))
    del vgg, dense
    show("original FCN-8s = float64, 97x131", *original())


def windows(vgg: nn.Module, dense: nn.Module) -> tuple[Tensor, Tensor]:
    """All windows of a 320x288 image's pool5."""
    maps = vgg.features(torch.rand(1, 3, 320, 288))  # (1, 512, 10, 9)
    found = dense(maps)
    cut = [maps[..., i : i + 7, j : j + 7].flatten(1) for i in range(4) for j in range(3)]
    return found.flatten(2)[0].T, vgg.classifier(torch.cat(cut))


def crops(vgg: nn.Module, dense: nn.Module) -> tuple[Tensor, Tensor]:
    """All crops of an image with six cells, with a backbone without padding."""
    for layer in vgg.features:
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
    images = torch.rand(1, 3, FIELD + 32, FIELD + 64)
    found = dense(vgg.features(images)).flatten(2)[0].T  # six cells
    cut = [
        images[..., i * 32 : i * 32 + FIELD, j * 32 : j * 32 + FIELD]
        for i in range(2)
        for j in range(3)
    ]
    expected = torch.cat([vgg.classifier(vgg.features(crop).flatten(1)) for crop in cut])
    for layer in vgg.features:
        if isinstance(layer, nn.Conv2d):
            layer.padding = (1, 1)
    return found, expected


def original() -> tuple[Tensor, Tensor]:
    """The published FCN-8s in float32, and its layers one by one in float64."""
    spec = ModelSpec(backbone="pytorch_fcn8s", num_classes=21, decoder="published")
    network = build(spec).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim == 4 and "up" not in name:
            nn.init.kaiming_normal_(parameter)
    images = torch.randn(1, 3, 97, 131) * 60
    found = network(images)
    network.double()
    backbone, decoder = network.backbone, network.decoder
    x, pools = images.double().flip(1), {}
    for group, count in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, count + 1):
            x = F.relu(getattr(backbone, f"conv{group}_{index}")(x))
        pools[group] = x = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = decoder.score_fr(F.relu(backbone.fc7(F.relu(backbone.fc6(x)))))
    x = decoder.upscore2(x)
    x = x + decoder.score_pool4(pools[4])[..., 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    x = decoder.upscore_pool4(x)
    x = x + decoder.score_pool3(pools[3])[..., 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    return found, decoder.upscore8(x)[..., 31 : 31 + 97, 31 : 31 + 131]


def show(what: str, found: Tensor, expected: Tensor) -> None:
    """Print the difference."""
    assert found.shape == expected.shape
    difference = (found - expected).abs().max() / expected.abs().max()
    print(f"{what:48s} {float(difference):.1e}", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
