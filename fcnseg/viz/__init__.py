"""Heatmaps and figures. Here: what a tile of a page is, and the colours of values."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import DatasetError
from fcnseg.io.draw import heatmap
from fcnseg.io.sources.base import Frame

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scale:
    """What the colours of a page mean: a bar with a label at each end.

    bar: uint8 (256, 3) RGB from the low end to the high one.
    """

    bar: Rgb
    low: str
    high: str
    meaning: str


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of a page.

    image: uint8 (H, W, 3) RGB; all tiles of a page have one size.
    title: what it shows; note: a figure or two, written fainter behind it.
    color: RGB of the mark before the title; None: no mark.
    scale: what its own colours mean; None: see the page's.
    """

    image: Rgb
    title: str
    note: str = ""
    color: tuple[int, int, int] | None = None
    scale: Scale | None = None


@dataclass(frozen=True, eq=False)
class LabelledFrame(Frame):
    """A frame with its ground truth. labels: uint8 (H, W), 255 = ignore."""

    labels: NDArray[np.uint8] | None = None

    @classmethod
    def of(cls, frame: Frame, labels: NDArray[np.uint8]) -> LabelledFrame:
        """A frame with its labels; DatasetError when they differ in size."""
        if labels.shape != frame.size:
            found, (height, width) = labels.shape, frame.size
            raise DatasetError(
                f"The image is {width} x {height} and its labels {found[1]} x {found[0]} pixels.",
                hint="give labels of the image's own size",
            )
        values: dict[str, Any] = {each.name: getattr(frame, each.name) for each in fields(Frame)}
        return cls(**values, labels=labels)


def heat_scale(
    low: str, high: str, meaning: str, *, image: Rgb | None = None, alpha: float = 1.0
) -> Scale:
    """The scale of `draw.heatmap`: its colours from 0 to 1.

    image: uint8 (H, W, 3) RGB that the map lies over with this alpha: the colours are those seen
    where it is as light as half of its pixels.
    """
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    bar = heatmap(_middle_of(image), values, alpha=alpha)
    return Scale(bar[0], low, high, meaning)


def signed_scale(low: str, high: str, meaning: str, *, image: Rgb | None = None) -> Scale:
    """The scale of `signed_map`, its colours from -1 to 1; over an image as it is drawn there."""
    values, alpha = np.linspace(-1, 1, 256)[None], 1.0 if image is None else _SIGNED_ALPHA
    return Scale(signed_map(_middle_of(image), values, alpha=alpha)[0], low, high, meaning)


def _middle_of(image: Rgb | None) -> Rgb:
    """(1, 256, 3): the median grey of an image, by some of its pixels; black without one."""
    step = 1 if image is None else max(1, min(image.shape[:2]) // 64)
    level = 0 if image is None else int(np.median(grey(image[::step, ::step])))
    return np.full((1, 256, 3), level, np.uint8)


_SIGNED_ALPHA = 0.75


def signed_map(image: Rgb, values: NDArray[np.floating], *, alpha: float = _SIGNED_ALPHA) -> Rgb:
    """float (H, W) values in -1..1 over a grey version of an RGB image.

    Blue takes away, red adds, white is nothing: the lightness is the same for both signs.
    """
    levels = np.clip((np.nan_to_num(values) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    blended = (1 - alpha) * grey(image).astype(np.float32) + alpha * _diverging()[levels]
    return np.asarray(np.round(blended), np.uint8)


def grey(image: Rgb) -> Rgb:
    """An RGB image without its colours, which would be mistaken for those of a scale."""
    levels = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(np.round(levels).astype(np.uint8)[..., None], 3, axis=2)


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How undecided probabilities (K, H, W) are: float32 (H, W), 0 one class, 1 all alike."""
    if len(probabilities) == 1:
        return np.zeros(probabilities.shape[1:], np.float32)
    bits = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
    return np.asarray(bits / np.log(len(probabilities)), np.float32)


@functools.cache
def _diverging() -> Rgb:
    """(256, 3) RGB: blue, white, red, like Crameri's "vik": even and safe for colour-blind.

    Its ends are less dark, or single pixels of both would look black.
    """
    anchors = np.array(
        [
            *((0, 62, 150), (45, 125, 178), (154, 197, 213), (247, 244, 240)),
            *((222, 170, 142), (196, 92, 42), (150, 26, 10)),
        ],
        np.float64,
    )
    at = np.linspace(0, 255, len(anchors))
    table = np.stack([np.interp(np.arange(256), at, anchors[:, c]) for c in range(3)], axis=1)
    return np.round(table).astype(np.uint8)
