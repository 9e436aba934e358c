"""What the class indices mean: names, colours, and which pixels do not count."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import InputError, OptionError, did_you_mean

IGNORE = 255
"""The value of a pixel that does not count, in every labels array inside fcnseg."""

MAX_CLASSES = 255
"""Labels are uint8 and 255 is taken."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Names and colours of K classes; index 255 is always "ignore".

    names: K distinct names.
    colors: uint8 (K, 3), RGB.
    """

    names: tuple[str, ...]
    colors: NDArray[np.uint8]

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 1 <= count <= MAX_CLASSES:
            raise InputError(f"{count} classes; between 1 and {MAX_CLASSES} are possible.")
        if len(set(self.names)) != count:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(f"Class names must differ; given twice: {', '.join(twice)}.")
        if self.colors.shape != (count, 3) or self.colors.dtype != np.uint8:
            raise InputError(
                f"{count} class names need uint8 colours of shape ({count}, 3); "
                f"found {self.colors.dtype} {self.colors.shape}."
            )

    @classmethod
    def of(cls, names: Sequence[str], colors: Sequence[Sequence[int]] | None = None) -> ClassMap:
        """Classes by name; colours are chosen to differ when none are given."""
        chosen = distinct_colors(len(names)) if colors is None else np.array(colors, np.uint8)
        return cls(tuple(names), chosen)

    @classmethod
    def numbered(cls, count: int) -> ClassMap:
        """class_0 ... class_{count-1}, for labels that come without names."""
        return cls.of([f"class_{index}" for index in range(count)])

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ClassMap)
            and self.names == other.names
            and np.array_equal(self.colors, other.colors)
        )

    def __hash__(self) -> int:
        return hash(self.names)

    def index_of(self, wanted: str) -> int:
        """The index of a class given by its name or number; OptionError lists the known."""
        if wanted in self.names:
            return self.names.index(wanted)
        if wanted.isdecimal() and int(wanted) < len(self):
            return int(wanted)
        hint = did_you_mean(wanted, self.names, "give one of the names above, or its number")
        raise OptionError(f"No class {wanted!r}; known: {', '.join(self.names)}.", hint=hint)

    def palette(self) -> NDArray[np.uint8]:
        """(256, 3) uint8 RGB: the class colours, grey for unused indices, white-ish for ignore."""
        palette = np.full((256, 3), 128, np.uint8)
        palette[: len(self)] = self.colors
        palette[IGNORE] = (224, 224, 192)
        return palette

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header."""
        return {"names": list(self.names), "colors": self.colors.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassMap:
        """The inverse of as_dict; InputError when the data is not of its form."""
        try:
            return cls.of([str(name) for name in data["names"]], data["colors"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Not a class map: {error}.") from error


def distinct_colors(count: int) -> NDArray[np.uint8]:
    """(count, 3) uint8 RGB; the first is near black when there are several (background)."""
    hues = (np.arange(count) * 0.61803398875) % 1.0
    colors = [
        colorsys.hsv_to_rgb(hue, 0.85 - 0.25 * (index % 3 == 1), 0.95 - 0.3 * (index % 4 == 2))
        for index, hue in enumerate(hues)
    ]
    table = np.round(np.array(colors) * 255).astype(np.uint8).reshape(count, 3)
    if count > 1:
        table[0] = (40, 40, 40)
    return table
