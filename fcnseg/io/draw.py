"""Draw labels in color, overlays, heatmaps, captions and legends.

Inputs and outputs are uint8 RGB. Coloring uses a lookup table and blending is in integers, as both
run for every frame of a video.

ASCII text uses Pillow's built-in font, the same on every machine. For other scripts fontconfig
lists the characters of each font; without it, the system's font folders are searched and each font
is tested for the required glyphs.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fcnseg.classes import IGNORE, ClassMap
from fcnseg.errors import printable, user_path
from fcnseg.io import cv2
from fcnseg.io.images import resize_image

_PAPER = (24, 24, 24)

_INK = (240, 240, 240)

_GAP = 4  # pixels between images in a row

_MANY = 1 << 26  # bytes; larger images are drawn in strips of _ROWS

_ROWS = 1024


def colorize(labels: NDArray[np.uint8], classes: ClassMap) -> NDArray[np.uint8]:
    """Labels uint8 (H, W) in their classes' colors, (H, W, 3) RGB."""
    table = classes.palette().reshape(256, 1, 3)
    return np.asarray(cv2.applyColorMap(labels, table), np.uint8)


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    classes: ClassMap,
    *,
    alpha: float = 0.5,
    only: Collection[int] | None = None,
) -> NDArray[np.uint8]:
    """Blend the classes' colors over an RGB image of the labels' size.

    alpha: opacity of the colors, 0..1.
    only: the class indices to draw; None draws all but the background. Pixels of other classes,
        and those labeled 255, show the image unchanged.
    """
    drawn, wanted = None, drawn_classes(classes, only)
    if len(wanted) < len(classes) or labels.max() == IGNORE:
        drawn = np.isin(np.arange(256), wanted)
    if image.size <= _MANY:
        return _blend(image, labels, classes, alpha, drawn)
    result = np.empty_like(image)
    for top in range(0, len(image), _ROWS):
        part = slice(top, top + _ROWS)
        result[part] = _blend(image[part], labels[part], classes, alpha, drawn)
    return result


def drawn_classes(classes: ClassMap, only: Collection[int] | None = None) -> list[int]:
    """The class indices that an overlay draws: those of `only`, or all but the background.

    The background is drawn if it is the only class.
    """
    found = range(len(classes)) if only is None else sorted(only)
    background = classes.background if only is None and len(classes) > 1 else None
    return [index for index in found if index != background]


def _blend(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    classes: ClassMap,
    alpha: float,
    drawn: NDArray[np.bool_] | None,
) -> NDArray[np.uint8]:
    """The overlay at labels for which `drawn` (256,) is true; None draws it everywhere."""
    blended = np.asarray(
        cv2.addWeighted(image, 1 - alpha, colorize(labels, classes), alpha, 0), np.uint8
    )
    if drawn is None:
        return blended
    bare = cv2.LUT(labels, np.where(drawn, 0, 255).astype(np.uint8))
    return np.asarray(cv2.copyTo(image, bare, blended), np.uint8)


def heatmap(
    image: NDArray[np.uint8], values: NDArray[np.floating], *, alpha: float = 0.6
) -> NDArray[np.uint8]:
    """Blend float (H, W) values in 0..1 over an RGB image, in the colors of inferno.

    Values are clipped to the range; NaN counts as 0.
    """
    levels = (np.nan_to_num(np.clip(values, 0, 1)) * 255 + 0.5).astype(np.uint8)
    colors = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(image, 1 - alpha, colors, alpha, 0), np.uint8)


def side_by_side(
    images: Sequence[NDArray[np.uint8]], *, columns: int | None = None
) -> NDArray[np.uint8]:
    """RGB images in a row, or in rows of `columns`, scaled to the height of the first."""
    height = images[0].shape[0]
    row_length = columns or len(images)
    same = [
        resize_image(image, (height, max(1, round(image.shape[1] * height / image.shape[0]))))
        for image in images
    ]
    rows = [_row(same[start : start + row_length]) for start in range(0, len(same), row_length)]
    width = max(row.shape[1] for row in rows)
    filled = [np.hstack([row, _paper(len(row), width - row.shape[1])]) for row in rows]
    return np.vstack([part for row in filled for part in (row, _paper(_GAP, width))][:-1])


def caption(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """An RGB image with a line of text in a strip above it; the text is cropped to the width."""
    height, width = image.shape[:2]
    size = int(np.clip(height / 22, 12, 28))
    strip = Image.new("RGB", (width, round(size * 1.6)), _PAPER)
    text = printable(text)
    ImageDraw.Draw(strip).text((size // 2, size // 5), text, fill=_INK, font=font_for(text, size))
    return np.vstack([np.asarray(strip), image])


_LINE = 24  # default height of a legend's line in pixels

_LEAST_LINE = 14  # minimum readable height; more lines go to further columns


def legend(
    classes: ClassMap, *, height: int | None = None, only: Collection[int] | None = None
) -> NDArray[np.uint8]:
    """A panel with each class's color and name, RGB.

    height: pixels; None for the natural height. Lines shrink to fit, down to a readable size;
        after that, columns are added.
    only: the class indices to list, in the class map's order; None lists all.
    """
    listed = [index for index in range(len(classes)) if only is None or index in only]
    rows = max(1, len(listed))
    line = _LINE if height is None else max(8, min(_LINE, max(_LEAST_LINE, height // rows), height))
    fitting = rows if height is None else max(1, height // line)
    parts = [listed[start : start + fitting] for start in range(0, len(listed), fitting)] or [[]]
    height = height or line * rows
    return np.hstack([_legend_column(classes, part, line, height) for part in parts])


def _legend_column(
    classes: ClassMap, listed: Sequence[int], line: int, height: int
) -> NDArray[np.uint8]:
    names = [printable(classes.names[index]) for index in listed]
    fonts = [font_for(name, max(7, line * 2 // 3)) for name in names]
    lengths = [int(font.getlength(name)) for font, name in zip(fonts, names, strict=True)]
    width = 2 * line + max(lengths, default=0)
    panel = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(panel)
    for row, index in enumerate(listed):
        top, edge = row * line, line // 5
        box = (edge, top + edge, line - edge, top + line - edge)
        pen.rectangle(box, fill=tuple(classes.colors[index].tolist()))
        pen.text((line + edge, top + edge // 2), names[row], fill=_INK, font=fonts[row])
    return np.asarray(panel).copy()


def _row(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = _paper(images[0].shape[0], _GAP)
    return np.hstack([part for image in images for part in (image, gap)][:-1])


def _paper(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), _PAPER, np.uint8)


def fit_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale an RGB image to fit (height, width), keeping its aspect ratio, with black borders."""
    factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, min(size[i], round(image.shape[i] * factor))) for i in (0, 1))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[top : top + height, left : left + width] = resize_image(image, (height, width))
    return canvas


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": (r"%WINDIR%\Fonts", r"%LOCALAPPDATA%\Microsoft\Windows\Fonts"),
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
}
_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_PLAIN = (
    *("dejavusans.", "notosans-regular", "notosanscjk-regular", "liberationsans-regular"),
    *("arial.", "arial unicode.", "arialuni."),
)
"""File names of fonts that are preferred among those that cover a text equally."""
_STYLED = re.compile(r"bold|italic|oblique|mono|serif|condensed|light|thin|black", re.IGNORECASE)

_NO_CHARACTER = "\U0010ffff"
"""A noncharacter: fonts draw it with the glyph for missing characters."""


@dataclass(frozen=True)
class _Face:
    """An installed font. starts, ends: its sorted ranges of characters; None if unknown."""

    path: str
    index: int = 0
    starts: tuple[int, ...] | None = None
    ends: tuple[int, ...] = ()

    def covered(self, characters: Collection[str]) -> int:
        """Number of these characters that it contains."""
        if self.starts is None:
            return self._drawn(characters)
        places = ((bisect_right(self.starts, ord(c)) - 1, ord(c)) for c in characters)
        return sum(at >= 0 and code <= self.ends[at] for at, code in places)

    def _drawn(self, characters: Collection[str]) -> int:
        try:
            font = ImageFont.truetype(self.path, 16, index=self.index)
            lacking = bytes(font.getmask(_NO_CHARACTER))
            return sum(bytes(font.getmask(character)) != lacking for character in characters)
        except (OSError, ValueError):  # not a font, or bitmaps of one size only
            return 0


def font_for(text: str, size: int) -> Font:
    """The font for a text: the one that contains most of its characters.

    size: in pixels.
    """
    return _font(frozenset(text) if not text.isascii() else frozenset(), size)


@functools.lru_cache(1024)
def _font(characters: frozenset[str], size: int) -> Font:
    needed = {c for c in characters if unicodedata.category(c)[0] not in "CZ"}
    beyond_ascii = [c for c in needed if not c.isascii()]
    best, most = None, 0
    for face in _faces() if beyond_ascii else ():
        # ASCII counts only with other characters: Pillow's font has it, too.
        count = face.covered(needed) if face.covered(beyond_ascii) else 0
        if count > most:
            best, most = face, count
        if count == len(needed):
            break
    return ImageFont.load_default(size) if best is None else _opened(best, size)


def _opened(face: _Face, size: int) -> Font:
    try:
        return ImageFont.truetype(face.path, size, index=face.index)
    except OSError:  # removed meanwhile, or bitmaps of another size
        return ImageFont.load_default(size)


@functools.cache
def _faces() -> tuple[_Face, ...]:
    """All installed fonts, plain ones first."""
    return tuple(sorted(_from_fontconfig() or map(_Face, _files()), key=_rank))


def _rank(face: _Face) -> tuple[bool, bool, str, int]:
    name = Path(face.path).name.lower()
    return not name.startswith(_PLAIN), bool(_STYLED.search(name)), face.path, face.index


def _from_fontconfig() -> list[_Face]:
    """The fonts listed by `fc-list`; empty if it is missing or fails."""
    command = ["fc-list", "--format", r"%{file}\t%{index}\t%{charset}\n", ":scalable=true"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = os.fsdecode(done.stdout).splitlines()
    return [face for line in lines if (face := _listed(line)) is not None]


def _listed(line: str) -> _Face | None:
    """Parse a line: file, face index, hexadecimal ranges ("20-7e a0 ..."), separated by tabs."""
    try:
        path, index, ranges = line.split("\t")
        pairs = sorted(_span(span) for span in ranges.split())
        if Path(path).suffix.lower() not in _SUFFIXES or int(index) >= 1 << 16:
            return None  # another kind of file, or a named instance of a variable font
    except ValueError:
        return None
    return _Face(path, int(index), tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first, 16), int(last or first, 16)


def _files() -> Iterator[str]:
    """Yield font files in the system's folders."""
    for folder in _FOLDERS.get(sys.platform, _FOLDERS["linux"]):
        for path in user_path(os.path.expandvars(folder)).rglob("*"):
            if path.suffix.lower() in _SUFFIXES:
                yield str(path)
