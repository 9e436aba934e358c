"""Match a dataset's classes to a model's.

A test folder rarely contains every class that the model was trained on; read on its own, it would
have fewer classes. Classes are matched by name; without names, by the stored values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fcnseg.classes import BINARY, ClassMap, background_of, is_unnamed, pack, unpack
from fcnseg.datasets import Description, Encoding
from fcnseg.datasets.encoding.entries import plain_name
from fcnseg.errors import DatasetError

_HINT = (
    "name them as the model does: fcnseg check FOLDER --write dataset.toml, edit each `name` "
    "there, and give dataset.toml in place of the folder"
)

Indices = Sequence[int | None]
"""The model's class index of each class of the dataset; None if the model has no such class."""


def match_classes(
    description: Description, classes: ClassMap, encoding: Encoding | None = None
) -> Description:
    """Give the dataset a model's classes; pixels of other classes are ignored.

    Classes are matched by name if both sides have names. Else `encoding`, that of the training
    data, is used if it contains all stored values; else classes are matched by color, or by number
    if numbers have a meaning.
    DatasetError if they can't be matched, or if only the background would be scored.
    """
    names = description.classes.names
    if not is_unnamed(names) and not is_unnamed(classes.names):
        places = _by_name(names, classes.names) or _by_color(description, classes)
    elif encoding is not None and _contains_all(encoding, description, classes):
        return _with_encoding(description, classes, encoding)
    else:
        places = _by_color(description, classes)
        if places is None and (len(names) == 2 or _has_order(description.encoding)):
            places = _by_number(names, classes.names)
    if places is None:
        raise DatasetError(
            f"The dataset's classes ({first_names(names)}) can't be matched to the model's "
            f"({first_names(classes.names)}).",
            hint=_HINT,
        )
    return _with_indices(description, classes, places)


def mapping(before: Description, after: Description) -> str:
    """Describe the matching: "255 is background, 0 is nucleus; 7: ignored"."""
    class_of = after.encoding.class_of()
    meanings, ignored = [], []
    for value in (value for values in before.encoding.values for value in values):
        index = class_of.get(value)
        shown = before.encoding.shown(value)
        word = "the rest" if before.encoding.class_words and shown == value else str(shown)
        if index is None:
            ignored.append(word)
        else:
            meanings.append(f"{word} is {after.classes.names[index]}")
    rest = f"; {', '.join(ignored)}: ignored" if ignored else ""
    return ", ".join(meanings[:12]) + rest


def _with_encoding(description: Description, classes: ClassMap, theirs: Encoding) -> Description:
    ours = description.encoding
    ignored = tuple(sorted({*theirs.ignore, *ours.ignore} - set(theirs.class_of())))
    merged = dataclasses.replace(
        theirs,
        nearest=ours.nearest,
        ignore=ignored,
        class_words=ours.class_words,
        alone=ours.alone or theirs.alone,
    )
    return dataclasses.replace(description, classes=classes, encoding=merged)


def _with_indices(description: Description, classes: ClassMap, places: Indices) -> Description:
    ours = description.encoding
    values: list[tuple[int, ...]] = [()] * len(classes)
    ignore = set(ours.ignore)
    for place, stored in zip(places, ours.values, strict=True):
        if place is None:
            ignore.update(stored)
        else:
            values[place] = (*values[place], *stored)
    background = background_of(classes.names)
    scored = [name for i, name in enumerate(classes.names) if values[i] and i != background]
    if len(classes) > 1 and not scored:
        raise DatasetError(
            f"Of the dataset's classes ({first_names(description.classes.names)}) the model "
            f"({first_names(classes.names)}) has only the background; nothing else is scored.",
            hint=_HINT,
        )
    encoding = dataclasses.replace(ours, values=tuple(values), ignore=tuple(sorted(ignore)))
    return dataclasses.replace(description, classes=classes, encoding=encoding)


def _contains_all(theirs: Encoding, description: Description, classes: ClassMap) -> bool:
    """Whether the training data's encoding contains all stored values, with the same meaning.

    0 and 1, or 0 and 255, may be a mask of any object: with a model of several classes it is
    ambiguous.
    """
    ours, known = description.encoding, theirs.class_of()
    stored = {value for values in ours.values for value in values}
    same = (theirs.kind, theirs.label_format, theirs.class_words) == (
        ours.kind,
        ours.label_format,
        ours.class_words,
    )
    if not same or not stored <= {*known, *theirs.ignore}:
        return False
    if description.classes.names != BINARY:
        return True
    if len(classes) == 2:
        background = background_of(classes.names) or 0
        objects = {*ours.values[1]}  # 255 may be what theirs ignores
        return objects <= known.keys() and all(
            known.get(value) == background for value in ours.values[0]
        )
    return stored <= known.keys() and ours.kind == "index" and stored not in ({0, 1}, {0, 255})


def _by_name(names: Sequence[str], known: Sequence[str]) -> Indices | None:
    """Match by name; None if only the background matches, unless each side has one other class."""
    index = {plain_name(name): number for number, name in enumerate(known)}
    places = [index.get(plain_name(name)) for name in names]
    ours, theirs = background_of(names), background_of(known)
    if ours is not None and theirs is not None:
        places[ours] = theirs
        if len(names) == len(known) == 2:
            places[1 - ours] = 1 - theirs
    shared = {place for place in places if place is not None}
    return places if shared - {theirs} or len(shared) == len(names) else None


def _by_color(description: Description, classes: ClassMap) -> Indices | None:
    if description.encoding.kind != "color":
        return None
    colors = [pack(*color) for color in classes.colors.tolist()]
    stored = [values[0] if values else -1 for values in description.encoding.values]
    if len(set(colors)) == len(colors) and set(stored) <= set(colors):
        return [colors.index(color) for color in stored]
    return None


def _by_number(names: tuple[str, ...], known: tuple[str, ...]) -> Indices | None:
    """Match numbered classes by number; background and object only if the model has two classes."""
    if names == BINARY and len(known) != 2:
        return None
    background = background_of(known)
    if names == BINARY and background == 1:
        return [1, 0]
    return range(len(names)) if len(names) <= len(known) else None


def _has_order(encoding: Encoding) -> bool:
    """Whether class numbers have a meaning: colors have no order.

    Grays, and levels of a single channel, are numbers stored in color files.
    """
    if encoding.kind == "index" or any(len(values) > 1 for values in encoding.values):
        return True
    colors = [unpack(value) for values in encoding.values for value in values if value]
    levels = all(len({*color} - {0}) == 1 for color in colors)
    return levels and len({tuple(map(bool, color)) for color in colors}) == 1


def is_inverted(encoding: Encoding) -> bool:
    """Whether there are two classes and the object is stored as the smaller value."""
    return len(encoding.values) == 2 and encoding.values[0] > encoding.values[1]


def first_names(names: Sequence[str]) -> str:
    """The first eight names as text."""
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
