"""Options: fields of a frozen dataclass with a help text and a range.

Values are checked when a config is constructed; OptionError (a ValueError) says which option,
what was expected and what was found. Configs can be read from TOML and written to it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from fcnseg import errors
from fcnseg.config.texts import ADVICE, RELATED, SYNONYMS, line_of, toml_value
from fcnseg.errors import OptionError, did_you_mean, from_bytes

Decoder = Literal["fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s"]

Fuse = Literal["score", "feature", "concat"]

Upsampling = Literal["fixed", "learned", "subpixel"]

RunPrecision = Literal["auto", "f32", "bf16", "f16", "int8"]

EngineName = Literal["auto", "torch", "onnxruntime", "openvino", "opencv", "litert", "executorch"]

Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class Option:
    """Metadata of an option besides its name, type and default.

    gt, ge, lt, le: the range of its numbers. fallback: the value if it is None and no checkpoint
    defines it. synonyms: other words for some of its choices.
    flags: its spellings on the command line, if they do not follow from its name;
    hidden: older or longer spellings, accepted but not in the help.
    argument: positional. metavar: placeholder for the value in the help.
    group: its heading in the help.
    once: what to do instead of repeating it, if that is an error.
    listed: whether one string may contain several values, separated by commas.
    stdout: whether the path "-" is standard output; for other options it is refused.
    advice: the hint for a value that is unlike all of its choices.
    """

    help: str
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    fallback: Any = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    argument: bool = False
    metavar: str | None = None
    group: str | None = None
    once: str = ""
    listed: bool = False
    stdout: bool = False
    advice: str = ""


def option(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field for an option; the default ... makes it required."""
    return field(default=default, metadata={"option": Option(help, **more)})


class Options:
    """Base class of configs: construct them from plain values and TOML, and write them as TOML."""

    command: ClassVar[str]
    summary: ClassVar[str]
    """First line of the command's help; not a docstring, which `python -OO` removes."""

    def __post_init__(self) -> None:
        """Convert and check every value; OptionError for an invalid one."""
        for name, entry in options_of(type(self)).items():
            if (value := getattr(self, name)) is ...:
                expected = entry.help[0].lower() + entry.help[1:]
                text = f"{spelled(name, entry)} is missing; expected: {expected}."
                raise OptionError(text, hint=f"see `fcnseg {self.command} --help`")
            object.__setattr__(self, name, self.checked(name, value, spelled(name, entry)))

    @classmethod
    def checked(cls, name: str, value: Any, shown: str = "") -> Any:
        """An option's value, converted and checked; OptionError, which calls the option `shown`."""
        entry = options_of(cls)[name]
        known = entry.synonyms.get(value, value) if isinstance(value, str) else value
        if type(value) is int and (entry.metavar or "").startswith("N|"):
            known = str(value)  # tile = 512
        try:
            return _converted(known, _hints(cls)[name], entry)  # type: ignore[arg-type]
        except _Unexpected as expected:
            found = value if expected.found is None else expected.found
            text = f"{shown or name}: expected {expected}; found {_plain(found)!r:.200}."
            raise OptionError(text, hint=expected.hint) from None

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """A config from plain values; OptionError for an unknown name or an invalid value."""
        for name in values:
            cls._refuse_unknown(name, values[name])
        return cls(**values)

    @classmethod
    def _refuse_unknown(cls, name: str, value: Any) -> None:
        if name not in options_of(cls):
            text = f"Unknown option {name!r} for {cls.command}."
            in_table = isinstance(value, dict)
            hint = f"omit the line [{name}]: options stand in no table" if in_table else ""
            raise OptionError(text, hint=hint or suggest_option(name, cls))

    @classmethod
    def of(cls, given: object, options: Mapping[str, Any]) -> Self:
        """A config from a config or the command's first argument, with these options changed.

        A command without arguments takes a config or None.
        """
        if isinstance(given, cls):
            return dataclasses.replace(given, **options)  # type: ignore[type-var]
        if given is None:
            return cls.make(options)
        for name in (name for name, entry in options_of(cls).items() if entry.argument):
            return cls.make({name: given, **options})
        text = f"{cls.command} takes a {cls.__name__}, or options by name; found {given!r:.80}."
        raise OptionError(text)

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> Self:
        """A config from a TOML file, with some of its values overridden."""
        return cls.make({**cls.read(path), **overrides})

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """A TOML file's values; OptionError, which names the file and the line of a wrong one."""
        text, values = read_toml(path)
        for name, value in values.items():
            try:
                cls._refuse_unknown(name, value)
                cls.checked(name, value)
            except OptionError as error:
                place = f"{path}{line_of(name, text)}"
                raise OptionError(f"{place}: {error.message}", hint=error.hint) from None
        return values

    def mapped(self, convert: Callable[[Any], Any], *names: str) -> Self:
        """A copy with a function applied to these options, where they are not None."""
        given = {name: convert(v) for name in names if (v := getattr(self, name)) is not None}
        return dataclasses.replace(self, **given)  # type: ignore[type-var]

    def chosen(self) -> dict[str, Any]:
        """The options that differ from their defaults, by name."""
        values = {name: getattr(self, name) for name in options_of(type(self))}
        return {name: v for name, v in values.items() if v != vars(type(self))[name]}

    def refuse(self, names: Iterable[str], why: str) -> None:
        """OptionError for any of these options that was given, as it has no effect."""
        for name in names:
            if name in self.chosen():
                flag = spelled(name, options_of(type(self))[name])
                raise OptionError(f"{flag} has no effect {why}.", hint=f"omit {flag}")

    def with_fallbacks(self) -> Self:
        """A copy in which options that are None have their fallbacks."""
        known = options_of(type(self)).items()
        unset = {name: one.fallback for name, one in known if getattr(self, name) is None}
        return dataclasses.replace(self, **unset)  # type: ignore[type-var]

    def as_dict(self) -> dict[str, Any]:
        """Values that TOML supports (paths as text), without None."""
        values = ((name, getattr(self, name)) for name in options_of(type(self)))
        return {name: _plain(value) for name, value in values if value is not None}

    def as_toml(self, reasons: Mapping[str, str] | None = None) -> str:
        """The config as a TOML document; `load` reads it back to an equal config.

        reasons: why an option has its value, by name; written as a comment above it.
        """
        lines = [f"# fcnseg {self.command}: every option, as resolved"]
        for name, value in self.as_dict().items():
            if reasons and name in reasons:
                lines.append(f"# {reasons[name]}")
            lines.append(f"{name} = {toml_value(value)}")
        return "\n".join(lines) + "\n"


def options_of(config: type[Any]) -> dict[str, Option]:
    """The options of a config by name, in their order."""
    fields = dataclasses.fields(config)
    return {entry.name: entry.metadata["option"] for entry in fields}


def suggest_option(name: str, config: type[Any]) -> str:
    """A hint for an option that `config` lacks, as typed: a similar one, or where it exists."""
    own, configs = options_of(config), Options.__subclasses__()
    every = [pair for other in configs for pair in options_of(other).items()]
    plain = next((long for long, option in every if name in option.flags), name)
    plain = plain.lstrip("-").replace("-", "_")
    flags = {flag.lstrip("-").replace("-", "_"): flag for flag in flags_of(config)}
    if plain in ADVICE:
        return ADVICE[plain]
    means = SYNONYMS.get(plain) or [
        ours for word, meant in RELATED.items() if word in plain for ours in meant
    ]
    meant = [ours for ours in dict.fromkeys(means) if ours in own]
    meant = meant or [ours for ours, option in own.items() if ours == plain and option.argument]
    close = [spelled(ours, own[ours]) for ours in meant if not own[ours].argument]
    guessed = [] if meant or plain in SYNONYMS else errors.closest(plain, flags)
    close = close or [flags[found] for found in guessed]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if meant:
        return f"give it without an option's name: fcnseg {config.command} {meant[0].upper()}"
    for flag in map(spelled, (plain, *SYNONYMS.get(plain, ()))):
        if elsewhere := [other.command for other in configs if flag in flags_of(other)]:
            return f"{flag} is an option of: {', '.join(elsewhere)}"
    return f"`fcnseg {config.command} --help` lists the options"


def flags_of(config: type[Any]) -> list[str]:
    """All spellings of a command's options."""
    flags = [flag for name, option in options_of(config).items() if not option.argument
             for flag in (spelled(name, option), *option.hidden)]  # fmt: skip
    switched_on = (name for name in options_of(config) if vars(config).get(name) is True)
    return [*flags, *(f"--no-{name}" for name in switched_on), "--config", "--json", "--help"]


def spelled(name: str, option: Option | None = None) -> str:
    """How an option is written on the command line: --data, or DATA for an argument."""
    if option is not None and (option.argument or option.flags):
        return name.upper() if option.argument else option.flags[0]
    return f"--{name.replace('_', '-')}"


_hints = functools.cache(get_type_hints)


class _Unexpected(Exception):
    """Says what was expected of a value; raised and caught in this module."""

    def __init__(self, expected: str, hint: str = "", found: Any = None) -> None:
        super().__init__(expected)
        self.hint, self.found = hint, found  # None: all of the value


def _converted(value: Any, hint: Any, entry: Option) -> Any:
    """A value converted to an option's type; raises _Unexpected."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return _one_of(value, parts, entry)
    if kind is Literal:
        if value not in parts:
            close = did_you_mean(str(value), parts, entry.advice)
            raise _Unexpected(", ".join(parts), close, value)
        return value
    if kind is tuple:
        return _tuple(value, parts, entry)
    if hint in (int, float):
        return _number(value, hint, entry)
    if hint is bool and not isinstance(value, bool):
        raise _Unexpected("true or false")
    if hint is Path and str(value) == "-" and not entry.stdout:
        raise _Unexpected("a path (nothing is piped here)", "name a file or a folder")
    if hint in (str, Path):
        return _text(value, hint)
    return value


def _one_of(value: Any, hints: tuple[Any, ...], entry: Option) -> Any:
    if value is None and types.NoneType in hints:
        return None
    expected = []
    for hint in hints:
        if hint is not types.NoneType:
            try:
                return _converted(value, hint, entry)
            except _Unexpected as error:
                expected.append(error)
    raise _Unexpected(" or ".join(map(str, expected)), expected[-1].hint)


def _tuple(value: Any, parts: tuple[Any, ...], entry: Option) -> tuple[Any, ...]:
    repeatable = parts[-1] is Ellipsis
    items = list(value) if isinstance(value, list | tuple) else [value]
    if entry.listed:
        items = [part.strip() for item in items for part in str(item).strip(", ").split(",")]
    if not repeatable and len(items) != len(parts):
        raise _Unexpected(f"{len(parts)} numbers")
    items = [entry.synonyms.get(item, item) if isinstance(item, str) else item for item in items]
    hints = parts[:1] * len(items) if repeatable else parts
    return tuple(_converted(item, hint, entry) for item, hint in zip(items, hints, strict=True))


def _number(value: Any, kind: type, entry: Option) -> int | float:
    """An int or a float within the option's range; strings of digits are accepted."""
    limits = {"above": entry.gt, "at least": entry.ge, "below": entry.lt, "at most": entry.le}
    wanted = " and ".join(
        f"{word} {limit:g}" for word, limit in limits.items() if limit is not None
    )
    expected = _Unexpected(f"a {'whole ' * (kind is int)}number {wanted}".strip(), found=value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        raise expected
    try:
        number: int | float = kind(value)
        finite = math.isfinite(number)
    except (ValueError, OverflowError):
        raise expected from None
    if not finite or (not isinstance(value, str) and number != value):
        raise expected
    low, high = entry.gt is None or number > entry.gt, entry.lt is None or number < entry.lt
    least, most = entry.ge is None or number >= entry.ge, entry.le is None or number <= entry.le
    if not (low and high and least and most):
        raise expected
    return number


def _text(value: Any, kind: type) -> Any:
    if kind is Path:
        if (needed := errors.path_fault(value)) is not None:
            raise _Unexpected(needed)
        return errors.user_path(value if isinstance(value, Path) else os.fspath(value))
    if not isinstance(value, str | os.PathLike):
        raise _Unexpected("a text")
    return value if isinstance(value, kind) else kind(os.fspath(value))


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """A TOML file's text and values; OptionError when it is missing or malformed."""
    try:
        text = from_bytes(path.read_bytes())
        return text, tomllib.loads(text)
    except OSError as error:
        raise OptionError(f"Can't read {path}: {error.strerror}.") from None
    except errors.PARSE_ERRORS as error:  # TOMLDecodeError; numbers or nesting beyond the limits
        raise OptionError(f"{path} is not a TOML file: {errors.reason(error)}.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
