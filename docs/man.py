"""Prints fcnseg.1, the manual page: every command with its options, as the help has them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import typer
from typer.main import get_command

from fcnseg import __version__
from fcnseg.cli.app import app


def page() -> str:
    """The manual page in man(7), the same in every terminal and on every machine."""
    root = get_command(app)
    commands = [
        (name, command)
        for name, command in root.commands.items()  # type: ignore[attr-defined]
        if not command.hidden
    ]
    lines = [
        f'.TH FCNSEG 1 "" "fcnseg {__version__}" "User Commands"',
        ".SH NAME",
        "fcnseg \\- semantic segmentation with Fully Convolutional Networks",
        ".SH SYNOPSIS",
        ".B fcnseg",
        ".I COMMAND",
        "[options]",
        ".SH DESCRIPTION",
        "Trains a segmentation model on a folder of images and labels, scores it, and runs it on",
        "images, videos, cameras and streams. To get started:",
        ".B fcnseg demo",
        ".SH OPTIONS",
        *_options(root),
        ".SH COMMANDS",
    ]
    for name, command in commands:
        lines += [f".SS {_plain(f'fcnseg {name}')}", _plain(command.help or "")]
        lines += _options(command)
    lines += [
        ".SH EXIT STATUS",
        *(line for status, what in STATUS for line in (".TP", f".B {status}", what)),
        ".SH SEE ALSO",
        "The documentation comes with the sources, in docs/.",
    ]
    return "\n".join(lines) + "\n"


STATUS = (
    (0, "Everything was done."),
    (1, "An error: the message says what was found, what was expected and what to do."),
    (2, "An option or a command is wrong, or options contradict each other."),
    (3, "Some of the inputs failed; the rest is done."),
    (130, "Stopped by a signal; what was finished is saved."),
)


def _options(command: typer.core.TyperCommand) -> Iterator[str]:
    """A tagged paragraph for each argument and option that the help shows."""
    context = typer.Context(command)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            yield from (".TP", f".B {_plain(record[0])}", _plain(record[1]) or "\\&")


def _plain(text: str) -> str:
    """A text of one line in which roff finds nothing to obey."""
    text = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text[:1] in (".", "'") else text


if __name__ == "__main__":
    sys.stdout.write(page())
