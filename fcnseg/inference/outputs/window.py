"""Predictions in a window, as they come."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from fcnseg.inference.outputs import Renderer
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io import Window
from fcnseg.io.sources.base import Frame


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
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return 1 / max(seconds, 1e-6)
