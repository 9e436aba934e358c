"""Long work: the events that it reports to its callback, how it is interrupted, its memory.

Loads nothing heavy: the command line uses it before torch is imported.
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
    """How far one task has come.

    task: what is being done; a new name starts a new bar.
    done, total: in the task's own unit; total is None when it can't be known.
    unit: what is counted ("frames", "images", "files").
    values: what to show beside the bar, in this order (loss, mIoU, frames/s ...).
    """

    task: str
    done: int
    total: int | None
    unit: str = ""
    values: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochEnd:
    """One epoch of training is over.

    epochs: of how many; 0 where a time decides.
    values: the row just written to results.csv (loss, miou, pixel_accuracy, seconds ...).
    class_iou: the IoU of each class by name; None where it does not occur in the labels.
    best: whether this epoch's mIoU is the best so far.
    """

    epoch: int
    epochs: int
    values: Mapping[str, float | int]
    class_iou: Mapping[str, float | None]
    best: bool


@dataclass(frozen=True, eq=False)
class Preview:
    """An image to look at, while others are still drawn.

    image: uint8 (H, W, 3) RGB. key: what its colors mean, as names with red, green and blue.
    """

    name: str
    image: Any
    key: Sequence[tuple[str, tuple[int, int, int]]] = ()


Event = Message | Progress | EpochEnd | Preview

Callback = Callable[[Event], None]


def log_messages(callback: Callback) -> Callback:
    """A callback that logs messages (logger "fcnseg") and hands everything else to `callback`."""

    def log(event: Event) -> None:
        if isinstance(event, Message):
            level = logging.WARNING if event.level == "warning" else logging.INFO
            logging.getLogger("fcnseg").log(level, "%s", event.text)
        else:
            callback(event)

    return log


_SYSTEM = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information")


def is_hidden(name: str) -> bool:
    """Whether nobody looks for their files in a folder of this name: thumbnails, deleted files."""
    return name.startswith((".", *_SYSTEM))


def tell_unlisted(callback: Callback) -> Callable[[OSError], None]:
    """For os.walk: a folder that can't be listed is told of, as the files in it go missing."""

    def tell(error: OSError) -> None:
        text = f"{error.filename} can't be read and is left out: {error.strerror}."
        callback(Message(text, "warning"))

    return tell


NAMED = 3
"""Skipped files that are named."""


def skipped_files(files: Sequence[Path], why: str) -> Message:
    """The message for files that are skipped; the first ones are named."""
    names = ", ".join(path.name for path in files[:NAMED])
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return Message(f"Skipped {names}{more}: {why}")


def no_callback(event: Event) -> None:
    """The callback that does nothing."""


PAIR_SECONDS = 1.0
"""A second SIGTERM or SIGHUP so soon is the same request: a terminal that is closed sends two, its
own and its shell's. Ctrl-C is pressed by someone who means it."""


def stop_signals() -> list[signal.Signals]:
    """Those there are here, without those that the process was told to ignore (nohup)."""
    found = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    return [one for one in found if one is not None and signal.getsignal(one) != signal.SIG_IGN]


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]
) -> Iterator[None]:
    """Signals are handled by a function in the block, and as they were before after it.

    Outside the main thread, where Python can't handle signals, nothing changes; nor does a signal
    that another part of the program handles without Python, which could not be given back.
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
    """SIGTERM and SIGHUP raise KeyboardInterrupt in the block, as SIGINT does."""
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
def held_back(on_request: Callable[[], None] | None = None) -> Iterator[None]:
    """Delay a request to stop until the block ends; a second one takes effect at once.

    For what must not be left half-done: closing a file, waiting for a thread that uses it.
    on_request: called by the signal handler, to bring the end of the block near; it may take no
    lock. Unhandled signals are left alone.
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
    """While it is entered, the first signal sets `requested`; a second Ctrl-C stops at once."""

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
"""Bytes; the largest that the C library takes."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of handing it back; whether it will.

    For programs: the command line calls it, the library leaves the allocator alone.

    glibc returns large blocks to the system as soon as they are free, and every page of the next
    one has to be fetched and cleared anew: 10,000 pages for each forward pass of a small network
    on 768x432, which is a tenth of its time and more beside other threads. All three settings are
    needed: no block of its own for each large array, no giving back, and one arena, as those of
    further threads can't hold large arrays.

    Only on Linux with glibc, and not where the user has set MALLOC_... or GLIBC_TUNABLES.
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
    """The block sees these environment variables, where the user has not set them.

    Afterwards all are as they were: loading OpenCV changes LD_LIBRARY_PATH, for one.
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
    """What libraries print past every log level of theirs is not shown; errors are raised."""
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
"""Sizes of images after which one counts as new again; oneDNN keeps layers for fewer."""


@functools.lru_cache(maxsize=_RECENT)
def release_freed_memory(_shape: tuple[int, ...]) -> bool:
    """Hand freed memory back to the system before images of a new shape; whether it was done.

    For each new size oneDNN makes its layers anew and keeps them (1,024 of them), amid the arrays
    of the forward pass. Between them gaps remain that no array of the next size fits into, and a
    process that is given a new size each time grows: benchmarks/many_sizes.py. What was done for a
    shape is cached, so that images of one size, as a video's, keep their memory.

    Only on Linux with glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and trim(0) == 1


def teller(task: str, count: int, callback: Callback) -> Callable[[int], None]:
    """Tells the callback of progress, some times a second."""
    told = 0.0

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done == count or now - told > 0.05:
            told = now
            callback(Progress(task, done, count, "files"))

    return tell
