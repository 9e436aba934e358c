"""Images, videos and cameras; the only package that imports cv2 and handles BGR."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import FcnsegError, OptionError
from fcnseg.progress import environment

with environment(OPENCV_LOG_LEVEL="OFF", OPENCV_FFMPEG_LOGLEVEL="-8"):
    try:
        import cv2 as cv2
    except ImportError as error:  # the wheel needs the system's libGL and glib
        raise FcnsegError(
            f"OpenCV can't be loaded: {error}.",
            hint="pip install opencv-python; on a bare Linux also: "
            "apt-get install libgl1 libglib2.0-0",
        ) from error
    # The program may have loaded cv2 before. OpenCV 5 has moved this function.
    _levels = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2
    _levels.setLogLevel(0)
    cv2.VideoCapture("", cv2.CAP_FFMPEG)  # FFmpeg's log level is read on first use
    # Paths of the wheel's Qt, which are read when the first window opens. Without the rule it
    # warns five times of a folder of fonts that the wheel lacks.
    _of_windows = {name: value for name, value in os.environ.items() if name.startswith("QT_")}
    _of_windows["QT_LOGGING_RULES"] = "*.warning=false"

_threads_at_fork = 0


def _end_threads() -> None:
    """End OpenCV's threads before a fork: a lock held by one would block the child."""
    global _threads_at_fork
    _threads_at_fork = cv2.getNumThreads()
    cv2.setNumThreads(1)


def _start_threads() -> None:
    cv2.setNumThreads(_threads_at_fork)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_end_threads, after_in_parent=_start_threads, after_in_child=_start_threads
    )


class Net:
    """An ONNX graph from uint8 "images" (N, H, W, 3) to float32 "logits" (N, K, H, W).

    model: the file's bytes, or its name if its weights are in separate files.
    OptionError when this OpenCV can't run it: dynamic sizes need version 5.
    """

    def __init__(self, model: bytes | str) -> None:
        read = model if isinstance(model, str) else np.frombuffer(model, np.uint8)
        try:
            self._net = cv2.dnn.readNetFromONNX(read, cv2.dnn.ENGINE_NEW)
        except (cv2.error, AttributeError, TypeError) as error:
            raise OptionError(
                f"OpenCV {cv2.__version__} can't run this network.",
                hint="pip install --upgrade 'opencv-python>=5', or use another --engine",
            ) from error

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of images uint8 RGB, all of one size."""
        self._net.setInput(images, "images")
        return np.asarray(self._net.forward("logits"), np.float32)


_TRY = "import cv2; cv2.namedWindow('fcnseg'); cv2.waitKey(1); cv2.destroyAllWindows()"


@functools.cache
def has_display() -> bool:
    """Whether OpenCV can open a window here."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    try:
        tried = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


_TITLE = "fcnseg"

_ENDING_KEYS = frozenset({ord("q"), ord("Q"), 27})


class Window:
    """A window that shows images until q, Esc or its close button is pressed.

    shown: whether an image has been shown. ended: whether the user has closed it.
    OptionError when there is no display.
    """

    def __init__(self) -> None:
        if not has_display():
            raise OptionError("There is no display for a window.", hint="omit --show")
        self.shown = self.ended = False

    def show(self, image: NDArray[np.uint8], text: str = "") -> str:
        """Show an image uint8 (H, W, 3) RGB with a line of text; return the key of `listen`."""
        image = np.ascontiguousarray(image[:, :, ::-1])
        for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                image, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, width, cv2.LINE_AA
            )
        with environment(**({} if self.shown else _of_windows)):
            cv2.imshow(_TITLE, image)
        self.shown = True
        return self.listen(1)

    def listen(self, milliseconds: int) -> str:
        """Wait for a key; return its character, or "". q, Esc and the close button set `ended`."""
        code = cv2.waitKey(milliseconds)
        closed = cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1
        self.ended = self.ended or code & 0xFF in _ENDING_KEYS or closed
        return chr(code & 0xFF) if code >= 0 else ""

    def close(self) -> None:
        """Close the window."""
        if self.shown:
            cv2.destroyAllWindows()


def has_pyav() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def use_one_thread() -> None:
    """Run OpenCV in the calling thread only, for worker processes."""
    cv2.setNumThreads(0)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Run OpenCV in the calling thread only within the block, for multithreaded callers."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
