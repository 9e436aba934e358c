"""Everything that decides a network's shape, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fcnseg.classes import MAX_CLASSES
from fcnseg.config import Decoder, Fuse, Upsampling
from fcnseg.errors import InputError, OptionError

Skips = Literal["zero", "scaled"]
PUBLISHED = "published"
"""The decoder of a network that is somebody else's as a whole (fcnseg.models.published)."""

CHOICES: dict[str, tuple[str, ...]] = {
    "decoder": (*get_args(Decoder), PUBLISHED),
    "fuse": get_args(Fuse),
    "upsample": get_args(Upsampling),
    "skips": get_args(Skips),
}
KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
OUTPUT_STRIDES = (8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A network's shape.

    backbone: a name of fcnseg.models.backbones.BACKBONES, or timm:NAME.
    num_classes: K, 1..255.
    decoder: how far down the ladder goes.
    fuse: what meets at a rung: score (the paper: 1x1 scores are summed), feature (`width`
        channels are summed, a 3x3 follows), concat (they are stacked, a 3x3 follows).
    width: channels of a rung (fuse feature and concat).
    dropout: before the scores.
    upsample: fixed bilinear, learned from it, or subpixel (not with fuse score): fixed, and each
        pixel's own share, from its cell's maps, is added to the logits.
    skips: with fuse score, the skips' scores start at zero, or small on scaled features
        (0.01, 0.0001: the paper's at-once training).
    output_stride: 32, or 16 or 8: the trunk's deeper stages are dilated.
    """

    backbone: str
    num_classes: int
    decoder: str = "fcn8s"
    fuse: str = "feature"
    width: int = 128
    dropout: float = 0.1
    upsample: str = "fixed"
    skips: str = "zero"
    output_stride: int = 32

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise OptionError(
                    f"No {name} {getattr(self, name)!r}; known: {', '.join(choices)}."
                )
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise OptionError(
                f"{self.num_classes} classes; between 1 and {MAX_CLASSES} are possible."
            )
        if self.upsample == "subpixel" and self.fuse == "score":
            raise OptionError(
                "With fuse score there are no maps at a rung that upsample subpixel could look at.",
                hint="take --upsample fixed, or --fuse feature",
            )
        if self.width < 1 or not 0 <= self.dropout < 1:
            raise OptionError(
                f"width must be above 0 and dropout in 0..1; found {self.width}, {self.dropout}."
            )
        if self.output_stride not in OUTPUT_STRIDES:
            raise OptionError(f"The output stride is 8, 16 or 32; found {self.output_stride}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of as_dict; InputError when the data is not of its form."""
        kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or "backbone" not in data or "num_classes" not in data:
            raise InputError("Not a model description: it must name backbone and num_classes.")
        for name, value in data.items():
            if name not in kinds:
                raise InputError(f"Not a model description of this version: unknown {name!r}.")
            if not isinstance(value, KINDS[kinds[name]]) or isinstance(value, bool):
                raise InputError(f"Model description: {name} is a {kinds[name]}; found {value!r}.")
        return cls(**data)
