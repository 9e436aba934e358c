"""The command line: parse, call a command, print its result.

Here: where text meets the terminal, the one place that knows its encoding, markup and control
codes.

File and class names come from anywhere. What is in them is shown, never obeyed: brackets are
no markup, and what would move the cursor, turn text around or is no character at all is
written as an escape.
"""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from fcnseg.errors import shown


def line(*parts: str | tuple[str, str]) -> Text:
    """Text of parts as they are, or with a style: (text, style)."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((shown(text), style) for text, style in pairs))


_COMMAND = re.compile(
    r"\bfcnseg (?=(?:check|train|eval|compare|review|infer|viz|export|bench|demo|doctor)\b)"
)


@functools.cache
def program() -> str:
    """What starts this fcnseg from a shell here: its name, else the path of its script."""
    suffix = ".exe" if os.name == "nt" else ""
    script = Path(sys.executable).parent / f"fcnseg{suffix}"
    if not script.is_file():
        return f"{Path(sys.executable).name} -m fcnseg"
    found = shutil.which("fcnseg")
    if found is not None and Path(found).samefile(script):
        return "fcnseg"
    here = Path.cwd()
    path = script.relative_to(here) if script.is_relative_to(here) else script
    return f'"{path}"' if " " in str(path) else str(path)


def runnable(text: str) -> str:
    """A message with the commands in it spelled so that they work from here."""
    return _COMMAND.sub(lambda _: f"{program()} ", text)


_COPIED = re.compile(r"`|\b(?:fcnseg|pip|apt|apt-get|python) ")


def print_message(console: Console, text: Text) -> None:
    """Print a message: broken between words on a terminal, elsewhere as one line.

    One with a command stays a line, so that it can be copied.
    """
    console.print(text, soft_wrap=not console.is_terminal or bool(_COPIED.search(text.plain)))


_SHADES = " .:-=+*#%@"
"""From dark to bright, where there are no colors."""


def half_blocks(image: Any, columns: int, *, colors: bool, key: Sequence[Any] = ()) -> Text:
    """An image uint8 (H, W, 3) for a terminal of so many columns: two pixels a character.

    The upper one is the color of a half block, the lower one its background. Without colors:
    letters from dark to bright. key: (name, (red, green, blue)), listed below.
    """
    from fcnseg.io.images import resize_image

    rows = max(1, round(image.shape[0] * columns / image.shape[1] / 2))
    pixels = resize_image(image, (2 * rows, columns))
    text = Text()
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            if colors:
                text.append("▀", _style(above, below))
            else:
                level = (sum(above) + sum(below)) / (6 * 255.01)
                text.append(_SHADES[int(level * len(_SHADES))])
        text.append("\n")
    for name, color in key:
        text.append("  ", _style(color, color) if colors else "")
        text.append(f" {shown(name)}  ")
    return text


def _style(color: Sequence[int], background: Sequence[int]) -> Style:
    return Style(color=Color.from_rgb(*color), bgcolor=Color.from_rgb(*background))


class _Plain(Console):
    """A console whose strings are text, without markup."""

    def render_str(self, text: str, **how: Any) -> Text:
        """The string as it is, escaped; rich asks this of every string, of cells and headings."""
        return Text(shown(text), style=how.get("style", ""), justify=how.get("justify"))


def plain_console(*, stderr: bool = False, file: IO[str] | None = None, **how: Any) -> Console:
    """Standard output or standard error to print lines and tables on."""
    console = _Plain(stderr=stderr, file=file, highlight=False, **how)
    if console.width < _NARROWEST and "width" not in how:
        console.width = _NARROWEST
    return console


_NARROWEST = 20
"""Columns below which tables would lose their text: terminals that know no size say 0."""


def bars() -> tuple[str, str]:
    """What a bar on standard output is made of: the full part and the rest."""
    return ("#", ".") if plain_console().options.ascii_only else ("█", "░")


def escape_unencodable() -> None:
    """Have what the terminal's encoding does not know shown as escapes, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
