"""Predictions in a window, as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fcnseg.inference.outputs import Renderer
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io import Window
from fcnseg.io.sources.base import Frame


class Pace:
    """Keeps to a video's own times; where the network is slower, the time stands still for it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began: float | None = None

    def left(self, seconds: float) -> float:
        """Seconds until a frame's time in the video has come; 0 or less: it has."""
        now = self._clock()
        if self._began is None or now > self._began + seconds:
            self._began = now - seconds
        return self._began + seconds - now


class WindowSink:
    """Shows each frame with its prediction until q, Esc or the window's own cross.

    hold: the last image stays until a key ends it (single images). paced: no frame is shown before
    its time (videos); where the network is slower, the time stands still for it.
    OptionError when there is no display.
    """

    def __init__(
        self,
        renderer: Renderer,
        *,
        hold: bool = False,
        paced: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._renderer, self._hold, self._paced, self._clock = renderer, hold, paced, clock
        self._pace = Pace(clock)
        self._window = Window()
        self._last = clock()

    @property
    def ended(self) -> bool:
        """Whether the user has closed it."""
        return self._window.ended

    def write(self, frame: Frame, prediction: PredictedArrays, *, age: float | None = None) -> None:
        """Show a frame; age: seconds since a camera captured it, written on the image."""
        while self._paced and not self.ended and (left := self._pace.left(frame.time)) > 0:
            self._window.listen(min(50, max(1, round(left * 1000))))
        if self.ended:
            return
        late = "" if age is None else f"  {age * 1000:.0f} ms old"
        text = f"{self._speed():.1f} frames/s{late}"
        image = self._renderer.overlay(frame, prediction)
        key = self._renderer.legend_of("overlay", image.shape[0])
        self._window.show(np.hstack([image, key]), text)

    def close(self, *, complete: bool = True) -> list[Path]:
        """Wait for the user where asked to, and close the window; no files."""
        while self._hold and complete and self._window.shown and not self.ended:
            self._window.listen(50)
        self._window.close()
        return []

    def _speed(self) -> float:
        """Frames a second, by the time since the last one."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        return 1 / max(seconds, 1e-6)
