"""Multispectral images and other depths than 8-bit RGB: `Bands` describes their layout.

A file is decoded to its stored values (H, W, C). `Bands`, stored in the checkpoint, defines which
of them a network takes and which are displayed. Datasets of 8-bit gray and RGB have no `Bands` and
are read by fcnseg.io.images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import PARSE_ERRORS, DatasetError, InputError, MediaError, OptionError, reason

Pixels = NDArray[Any]
"""Stored values: uint8, uint16 or float32 (H, W, C), the first band first."""

MOST_BANDS = 16
DTYPES = ("uint8", "uint16", "float32")
COLORS = ("red", "green", "blue")

_WHITE = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


class Stored(NamedTuple):
    """The content of an image file.

    pixels: all bands as stored, upright. alpha: whether the last one is opacity, by the format or a
    tag. names: of the bands, "" if unknown.
    """

    pixels: Pixels
    alpha: bool
    names: tuple[str, ...]

    @property
    def opaque(self) -> Pixels:
        """The bands composited over white, without opacity."""
        if not self.alpha:
            return self.pixels
        rest, opacity = self.pixels[:, :, :-1], self.pixels[:, :, -1]
        white = _WHITE[rest.dtype.name]
        if opacity.min(initial=white) >= white:
            return np.ascontiguousarray(rest)
        through = white - opacity[:, :, None].astype(np.float64)
        laid = (rest * (white - through) + white * through) / white
        return (laid if rest.dtype.kind == "f" else np.round(laid)).astype(rest.dtype)


@dataclass(frozen=True)
class Bands:
    """The layout of images that are not 8-bit RGB.

    stored, dtype: number of bands in the images, and the type of their values.
    chosen: bands that the network takes, from 1 on as in GDAL.
    shown: the three bands (red, green, blue) or the single one that are displayed.
    low, high: for each stored band, the values displayed as black and white: the 2nd and 98th
        percentile of the training images. names: of the stored bands, "" if unknown.
    """

    stored: int
    dtype: str
    chosen: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        fill: dict[str, Any] = {
            "chosen": tuple(range(1, self.stored + 1)),
            "low": (0.0,) * self.stored,
            "high": (_WHITE.get(self.dtype, 1.0),) * self.stored,
            "names": ("",) * self.stored,
        }
        for name, value in fill.items():
            object.__setattr__(self, name, getattr(self, name) or value)
        object.__setattr__(self, "shown", self.shown or self._usual())
        lengths = {len(self.low), len(self.high), len(self.names)}
        numbers = (*self.chosen, *self.shown)
        if self.dtype not in DTYPES or not 1 <= self.stored <= MOST_BANDS:
            raise InputError(
                f"Images have 1 to {MOST_BANDS} bands of {', '.join(DTYPES)}; found {self.stored} "
                f"of {self.dtype}."
            )
        if lengths != {self.stored} or not all(1 <= n <= self.stored for n in numbers):
            raise InputError(f"Not a description of {self.stored} bands: {self.as_dict()}.")
        if len(self.shown) not in (1, 3):
            raise InputError(f"Images show one band or three; found {list(self.shown)}.")

    def _usual(self) -> tuple[int, ...]:
        """Red, green and blue by name, else the first three bands; the first of one or two."""
        if set(COLORS) <= set(self.names):
            return tuple(self.names.index(color) + 1 for color in COLORS)
        return (1, 2, 3) if self.stored >= 3 else (1,)

    @property
    def every(self) -> bool:
        """Whether the network takes all bands: then images must have exactly these, else at least
        the chosen ones."""
        return sorted(self.chosen) == list(range(1, self.stored + 1))

    @property
    def carried(self) -> int:
        """Number of leading bands that are passed to the network, which selects from them."""
        return self.stored if self.every else max(self.chosen)

    def color_of(self, number: int) -> int | None:
        """0, 1 or 2 if a band is red, green or blue, else None."""
        name = self.names[number - 1]
        return COLORS.index(name) if name in COLORS else None

    def take(self, found: Stored, name: str) -> Pixels:
        """All bands of a file, checked and finite; MediaError if its layout differs.

        Opacity counts as a band only if the layout has as many bands.
        """
        return self.finite(self.select(found, name))

    def select(self, found: Stored, name: str) -> Pixels:
        """The same without replacing values that are not finite."""
        wanted, pixels = self.carried, found.pixels
        if found.alpha and (pixels.shape[2] > wanted if self.every else pixels.shape[2] != wanted):
            pixels = found.opaque
        self.check(pixels, name)
        return pixels

    def check(self, pixels: Pixels, name: str) -> None:
        """MediaError for an image with too few or other bands, or of another type."""
        count, least = pixels.shape[2], max(self.chosen)
        if count < least or (self.every and count != self.stored):
            wanted = f"{self.stored}" if self.every else f"band {least} and those before it"
            raise MediaError(
                f"{name} has {_counted(count)}; the model takes {wanted}"
                f"{'' if self.every else f', of {self.stored} in training'}.",
                hint="give it images with the bands that it was trained on"
                + (", or train with --bands on fewer" if count < least else ""),
            )
        if pixels.dtype.name != self.dtype:
            raise MediaError(
                f"{name} has values of {pixels.dtype}; the model was trained on {self.dtype}.",
                hint="the same scene in another type has other values: convert it as the training "
                "images were",
            )

    def finite(self, pixels: Pixels) -> Pixels:
        """Replace values that are not finite (no data) with the middle of the band's range."""
        if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
            return pixels
        count = min(pixels.shape[2], self.stored)
        fill = np.zeros(pixels.shape[2], np.float32)
        fill[:count] = self.middle()[:count]
        return np.where(np.isfinite(pixels), pixels, fill)

    def middle(self) -> tuple[float, ...]:
        """The middle of each stored band's range."""
        return tuple((low + high) / 2 for low, high in zip(self.low, self.high, strict=True))

    def carry(self, pixels: Pixels) -> Pixels:
        """The bands that are passed to the network."""
        return np.ascontiguousarray(pixels[:, :, : self.carried])

    def to_rgb(self, pixels: Pixels) -> NDArray[np.uint8]:
        """The displayed image: uint8 (H, W, 3), stretched by the training set's range."""
        shown = self.shown if max(self.shown) <= pixels.shape[2] else (self.chosen[0],)
        at = [number - 1 for number in shown]
        low = np.array(self.low, np.float32)[at]
        span = np.maximum(np.array(self.high, np.float32)[at] - low, 1e-12)
        levels = (pixels[:, :, at].astype(np.float32) - low) * (255 / span)
        image = np.clip(np.nan_to_num(levels) + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(image, 3, axis=2) if len(shown) == 1 else np.ascontiguousarray(image)

    def __str__(self) -> str:
        taken = "" if self.every else f", of which {', '.join(map(str, self.chosen))} are used"
        return f"{_counted(self.stored)} of {self.dtype}{taken}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Bands:
        """The inverse of as_dict; InputError when the data is not of its form."""
        try:
            chosen, shown = (tuple(map(int, data[name])) for name in ("chosen", "shown"))
            low, high = (tuple(map(float, data[name])) for name in ("low", "high"))
            names = tuple(map(str, data["names"]))
            return cls(int(data["stored"]), str(data["dtype"]), chosen, shown, low, high, names)
        except PARSE_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Not a description of bands: {reason(error)}.") from error

    def showing(self, numbers: tuple[int, ...]) -> Bands:
        """A copy that displays other bands; () keeps them."""
        return dataclasses.replace(self, shown=numbers) if numbers else self


def _counted(count: int) -> str:
    return f"{count} band{'' if count == 1 else 's'}"


def parse_bands(flag: str, text: str | None, lengths: Sequence[int] = ()) -> tuple[int, ...]:
    """Parse band numbers, from 1 on, of an option "4,3,2"; () for None."""
    if text is None:
        return ()
    parts = str(text).replace(",", " ").split()
    numbers = tuple(int(part) for part in parts if part.isdecimal())
    good = len(numbers) == len(parts) > 0 and min(numbers) > 0
    if not good or len(set(numbers)) < len(numbers) or (lengths and len(numbers) not in lengths):
        many = " or ".join(map(str, lengths)) + " of them" if lengths else "each once"
        raise OptionError(
            f"{flag} takes the numbers of bands, from 1 on, {many}; found {text!r}.",
            hint=f"for example {flag} 4,3,2",
        )
    return numbers


def with_shown(bands: Bands | None, text: str) -> Bands:
    """A model's bands with others displayed; OptionError if it does not have them."""
    numbers = parse_bands("--show-bands", text, (1, 3))
    if bands is None:
        raise OptionError("--show-bands is for models of other bands than RGB; this one takes RGB.")
    if max(numbers) > bands.stored:
        raise OptionError(f"--show-bands {max(numbers)}: the model's images have {bands.stored}.")
    return bands.showing(numbers)


@dataclass(frozen=True)
class Layout:
    """The common layout of a dataset's images.

    bands: number of bands without opacity. dtype: of their values. opacity: whether all have it.
    as_rgb: whether they are read as 8-bit RGB unless bands are chosen.
    files: layout -> an example file.
    """

    bands: int
    dtype: str
    opacity: bool
    as_rgb: bool
    files: Mapping[str, Path]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {"count": self.bands, "dtype": self.dtype, "as_rgb": self.as_rgb}


def common_layout(layouts: Mapping[str, Path]) -> Layout | None:
    """The common layout of these layouts (see ImageSummary); None if there are none.

    Datasets of 8-bit gray and RGB, also mixed with 16-bit ones, are read as 8-bit RGB.
    DatasetError if other band counts or types are mixed.
    """
    if not layouts:
        return None
    as_band = any(text.endswith("values") for text in layouts)
    kinds = {_kind(text, as_band=as_band) for text in layouts}
    opacity = not as_band and all(text.endswith("opacity") for text in layouts)
    seen = all(count in (1, 3) and dtype in ("uint8", "uint16") for count, dtype in kinds)
    if len(kinds) > 1 and not seen:
        raise _mixed(layouts)
    bands, dtype = max(kinds)
    as_rgb = seen and (len(kinds) > 1 or dtype == "uint8")
    return Layout(bands, dtype, opacity, as_rgb, layouts)


def _kind(text: str, *, as_band: bool) -> tuple[int, str]:
    """Number of bands without opacity, and type."""
    count, dtype, *opacity = text.split()
    return int(count) - (bool(opacity) and not as_band), dtype


def _mixed(layouts: Mapping[str, Path]) -> DatasetError:
    found = [f"{text.split()[0]} of {text.split()[1]} ({p.name})" for text, p in layouts.items()]
    return DatasetError(
        f"The images differ in their bands: {', '.join(found)}.",
        hint="give all images the same bands in the same type, or remove those that differ",
    )


def choose_bands(layout: Layout | None, chosen: str | None, shown: str | None) -> Bands | None:
    """The bands for training; None for 8-bit RGB.

    chosen, shown: --bands and --show-bands. OptionError for bands that the images do not have.
    """
    if layout is None or (layout.as_rgb and chosen is None):
        if shown:
            raise OptionError("--show-bands has no effect on 8-bit RGB images.", hint="omit it")
        return None
    asked = parse_bands("--bands", chosen)
    if layout.as_rgb and len({text.split()[0] for text in layout.files}) > 1:
        raise _mixed(layout.files)
    drawn = parse_bands("--show-bands", shown, (1, 3))
    most = layout.bands + layout.opacity
    for flag, numbers in (("--bands", asked), ("--show-bands", drawn)):
        if max(numbers, default=1) > most:
            raise OptionError(f"{flag} {max(numbers)}: the images have {most} bands.")
    opaque = max((*asked, *drawn), default=1) <= layout.bands
    return Bands(layout.bands if opaque else most, layout.dtype, asked, drawn)
