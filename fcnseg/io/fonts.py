"""Fonts: one that has the letters of a text, among those that are installed.

ASCII is drawn in Pillow's own font, the same on every machine. For other scripts fontconfig
says which characters each font has; without it, the system's folders are searched and each
font is asked for its glyphs.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

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
"""File names that are taken first, of fonts that have the same letters of a text."""
_STYLED = re.compile(r"bold|italic|oblique|mono|serif|condensed|light|thin|black", re.IGNORECASE)

_NO_CHARACTER = "\U0010ffff"
"""Unicode keeps it free for good: what a font draws for it, it draws for all that it lacks."""


@dataclass(frozen=True)
class _Face:
    """An installed font. starts, ends: its ranges of characters in order; None: not known."""

    path: str
    index: int = 0
    starts: tuple[int, ...] | None = None
    ends: tuple[int, ...] = ()

    def covered(self, characters: Collection[str]) -> int:
        """How many of the characters it has."""
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
    """The font to draw a text in; one that has most of its letters where none has all.

    size: of the letters, in pixels.
    """
    return _font(frozenset(text) if not text.isascii() else frozenset(), size)


@functools.lru_cache(1024)
def _font(characters: frozenset[str], size: int) -> Font:
    needed = {c for c in characters if unicodedata.category(c)[0] not in "CZ"}
    foreign = [c for c in needed if not c.isascii()]
    best, most = None, 0
    for face in _faces() if foreign else ():
        # ASCII counts only beside it: a font for the digits alone is no better than ours.
        count = face.covered(needed) if face.covered(foreign) else 0
        if count > most:
            best, most = face, count
        if count == len(needed):
            break
    return ImageFont.load_default(size) if best is None else _opened(best, size)


def _opened(face: _Face, size: int) -> Font:
    try:
        return ImageFont.truetype(face.path, size, index=face.index)
    except OSError:  # removed since, or bitmaps of another size
        return ImageFont.load_default(size)


@functools.cache
def _faces() -> tuple[_Face, ...]:
    """Every installed font, plain ones first."""
    return tuple(sorted(_from_fontconfig() or map(_Face, _files()), key=_rank))


def _rank(face: _Face) -> tuple[bool, bool, str, int]:
    name = Path(face.path).name.lower()
    return not name.startswith(_PLAIN), bool(_STYLED.search(name)), face.path, face.index


def _from_fontconfig() -> list[_Face]:
    """What `fc-list` lists; empty where it is absent or says nothing that can be used."""
    command = ["fc-list", "--format", r"%{file}\t%{index}\t%{charset}\n", ":scalable=true"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = os.fsdecode(done.stdout).splitlines()
    return [face for line in lines if (face := _listed(line)) is not None]


def _listed(line: str) -> _Face | None:
    """FILE, index of the face, "20-7e a0 ..." in hexadecimal, apart by tabs."""
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
    """Files of fonts in the system's folders."""
    for folder in _FOLDERS.get(sys.platform, _FOLDERS["linux"]):
        for path in Path(os.path.expandvars(folder)).expanduser().rglob("*"):
            if path.suffix.lower() in _SUFFIXES:
                yield str(path)
