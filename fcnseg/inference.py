"""The verb `infer`: frames of any source through a network into files, a video, a window.

Under torchrun each process runs the network on its share of the frames and writes the files
that are a frame's own. What is one file of all frames (a video, COCO, shares) is made at the
end by the main process, of the labels that all have kept: it is the file that a single
process makes. The same holds with --skip-done, so that any job can be taken up again.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, cast

from fcnseg.classes import ClassMap
from fcnseg.config import EngineName, InferConfig
from fcnseg.errors import MediaError, OptionError
from fcnseg.events import Event, Listener, Note, nobody
from fcnseg.media.live import Connect
from fcnseg.media.manifest import Manifest, stamp
from fcnseg.media.outputs import Plan, next_free, open_sinks, plan, split, written
from fcnseg.media.recorded import Skip, nothing
from fcnseg.media.records import SharesSink
from fcnseg.media.sinks import Painter, Sink
from fcnseg.media.sources import Source, open_source, refuse_sources
from fcnseg.models.zoo import find_model, model_files
from fcnseg.pipeline import InferResult, KeptLabels, Network, Predictor, Run
from fcnseg.runtime.segmenter import Segmenter, load
from fcnseg.runtime.steady import SteadyEngine, check_moving
from fcnseg.runtime.tiling import TiledSegmenter, parse_tile
from fcnseg.runtime.together import Together


def infer(
    config: InferConfig,
    listener: Listener = nobody,
    *,
    segmenter: Predictor | None = None,
    connect: Connect | None = None,
) -> InferResult:
    """Segment an image, a folder, a video or a camera.

    segmenter: instead of the model that `config` names; connect: opens cameras and streams.
    Under torchrun each process takes its share, and all get the result of the whole.
    Raises MediaError, OptionError, CheckpointError; Interrupted on Ctrl-C, when what was done
    is finished and playable.
    """
    parse_tile(config.tile)
    together = Together.meet(config.device)
    with _Job(config, listener, segmenter, connect, together) as job:
        told = together.first(job.prepare)
        together.all(lambda: None if together.main else job.prepare(told))
        shares = together.all(job.share)
        return together.first(lambda: job.join(shares))


Told = tuple[Path, EngineName]
"""What the main process decides for all: where outputs go, and the engine."""


class _Job:
    """One process's share of what was asked for; the main one's also joins the shares."""

    def __init__(
        self,
        config: InferConfig,
        listener: Listener,
        segmenter: Predictor | None,
        connect: Connect | None,
        together: Together,
    ) -> None:
        self._config, self._segmenter = config, segmenter
        self._connect, self._together = connect, together
        self._warnings: list[Note] = []
        self._listener = listener if together.main else self._keep_warning
        self._events: SimpleQueue[Event] = SimpleQueue()  # threads speak through the main thread
        self._stack = ExitStack()
        self._steady: SteadyEngine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def prepare(self, told: Told | None = None) -> Told:
        """Open the source and the model, decide what is written."""
        config = self._config
        model = None if self._segmenter is not None else find_model(config.model)
        out, engine = told or (config.out or next_free(Path("runs"), "infer"), config.engine)
        _refuse(config, self._together.size)
        self._source = self._open_share()
        _refuse_live(config, self._source, self._together.size)
        if config.smooth:
            check_moving(self._source.kind)
        self._plan(out, model)
        if config.skip_done:  # what is done can be told from the rest only now
            self._source.close()
            self._source = self._open_share(self._is_done)
            if self._source.skipped:
                self._listener(Note(f"{self._source.skipped} images are done already"))
        if self._segmenter is None:
            loaded = load(
                model,
                engine=engine,
                device=self._together.device(config.device),
                precision=config.precision,
                short_side=config.short_side,
                frames=self._source.count or 0,
                parallel=not self._source.live
                and self._source.kind != "image"
                and not config.smooth,  # frame after frame
                listener=self._listener,
            )
            engine = cast(EngineName, loaded.engine.name)
            self._segmenter = TiledSegmenter(
                self._steadied(loaded) if config.smooth else loaded, config.tile, self._listener
            )
            if config.model is None:
                self._listener(Note(f"The model is {model}"))
        elif config.smooth:
            self._segmenter = self._steadied(self._segmenter)
        classes = self._segmenter.classes
        self._painter = Painter(classes, config.alpha, _only(config, classes))
        if "folder" in (self._each.shape, self._whole.shape) and not _only_shown(config):
            self._done.begin()  # before another process writes there
        return out, engine

    def share(self) -> tuple[InferResult, list[Note]]:
        """Run the network on this process's frames: what came of it, and its warnings."""
        assert self._segmenter is not None, "the model is opened before"
        config, source = self._config, self._source
        network = Network(
            self._segmenter, config.conf, self._each.needs_probabilities, self._painter.only
        )
        run = Run(
            source,
            network,
            self._listener,
            self._events,
            together=self._together,
            batch=config.batch,
            lanes=self._segmenter.lanes,
            goes_on=self._goes_on,
        )
        each = functools.partial(self._sinks, self._each, source, self._done)
        last = functools.partial(self._whole_sinks, source)
        if self._kept is not None:
            last = functools.partial(self._sinks, self._labels, source, self._kept)
        result = run.result([each, last], self._painter if config.show else None)
        return result, self._warnings

    def join(self, shares: Sequence[tuple[InferResult, list[Note]]]) -> InferResult:
        """The result of all shares; what is one file of all frames is made."""
        for note in (note for _, notes in shares for note in notes):
            self._listener(note)
        result = InferResult.of_shares([result for result, _ in shares])
        flicker = None if self._steady is None else self._steady.flicker()
        if flicker is not None:
            result = replace(result, flicker=flicker.steady, flicker_raw=flicker.raw)
        nothing_done = not (result.frames_out or result.skipped)
        if self._source.kind == "folder" and result.failed and nothing_done:
            raise _all_failed(result)
        if self._each.save:
            self._done.join()
        return result if self._kept is None else self._with_whole(result)

    def _with_whole(self, result: InferResult) -> InferResult:
        """Make what is one file of all frames of the labels that were kept."""
        folder = self._labels.path
        with self._open() as source:
            run = Run(
                source,
                KeptLabels(folder / "labels"),
                self._listener,
                self._events,
                together=Together.alone(),
                task="join",
                goes_on="--skip-done",
            )
            whole = run.result([functools.partial(self._whole_sinks, source)])
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # where there is anything else in it
            folder.parent.rmdir()
        outputs = tuple(path for path in result.outputs if path.parent != folder)
        return replace(result, outputs=outputs).and_then(whole)

    def _steadied(self, segmenter: Predictor) -> Segmenter:
        """The segmenter with its logits averaged over time."""
        if not isinstance(segmenter, Segmenter):
            raise OptionError(
                "smooth averages a Segmenter's logits; what was given has none to average."
            )
        self._steady = SteadyEngine(segmenter.engine, self._config.smooth)
        return replace(segmenter, engine=self._steady)

    def _plan(self, out: Path, model: Path | None) -> None:
        """What is written, and what of it was done by the same model with the same options."""
        config, source, size = self._config, self._source, self._together.size
        target = Plan("folder", out, ())
        if not _only_shown(config):
            target = plan(source.kind, out, config.save)
        outputs = [] if _only_shown(config) else written(target, source.name)
        if config.shares is not None and str(config.shares) != "-":
            outputs.append(("--shares", config.shares))
        refuse_sources(outputs, [config.source], kept=model_files(model))
        _refuse_unheeded(config, source, target)
        self._each, self._whole = split(target, source.kind)
        in_one = bool(self._whole.save) or config.shares is not None
        videos = set(self._whole.save) - {"coco"}
        if config.fps is not None and not videos and config.shares is None:
            raise OptionError(
                "--fps is for a video or --shares; files for each image have none.",
                hint="-o NAME.mp4 makes a video",
            )
        later = in_one and (size > 1 or config.skip_done)
        if later and config.watch:
            raise OptionError("--skip-done can't add what comes into a folder to one file.")
        can = not (source.live or config.smooth or config.source == "-") and (later or not in_one)
        again = "--skip-done" if config.out else f"-o {out} --skip-done"
        self._goes_on = again if can else ""
        by: dict[str, Any] = {
            "model": None if model is None else [model.resolve(), *stamp(model)],
            "drawn": [config.alpha, config.conf, sorted(config.classes)],
            "smooth": config.smooth,
            "short_side": config.short_side,
        }
        made = functools.partial(Manifest, resume=config.skip_done, rank=self._together.rank)
        self._done = made(target.path, self._each.save, by)
        self._labels = Plan("folder", _beside(target), ("labels",))
        by_labels = {**by, "drawn": [config.conf, sorted(config.classes)]}
        self._kept = made(self._labels.path, ("labels",), by_labels) if later else None

    def _is_done(self, name: str, path: Path) -> bool:
        """Whether nothing of a frame has to be written."""
        written = not self._each.save or self._done.has(name, path)
        kept = self._kept is None or self._kept.has(name, path)
        return written and kept

    def _open_share(self, skip: Skip = nothing) -> Source:
        return self._open(self._together.rank, self._together.size, skip)

    def _open(self, rank: int = 0, size: int = 1, skip: Skip = nothing) -> Source:
        config = self._config
        return self._stack.enter_context(
            open_source(
                config.source,
                every=config.every,
                limit=config.limit,
                start=config.start,
                end=config.end,
                fps=config.fps,
                watch=config.watch,
                exclude=config.out,
                skip=skip,
                rank=rank,
                size=size,
                connect=self._connect,
                listener=self._events.put,
            )
        )

    def _sinks(self, target: Plan, source: Source, manifest: Manifest) -> list[Sink]:
        return open_sinks(
            target, source, self._painter, manifest=manifest, listener=self._events.put
        )

    def _whole_sinks(self, source: Source) -> list[Sink]:
        """What is one file of all frames."""
        sinks = self._sinks(self._whole, source, self._done)
        shares = self._config.shares
        return sinks if shares is None else [*sinks, SharesSink(shares, self._painter.classes)]

    def _keep_warning(self, event: Event) -> None:
        """The listener of a process that is not the main one, which will tell."""
        if isinstance(event, Note) and event.level == "warning":
            self._warnings.append(event)


def _refuse(config: InferConfig, size: int) -> None:
    """OptionError for what can't be shared, or gone on with."""
    if config.skip_done and config.out is None:
        raise OptionError("--skip-done needs --out: the folder of the earlier run.")
    if config.skip_done and config.source == "-":
        raise OptionError("--skip-done needs files to read again; what is piped in comes once.")
    if config.skip_done and config.smooth:
        raise OptionError("--skip-done can't go on with --smooth: each frame needs those before.")
    alone = {
        "--show": config.show,
        "--watch": config.watch,
        "--smooth": config.smooth > 0,
        "SOURCE -": config.source == "-",
    }
    for name in (name for name, given in alone.items() if given and size > 1):
        raise OptionError(
            f"{name} is for one process, but torchrun has started {size}.",
            hint="run it without torchrun",
        )


def _refuse_live(config: InferConfig, source: Source, size: int) -> None:
    """OptionError for a camera or stream of which frames would have to come again."""
    if source.live and size > 1:
        raise OptionError(
            f"A {source.kind} is for one process, but torchrun has started {size}.",
            hint="run it without torchrun; several share folders of images and video files",
        )
    if source.live and config.skip_done:
        raise OptionError(f"--skip-done is for files; this is a {source.kind}.")


def _refuse_unheeded(config: InferConfig, source: Source, target: Plan) -> None:
    """OptionError for an option that was given, but of which nothing would come."""
    still = source.kind in ("image", "folder")
    drawn = "overlay" in target.save or config.show
    unheeded = {
        "--start": (config.start > 0 and still, "images have no times"),
        "--end": (config.end is not None and still, "images have no times"),
        "--alpha": ("alpha" in config.chosen() and not drawn, "no overlay is written or shown"),
        "--batch": (config.batch > 1 and source.live, f"a {source.kind} gives frame after frame"),
    }
    for flag, (found, why) in unheeded.items():
        if found:
            raise OptionError(f"{flag} has no effect here: {why}.", hint=f"omit {flag}")


def _beside(target: Plan) -> Path:
    """A hidden folder for what is kept until the end, where outputs go."""
    if target.shape == "folder":
        return target.path / ".parts"
    return target.path.with_name(f".{target.path.name}.parts")


def _only_shown(config: InferConfig) -> bool:
    """Whether a window or --shares is all that is wanted."""
    return config.out is None and not config.save and (config.show or config.shares is not None)


def _only(config: InferConfig, classes: ClassMap) -> frozenset[int] | None:
    """The class indices that are wanted; OptionError for a class there is not."""
    return frozenset(classes.index_of(name) for name in config.classes) or None


def _all_failed(result: InferResult) -> MediaError:
    name, why = result.failed[0]
    return MediaError(
        f"None of {len(result.failed)} images could be read; {name}: {why}",
        hint="check that these are image files",
    )
