"""Command-line flags generated from the config dataclasses, so that options are declared once."""

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
from fcnseg.config.options import Option, options_of, spelled
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
"""Replaces Typer's --help, which the help shows with a value."""


class Command(TyperCommand):
    """A command whose help shows no Python types, such as <list[str]>, for its arguments."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                setattr(parameter, "display_type", lambda _: "")  # noqa: B010 - a method

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `-o=FILE` as `-o FILE`; Click would take `=FILE` as the value."""
        end = args.index("--") if "--" in args else len(args)
        pairs = (arg.split("=", 1) if re.match("-[a-z]=", arg) else [arg] for arg in args[:end])
        words = [*itertools.chain.from_iterable(pairs), *args[end:]]
        return super().parse_args(ctx, self._up_to_lone_value(words))

    def _up_to_lone_value(self, words: list[str]) -> list[str]:
        """Cut `--crop 64 --epochs 3` after 64: Click would take `--epochs` as its second value."""
        pairs = {flag for param in self.params if param.nargs == 2 for flag in param.opts}
        for index, word in enumerate(words):
            second = words[index + 2] if len(words) > index + 2 else ""
            if word in pairs and re.match("--?[a-z]", second):
                return words[: index + 2]
        return words


METAVARS = {int: "N", float: "X", Path: "PATH", bool: ""}
"""Placeholders for values in the help (default: NAME); a switch has none."""

OUTPUTS = (
    "out", "shares", "contact", "write", "fix", "html", "csv", "confusion", "latex", "markdown",
)  # fmt: skip
"""The options that name an output path."""

ALIAS = "__alias"
"""Suffix of the hidden parameter for an option's other spelling."""


def config_command(config: type[Any], run: Callable[..., None]) -> Callable[..., None]:
    """A function for Typer whose parameters are the options of `config`.

    It calls run(values, as_json=bool) with the given values by name.
    """
    known = options_of(config)

    def command(**flags: Any) -> None:
        named: str | None = flags.pop("config_file")
        file = None if named is None else user_path(named)
        as_json: bool = flags.pop("as_json")
        del flags["help_wanted"]  # its callback has run
        # An option that was not given comes as None or, when repeatable, as an empty list.
        chosen = {name: value for name, value in flags.items() if value not in (None, [])}
        given = {name.removesuffix(ALIAS): value for name, value in chosen.items()}
        with guard(config):
            _refuse_twice(chosen, known)
            given = {name: _only(name, value, known[name]) for name, value in given.items()}
            _refuse_empty(given, known, named)
            if config.command != "serve":  # serve takes NAME=MODEL
                _refuse_assignments(given, known)
            _refuse_strays(given, config)
            values = {**(config.read(file) if file else {}), **given}
            paths = ((name, values.get(name)) for name in OUTPUTS)
            outputs = [(spelled(n), user_path(v)) for n, v in paths if isinstance(v, str | Path)]
            refuse_unwritable(outputs)
            if file is not None:
                files = [(flag, path / "config.toml") for flag, path in outputs]  # train writes it
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
    """An option's value; OptionError if it was repeated and the last would win silently."""
    if not repeat_hint(name, option):
        return value
    if len(value) > 1:
        flag = spelled(name, option)
        raise OptionError(
            f"{flag} was given {len(value)} times: {', '.join(value)}; expected one.",
            hint=repeat_hint(name, option),
        )
    return value[0]


def _refuse_twice(chosen: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    """OptionError for an option that was given in two spellings."""
    for name in (name for name in known if {name, name + ALIAS} <= chosen.keys()):
        flag, other = spelled(name, known[name]), known[name].hidden[0]
        raise OptionError(f"{flag} was given twice, also as {other}.", hint="give one of them")


def repeat_hint(name: str, option: Option) -> str:
    """What to do instead of repeating an option; "" where it may be repeated."""
    return option.once or ("run the command once for each place" if name in OUTPUTS else "")


def _refuse_empty(values: Mapping[str, Any], known: Mapping[str, Option], file: str | None) -> None:
    """OptionError for an empty value, which usually comes from an unset shell variable."""
    given = [(spelled(name, known[name]), value) for name, value in values.items()]
    for flag, value in [*given, ("--config", file)]:
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            raise OptionError(
                f"{flag}: expected a value; found an empty text.",
                hint='is a variable of the shell empty? the current folder is "."',
            )


def _refuse_assignments(values: Mapping[str, Any], known: Mapping[str, Option]) -> None:
    """OptionError for `model=runs/train1`, the syntax of other programs, unless it is a file."""
    for name in (name for name in values if known[name].argument):
        given = values[name] if isinstance(values[name], list) else [values[name]]
        for text in map(str, given):
            key, equals, value = text.partition("=")
            if equals and key in known and not Path(text).exists():
                flag = "" if known[key].argument else f"{spelled(key, known[key])} "
                raise OptionError(f"{text!r}: expected {flag}{value}; nothing is given by =.")


def _refuse_strays(values: Mapping[str, Any], config: type[Any]) -> None:
    """OptionError for the second word of `--save labels overlay`, unless it is a file."""
    known, hints = options_of(config), get_type_hints(config)
    arguments = [word for name in values if known[name].argument for word in _words(values[name])]
    strays = [word for word in arguments if not Path(word).exists()]
    for name in (name for name in values if known[name].listed):
        choices = {*_choices(hints[name]), *known[name].synonyms}
        if mine := [word for word in strays if word in choices]:
            words = (word.strip(", ") for word in (*_words(values[name]), *mine))
            flag, listed = spelled(name, known[name]), ",".join(words)
            raise OptionError(
                f"There is no file or folder {mine[0]}; it is a value of {flag}.",
                hint=f"several have commas between: {flag} {listed}",
            )


def _words(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _parameters(config: type[Any]) -> list[inspect.Parameter]:
    """A parameter for each option, and a hidden one for each with other spellings."""
    made, hints = [], get_type_hints(config)
    for name, option in options_of(config).items():
        kind = list[str] if repeat_hint(name, option) else _flag_type(hints[name])
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
        # Not required by Typer, as a TOML file may give it; the config checks it.
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
    """The type Typer parses: mostly str, as the config converts values and reports errors."""
    kind = _kinds(hint)[0]
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return list[str] if parts[-1] is Ellipsis else tuple[str, str]
    return kind if kind in (bool, Path) else str


def _kinds(hint: Any) -> list[Any]:
    """The types of an option's values, without None."""
    if get_origin(hint) in (Union, types.UnionType):
        return [part for part in get_args(hint) if part is not types.NoneType]
    return [hint]


def _choices(hint: Any) -> list[str]:
    """The allowed words of an option; empty if it takes other values as well."""
    kinds = _kinds(hint)
    if get_origin(kinds[0]) is tuple:
        kinds = [get_args(kinds[0])[0]]
    if any(get_origin(kind) is not Literal for kind in kinds):
        return []
    return [word for kind in kinds for word in get_args(kind)]


def _default(default: Any, option: Option) -> str:
    """The default as shown in the help; "" for None, False and empty values."""
    default = option.fallback if default is None else default
    if default in (None, (), ...) or default is False:
        return ""
    if isinstance(default, tuple):
        default = " ".join(str(item) for item in default)
    return f" (default: {'yes' if default is True else default})"


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)
