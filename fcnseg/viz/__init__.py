"""Heatmaps and figures. Here: the panels of a figure, and frames with labels and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fcnseg.engines.base import Floats, Labels
from fcnseg.errors import DatasetError, OptionError
from fcnseg.io.draw import heatmap
from fcnseg.io.sources.base import Frame
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Callback, Progress, no_callback
from fcnseg.viz.drawing import Color, Mask, Rgb, Scale, grey, heat_scale

if TYPE_CHECKING:
    from torch import Tensor

    from fcnseg.engines.pytorch import TorchEngine
    from fcnseg.inference.prediction import PredictedArrays
    from fcnseg.inference.segmenter import Segmenter
    from fcnseg.models.fcn import FCN
    from fcnseg.viz.heatmaps import HeatmapFigures


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a figure, with a caption.

    image: uint8 (H, W, 3) RGB; all panels of a page have the same size.
    title: what it shows; note: values, in fainter text after the title.
    color: RGB of the square before the title; None: no square.
    scale: its own color scale; None: that of the page.
    """

    image: Rgb
    title: str
    note: str = ""
    color: tuple[int, int, int] | None = None
    scale: Scale | None = None


@dataclass(frozen=True, eq=False)
class LabelledFrame(Frame):
    """A frame with its ground truth. labels: uint8 (H, W), 255 = ignore."""

    labels: Labels | None = None

    @classmethod
    def of(cls, frame: Frame, labels: Labels) -> LabelledFrame:
        """A frame with its labels; DatasetError when they differ in size."""
        if labels.shape != frame.size:
            found, (height, width) = labels.shape, frame.size
            raise DatasetError(
                f"The image is {width} x {height} and its labels {found[1]} x {found[0]} pixels.",
                hint="give labels of the image's own size",
            )
        values: dict[str, Any] = {each.name: getattr(frame, each.name) for each in fields(Frame)}
        return cls(**values, labels=labels)


IGNORED: Color = (205, 205, 205)
"""Color of pixels without a label, on maps of errors and changes."""


@dataclass(frozen=True, eq=False)
class View:
    """A frame and its prediction, which is computed on first access.

    at: x and y of the pixel whose score is explained; None: all pixels of a class.
    callback: receives the progress of slow items.
    beside: names and models to compare with in `partial-sums`, with the same classes in any order.
    """

    figures: HeatmapFigures
    frame: Frame
    at: tuple[int, int] | None = None
    beside: Sequence[tuple[str, Segmenter]] = ()
    callback: Callback = no_callback

    def __post_init__(self) -> None:
        """OptionError for a pixel outside the image."""
        height, width = self.frame.size
        if self.at is not None and not (self.at[0] < width and self.at[1] < height):
            x, y = self.at
            raise OptionError(
                f"--at {x} {y}: {self.frame.name} has no such pixel; it is {width} x {height}.",
                hint=f"x is 0 to {width - 1} from the left, y 0 to {height - 1} from the top",
            )

    @property
    def segmenter(self) -> Segmenter:
        """The network with its classes."""
        return self.figures.segmenter

    @property
    def truth(self) -> Labels:
        """uint8 (H, W): the labels, 255 = ignore."""
        assert isinstance(self.frame, LabelledFrame), "the source has labels"
        assert self.frame.labels is not None
        return self.frame.labels

    @cached_property
    def predicted(self) -> PredictedArrays:
        """Labels, confidence and probabilities."""
        pixels = [self.frame.pixels]
        return self.segmenter.predict(pixels, confidence=True, probabilities=True)[0]

    def report(self, task: str, done: int, total: int) -> None:
        """Report the progress of a slow item."""
        self.callback(Progress(task, done, total, "passes"))

    def drawn_by(self, figures: HeatmapFigures) -> View:
        """A copy with other figures and the same prediction."""
        view = replace(self, figures=figures)
        vars(view)["predicted"] = self.predicted  # fills the cached_property
        return view

    @property
    def probabilities(self) -> Floats:
        """float32 (K, H, W)."""
        assert self.predicted.probabilities is not None, "they were requested"
        return self.predicted.probabilities

    @cached_property
    def subjects(self) -> tuple[int, ...]:
        """The classes drawn by items about one class.

        Those of --class, else the predicted class at --at, else the largest one in the prediction.
        """
        figures = self.figures
        if len(figures.chosen) < len(self.segmenter.classes):
            return figures.chosen
        if self.at is not None:
            return (int(self.predicted.labels[self.at[1], self.at[0]]),)
        counts = np.bincount(self.predicted.labels.ravel(), minlength=256)[: len(figures.chosen)]
        background = self.segmenter.classes.background
        if background is not None and len(counts) > 1:
            counts[background] = -1
        return (int(counts.argmax()),)

    def heat_on(self, image: Rgb, values: Floats) -> Rgb:
        """Values (H, W) in 0..1 as a heatmap over an RGB image (H, W, 3)."""
        return heatmap(image, values, alpha=self.figures.alpha)

    def on_frame(
        self, cells: NDArray[np.floating], size: tuple[int, ...], stride: int, offset: float
    ) -> Floats:
        """Resize a map (h, w) to the frame's size: each pixel has the value of the nearest element.

        size: of the network's input. offset: the pixel position of element 0.
        """
        seen = cell_map(np.asarray(cells, np.float32), size, stride, offset)
        return seen[nearest(self.frame.size, seen.shape)]

    def heat_scale(self, high: str, meaning: str) -> Scale:
        """The scale of a heatmap over the frame, from 0 to `high`."""
        return heat_scale("0", high, meaning, image=self.frame.image, alpha=self.figures.alpha)

    def name(self, index: int) -> str:
        """The name of a class."""
        return self.segmenter.classes.names[index]

    def heat(self, values: Floats, title: str, note: str, meaning: str, **more: Color) -> Panel:
        """A panel with values in 0..1 as a heatmap over the frame."""
        drawn = self.heat_on(grey(self.frame.image), values)
        return Panel(drawn, title, note, scale=self.heat_scale("1", meaning), **more)


def paint(image: Rgb, areas: list[tuple[Mask, Color]], ignored: Mask) -> Rgb:
    """Draw areas in their colors over a darkened grey image (H, W, 3)."""
    drawn = (grey(image) * 0.45).astype(np.uint8)
    drawn[ignored] = IGNORED
    for area, color in areas:
        drawn[area] = color
    return drawn


def torch_engine(view: View, item: str) -> TorchEngine:
    """The engine, for items that inspect the network; OptionError for an exported file."""
    engine = view.segmenter.engine
    if engine.shows_network:
        return cast("TorchEngine", engine)
    if view.segmenter.members:
        raise OptionError(
            f"--show-what {item} looks inside one network; these are several, averaged.",
            hint=f"give one of them: -m {view.segmenter.files[0]}" if view.segmenter.files else "",
        )
    raise OptionError(
        f"--show-what {item} looks inside the network, which {engine.name} does not show.",
        hint="give the checkpoint itself, with --engine torch",
    )


def plain_network(view: View, item: str) -> FCN:
    """The network in float32, differentiable, on the engine's device.

    The engine's own network has fused operators without gradients. OptionError for an exported
    file.
    """
    engine = torch_engine(view, item)
    path = view.segmenter.path
    return engine.network if path is None else _built(path, engine.device)


@lru_cache(2)
def _built(path: Path, device: str) -> FCN:
    import torch

    from fcnseg.engines.fuse import fold_batch_norms, random_images

    network = Checkpoint.load(path).build()
    # Batch norms and copies to other memory layouts took half of the time of a gradient.
    folded = fold_batch_norms(network, random_images(network.spec.in_channels))
    folded.requires_grad_(False)
    folded.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return folded


def network_input(view: View, network: FCN) -> tuple[Tensor, tuple[int, int]]:
    """The network's input for the frame, padded float (1, C, H, W), and its size before padding."""
    pixels = view.segmenter.prepare([view.frame.pixels])
    import torch

    from fcnseg.models.fcn import pad_to_multiple

    device = next(network.parameters()).device
    image = view.segmenter.preprocess.normalise(torch.from_numpy(pixels.copy()).to(device))
    return pad_to_multiple(image, network.backbone.stride), (pixels.shape[1], pixels.shape[2])


def cell_map(cells: Floats, size: tuple[int, ...], stride: int, offset: float) -> Floats:
    """Resize cells (h, w) to (height, width): each pixel has the value of the nearest cell.

    offset: the pixel position of cell 0.
    """
    rows, columns = (
        np.clip(np.floor((np.arange(length) - offset) / stride + 0.5).astype(int), 0, last - 1)
        for length, last in zip(size, cells.shape, strict=True)
    )
    return np.asarray(cells[rows][:, columns])


def nearest(size: tuple[int, int], of: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """The index that resizes an array of shape `of` to a size by nearest-neighbour sampling."""
    rows, columns = (
        ((np.arange(length) + 0.5) * have / length).astype(np.intp)
        for length, have in zip(size, of, strict=True)
    )
    return np.ix_(rows, columns)
