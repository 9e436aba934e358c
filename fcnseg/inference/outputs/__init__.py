"""Draw predictions and encode them as files: the registry of outputs."""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.config import InferConfig
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io import Window
from fcnseg.io.annotations.tools import (
    Annotations,
    Coco,
    Cvat,
    LabelStudio,
    as_geojson,
    as_labelme,
    as_yolo,
    class_list,
)
from fcnseg.io.draw import colorize, drawn_classes, legend, overlay
from fcnseg.io.images import encode_image, encode_labels
from fcnseg.io.sources.base import Frame


@dataclass(frozen=True)
class Renderer:
    """Draws and encodes predictions.

    alpha: opacity of the colors over the image. only: the classes that are drawn and whose
        probabilities are written, None: all (labels of other classes are 255 already).
    legend: add a legend at the right. simplify: see fcnseg.io.annotations.polygons.
    """

    classes: ClassMap
    alpha: float = 0.5
    only: Collection[int] | None = None
    legend: bool = False
    simplify: float = 0.0

    @classmethod
    def of(cls, config: InferConfig, classes: ClassMap) -> Renderer:
        """Create it from options; OptionError for an unknown class."""
        if config.palette is not None:
            classes = classes.with_palette(config.palette)
        only = frozenset(classes.index_of(name) for name in config.classes) or None
        return cls(classes, config.alpha, only, config.legend, config.simplify)

    @property
    def drawn(self) -> list[int]:
        """The classes in overlays and annotations: see fcnseg.io.draw."""
        return drawn_classes(self.classes, self.only)

    def overlay(self, frame: Frame, prediction: PredictedArrays) -> NDArray[np.uint8]:
        """The classes' colors over the frame, uint8 (H, W, 3) RGB."""
        return overlay(
            frame.image, prediction.labels, self.classes, alpha=self.alpha, only=self.only
        )

    def place(self, kind: str, frame: Frame) -> bytes | None:
        """The content of NAME.png.aux.xml beside an image, for frames with a georeference."""
        if kind != "labels" and (kind not in ("overlay", "color") or self.legend):
            return None
        found = frame.georeference
        return None if found is None else found.sidecar()

    def draw(self, kind: str, frame: Frame, prediction: PredictedArrays) -> NDArray[np.uint8]:
        """The image of a kind, uint8 (H, W, 3) RGB: "overlay", "color", or "side" (by side)."""
        if kind == "color":
            drawn = colorize(prediction.labels, self.classes)
        else:
            drawn = self.overlay(frame, prediction)
        if kind == "side":
            drawn = np.hstack([frame.image, drawn])
        if not self.legend:
            return drawn
        return np.hstack([drawn, self.legend_of(kind, drawn.shape[0])])

    def legend_of(self, kind: str, height: int) -> NDArray[np.uint8]:
        """The legend beside an image of a kind, with all classes that may be drawn."""
        everything = kind == "color" and self.only is None
        listed = range(len(self.classes)) if everything else self.drawn
        return _legend(self.classes, height, tuple(listed))

    def encode(self, kind: str, frame: Frame, prediction: PredictedArrays, path: Path) -> bytes:
        """Encode a file of a kind in OUTPUTS; path: where it will be written."""
        return OUTPUTS[kind].encode(self, frame, prediction, path)


@functools.lru_cache(maxsize=16)
def _legend(classes: ClassMap, height: int, only: tuple[int, ...]) -> NDArray[np.uint8]:
    """A legend, drawn once for the frames of a video."""
    return legend(classes, height=height, only=only)


def _image_of(kind: str) -> Callable[[Renderer, Frame, PredictedArrays, Path], bytes]:
    def encode(renderer: Renderer, frame: Frame, prediction: PredictedArrays, path: Path) -> bytes:
        return encode_image(renderer.draw(kind, frame, prediction), path.suffix, scratch=True)

    return encode


def _encode_probabilities(
    renderer: Renderer, _frame: Frame, prediction: PredictedArrays, _path: Path
) -> bytes:
    """An .npz with `probabilities` float16 (N, H, W) and `classes`, the names of the N planes."""
    assert prediction.probabilities is not None, "requested when the sink was planned"
    classes, only = renderer.classes, renderer.only
    planes = sorted(range(len(classes)) if only is None else only)
    values = prediction.probabilities[planes].astype(np.float16)
    file = io.BytesIO()
    np.savez(file, probabilities=values, classes=np.array([classes.names[i] for i in planes]))
    return file.getvalue()


class Output(NamedTuple):
    """A kind of file that is written for each frame: its suffix and its encoder.

    beside: name and encoder of one more file in their folder, for the classes.
    """

    suffix: str
    encode: Callable[[Renderer, Frame, PredictedArrays, Path], bytes]
    beside: tuple[str, Callable[[ClassMap], bytes]] | None = None


OUTPUTS = {
    "overlay": Output(".png", _image_of("overlay")),
    "side": Output(".png", _image_of("side")),
    "labels": Output(
        ".png", lambda how, _frame, found, _: encode_labels(found.labels, how.classes.palette())
    ),
    "color": Output(".png", _image_of("color")),
    "probabilities": Output(".npz", _encode_probabilities),
    "geojson": Output(
        ".geojson",
        lambda how, frame, found, _: as_geojson(
            found.labels,
            how.classes,
            how.drawn,
            tolerance=how.simplify,
            place=frame.georeference,
        ),
    ),
    "labelme": Output(
        ".json",
        lambda how, frame, found, path: as_labelme(
            found.labels, how.classes, how.drawn, frame=frame, tolerance=how.simplify, path=path
        ),
    ),
    "yolo": Output(
        ".txt",
        lambda how, _frame, found, _: as_yolo(found.labels, how.drawn, tolerance=how.simplify),
        ("classes.txt", class_list),
    ),
}
"""The outputs for each frame; to add one, write a function and add a line."""

SUFFIXES = {name: output.suffix for name, output in OUTPUTS.items()}
"""The file suffix of each output."""

TOOLS: Mapping[str, Callable[[ClassMap, Sequence[int], float], Annotations]] = {
    "coco": lambda classes, *_: Coco(classes),
    "cvat": Cvat,
    "labelstudio": LabelStudio,
}
"""The writers for annotation tools; to add one, add a line here and one in COMBINED."""

COMBINED = {"coco": "coco.json", "cvat": "annotations.xml", "labelstudio": "labelstudio.json"}
"""The outputs that are one file for all frames, and its name."""


class Pace:
    """Paces the display by a video's timestamps; if the network is slower, the clock is delayed."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began: float | None = None

    def left(self, seconds: float) -> float:
        """Seconds until a frame is due; 0 or less if it is due."""
        now = self._clock()
        if self._began is None or now > self._began + seconds:
            self._began = now - seconds
        return self._began + seconds - now


class WindowSink:
    """Shows each frame with its prediction until q or Esc is pressed or the window is closed.

    hold: keep the last image until then (single images). paced: show no frame before its time
    (videos), see Pace.
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

    def wait(self) -> None:
        """With `hold`, wait until the user closes the window."""
        while self._hold and self._window.shown and not self.ended:
            self._window.listen(50)

    def close(self) -> None:
        """Close the window."""
        self._window.close()

    def _speed(self) -> float:
        """Frames per second, from the time since the last one."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        return 1 / max(seconds, 1e-6)
