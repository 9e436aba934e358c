"""Flags made from the config dataclasses, so that no option is declared twice."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from fcnseg.cli.guard import guard
from fcnseg.config import Flag, read_toml

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with options; flags win over it."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")
]

METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH", list[str]: "NAME"}
"""What stands for a value in the help; choices are listed instead."""


def config_command(
    config: type[Any], run: Callable[..., None], *, json: bool = True
) -> Callable[..., None]:
    """A function Typer can make a command of: its parameters are the fields of `config`.

    run(config_value, as_json=bool) is called with the resolved options.
    """

    def command(**flags: Any) -> None:
        file: Path | None = flags.pop("config_file")
        as_json: bool = flags.pop("as_json", False)
        given = {name: _unset_empty(value) for name, value in flags.items()}
        values = {name: value for name, value in given.items() if value is not None}
        with guard():
            run(config.make({**(read_toml(file) if file else {}), **values}), as_json=as_json)

    parameters = _parameters(config)
    parameters.append(_keyword("config_file", ConfigFile, None))
    if json:
        parameters.append(_keyword("as_json", AsJson, False))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = config.__doc__
    return command


def _parameters(config: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(config, include_extras=True)
    made = [_parameter(field, hints[field.name]) for field in dataclasses.fields(config)]
    # Positional arguments first, as the help shows them.
    return sorted(made, key=lambda p: not isinstance(_info(p), typer.models.ArgumentInfo))


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    kind, *extras = get_args(hint)
    flag = next((extra for extra in extras if isinstance(extra, Flag)), Flag())
    text = next(e.description for e in extras if hasattr(e, "description"))
    if field.default is not dataclasses.MISSING:
        text += _default(field.default)
    if flag.argument:
        # Not required by Typer: a TOML file may give it. The config itself insists.
        info: Any = typer.Argument(help=text, metavar=flag.metavar, show_default=False)
    else:
        info = typer.Option(
            *(flag.names or (_flag_name(field.name, on=field.default is True),)),
            help=text,
            metavar=flag.metavar or METAVARS.get(_flag_type(kind)),
            show_default=False,
            rich_help_panel=flag.panel,
        )
    return _keyword(field.name, Annotated[_flag_type(kind) | None, info], None)


def _flag_name(name: str, *, on: bool) -> str:
    """--name; what is on without being asked gets a --no-name as well."""
    name = name.replace("_", "-")
    return f"--{name}/--no-{name}" if on else f"--{name}"


def _flag_type(kind: Any) -> Any:
    """The type Typer parses: repeatable options become lists of text (the config checks it)."""
    if get_origin(kind) in (Union, types.UnionType):
        kind, *others = [part for part in get_args(kind) if part is not types.NoneType]
        if others:  # a number or a word: the config tells them apart
            return str
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        return list[str]
    return kind


def _unset_empty(value: Any) -> Any:
    """An option that was not given comes as None or, when repeatable, as an empty list."""
    return None if value == [] else value


def _default(default: Any) -> str:
    """How the help tells a default; none where it would tell nothing."""
    if default is None or default == () or default is False:
        return ""
    if isinstance(default, tuple):
        default = " ".join(str(item) for item in default)
    return f" (default: {'yes' if default is True else default})"


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _info(parameter: inspect.Parameter) -> Any:
    return get_args(parameter.annotation)[1]
