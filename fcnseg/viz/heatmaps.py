"""Heatmap figures of a frame: where the network sees each class, and how confident it is."""

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
from fcnseg.io.sources.base import Frame
from fcnseg.viz import Tile
from fcnseg.viz.drawing import THEMES, Rgb, Scale, Theme, entropy, grey, heat_scale
from fcnseg.viz.layout import WIDEST, page
from fcnseg.viz.skips import skip_pages

if TYPE_CHECKING:
    from fcnseg.inference.segmenter import Segmenter

MOST_CLASSES = 40
"""Heatmaps of an image: more would not be legible side by side."""

VIDEO_WIDTH = 1920
"""Pixels a page of a video is wide at most: wider ones stutter when they are played."""

Figure = Callable[["HeatmapFigures", Frame, Labels, Floats], Iterator[tuple[str, Rgb]]]
"""Pages with their file names: of a frame, its labels (H, W) and its probabilities (K, H, W)."""


@dataclass(frozen=True)
class HeatmapFigures:
    """Draws the pages of a frame.

    chosen: the class indices to draw; skips: whether to draw each skip, too.
    width: pixels a page is wide at most. full_key: keys name every chosen class, not only those
        in the frame, so that the pages of a video keep their size. theme: dark or light.
    heat: the classes with heatmaps where `of_interest` does not decide.
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
        """The figures that a config asks for; OptionError for an unknown class."""
        classes = segmenter.classes
        chosen = tuple(classes.index_of(name) for name in config.classes) or range(len(classes))
        theme = THEMES[config.theme]
        return cls(segmenter, tuple(dict.fromkeys(chosen)), config.alpha, config.rungs, theme=theme)

    def of_interest(self, labels: Labels) -> tuple[int, ...]:
        """The classes with a heatmap each: the chosen ones, or of very many the largest in labels.

        The same for every frame of a video, so that its pages keep their size.
        """
        if self.heat or len(self.chosen) <= MOST_CLASSES:
            return self.heat or self.chosen
        counts = np.bincount(labels.ravel(), minlength=256)
        here = [index for index in self.chosen if counts[index]]
        return tuple(sorted(sorted(here, key=lambda index: -counts[index])[:MOST_CLASSES]))

    def for_video(self, first: Frame) -> HeatmapFigures:
        """The figures for a video's pages, whose classes are those of its first frame."""
        labels = self.segmenter.predict([first.pixels])[0].labels
        heat = self.of_interest(labels)
        return replace(self, width=VIDEO_WIDTH, full_key=True, heat=heat)

    def images(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """Every page of a still image, with its file name."""
        prediction = self.segmenter.predict([frame.pixels], probabilities=True)[0]
        probabilities = prediction.probabilities
        assert probabilities is not None  # asked for
        for figure in FIGURES:
            yield from figure(self, frame, prediction.labels, probabilities)

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
        """The pages of a video frame, with the name of the video each belongs to."""
        prediction = self.segmenter.predict([frame.pixels], probabilities=True)[0]
        probabilities = prediction.probabilities
        assert probabilities is not None  # asked for
        if len(self.chosen) == 1:
            index = self.chosen[0]
            name = Path(self.page_name(index)).with_suffix(".mp4").name
            yield name, self._class_page(frame, index, prediction.labels, probabilities[index])
        else:
            yield "overview.mp4", self._overview(frame, prediction.labels, probabilities)
        if self.skips:
            pages = skip_pages(self, frame, prediction.labels)
            yield from ((f"{Path(name).stem}.mp4", image) for name, image in pages)

    def _overview(self, frame: Frame, labels: Labels, probabilities: Floats) -> Rgb:
        tiles = [
            Tile(frame.image, "input"),
            self.labelled(frame, labels, "prediction"),
            *(self._heat(frame, k, labels, probabilities[k]) for k in self.of_interest(labels)),
            _uncertainty(frame, probabilities, self.alpha),
        ]
        scale = self._scale(frame, "probability, uncertainty")
        return self.page(tiles, scale=scale, key=self.key(labels))

    def _class_page(self, frame: Frame, index: int, labels: Labels, probability: Floats) -> Rgb:
        name = self.segmenter.classes.names[index]
        tiles = [Tile(frame.image, "input"), self._heat(frame, index, labels, probability)]
        return self.page(tiles, scale=self._scale(frame, f"probability of {name}"), columns=2)

    def _scale(self, frame: Frame, meaning: str) -> Scale:
        return heat_scale("0", "1", meaning, image=frame.image, alpha=self.alpha)

    def uncertainty_page(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """uncertainty.png: the entropy beside the prediction."""
        tiles = [
            self.labelled(frame, labels, "prediction"),
            _uncertainty(frame, probabilities, self.alpha),
        ]
        scale = self._scale(frame, "entropy over the classes: 0 sure, 1 undecided among all")
        yield (
            "uncertainty.png",
            self.page(tiles, scale=scale, key=self.key(labels), columns=2),
        )

    def skip_pages(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """The skips' contributions, where they are wanted."""
        del probabilities
        if self.skips:
            yield from skip_pages(self, frame, labels)

    def _heat(self, frame: Frame, index: int, labels: Labels, probability: Floats) -> Tile:
        amount = percent((labels == index).mean(), 1)
        note = f"{amount} of pixels, highest probability {probability.max():.2f}"
        return Tile(
            heatmap(grey(frame.image), probability, alpha=self.alpha),
            self.segmenter.classes.names[index],
            note,
            self.color(index),
        )

    def labelled(self, frame: Frame, labels: Labels, title: str, note: str = "") -> Tile:
        """The chosen classes of labels uint8 (H, W) over the image."""
        classes = self.segmenter.classes
        only = self.chosen if len(self.chosen) < len(classes) else None
        drawn = overlay(frame.image, labels, classes, alpha=self.alpha, only=only)
        return Tile(drawn, title, note)

    def key(self, labels: Labels) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and colors of the drawn classes that labels of any shape contain."""
        seen = set(np.unique(labels).tolist())
        here = [index for index in self.chosen if self.full_key or index in seen]
        return [(self.segmenter.classes.names[index], self.color(index)) for index in here]

    def color(self, index: int) -> tuple[int, int, int]:
        """Red, green and blue of a class, 0 to 255."""
        red, green, blue = self.segmenter.classes.colors[index].tolist()
        return red, green, blue

    def page(self, tiles: Sequence[Tile], **more: Any) -> Rgb:
        """A page in the figures' theme and width; more: as for `layout.page`."""
        return page(tiles, width=self.width, theme=self.theme, fixed=self.full_key, **more)

    def page_name(self, index: int) -> str:
        """A file name that sorts by class and holds nothing a file system minds."""
        return f"{index:02}-{safe_filename(self.segmenter.classes.names[index])}.png"


FIGURES: tuple[Figure, ...] = (
    HeatmapFigures.overview_page,
    HeatmapFigures.class_pages,
    HeatmapFigures.uncertainty_page,
    HeatmapFigures.skip_pages,
)
"""The pages of a still image, in order: a new one is a function and a line."""


def _uncertainty(frame: Frame, probabilities: Floats, alpha: float) -> Tile:
    values = entropy(probabilities)
    note = f"mean entropy {values.mean():.2f}"
    return Tile(heatmap(grey(frame.image), values, alpha=alpha), "uncertainty", note)
