"""The verb `infer`: frames of any source through a network into files, a video, a window.

Three stages overlap: a thread decodes ahead, the main thread runs the network (and the
window), a thread draws and encodes behind. A live source is not read ahead: it gives the
newest frame only, so that what is shown is never older than two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE, ClassMap
from fcnseg.config import InferConfig
from fcnseg.errors import FcnsegError, Interrupted, MediaError, OptionError
from fcnseg.events import Event, Listener, Note, Progress, nobody
from fcnseg.fcn.checkpoint import find_model
from fcnseg.frames import Frame, Prediction
from fcnseg.media.images import cannot_write
from fcnseg.media.live import Connect
from fcnseg.media.manifest import Manifest, stamp
from fcnseg.media.outputs import Plan, default_save, next_free, open_sinks, plan
from fcnseg.media.records import SharesSink
from fcnseg.media.sinks import Painter, Sink
from fcnseg.media.sources import Source, open_source
from fcnseg.media.stages import Ahead, Behind, groups
from fcnseg.media.window import WindowSink
from fcnseg.runtime.segmenter import load
from fcnseg.runtime.tiling import TiledSegmenter, parse_tile


class Predictor(Protocol):
    """What gives predictions: a Segmenter, or a test's stand-in."""

    @property
    def classes(self) -> ClassMap:
        """What the labels mean."""

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> list[Prediction]:
        """A prediction for each uint8 RGB picture (H, W, 3), at its own size."""


@dataclass(frozen=True)
class InferResult:
    """What came of it.

    frames_in: frames that were asked for, those that could not be read included.
    frames_out: frames whose outputs are written.
    failed: inputs that could not be read: (name, why).
    outputs: files, or the folders they are in.
    seconds: from the first frame to the last output; fps: frames_out by it.
    dropped: frames of a live source that came too fast; skipped: images done before.
    """

    frames_in: int
    frames_out: int
    failed: tuple[tuple[str, str], ...]
    outputs: tuple[Path, ...]
    fps: float
    seconds: float
    dropped: int = 0
    skipped: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            **vars(self),
            "failed": [{"name": name, "why": why} for name, why in self.failed],
            "outputs": [str(path) for path in self.outputs],
        }


def infer(
    config: InferConfig,
    listener: Listener = nobody,
    *,
    segmenter: Predictor | None = None,
    connect: Connect | None = None,
) -> InferResult:
    """Segment an image, a folder, a video or a camera.

    segmenter: instead of the model that `config` names; connect: opens cameras and streams.
    Raises MediaError, OptionError, CheckpointError; Interrupted on Ctrl-C, when what was done
    is finished and playable.
    """
    parse_tile(config.tile)
    model = None if segmenter is not None else find_model(config.model, listener=listener)
    events: SimpleQueue[Event] = SimpleQueue()  # threads speak through the main thread
    out = config.out or next_free(Path("runs"), "infer")
    manifest = _manifest(config, out, model)
    with _open(config, manifest, connect, events.put) as source:
        target = None if _only_shown(config) else plan(source.kind, out, config.save)
        if segmenter is None:
            loaded = load(
                model,
                engine=config.engine,
                device=config.device,
                precision=config.precision,
                frames=source.count or 0,
                listener=listener,
            )
            segmenter = TiledSegmenter(loaded, config.tile, listener)
            if config.model is None:
                listener(Note(f"The model is {model}"))
        painter = Painter(segmenter.classes, config.alpha, _only(config, segmenter.classes))
        run = _Run(config, source, segmenter, painter, listener, events)
        return run.result(target, manifest)


class _Run:
    """One source through one network into its sinks."""

    def __init__(
        self,
        config: InferConfig,
        source: Source,
        segmenter: Predictor,
        painter: Painter,
        listener: Listener,
        events: SimpleQueue[Event],
    ) -> None:
        self._config, self._source, self._segmenter = config, source, segmenter
        self._painter, self._listener, self._events = painter, listener, events
        self._window: WindowSink | None = None
        self._sinks: list[Sink] = []
        self._probabilities = False
        self._seen = self._written = 0
        self._began = time.perf_counter()

    def _open(self, target: Plan | None, manifest: Manifest) -> None:
        """Open what is written to and shown."""
        if self._config.show:
            self._window = WindowSink(self._painter, hold=self._source.kind == "image")
        if self._config.shares is not None:
            self._sinks.append(SharesSink(self._config.shares, self._painter.classes))
        if target is not None:
            self._probabilities = target.needs_probabilities
            self._sinks += open_sinks(
                target, self._source, self._painter, manifest=manifest, listener=self._events.put
            )

    def result(self, target: Plan | None, manifest: Manifest) -> InferResult:
        """Run to the end; what was done is finished even if an error ends it."""
        try:
            self._open(target, manifest)
            self._loop()
        except BaseException as error:
            outputs = self._finish(complete=False)
            if isinstance(error, KeyboardInterrupt):
                raise self._interrupted(outputs) from None
            if outputs:
                self._listener(Note(f"What was done is in {_listed(outputs)}", "warning"))
            raise
        outputs = self._finish(complete=True)
        source, seconds = self._source, time.perf_counter() - self._began
        lost = len(source.failures) if source.kind == "folder" else 0
        if lost and not self._written:
            raise _all_failed(source)
        return InferResult(
            frames_in=self._seen + lost,
            frames_out=self._written,
            failed=tuple(source.failures),
            outputs=tuple(outputs),
            fps=round(self._written / seconds, 3),
            seconds=round(seconds, 3),
            dropped=source.dropped,
            skipped=source.skipped,
        )

    def _loop(self) -> None:
        source, batch = self._source, 1 if self._source.live else self._config.batch
        self._began = time.perf_counter()
        with ExitStack() as stack:
            depth = 1 if source.live else 4 + batch
            behind = stack.enter_context(Behind(self._write, depth, weigh=_item_bytes))
            frames: Iterable[Frame] = source
            if not source.live:
                ahead = Ahead(source, depth, weigh=_frame_bytes, stop=source.close)
                frames = stack.enter_context(ahead)
            for group in groups(frames, batch):
                self._step(group, behind.put)
                if self._window is not None and self._window.ended:
                    break

    def _step(self, group: list[Frame], put: Callable[[tuple[Frame, Prediction]], None]) -> None:
        self._seen += len(group)
        predictions = self._segmenter.predict(
            [frame.image for frame in group],
            confidence=self._config.conf > 0,
            probabilities=self._probabilities,
        )
        for frame, prediction in zip(group, predictions, strict=True):
            sure = _with_unknown(prediction, self._config.conf)
            if self._window is not None:
                self._window.write(frame, sure, age=self._source.age(frame))
            put((frame, sure))
        self._tell(group[-1])

    def _write(self, item: tuple[Frame, Prediction]) -> None:
        """The thread behind: everything that is written of a frame."""
        try:
            for sink in self._sinks:
                sink.write(*item)
        except OSError as error:
            raise _as_media_error(error) from None
        self._written += 1

    def _finish(self, *, complete: bool) -> list[Path]:
        """Close every sink; the first error is raised when all are closed."""
        outputs: list[Path] = []
        errors: list[BaseException] = []
        sinks = [*self._sinks, *([self._window] if self._window is not None else [])]
        for sink in sinks:
            try:
                outputs += sink.close(complete=complete)
            except OSError as error:
                errors.append(_as_media_error(error))
        self._pass_on()
        if errors and complete:
            raise errors[0]
        return outputs

    def _tell(self, frame: Frame) -> None:
        self._pass_on()
        values: dict[str, float | int | str] = {
            "frames/s": round(self._seen / (time.perf_counter() - self._began), 1)
        }
        age = self._source.age(frame)
        if age is not None:
            values |= {"ms late": round(age * 1000), "dropped": self._source.dropped}
        unit = "images" if self._source.kind in ("image", "folder") else "frames"
        self._listener(Progress("infer", self._seen, self._source.count, unit, values))

    def _pass_on(self) -> None:
        """Events of the threads, told by the main one."""
        while True:
            try:
                self._listener(self._events.get_nowait())
            except Empty:
                return

    def _interrupted(self, outputs: list[Path]) -> Interrupted:
        total = "" if self._source.count is None else f" of about {self._source.count}"
        kept = f"; what was done is in {_listed(outputs)}" if outputs else ""
        again = "the same command with --skip-done goes on" if self._source.kind == "folder" else ""
        return Interrupted(f"Stopped after {self._written}{total} frames{kept}.", hint=again)


def _open(
    config: InferConfig, manifest: Manifest, connect: Connect | None, tell: Callable[[Event], None]
) -> Source:
    source = open_source(
        config.source,
        every=config.every,
        limit=config.limit,
        start=config.start,
        end=config.end,
        watch=config.watch,
        exclude=config.out,
        skip=manifest.has,
        connect=connect,
        listener=tell,
    )
    if config.skip_done and source.kind != "folder":
        source.close()
        raise OptionError(f"--skip-done is for folders of images; this is one {source.kind}.")
    if source.skipped:
        tell(Note(f"{source.skipped} images are done already"))
    return source


def _manifest(config: InferConfig, out: Path, model: Path | None) -> Manifest:
    """What is done in the folder of outputs, by the same model with the same options."""
    if config.skip_done and config.out is None:
        raise OptionError("--skip-done needs --out: the folder of the earlier run.")
    if config.skip_done and "coco" in config.save:
        raise OptionError(
            "--skip-done can't add to coco's one file.", hint="save labels, or all anew"
        )
    job = {
        "model": None if model is None else [model.resolve(), *stamp(model)],
        "drawn": [config.alpha, config.conf, sorted(config.classes)],
    }
    kinds = config.save or default_save("folder")
    return Manifest(out, kinds, job, resume=config.skip_done)


def _only_shown(config: InferConfig) -> bool:
    """Whether a window or --shares is all that is wanted."""
    return config.out is None and not config.save and (config.show or config.shares is not None)


def _only(config: InferConfig, classes: ClassMap) -> frozenset[int] | None:
    """The class indices to draw; OptionError for a class there is not."""
    return frozenset(classes.index_of(name) for name in config.classes) or None


def _with_unknown(prediction: Prediction, conf: float) -> Prediction:
    """Pixels less certain than `conf` labelled 255."""
    if conf == 0 or prediction.confidence is None:
        return prediction
    unsure = (prediction.confidence < conf).view(np.uint8)
    return replace(prediction, labels=prediction.labels | unsure * np.uint8(IGNORE))


def _frame_bytes(frame: Frame) -> int:
    return frame.image.nbytes


def _item_bytes(item: tuple[Frame, Prediction]) -> int:
    frame, prediction = item
    chances = prediction.probabilities
    return frame.image.nbytes + (0 if chances is None else chances.nbytes)


def _as_media_error(error: OSError) -> OSError:
    """The system's error as ours; a closed pipe stays what it is."""
    if isinstance(error, FcnsegError | BrokenPipeError):
        return error
    return cannot_write(error.filename or "the output", error)


def _all_failed(source: Source) -> MediaError:
    name, why = source.failures[0]
    return MediaError(
        f"None of {len(source.failures)} images could be read; {name}: {why}",
        hint="check that these are image files",
    )


def _listed(outputs: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in outputs)
