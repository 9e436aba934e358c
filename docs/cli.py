"""Prints cli.md, the reference of the command line: what the help says, in its order and groups."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from fcnseg.cli.app import app


def page() -> str:
    """The page in Markdown."""
    root: Any = get_command(app)
    commands = {name: one for name, one in root.commands.items() if not one.hidden}
    lines = ["# `fcnseg`", "", f"{root.help}", "", *_usage("fcnseg [OPTIONS] COMMAND [ARGS]...")]
    lines += [*_parameters(root), f"{root.epilog}", "", "**Commands**:", ""]
    lines += [f"* [`{name}`](#fcnseg-{name}): {one.help}" for name, one in commands.items()]
    for name, command in commands.items():
        pieces = command.collect_usage_pieces(typer.Context(command))
        lines += ["", f"## `fcnseg {name}`", "", f"{command.help}", ""]
        lines += [*_usage(" ".join(["fcnseg", name, *pieces])), *_parameters(command)]
    return "\n".join(lines).rstrip() + "\n"


def _usage(line: str) -> list[str]:
    return ["**Usage**:", "", "```console", f"$ {line}", "```", ""]


def _parameters(command: Any) -> Iterator[str]:
    """A list of the arguments, and of the options one under each heading of the help."""
    context = typer.Context(command)
    shown = [one for one in command.params if one.get_help_record(context) is not None]
    headings = list(dict.fromkeys(map(_heading, shown)))
    in_order = sorted(shown, key=lambda one: headings.index(_heading(one)))
    for heading, group in itertools.groupby(in_order, _heading):
        yield from (f"**{heading}**:", "")
        for one in group:
            flags, text = one.get_help_record(context)
            yield f"* `{flags.strip()}`: {text}"
        yield ""


def _heading(parameter: Any) -> str:
    kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
    return getattr(parameter, "rich_help_panel", None) or kind


if __name__ == "__main__":
    sys.stdout.write(page())
