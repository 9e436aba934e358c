"""What may be one class and is read as two: numbers beside colours, names that are nearly equal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fcnseg.classes import IGNORE
from fcnseg.datasets.check.findings import Finding, are, label_names
from fcnseg.datasets.encoding.values import GREY, GREYS
from fcnseg.datasets.scan import Scanned


def two_storages(seen: Scanned) -> Iterable[Finding]:
    """Label files that hold numbers (0, 1, 2) where others hold colours: nothing says which number
    is which colour."""
    encoding = seen.description.encoding
    if seen.values.kind != "color" or encoding.terms:
        return
    known = encoding.class_of()
    numbered = []
    for index, one in enumerate(seen.labels.counts):
        if one is not None and one.kind == "index" and not one.palette:
            held = {*one.values} - {0, IGNORE}
            if held and max(held) < GREYS and {value * GREY for value in held} <= known.keys():
                numbered.append(index)
    if numbered and len(numbered) < len(seen.description.pairs):
        yield Finding(
            "warning",
            "two-storages",
            f"Of the label files {are(len(numbered), 'file')} of numbers, the others are in "
            "colors: each number and each color is read as a class of its own.",
            label_names(seen, numbered),
            repair="save all label files in one way, or write a dataset.toml (--write) with the "
            "color and the number (1 is #010101) of a class under its `values`",
        )


def names_alike(seen: Scanned) -> Iterable[Finding]:
    """Class names that differ in capitals, spaces or hyphens alone: typed by several people."""
    by_letters: dict[str, list[str]] = {}
    for name in seen.description.classes.names:
        by_letters.setdefault(re.sub(r"[\s_-]+", "", name).casefold(), []).append(name)
    alike = [" and ".join(names) for key, names in by_letters.items() if key and len(names) > 1]
    if alike:
        yield Finding(
            "warning",
            "names-alike",
            f"Is each of these one class? {', '.join(alike)}. They are read as two.",
            repair="if it is, use one name in the annotations, or write a dataset.toml (--write) "
            "with one [[class]] that has the `values` of both",
        )
