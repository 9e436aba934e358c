"""Sinks write predictions: to files in a folder, one file, a video.

A sink takes frames with their predictions in order and finishes with `close`. Drawing is in
`fcnseg.io.draw`; the window is in `fcnseg.inference.outputs`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from fcnseg.config import Container
from fcnseg.errors import MediaError, OptionError, cannot_write, naming
from fcnseg.files import atomic_write, partial, shortened, temporary_beside
from fcnseg.inference.outputs import OUTPUTS, SUFFIXES, Renderer
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io import has_pyav
from fcnseg.io.annotations.tools import Annotations
from fcnseg.io.encoders import StreamWriter
from fcnseg.io.images import write_bytes
from fcnseg.io.sources.base import Frame, Source
from fcnseg.io.video_writer import VideoWriter, left_out_of
from fcnseg.overwriting import mark
from fcnseg.progress import Callback, Message, no_callback
from fcnseg.remote import UPLOADS, RemotePath

FOLDER_FPS = Fraction(10)
"""Frame rate of a video made of images, which have none."""


class Sink(Protocol):
    """Takes predictions, in order."""

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Write one frame's prediction; MediaError when it can't be written."""

    def close(self, *, complete: bool = True) -> list[Path]:
        """Finish; return the files or folders written.

        complete: False when frames are missing (an error, Ctrl-C): partial output is kept, but
        does not replace a complete file.
        """


def _write_place(path: Path, sidecar: bytes | None) -> None:
    if sidecar is not None:
        write_bytes(path.with_name(f"{path.name}.aux.xml"), sidecar)


class FileSink:
    """One file for one image; the first frame only."""

    def __init__(self, path: Path, kind: str, renderer: Renderer) -> None:
        self._path, self._kind, self._renderer = path, kind, renderer
        self._written: list[Path] = []

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Write the file."""
        data = self._renderer.encode(self._kind, frame, prediction, self._path)
        write_bytes(self._path, data)
        _write_place(self._path, self._renderer.place(self._kind, frame))
        self._written = [self._path]

    def close(self, *, complete: bool = True) -> list[Path]:
        """The file, if there was a frame."""
        del complete
        return self._written


class SequenceSink:
    """A file of one kind for each frame, named by a pattern (frame_%04d.png), numbered from 1."""

    _AHEAD = 64
    """Names recorded as outputs in advance of their files, in case of a SIGKILL."""

    def __init__(self, pattern: Path, kind: str, renderer: Renderer) -> None:
        self._pattern, self._kind, self._renderer = pattern, kind, renderer
        self._count = self._marked = 0

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Write the next file."""
        if self._count == self._marked:
            self._marked += self._AHEAD
            self._mark(self._marked)
        path = self._pattern.with_name(self._pattern.name % (self._count + 1))
        write_bytes(path, self._renderer.encode(self._kind, frame, prediction, path))
        self._count += 1

    def close(self, *, complete: bool = True) -> list[Path]:
        """Record the files in a manifest for later commands; the pattern, if there was a frame."""
        del complete
        if not self._count:
            return []
        self._mark(self._count)
        return [self._pattern]

    def _mark(self, count: int) -> None:
        folder = self._pattern.parent
        names = [self._pattern.name % number for number in range(1, self._marked + 1)]
        unused = [name for name in names[count:] if not (folder / name).exists()]
        with contextlib.suppress(OptionError, MediaError):  # another program's manifest is kept
            mark(folder, names[:count], not_there=unused)


class PipeSink:
    """A video on standard output, written frame by frame; it has the first frame's size."""

    def __init__(self, kind: str, renderer: Renderer, source: Source, container: Container) -> None:
        self._kind, self._renderer, self._source = kind, renderer, source
        self._container, self._began = container, 0.0
        self._writer: StreamWriter | None = None

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Write the frame's image; BrokenPipeError when the reader has closed the pipe."""
        image = prediction.labels
        if self._kind != "labels":
            image = self._renderer.draw(self._kind, frame, prediction)
        if self._writer is None:
            self._began = frame.time
            self._writer = self._open((image.shape[0], image.shape[1]))
        self._writer.write(image, frame.time - self._began)

    def close(self, *, complete: bool = True) -> list[Path]:
        """No file."""
        del complete
        return []

    def _open(self, size: tuple[int, int]) -> StreamWriter:
        source = self._source
        return StreamWriter(
            sys.stdout.buffer,
            self._container,
            source.fps or FOLDER_FPS,
            size,
            aspect=source.aspect,
            repeat=source.live,
        )


class FolderSink:
    """A sub-folder for each kind with a file for each frame: OUT/overlay/NAME.png.

    Several threads write files in any order; of frames with the same name, the last one's files
    remain. done: called with each frame whose files are all written, by one thread at a time.
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
        workers = UPLOADS if isinstance(folder, RemotePath) else min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fcnseg-files")
        self._slots = threading.BoundedSemaphore(2 * workers)
        self._done_lock = threading.Lock()
        self._writing: dict[str, Future[None]] = {}
        self._error: BaseException | None = None
        self._frames = 0
        self._kinds_written: set[str] = set()

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Queue the frame's files for writing; raises an earlier frame's error."""
        self._slots.acquire()
        self._raise()
        if not self._frames:
            self._write_beside()
        self._frames += 1
        if (earlier := self._writing.get(frame.name)) is not None:
            wait([earlier])
        future = self._writing[frame.name] = self._pool.submit(self._write, frame, prediction)
        future.add_done_callback(lambda done: self._finished(frame.name, done))

    def flush(self) -> None:
        """Wait for the files after the last `write`; raises the error of one."""
        self._pool.shutdown(wait=True)
        self._raise()

    def close(self, *, complete: bool = True) -> list[Path]:
        """Wait for the files; return the sub-folders that have some."""
        if complete:
            self.flush()
        self._pool.shutdown(wait=True)
        return [self._folder / kind for kind in self._kinds if kind in self._kinds_written]

    def _write_beside(self) -> None:
        for kind in self._kinds:
            if (beside := OUTPUTS[kind].beside) is not None:
                name, encode = beside
                write_bytes(self._folder / kind / name, encode(self._renderer.classes))

    def _write(self, frame: Frame, prediction: PredictedArrays) -> None:
        for kind in self._kinds:
            path = self._folder / kind / shortened(frame.name, SUFFIXES[kind])
            write_bytes(path, self._renderer.encode(kind, frame, prediction, path))
            self._kinds_written.add(kind)
            _write_place(path, self._renderer.place(kind, frame))
        if self._done is not None:
            with self._done_lock:
                self._done(frame)

    def _finished(self, name: str, future: Future[None]) -> None:
        if self._writing.get(name) is future:  # else a later frame's files are written
            del self._writing[name]
        self._error = self._error or future.exception()
        self._slots.release()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class VideoSink:
    """A video of one kind of image, opened with the first frame.

    fps: None is FOLDER_FPS. timed: frames keep their timestamps (a video, a camera) instead
    of a constant rate of `fps`. sound: a file whose audio is copied; with whole_sound, to its end.
    clock: see FrameReader. is_mute: the source's audio can't be copied. live: frames may
    come late. The callback receives a Message on the encoder.
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
        whole_sound: bool = False,
        clock: Sequence[float] = (),
        is_mute: bool = False,
        aspect: Fraction = Fraction(1),
        live: bool = False,
        callback: Callback = no_callback,
    ) -> None:
        self._path, self._kind, self._renderer = path, kind, renderer
        self._fps, self._timed, self._sound = fps or FOLDER_FPS, timed, sound
        self._live, self._callback, self._aspect = live, callback, aspect
        self._clock, self._is_mute, self._whole_sound = clock, is_mute, whole_sound
        self._writer: VideoWriter | None = None
        self._began = 0.0

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Append the frame's image."""
        image = self._renderer.draw(self._kind, frame, prediction)
        if self._writer is None:
            self._writer = self._open(frame, image.shape[:2])
        time = frame.time - self._began if self._timed else None
        self._writer.write(image, time)

    def close(self, *, complete: bool = True) -> list[Path]:
        """Finish and verify the video; return its path."""
        if self._writer is None:
            return []
        path = self._writer.close(complete=complete)
        if path is not None and self._writer.encoder.sound_warning:
            self._callback(Message(f"{path.name}: {self._writer.encoder.sound_warning}", "warning"))
        return [] if path is None else [path]

    def _open(self, frame: Frame, size: tuple[int, int]) -> VideoWriter:
        self._began = frame.time
        writer = VideoWriter(
            self._path,
            self._fps,
            size,
            audio=self._sound,
            audio_start=self._began,
            whole_audio=self._whole_sound,
            clock=self._clock,
            aspect=self._aspect,
            live=self._live,
        )
        silent = "" if writer.encoder.keeps_time else ", at a constant rate and without sound"
        better = "" if has_pyav() else "; for H.264 and sound: pip install av"
        self._callback(
            Message(f"{self._path.name} is encoded as {writer.encoder.codec}{silent}{better}")
        )
        if self._is_mute and writer.encoder.keeps_time:
            text = "the sound is left out: it is copied from files on this machine only"
            self._callback(Message(f"{self._path.name}: {text}", "warning"))
        if self._sound is not None and (left_out := left_out_of(self._sound)):
            text = f"{self._path.name} goes without the {left_out} of {self._sound.name}"
            self._callback(Message(text, "warning"))
        return writer


class AnnotationSink:
    """One annotation file for all frames; their annotations are written to disk one by one.

    Those of a repeated frame (a watched file that has changed) replace the earlier ones.
    """

    def __init__(self, path: Path, annotations: Annotations) -> None:
        self._path, self._annotations = path, annotations
        self._places: dict[str, tuple[int, int]] = {}  # frame -> start and length of its piece
        self._replaced = False
        self._stack = contextlib.ExitStack()
        try:
            self._temporary = self._stack.enter_context(temporary_beside(path))
            self._file = self._stack.enter_context(self._temporary.open("wb"))
        except OSError as error:
            self._stack.close()
            raise cannot_write(path, error) from None
        self._file.write(annotations.head())

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Add the frame."""
        self._replaced |= frame.name in self._places
        piece = self._annotations.piece(frame, prediction.labels)
        with naming(self._path):
            if piece and any(length for _, length in self._places.values()):
                self._file.write(self._annotations.between)
            self._places[frame.name] = self._file.tell(), len(piece)
            self._file.write(piece)

    def close(self, *, complete: bool = True) -> list[Path]:
        """Finish the file; return its path."""
        path = self._path if complete or not self._path.exists() else partial(self._path)
        with naming(path), self._stack:
            self._file.write(self._annotations.tail())
            self._file.close()
            if self._replaced:
                self._drop_replaced()
            self._temporary.replace(path)
        return [path]

    def _drop_replaced(self) -> None:
        with self._temporary.open("rb") as old, atomic_write(self._temporary) as new:
            new.write(self._annotations.head())
            there = [place for place in self._places.values() if place[1]]
            for number, (start, length) in enumerate(there):
                old.seek(start)
                new.write(self._annotations.between * (number > 0) + old.read(length))
            new.write(self._annotations.tail())
