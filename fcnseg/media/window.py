"""A window that shows the pictures as they come. It belongs to the main thread."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import OptionError
from fcnseg.frames import Frame, Prediction
from fcnseg.media._opencv import cv2
from fcnseg.media.display import has_display
from fcnseg.media.sinks import Painter

_TITLE = "fcnseg (q ends)"
_ENDING_KEYS = frozenset({ord("q"), ord("Q"), 27})


class WindowSink:
    """Shows each frame with its prediction until q, Esc or the window's own cross.

    hold: the last picture stays until a key ends it (single images).
    ended: whether the user has had enough.
    OptionError when there is no display.
    """

    def __init__(self, painter: Painter, *, hold: bool = False) -> None:
        if not has_display():
            raise OptionError(
                "There is no display to show a window on.", hint="leave out --show; -o writes files"
            )
        self._painter, self._hold = painter, hold
        self.ended = False
        self._shown = False
        self._last = time.perf_counter()

    def write(self, frame: Frame, prediction: Prediction, *, age: float | None = None) -> None:
        """Show a frame; age: seconds since a camera captured it, written on the picture."""
        if self.ended:
            return
        picture = self._painter.overlay(frame, prediction)
        cv2.imshow(
            _TITLE, cv2.cvtColor(_with_speed(picture, self._speed(), age), cv2.COLOR_RGB2BGR)
        )
        self._shown = True
        self._listen(1)

    def close(self, *, complete: bool = True) -> list[Path]:
        """Wait for the user where asked to, and close the window; no files."""
        while self._hold and complete and self._shown and not self.ended:
            self._listen(50)
        if self._shown:
            cv2.destroyAllWindows()
        return []

    def _listen(self, milliseconds: int) -> None:
        key = cv2.waitKey(milliseconds) & 0xFF
        closed = cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1
        self.ended = key in _ENDING_KEYS or closed

    def _speed(self) -> float:
        """Frames a second, by the time since the last one."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return 1 / max(seconds, 1e-6)


def _with_speed(picture: NDArray[np.uint8], fps: float, age: float | None) -> NDArray[np.uint8]:
    text = f"{fps:.1f} frames/s" + ("" if age is None else f"  {age * 1000:.0f} ms old")
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            picture, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, width, cv2.LINE_AA
        )
    return picture
