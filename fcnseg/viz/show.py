"""What `--show-what` can draw: SHOWN names each item; an item is one function of a View."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fcnseg.config import VizConfig
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import encode_image
from fcnseg.io.sources.base import Frame
from fcnseg.viz import attribution, items
from fcnseg.viz.drawing import to_pixels, to_vectors
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.inside import kernels, pyramid
from fcnseg.viz.layout import Section, figure
from fcnseg.viz.view import View

Item = Callable[[View], Section]

SHOWN: dict[str, Item] = {
    "image": items.image,
    "prediction": items.prediction,
    "labels": items.labels,
    "errors": items.errors,
    "runner-up": items.runner_up,
    "entropy": items.entropy_map,
    "confidence": items.confidence,
    "heatmaps": items.heatmaps,
    "scores": items.scores,
    "skips": items.skips,
    "gained": items.gained,
    "pyramid": pyramid,
    "gradcam": attribution.gradcam,
    "integrated": attribution.integrated,
    "channels": attribution.channels,
    "kernels": kernels,
}
"""Every item of --show-what: a new one is a function, a line here and a word in the option."""

NEED_LABELS = frozenset({"labels", "errors", "gained"})

NEED_TORCH = frozenset(
    {"scores", "skips", "gained", "pyramid", "gradcam", "integrated", "channels", "kernels"}
)

USE_AT = frozenset({"gradcam", "integrated", "scores", "skips", "kernels"})
"""Items about one class."""


@dataclass(frozen=True)
class ShownFigures:
    """Draws the items of --show-what: one figure for an image, or a file for each.

    wanted: names of SHOWN. format: png, svg or pdf. at: see View.
    """

    figures: HeatmapFigures
    wanted: tuple[str, ...]
    separate: bool = False
    format: str = "png"
    at: tuple[int, int] | None = None

    @classmethod
    def of(cls, segmenter: Segmenter, config: VizConfig) -> ShownFigures:
        """The figures that a config asks for; OptionError for an unknown class."""
        wanted = tuple(dict.fromkeys(config.show_what))
        figures = HeatmapFigures.of(segmenter, config)
        return cls(figures, wanted, config.separate, config.format, config.at)

    def images(self, frame: Frame) -> Iterator[tuple[str, bytes]]:
        """Every file of an image, with its name and content."""
        view = View(self.figures, frame, self.at)
        sections = [(name, SHOWN[name](view)) for name in self.wanted]
        if self.separate:
            for name, section in sections:
                yield f"{name}.{self.format}", self._file([section])
        else:
            yield f"figure.{self.format}", self._file([section for _, section in sections])

    def _file(self, sections: list[Section]) -> bytes:
        drawing, theme = figure(sections, width=self.figures.width), self.figures.theme
        if self.format == "png":
            return encode_image(to_pixels(drawing, theme))
        return to_vectors(drawing, theme, self.format)
