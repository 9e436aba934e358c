"""`viz --show`: a window in which keys choose what of the prediction is seen."""

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
"""What can be seen, in the order of the key m; of the heatmaps one class's."""

HELP = "m: mode, n p: class, + -: opacity, space: pause, f: next, b: back, s: save, q: quit"

_SCREEN = (720, 1280)
"""Height and width, in pixels, that images are brought to where they are larger."""

_LEGIBLE = 640
"""Pixels of width that smaller images are brought to, so that the keys' line fits."""

_STEP = 0.1  # of opacity

_KEPT = 256 << 20
"""Bytes of frames that one can go back to; the last two are kept however large they are."""


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
        self._past: list[Frame] = []  # the newest last
        self._held = 0  # bytes of them
        self._back = 0  # how far before the newest is seen
        self._saved: list[Path] = []

    def show(self, source: Source) -> Iterator[list[Path]]:
        """For each frame that was seen, the files saved of it.

        Images stay until the next is wanted. The window closes after the last one.
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
            _ = view.predicted  # while the frame before it is seen
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
        """The newest frame is seen; the oldest are forgotten where they take too much memory."""
        self._past.append(frame)
        self._held += frame.nbytes
        self._back = 0
        while len(self._past) > 2 and self._held > _KEPT:
            self._held -= self._past.pop(0).nbytes

    def _turn(self, step: int) -> bool:
        """See a frame before (1) or after (-1) the one that is seen; False where there is none."""
        if not 0 <= self._back + step < len(self._past):
            return False
        self._back += step
        self._view = View(self._figures, self._past[-1 - self._back])
        return True

    def _is_over(self, source: Source) -> bool:
        """Whether no more frames are wanted."""
        return self._window.ended or source.stopped

    def _listen(self, seconds: float) -> None:
        self._press(self._window.listen(min(50, max(1, round(seconds * 1000)))))

    def _press(self, key: str) -> None:
        """Do what keys stand for, drawing what they change; other keys do nothing."""
        while self._changed_by(key):
            key = self._window.show(self._screen())

    def _changed_by(self, key: str) -> bool:
        """Do what a key stands for; whether the frame looks different now."""
        if key == " ":
            self._paused = not self._paused
        elif key == "m":
            self._mode = self._modes[(self._modes.index(self._mode) + 1) % len(self._modes)]
        elif key in ("n", "p"):
            if self._mode == "heatmap":  # else the class that was seen last is seen again
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
        elif key == "f" and self._back:
            return self._turn(-1)
        else:
            self._forward = self._forward or key == "f"
            if key == "s":
                self._save()
            return False
        return True

    def _screen(self) -> Rgb:
        """The frame in its mode, as large as a screen has room for, with the keys below."""
        height, width = self._seen.frame.size
        fits = min(_SCREEN[0] / height, _SCREEN[1] / width, max(1.0, _LEGIBLE / width))
        state = f"opacity {self._figures.alpha:.1f}{', paused' * self._paused}"
        return self._page(fits, f"{HELP} ({state})")

    @property
    def _seen(self) -> View:
        assert self._view is not None, "keys come after the first frame"
        return self._view.drawn_by(self._figures)

    def _page(self, factor: float = 1.0, foot: str = "") -> Rgb:
        """The frame in the mode, its pixels as many as `factor` says."""
        view = self._seen
        if self._mode == "heatmap":
            section = Section([show.heatmap(view, self._figures.chosen[self._class])])
        else:
            section = MODES[self._mode](view)
        height, width = (max(1, round(factor * length)) for length in view.frame.size)
        tiles = [replace(t, image=resize_image(t.image, (height, width))) for t in section.tiles]
        drawn = figure([replace(section, tiles=tiles)], width=width + 16, foot=foot)
        return to_pixels(drawn, self._figures.theme)

    def _save(self) -> None:
        """The frame at its own size; under a name of its own, however often it is saved."""
        mark(self._out)
        what = self._mode
        if what == "heatmap":
            name = self._seen.name(self._figures.chosen[self._class])
            what = f"heatmap_{safe_filename(name)}"
        wanted = shortened(f"{self._seen.frame.name}_{what}")
        path, number = self._out / f"{wanted}.png", 2
        while path.exists():
            path, number = self._out / f"{wanted}_{number}.png", number + 1
        write_image(path, self._page())
        self._saved.append(path)
        self._callback(Message(f"Saved {path}"))
