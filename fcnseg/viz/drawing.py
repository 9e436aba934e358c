"""Drawings of text, boxes and images, as pixels, SVG or PDF; color scales."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fcnseg.errors import MissingExtra, printable
from fcnseg.io.draw import Font, font_for, heatmap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rgb = NDArray[np.uint8]

Mask = NDArray[np.bool_]

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Theme:
    """RGB colors, 0..255: background, text, and secondary text."""

    paper: Color
    ink: Color
    faint: Color


THEMES = {
    "dark": Theme((24, 24, 24), (240, 240, 240), (165, 165, 165)),
    "light": Theme((255, 255, 255), (20, 20, 20), (95, 95, 95)),
}


@dataclass(frozen=True)
class TextLine:
    """A line of text: its upper left corner, and its size in pixels."""

    left: float
    top: float
    text: str
    size: int
    faint: bool = False


@dataclass(frozen=True)
class Box:
    """A filled rectangle with a thin border."""

    left: float
    top: float
    width: float
    height: float
    color: Color


@dataclass(frozen=True, eq=False)
class Raster:
    """An image, uint8 (H, W, 3) RGB, not resampled."""

    left: float
    top: float
    image: Rgb


Mark = TextLine | Box | Raster


@dataclass(frozen=True, eq=False)
class Block:
    """Marks on an area of width x height pixels."""

    width: int
    height: int
    marks: tuple[Mark, ...] = ()

    def at(self, left: float, top: float) -> tuple[Mark, ...]:
        """The marks of the block, moved to its position on a larger one."""
        return tuple(replace(m, left=m.left + left, top=m.top + top) for m in self.marks)


def image_block(image: Rgb) -> Block:
    """A block with an image."""
    return Block(image.shape[1], image.shape[0], (Raster(0, 0, image),))


def hstack(blocks: Sequence[Block], gap: int) -> Block:
    """Stack blocks from left to right, aligned at the top."""
    marks: list[Mark] = []
    left = 0
    for block in blocks:
        marks += block.at(left, 0)
        left += block.width + gap
    return Block(max(0, left - gap), max(block.height for block in blocks), tuple(marks))


def vstack(blocks: Sequence[Block], gap: int) -> Block:
    """Stack blocks from top to bottom, aligned at the left."""
    marks: list[Mark] = []
    top = 0
    for block in blocks:
        marks += block.at(0, top)
        top += block.height + gap
    return Block(max(block.width for block in blocks), max(0, top - gap), tuple(marks))


def with_margin(block: Block, margin: int) -> Block:
    """A block with a margin on all sides."""
    size = block.width + 2 * margin, block.height + 2 * margin
    return Block(*size, block.at(margin, margin))


def width_of(text: str, size: int) -> float:
    """The width of a line of text, in pixels."""
    return font_for(text, size).getlength(text)


def wrapped(text: str, width: float, size: int) -> list[str]:
    """Wrap a text into lines of at most `width` pixels, between words if possible."""
    lines: list[str] = []
    line = ""
    for word in printable(text).split():
        longer = f"{line} {word}" if line else word
        if width_of(longer, size) <= width:
            line = longer
            continue
        lines += [line] * bool(line)
        while width_of(word, size) > width and len(word) > 1:
            fitting = max(1, sum(width_of(word[: i + 1], size) <= width for i in range(len(word))))
            lines.append(word[:fitting])
            word = word[fitting:]
        line = word
    return [*lines, *[line] * bool(line)]


def truncate(text: str, width: float, size: int) -> str:
    """Shorten a text with an ellipsis to at most `width` pixels."""
    text = printable(text)
    if width_of(text, size) <= width:
        return text
    while text and width_of(text + "...", size) > width:
        text = text[:-1]
    return text + "..."


def to_pixels(block: Block, theme: Theme) -> Rgb:
    """Render a drawing as uint8 (H, W, 3) RGB."""
    sheet = Image.new("RGB", (block.width, block.height), theme.paper)
    pen = ImageDraw.Draw(sheet)
    for mark in block.marks:
        if isinstance(mark, Raster):
            sheet.paste(Image.fromarray(mark.image), (round(mark.left), round(mark.top)))
        elif isinstance(mark, Box):
            right, bottom = mark.left + mark.width, mark.top + mark.height
            corners = (mark.left, mark.top, right, bottom)
            pen.rectangle(corners, fill=mark.color, outline=theme.faint)
        else:
            color = theme.faint if mark.faint else theme.ink
            font = font_for(mark.text, mark.size)
            pen.text((mark.left, mark.top), mark.text, fill=color, font=font)
    return np.asarray(sheet)


_DPI = 100  # pixels per inch


def require_vectors() -> None:
    """MissingExtra when SVG and PDF can't be written."""
    if find_spec("matplotlib") is None:
        raise MissingExtra("A figure as SVG or PDF", "report")


def to_vectors(block: Block, theme: Theme, kind: str) -> bytes:
    """Render a drawing as an "svg" or "pdf" file, with text and boxes as vectors.

    The output is deterministic. MissingExtra without matplotlib.
    """
    require_vectors()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    paper = _unit(theme.paper)
    figure = Figure((block.width / _DPI, block.height / _DPI), dpi=_DPI, facecolor=paper)
    for mark in block.marks:
        _draw(figure, mark, block, theme)
    out = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"CreationDate": None}
    with mpl.rc_context({"svg.hashsalt": "fcnseg", "svg.image_inline": True}):
        figure.savefig(out, format=kind, facecolor=paper, metadata=metadata)
    return out.getvalue()


def _draw(figure: Figure, mark: Mark, block: Block, theme: Theme) -> None:
    from matplotlib.patches import Rectangle

    left = mark.left / block.width
    if isinstance(mark, Raster):
        height, width = mark.image.shape[:2]
        bottom = 1 - (mark.top + height) / block.height
        place = (left, bottom, width / block.width, height / block.height)
        axes = figure.add_axes(place, frameon=False, xticks=[], yticks=[])
        axes.imshow(mark.image, aspect="auto", interpolation="none")
    elif isinstance(mark, Box):
        bottom = 1 - (mark.top + mark.height) / block.height
        size = mark.width / block.width, mark.height / block.height
        box = Rectangle((left, bottom), *size, facecolor=_unit(mark.color), linewidth=0.5)
        box.set(edgecolor=_unit(theme.faint), transform=figure.transFigure, figure=figure)
        figure.patches.append(box)
    elif mark.text.strip():
        _write(figure, mark, (left, 1 - mark.top / block.height), theme)


def _write(figure: Figure, words: TextLine, place: tuple[float, float], theme: Theme) -> None:
    """Draw a line of text, not wider than in pixels, because SVG and PDF use other fonts."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = font_for(words.text, words.size)
    file = _file_of(font)
    family = FontProperties() if file is None else FontProperties(fname=file)
    text = words.text.replace("$", r"\$")  # matplotlib would parse it as a formula
    drawn = TextPath((0, 0), text, size=words.size, prop=family).get_extents().width
    smaller = min(1.0, font.getlength(words.text) / max(drawn, 1e-6))
    figure.text(
        *place,
        text,
        fontproperties=family,
        fontsize=words.size * smaller * 72 / _DPI,
        color=_unit(theme.faint if words.faint else theme.ink),
        verticalalignment="top",
    )


def _file_of(font: Font) -> str | None:
    """The file of an installed font; None for Pillow's built-in font."""
    path = getattr(font, "path", None)
    return path if isinstance(path, str) and path else None


def _unit(color: Color) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255


@dataclass(frozen=True, eq=False)
class Scale:
    """A color scale: a color bar with a label at each end.

    bar: uint8 (256, 3) RGB from the low end to the high end.
    """

    bar: Rgb
    low: str
    high: str
    meaning: str


def heat_scale(
    low: str, high: str, meaning: str, *, image: Rgb | None = None, alpha: float = 1.0
) -> Scale:
    """The scale of `draw.heatmap`, from 0 to 1.

    image: uint8 (H, W, 3) RGB under the heatmap, blended with this alpha: colors are shown as over
    its median lightness.
    """
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    bar = heatmap(_middle_of(image), values, alpha=alpha)
    return Scale(bar[0], low, high, meaning)


def signed_scale(low: str, high: str, meaning: str, *, image: Rgb | None = None) -> Scale:
    """The scale of `signed_map`, from -1 to 1. image: under the map, as in heat_scale."""
    values, alpha = np.linspace(-1, 1, 256)[None], 1.0 if image is None else _SIGNED_ALPHA
    return Scale(signed_map(_middle_of(image), values, alpha=alpha)[0], low, high, meaning)


def _middle_of(image: Rgb | None) -> Rgb:
    """(1, 256, 3): the median grey of an image, from a sample of its pixels; black without one."""
    step = 1 if image is None else max(1, min(image.shape[:2]) // 64)
    level = 0 if image is None else int(np.median(grey(image[::step, ::step])))
    return np.full((1, 256, 3), level, np.uint8)


_SIGNED_ALPHA = 0.75


def signed_map(image: Rgb, values: NDArray[np.floating], *, alpha: float = _SIGNED_ALPHA) -> Rgb:
    """Draw float values (H, W) in -1..1 over a grey version of an RGB image.

    Negative values are blue, positive red, zero white, with the same lightness for both signs.
    """
    levels = np.clip((np.nan_to_num(values) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    blended = (1 - alpha) * grey(image).astype(np.float32) + alpha * _diverging()[levels]
    return np.asarray(np.round(blended), np.uint8)


def grey(image: Rgb) -> Rgb:
    """An RGB image converted to grey, so that its colors are not mistaken for those of a scale."""
    levels = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(np.round(levels).astype(np.uint8)[..., None], 3, axis=2)


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalised entropy of probabilities (K, H, W): float32 (H, W), 0 one class, 1 uniform."""
    if len(probabilities) == 1:
        return np.zeros(probabilities.shape[1:], np.float32)
    bits = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
    return np.asarray(bits / np.log(len(probabilities)), np.float32)


@functools.cache
def _diverging() -> Rgb:
    """(256, 3) RGB: blue, white, red, like Crameri's "vik": uniform and safe for color blindness.

    The ends are lighter than vik's, because single pixels of either would look black.
    """
    anchors = np.array(
        [
            *((0, 62, 150), (45, 125, 178), (154, 197, 213), (247, 244, 240)),
            *((222, 170, 142), (196, 92, 42), (150, 26, 10)),
        ],
        np.float64,
    )
    at = np.linspace(0, 255, len(anchors))
    table = np.stack([np.interp(np.arange(256), at, anchors[:, c]) for c in range(3)], axis=1)
    return np.round(table).astype(np.uint8)
