"""What every config can do: be made from plain values and TOML, and be written as TOML."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import pydantic
from pydantic import ConfigDict

from fcnseg.errors import OptionError

STRICT = ConfigDict(extra="forbid")


class Options:
    """What every config can do."""

    verb: ClassVar[str]

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """A config from plain values; OptionError for an unknown name or a wrong value."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise OptionError(
                    f"Unknown option {name!r} for {cls.verb}.",
                    hint=f"did you mean {close[0]!r}?"
                    if close
                    else f"known: {', '.join(sorted(known))}",
                )
        try:
            config = cls(**values)
        except pydantic.ValidationError as error:
            raise OptionError(_sentence(error)) from None
        object.__setattr__(config, "_given", frozenset(values))
        return config

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> Self:
        """A config from a TOML file, with some of its values overridden."""
        return cls.make({**read_toml(path), **overrides})

    def given(self) -> frozenset[str]:
        """The options someone chose: what `make` was given, else what is not the default."""
        told: frozenset[str] | None = self.__dict__.get("_given")
        if told is not None:
            return told
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return frozenset(f.name for f in fields if getattr(self, f.name) != f.default)

    def as_dict(self) -> dict[str, Any]:
        """Plain values (paths as text), None left out: what a TOML file can hold."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: _plain(value) for name, value in values.items() if value is not None}

    def as_toml(self, reasons: Mapping[str, str] | None = None) -> str:
        """The config as a TOML document that `load` reads back to the same config.

        reasons: why an option has its value, by name; written above it.
        """
        lines = [f"# fcnseg {self.verb}: every option, as resolved"]
        for name, value in self.as_dict().items():
            if reasons and name in reasons:
                lines.append(f"# {reasons[name]}")
            lines.append(f"{name} = {toml_value(value)}")
        return "\n".join(lines) + "\n"


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's values; OptionError when it is missing or malformed."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise OptionError(f"Can't read {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not a TOML file: {error}.") from None


def _sentence(error: pydantic.ValidationError) -> str:
    """The first thing wrong, in the words of the option."""
    first = error.errors()[0]
    where = str(first["loc"][0]).replace("_", "-") if first["loc"] else "options"
    what = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "missing":
        return f"{where}: a value is needed."
    return f"{where}: {what}; found {first['input']!r}."


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def toml_value(value: Any) -> str:
    """A plain value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


def _toml_string(text: str) -> str:
    r"""A TOML basic string: \ and " escaped, what is not printable escaped by number."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
