"""The one place that imports OpenCV: `from fcnseg.io.opencv import cv2`; threads and windows.

OpenCV and its FFmpeg write to the terminal on their own; the switches that stop them are
environment variables, set while the library loads and restored afterwards.
"""

from __future__ import annotations

import functools
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
    except ImportError as error:  # the wheel needs libGL and glib of the system
        raise FcnsegError(
            f"OpenCV can't be loaded: {error}.",
            hint="pip install opencv-python; on a bare Linux also: "
            "apt-get install libgl1 libglib2.0-0",
        ) from error
    cv2.VideoCapture("", cv2.CAP_FFMPEG)  # FFmpeg's switch is read when it is first used

# For programs that loaded it before us. OpenCV 5 has the function elsewhere than 4.
_levels = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2
_levels.setLogLevel(0)


class Net:
    """An ONNX graph from uint8 "images" (N, H, W, 3) to float32 "logits" (N, K, H, W).

    OptionError when this OpenCV can't run it: sizes that are free need version 5.
    """

    def __init__(self, model: bytes) -> None:
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8), cv2.dnn.ENGINE_NEW)
        except (cv2.error, AttributeError, TypeError) as error:
            raise OptionError(
                f"OpenCV {cv2.__version__} can't run this network.",
                hint="pip install --upgrade 'opencv-python>=5', or take another --engine",
            ) from error

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of pictures uint8 RGB, all of one size."""
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
    """A window that shows images until q, Esc or its own cross.

    shown: whether there is an image in it. ended: whether the user has closed it.
    OptionError when there is no display.
    """

    def __init__(self) -> None:
        if not has_display():
            raise OptionError("There is no display to show a window on.", hint="omit --show")
        self.shown = self.ended = False

    def show(self, image: NDArray[np.uint8], text: str) -> None:
        """Show an image uint8 (H, W, 3) RGB with a line of text over it."""
        image = np.ascontiguousarray(image[:, :, ::-1])
        for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                image, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, width, cv2.LINE_AA
            )
        cv2.imshow(_TITLE, image)
        self.shown = True
        self.listen(1)

    def listen(self, milliseconds: int) -> None:
        """Wait for a key; q, Esc and the window's cross end it."""
        key = cv2.waitKey(milliseconds) & 0xFF
        closed = cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1
        self.ended = key in _ENDING_KEYS or closed

    def close(self) -> None:
        """Close the window."""
        if self.shown:
            cv2.destroyAllWindows()


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread: for workers that are many themselves."""
    cv2.setNumThreads(0)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within it OpenCV uses the calling thread alone: for callers that have many."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
