"""The command line: parse, call a command, print its result.

This module prints text to the terminal; only it handles encodings, markup and control codes.

Names of files and classes are untrusted. Brackets in them are not markup, and characters that
would move the cursor or change the text's direction, or are invalid, are escaped.
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

from fcnseg.errors import percent, printable
from fcnseg.progress import EpochEnd


def line(*parts: str | tuple[str, str]) -> Text:
    """Text assembled from plain parts and (text, style) pairs."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((printable(text), style) for text, style in pairs))


def duration(seconds: float) -> str:
    """Seconds as text: 9 s, 4:05, 1:02:30."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def epoch_line(event: EpochEnd) -> Text:
    """The scores of an epoch that has ended."""
    values = event.values
    width = len(str(event.epochs))
    of = f"/{event.epochs}" if event.epochs else ""
    text = f"epoch {event.epoch:{width}}{of}  loss {values['loss']:.4f}"
    if "miou" in values:
        text += f"  mIoU {percent(values['miou'])}"
    if "pixel_accuracy" in values:
        text += f"  accuracy {percent(values['pixel_accuracy'])}"
    if "confident" in values:
        text += f"  confident {percent(values['confident'], 0)}"
    if "seconds" in values:
        text += f"  {duration(float(values['seconds']))}"
    return line(text, ("  best", "green") if event.best else "")


_COMMAND = re.compile(
    r"\bfcnseg (?=(?:check|train|eval|compare|review|infer|viz|export|bench|demo|doctor)\b)"
)


@functools.cache
def program() -> str:
    """How to run this fcnseg from a shell: its name if that is on the PATH, else its path."""
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
    """A message whose fcnseg commands can be run from the current folder."""
    return _COMMAND.sub(lambda _: f"{program()} ", text)


_COPIED = re.compile(r"`|\b(?:fcnseg|pip|apt|apt-get|python) ")


def print_message(console: Console, text: Text) -> None:
    """Print a message: wrapped between words on a terminal, elsewhere as one line.

    A message that contains a command is not wrapped, so that it can be copied.
    """
    console.print(text, soft_wrap=not console.is_terminal or bool(_COPIED.search(text.plain)))


_SHADES = " .:-=+*#%@"
"""Characters from dark to bright, for terminals without colors."""


def half_blocks(image: Any, columns: int, *, colors: bool, key: Sequence[Any] = ()) -> Text:
    """An image uint8 (H, W, 3) as text `columns` wide, with two pixels per character.

    A half block has the upper pixel's color, and the lower one's as background. Without colors:
    characters from dark to bright. key: the legend below, (name, (red, green, blue)).
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
        text.append(f" {printable(name)}  ")
    return text


def _style(color: Sequence[int], background: Sequence[int]) -> Style:
    return Style(color=Color.from_rgb(*color), bgcolor=Color.from_rgb(*background))


class _Plain(Console):
    """A console that prints strings without interpreting markup."""

    def render_str(self, text: str, **how: Any) -> Text:
        """The string, escaped; rich calls this for every string, including table cells."""
        return Text(printable(text), style=how.get("style", ""), justify=how.get("justify"))


def plain_console(*, stderr: bool = False, file: IO[str] | None = None, **how: Any) -> Console:
    """A console for lines and tables on standard output or standard error."""
    console = _Plain(stderr=stderr, file=file, highlight=False, **how)
    if console.width < _NARROWEST and "width" not in how:
        console.width = _NARROWEST
    return console


_NARROWEST = 20
"""Minimum width in columns: terminals of unknown size report 0."""


def bars() -> tuple[str, str]:
    """Characters of a bar on standard output: for its filled part and the rest."""
    return ("#", ".") if plain_console().options.ascii_only else ("█", "░")


def escape_unencodable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
