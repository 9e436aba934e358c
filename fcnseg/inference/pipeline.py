"""Run the frames of one source through a network into sinks, with the stages in parallel.

One thread decodes ahead, the main thread (or a pool of threads) runs the network, the main thread
shows the window, another thread draws and encodes. Live sources are not read ahead: they
give the newest frame only, so that what is shown is at most two steps old.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fcnseg.concurrency import BackgroundWriter, Batches, Prefetcher, map_ordered
from fcnseg.distributed import Distributed
from fcnseg.errors import FcnsegError, Interrupted, cannot_write, counted
from fcnseg.inference.outputs import Renderer, WindowSink
from fcnseg.inference.outputs.sinks import FolderSink, Sink
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io.sources.base import Frame, Source
from fcnseg.progress import Callback, Event, Message, Progress, defer_interrupts


@dataclass(frozen=True)
class InferResult:
    """The result of an inference job.

    frames_in: frames requested, including those that could not be read.
    frames_out: frames whose outputs are written.
    failed: inputs that could not be read: (name, why).
    outputs: files, or the folders they are in.
    seconds: from the first frame to the last output; fps: frames_out / seconds.
    dropped: frames of a live source that came too fast; skipped: frames done in an earlier run.
    flicker: with --smooth, the proportion of pixels whose label differs from the previous frame's,
        along the motion; flicker_raw: without smoothing.
    """

    frames_in: int
    frames_out: int
    failed: tuple[tuple[str, str], ...]
    outputs: tuple[Path, ...]
    fps: float
    seconds: float
    dropped: int = 0
    skipped: int = 0
    flicker: float | None = None
    flicker_raw: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            **vars(self),
            "failed": [{"name": name, "why": why} for name, why in self.failed],
            "outputs": [str(path) for path in self.outputs],
        }

    @classmethod
    def of_processes(cls, results: Sequence[InferResult]) -> InferResult:
        """Combine the results of several processes that ran at the same time."""
        frames = sum(one.frames_out for one in results)
        seconds = max(one.seconds for one in results)
        return cls(
            frames_in=sum(one.frames_in for one in results),
            frames_out=frames,
            failed=tuple(dict.fromkeys(fail for one in results for fail in one.failed)),
            outputs=tuple(dict.fromkeys(path for one in results for path in one.outputs)),
            fps=_rate(frames, seconds),
            seconds=seconds,
            dropped=sum(one.dropped for one in results),
            skipped=sum(one.skipped for one in results),
        )

    @classmethod
    def of_parts(cls, parts: Sequence[InferResult]) -> InferResult:
        """Combine the results of several sources, run in turn; flicker is the mean over frames."""
        if len(parts) == 1:
            return parts[0]
        seconds = round(sum(part.seconds for part in parts), 3)
        total = cls.of_processes(parts)
        return replace(
            total,
            seconds=seconds,
            fps=_rate(total.frames_out, seconds),
            flicker=_mean_over_frames(parts, "flicker"),
            flicker_raw=_mean_over_frames(parts, "flicker_raw"),
        )

    def and_then(self, later: InferResult) -> InferResult:
        """Add the outputs and the time of a later step on the same frames."""
        seconds = round(self.seconds + later.seconds, 3)
        outputs = (*self.outputs, *later.outputs)
        fps = _rate(self.frames_out, seconds)
        return replace(self, outputs=outputs, fps=fps, seconds=seconds)


Predict = Callable[[list[Frame]], list[PredictedArrays]]
"""Frames -> their predictions, in order."""


class Pipeline:
    """Runs one source through one network into its sinks.

    num_parallel: how many threads call `predict` at the same time, unless the source is live.
    task: its name in events. resume_with: the options that resume it; "" if it can't be resumed.
    """

    def __init__(
        self,
        source: Source,
        predict: Predict,
        callback: Callback,
        events: SimpleQueue[Event],
        *,
        distributed: Distributed,
        batch: int = 1,
        num_parallel: int = 1,
        task: str = "infer",
        resume_with: str = "",
    ) -> None:
        self._source, self._predict = source, predict
        self._callback, self._events = callback, events
        self._distributed, self._task, self._resume_with = distributed, task, resume_with
        self._batch, self._num_parallel = (1, 1) if source.live else (batch, num_parallel)
        self._window: WindowSink | None = None
        self._sinks: list[Sink] = []
        self._read = self._written = 0
        self._began = time.perf_counter()

    def result(
        self, open_sinks: Sequence[Callable[[], list[Sink]]], window: Renderer | None = None
    ) -> InferResult:
        """Run to the end; after an error, the outputs so far are finished as well.

        open_sinks: functions that open sinks. window: the renderer of the window; None: no window.
        """
        try:
            if window is not None:
                kind = self._source.kind
                self._window = WindowSink(window, hold=kind == "image", paced=kind == "video")
            for opened in open_sinks:
                self._sinks += opened()
            self._loop()
            self._flush()
        except BaseException as error:
            self._close_window()
            outputs = self._finish(complete=False)
            if isinstance(error, KeyboardInterrupt):
                raise self._interrupted(outputs) from None
            if outputs:
                self._callback(Message(f"Finished outputs are in {_listed(outputs)}", "warning"))
            raise
        outputs = self._completed()
        source, seconds = self._source, time.perf_counter() - self._began
        lost = len(source.failures) if source.kind == "folder" else 0  # a video counts as read
        return InferResult(
            frames_in=self._read + lost,
            frames_out=self._written,
            failed=tuple(source.failures),
            outputs=tuple(outputs),
            fps=_rate(self._written, seconds),
            seconds=round(seconds, 3),
            dropped=source.dropped,
            skipped=source.skipped,
        )

    def _loop(self) -> None:
        source = self._source
        self._began = time.perf_counter()
        stop = [source.stop]
        with ExitStack() as stack:
            stack.enter_context(defer_interrupts(lambda: self._end_soon(stop)))
            depth = 1 if source.live else 4 + self._batch
            behind = stack.enter_context(BackgroundWriter(self._write, depth, weigh=_item_bytes))
            batches: Iterable[list[Frame]] = ([frame] for frame in source)
            if not source.live:
                ahead = Prefetcher(
                    source, depth, weigh=lambda frame: frame.nbytes, stop=source.close
                )
                stop.append(ahead.finish)  # before it reads, because a signal may come any time
                batches = Batches(stack.enter_context(ahead), self._batch)
            predicted = map_ordered(
                self._predict,
                batches,
                self._num_parallel,
                weigh=lambda frames: sum(frame.nbytes for frame in frames),
            )
            predicted = stack.enter_context(closing(predicted))
            for group, predictions in self._distributed.check_peers(predicted):
                self._step(group, predictions, behind.put)
                if self._window is not None and self._window.ended:
                    break

    def _end_soon(self, stops: Sequence[Callable[[], None]]) -> None:
        """In a signal handler: stop reading; frames already read are still processed."""
        for stop in stops:
            stop()
        self._events.put(
            Message("Stopping after the frames already read; Ctrl-C again stops immediately")
        )

    def _step(
        self,
        group: list[Frame],
        predictions: list[PredictedArrays],
        put: Callable[[tuple[Frame, PredictedArrays]], None],
    ) -> None:
        self._read += len(group)
        for frame, prediction in zip(group, predictions, strict=True):
            if self._window is not None:
                self._window.write(frame, prediction, age=self._source.age(frame))
            put((frame, prediction))
        self._report(group[-1])

    def _write(self, item: tuple[Frame, PredictedArrays]) -> None:
        """Write a frame to all sinks, in the background thread."""
        try:
            for sink in self._sinks:
                sink.write(*item)
        except OSError as error:
            raise _as_media_error(error) from None
        self._written += 1

    def _flush(self) -> None:
        """Wait for files in folders, so that their errors are raised before sinks are closed."""
        try:
            with defer_interrupts():
                for sink in self._sinks:
                    if isinstance(sink, FolderSink):
                        sink.flush()
        except OSError as error:
            raise _as_media_error(error) from None

    def _completed(self) -> list[Path]:
        """Finish all outputs before a request to stop takes effect; then wait for the window."""
        outputs: list[Path] = []
        try:
            with defer_interrupts():
                outputs = self._finish(complete=True)
            if self._window is not None:
                self._window.wait()
        except KeyboardInterrupt:
            raise self._interrupted(outputs) from None
        finally:
            self._close_window()
        return outputs

    def _close_window(self) -> None:
        if self._window is not None:
            self._window.close()

    def _finish(self, *, complete: bool) -> list[Path]:
        """Close every sink, then raise the first error."""
        outputs: list[Path] = []
        errors: list[BaseException] = []
        for sink in self._sinks:
            try:
                outputs += sink.close(complete=complete)
            except OSError as error:
                errors.append(_as_media_error(error))
        self._flush_events()
        if errors and complete:
            raise errors[0]
        return outputs

    def _report(self, frame: Frame) -> None:
        self._flush_events()
        values: dict[str, float | int | str] = {
            "frames/s": round(self._read / (time.perf_counter() - self._began), 1)
        }
        age = self._source.age(frame)
        if age is not None:
            values |= {"ms late": round(age * 1000), "dropped": self._source.dropped}
        unit = "images" if self._source.kind in ("image", "folder") else "frames"
        self._callback(
            Progress(f"{self._task}{self._where()}", self._read, self._source.count, unit, values)
        )

    def _flush_events(self) -> None:
        """Report events of other threads from the main thread."""
        while True:
            try:
                self._callback(self._events.get_nowait())
            except Empty:
                return

    def _interrupted(self, outputs: list[Path]) -> Interrupted:
        number = counted(self._written, "frame")
        if self._source.count is not None:
            number = f"{self._written} of about {counted(self._source.count, 'frame')}"
        kept = f"; what was done is in {_listed(outputs)}" if outputs else ""
        again = f"the same command with {self._resume_with} resumes it" if self._resume_with else ""
        done = f"Stopped after {number}{self._where()}"
        return Interrupted(f"{done}{kept}.", hint=again)

    def _where(self) -> str:
        """Which process's frames are counted, if there are several."""
        rank, size = self._distributed.rank, self._distributed.size
        return f" (process {rank + 1} of {size})" if size > 1 else ""


def _item_bytes(item: tuple[Frame, PredictedArrays]) -> int:
    frame, prediction = item
    probabilities = prediction.probabilities
    return frame.nbytes + (0 if probabilities is None else probabilities.nbytes)


def _as_media_error(error: OSError) -> OSError:
    """Convert an OSError to ours; BrokenPipeError stays as it is."""
    if isinstance(error, FcnsegError | BrokenPipeError):
        return error
    return cannot_write(error.filename or "the output", error)


def _mean_over_frames(parts: Sequence[InferResult], name: str) -> float | None:
    found = [(getattr(part, name), part.frames_out) for part in parts]
    known = [(value, frames) for value, frames in found if value is not None]
    total = sum(frames for _, frames in known)
    return sum(value * frames for value, frames in known) / total if total else None


def _rate(frames: int, seconds: float) -> float:
    return round(frames / max(seconds, 1e-9), 3)


def _listed(outputs: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in outputs)
