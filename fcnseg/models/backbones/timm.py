"""Backbones of timm (PyTorch Image Models) by name, `timm:NAME`, with the extra 'timm'.

timm does not say where the elements of its feature maps lie, so that is measured.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fcnseg.errors import CheckpointError, MissingExtra, OptionError, did_you_mean
from fcnseg.models.alignment import linearised, measured
from fcnseg.models.backbone import Features
from fcnseg.models.spec import Preprocess
from fcnseg.models.weights import State, first_line

PREFIX = "timm:"
STRIDES = (2, 4, 8, 16, 32)


class TimmBackbone(Features):
    """A convolutional network of timm, as features at strides 2 to 32."""

    def __init__(self, name: str, output_stride: int = 32) -> None:
        super().__init__()
        self.network = _create(name, output_stride)
        info = self.network.feature_info
        # Of several maps at one stride (dilated stages) the deepest is taken.
        reductions = enumerate(info.reduction())
        self.taps = {int(stride): index for index, stride in reductions if stride > 1}
        self.channels = {stride: info.channels()[index] for stride, index in self.taps.items()}
        if not set(self.channels) <= set(STRIDES):
            raise OptionError(
                f"{name} has features at strides {sorted(self.channels)}; the decoder takes "
                f"{', '.join(map(str, STRIDES))}.",
                hint="take another backbone",
            )
        cfg = getattr(self.network, "pretrained_cfg", {})
        self.preprocess = Preprocess(tuple(cfg["mean"]), tuple(cfg["std"]))
        self.stride = max(self.channels)
        self.output_stride = output_stride
        self.offsets = dict(_offsets(name, output_stride))

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W), H and W multiples of stride -> {s: (N, C_s, H/s, W/s)}."""
        maps = self.network(images)
        return {stride: maps[index] for stride, index in self.taps.items()}


def pretrained_state(name: str) -> State:
    """timm's weights for a backbone, from its cache or downloaded; CheckpointError otherwise."""
    try:
        network = _create(name, 32, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The weights of {name} could not be loaded: {first_line(error)}.",
            hint="connect to the internet once, or start without: --backbone-weights none",
        ) from error
    return {f"network.{key}": value for key, value in network.state_dict().items()}


def _create(name: str, output_stride: int, *, pretrained: bool = False) -> Any:
    try:
        import timm

        from fcnseg.models import torchvision_import  # noqa: F401 - before timm imports it
    except ModuleNotFoundError:
        raise MissingExtra(f"The backbone {name}", "timm") from None
    wanted = name.removeprefix(PREFIX)
    if wanted.split(".")[0] not in timm.list_models():
        known = timm.list_models()
        hint = did_you_mean(wanted, known, "timm.list_models() has all", most=3)
        raise OptionError(f"timm has no model {wanted!r}.", hint=hint)
    dilated: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        return timm.create_model(wanted, features_only=True, pretrained=pretrained, **dilated)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        if pretrained:
            raise
        raise OptionError(
            f"{name} can't be a backbone at output stride {output_stride}: {first_line(error)}.",
            hint="take a convolutional network, or leave --output-stride at 32",
        ) from error


@functools.cache
def _offsets(name: str, output_stride: int) -> tuple[tuple[int, float], ...]:
    """Measured on a copy of its own, because the backbone itself may have no memory yet."""
    try:
        with torch.device("cpu"):
            found = measured(_linear_features(name, output_stride))
        if not all(map(math.isfinite, found.values())):
            raise RuntimeError("its weights can't be made positive")
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"It can't be measured where the features of {name} lie: {first_line(error)}.",
            hint="take a convolutional network",
        ) from error
    return tuple((int(stride), _snapped(where)) for stride, where in found.items())


def _linear_features(name: str, output_stride: int) -> Callable[[Tensor], dict[int, Tensor]]:
    network: Any = linearised(_create(name, output_stride))
    strides = network.feature_info.reduction()
    return lambda images: dict(zip(strides, network(images), strict=True))


def _snapped(where: float) -> float:
    """To half pixels, where the borders' pull alone can explain the difference."""
    half = round(where * 2) / 2
    return half if abs(where - half) < 0.1 else where
