"""An ImageNet classifier as a fully convolutional network (Long et al., section 3.1).

A fully connected layer behind a 7x7 map is a 7x7 convolution: fc6 is its matrix viewed as
(4096, 512, 7, 7), fc7 and the last layer are 1x1. A classifier that pools to one element is the
same with 1x1 throughout. Such a network scores 1000 classes at every place, with no training.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fcnseg.models.backbone import Backbone
from fcnseg.models.fcn import crop, pad_to_multiple, size_of
from fcnseg.models.geometry import upsample


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


def fully_connected(model: nn.Module, *, padded: bool = True) -> nn.Sequential:
    """The layers behind the pooling of a classifier, as convolutions.

    padded: keep the size of the map (kernels of even width give one element more); otherwise
        a map as large as the classifier's gives one output. The weights are shared.
    """
    owner: Any = model
    layers = owner.fc if hasattr(owner, "fc") else owner.classifier
    size = owner.avgpool.output_size if hasattr(owner, "avgpool") else 1
    grid = size if isinstance(size, int) else int(size[0])
    convolutions: list[nn.Module] = []
    for layer in layers if isinstance(layers, nn.Sequential) else [layers]:
        if isinstance(layer, nn.Linear):
            convolutions.append(as_convolution(layer, grid, padded=padded))
            grid = 1
        elif not isinstance(layer, nn.Flatten | nn.AdaptiveAvgPool2d):
            convolutions.append(layer)
    return nn.Sequential(*convolutions)


def as_convolution(layer: nn.Linear, grid: int, *, padded: bool) -> nn.Conv2d:
    """A layer on a flattened (C, grid, grid) map as a grid x grid convolution."""
    channels = layer.in_features // grid**2
    convolution = nn.Conv2d(
        channels,
        layer.out_features,
        grid,
        padding=grid // 2 if padded else 0,
        bias=layer.bias is not None,
        device="meta",  # its weights are the layer's
    )
    weight = layer.weight.view(layer.out_features, channels, grid, grid)
    convolution.weight = nn.Parameter(weight.detach())
    convolution.bias = layer.bias
    return convolution


def split_last(layers: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """All up to the last layer with weights, without dropout at the end; and that layer."""
    row = list(layers.children())
    last = max(index for index, layer in enumerate(row) if list(layer.parameters()))
    before = last
    while isinstance(row[before - 1], nn.Dropout):
        before -= 1
    return nn.Sequential(*row[:before]), nn.Sequential(*row[last:])
