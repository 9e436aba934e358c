"""The items of `--show-what` (SHOWN); an item is a function of a View."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fcnseg.config import VizConfig
from fcnseg.errors import OptionError, percent
from fcnseg.io.images import encode_image
from fcnseg.io.sources.base import Frame
from fcnseg.metrics.regions import COLORS, KINDS, RIGHT, kinds_of_errors
from fcnseg.metrics.scores import TOLERANCE
from fcnseg.progress import Callback, no_callback
from fcnseg.viz import IGNORED, Panel, View, paint, torch_engine
from fcnseg.viz.drawing import entropy, signed_map, signed_scale, to_pixels, to_vectors
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.layout import Section, figure
from fcnseg.viz.skips import gained, partial_sums, skip_section

if TYPE_CHECKING:
    from fcnseg.inference.segmenter import Segmenter

UPSAMPLING = {
    "fixed": "bilinear",
    "learned": "by the learned kernels",
    "subpixel": "bilinear, and the sub-pixel part",
}
"""How scores are upsampled to the image's size, by ModelSpec.upsample."""


def image(view: View) -> Section:
    """The frame."""
    height, width = view.frame.size
    return Section([Panel(view.frame.image, "image", f"{width} x {height} pixels")])


def prediction(view: View) -> Section:
    """The predicted labels, with a key."""
    labels = view.predicted.labels
    panel = view.figures.labelled(view.frame, labels, "prediction")
    return Section([panel], keys={"classes": view.figures.key(labels)})


def labels(view: View) -> Section:
    """The ground truth."""
    ignored = float((view.truth == 255).mean())
    note = f"{percent(ignored, 1)} without a label" if ignored else ""
    panel = view.figures.labelled(view.frame, view.truth, "labels (ground truth)", note)
    return Section([panel], keys={"classes": view.figures.key(view.truth)})


def errors(view: View) -> Section:
    """Wrong pixels, colored by kind of error."""
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
    note = f"{percent((kinds != RIGHT).sum() / total, 1)} of labeled pixels"
    return Section([Panel(drawn, "errors", note)], keys={"errors": key})


def _kind(kind: str) -> str:
    return f"{kind} (within {TOLERANCE} px)" if kind == "boundary" else kind


def runner_up(view: View) -> Section:
    """The second most probable class of each pixel."""
    found = view.probabilities
    if len(found) < 2:
        raise OptionError("A runner-up needs two classes; the model has one.")
    order = np.argpartition(found, -2, axis=0)[-2].astype(np.uint8)  # (H, W)
    second = np.partition(found, -2, axis=0)[-2]
    note = f"mean probability {second.mean():.2f}"
    panel = view.figures.labelled(view.frame, order, "runner-up class", note)
    return Section([panel], keys={"classes": view.figures.key(order)})


def entropy_map(view: View) -> Section:
    """The entropy of the probabilities, normalised to 0..1."""
    values = entropy(view.probabilities)
    meaning = "0 certain, 1 all classes equally probable"
    return Section([view.heat(values, "entropy", f"mean {values.mean():.2f}", meaning)])


def confidence(view: View) -> Section:
    """The probability of the predicted class."""
    values = view.probabilities.max(axis=0)
    note = f"mean {values.mean():.2f}"
    return Section([view.heat(values, "confidence", note, "probability of the predicted class")])


def heatmaps(view: View) -> Section:
    """The probability of each class."""
    panels = [heatmap(view, index) for index in view.figures.of_interest(view.predicted.labels)]
    return Section(panels, "heatmaps: where the network sees each class")


def heatmap(view: View, index: int) -> Panel:
    """The probability of a class."""
    values = view.probabilities[index]
    fraction = percent((view.predicted.labels == index).mean(), 1)
    note = f"{fraction} of pixels, highest {values.max():.2f}"
    color = view.figures.color(index)
    return view.heat(values, view.name(index), note, "probability", color=color)


def scores(view: View) -> Section:
    """The raw scores at the decoder's finest stride, and the upsampled ones."""
    engine = torch_engine(view, "scores")
    decoder = engine.network.decoder
    from fcnseg.models.fcn import Decoder

    if not isinstance(decoder, Decoder):
        raise OptionError("--show-what scores: this network's decoder is not fcnseg's own.")
    pixels = view.segmenter.prepare([view.frame.pixels])
    cells = engine.scores(pixels)[0]  # (K, h, w)
    full = view.segmenter.logits(view.frame.pixels)  # (K, H, W)
    stride = decoder.strides[-1]
    panels = []
    for index in view.subjects:
        limit = max(float(np.quantile(np.abs(full[index]), 0.995)), 1e-6)
        scale = signed_scale(
            f"-{limit:.1f}", f"+{limit:.1f}", f"score of {view.name(index)}", image=view.frame.image
        )
        raw = view.on_frame(cells[index], pixels.shape[1:3], stride, decoder.offsets[stride])
        size = f"{cells.shape[2]} x {cells.shape[1]} elements, stride {stride}"
        more = UPSAMPLING[decoder.spec.upsample]
        color = view.figures.color(index)
        for values, title, note in (
            (raw, "raw scores", size),
            (full[index], "upsampled scores", more),
        ):
            drawn = signed_map(view.frame.image, values / limit)
            panels.append(Panel(drawn, f"{title} of {view.name(index)}", note, color, scale))
    return Section(panels, "scores before and after upsampling", columns=2)


Draw = Callable[[View], Section]


def _inside(name: str, module: str = "network") -> Draw:
    """An item that inspects the network, which needs torch: imported on first use."""

    def draw(view: View) -> Section:
        item: Draw = getattr(importlib.import_module(f"fcnseg.viz.{module}"), name)
        return item(view)

    return draw


@dataclass(frozen=True)
class Item:
    """An item of --show-what and its requirements.

    uses: the options of viz that affect it; options that affect no requested item are refused.
    needs_labels: it needs the ground truth. looks_inside: it needs a single network in torch, not
    an average or an exported file.
    """

    draw: Draw
    uses: tuple[str, ...] = ()
    needs_labels: bool = False
    looks_inside: bool = False

    def __call__(self, view: View) -> Section:
        """The panels."""
        return self.draw(view)


def _output(draw: Draw, *more: str, needs_labels: bool = False) -> Item:
    """An item of labels or probabilities, which averages and exported files provide as well."""
    return Item(draw, ("tta", "short_side", *more), needs_labels)


def _network(draw: Draw, *more: str, needs_labels: bool = False) -> Item:
    """An item that inspects a network, with an image of the network's input size."""
    return Item(draw, ("short_side", *more), needs_labels, looks_inside=True)


SHOWN: dict[str, Item] = {
    "image": Item(image),
    "prediction": _output(prediction, "alpha", "classes"),
    "labels": Item(labels, ("alpha", "classes"), needs_labels=True),
    "errors": _output(errors, needs_labels=True),
    "runner-up": _output(runner_up, "alpha", "classes"),
    "entropy": _output(entropy_map, "alpha"),
    "confidence": _output(confidence, "alpha"),
    "heatmaps": _output(heatmaps, "alpha", "classes"),
    "scores": _network(scores, "at", "classes"),
    "skips": _network(skip_section, "at", "alpha", "classes"),
    "gained": _network(gained, "alpha", "classes", needs_labels=True),
    "partial-sums": _network(partial_sums, "beside", "alpha", "classes"),
    "autoencoder": _network(_inside("autoencoder", "network.autoencoder"), "alpha", "classes"),
    "pyramid": _network(_inside("pyramid"), "alpha"),
    "gradcam": _network(_inside("gradcam", "network.attribution"), "at", "alpha", "classes"),
    "integrated": _network(_inside("integrated", "network.attribution"), "at", "classes"),
    "channels": _network(_inside("channels", "network.attribution"), "alpha"),
    "kernels": Item(_inside("kernels"), ("at", "classes"), looks_inside=True),
}
"""Every item of --show-what; to add one, write a function, and add a line here and a name in the
option."""

NEED_LABELS = frozenset(name for name, item in SHOWN.items() if item.needs_labels)

LOOK_INSIDE = frozenset(name for name, item in SHOWN.items() if item.looks_inside)

USED_BY = {
    option: frozenset(name for name, item in SHOWN.items() if option in item.uses)
    for option in ("at", "beside", "alpha", "classes", "tta", "short_side")
}
"""The items that are affected by an option of viz."""


def refuse_unused(config: VizConfig) -> None:
    """OptionError for an option that affects no requested item."""
    for option, items in USED_BY.items():
        if not items & set(config.show_what):
            config.refuse((option,), f"without one of {', '.join(sorted(items))} in --show-what")


@dataclass(frozen=True)
class ShownFigures:
    """Draws the items of --show-what: one figure per image, or a file for each item.

    wanted: names in SHOWN. format: png, svg or pdf. at, beside, callback: see View.
    """

    figures: HeatmapFigures
    wanted: tuple[str, ...]
    separate: bool = False
    format: str = "png"
    at: tuple[int, int] | None = None
    beside: Sequence[tuple[str, Segmenter]] = ()
    callback: Callback = no_callback

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        config: VizConfig,
        beside: Sequence[tuple[str, Segmenter]] = (),
        callback: Callback = no_callback,
    ) -> ShownFigures:
        """Create the figures from options; OptionError for an unknown class."""
        wanted = tuple(dict.fromkeys(config.show_what))
        figures = HeatmapFigures.of(segmenter, config)
        return cls(figures, wanted, config.separate, config.format, config.at, beside, callback)

    def images(self, frame: Frame) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of every file of an image."""
        view = View(self.figures, frame, self.at, self.beside, self.callback)
        sections = [(name, SHOWN[name](view)) for name in self.wanted]
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
