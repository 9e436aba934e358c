"""Heatmaps and figures. Here: pages, images with titles in a grid and a scale of colours."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fcnseg.errors import shown
from fcnseg.io.draw import heatmap
from fcnseg.io.fonts import Font, font_for
from fcnseg.io.images import resize_image

Rgb = NDArray[np.uint8]

WIDEST = 2700
"""Pixels a page is wide at most, unless told otherwise."""

_PAPER = (24, 24, 24)

_INK = (240, 240, 240)

_FAINT = (165, 165, 165)

_GAP = 8

_SMALLEST, _LARGEST = 300, 640  # pixels: a tile narrower or wider than that is brought there

_PAGE_SHAPE = 1.6  # width by height that a grid aims at


@dataclass(frozen=True, eq=False)
class Tile:
    """One image of a page.

    image: uint8 (H, W, 3) RGB; all tiles of a page have one size.
    title: what it shows; note: a figure or two, written fainter behind it.
    color: RGB of the mark before the title; None: no mark.
    """

    image: Rgb
    title: str
    note: str = ""
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class Scale:
    """What the colours of a page mean: a bar with a label at each end.

    bar: uint8 (256, 3) RGB from the low end to the high one.
    """

    bar: Rgb
    low: str
    high: str
    meaning: str


def heat_scale(low: str, high: str, meaning: str) -> Scale:
    """The scale of `draw.heatmap`: its colours from 0 to 1."""
    black = np.zeros((1, 256, 3), np.uint8)
    bar = heatmap(black, np.linspace(0, 1, 256, dtype=np.float32)[None], alpha=1.0)
    return Scale(bar[0], low, high, meaning)


def signed_scale(low: str, high: str, meaning: str) -> Scale:
    """The scale of `signed_map`: its colours from -1 to 1."""
    return Scale(_diverging(), low, high, meaning)


def signed_map(image: Rgb, values: NDArray[np.floating], *, alpha: float = 0.75) -> Rgb:
    """float (H, W) values in -1..1 over a grey version of an RGB image.

    Blue takes away, red adds, white is nothing: the lightness is the same for both signs.
    """
    levels = np.clip((np.nan_to_num(values) + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    blended = (1 - alpha) * grey(image).astype(np.float32) + alpha * _diverging()[levels]
    return np.asarray(np.round(blended), np.uint8)


def grey(image: Rgb) -> Rgb:
    """An RGB image without its colours, which would be mistaken for those of a scale."""
    levels = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(np.round(levels).astype(np.uint8)[..., None], 3, axis=2)


def page(
    tiles: Sequence[Tile],
    *,
    scale: Scale | None = None,
    key: Sequence[tuple[str, tuple[int, int, int]]] = (),
    columns: int | None = None,
    width: int = WIDEST,
) -> Rgb:
    """Tiles in a grid, with the scale at the foot.

    key: names of classes and their colours, listed below the tiles.
    columns: how many tiles a row; without it, what makes the page about 16:10.
    width: pixels that the page is not wider than.
    """
    shape = tiles[0].image.shape[:2]
    count = columns or _columns(len(tiles), shape)
    size = _tile_size(shape, len(tiles), (width - _GAP) // count - _GAP)
    text = int(np.clip(size[1] / 24, 13, 28))
    drawn = [_tile(tile, size, text) for tile in tiles]
    parts = [_row(drawn[start : start + count]) for start in range(0, len(drawn), count)]
    if key:
        parts.append(_key(key, text, parts[0].shape[1]))
    if scale is not None:
        parts.append(_foot(scale, text, parts[0].shape[1]))
    return _stack(parts)


def _tile_size(size: tuple[int, ...], count: int, widest: int) -> tuple[int, int]:
    """(height, width) of the images on the page: legible, and not larger than needed."""
    height, width = size[0], size[1]
    largest = _LARGEST if count > 4 else 2 * _LARGEST
    wanted = min(max(width, _SMALLEST), largest, widest)
    factor = min(wanted / width, largest / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _columns(count: int, size: tuple[int, ...]) -> int:
    """The columns whose page is nearest to its shape, of those that leave the fewest holes."""

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = columns * size[1] / (rows * size[0] * 1.1)  # a tenth for the titles
        return abs(math.log(shape / _PAGE_SHAPE)) + (rows * columns - count) / count

    return min(range(1, count + 1), key=badness)


def _tile(tile: Tile, size: tuple[int, int], text: int) -> Rgb:
    strip = Image.new("RGB", (size[1], round(text * 1.7)), _PAPER)
    pen = ImageDraw.Draw(strip)
    left, top = 0, round(text * 0.25)
    if tile.color is not None:
        box = (0, top + text // 8, text, top + text // 8 + text)
        pen.rectangle(box, fill=tile.color, outline=_FAINT)
        left = round(text * 1.5)
    font = font_for(tile.title, text)
    title = _fitting(tile.title, size[1] - left, font)
    pen.text((left, top), title, fill=_INK, font=font)
    left += round(font.getlength(title) + text * 0.7)
    said = shown(tile.note)
    note = font_for(said, round(text * 0.85))
    if said and left + note.getlength(said) <= size[1]:
        pen.text((left, top + text * 0.12), said, fill=_FAINT, font=note)
    return np.vstack([np.asarray(strip), resize_image(tile.image, size)])


def _key(key: Sequence[tuple[str, tuple[int, int, int]]], text: int, width: int) -> Rgb:
    """Colours with their names, in as many lines as they need."""
    font = font_for("".join(name for name, _ in key), text)
    line, places = round(text * 1.7), []
    left = top = 0
    for name, color in key:
        title = _fitting(name, width - 2 * text, font)
        needed = round(font.getlength(title)) + round(text * 1.4)
        if left and left + needed > width:
            left, top = 0, top + line
        places.append((left, top, title, color))
        left += needed + text
    strip = Image.new("RGB", (width, top + line), _PAPER)
    pen = ImageDraw.Draw(strip)
    for left, top, title, color in places:
        above = top + round(text * 0.25) + text // 8
        pen.rectangle((left, above, left + text, above + text), fill=color, outline=_FAINT)
        pen.text((left + round(text * 1.4), top + text * 0.25), title, fill=_INK, font=font)
    return np.asarray(strip)


def _foot(scale: Scale, text: int, width: int) -> Rgb:
    """low [bar] high  meaning."""
    font = font_for(scale.low + scale.high + scale.meaning, text)
    height = round(text * 1.9)
    bar_width = int(min(width * 0.4, 420))
    strip = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(strip)
    top = round(text * 0.35)
    pen.text((0, top), scale.low, fill=_INK, font=font)
    left = round(font.getlength(scale.low) + text * 0.5)
    bar = resize_image(scale.bar[None], (text, bar_width))
    strip.paste(Image.fromarray(bar), (left, top + text // 8))
    left += bar_width + text // 2
    pen.text((left, top), scale.high, fill=_INK, font=font)
    left += round(font.getlength(scale.high) + text)
    pen.text((left, top), _fitting(scale.meaning, width - left, font), fill=_FAINT, font=font)
    return np.asarray(strip)


def _row(tiles: Sequence[Rgb]) -> Rgb:
    gap = _paper(tiles[0].shape[0], _GAP)
    return np.hstack([part for tile in tiles for part in (tile, gap)][:-1])


def _stack(parts: Sequence[Rgb]) -> Rgb:
    """The parts one under another, left aligned, with a margin all round."""
    width = max(part.shape[1] for part in parts) + 2 * _GAP
    page = [_paper(_GAP, width)]
    for part in parts:
        line = _paper(part.shape[0], width)
        line[:, _GAP : _GAP + part.shape[1]] = part
        page += [line, _paper(_GAP, width)]
    return np.vstack(page)


def _fitting(text: str, width: float, font: Font) -> str:
    """The text, or as much of it as the width holds and an ellipsis."""
    text = shown(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _paper(height: int, width: int) -> Rgb:
    return np.full((height, width, 3), _PAPER, np.uint8)


@functools.cache
def _diverging() -> Rgb:
    """(256, 3) RGB: blue, white, red, as in Crameri's "vik": even and safe for colour-blind."""
    anchors = np.array(
        [
            *((0, 18, 97), (30, 111, 157), (154, 197, 213), (247, 244, 240)),
            *((222, 170, 142), (187, 87, 36), (89, 0, 8)),
        ],
        np.float64,
    )
    at = np.linspace(0, 255, len(anchors))
    table = np.stack([np.interp(np.arange(256), at, anchors[:, c]) for c in range(3)], axis=1)
    return np.round(table).astype(np.uint8)
