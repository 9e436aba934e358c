"""Flags made from the config dataclasses, so that no option is declared twice."""

from __future__ import annotations

import inspect
import itertools
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand

from fcnseg.cli.console import guard
from fcnseg.config.options import Option, options_of, read_toml, spelled
from fcnseg.errors import OptionError, user_path
from fcnseg.overwriting import refuse_overwriting, refuse_unwritable

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        path_type=str,  # Path("") would be the current folder
        help="TOML file of options; command-line options take precedence",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object to stdout")]


def _help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


Help = Annotated[
    bool,
    typer.Option(
        "--help", "-h", metavar="", is_eager=True, callback=_help, help="Show this message and exit"
    ),
]
"""In place of Typer's own, which the help shows as taking a value."""


class Command(TyperCommand):
    """A command whose help has no Python types, such as <list[str]>, beside its arguments."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                setattr(parameter, "display_type", lambda _: "")  # noqa: B010 - a method

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What a command line means: `-o=FILE` is `-o FILE`, where Click takes `=FILE`."""
        end = args.index("--") if "--" in args else len(args)
        pairs = (arg.split("=", 1) if re.match("-[a-z]=", arg) else [arg] for arg in args[:end])
        return super().parse_args(ctx, [*itertools.chain.from_iterable(pairs), *args[end:]])


METAVARS = {int: "N", float: "X", Path: "PATH", bool: ""}
"""What stands for a value in the help (else NAME); a switch takes none."""

OUTPUTS = (
    "out", "shares", "contact", "write", "fix", "html", "csv", "confusion", "latex", "markdown",
)  # fmt: skip
"""The options that say where something is written."""

ALIAS = "__alias"
"""Ends the name of the hidden parameter behind an option's other spelling."""


def config_command(config: type[Any], run: Callable[..., None]) -> Callable[..., None]:
    """A function Typer can make a command of: its parameters are the options of `config`.

    run(values, as_json=bool) is called with the values that were given, by name.
    """
    known = options_of(config)

    def command(**flags: Any) -> None:
        named: str | None = flags.pop("config_file")
        file = None if named is None else user_path(named)
        as_json: bool = flags.pop("as_json")
        del flags["help_wanted"]  # its callback has run
        # An option that was not given comes as None or, when repeatable, as an empty list.
        given = {name.removesuffix(ALIAS): v for name, v in flags.items() if v not in (None, [])}
        with guard(config):
            given = {name: _only(name, value, known[name]) for name, value in given.items()}
            _refuse_empty(given, known, named)
            if config.command != "serve":  # which takes NAME=MODEL
                _refuse_assignments(given, known)
            values = {**(read_toml(file) if file else {}), **given}
            paths = ((name, values.get(name)) for name in OUTPUTS)
            outputs = [(spelled(n), user_path(v)) for n, v in paths if isinstance(v, str | Path)]
            refuse_unwritable(outputs)
            if file is not None:
                files = [(flag, path / "config.toml") for flag, path in outputs]  # as of a training
                refuse_overwriting([*outputs, *files], [], kept=[("--config", file)])
            run(values, as_json=as_json)

    parameters = _parameters(config)
    parameters.append(_keyword("config_file", ConfigFile, None))
    parameters.append(_keyword("as_json", AsJson, False))
    parameters.append(_keyword("help_wanted", Help, False))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = config.summary
    return command


def _only(name: str, value: Any, option: Option) -> Any:
    """A value as it was given; OptionError for several where the last would be taken silently."""
    if not instead_of_twice(name, option):
        return value
    if len(value) > 1:
        flag = spelled(name, option)
        raise OptionError(
            f"{flag} was given {len(value)} times: {', '.join(value)}; expected one.",
            hint=instead_of_twice(name, option),
        )
    return value[0]


def instead_of_twice(name: str, option: Option) -> str:
    """What to do instead of giving an option several times; "" where that is no mistake."""
    return option.once or ("run the command once for each place" if name in OUTPUTS else "")


def _refuse_empty(values: Mapping[str, Any], known: Mapping[str, Option], file: str | None) -> None:
    """OptionError for an empty text: the script's variable that it comes from has no value."""
    given = [(spelled(name, known[name]), value) for name, value in values.items()]
    for flag, value in [*given, ("--config", file)]:
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            raise OptionError(
                f"{flag}: expected a value; found an empty text.",
                hint='is a variable of the shell empty? the current folder is "."',
            )


def _refuse_assignments(values: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    """OptionError for `model=runs/train1`, as other programs want it, unless it is a file."""
    for name in (name for name in values if known[name].argument):
        given = values[name] if isinstance(values[name], list) else [values[name]]
        for text in map(str, given):
            key, equals, value = text.partition("=")
            if equals and key in known and not Path(text).exists():
                flag = "" if known[key].argument else f"{spelled(key, known[key])} "
                raise OptionError(f"{text!r}: expected {flag}{value}; nothing is given by =.")


def _parameters(config: type[Any]) -> list[inspect.Parameter]:
    """One for each option, and a hidden one for each that has other spellings."""
    made, hints = [], get_type_hints(config)
    for name, option in options_of(config).items():
        kind = list[str] if instead_of_twice(name, option) else _flag_type(hints[name])
        info = _info(name, option, hints[name], vars(config)[name])
        made.append(_keyword(name, Annotated[kind | None, info], None))
        if option.hidden:
            info = typer.Option(*option.hidden, hidden=True, path_type=str)
            made.append(_keyword(name + ALIAS, Annotated[kind | None, info], None))
    return made


def _info(name: str, option: Option, hint: Any, default: Any) -> Any:
    kinds, words = _kinds(hint), _choices(hint)
    named = all(word in option.help for word in words)
    text = option.help + ("" if named else f": {', '.join(words)}") + _default(default, option)
    if option.argument:
        # Not required by Typer: a TOML file may give it. The config itself insists.
        metavar = (option.metavar or name.upper()).removesuffix("...")  # Typer adds its own
        return typer.Argument(help=text, metavar=metavar, show_default=False, path_type=str)
    flag = spelled(name)
    if default is True:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    return typer.Option(
        *(option.flags or (flag,)),
        help=text,
        metavar=option.metavar or METAVARS.get(kinds[0], "NAME"),
        path_type=str,
        show_default=False,
        rich_help_panel=option.group,
        autocompletion=(lambda: words) if words else None,
    )


def _flag_type(hint: Any) -> Any:
    """The type Typer parses: mostly text, as the config checks it and says what is wrong."""
    kind = _kinds(hint)[0]
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return list[str] if parts[-1] is Ellipsis else tuple[str, str]
    return kind if kind in (bool, Path) else str


def _kinds(hint: Any) -> list[Any]:
    """The types of an option's values, None left out."""
    if get_origin(hint) in (Union, types.UnionType):
        return [part for part in get_args(hint) if part is not types.NoneType]
    return [hint]


def _choices(hint: Any) -> list[str]:
    """The words that an option has to choose from; none where it takes other values as well."""
    kinds = _kinds(hint)
    if get_origin(kinds[0]) is tuple:
        kinds = [get_args(kinds[0])[0]]
    if any(get_origin(kind) is not Literal for kind in kinds):
        return []
    return [word for kind in kinds for word in get_args(kind)]


def _default(default: Any, option: Option) -> str:
    """How the help tells a default; none where it would tell nothing."""
    default = option.fallback if default is None else default
    if default in (None, (), ...) or default is False:
        return ""
    if isinstance(default, tuple):
        default = " ".join(str(item) for item in default)
    return f" (default: {'yes' if default is True else default})"


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
