"""Cameras and network streams: always the newest frame.

A thread reads continuously and keeps only the newest frame; the iteration waits for one newer than
the last. Dropped frames are counted. A lost connection is retried with increasing pauses, without
repeating earlier frames; a stream with an end marker ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, counted
from fcnseg.files import safe_filename
from fcnseg.io import cv2, has_pyav
from fcnseg.io.sources.base import Frame, Kind, Selection, Source
from fcnseg.io.sources.network import unreachable, without_password
from fcnseg.io.sources.network.served import End, Pace, SeenFrames, StreamCapture
from fcnseg.progress import Callback, Message, no_callback

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds to wait before each attempt to reconnect; the last one repeats."""

PATIENCE = 300.0
"""Seconds without a new frame after which a live source ends."""

_TIMEOUT_MS = 8000


class Capture(Protocol):
    """The part of cv2.VideoCapture's interface used here; replaced in tests."""

    def isOpened(self) -> bool:  # noqa: N802
        """Whether it is open."""

    def read(self) -> tuple[bool, NDArray[np.generic] | None]:
        """Whether there is a frame, and the frame: uint8 (H, W, 3) BGR."""

    def get(self, propId: int, /) -> float:  # noqa: N803
        """A property by OpenCV's number."""

    def release(self) -> None:
        """Close the device."""


Connect = Callable[[int | str], Capture]
"""Opens a camera by its number or a stream by its URL."""


class LiveSource(Source):
    """Yields the newest frame of a camera or stream.

    address: the camera's number or the stream's URL; name: the same without password. capture:
    already open. clock: returns the time in seconds. pauses, patience: default PAUSES and PATIENCE.
    """

    live = True

    def __init__(
        self,
        address: int | str,
        capture: Capture,
        *,
        connect: Connect,
        selection: Selection,
        callback: Callback = no_callback,
        clock: Callable[[], float] = time.monotonic,
        pauses: tuple[float, ...] | None = None,
        patience: float | None = None,
    ) -> None:
        super().__init__()
        self.kind: Kind = "camera" if isinstance(address, int) else "stream"
        self.name = f"camera {address}" if isinstance(address, int) else without_password(address)
        self.fps = _rate(capture, selection.every)
        self.count = selection.limit or None
        self._address, self._connect, self._selection = address, connect, selection
        self._callback, self._clock = callback, clock
        self._pauses = PAUSES if pauses is None else pauses
        self._patience = PATIENCE if patience is None else patience
        self._changed = threading.Condition()
        self._newest: tuple[int, float, NDArray[np.generic]] | None = None
        self._ended = False
        self._read = 0  # number of frames from all connections
        self._lost: float | None = None  # time since which there was no new frame
        self._tries = 0
        self._end: End = "lost"
        self._has_repeated = False  # whether this connection has only repeated frames so far
        self._seen, self._pace = SeenFrames(), Pace()
        self._began = clock()
        self._capture = capture
        self._thread = threading.Thread(
            target=self._watch, args=(capture,), name="fcnseg-live", daemon=True
        )

    def __iter__(self) -> Iterator[Frame]:
        self._began = self._clock()
        self._thread.start()
        while not self._selection.is_full(self.taken):
            newest = self._wait()
            if newest is None:
                return
            index, seconds, pixels = newest
            image = np.asarray(cv2.cvtColor(np.asarray(pixels), cv2.COLOR_BGR2RGB), np.uint8)
            self.taken += 1
            yield Frame(image, index, seconds, f"{safe_filename(self.name)}_{index:06d}")

    def close(self) -> None:
        """Stop reading; ends the iteration."""
        super().close()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is None:  # the iteration was not started
            self._capture.release()
        elif self._thread.is_alive():
            self._thread.join(timeout=_TIMEOUT_MS / 1000 + 1)

    def age(self, frame: Frame) -> float:
        """Seconds since the frame was captured."""
        return self._clock() - self._began - frame.time

    def _wait(self) -> tuple[int, float, NDArray[np.generic]] | None:
        with self._changed:
            while self._newest is None and not self._ended and not self._over:
                self._changed.wait(0.2)  # short, so that Ctrl-C works on all platforms
            newest, self._newest = self._newest, None
            return None if self._over else newest

    def _watch(self, capture: Capture) -> None:
        """Read continuously and keep the newest frame; runs in the thread."""
        current: Capture | None = capture
        try:
            while current is not None and not self._closed.is_set():
                pixels = _read(current)
                if pixels is None:
                    current = self._follow(current)
                elif not self._is_repeated(current, pixels):
                    self._note_return()
                    self._keep(self._read, pixels)
                    self._read += 1
                elif self._end == "unclear":
                    break  # the same file again, from its start
        finally:
            if current is not None:
                current.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _is_repeated(self, capture: Capture, pixels: NDArray[np.generic]) -> bool:
        """Whether a frame repeats one from before the connection was lost; else waits until due."""
        if not isinstance(capture, StreamCapture) or not capture.may_repeat:
            return False
        if self._seen.has(capture.stamp, pixels) and self._lost is not None:
            self._has_repeated = not capture.comes_in_pieces
            return True
        if capture.comes_in_pieces:
            self._closed.wait(self._pace.wait(capture.stamp, self._clock()))
        return False

    def _follow(self, capture: Capture) -> Capture | None:
        """After the last frame of a connection, reconnect; None at the end of the stream."""
        self._end = capture.end() if isinstance(capture, StreamCapture) else "lost"
        if self._has_repeated and self._lost is not None:  # a file without new frames
            self._end = "over"
        self._has_repeated = False
        capture.release()
        return None if self._end == "over" else self._connect_again()

    def _keep(self, index: int, pixels: NDArray[np.generic]) -> None:
        if index % self._selection.every:
            return
        with self._changed:
            self.dropped += self._newest is not None
            self._newest = (index, self._clock() - self._began, pixels)
            self._changed.notify_all()

    def _note_return(self) -> None:
        """On a new frame, report the end of an interruption."""
        if self._lost is not None:
            gone = self._clock() - self._lost
            tries = counted(self._tries, "attempt")
            self._callback(Message(f"{self.name}: back after {gone:.1f} s, {tries}"))
        self._lost, self._tries = None, 0

    def _connect_again(self) -> Capture | None:
        """Reconnect; None when stopped or after `patience` seconds without a new frame."""
        if self._lost is None:
            self._lost = self._clock()
            how = "has ended" if self._end == "unclear" else "lost"
            text = f"{self.name}: {how} after {self._read} frames; connecting again"
            self._callback(Message(text, "warning"))
        while self._clock() - self._lost < self._patience:
            pause = self._pauses[min(self._tries, len(self._pauses) - 1)]
            if self._closed.wait(pause):
                return None
            self._tries += 1
            capture = self._connect(self._address)
            if capture.isOpened():
                return capture
            capture.release()
        self.failures.append(
            (self.name, f"lost after {self._read} frames and not back within {self._patience:g} s")
        )
        return None


def open_camera(
    number: int, selection: Selection, *, connect: Connect | None, callback: Callback
) -> LiveSource:
    """Open a camera; MediaError when it can't be opened."""
    connect = connect or connect_live
    capture = connected(number, connect)
    return LiveSource(number, capture, connect=connect, selection=selection, callback=callback)


def connected(address: int | str, connect: Connect) -> Capture:
    """Open a camera or stream; MediaError when it can't be opened."""
    capture = connect(address)
    if not capture.isOpened():
        capture.release()
        raise unreachable(address) if isinstance(address, str) else no_camera(address)
    return capture


def connect_live(address: int | str) -> Capture:
    """Open a camera with OpenCV, without buffering; a stream with PyAV, else OpenCV.

    Both use short timeouts.
    """
    if isinstance(address, int):
        camera = cv2.VideoCapture(address)
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return camera
    if has_pyav():
        return StreamCapture(address)
    timeouts = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS,
    ]  # fmt: skip
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts)


def camera_number(name: str, devices: Path = Path("/sys/class/video4linux")) -> int | None:
    """The number of the camera whose name contains `name`; None if not found (Linux only)."""
    for device in sorted(devices.glob("video*")):
        label = device / "name"
        if label.is_file() and name.casefold() in label.read_text(encoding="utf-8").casefold():
            return int(device.name.removeprefix("video"))
    return None


def no_camera(number: int) -> MediaError:
    """The MediaError for a camera that can't be opened."""
    devices = sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video*"))
    return MediaError(
        f"Camera {number} can't be opened.",
        hint=f"there are cameras {', '.join(devices)}" if devices else "no camera was found here",
    )


def _read(capture: Capture) -> NDArray[np.generic] | None:
    try:
        done, pixels = capture.read()
    except cv2.error:
        return None
    return pixels if done and pixels is not None and pixels.size else None


def _rate(capture: Capture, every: int) -> Fraction | None:
    """The camera's frame rate divided by `every`; None if implausible."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return Fraction(fps).limit_denominator(1001) / every if 0.1 <= fps <= 1000 else None
