"""Where predictions go: files in a folder, one file, a video.

A sink takes frames with their predictions in order and finishes with `close`. What is drawn
is in `fcnseg.io.draw`; windows are in `window`, tables of numbers in `records`.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.files import fitting
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io import Window
from fcnseg.io.draw import colorize, overlay
from fcnseg.io.encoders import has_pyav
from fcnseg.io.images import encode_image, write_bytes
from fcnseg.io.labels import encode_labels
from fcnseg.io.polygons import as_geojson, as_labelme
from fcnseg.io.sources.base import Frame
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Callback, Message, no_callback

FOLDER_FPS = Fraction(10)
"""Frames a second of a video made of images, which have no rate."""


class Sink(Protocol):
    """Takes predictions, in order."""

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Take one frame with its prediction; MediaError when it can't be written."""

    def close(self, *, complete: bool = True) -> list[Path]:
        """Finish; the files or folders there are now.

        complete: False when frames are missing (an error, Ctrl-C): what is there is kept, but
        does not replace something complete.
        """


@dataclass(frozen=True)
class Renderer:
    """How predictions look.

    alpha: opacity of the colours over the image. only: the classes whose probabilities are
        written, None: all (labels of others are 255 before they come here).
    """

    classes: ClassMap
    alpha: float = 0.5
    only: Collection[int] | None = None

    def overlay(self, frame: Frame, prediction: PredictedArrays) -> NDArray[np.uint8]:
        """The classes' colours over the frame, uint8 (H, W, 3) RGB."""
        return overlay(frame.image, prediction.labels, self.classes, alpha=self.alpha)

    def color(self, frame: Frame, prediction: PredictedArrays) -> NDArray[np.uint8]:
        """The classes' colours alone, uint8 (H, W, 3) RGB."""
        del frame
        return colorize(prediction.labels, self.classes)

    def draw(self, kind: str, frame: Frame, prediction: PredictedArrays) -> NDArray[np.uint8]:
        """The image of a kind: "overlay" or "color"."""
        return (self.overlay if kind == "overlay" else self.color)(frame, prediction)

    def encode(self, kind: str, frame: Frame, prediction: PredictedArrays, suffix: str) -> bytes:
        """The bytes of a file of a kind in OUTPUTS; suffix: of its name."""
        return OUTPUTS[kind].encode(self, frame, prediction, suffix)


def _encode_overlay(
    renderer: Renderer, frame: Frame, prediction: PredictedArrays, suffix: str
) -> bytes:
    return encode_image(renderer.overlay(frame, prediction), suffix, scratch=True)


def _encode_color(
    renderer: Renderer, frame: Frame, prediction: PredictedArrays, suffix: str
) -> bytes:
    return encode_image(renderer.color(frame, prediction), suffix, scratch=True)


def _encode_labels(renderer: Renderer, _: Frame, prediction: PredictedArrays, suffix: str) -> bytes:
    del suffix
    return encode_labels(prediction.labels, renderer.classes.palette())


def _encode_probabilities(
    renderer: Renderer, _: Frame, prediction: PredictedArrays, suffix: str
) -> bytes:
    """An .npz with `probabilities` float16 (N, H, W) and `classes`, the names of the N planes."""
    del suffix
    assert prediction.probabilities is not None, "requested when the sink was planned"
    classes, only = renderer.classes, renderer.only
    planes = sorted(range(len(classes)) if only is None else only)
    values = prediction.probabilities[planes].astype(np.float16)
    file = io.BytesIO()
    np.savez(file, probabilities=values, classes=np.array([classes.names[i] for i in planes]))
    return file.getvalue()


def _encode_geojson(
    renderer: Renderer, _: Frame, prediction: PredictedArrays, suffix: str
) -> bytes:
    del suffix
    return as_geojson(prediction.labels, renderer.classes)


def _encode_labelme(
    renderer: Renderer, frame: Frame, prediction: PredictedArrays, suffix: str
) -> bytes:
    del suffix
    return as_labelme(prediction.labels, renderer.classes, frame=frame)


class Output(NamedTuple):
    """A kind of file that is written for each frame: its suffix, and what makes its bytes."""

    suffix: str
    encode: Callable[[Renderer, Frame, PredictedArrays, str], bytes]


OUTPUTS = {
    "overlay": Output(".png", _encode_overlay),
    "labels": Output(".png", _encode_labels),
    "color": Output(".png", _encode_color),
    "probabilities": Output(".npz", _encode_probabilities),
    "geojson": Output(".geojson", _encode_geojson),
    "labelme": Output(".json", _encode_labelme),
}
"""The outputs for each frame: a new one is a function and a line."""

SUFFIXES = {name: output.suffix for name, output in OUTPUTS.items()}
"""How the file of each output ends."""


class FileSink:
    """One file for one image; the first frame only."""

    def __init__(self, path: Path, kind: str, renderer: Renderer) -> None:
        self._path, self._kind, self._renderer = path, kind, renderer
        self._written: list[Path] = []

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Write the file."""
        suffix = self._path.suffix
        write_bytes(self._path, self._renderer.encode(self._kind, frame, prediction, suffix))
        self._written = [self._path]

    def close(self, *, complete: bool = True) -> list[Path]:
        """The file, if there was a frame."""
        del complete
        return self._written


class FolderSink:
    """A sub-folder for each kind, in it a file for each frame: OUT/overlay/NAME.png.

    Files are made by several threads: their order does not matter, but for one name the latest
    frame's are left. done: called with each
    frame whose files are all there, by one thread at a time.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        renderer: Renderer,
        *,
        done: Callable[[Frame], None] | None = None,
    ) -> None:
        self._folder, self._kinds, self._renderer, self._done = folder, kinds, renderer, done
        workers = min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fcnseg-files")
        self._free = threading.BoundedSemaphore(2 * workers)
        self._one = threading.Lock()
        self._writing: dict[str, Future[None]] = {}
        self._error: BaseException | None = None
        self._frames = 0

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Have the frame's files written; an earlier frame's error is raised."""
        self._free.acquire()
        self._raise()
        self._frames += 1
        if (earlier := self._writing.get(frame.name)) is not None:
            wait([earlier])
        future = self._writing[frame.name] = self._pool.submit(self._write, frame, prediction)
        future.add_done_callback(lambda done: self._finished(frame.name, done))

    def close(self, *, complete: bool = True) -> list[Path]:
        """Wait for the files; the sub-folders."""
        self._pool.shutdown(wait=True)
        if complete:
            self._raise()
        return [self._folder / kind for kind in self._kinds] if self._frames else []

    def _write(self, frame: Frame, prediction: PredictedArrays) -> None:
        for kind in self._kinds:
            suffix = SUFFIXES[kind]
            data = self._renderer.encode(kind, frame, prediction, suffix)
            write_bytes(self._folder / kind / fitting(frame.name, suffix), data)
        if self._done is not None:
            with self._one:
                self._done(frame)

    def _finished(self, name: str, future: Future[None]) -> None:
        self._writing.pop(name, None)
        self._error = self._error or future.exception()
        self._free.release()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class VideoSink:
    """A video of one kind of image, made when the first frame comes.

    fps: None takes FOLDER_FPS. timed: frames keep their own times (a video, a camera) instead
    of following one another at `fps`. sound: a file whose sound goes with them. live: frames
    may come late. The callback receives how it is encoded.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        renderer: Renderer,
        *,
        fps: Fraction | None,
        timed: bool = True,
        sound: Path | None = None,
        aspect: Fraction = Fraction(1),
        live: bool = False,
        callback: Callback = no_callback,
    ) -> None:
        self._path, self._kind, self._renderer = path, kind, renderer
        self._fps, self._timed, self._sound = fps or FOLDER_FPS, timed, sound
        self._live, self._callback, self._aspect = live, callback, aspect
        self._writer: VideoWriter | None = None
        self._began = 0.0

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Append the frame's image."""
        if self._writer is None:
            self._writer = self._open(frame)
        time = frame.time - self._began if self._timed else None
        self._writer.write(self._renderer.draw(self._kind, frame, prediction), time)

    def close(self, *, complete: bool = True) -> list[Path]:
        """Finish and verify the video; its path."""
        if self._writer is None:
            return []
        path = self._writer.close(complete=complete)
        if path is not None and self._writer.sound_trouble:
            self._callback(Message(f"{path.name}: {self._writer.sound_trouble}", "warning"))
        return [] if path is None else [path]

    def _open(self, frame: Frame) -> VideoWriter:
        self._began = frame.time
        writer = VideoWriter(
            self._path,
            self._fps,
            frame.size,
            audio=self._sound,
            audio_start=self._began,
            aspect=self._aspect,
            live=self._live,
        )
        silent = "" if writer.keeps_time else ", at a constant rate and without sound"
        better = "" if has_pyav() else "; for H.264 and sound: pip install av"
        self._callback(Message(f"{self._path.name} is encoded as {writer.codec}{silent}{better}"))
        return writer


class WindowSink:
    """Shows each frame with its prediction until q, Esc or the window's own cross.

    hold: the last image stays until a key ends it (single images).
    OptionError when there is no display.
    """

    def __init__(self, renderer: Renderer, *, hold: bool = False) -> None:
        self._renderer, self._hold = renderer, hold
        self._window = Window()
        self._last = time.perf_counter()

    @property
    def ended(self) -> bool:
        """Whether the user has closed it."""
        return self._window.ended

    def write(self, frame: Frame, prediction: PredictedArrays, *, age: float | None = None) -> None:
        """Show a frame; age: seconds since a camera captured it, written on the image."""
        if self.ended:
            return
        late = "" if age is None else f"  {age * 1000:.0f} ms old"
        text = f"{self._speed():.1f} frames/s{late}"
        self._window.show(self._renderer.overlay(frame, prediction), text)

    def close(self, *, complete: bool = True) -> list[Path]:
        """Wait for the user where asked to, and close the window; no files."""
        while self._hold and complete and self._window.shown and not self.ended:
            self._window.listen(50)
        self._window.close()
        return []

    def _speed(self) -> float:
        """Frames a second, by the time since the last one."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return 1 / max(seconds, 1e-6)
