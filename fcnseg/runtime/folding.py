"""Batch norms folded into the convolutions before them: the same answers, fewer steps.

In evaluation a batch norm is a scale and a shift per channel; so is a convolution's output.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norms(network: Network, images: Tensor) -> Network:
    """Fold, in place, every batch norm that a convolution's output goes straight into.

    Which those are is seen by running the network once on `images`. Returns the network.
    """
    names = {module: name for name, module in network.named_modules()}
    for norm, convolution in _pairs(network, images).items():
        fused = fuse_conv_bn_eval(convolution, norm)
        network.set_submodule(names[convolution], fused)
        network.set_submodule(names[norm], nn.Identity())
    return network


def _pairs(network: nn.Module, images: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Batch norm -> the convolution whose output is its input."""
    # Tensors are kept, not their ids: an id is used again once its tensor is gone.
    made: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def after_convolution(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made.append((output, module))

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        for output, convolution in made:
            if output is inputs[0]:
                pairs[module] = convolution

    hooks = [
        module.register_forward_hook(after_convolution)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    hooks += [
        module.register_forward_pre_hook(before_norm)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs
