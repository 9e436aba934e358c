"""`viz --show`: a window with the prediction, in several modes selected by keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from fcnseg.files import safe_filename, shortened
from fcnseg.inference.outputs import Pace
from fcnseg.io import Window
from fcnseg.io.images import resize_image, write_image
from fcnseg.io.sources.base import MOVING, Frame, Source
from fcnseg.overwriting import mark
from fcnseg.progress import Callback, Message
from fcnseg.viz import View, show
from fcnseg.viz.drawing import Rgb, to_pixels
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.layout import Section, figure

MODES: dict[str, Callable[[View], Section]] = {
    "prediction": show.prediction,
    "heatmap": show.heatmaps,
    "confidence": show.confidence,
    "entropy": show.entropy_map,
    "runner-up": show.runner_up,
    "image": show.image,
}
"""The modes, in the order of the key m; the heatmap is that of one class."""

HELP = "m: mode, n p: class, + -: opacity, space: pause, f: next, b: back, s: save, q: quit"

_SCREEN = (720, 1280)
"""Maximum height and width of images, in pixels."""

_LEGIBLE = 640
"""Minimum width of images, in pixels, so that the help text fits."""

_STEP = 0.1  # of opacity

_MAX_HISTORY = 256 << 20
"""Bytes of past frames to go back to; at least the last two are kept."""


class LiveView:
    """Shows the frames of sources until the user ends it.

    out: the folder that the key s writes to.
    """

    def __init__(
        self, window: Window, figures: HeatmapFigures, out: Path, callback: Callback
    ) -> None:
        self._window, self._figures, self._out, self._callback = window, figures, out, callback
        self._modes = [name for name in MODES if name != "runner-up" or len(figures.chosen) > 1]
        self._mode, self._class = self._modes[0], 0
        self._paused = self._forward = self._moving = False
        self._view: View | None = None
        self._history: list[Frame] = []  # the newest last
        self._history_bytes = 0
        self._offset = 0  # of the frame on screen, counted back from the newest
        self._saved: list[Path] = []

    def show(self, source: Source) -> Iterator[list[Path]]:
        """Show a source; yield for each frame shown the files that were saved.

        Images stay until the user continues. The window closes after the last one.
        """
        try:
            yield from self._frames(source)
        finally:
            self._window.close()

    def _frames(self, source: Source) -> Iterator[list[Path]]:
        moving = self._moving = source.kind in MOVING
        # A video keeps its size: its key names all classes.
        self._figures = replace(self._figures, full_key=moving)
        pace = Pace()
        for frame in source:
            view = View(self._figures, frame)
            _ = view.predicted  # computed while the previous frame is on screen
            while source.kind == "video" and not (self._forward or self._is_over(source)):
                left = 0.05 if self._paused else pace.left(frame.time)
                if left <= 0:
                    break
                self._listen(left)
            if self._is_over(source):
                return
            self._forward, self._view, self._saved = False, view, []
            self._keep(frame)
            self._press(self._window.show(self._screen()))
            while (self._paused or not moving) and not (self._forward or self._is_over(source)):
                self._listen(0.05)
            yield self._saved
            if self._is_over(source):
                return

    def _keep(self, frame: Frame) -> None:
        """Add the newest frame to the history; drop the oldest if it takes too much memory."""
        self._history.append(frame)
        self._history_bytes += frame.nbytes
        self._offset = 0
        while len(self._history) > 2 and self._history_bytes > _MAX_HISTORY:
            self._history_bytes -= self._history.pop(0).nbytes

    def _turn(self, step: int) -> bool:
        """Show the previous (1) or next (-1) frame of the history; False if there is none."""
        if not 0 <= self._offset + step < len(self._history):
            return False
        self._offset += step
        self._view = View(self._figures, self._history[-1 - self._offset])
        return True

    def _is_over(self, source: Source) -> bool:
        """Whether the window is closed or the source stopped."""
        return self._window.ended or source.stopped

    def _listen(self, seconds: float) -> None:
        self._press(self._window.listen(min(50, max(1, round(seconds * 1000)))))

    def _press(self, key: str) -> None:
        """Handle keys and redraw after changes; unknown keys are ignored."""
        while self._changed_by(key):
            key = self._window.show(self._screen())

    def _changed_by(self, key: str) -> bool:
        """Handle a key; return whether the frame has to be redrawn."""
        if key == " ":
            self._paused = not self._paused
        elif key == "m":
            self._mode = self._modes[(self._modes.index(self._mode) + 1) % len(self._modes)]
        elif key in ("n", "p"):
            if self._mode == "heatmap":  # otherwise return to the last class shown
                step = 1 if key == "n" else -1
                self._class = (self._class + step) % len(self._figures.chosen)
            self._mode = "heatmap"
        elif key in ("+", "=", "-"):
            alpha = self._figures.alpha + (-_STEP if key == "-" else _STEP)
            self._figures = replace(self._figures, alpha=min(1.0, max(0.0, round(alpha, 2))))
        elif key == "b":
            stops = self._moving and not self._paused
            self._paused = self._paused or self._moving
            return self._turn(1) or stops
        elif key == "f" and self._offset:
            return self._turn(-1)
        else:
            self._forward = self._forward or key == "f"
            if key == "s":
                self._save()
            return False
        return True

    def _screen(self) -> Rgb:
        """Draw the frame in its mode, scaled to fit a screen, with the help text below."""
        height, width = self._current.frame.size
        fits = min(_SCREEN[0] / height, _SCREEN[1] / width, max(1.0, _LEGIBLE / width))
        state = f"opacity {self._figures.alpha:.1f}{', paused' * self._paused}"
        return self._page(fits, f"{HELP} ({state})")

    @property
    def _current(self) -> View:
        assert self._view is not None, "there is a frame on screen"
        return self._view.drawn_by(self._figures)

    def _page(self, factor: float = 1.0, foot: str = "") -> Rgb:
        """Draw the frame in its mode, scaled by `factor`."""
        view = self._current
        if self._mode == "heatmap":
            section = Section([show.heatmap(view, self._figures.chosen[self._class])])
        else:
            section = MODES[self._mode](view)
        height, width = (max(1, round(factor * length)) for length in view.frame.size)
        panels = [replace(t, image=resize_image(t.image, (height, width))) for t in section.panels]
        drawn = figure([replace(section, panels=panels)], width=width + 16, foot=foot)
        return to_pixels(drawn, self._figures.theme)

    def _save(self) -> None:
        """Save the frame at its own size, under an unused name."""
        mark(self._out)
        what = self._mode
        if what == "heatmap":
            name = self._current.name(self._figures.chosen[self._class])
            what = f"heatmap_{safe_filename(name)}"
        wanted = shortened(f"{self._current.frame.name}_{what}")
        path, number = self._out / f"{wanted}.png", 2
        while path.exists():
            path, number = self._out / f"{wanted}_{number}.png", number + 1
        write_image(path, self._page())
        self._saved.append(path)
        self._callback(Message(f"Saved {path}"))
