"""Long-running work: progress events for callbacks, interrupts, and memory of the allocator.

Imports nothing heavy: the command line uses it before torch is imported.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Message:
    """One line of text for the user."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Progress:
    """The progress of a task.

    task: its name; a new name starts a new bar.
    done, total: in `unit`; total is None when it is unknown.
    unit: what is counted ("frames", "images", "files").
    values: shown beside the bar, in this order (loss, mIoU, frames/s ...).
    """

    task: str
    done: int
    total: int | None
    unit: str = ""
    values: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochEnd:
    """The end of a training epoch.

    epochs: number of epochs; 0 when training ends after a time.
    values: the row just written to results.csv (loss, miou, pixel_accuracy, seconds ...).
    class_iou: the IoU of each class by name; None for a class that is not in the labels.
    best: whether this epoch's mIoU is the best so far.
    """

    epoch: int
    epochs: int
    values: Mapping[str, float | int]
    class_iou: Mapping[str, float | None]
    best: bool


@dataclass(frozen=True, eq=False)
class Preview:
    """A finished image to show, while others are still drawn.

    image: uint8 (H, W, 3) RGB. key: its legend, (name, (red, green, blue)).
    """

    name: str
    image: Any
    key: Sequence[tuple[str, tuple[int, int, int]]] = ()


Event = Message | Progress | EpochEnd | Preview

Callback = Callable[[Event], None]


def log_messages(callback: Callback) -> Callback:
    """A callback that logs messages (logger "fcnseg") and passes other events to `callback`."""

    def log(event: Event) -> None:
        if isinstance(event, Message):
            level = logging.WARNING if event.level == "warning" else logging.INFO
            logging.getLogger("fcnseg").log(level, "%s", event.text)
        else:
            callback(event)

    return log


_SYSTEM = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information")


def is_hidden(name: str) -> bool:
    """Whether a folder's name is that of a hidden or system folder: thumbnails, deleted files."""
    return name.startswith((".", *_SYSTEM))


def warn_unlisted(callback: Callback) -> Callable[[OSError], None]:
    """An `onerror` function for os.walk that warns of folders that can't be listed."""

    def warn(error: OSError) -> None:
        text = f"{error.filename} can't be read and is left out: {error.strerror}."
        callback(Message(text, "warning"))

    return warn


NAMED = 3
"""Number of skipped files that a message names."""


def skipped_files(files: Sequence[Path], why: str) -> Message:
    """The message about skipped files, with the names of the first ones."""
    names = ", ".join(path.name for path in files[:NAMED])
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return Message(f"Skipped {names}{more}: {why}")


def no_callback(event: Event) -> None:
    """The callback that does nothing."""


PAIR_SECONDS = 1.0
"""A second SIGTERM or SIGHUP within these seconds counts as the same request: closing a terminal
sends two, one by the terminal and one by its shell. This does not apply to Ctrl-C."""


def stop_signals() -> list[signal.Signals]:
    """SIGINT, SIGTERM and SIGHUP, without those that are missing here or ignored (nohup)."""
    found = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [one for one in found if one is not None and signal.getsignal(one) != signal.SIG_IGN]


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]
) -> Iterator[None]:
    """Handle signals with a function within the block; restore the previous handlers after it.

    Does nothing outside the main thread, where Python can't set handlers. Signals with a handler
    not installed from Python are left alone, as it could not be restored.
    """
    if threading.current_thread() is not threading.main_thread():
        numbers = ()
    ours = [number for number in numbers if signal.getsignal(number) is not None]
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt in the block, as SIGINT does."""
    last = -PAIR_SECONDS

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        del number, frame
        now = time.monotonic()
        if now - last >= PAIR_SECONDS:
            last = now
            raise KeyboardInterrupt

    with handled_by(interrupt, [one for one in stop_signals() if one != signal.SIGINT]):
        yield


@contextmanager
def defer_interrupts(on_request: Callable[[], None] | None = None) -> Iterator[None]:
    """Delay a stop signal until the block ends; a second one takes effect at once.

    For work that must not be interrupted: closing a file, waiting for a thread that uses it.
    on_request: called by the signal handler, to end the block soon; it must not take a lock.
    Signals without a Python handler are left alone.
    """
    asked: list[tuple[int, float]] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if not asked:
            asked.append((number, now))
            if on_request is not None:
                on_request()
        elif number == signal.SIGINT or now - asked[0][1] >= PAIR_SECONDS:
            raise KeyboardInterrupt

    with handled_by(note, [one for one in stop_signals() if callable(signal.getsignal(one))]):
        yield
    if asked:
        signal.raise_signal(asked[0][0])


class StopSignal:
    """A context in which the first stop signal sets `requested`; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._handled = handled_by(self._note, {signal.SIGINT, *stop_signals()})

    def __enter__(self) -> Self:
        self._handled.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handled.__exit__(None, None, None)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # <malloc.h>

_MOST = (1 << 31) - 1
"""Bytes; the largest value that mallopt accepts."""


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it to the system; return whether it does.

    For programs: the command line calls it, the library leaves the allocator alone.

    By default glibc returns large blocks to the system when they are freed, so every page of the
    next block causes a page fault and is zeroed: 10,000 pages per forward pass of a small network
    on 768x432, a tenth of its time, more with other threads running. All three settings are
    needed: no mmap for large blocks, no trimming, and a single arena, as the arenas of further
    threads can't hold large arrays.

    Only on Linux with glibc, and not if the user has set MALLOC_... or GLIBC_TUNABLES.
    """
    if sys.platform != "linux" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = {_TRIM_THRESHOLD: _MOST, _MMAP_THRESHOLD: _MOST, _ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables in the block, unless the user has set them.

    Restores the whole environment after it: loading OpenCV changes LD_LIBRARY_PATH, for example.
    """
    before = dict(os.environ)
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def without_native_messages() -> Iterator[None]:
    """Discard what native libraries print to stderr in the block, whatever their log level."""
    sys.stderr.flush()
    with Path(os.devnull).open("wb") as nowhere:
        stderr = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


_RECENT = 64
"""Number of image shapes remembered; oneDNN caches layers for fewer."""


@functools.lru_cache(maxsize=_RECENT)
def release_freed_memory(_shape: tuple[int, ...]) -> bool:
    """Return freed memory to the system before images of a new shape; True if it was done.

    For each new size oneDNN creates its layers again and caches them (1,024 of them), between the
    arrays of the forward pass. This fragments the heap, so that a process whose images all have
    different sizes grows: benchmarks/many_sizes.py. The result is cached by shape, so that images
    of one size, as in a video, keep their memory.

    Only on Linux with glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and trim(0) == 1


def progress_reporter(task: str, count: int, callback: Callback) -> Callable[[int], None]:
    """A function that reports the number of files done, at most 20 times a second."""
    reported = 0.0

    def report(done: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if done == count or now - reported > 0.05:
            reported = now
            callback(Progress(task, done, count, "files"))

    return report
