"""Text that came from anywhere (names of files and classes): to look at, and as bytes.

A file's name may hold bytes that are not UTF-8; Python keeps each as half of a surrogate pair.
"""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that a terminal acts on, or can't show: controls, directions, surrogates."""

_JOINERS = frozenset("\u200c\u200d")
"""Of those, the ones that are part of words and emoji."""

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of pairs that stand for no byte; JSON can name them."""


def shown(text: object) -> str:
    r"""Text as one line to look at; `\xe9` is a byte of a name that is not UTF-8."""
    return "".join(map(_escaped, str(text)))


def percent(fraction: float | None) -> str:
    """A fraction for people: 0.7751 is "77.51 %"; a dash where there is none."""
    if fraction is None or fraction != fraction:  # NaN
        return "-"
    return f"{100 * fraction:.2f} %"


def to_bytes(text: str) -> bytes:
    """Text as UTF-8, the bytes of file names as they are; `from_bytes` takes them back."""
    return _NO_BYTE.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    """The text of a file that may name files; a byte-order mark is no part of it."""
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def as_text(name: str) -> str:
    """A file's name as text files spell it: in UTF-8 whatever the locale, accents composed.

    For comparisons: two names of one file in different spellings become the same.
    """
    if name.isascii():
        return name
    text = to_bytes(name).decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text)


def to_path(text: str) -> Path:
    """The path that a text file names, in UTF-8 whatever the locale."""
    return Path(os.fsdecode(to_bytes(text)))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED or character in _JOINERS:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps such a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def points(value: float | None, other: float | None) -> str:
    """The difference of two fractions in points of 100, with its sign; a dash without one."""
    if value is None or other is None:
        return "-"
    return f"{100 * (value - other):+.2f}"
