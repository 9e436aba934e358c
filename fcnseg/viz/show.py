"""What `--show-what` can draw: SHOWN names each item; an item is one function of a View."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fcnseg.config import VizConfig
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import OptionError, percent
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.draw import heatmap
from fcnseg.io.images import encode_image
from fcnseg.io.sources.base import Frame
from fcnseg.metrics.error_kinds import COLORS, KINDS, RIGHT, kinds_of_errors
from fcnseg.metrics.scores import TOLERANCE
from fcnseg.models.fcn import Decoder
from fcnseg.viz import LabelledFrame, Tile, grey, heat_scale, signed_map, signed_scale
from fcnseg.viz.drawing import Color, to_pixels, to_vectors
from fcnseg.viz.gained import COLORS as CHANGES
from fcnseg.viz.gained import gain_tile, gains, miou_of
from fcnseg.viz.heatmaps import HeatmapFigures, entropy
from fcnseg.viz.layout import Key, Section, figure
from fcnseg.viz.skips import skip_section, stage_name

Labels = NDArray[np.uint8]

Floats = NDArray[np.float32]

IGNORED: Color = (205, 205, 205)
"""Pixels without a label, on maps of what is right and wrong."""


@dataclass(frozen=True, eq=False)
class View:
    """A frame, and what the network makes of it, computed when an item asks for it."""

    figures: HeatmapFigures
    frame: Frame

    @property
    def segmenter(self) -> Segmenter:
        """The network with its classes."""
        return self.figures.segmenter

    @property
    def truth(self) -> Labels:
        """uint8 (H, W): the labels, 255 = ignore."""
        assert isinstance(self.frame, LabelledFrame), "whoever opens the source sees to it"
        assert self.frame.labels is not None
        return self.frame.labels

    @cached_property
    def predicted(self) -> PredictedArrays:
        """Labels, confidence and probabilities."""
        pixels = [self.frame.pixels]
        return self.segmenter.predict(pixels, confidence=True, probabilities=True)[0]

    @property
    def probabilities(self) -> Floats:
        """float32 (K, H, W)."""
        assert self.predicted.probabilities is not None, "they were asked for"
        return self.predicted.probabilities

    @cached_property
    def subjects(self) -> tuple[int, ...]:
        """The classes that items about one class draw: those of --class, else the largest found."""
        figures = self.figures
        if len(figures.chosen) < len(self.segmenter.classes):
            return figures.chosen
        counts = np.bincount(self.predicted.labels.ravel(), minlength=256)[: len(figures.chosen)]
        background = self.segmenter.classes.background
        if background is not None and len(counts) > 1:
            counts[background] = -1
        return (int(counts.argmax()),)

    def name(self, index: int) -> str:
        """The name of a class."""
        return self.segmenter.classes.names[index]

    def heat(self, values: Floats, title: str, note: str, meaning: str, **more: Color) -> Tile:
        """Values 0..1 as a heatmap."""
        drawn = heatmap(grey(self.frame.image), values, alpha=self.figures.alpha)
        return Tile(drawn, title, note, scale=heat_scale("0", "1", meaning), **more)


def image(view: View) -> Section:
    """The frame."""
    height, width = view.frame.size
    return Section([Tile(view.frame.image, "image", f"{width} x {height} pixels")])


def prediction(view: View) -> Section:
    """The classes found, with a key."""
    labels = view.predicted.labels
    tile = view.figures.labelled(view.frame, labels, "prediction")
    return Section([tile], keys={"classes": view.figures.key(labels)})


def labels(view: View) -> Section:
    """The ground truth."""
    ignored = float((view.truth == 255).mean())
    note = f"{percent(ignored, 1)} without a label" if ignored else ""
    tile = view.figures.labelled(view.frame, view.truth, "labels (ground truth)", note)
    return Section([tile], keys={"classes": view.figures.key(view.truth)})


def errors(view: View) -> Section:
    """Each wrong pixel in the colour of its kind of error."""
    truth, found = view.truth, view.predicted.labels
    kinds = kinds_of_errors(truth, found, TOLERANCE)
    counted = truth != 255
    total = max(int(counted.sum()), 1)
    key = [
        (f"{_kind(kind)} {percent((kinds == index).sum() / total)}", COLORS[index])
        for index, kind in enumerate(KINDS)
        if (kinds == index).any()
    ]
    key += [("no label", IGNORED)] * (not counted.all())
    drawn = paint(view.frame.image, [(kinds == i, COLORS[i]) for i in range(len(KINDS))], ~counted)
    note = f"{percent((kinds != RIGHT).sum() / total, 1)} of labelled pixels"
    return Section([Tile(drawn, "errors", note)], keys={"errors": key})


def _kind(kind: str) -> str:
    return f"{kind} (within {TOLERANCE} px)" if kind == "boundary" else kind


def paint(
    image: Labels, areas: list[tuple[NDArray[np.bool_], Color]], ignored: NDArray[np.bool_]
) -> Labels:
    """Areas in their colours on a darker grey image (H, W, 3), so that they stand out from it."""
    drawn = (grey(image) * 0.45).astype(np.uint8)
    drawn[ignored] = IGNORED
    for area, color in areas:
        drawn[area] = color
    return drawn


def runner_up(view: View) -> Section:
    """The class that is second most probable at each pixel."""
    found = view.probabilities
    if len(found) < 2:
        raise OptionError("A runner-up needs two classes; the model has one.")
    order = np.argpartition(found, -2, axis=0)[-2].astype(np.uint8)  # (H, W)
    second = np.partition(found, -2, axis=0)[-2]
    note = f"mean probability {second.mean():.2f}"
    tile = view.figures.labelled(view.frame, order, "runner-up class", note)
    return Section([tile], keys={"classes": view.figures.key(order)})


def entropy_map(view: View) -> Section:
    """How undecided the network is."""
    values = entropy(view.probabilities)
    meaning = "0 sure, 1 undecided among all classes"
    return Section([view.heat(values, "entropy", f"mean {values.mean():.2f}", meaning)])


def confidence(view: View) -> Section:
    """The probability of the predicted class."""
    values = view.probabilities.max(axis=0)
    note = f"mean {values.mean():.2f}"
    return Section([view.heat(values, "confidence", note, "probability of the predicted class")])


def heatmaps(view: View) -> Section:
    """The probability of each class."""
    found = view.predicted.labels
    tiles = [
        view.heat(
            view.probabilities[index],
            view.name(index),
            f"{percent((found == index).mean(), 1)} of pixels, "
            f"highest {view.probabilities[index].max():.2f}",
            "probability",
            color=view.figures.color(index),
        )
        for index in view.figures.of_interest(found)
    ]
    return Section(tiles, "heatmaps: where the network sees each class")


def scores(view: View) -> Section:
    """The raw scores that the network upsamples, cell by cell, beside the upsampled ones."""
    network = torch_engine(view, "scores").network
    decoder = network.decoder
    if not isinstance(decoder, Decoder):
        raise OptionError("--show-what scores: this network's decoder is not fcnseg's own.")
    pixels = view.segmenter.prepare([view.frame.pixels])
    cells = torch_engine(view, "scores").scores(pixels)[0]  # (K, h, w)
    full = view.segmenter.logits(view.frame.pixels)  # (K, H, W)
    stride = decoder.strides[-1]
    tiles = []
    for index in view.subjects:
        limit = max(float(np.quantile(np.abs(full[index]), 0.995)), 1e-6)
        scale = signed_scale(f"-{limit:.1f}", f"+{limit:.1f}", f"score of {view.name(index)}")
        seen = cell_map(cells[index], pixels.shape[1:3], stride, decoder.offsets[stride])
        raw = seen[nearest(view.frame.size, seen.shape)]
        size = f"{cells.shape[2]} x {cells.shape[1]} cells, stride {stride}"
        more = "bilinear" if decoder.detail is None else "bilinear, and the sub-pixel part"
        color = view.figures.color(index)
        for values, title, note in (
            (raw, "raw scores", size),
            (full[index], "upsampled scores", more),
        ):
            drawn = signed_map(view.frame.image, values / limit)
            tiles.append(Tile(drawn, f"{title} of {view.name(index)}", note, color, scale))
    return Section(tiles, "scores before and after upsampling", columns=2)


def cell_map(
    cells: Floats, size: tuple[int, ...], stride: int, offset: float
) -> NDArray[np.float32]:
    """Cells (h, w) as an image of (height, width): each pixel has its nearest cell's value.

    offset: the pixel that cell 0 lies at.
    """
    rows, columns = (
        np.clip(np.floor((np.arange(length) - offset) / stride + 0.5).astype(int), 0, last - 1)
        for length, last in zip(size, cells.shape, strict=True)
    )
    return np.asarray(cells[rows][:, columns])


def nearest(size: tuple[int, int], of: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """The index that resizes an array of the shape `of` to a size, by nearest pixels."""
    rows, columns = (
        ((np.arange(length) + 0.5) * have / length).astype(np.intp)
        for length, have in zip(size, of, strict=True)
    )
    return np.ix_(rows, columns)


def skips(view: View) -> Section:
    """What each skip adds."""
    return skip_section(view.figures, view.frame, view.predicted.labels, view.subjects)


def gained(view: View) -> Section:
    """What each skip made right and made wrong, with its points of mIoU."""
    found = view.segmenter.logits_up_to_skips(view.frame.pixels)
    predictions = {s: logits.argmax(axis=0).astype(np.uint8) for s, logits in found.items()}
    first, *steps = gains(view.truth, predictions, view.segmenter.classes.names)
    coarse = view.figures.labelled(
        view.frame,
        predictions[first.stride],
        f"{stage_name(view.figures, first.stride)} alone",
        miou_of(first),
    )
    ignored = view.truth == 255
    tiles = [coarse]
    for gain in steps:
        areas = [(area, CHANGES[name]) for name, area in gain.areas.items()]
        drawn = paint(view.frame.image, areas, ignored)
        tiles.append(gain_tile(drawn, gain, stage_name(view.figures, gain.stride), view.truth))
    keys: dict[str, Key] = {"classes": view.figures.key(predictions[first.stride])}
    keys["changes"] = [*CHANGES.items(), *[("no label", IGNORED)] * bool(ignored.any())]
    heading = "gained: what each skip changed, all finer ones left out"
    return Section(tiles, heading, keys, columns=len(tiles))


def torch_engine(view: View, item: str) -> TorchEngine:
    """The engine, for items that look inside the network; OptionError for an exported file."""
    engine = view.segmenter.engine
    if isinstance(engine, TorchEngine):
        return engine
    raise OptionError(
        f"--show-what {item} looks inside the network, which {engine.name} does not show.",
        hint="give the checkpoint itself, with --engine torch",
    )


Item = Callable[[View], Section]

SHOWN: dict[str, Item] = {
    "image": image,
    "prediction": prediction,
    "labels": labels,
    "errors": errors,
    "runner-up": runner_up,
    "entropy": entropy_map,
    "confidence": confidence,
    "heatmaps": heatmaps,
    "scores": scores,
    "skips": skips,
    "gained": gained,
}
"""Every item of --show-what: a new one is a function, a line here and a word in the option."""

NEED_LABELS = frozenset({"labels", "errors", "gained"})

NEED_TORCH = frozenset({"scores", "skips", "gained"})


@dataclass(frozen=True)
class ShownFigures:
    """Draws the items of --show-what: one figure for an image, or a file for each.

    items: names of SHOWN. format: png, svg or pdf.
    """

    figures: HeatmapFigures
    items: tuple[str, ...]
    separate: bool = False
    format: str = "png"

    @classmethod
    def of(cls, segmenter: Segmenter, config: VizConfig) -> ShownFigures:
        """The figures that a config asks for; OptionError for an unknown class."""
        items = tuple(dict.fromkeys(config.show_what))
        return cls(HeatmapFigures.of(segmenter, config), items, config.separate, config.format)

    def images(self, frame: Frame) -> Iterator[tuple[str, bytes]]:
        """Every file of an image, with its name and content."""
        view = View(self.figures, frame)
        sections = [(name, SHOWN[name](view)) for name in self.items]
        if self.separate:
            for name, section in sections:
                yield f"{name}.{self.format}", self._file([section])
        else:
            yield f"figure.{self.format}", self._file([section for _, section in sections])

    def _file(self, sections: list[Section]) -> bytes:
        drawing, theme = figure(sections, width=self.figures.width), self.figures.theme
        if self.format == "png":
            return encode_image(to_pixels(drawing, theme))
        return to_vectors(drawing, theme, self.format)
