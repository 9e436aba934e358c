"""Prints train.json: the options of `train` as JSON Schema, for editors of TOML files."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fcnseg.config import TrainConfig
from fcnseg.config.options import Option, Options, options_of

_KINDS = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}

_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def schema_of(config: type[Options]) -> dict[str, Any]:
    """JSON Schema (2020-12) of the TOML file that `--config` takes, which run folders hold, too."""
    hints, options = get_type_hints(config), options_of(config)
    properties = {}
    for entry in dataclasses.fields(config):  # type: ignore[arg-type]
        option = options[entry.name]
        said = {"description": option.help, **_of(hints[entry.name], option)}
        if entry.default not in (None, ...):
            default = str(entry.default) if isinstance(entry.default, Path) else entry.default
            said["default"] = list(default) if isinstance(default, tuple) else default
        properties[entry.name] = said
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"fcnseg {config.command}",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _of(hint: Any, option: Option) -> dict[str, Any]:
    """The schema of a type; TOML has no null, so what may be None is left out there."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        some = [_of(part, option) for part in parts if part is not types.NoneType]
        return some[0] if len(some) == 1 else {"anyOf": some}
    if kind is Literal:
        return {"enum": [*parts, *(word for word in option.synonyms if word not in parts)]}
    if kind is tuple:
        items = _of(parts[0], option)
        if parts[-1] is Ellipsis:
            return {"anyOf": [items, {"type": "array", "items": items}]}
        count = len(parts)
        return {"type": "array", "items": items, "minItems": count, "maxItems": count}
    found: dict[str, Any] = {"type": _KINDS[hint]}
    if hint in (int, float):
        limits = {word: getattr(option, name) for name, word in _LIMITS.items()}
        found |= {word: limit for word, limit in limits.items() if limit is not None}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema_of(TrainConfig), indent=2, ensure_ascii=False) + "\n")
