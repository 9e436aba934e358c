"""Heatmap figures of a frame: where the network sees each class, and how confident it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.config import VizConfig
from fcnseg.errors import OptionError
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
        """The artist an ordered list of options asks for; OptionError for an unknown class."""
        classes = segmenter.classes
        chosen = tuple(classes.index_of(name) for name in config.classes) or range(len(classes))
        if len(chosen) > MOST_CLASSES:
            raise OptionError(
                f"{len(chosen)} classes are too many for a page; {MOST_CLASSES} are possible.",
                hint=f"choose some with --class, e.g. --class {classes.names[0]!r}",
            )
        return cls(segmenter, tuple(dict.fromkeys(chosen)), config.alpha, config.rungs)

    def images(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """Every page of a still picture, with its file name."""
        answer = self.segmenter.predict([frame.image], probabilities=True)[0]
        shares = answer.probabilities
        assert shares is not None  # asked for
        yield "overview.png", self._overview(frame, answer.labels, shares)
        for index in self.chosen:
            yield self._file(index), self._class_page(frame, index, answer.labels, shares[index])
        yield "uncertainty.png", self._uncertainty_page(frame, answer.labels, shares)
        if self.rungs:
            yield from self._skip_pages(frame)

    def videos(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """The pages of a video frame, with the name of the video each belongs to."""
        answer = self.segmenter.predict([frame.image], probabilities=True)[0]
        shares = answer.probabilities
        assert shares is not None  # asked for
        if len(self.chosen) == 1:
            index = self.chosen[0]
            name = Path(self._file(index)).with_suffix(".mp4").name
            yield name, self._class_page(frame, index, answer.labels, shares[index])
        else:
            yield "overview.mp4", self._overview(frame, answer.labels, shares)
        if self.rungs:
            yield from ((f"{Path(n).stem}.mp4", image) for n, image in self._skip_pages(frame))

    def _overview(self, frame: Frame, labels: Labels, shares: Floats) -> Rgb:
        tiles = [
            Tile(frame.image, "input"),
            self._answer(frame, labels, "prediction"),
            *(self._heat(frame, index, labels, shares[index]) for index in self.chosen),
            _uncertainty(frame, shares, self.alpha),
        ]
        return page(tiles, scale=heat_scale("0", "1", "probability, uncertainty"), width=self.width)

    def _class_page(self, frame: Frame, index: int, labels: Labels, share: Floats) -> Rgb:
        name = self.segmenter.classes.names[index]
        tiles = [Tile(frame.image, "input"), self._heat(frame, index, labels, share)]
        return page(
            tiles, scale=heat_scale("0", "1", f"probability of {name}"), columns=2, width=self.width
        )

    def _uncertainty_page(self, frame: Frame, labels: Labels, shares: Floats) -> Rgb:
        tiles = [
            self._answer(frame, labels, "prediction"),
            _uncertainty(frame, shares, self.alpha),
        ]
        meaning = "entropy over the classes: 0 sure, 1 undecided among all"
        return page(tiles, scale=heat_scale("0", "1", meaning), columns=2, width=self.width)

    def _heat(self, frame: Frame, index: int, labels: Labels, share: Floats) -> Tile:
        note = f"{(labels == index).mean():.1%} of pixels, peak {share.max():.2f}"
        return Tile(
            heatmap(grey(frame.image), share, alpha=self.alpha),
            self.segmenter.classes.names[index],
            note,
            self._color(index),
        )

    def _answer(self, frame: Frame, labels: Labels, title: str, note: str = "") -> Tile:
        drawn = overlay(
            frame.image, labels, self.segmenter.classes, alpha=self.alpha, only=self.chosen
        )
        return Tile(drawn, title, note)

    def _skip_pages(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """rungs.png, predictions from coarse to fine; and the contributions to each class."""
        rungs = dict(sorted(self.segmenter.skip_scores(frame.image).items(), reverse=True))
        answers = self._answers(frame, rungs)
        yield (
            "rungs.png",
            page(
                [Tile(frame.image, "input"), *answers], columns=len(answers) + 1, width=self.width
            ),
        )
        for index in self.chosen:
            yield f"rungs-{self._file(index)}", self._contributions(frame, index, rungs, answers)

    def _answers(self, frame: Frame, rungs: dict[int, Floats]) -> list[Tile]:
        """What the network would predict if the decoder ended at each skip."""
        sums = list(np.cumsum(np.stack(list(rungs.values())), axis=0))
        final = sums[-1].argmax(axis=0)
        tiles = []
        for stride, scores in zip(rungs, sums, strict=True):
            labels = scores.argmax(axis=0).astype(np.uint8)
            note = (
                f"{(labels == final).mean():.1%} agree with the final output"
                if scores is not sums[-1]
                else ""
            )
            tiles.append(self._answer(frame, labels, f"FCN-{stride}s", note))
        return tiles

    def _contributions(
        self, frame: Frame, index: int, rungs: dict[int, Floats], answers: list[Tile]
    ) -> Rgb:
        """One class: what each skip adds to its score, their sum, the answers beneath."""
        name = self.segmenter.classes.names[index]
        # Only differences between classes matter to the answer: the mean of all is taken off.
        added = {stride: share[index] - share.mean(axis=0) for stride, share in rungs.items()}
        total = np.sum(list(added.values()), axis=0)
        limit = max(float(np.quantile(np.abs(total), 0.995)), 1e-6)
        coarse = next(iter(rungs))
        tiles = [
            Tile(
                signed_map(frame.image, share / limit),
                f"stride {stride}" if stride == coarse else f"+ stride {stride}",
                f"{np.abs(share).mean():.2f} on average",
                self._color(index),
            )
            for stride, share in added.items()
        ]
        tiles += [
            Tile(signed_map(frame.image, total / limit), "= sum", "", self._color(index)),
            *answers,
            Tile(frame.image, "input"),
        ]
        scale = signed_scale(
            f"-{limit:.1f}", f"+{limit:.1f}", f"score of {name} against the mean of all classes"
        )
        return page(tiles, scale=scale, columns=len(rungs) + 1, width=self.width)

    def _color(self, index: int) -> tuple[int, int, int]:
        red, green, blue = self.segmenter.classes.colors[index].tolist()
        return red, green, blue

    def _file(self, index: int) -> str:
        """A file name that sorts by class and holds nothing a file system minds."""
        return f"{index:02}-{safe_filename(self.segmenter.classes.names[index])}.png"


def entropy(shares: Floats) -> Floats:
    """How undecided probabilities (K, H, W) are: float32 (H, W), 0 one class, 1 all alike."""
    if len(shares) == 1:
        return np.zeros(shares.shape[1:], np.float32)
    bits = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=0)
    return np.asarray(bits / np.log(len(shares)), np.float32)


def _uncertainty(frame: Frame, shares: Floats, alpha: float) -> Tile:
    values = entropy(shares)
    note = f"{values.mean():.2f} on average"
    return Tile(heatmap(grey(frame.image), values, alpha=alpha), "uncertainty", note)
