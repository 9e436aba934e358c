"""An ImageNet classifier as a fully convolutional network (Long et al., section 3.1).

A fully connected layer behind a 7x7 map is a 7x7 convolution: fc6 is its matrix viewed as
(4096, 512, 7, 7), fc7 and the last layer are 1x1. A classifier that pools to one element is the
same with 1x1 throughout. Such a network scores 1000 classes at every place, with no training.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.models import BACKBONES, find_backbone, load_classifier
from fcnseg.models.backbone import Backbone
from fcnseg.models.backbones import torchvision
from fcnseg.models.fcn import crop, pad_to_multiple, size_of
from fcnseg.models.geometry import upsample
from fcnseg.progress import Callback, no_callback


class DenseClassifier(nn.Module):
    """A classifier with its layers behind the pooling as convolutions.

    backbone: fc6 and fc7 belong to it where there are such.
    head: from the backbone's coarsest map to scores of the 1000 classes.
    names: of the classes.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.preprocess = backbone.preprocess
        self.names = names

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W), any size -> scores (N, 1000, H/s, W/s), rounded up."""
        padded = pad_to_multiple(images, self.backbone.stride)
        return self.head(self.backbone(padded)[self.backbone.stride])  # type: ignore[no-any-return]

    def to_pixels(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Some classes' maps (N, C, h, w), where they belong on the image: (N, C, *size)."""
        stride = self.backbone.stride
        height, width = size_of(maps)
        full = (height * stride, width * stride)
        return crop(upsample(maps, stride, self.backbone.offsets[stride], full), *size)


def dense_classifier(
    name: str = "efficientnet_lite0", weights: str | Path = "auto", callback: Callback = no_callback
) -> DenseClassifier:
    """A backbone of the table with its classifier, fully convolutional, in evaluation mode.

    weights: as for load_pretrained, but with the classifier's layers.
    Raises OptionError for a backbone without a classifier, CheckpointError for weights that
    can't be had.
    """
    fc = f"{name}:fc"
    name = fc if fc in BACKBONES else name
    if find_backbone(name).head is None:
        raise OptionError(f"The backbone {name} has no classifier of ImageNet's classes.")
    spec, model = load_classifier(name, weights, callback)
    assert spec.head is not None
    with torch.no_grad():
        backbone, head = Backbone(name, spec, model), spec.head(model)
        return DenseClassifier(backbone, head, torchvision.imagenet_names()).eval()
