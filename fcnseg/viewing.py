"""The verb `viz`: where the network sees each class, how sure it is, and what each rung adds.

For every image a folder: overview.png (all classes), one page a class, uncertainty.png,
with `rungs` also the decomposition. For a video or a camera: the same pages as a video.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classifying import ClassifierArtist
from fcnseg.config import VizConfig
from fcnseg.errors import Interrupted, MediaError, OptionError
from fcnseg.events import Listener, Progress, nobody
from fcnseg.files import fitting
from fcnseg.frames import Frame
from fcnseg.marks import mark
from fcnseg.media.collect import collect
from fcnseg.media.draw import heatmap, overlay
from fcnseg.media.images import write_image
from fcnseg.media.listing import safe_path, slug
from fcnseg.media.outputs import MOVING, next_free
from fcnseg.media.pages import WIDEST, Tile, grey, heat_scale, page, signed_map, signed_scale
from fcnseg.media.sources import Source, open_source, refuse_sources
from fcnseg.media.video import VideoWriter
from fcnseg.models.zoo import model_files
from fcnseg.runtime.segmenter import Segmenter, load
from fcnseg.signals import held_back

Rgb = NDArray[np.uint8]
Labels = NDArray[np.uint8]
Floats = NDArray[np.float32]

MOST_CLASSES = 40
"""More would not be legible side by side."""

VIDEO_WIDTH = 1920
"""Pixels a page of a video is wide at most: wider ones stutter when they are played."""

_FPS = Fraction(25)  # of a video made from a camera that does not say its own


@dataclass(frozen=True)
class ViewResult:
    """What was drawn.

    out: the folder; outputs: the files in it, in the order they were made.
    frames: pictures or video frames looked at.
    failed: (name, why) of those that could not be read.
    """

    out: Path
    outputs: tuple[Path, ...]
    frames: int
    failed: tuple[tuple[str, str], ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "out": str(self.out),
            "outputs": [str(path) for path in self.outputs],
            "frames": self.frames,
            "failed": [{"name": name, "why": why} for name, why in self.failed],
            "seconds": round(self.seconds, 3),
        }


def view(config: VizConfig, listener: Listener = nobody) -> ViewResult:
    """Draw heatmaps of every frame of a source.

    Interrupted on Ctrl-C: the files finished by then are whole, videos included.
    """
    begun = time.perf_counter()
    if config.classify and config.fps is not None:
        raise OptionError("--fps is for videos; --classify looks at images.")
    if config.classify:
        return _view_classifier(config, begun, listener)
    segmenter = load(
        config.model,
        engine="torch" if config.rungs and config.engine == "auto" else config.engine,
        device=config.device,
        precision=config.precision,
        short_side=config.short_side,
    )
    artist = Artist.of(segmenter, config)
    out = _folder(config, segmenter.path)
    found = collect(config.source, exclude=config.out, listener=listener)
    frames = 0
    outputs: list[Path] = []
    failed: list[tuple[str, str]] = []
    for spec, name in found.specs:
        try:
            source = open_source(
                spec, name=name, limit=config.limit, fps=config.fps, listener=listener
            )
        except MediaError as error:
            if found.count == 1:
                raise
            failed.append((str(spec), error.message))
            continue
        with source:
            if source.kind in MOVING:
                small = replace(artist, width=VIDEO_WIDTH)
                inside = out if found.count == 1 else out / safe_path(name)
                drawn, written = _write_videos(small, source, inside, listener)
            elif config.fps is not None:
                raise OptionError("--fps is for videos; viz draws a folder for each image.")
            else:
                drawn, written = _write_images(artist, source, out, listener)
        frames, outputs, failed = frames + drawn, outputs + written, failed + source.failures
    return ViewResult(out, tuple(outputs), frames, tuple(failed), time.perf_counter() - begun)


def _view_classifier(config: VizConfig, begun: float, listener: Listener) -> ViewResult:
    """Draw what an ImageNet classifier sees in pictures, where no network was trained."""
    for name in ("rungs", "engine", "precision", "short_side"):
        if name in config.chosen():
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} has no effect with --classify.", hint=f"omit {flag}")
    artist = ClassifierArtist.of(
        config.model, config.classes, alpha=config.alpha, device=config.device, listener=listener
    )
    out = _folder(config, None)
    found = collect(config.source, exclude=config.out, listener=listener)
    if found.videos:
        raise _no_images(found.videos[0][1], "video")
    [(spec, _)] = found.specs
    with open_source(spec, limit=config.limit, listener=listener) as source:
        if source.kind in MOVING:
            raise _no_images(spec, source.kind)
        frames, outputs = _write_images(artist, source, out, listener)
        failed = tuple(source.failures)
    return ViewResult(out, tuple(outputs), frames, failed, time.perf_counter() - begun)


def _folder(config: VizConfig, model: Path | None) -> Path:
    """Where pages go; OptionError when that is where they are read from."""
    if config.out is None:
        return next_free(Path("runs"), "viz")
    refuse_sources([("--out", config.out)], config.source, kept=model_files(model))
    return config.out


def _no_images(what: object, kind: str) -> OptionError:
    return OptionError(
        f"--classify looks at images; {what} is a {kind}.",
        hint="give an image, a folder or a glob",
    )


@dataclass(frozen=True)
class Artist:
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
    def of(cls, segmenter: Segmenter, config: VizConfig) -> Artist:
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
            yield from self._rung_pages(frame)

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
            yield from ((f"{Path(n).stem}.mp4", image) for n, image in self._rung_pages(frame))

    def _overview(self, frame: Frame, labels: Labels, shares: Floats) -> Rgb:
        tiles = [
            Tile(frame.image, "input"),
            self._answer(frame, labels, "answer"),
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
            self._answer(frame, labels, "answer"),
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

    def _rung_pages(self, frame: Frame) -> Iterator[tuple[str, Rgb]]:
        """rungs.png, the answers as the ladder goes down; and each class's contributions."""
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
        """What the network would say if the ladder ended at each rung."""
        sums = list(np.cumsum(np.stack(list(rungs.values())), axis=0))
        final = sums[-1].argmax(axis=0)
        tiles = []
        for stride, scores in zip(rungs, sums, strict=True):
            labels = scores.argmax(axis=0).astype(np.uint8)
            note = f"{(labels == final).mean():.1%} as in the end" if scores is not sums[-1] else ""
            tiles.append(self._answer(frame, labels, f"FCN-{stride}s", note))
        return tiles

    def _contributions(
        self, frame: Frame, index: int, rungs: dict[int, Floats], answers: list[Tile]
    ) -> Rgb:
        """One class: what each rung adds to its score, their sum, the answers beneath."""
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
        return f"{index:02}-{slug(self.segmenter.classes.names[index])}.png"


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


def _write_images(
    artist: Artist | ClassifierArtist, source: Source, out: Path, listener: Listener
) -> tuple[int, list[Path]]:
    """A folder of pages for every picture."""
    outputs: list[Path] = []
    done = 0
    mark(out)
    try:
        with held_back(source.stop):
            for frame in source:
                folder = out / fitting(frame.name)
                for name, image in artist.images(frame):
                    write_image(folder / name, image)
                    outputs.append(folder / name)
                done += 1
                listener(Progress("viz", done, source.count, "images"))
    except KeyboardInterrupt:
        raise _interrupted(done, out) from None
    return done, outputs


def _write_videos(
    artist: Artist, source: Source, out: Path, listener: Listener
) -> tuple[int, list[Path]]:
    """One video a page; a video is finished and playable on Ctrl-C too."""
    writers: dict[str, VideoWriter] = {}
    done = 0
    mark(out)
    try:
        with held_back(source.stop), ExitStack() as stack:
            for frame in source:
                for name, image in artist.videos(frame):
                    if name not in writers:
                        writer = VideoWriter(out / name, source.fps or _FPS, image.shape[:2])
                        writers[name] = stack.enter_context(writer)
                    writers[name].write(image)
                done += 1
                listener(Progress("viz", done, source.count, "frames"))
            if source.stopped:  # the videos are not complete
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise _interrupted(done, out) from None
    return done, [out / name for name in writers]


def _interrupted(done: int, out: Path) -> Interrupted:
    return Interrupted(f"Stopped after {done} frames; what was drawn is in {out}.")
