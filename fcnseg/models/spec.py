"""Plain values in a checkpoint's header: the network's architecture and its preprocessing."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from fcnseg.classes import MAX_CLASSES
from fcnseg.config.options import Decoder, Fuse, Upsampling
from fcnseg.errors import PARSE_ERRORS, InputError, OptionError, counted, reason
from fcnseg.io.bands import MOST_BANDS, Bands

if TYPE_CHECKING:
    from torch import Tensor

Skips = Literal["zero", "scaled"]
PUBLISHED = "published"
"""The `decoder` of a complete network published by others (fcnseg.models.zoo)."""

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
    """A network's architecture.

    backbone: a key of fcnseg.models.networks.BACKBONES, or timm:NAME.
    num_classes: K, 1..255.
    decoder: fcn32s ... fcn2s, the finest stride whose features are used.
    fuse: how skips are fused: score (the paper: 1x1 scores are summed), feature (`width` channels
        are summed, a 3x3 convolution follows), concat (concatenated, a 3x3 follows).
    width: channels in the decoder (fuse feature and concat).
    dropout: probability, before the scores.
    upsample: fixed (bilinear), learned (initialised to bilinear), or subpixel (not with fuse
        score): fixed, plus a sub-pixel convolution of the finest features.
    skips: with fuse score, the initial weights of the skips' scores: zero, or scaled: small, on
        scaled features (0.01, 0.0001: the authors' all-at-once training).
    output_stride: 32; or 16 or 8: the backbone's deeper stages are dilated.
    in_channels: bands of an image that the network takes, 3 for RGB.

    The defaults are those of `fcnseg train`; its --upsample auto is fixed except for two classes of
    which one is rare. OptionError for values that are out of range or exclude each other.

        spec = fcnseg.ModelSpec(backbone="resnet18", num_classes=21, decoder="fcn8s")
    """

    backbone: str
    num_classes: int
    decoder: str = "fcn4s"
    fuse: str = "feature"
    width: int = 64
    dropout: float = 0.1
    upsample: str = "fixed"
    skips: str = "zero"
    output_stride: int = 32
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise OptionError(f"No {name} {value!r:.60}; known: {', '.join(choices)}.")
        for name in ("num_classes", "width", "in_channels", "output_stride"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool):
                raise OptionError(f"{name} is a whole number; found {value!r:.60}.")
        if not isinstance(self.dropout, numbers.Real):
            raise OptionError(f"dropout is a number; found {self.dropout!r}.")
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise OptionError(
                f"{counted(self.num_classes, 'class')}; between 1 and {MAX_CLASSES} are possible."
            )
        if self.upsample == "subpixel" and self.fuse == "score":
            raise OptionError(
                "upsample subpixel needs features in the decoder; fuse score has scores only.",
                hint="use --upsample fixed, or --fuse feature",
            )
        if self.width < 1 or not 0 <= self.dropout < 1:
            raise OptionError(
                f"width must be above 0 and dropout in 0..1; found {self.width}, {self.dropout}."
            )
        if self.output_stride not in OUTPUT_STRIDES:
            raise OptionError(f"The output stride is 8, 16 or 32; found {self.output_stride}.")
        if not 1 <= self.in_channels <= MOST_BANDS:
            raise OptionError(f"A network takes 1 to {MOST_BANDS} bands; found {self.in_channels}.")

    def strides(self, available: Collection[int]) -> tuple[int, ...]:
        """The decoder's strides from coarse to fine. available: those of the backbone.

        OptionError when the backbone has no features that fine.
        """
        finest = int(self.decoder.removeprefix("fcn").removesuffix("s"))
        top, *others = sorted(available, reverse=True)
        if finest < min(available):
            raise OptionError(
                f"The backbone {self.backbone} has no features at stride {finest}, which "
                f"{self.decoder} needs; its finest are at {min(available)}.",
                hint=f"use --decoder fcn{min(available)}s",
            )
        return (top, *(stride for stride in others if stride >= finest))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header; without in_channels if it is 3, as in older files."""
        data = dataclasses.asdict(self)
        if self.in_channels == 3:
            del data["in_channels"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of as_dict; InputError for other data."""
        kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or "backbone" not in data or "num_classes" not in data:
            raise InputError("Not a model description: it must name backbone and num_classes.")
        for name, value in data.items():
            if name not in kinds:
                raise InputError(f"Not a model description of this version: unknown {name!r}.")
            if not isinstance(value, KINDS[kinds[name]]) or isinstance(value, bool):
                raise InputError(f"Model description: {name} is a {kinds[name]}; found {value!r}.")
        return cls(**data)


_STRIP, _MOST_OF_STRIP = 100, 2**22
"""An image so many times as long as it is wide is a strip; the pixels that one is enlarged to."""


@dataclass(frozen=True)
class Preprocess:
    """How images are converted to a network's inputs.

    mean, std: of red, green and blue, in units of 0..1 (torchvision's convention); with `bands`,
        of each chosen band, in stored values.
    short_side: images are resized so that their short side has this many pixels, and the
        logits resized back; None: images keep their size.
    bands: how images are laid out; None: uint8 RGB.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    short_side: int | None = None
    bands: Bands | None = None

    def __post_init__(self) -> None:
        count = 3 if self.bands is None else len(self.bands.chosen)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != count or not all(math.isfinite(value) for value in values):
                raise InputError(f"Preprocess {name} is {count} numbers; found {values}.")
        if min(self.std) <= 0:
            raise InputError(f"Preprocess std must be above zero; found {self.std}.")
        if self.short_side is not None and self.short_side < 1:
            raise InputError(f"Preprocess short_side must be above zero; found {self.short_side}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header."""
        data = {"mean": list(self.mean), "std": list(self.std), "short_side": self.short_side}
        return data if self.bands is None else {**data, "bands": self.bands.as_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """The inverse of as_dict; InputError for other data."""
        try:
            mean, std = (tuple(float(value) for value in data[name]) for name in ("mean", "std"))
            side = data.get("short_side")
            bands = data.get("bands")
            return cls(
                mean,
                std,
                None if side is None else int(side),
                None if bands is None else Bands.from_dict(bands),
            )
        except PARSE_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Not a preprocessing description: {reason(error)}.") from error

    def at(self, short_side: int | None) -> Preprocess:
        """A copy with another short side: 0 for the images' own size, None for the current one."""
        return self if short_side is None else replace(self, short_side=short_side or None)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) to which an image of this (height, width) is resized.

        Strips are enlarged less, but not those of traced graphs, whose sizes are no integers.
        """
        if self.short_side is None:
            return size
        height, width = size
        short, side = _smaller(height, width), self.short_side
        if isinstance(height, int) and isinstance(width, int) and max(size) > _STRIP * short:
            most = math.isqrt(_MOST_OF_STRIP * short // max(size))
            side = min(side, max(short, most))
        return _round_div(side * height, short), _round_div(side * width, short)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB -> float32 (N, 3, H, W), channels last in memory.

        With `bands`: stored values (N, H, W, carried) -> float32 (N, chosen, H, W).
        """
        if self.bands is not None:
            return self._normalise_bands(images, self.bands)
        import torch

        # In 0..255 units, so that a mean of 127 / 255 subtracts exactly 127.
        mean, std = (
            torch.tensor([v * 255 for v in each], dtype=torch.float32, device=images.device)
            for each in (self.mean, self.std)
        )
        if torch.compiler.is_compiling():  # for dynamic widths; runtimes fuse it into one pass
            pixels = images.permute(0, 3, 1, 2).float()  # (N, 3, H, W)
            return (pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        # Row by row: torch takes four times as long to broadcast along an axis of three elements.
        count, height, width, _ = images.shape
        rows = images.reshape(count * height, width * 3).to(torch.float32, copy=True)
        rows = rows.sub_(mean.repeat(width)).div_(std.repeat(width))
        return rows.view(count, height, width, 3).permute(0, 3, 1, 2)  # (N, 3, H, W)

    def _normalise_bands(self, images: Tensor, bands: Bands) -> Tensor:
        import torch

        mean, std = (
            torch.tensor(each, dtype=torch.float32, device=images.device)
            for each in (self.mean, self.std)
        )
        pixels = images.float()  # (N, H, W, carried)
        at = [number - 1 for number in bands.chosen]
        if at != list(range(bands.carried)):
            pixels = pixels.index_select(3, torch.tensor(at, device=images.device))
        return ((pixels - mean) / std).permute(0, 3, 1, 2)  # (N, chosen, H, W)


def check_images(images: Tensor, channels: int) -> None:
    """InputError unless images are floats (N, channels, H, W), such as `normalise` returns."""
    shape = tuple(getattr(images, "shape", ()))
    floats = hasattr(images, "is_floating_point") and images.is_floating_point()
    if floats and len(shape) == 4 and shape[1] == channels:
        return
    kind = getattr(images, "dtype", type(images).__name__)
    raise InputError(
        f"A network takes normalized float32 images (N, {channels}, H, W); found "
        f"{str(kind).removeprefix('torch.')} {shape or ''}".rstrip()
        + ".",
        hint="backbone.preprocess.normalise makes them of uint8 (N, H, W, 3); a model of "
        "fcnseg.load takes any image",
    )


def _smaller(first: Any, second: Any) -> int:
    """The smaller of two lengths: integers, or tensors or symbols in a traced graph."""
    if isinstance(first, int) and isinstance(second, int):
        return min(first, second)
    import torch

    least: Callable[..., Any] = torch.minimum if isinstance(first, torch.Tensor) else torch.sym_min
    number: int = least(first, second)
    return number


def _round_div(number: int, by: int) -> int:
    """number / by, rounded half to even, for numbers above 0.

    In integers and without branches, so that exported graphs compute the same. Without abs:
    OpenVINO's is wrong for some negative int64 (2026.4), and torch.export can't save one.
    """
    below, rest = number // by, number % by
    return below + (2 * rest + below % 2 + by - 1) // (2 * by)


IMAGENET = Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of torchvision's ImageNet weights."""

LITE = Preprocess((127 / 255,) * 3, (128 / 255,) * 3)
"""Of EfficientNet-Lite: (x - 127) / 128 on 0..255."""
