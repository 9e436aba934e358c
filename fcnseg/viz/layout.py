"""Layout of panels with captions, color scales and keys: in grids, one below another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fcnseg.errors import printable
from fcnseg.io.images import resize_image
from fcnseg.viz import Panel
from fcnseg.viz.drawing import (
    THEMES,
    Block,
    Box,
    Color,
    Mark,
    Raster,
    Rgb,
    Scale,
    TextLine,
    Theme,
    hstack,
    image_block,
    to_pixels,
    truncate,
    vstack,
    width_of,
    with_margin,
    wrapped,
)

WIDEST = 2700
"""Default maximum width of a page, in pixels."""

_GAP = 8

_SMALLEST, _LARGEST = 300, 640  # pixels: range of a panel's width

LARGEST_PANEL = 2 * _LARGEST
"""Maximum width and height of a panel, in pixels, on pages with few of them."""

_PAGE_SHAPE = 1.6  # preferred width / height of a grid

Key = Sequence[tuple[str, Color]]
"""Names and their colors."""


@dataclass(frozen=True, eq=False)
class Section:
    """Panels of the same size that belong together.

    heading: above them; without it they are in one grid with the panels before and after.
    keys: the meaning of colors, by title ("classes", "errors").
    columns: panels per row; None: chosen for an aspect ratio of about 16:10.
    as_drawn: images keep their size if the figure is wide enough, for those with text.
    """

    panels: Sequence[Panel]
    heading: str = ""
    keys: Mapping[str, Key] = field(default_factory=dict)
    columns: int | None = None
    as_drawn: bool = False


def page(
    panels: Sequence[Panel],
    *,
    scale: Scale | None = None,
    key: Key = (),
    columns: int | None = None,
    width: int = WIDEST,
    theme: Theme = THEMES["dark"],
    fixed: bool = False,
) -> Rgb:
    """Draw panels in a grid, with the key and the scale at the bottom.

    key: names of classes and their colors, listed below the panels.
    columns: panels per row; None: chosen for an aspect ratio of about 16:10.
    width: maximum width of the page, in pixels.
    fixed: captions have exactly one line, so that pages of a video keep their size.
    """
    count = columns or _columns(len(panels), panels[0].image.shape)
    size = _panel_size(panels[0].image.shape, len(panels), (width - _GAP) // count - _GAP)
    text = _text_size(size)
    grid = _grid(panels, count, size, text, fixed=fixed)
    parts = [grid]
    if key:
        parts.append(_key("", key, text, grid.width))
    if scale is not None:
        parts.append(_scale(scale, text, grid.width, fixed=fixed))
    return to_pixels(with_margin(vstack(parts, _GAP), _GAP), theme)


def figure(sections: Sequence[Section], *, width: int = WIDEST, foot: str = "") -> Block:
    """Draw sections one below another, with all keys and a text (foot) at the bottom."""
    groups = _in_columns(_grouped(sections))
    text = max(_text_size(_size_of(group, width)) for group in groups)
    parts: list[Block] = []
    for group in groups:
        if group.heading:
            parts.append(_heading(group.heading, text, width - 2 * _GAP))
        count = group.columns or len(group.panels)
        parts.append(_grid(group.panels, count, _size_of(group, width), text))
    widest = max(part.width for part in parts)
    parts += [_key(title, key, text, widest) for title, key in _keys(sections).items()]
    if foot:
        parts.append(_heading(foot, round(text * 0.65), widest))
    return with_margin(vstack(parts, _GAP), _GAP)


def _grouped(sections: Sequence[Section]) -> list[Section]:
    """Merge adjacent sections without a heading if their images have the same shape."""
    groups: list[Section] = []
    for section in sections:
        last = groups[-1] if groups else None
        shapes = {panel.image.shape for each in (last, section) if each for panel in each.panels}
        if last is not None and not last.heading + section.heading and len(shapes) == 1:
            groups[-1] = Section([*last.panels, *section.panels])
        else:
            groups.append(section)
    return groups


def _in_columns(groups: list[Section]) -> list[Section]:
    """Set the columns of sections; those without a number use the width of the widest one."""
    best = [
        each.columns or _columns(len(each.panels), each.panels[0].image.shape) for each in groups
    ]
    return [
        each if each.columns else replace(each, columns=min(len(each.panels), max(best)))
        for each in groups
    ]


def _keys(sections: Sequence[Section]) -> dict[str, Key]:
    """All keys of the sections; those with the same title are merged, without duplicates."""
    joined: dict[str, dict[tuple[str, Color], None]] = {}
    for title, key in itertools.chain.from_iterable(each.keys.items() for each in sections):
        joined.setdefault(title, {}).update(dict.fromkeys(key))
    return {title: list(key) for title, key in joined.items() if key}


def _size_of(section: Section, width: int) -> tuple[int, int]:
    shape, number = section.panels[0].image.shape, len(section.panels)
    count = section.columns or number
    if section.as_drawn:
        factor = min(1.0, ((width - _GAP) // count - _GAP) / shape[1])
        return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
    return _panel_size(shape, number, (width - _GAP) // count - _GAP)


def _text_size(size: tuple[int, int]) -> int:
    return int(np.clip(size[1] / 24, 14, 28))  # below 14 the spaces in notes are hardly visible


def _panel_size(size: tuple[int, ...], count: int, widest: int) -> tuple[int, int]:
    """(height, width) of the images on the page: legible, but not unnecessarily large."""
    height, width = size[0], size[1]
    largest = _LARGEST if count > 4 else LARGEST_PANEL
    wanted = min(max(width, _SMALLEST), largest, widest)
    factor = min(wanted / width, largest / height)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _columns(count: int, size: tuple[int, ...]) -> int:
    """The number of columns that gives about _PAGE_SHAPE with few empty cells."""

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = columns * size[1] / (rows * size[0] * 1.1)  # a tenth for the titles
        return abs(math.log(shape / _PAGE_SHAPE)) + (rows * columns - count) / count

    return min(range(1, count + 1), key=badness)


def _grid(
    panels: Sequence[Panel], columns: int, size: tuple[int, int], text: int, *, fixed: bool = False
) -> Block:
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return vstack([_row(row, size, text, fixed=fixed) for row in rows], _GAP)


def _row(panels: Sequence[Panel], size: tuple[int, int], text: int, *, fixed: bool) -> Block:
    """A row of panels with their images aligned, whatever the height of their captions."""
    captions = [_caption(panel, size[1], text, fixed=fixed) for panel in panels]
    tallest = max(caption.height for caption in captions)
    columns = []
    for panel, caption in zip(panels, captions, strict=True):
        above = Block(size[1], tallest, caption.at(0, tallest - caption.height))
        parts = [above, image_block(resize_image(panel.image, size))]
        if panel.scale is not None:
            parts.append(_scale(panel.scale, text, size[1]))
        columns.append(vstack(parts, 0))
    return hstack(columns, _GAP)


def _caption(panel: Panel, width: int, text: int, *, fixed: bool) -> Block:
    """The title with its square, and the note after it or, if it does not fit, below."""
    marks: list[Mark] = []
    left, top = 0, round(text * 0.25)
    if panel.color is not None:
        marks.append(Box(0, top + text // 8, text, text, panel.color))
        left = round(text * 1.5)
    room, small = width - left, round(text * 0.85)
    titles = wrapped(panel.title, room, text) or [""]
    titles = [truncate(panel.title, room, text)] if fixed else titles
    marks += [TextLine(left, top + i * _line(text), line, text) for i, line in enumerate(titles)]
    bottom = top + (len(titles) - 1) * _line(text)
    note = printable(panel.note)
    behind = left + round(width_of(titles[-1], text) + text * 0.7)
    if note and behind + width_of(note, small) <= width:
        marks.append(TextLine(behind, bottom + text * 0.12, note, small, faint=True))
    elif note and not fixed:
        for line in wrapped(note, room, small):
            bottom += _line(text)
            marks.append(TextLine(left, bottom, line, small, faint=True))
    return Block(width, bottom - top + round(text * 1.7), tuple(marks))


def _line(text: int) -> int:
    """Line height in pixels."""
    return round(text * 1.3)


def _heading(heading: str, text: int, width: int) -> Block:
    size = round(text * 1.25)
    lines = wrapped(heading, width, size)
    marks = [TextLine(0, text * 0.6 + i * _line(size), line, size) for i, line in enumerate(lines)]
    room = max(width_of(line, size) for line in lines)
    return Block(math.ceil(room), round(text * 0.6) + len(lines) * _line(size), tuple(marks))


def _key(title: str, key: Key, text: int, width: int) -> Block:
    """Colors with their names, wrapped into lines."""
    line = round(text * 1.7)
    marks: list[Mark] = []
    top, indent = 0, 0
    if title:
        marks.append(TextLine(0, text * 0.25, title, text, faint=True))
        indent = round(width_of(title, text)) + text
    left = indent
    for name, color in key:
        label = truncate(name, width - indent - 2 * text, text)
        needed = round(width_of(label, text)) + round(text * 1.4)
        if left > indent and left + needed > width:
            left, top = indent, top + line
        above = top + round(text * 0.25)
        marks.append(Box(left, above + text // 8, text, text, color))
        marks.append(TextLine(left + round(text * 1.4), above, label, text))
        left += needed + text
    return Block(width, top + line, tuple(marks))


def _scale(scale: Scale, text: int, width: int, *, fixed: bool = False) -> Block:
    """low [bar] high  meaning; the meaning is below if it does not fit."""
    top, long = round(text * 0.35), int(min(width * 0.4, 420))
    left = round(width_of(scale.low, text) + text * 0.5)
    bar = resize_image(scale.bar[None], (text, long))
    marks: list[Mark] = [TextLine(0, top, scale.low, text), Raster(left, top + text // 8, bar)]
    left += long + text // 2
    marks.append(TextLine(left, top, scale.high, text))
    left += round(width_of(scale.high, text) + text)
    bottom = top
    meaning = truncate(scale.meaning, width - left, text) if fixed else printable(scale.meaning)
    if left + width_of(meaning, text) <= width:
        marks.append(TextLine(left, top, meaning, text, faint=True))
    else:
        for line in wrapped(scale.meaning, width, text):
            bottom += _line(text)
            marks.append(TextLine(0, bottom, line, text, faint=True))
    return Block(width, bottom - top + round(text * 1.9), tuple(marks))
