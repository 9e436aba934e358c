"""How the images of a set are laid out, and the statistics of their bands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.errors import DatasetError, OptionError
from fcnseg.io.bands import Bands, parse_bands
from fcnseg.io.bands.files import read_bands

MEASURED_ON = 256
"""Training images, at most, that the statistics are taken from."""

_SAMPLED = 4096
"""Pixels of each."""

_BLACK, _WHITE = 2, 98
"""Percentiles of the values that are shown black and white."""


@dataclass(frozen=True)
class Layout:
    """What the images of a set have in common.

    bands: without opacity. dtype: of their values. opacity: whether all have that as well.
    as_rgb: whether they are read as 8-bit RGB unless bands are chosen.
    files: layout -> one file that has it.
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
    """What images of these layouts (see ImageSummary) have in common; None for none.

    Sets of 8-bit grey and RGB, and those that mix them with such of 16 bits, are read as 8-bit
    RGB. DatasetError where other band counts or types are mixed.
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
    """Bands without opacity, and type."""
    count, dtype, *opacity = text.split()
    return int(count) - (bool(opacity) and not as_band), dtype


def _mixed(layouts: Mapping[str, Path]) -> DatasetError:
    found = [f"{text.split()[0]} of {text.split()[1]} ({p.name})" for text, p in layouts.items()]
    return DatasetError(
        f"The images differ in their bands: {', '.join(found)}.",
        hint="give all images the same bands in the same type, or remove those that differ",
    )


def choose_bands(layout: Layout | None, chosen: str | None, shown: str | None) -> Bands | None:
    """The bands that a network is trained on; None: 8-bit RGB.

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


def measure_bands(
    bands: Bands, images: Sequence[Path]
) -> tuple[Bands, tuple[float, ...], tuple[float, ...]]:
    """The bands with the range and names of some images; mean and std of each chosen band.

    Of a large set an even choice is read, and of a large image every n-th pixel. What is no number
    does not count.
    """
    step = -(-len(images) // MEASURED_ON)
    parts, names = [], bands.names
    for path in images[::step]:
        found = read_bands(path)
        pixels = bands.select(found, str(path))[:, :, : bands.stored]
        names = names if any(names) else found.names[: bands.stored]
        every = max(1, int((pixels.shape[0] * pixels.shape[1] / _SAMPLED) ** 0.5))
        parts.append(pixels[::every, ::every].reshape(-1, bands.stored))
    values = np.concatenate(parts).astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    values[:, np.isnan(values).all(axis=0)] = 0.0
    low, high = np.nanpercentile(values, (_BLACK, _WHITE), axis=0)
    at = [number - 1 for number in bands.chosen]
    mean, std = np.nanmean(values, axis=0)[at], np.nanstd(values, axis=0)[at]
    std = np.where(std > 0, std, 1.0)  # a band of one value tells nothing
    measured = replace(bands, shown=(), low=_plain(low), high=_plain(high), names=tuple(names))
    return measured, _plain(mean), _plain(std)


def _plain(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.8g}") for value in values)
