"""The optimizer, its learning rates, the moving average of the weights, and freezing."""

from __future__ import annotations

import copy
import math
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fcnseg.config import TrainConfig
from fcnseg.errors import OptionError
from fcnseg.models.fcn import FCN

POWER = 0.9
"""The exponent of the poly schedule (Chen et al., DeepLab)."""


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over everything that is not frozen.

    Each group's "lr_scale" is its learning rate over the peak: the backbone's is --backbone-lr.
    Norms, biases and upsampling are not decayed.
    """
    groups = _groups(network, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    kinds = {parameter.device.type for parameter in network.parameters() if parameter.requires_grad}
    return torch.optim.AdamW(groups, lr=config.lr, fused=kinds <= {"cpu", "cuda"})


def _groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            lr_scale = config.backbone_lr if ".backbone." in f".{name}" else 1.0
            # An upsampling kernel shrunk to zero would be no upsampling.
            decays = parameter.ndim > 1 and ".upsamples." not in name
            decay = config.weight_decay if decays else 0.0
            groups.setdefault((lr_scale, decay), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": lr_scale, "weight_decay": decay}
        for (lr_scale, decay), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its part of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def rate_factor(step: int, steps: float, *, warmup: float, schedule: str) -> float:
    """The learning rate of a step (from 0) as a lr_scale of the peak.

    It rises in a line over the first `warmup` of the steps, then falls to 0 as
    (1 - t) ** 0.9 ("poly") or (1 + cos(pi t)) / 2 ("cosine").
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1, steps - rising)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return float((1 - done) ** POWER)


N = TypeVar("N", bound=nn.Module)


class Average(Generic[N]):
    """A running average of a network's weights: steadier than the weights themselves.

    network: a copy in eval mode that holds the average, normalisation statistics included.
    decay: how much of the average stays at each step; less in the first steps, so that
        the random start is forgotten: min(decay, (1 + step) / (10 + step)). With 0 the
        copy is the network.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights as they are after a step (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = _tensors(self.network), _tensors(network)
        moving = [index for index, tensor in enumerate(ours) if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [ours[index] for index in moving], [theirs[index] for index in moving], 1 - keep
        )
        for mine, other in zip(ours, theirs, strict=True):
            if not mine.is_floating_point():
                mine.copy_(other)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def freeze(network: FCN, config: TrainConfig) -> None:
    """Freeze the first stages of the backbone, and on demand all batch norms' statistics.

    OptionError when the backbone has fewer stages.
    """
    stages = list(network.backbone.stages.values())
    if config.freeze > len(stages):
        raise OptionError(
            f"--freeze {config.freeze}: the backbone {network.spec.backbone} has "
            f"{len(stages)} stages."
        )
    for stage in stages[: config.freeze]:
        stage.requires_grad_(False).eval()
    if config.freeze_norm:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
