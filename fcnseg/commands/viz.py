"""The command `viz`: draw heatmaps of every frame of a source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnseg.config import VizConfig
from fcnseg.engines import RUNNABLE
from fcnseg.errors import Interrupted, MediaError, OptionError
from fcnseg.files import as_path, safe_path, shortened
from fcnseg.inference.loading import load_as
from fcnseg.inference.outputs.manifest import next_free, unused_removed
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io import Window
from fcnseg.io.images import write_bytes, write_image
from fcnseg.io.sources import refuse_sources
from fcnseg.io.sources.base import MOVING, Source
from fcnseg.io.video_writer import VideoWriter
from fcnseg.models.checkpoint import model_files
from fcnseg.overwriting import mark, refuse_file, refuse_taken
from fcnseg.progress import Callback, Event, Preview, Progress, defer_interrupts, no_callback
from fcnseg.viz.drawing import THEMES, require_vectors
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.live import LiveView
from fcnseg.viz.show import LOOK_INSIDE, NEED_LABELS, ShownFigures, refuse_unused
from fcnseg.viz.skips import refuse_beside
from fcnseg.viz.sources import Input, collected, inputs_of, labelled_inputs

if TYPE_CHECKING:
    from fcnseg.viz.imagenet import ImageNetHeatmaps

_FPS = Fraction(25)  # of the output if the source states no frame rate


@dataclass(frozen=True)
class ViewResult:
    """The outputs of viz.

    out: the folder, None with --term and --show; outputs: the files, in order of creation.
    frames: number of images or video frames drawn.
    failed: (name, reason) of inputs that could not be read.
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
        VizConfig, by name. Ctrl-C raises Interrupted; files and videos written before are complete.
    Raises MediaError, OptionError, CheckpointError.

        fcnseg.view("photos/images/val", model="nuclei", out="heatmaps")
    """
    config = VizConfig.of(sources, options).mapped(as_path, "out")
    begun = time.perf_counter()
    refuse_file("--out", config.out)
    with unused_removed(config.out):
        drawn = _draw_all(_job(config, callback))
    return replace(drawn, seconds=time.perf_counter() - begun)


def _draw_all(job: _Job) -> ViewResult:
    """Draw every frame of every input, without those that can't be opened."""
    frames = 0
    outputs: list[Path] = []
    failed: list[tuple[str, str]] = []
    for shown, name, opened in job.inputs:
        try:
            source = opened()
        except MediaError as error:
            if len(job.inputs) == 1:
                raise
            failed.append((shown, error.message))
            continue
        try:
            with source, defer_interrupts(source.stop):
                for files in job.draw(source, name):
                    frames += 1
                    outputs += files
        except KeyboardInterrupt:
            drawn = f"; finished figures are in {job.out}" if job.out and outputs else ""
            raise Interrupted(f"Stopped after {frames} frames{drawn}.") from None
        failed += source.failures
        if job.ended():
            break
    return ViewResult(job.out, tuple(outputs), frames, tuple(failed), 0.0)


_Drawn = Iterator[list[Path]]
"""Yields the new files of each frame."""

_Refuse = Callable[[Path], None]


@dataclass(frozen=True)
class _Job:
    """A drawing mode and its inputs.

    out: the folder, None without files. draw: takes a source and its name. ended: whether the user
    has closed the window.
    """

    out: Path | None
    inputs: Sequence[Input]
    draw: Callable[[Source, str], _Drawn]
    ended: Callable[[], bool] = lambda: False


def _job(config: VizConfig, callback: Callback) -> _Job:
    """The drawing mode that the options select."""
    if config.classify:
        return _classifier(config, callback)
    if config.show_what:
        return _shown(config, callback)
    config.refuse(("separate", "labels", "split", "format", "beside", "at"), "without --show-what")
    if config.show:
        return _window(config, callback)
    return _previews(config, callback) if config.term else _heatmaps(config, callback)


def _heatmaps(config: VizConfig, callback: Callback) -> _Job:
    """Heatmaps: a folder for each image; for a video, a video of each heatmap."""
    segmenter = _load(config, callback)
    figures = HeatmapFigures.of(segmenter, config)
    out, refuse = _folder(config, segmenter.files)
    inputs = inputs_of(config, collected(config, callback), callback, segmenter.preprocess.bands)

    def draw(source: Source, name: str) -> _Drawn:
        if source.kind in MOVING:
            inside = out if len(inputs) == 1 else out / safe_path(name)
            return _write_videos(figures, source, inside, callback, refuse)
        if config.fps is not None:
            raise OptionError("--fps is for videos; viz draws a folder for each image.")
        return _write_images(figures, source, out, callback, refuse)

    return _Job(out, inputs, draw)


def _previews(config: VizConfig, callback: Callback) -> _Job:
    """--term: the overlay of each frame as a Preview event; no files."""
    config.refuse(("out", "rungs", "theme"), "with --term")
    segmenter = _load(config, callback)
    figures = HeatmapFigures.of(segmenter, config)
    inputs = inputs_of(config, collected(config, callback), callback, segmenter.preprocess.bands)

    def draw(source: Source, _: str) -> _Drawn:
        for frame in source:
            labels = segmenter.predict([frame.pixels])[0].labels
            drawn = figures.labelled(frame, labels, "").image
            callback(Preview(frame.name, drawn, figures.key(labels)))
            yield []

    return _Job(None, inputs, draw)


def _window(config: VizConfig, callback: Callback) -> _Job:
    """--show: an interactive window; writes files that the user saves."""
    config.refuse(("rungs", "term"), "with --show")
    window = Window()
    segmenter = _load(config, callback)
    out, _ = _folder(config, segmenter.files)
    live = LiveView(window, HeatmapFigures.of(segmenter, config), out, callback)
    inputs = inputs_of(config, collected(config, callback), callback, segmenter.preprocess.bands)
    return _Job(None, inputs, lambda source, _: live.show(source), lambda: window.ended)


def _shown(config: VizConfig, callback: Callback) -> _Job:
    """--show-what: one figure of the named panels for each image, or a file for each panel."""
    config.refuse(("rungs", "fps", "term", "show"), "with --show-what")
    refuse_unused(config)
    if "partial-sums" in config.show_what and not config.beside:
        raise OptionError(
            "partial-sums needs networks to compare with.",
            hint="add those that were trained without the finer skips: --beside runs/fcn32s",
        )
    if config.format != "png":
        require_vectors()
    segmenter = _load(config, callback)
    beside = [(n, _load(replace(config, model=(n,)), callback)) for n in config.beside]
    for name, other in beside:
        refuse_beside(segmenter, name, other)
    figures = ShownFigures.of(segmenter, config, beside, callback)
    out, refuse = _folder(config, segmenter.files)
    inputs = labelled_inputs(config, NEED_LABELS & set(figures.wanted), segmenter, callback)

    def draw(source: Source, _: str) -> _Drawn:
        def report(event: Event) -> None:
            if source.stopped:  # interrupt a slow figure
                raise KeyboardInterrupt
            callback(event)

        return _write_images(replace(figures, callback=report), source, out, callback, refuse)

    return _Job(out, inputs, draw)


def _load(config: VizConfig, callback: Callback) -> Segmenter:
    looks_inside = config.rungs or bool(LOOK_INSIDE & set(config.show_what))
    looking = "--rungs" if config.rungs else "--show-what"
    models = config.model or ()
    if looks_inside and (config.tta or len(models) > 1):
        raise OptionError(
            f"{looking} looks into one network; {'--tta' if config.tta else '--model'} averages.",
            hint="omit --tta, and give one --model",
        )
    if looks_inside and any(Path(name).suffix.lower() in RUNNABLE for name in models):
        raise OptionError(
            f"{looking} looks inside the network, which an exported file does not show.",
            hint=f"give the checkpoint that {models[0]} was exported from",
        )
    engine = "torch" if looks_inside and config.engine == "auto" else config.engine
    return load_as(config, callback, engine=engine, parallel=False)


def _classifier(config: VizConfig, callback: Callback) -> _Job:
    """--classify: heatmaps of an ImageNet classifier, without training."""
    if config.fps is not None:
        raise OptionError("--fps is for videos; --classify looks at images.")
    ours = ("show_what", "separate", "labels", "split", "format", "beside", "at", "term", "show")
    others = ("rungs", "engine", "precision", "short_side", "show_bands", "tta")
    config.refuse((*ours, *others), "with --classify")
    if len(names := config.model or ()) > 1:
        raise OptionError(
            f"--classify looks through one backbone; found {', '.join(names)}.",
            hint="give one --model",
        )
    from fcnseg.viz.imagenet import ImageNetHeatmaps

    figures = ImageNetHeatmaps.of(
        names[0] if names else None,
        config.classes,
        alpha=config.alpha,
        theme=THEMES[config.theme],
        device=config.device,
        callback=callback,
    )
    out, refuse = _folder(config, ())
    found = collected(config, callback)
    if found.videos:
        raise _no_images(found.videos[0][1], "video")

    def draw(source: Source, _: str) -> _Drawn:
        if source.kind in MOVING:
            raise _no_images(found.single, source.kind)
        return _write_images(figures, source, out, callback, refuse)

    return _Job(out, inputs_of(config, found, callback, None), draw)


def _folder(config: VizConfig, models: Sequence[Path]) -> tuple[Path, _Refuse]:
    """The output folder and its `refuse_taken`; OptionError if it contains inputs."""
    out = config.out or next_free(Path("runs"), "viz")
    if config.out is not None:
        refuse_sources([("--out", out)], config.source, kept=model_files(models))
    return out, refuse_taken(out)


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
    refuse: _Refuse,
) -> _Drawn:
    """Write a folder of figures for each image. refuse: from `refuse_taken`."""
    for done, frame in enumerate(source, 1):
        folder = out / shortened(frame.name)
        files: list[Path] = []
        for name, image in figures.images(frame):
            refuse(folder / name)
            if done == 1 and not files:
                mark(out)
            if isinstance(image, bytes):
                write_bytes(folder / name, image)
            else:
                write_image(folder / name, image)
            files.append(folder / name)
        callback(Progress("viz", done, source.count, "images"))
        yield files


def _write_videos(
    figures: HeatmapFigures, source: Source, out: Path, callback: Callback, refuse: _Refuse
) -> _Drawn:
    """Write a video for each figure; on Ctrl-C they are closed properly and playable."""
    writers: dict[str, VideoWriter] = {}
    with ExitStack() as stack:
        for done, frame in enumerate(source, 1):
            figures = figures.for_video(frame) if done == 1 else figures
            begun = []
            for name, image in figures.videos(frame):
                if name not in writers:
                    refuse(out / name)
                    mark(out)
                    writer = VideoWriter(out / name, source.fps or _FPS, image.shape[:2])
                    writers[name] = stack.enter_context(writer)
                    begun.append(out / name)
                writers[name].write(image)
            callback(Progress("viz", done, source.count, "frames"))
            yield begun
        if source.stopped:  # the videos are not complete
            raise KeyboardInterrupt
