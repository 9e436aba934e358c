"""Heatmap figures of a frame: the probability of each class, and the uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnseg.config import VizConfig
from fcnseg.engines.base import Floats, Labels
from fcnseg.errors import percent
from fcnseg.files import safe_filename
from fcnseg.io.draw import heatmap, overlay
from fcnseg.io.images import resize_image
from fcnseg.io.sources.base import Frame
from fcnseg.viz import Panel
from fcnseg.viz.drawing import THEMES, Rgb, Scale, Theme, entropy, grey, heat_scale
from fcnseg.viz.layout import LARGEST_PANEL, WIDEST, page
from fcnseg.viz.skips import skip_pages

if TYPE_CHECKING:
    from fcnseg.inference.segmenter import Segmenter

MAX_CLASSES = 40
"""Maximum number of heatmaps of an image; more would not be legible."""

VIDEO_WIDTH = 1920
"""Maximum width of a video's pages, in pixels: wider videos stutter."""

Figure = Callable[["HeatmapFigures", Frame, Labels, Floats], Iterator[tuple[str, Rgb]]]
"""Yields (file name, page) of a frame with its labels (H, W) and probabilities (K, H, W)."""


@dataclass(frozen=True)
class HeatmapFigures:
    """Draws the pages of a frame.

    chosen: the class indices to draw; skips: draw each skip as well.
    width: maximum width of a page, in pixels. full_key: keys list every chosen class, not only
        those in the frame, so that the pages of a video keep their size. theme: dark or light.
    heat: the classes with heatmaps; empty: see `of_interest`.
    """

    segmenter: Segmenter
    chosen: tuple[int, ...]
    alpha: float
    skips: bool
    width: int = WIDEST
    full_key: bool = False
    theme: Theme = THEMES["dark"]
    heat: tuple[int, ...] = ()

    @classmethod
    def of(cls, segmenter: Segmenter, config: VizConfig) -> HeatmapFigures:
        """Create the figures from options; OptionError for an unknown class."""
        classes = segmenter.classes
        chosen = tuple(classes.index_of(name) for name in config.classes) or range(len(classes))
        theme = THEMES[config.theme]
        return cls(segmenter, tuple(dict.fromkeys(chosen)), config.alpha, config.rungs, theme=theme)

    def of_interest(self, labels: Labels) -> tuple[int, ...]:
        """The classes with a heatmap: the chosen ones; of more than MAX_CLASSES, the largest ones.

        For videos they are fixed (`for_video`), so that pages keep their size.
        """
        if self.heat or len(self.chosen) <= MAX_CLASSES:
            return self.heat or self.chosen
        counts = np.bincount(labels.ravel(), minlength=256)
        here = [index for index in self.chosen if counts[index]]
        return tuple(sorted(sorted(here, key=lambda index: -counts[index])[:MAX_CLASSES]))

    def for_video(self, first: Frame) -> HeatmapFigures:
        """The figures for a video's pages, with the classes of its first frame."""
        labels = self.segmenter.predict([first.pixels])[0].labels
        heat = self.of_interest(labels)
        return replace(self, width=VIDEO_WIDTH, full_key=True, heat=heat)

    def images(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """Yield every page of a still image, with its file name."""
        frame, labels, probabilities = self._predict(frame)
        for figure in FIGURES:
            yield from figure(self, frame, labels, probabilities)

    def _predict(self, frame: Frame) -> tuple[Frame, Labels, Floats]:
        """A frame, in the size in which it is drawn, with its labels and probabilities."""
        factor = LARGEST_PANEL / max(frame.size)
        if factor < 1 and not self.skips:  # skips are computed in the image's own size
            size = (max(1, round(factor * frame.size[0])), max(1, round(factor * frame.size[1])))
            frame = replace(frame, image=resize_image(frame.image, size), stored=frame.pixels)
        found = self.segmenter.predict([frame.pixels], probabilities=True, size=frame.size)[0]
        assert found.probabilities is not None, "they were requested"
        return frame, found.labels, found.probabilities

    def overview_page(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """overview.png: everything on one page."""
        yield "overview.png", self._overview(frame, labels, probabilities)

    def class_pages(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """A page for each chosen class."""
        for index in self.of_interest(labels):
            yield (
                self.page_name(index),
                self._class_page(frame, index, labels, probabilities[index]),
            )

    def videos(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """Yield the pages of a video frame, with the name of each page's video."""
        frame, labels, probabilities = self._predict(frame)
        if len(self.chosen) == 1:
            index = self.chosen[0]
            name = Path(self.page_name(index)).with_suffix(".mp4").name
            yield name, self._class_page(frame, index, labels, probabilities[index])
        else:
            yield "overview.mp4", self._overview(frame, labels, probabilities)
        if self.skips:
            pages = skip_pages(self, frame, labels)
            yield from ((f"{Path(name).stem}.mp4", image) for name, image in pages)

    def _overview(self, frame: Frame, labels: Labels, probabilities: Floats) -> Rgb:
        panels = [
            Panel(frame.image, "input"),
            self.labelled(frame, labels, "prediction"),
            *(self._heat(frame, k, labels, probabilities[k]) for k in self.of_interest(labels)),
            _uncertainty(frame, probabilities, self.alpha),
        ]
        scale = self._scale(frame, "probability, uncertainty")
        return self.page(panels, scale=scale, key=self.key(labels))

    def _class_page(self, frame: Frame, index: int, labels: Labels, probability: Floats) -> Rgb:
        name = self.segmenter.classes.names[index]
        panels = [Panel(frame.image, "input"), self._heat(frame, index, labels, probability)]
        return self.page(panels, scale=self._scale(frame, f"probability of {name}"), columns=2)

    def _scale(self, frame: Frame, meaning: str) -> Scale:
        return heat_scale("0", "1", meaning, image=frame.image, alpha=self.alpha)

    def uncertainty_page(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """uncertainty.png: the entropy beside the prediction."""
        panels = [
            self.labelled(frame, labels, "prediction"),
            _uncertainty(frame, probabilities, self.alpha),
        ]
        scale = self._scale(frame, "entropy over the classes: 0 certain, 1 all equally probable")
        yield (
            "uncertainty.png",
            self.page(panels, scale=scale, key=self.key(labels), columns=2),
        )

    def skip_pages(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """The skips' contributions, if requested."""
        del probabilities
        if self.skips:
            yield from skip_pages(self, frame, labels)

    def _heat(self, frame: Frame, index: int, labels: Labels, probability: Floats) -> Panel:
        amount = percent((labels == index).mean(), 1)
        note = f"{amount} of pixels, highest probability {probability.max():.2f}"
        return Panel(
            heatmap(grey(frame.image), probability, alpha=self.alpha),
            self.segmenter.classes.names[index],
            note,
            self.color(index),
        )

    def labelled(self, frame: Frame, labels: Labels, title: str, note: str = "") -> Panel:
        """The chosen classes of labels uint8 (H, W) over the image."""
        classes = self.segmenter.classes
        only = self.chosen if len(self.chosen) < len(classes) else None
        drawn = overlay(frame.image, labels, classes, alpha=self.alpha, only=only)
        return Panel(drawn, title, note)

    def key(self, labels: Labels) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and colors of the chosen classes in labels of any shape."""
        seen = set(np.unique(labels).tolist())
        here = [index for index in self.chosen if self.full_key or index in seen]
        return [(self.segmenter.classes.names[index], self.color(index)) for index in here]

    def color(self, index: int) -> tuple[int, int, int]:
        """Red, green and blue of a class, 0 to 255."""
        red, green, blue = self.segmenter.classes.colors[index].tolist()
        return red, green, blue

    def page(self, panels: Sequence[Panel], **more: Any) -> Rgb:
        """A page in the figures' theme and width; more: arguments of `layout.page`."""
        return page(panels, width=self.width, theme=self.theme, fixed=self.full_key, **more)

    def page_name(self, index: int) -> str:
        """A file name that sorts by class, without characters that file systems reject."""
        return f"{index:02}-{safe_filename(self.segmenter.classes.names[index])}.png"


FIGURES: tuple[Figure, ...] = (
    HeatmapFigures.overview_page,
    HeatmapFigures.class_pages,
    HeatmapFigures.uncertainty_page,
    HeatmapFigures.skip_pages,
)
"""The pages of a still image, in order; to add one, write a function and add a line."""


def _uncertainty(frame: Frame, probabilities: Floats, alpha: float) -> Panel:
    values = entropy(probabilities)
    note = f"mean entropy {values.mean():.2f}"
    return Panel(heatmap(grey(frame.image), values, alpha=alpha), "uncertainty", note)
