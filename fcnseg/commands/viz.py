"""The command `viz`: draw heatmaps of every frame of a source."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from fcnseg.config import VizConfig
from fcnseg.errors import Interrupted, MediaError, OptionError, user_path
from fcnseg.files import fitting, next_free, safe_path
from fcnseg.inference.loading import load
from fcnseg.inference.plan import MOVING
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import write_bytes, write_image
from fcnseg.io.sources import open_source, refuse_sources
from fcnseg.io.sources.base import Source
from fcnseg.io.sources.listing import Collected, collect
from fcnseg.io.video_writer import VideoWriter
from fcnseg.marks import mark
from fcnseg.models.checkpoint import model_files
from fcnseg.overwriting import refuse_file, refuse_overwriting
from fcnseg.progress import Callback, Preview, Progress, held_back, no_callback
from fcnseg.remote import with_addresses
from fcnseg.viz.drawing import THEMES, require_vectors
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.imagenet import ImageNetHeatmaps
from fcnseg.viz.show import NEED_LABELS, NEED_TORCH, USE_AT, ShownFigures
from fcnseg.viz.truth import SourceWithLabels, find_labels, open_dataset

_FPS = Fraction(25)  # of a video made from a camera that does not say its own


@dataclass(frozen=True)
class ViewResult:
    """What was drawn.

    out: the folder, None with --term; outputs: the files in it, in the order they were made.
    frames: images or video frames looked at.
    failed: (name, why) of those that could not be read.
    """

    out: Path | None
    outputs: tuple[Path, ...]
    frames: int
    failed: tuple[tuple[str, str], ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "out": None if self.out is None else str(self.out),
            "outputs": [str(path) for path in self.outputs],
            "frames": self.frames,
            "failed": [{"name": name, "why": why} for name, why in self.failed],
            "seconds": round(self.seconds, 3),
        }


def view(
    sources: VizConfig | Path | str | Sequence[Path | str],
    callback: Callback = no_callback,
    **options: Any,
) -> ViewResult:
    """Draw heatmaps of every frame of a source.

    sources: a file, folder, glob or address, several of them, or a VizConfig. options: those of
    VizConfig, by name. Interrupted on Ctrl-C: the files finished by then are complete, videos
    included. MediaError, OptionError, CheckpointError.

        fcnseg.view("photos/images/val", model="nuclei", out="heatmaps")
    """
    config = with_addresses(VizConfig.of(sources, options), "out")
    begun = time.perf_counter()
    refuse_file("--out", config.out)
    if config.classify and config.fps is not None:
        raise OptionError("--fps is for videos; --classify looks at images.")
    if config.classify:
        return _view_classifier(config, begun, callback)
    if config.show_what:
        return _view_figures(config, begun, callback)
    _refuse(config, ("separate", "labels", "split", "format", "at"), "without --show-what")
    if config.term:
        return _view_in_terminal(config, begun, callback)
    segmenter = _load(config, callback)
    figures = HeatmapFigures.of(segmenter, config)
    out = _folder(config, segmenter.files)
    found = collect(config.source, exclude=config.out, callback=callback)
    frames = 0
    outputs: list[Path] = []
    failed: list[tuple[str, str]] = []
    for source, name in _opened(config, found, failed, callback):
        source.bands = segmenter.preprocess.bands
        with source:
            if source.kind in MOVING:
                inside = out if found.count == 1 else out / safe_path(name)
                drawn, written = _write_videos(figures, source, inside, callback)
            elif config.fps is not None:
                raise OptionError("--fps is for videos; viz draws a folder for each image.")
            else:
                drawn, written = _write_images(figures, source, out, callback)
        frames, outputs = frames + drawn, outputs + written
        failed += source.failures  # in place: `_opened` adds to it, too
    return ViewResult(out, tuple(outputs), frames, tuple(failed), time.perf_counter() - begun)


def _view_in_terminal(config: VizConfig, begun: float, callback: Callback) -> ViewResult:
    """The overlay of each frame as a Preview; no files."""
    _refuse(config, ("out", "rungs", "theme"), "with --term")
    segmenter = _load(config, callback)
    figures = HeatmapFigures.of(segmenter, config)
    frames = 0
    failed: list[tuple[str, str]] = []
    for source, _ in _opened(config, collect(config.source, callback=callback), failed, callback):
        source.bands = segmenter.preprocess.bands
        with source:
            for frame in source:
                labels = segmenter.predict([frame.pixels])[0].labels
                drawn = figures.labelled(frame, labels, "").image
                callback(Preview(frame.name, drawn, figures.key(labels)))
                frames += 1
        failed += source.failures
    return ViewResult(None, (), frames, tuple(failed), time.perf_counter() - begun)


def _view_figures(config: VizConfig, begun: float, callback: Callback) -> ViewResult:
    """One figure of what --show-what names for each image, or a file for each."""
    _refuse(config, ("rungs", "fps", "term"), "with --show-what")
    if not USE_AT & set(config.show_what):
        _refuse(config, ("at",), f"without one of {', '.join(sorted(USE_AT))}")
    if config.format != "png":
        require_vectors()
    segmenter = _load(config, callback)
    figures = ShownFigures.of(segmenter, config)
    out = _folder(config, segmenter.files)
    frames = 0
    outputs: list[Path] = []
    failed: list[tuple[str, str]] = []
    for source in _sources(config, figures, segmenter, failed, callback):
        source.bands = segmenter.preprocess.bands
        with source:
            drawn, written = _write_images(figures, source, out, callback)
        frames, outputs = frames + drawn, outputs + written
        failed += source.failures  # in place: `_opened` adds to it, too
    return ViewResult(out, tuple(outputs), frames, tuple(failed), time.perf_counter() - begun)


def _sources(
    config: VizConfig,
    figures: ShownFigures,
    segmenter: Segmenter,
    failed: list[tuple[str, str]],
    callback: Callback,
) -> Iterator[Source]:
    """What is drawn, with labels where items need them; OptionError where there are none."""
    needed = NEED_LABELS & set(figures.wanted)
    if not needed:
        _refuse(config, ("labels", "split"), "without labels, errors or gained in --show-what")
    elif config.labels is None:
        source, inputs = open_dataset(config, segmenter, callback)
        if config.out is not None:
            refuse_overwriting([("--out", config.out)], inputs)
        yield source
        return
    else:
        _refuse(config, ("split",), "with --labels")
    found = collect(config.source, exclude=config.out, callback=callback)
    find = None
    if needed:
        assert config.labels is not None
        find = find_labels(config.labels, _files(found), segmenter, callback)
        if config.out is not None:
            refuse_sources([("--out", config.out)], (str(config.labels),))
    for source, _ in _opened(config, found, failed, callback):
        if find is not None and source.kind in MOVING:
            raise OptionError(
                f"{' and '.join(sorted(needed))} need labels; a {source.kind} has none.",
                hint="give images, or omit what needs labels",
            )
        yield source if find is None else SourceWithLabels(source, find)


def _opened(
    config: VizConfig, found: Collected, failed: list[tuple[str, str]], callback: Callback
) -> Iterator[tuple[Source, str]]:
    """Each source with its name; of several, those that can't be opened go to `failed`."""
    for spec, name in found.specs:
        try:
            source = open_source(
                spec,
                name=name,
                limit=config.limit,
                fps=config.fps,
                page=config.page,
                callback=callback,
            )
        except MediaError as error:
            if found.count == 1:
                raise
            failed.append((str(spec), error.message))
            continue
        yield source, name


def _files(found: Collected) -> list[Path]:
    """The image files of what was collected."""
    if found.single is not None:
        return [user_path(found.single)]
    return [path for _, path in found.images]


def _refuse(config: VizConfig, names: Iterable[str], why: str) -> None:
    """OptionError for an option that was given and would do nothing."""
    for name in names:
        if name in config.chosen():
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} has no effect {why}.", hint=f"omit {flag}")


def _load(config: VizConfig, callback: Callback) -> Segmenter:
    looks_inside = config.rungs or bool(NEED_TORCH & set(config.show_what))
    if looks_inside and (config.tta or len(config.model or ()) > 1):
        raise OptionError(
            f"{'--rungs' if config.rungs else '--show-what'} looks into one network; "
            f"{'--tta' if config.tta else '--model'} averages.",
            hint="omit --tta, and give one --model",
        )
    return load(
        config.model,
        engine="torch" if looks_inside and config.engine == "auto" else config.engine,
        device=config.device,
        precision=config.precision,
        short_side=config.short_side,
        show_bands=config.show_bands,
        tta=config.tta,
        callback=callback,
    )


def _view_classifier(config: VizConfig, begun: float, callback: Callback) -> ViewResult:
    """Draw what an ImageNet classifier sees in images, where no network was trained."""
    ours = ("show_what", "separate", "labels", "split", "format", "at", "term")
    others = ("rungs", "engine", "precision", "short_side", "show_bands", "tta")
    _refuse(config, (*ours, *others), "with --classify")
    if len(names := config.model or ()) > 1:
        raise OptionError(
            f"--classify looks through one backbone; found {', '.join(names)}.",
            hint="give one --model",
        )
    figures = ImageNetHeatmaps.of(
        names[0] if names else None,
        config.classes,
        alpha=config.alpha,
        theme=THEMES[config.theme],
        device=config.device,
        callback=callback,
    )
    out = _folder(config, ())
    found = collect(config.source, exclude=config.out, callback=callback)
    if found.videos:
        raise _no_images(found.videos[0][1], "video")
    [(spec, _)] = found.specs
    with open_source(spec, limit=config.limit, page=config.page, callback=callback) as source:
        if source.kind in MOVING:
            raise _no_images(spec, source.kind)
        frames, outputs = _write_images(figures, source, out, callback)
        failed = tuple(source.failures)
    return ViewResult(out, tuple(outputs), frames, failed, time.perf_counter() - begun)


def _folder(config: VizConfig, models: Sequence[Path]) -> Path:
    """Where pages go; OptionError when that is where they are read from."""
    if config.out is None:
        return next_free(Path("runs"), "viz")
    refuse_sources([("--out", config.out)], config.source, kept=model_files(models))
    return config.out


def _no_images(what: object, kind: str) -> OptionError:
    return OptionError(
        f"--classify looks at images; {what} is a {kind}.",
        hint="give an image, a folder or a glob",
    )


def _write_images(
    figures: HeatmapFigures | ImageNetHeatmaps | ShownFigures,
    source: Source,
    out: Path,
    callback: Callback,
) -> tuple[int, list[Path]]:
    """A folder of pages for every image."""
    outputs: list[Path] = []
    done = 0
    mark(out)
    try:
        with held_back(source.stop):
            for frame in source:
                folder = out / fitting(frame.name)
                for name, image in figures.images(frame):
                    if isinstance(image, bytes):
                        write_bytes(folder / name, image)
                    else:
                        write_image(folder / name, image)
                    outputs.append(folder / name)
                done += 1
                callback(Progress("viz", done, source.count, "images"))
    except KeyboardInterrupt:
        raise _interrupted(done, out) from None
    return done, outputs


def _write_videos(
    figures: HeatmapFigures, source: Source, out: Path, callback: Callback
) -> tuple[int, list[Path]]:
    """One video a page; a video is finished and playable on Ctrl-C too."""
    writers: dict[str, VideoWriter] = {}
    done = 0
    mark(out)
    try:
        with held_back(source.stop), ExitStack() as stack:
            for frame in source:
                figures = figures if done else figures.for_video(frame)
                for name, image in figures.videos(frame):
                    if name not in writers:
                        writer = VideoWriter(out / name, source.fps or _FPS, image.shape[:2])
                        writers[name] = stack.enter_context(writer)
                    writers[name].write(image)
                done += 1
                callback(Progress("viz", done, source.count, "frames"))
            if source.stopped:  # the videos are not complete
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise _interrupted(done, out) from None
    return done, [out / name for name in writers]


def _interrupted(done: int, out: Path) -> Interrupted:
    return Interrupted(f"Stopped after {done} frames; what was drawn is in {out}.")
