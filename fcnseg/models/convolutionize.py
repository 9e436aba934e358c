"""A classifier that sees one square becomes one that answers everywhere.

A fully connected layer behind a 7x7 map is a 7x7 convolution (Long, Shelhamer and Darrell,
section 3.1): fc6 is its matrix viewed as (4096, 512, 7, 7), fc7 and the last layer are 1x1.
A classifier that pools to one cell is the same with 1x1 throughout.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def fully_connected(model: nn.Module, *, padded: bool = True) -> nn.Sequential:
    """The layers behind the pooling of a torchvision classifier, as convolutions.

    padded: keep the size of the map (kernels of even width give one cell more); otherwise
        a map as large as the classifier's gives one cell. The weights are shared.
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
