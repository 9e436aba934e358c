"""Heatmaps and figures. Here: what a tile of a page is, and a frame with labels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import DatasetError
from fcnseg.io.sources.base import Frame
from fcnseg.viz.drawing import Scale

Rgb = NDArray[np.uint8]


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
