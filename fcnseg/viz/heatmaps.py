"""Heatmap figures of a frame: where the network sees each class, and how confident it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.config import VizConfig
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import OptionError, percent
from fcnseg.files import safe_filename
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.draw import heatmap, overlay
from fcnseg.io.sources.base import Frame
from fcnseg.viz import WIDEST, Tile, grey, heat_scale, page, signed_map, signed_scale

Rgb = NDArray[np.uint8]

Labels = NDArray[np.uint8]

Floats = NDArray[np.float32]

MOST_CLASSES = 40
"""More would not be legible side by side."""

VIDEO_WIDTH = 1920
"""Pixels a page of a video is wide at most: wider ones stutter when they are played."""

POOLS = {32: "pool5", 16: "pool4", 8: "pool3", 4: "pool2", 2: "pool1"}
"""The paper's names of a VGG's layers, by their strides."""

Figure = Callable[["HeatmapFigures", Frame, Labels, Floats], Iterator[tuple[str, Rgb]]]
"""Pages with their file names: of a frame, its labels (H, W) and its probabilities (K, H, W)."""


@dataclass(frozen=True)
class HeatmapFigures:
    """Draws the pages of a frame.

    chosen: the class indices to draw; rungs: whether to draw the decomposition too.
    width: pixels a page is wide at most.
    """

    segmenter: Segmenter
    chosen: tuple[int, ...]
    alpha: float
    rungs: bool
    width: int = WIDEST

    @classmethod
    def of(cls, segmenter: Segmenter, config: VizConfig) -> HeatmapFigures:
        """The figures that a config asks for; OptionError for an unknown class."""
        classes = segmenter.classes
        chosen = tuple(classes.index_of(name) for name in config.classes) or range(len(classes))
        if len(chosen) > MOST_CLASSES:
            raise OptionError(
                f"{len(chosen)} classes are too many for a page; {MOST_CLASSES} are possible.",
                hint=f"choose some with --class, e.g. --class {classes.names[0]!r}",
            )
        return cls(segmenter, tuple(dict.fromkeys(chosen)), config.alpha, config.rungs)

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
        for index in self.chosen:
            yield self._file(index), self._class_page(frame, index, labels, probabilities[index])

    def videos(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """The pages of a video frame, with the name of the video each belongs to."""
        prediction = self.segmenter.predict([frame.pixels], probabilities=True)[0]
        probabilities = prediction.probabilities
        assert probabilities is not None  # asked for
        if len(self.chosen) == 1:
            index = self.chosen[0]
            name = Path(self._file(index)).with_suffix(".mp4").name
            yield name, self._class_page(frame, index, prediction.labels, probabilities[index])
        else:
            yield "overview.mp4", self._overview(frame, prediction.labels, probabilities)
        if self.rungs:
            pages = self._skip_pages(frame, prediction.labels)
            yield from ((f"{Path(name).stem}.mp4", image) for name, image in pages)

    def _overview(self, frame: Frame, labels: Labels, probabilities: Floats) -> Rgb:
        tiles = [
            Tile(frame.image, "input"),
            self._labelled(frame, labels, "prediction"),
            *(self._heat(frame, index, labels, probabilities[index]) for index in self.chosen),
            _uncertainty(frame, probabilities, self.alpha),
        ]
        return page(tiles, scale=heat_scale("0", "1", "probability, uncertainty"), width=self.width)

    def _class_page(self, frame: Frame, index: int, labels: Labels, probability: Floats) -> Rgb:
        name = self.segmenter.classes.names[index]
        tiles = [Tile(frame.image, "input"), self._heat(frame, index, labels, probability)]
        return page(
            tiles, scale=heat_scale("0", "1", f"probability of {name}"), columns=2, width=self.width
        )

    def uncertainty_page(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """uncertainty.png: the entropy beside the prediction."""
        tiles = [
            self._labelled(frame, labels, "prediction"),
            _uncertainty(frame, probabilities, self.alpha),
        ]
        scale = heat_scale("0", "1", "entropy over the classes: 0 sure, 1 undecided among all")
        yield (
            "uncertainty.png",
            page(tiles, scale=scale, key=self._key(labels), columns=2, width=self.width),
        )

    def skip_pages(
        self, frame: Frame, labels: Labels, probabilities: Floats
    ) -> Iterator[tuple[str, Rgb]]:
        """The skips' contributions, where they are wanted."""
        del probabilities
        if self.rungs:
            yield from self._skip_pages(frame, labels)

    def _heat(self, frame: Frame, index: int, labels: Labels, probability: Floats) -> Tile:
        amount = percent((labels == index).mean(), 1)
        note = f"{amount} of pixels, highest probability {probability.max():.2f}"
        return Tile(
            heatmap(grey(frame.image), probability, alpha=self.alpha),
            self.segmenter.classes.names[index],
            note,
            self._color(index),
        )

    def _labelled(self, frame: Frame, labels: Labels, title: str, note: str = "") -> Tile:
        classes = self.segmenter.classes
        only = self.chosen if len(self.chosen) < len(classes) else None
        drawn = overlay(frame.image, labels, classes, alpha=self.alpha, only=only)
        return Tile(drawn, title, note)

    def _skip_pages(self, frame: Frame, labels: Labels) -> Iterator[tuple[str, Rgb]]:
        """Each skip's exact part where scores are summed, else what changes without it."""
        engine = self.segmenter.engine
        if isinstance(engine, TorchEngine) and not engine.sums_scores:
            yield from self._ablation_pages(frame, labels)
        else:
            yield from self._sum_pages(frame)

    def _ablation_pages(self, frame: Frame, labels: Labels) -> Iterator[tuple[str, Rgb]]:
        """rungs.png, the prediction without each skip; and how each changes a class's score."""
        logits = self.segmenter.logits(frame.pixels)
        found = self.segmenter.logits_without_skips(frame.pixels)
        without = dict(sorted(found.items(), reverse=True))
        predictions = [
            self._without(frame, stride, labels, scores) for stride, scores in without.items()
        ]
        seen = np.stack([labels, *(scores.argmax(axis=0) for scores in without.values())])
        tiles = [
            Tile(frame.image, "input"),
            self._labelled(frame, labels, "prediction"),
            *predictions,
        ]
        key = self._key(seen)
        yield "rungs.png", page(tiles, key=key, columns=len(tiles), width=self.width)
        for index in self.chosen:
            changes = {stride: _score(logits - scores, index) for stride, scores in without.items()}
            page_of_class = self._change_page(frame, index, changes, predictions, key)
            yield f"rungs-{self._file(index)}", page_of_class

    def _without(self, frame: Frame, stride: int, labels: Labels, logits: Floats) -> Tile:
        predicted = logits.argmax(axis=0).astype(np.uint8)
        note = f"{percent((predicted != labels).mean(), 1)} of pixels change"
        return self._labelled(frame, predicted, f"without {self._stage(stride)}", note)

    def _change_page(
        self,
        frame: Frame,
        index: int,
        changes: dict[int, Floats],
        predictions: list[Tile],
        key: Sequence[tuple[str, tuple[int, int, int]]],
    ) -> Rgb:
        """One class: how each skip changes its score, the predictions without it beneath."""
        name = self.segmenter.classes.names[index]
        size = np.abs(np.stack(list(changes.values())))
        limit = max(float(np.quantile(size, 0.995)), 1e-6)
        tiles = [
            Tile(
                signed_map(frame.image, change / limit),
                f"change by {self._stage(stride)}",
                f"mean size {np.abs(change).mean():.2f}",
                self._color(index),
            )
            for stride, change in changes.items()
        ]
        meaning = f"score of {name} with the skip minus without it (not a sum)"
        scale = signed_scale(f"-{limit:.1f}", f"+{limit:.1f}", meaning)
        return page(
            [*tiles, *predictions], scale=scale, key=key, columns=len(tiles), width=self.width
        )

    def _sum_pages(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """rungs.png, predictions from coarse to fine; and the contributions to each class."""
        skips = dict(sorted(self.segmenter.skip_scores(frame.pixels).items(), reverse=True))
        predictions = self._coarser(frame, skips)
        yield (
            "rungs.png",
            page(
                [Tile(frame.image, "input"), *predictions],
                key=self._key(predictions_of(skips)),
                columns=len(predictions) + 1,
                width=self.width,
            ),
        )
        for index in self.chosen:
            yield (
                f"rungs-{self._file(index)}",
                self._contributions(frame, index, skips, predictions),
            )

    def _coarser(self, frame: Frame, skips: dict[int, Floats]) -> list[Tile]:
        """The prediction of the sum up to each skip; only the last is the network's own.

        A partial sum is no FCN-32s or FCN-16s: the network was trained for the sum of all.
        """
        sums = list(np.cumsum(np.stack(list(skips.values())), axis=0))
        final = sums[-1].argmax(axis=0)
        tiles: list[Tile] = []
        for stride, scores in zip(skips, sums, strict=True):
            labels = scores.argmax(axis=0).astype(np.uint8)
            same = f"{percent((labels == final).mean(), 1)} of pixels as in the sum of all"
            if scores is sums[-1]:
                title, same = f"sum of all: FCN-{stride}s", ""
            else:
                title = f"{self._stage(stride)} alone" if not tiles else f"sum to {stride}"
            tiles.append(self._labelled(frame, labels, title, same))
        return tiles

    def _stage(self, stride: int) -> str:
        """A skip by its stride, and in a VGG by the paper's name of its layer."""
        engine = self.segmenter.engine
        vgg = isinstance(engine, TorchEngine) and engine.backbone.startswith("vgg")
        return f"stride {stride} ({POOLS[stride]})" if vgg else f"stride {stride}"

    def _contributions(
        self, frame: Frame, index: int, skips: dict[int, Floats], predictions: list[Tile]
    ) -> Rgb:
        """One class: what each skip adds to its score, their sum, the predictions beneath."""
        name = self.segmenter.classes.names[index]
        added = {stride: _score(scores, index) for stride, scores in skips.items()}
        total = np.sum(list(added.values()), axis=0)
        limit = max(float(np.quantile(np.abs(total), 0.995)), 1e-6)
        coarse = next(iter(skips))
        tiles = [
            Tile(
                signed_map(frame.image, scores / limit),
                self._stage(stride) if stride == coarse else f"+ {self._stage(stride)}",
                f"mean size {np.abs(scores).mean():.2f}",
                self._color(index),
            )
            for stride, scores in added.items()
        ]
        tiles += [
            Tile(signed_map(frame.image, total / limit), "= sum", "", self._color(index)),
            *predictions,
            Tile(frame.image, "input"),
        ]
        scale = signed_scale(
            f"-{limit:.1f}", f"+{limit:.1f}", f"score of {name} against the mean of all classes"
        )
        key = self._key(predictions_of(skips))
        return page(tiles, scale=scale, key=key, columns=len(skips) + 1, width=self.width)

    def _key(self, labels: Labels) -> list[tuple[str, tuple[int, int, int]]]:
        """Names and colours of the drawn classes that labels of any shape contain."""
        here = [index for index in np.unique(labels).tolist() if index in self.chosen]
        return [(self.segmenter.classes.names[index], self._color(index)) for index in here]

    def _color(self, index: int) -> tuple[int, int, int]:
        red, green, blue = self.segmenter.classes.colors[index].tolist()
        return red, green, blue

    def _file(self, index: int) -> str:
        """A file name that sorts by class and holds nothing a file system minds."""
        return f"{index:02}-{safe_filename(self.segmenter.classes.names[index])}.png"


FIGURES: tuple[Figure, ...] = (
    HeatmapFigures.overview_page,
    HeatmapFigures.class_pages,
    HeatmapFigures.uncertainty_page,
    HeatmapFigures.skip_pages,
)
"""The pages of a still image, in order: a new one is a function and a line."""


def _score(scores: Floats, index: int) -> Floats:
    """A class of (K, H, W) against the mean of all: only differences matter to the prediction."""
    return np.asarray(scores[index] - scores.mean(axis=0), np.float32)


def predictions_of(skips: dict[int, Floats]) -> Labels:
    """uint8 (skips, H, W): the labels of the sum up to each skip."""
    sums = np.cumsum(np.stack(list(skips.values())), axis=0)
    return np.asarray(sums.argmax(axis=1), np.uint8)


def entropy(probabilities: Floats) -> Floats:
    """How undecided probabilities (K, H, W) are: float32 (H, W), 0 one class, 1 all alike."""
    if len(probabilities) == 1:
        return np.zeros(probabilities.shape[1:], np.float32)
    bits = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
    return np.asarray(bits / np.log(len(probabilities)), np.float32)


def _uncertainty(frame: Frame, probabilities: Floats, alpha: float) -> Tile:
    values = entropy(probabilities)
    note = f"mean entropy {values.mean():.2f}"
    return Tile(heatmap(grey(frame.image), values, alpha=alpha), "uncertainty", note)
