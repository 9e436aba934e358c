"""ImageNet heatmaps without any training: a classifier that answers everywhere."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.events import Listener, nobody
from fcnseg.models._torchvision import models
from fcnseg.models.backbones import Backbone, find_trunk, started
from fcnseg.models.ladder import crop, pad_to_multiple, size_of
from fcnseg.models.trunks import TRUNKS
from fcnseg.models.upsample import upsample


class DenseClassifier(nn.Module):
    """A classifier with its layers behind the pooling as convolutions.

    backbone: the trunk; fc6 and fc7 belong to it where there are such.
    head: from the trunk's coarsest map to scores of the 1000 classes.
    names: of the classes.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.preprocess = backbone.preprocess
        self.names = imagenet_names()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W), any size -> scores (N, 1000, h, w), one per cell."""
        padded = pad_to_multiple(images, self.backbone.stride)
        return self.head(self.backbone(padded)[self.backbone.stride])  # type: ignore[no-any-return]

    def to_pixels(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Some classes' maps (N, C, h, w), where they belong on the picture: (N, C, *size)."""
        stride = self.backbone.stride
        height, width = size_of(maps)
        whole = (height * stride, width * stride)
        return crop(upsample(maps, stride, self.backbone.offsets[stride], whole), *size)


def dense_classifier(
    name: str = "efficientnet_lite0", weights: str | Path = "auto", listener: Listener = nobody
) -> DenseClassifier:
    """A trunk of the table with its classifier, in evaluation mode.

    weights: as for fcnseg.models.backbones.load_pretrained, but with the classifier's layers.
    Raises OptionError for a trunk without a classifier, CheckpointError for weights that
    can't be had.
    """
    fc = f"{name}:fc"
    name = fc if fc in TRUNKS else name
    if find_trunk(name).head is None:
        raise OptionError(f"The backbone {name} has no classifier of ImageNet's classes.")
    trunk, model = started(name, weights, listener)
    assert trunk.head is not None
    with torch.no_grad():
        return DenseClassifier(Backbone(name, trunk, model), trunk.head(model)).eval()


def imagenet_names() -> tuple[str, ...]:
    """ImageNet's 1000 classes, in order."""
    return tuple(models.get_model_weights("resnet18").DEFAULT.meta["categories"])
