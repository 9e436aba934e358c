"""Labels that number objects: what their numbers say of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fcnseg.classes import BINARY, ClassMap
from fcnseg.datasets import Encoding, Reading
from fcnseg.datasets.encoding.values import Values
from fcnseg.errors import counted

_BASES = (1000, 256)
"""class * 1000 + object (Cityscapes), class * 256 + object (KITTI, Mapillary)."""


def read_objects(values: Values, base: int) -> Reading:
    """Numbers of objects: what has one is object, 0 is background.

    base: of `class_base`; where the numbers hold classes, a class for each.
    """
    numbers = tuple(sorted(value for value in values.pixels if value > 0))
    if base:
        return _read_classes(values, numbers, base)
    shown = f"values up to {numbers[-1]}" if values.kind == "index" else f"{len(numbers)} colours"
    why = (
        f"{shown} number the objects of each file anew: read as background and "
        "object (a dataset.toml with a [[class]] for each value reads them otherwise)"
    )
    kind: Literal["index", "color"] = "index" if values.kind == "index" else "color"
    return Reading(Encoding(kind, ((0,), numbers)), ClassMap.of(BINARY), None, (why,))


def class_base(values: Values) -> int:
    """What numbers of objects divide by to give classes; 0 where they hold none.

    Each class then numbers its objects from 0 or 1 on, with few gaps; other large numbers do not.
    """
    numbers = sorted(value for value in values.pixels if value > 0)
    if values.kind != "index" or values.rest or not numbers:
        return 0
    for base in _BASES:
        of_class: dict[int, list[int]] = {}
        for number in numbers:
            of_class.setdefault(number // base, []).append(number % base)
        in_a_row = all(max(some) <= 2 * len(some) for some in of_class.values())
        if numbers[0] >= base and 1 < len(of_class) < len(numbers) and in_a_row:
            return base
    return 0


def _read_classes(values: Values, numbers: Sequence[int], base: int) -> Reading:
    found = sorted({number // base for number in numbers})
    stored = [tuple(n for n in numbers if n // base == one) for one in found]
    if 0 in values.pixels:
        stored.insert(0, (0,))
    why = (
        f"values are class * {base} + object: {counted(len(found), 'class')} "
        f"({', '.join(map(str, found[:12]))})"
    )
    classes = ClassMap.numbered(len(stored))
    return Reading(Encoding("index", tuple(stored)), classes, None, (why,))
