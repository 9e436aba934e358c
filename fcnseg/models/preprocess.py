"""What a network was fed with, and how to feed it the same again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fcnseg.errors import InputError


@dataclass(frozen=True)
class Preprocess:
    """How uint8 RGB pictures become the numbers a trunk was trained on.

    mean, std: of red, green and blue, in units of 0..1 (torchvision's convention).
    short_side: pictures are resized so that their short side has this many pixels, and the
        answers resized back; None: pictures are used at their own size.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    short_side: int | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise InputError(f"Preprocess {name} is three numbers; found {values}.")
        if min(self.std) <= 0:
            raise InputError(f"Preprocess std must be above zero; found {self.std}.")
        if self.short_side is not None and self.short_side < 1:
            raise InputError(f"Preprocess short_side must be above zero; found {self.short_side}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header."""
        return {"mean": list(self.mean), "std": list(self.std), "short_side": self.short_side}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """The inverse of as_dict; InputError when the data is not of its form."""
        try:
            mean, std = (tuple(float(value) for value in data[name]) for name in ("mean", "std"))
            side = data.get("short_side")
            return cls(mean, std, None if side is None else int(side))  # type: ignore[arg-type]
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Not a preprocessing description: {error}.") from error

    def at(self, short_side: int | None) -> Preprocess:
        """The same with another short side: 0 is the pictures' own size, None leaves it."""
        return self if short_side is None else replace(self, short_side=short_side or None)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the network sees a picture of this (height, width)."""
        if self.short_side is None:
            return size
        factor = self.short_side / min(size)
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB -> float32 (N, 3, H, W), channels last in memory."""
        # In 0..255 units, so that a mean of 127 / 255 subtracts exactly 127.
        mean = torch.tensor([value * 255 for value in self.mean], device=images.device)
        std = torch.tensor([value * 255 for value in self.std], device=images.device)
        if torch.compiler.is_compiling():  # for any width; a runtime does it in one pass
            pixels = images.permute(0, 3, 1, 2).float()  # (N, 3, H, W)
            return (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        # Row by row: torch goes along three numbers at a time four times as slowly.
        count, height, width, _ = images.shape
        rows = images.reshape(count * height, width * 3).to(torch.float32, copy=True)
        rows = rows.sub_(mean.repeat(width)).div_(std.repeat(width))
        return rows.view(count, height, width, 3).permute(0, 3, 1, 2)  # (N, 3, H, W)


IMAGENET = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's ImageNet weights were trained with."""

LITE = Preprocess((127 / 255,) * 3, (128 / 255,) * 3)
"""EfficientNet-Lite's: (x - 127) / 128 on 0..255."""
