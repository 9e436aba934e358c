"""A dataset seen with the eyes of a model: its classes, in its order.

A test folder rarely has every class the model was trained on; alone it would be taken for a
dataset of fewer classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fcnseg.classes import ClassMap
from fcnseg.data.description import Description, Encoding
from fcnseg.data.encodings import BINARY
from fcnseg.data.known_classes import pack
from fcnseg.errors import DatasetError


def adopt_classes(
    description: Description, classes: ClassMap, encoding: Encoding | None = None
) -> Description:
    """The dataset with these classes; DatasetError when its own can't be matched to them.

    Names that the dataset gives decide, when the model has them all. Else what is stored does:
    encoding is how the classes were stored in what the model was trained on, and is used when
    all that is stored here is known to it. Else classes are matched by colour, or (when nothing
    names them) by number.
    """
    ours = description.encoding
    named = description.classes.names
    by_name = not _unnamed(named) and set(named) <= set(classes.names)
    if not by_name and encoding is not None and _knows(encoding, ours):
        merged = dataclasses.replace(
            encoding, snap=ours.snap, ignore=_ignored(ours, encoding), terms=ours.terms
        )
        return dataclasses.replace(description, classes=classes, encoding=merged)
    places = _places(description, classes)
    if places is None:
        raise DatasetError(
            f"The dataset's classes ({', '.join(description.classes.names[:8])}) can't be matched "
            f"to the model's ({', '.join(classes.names[:8])}).",
            hint="name them alike: fcnseg check FOLDER --write dataset.toml, edit it, and give it "
            "in place of the folder",
        )
    values: list[tuple[int, ...]] = [()] * len(classes)
    for place, stored in zip(places, ours.values, strict=True):
        values[place] = stored
    adopted = dataclasses.replace(ours, values=tuple(values))
    return dataclasses.replace(description, classes=classes, encoding=adopted)


def _knows(theirs: Encoding, ours: Encoding) -> bool:
    """Whether everything stored in our files means something in theirs."""
    same = (theirs.kind, theirs.store, theirs.terms) == (ours.kind, ours.store, ours.terms)
    stored = {value for values in ours.values for value in values}
    return same and stored <= {*theirs.class_of(), *theirs.ignore}


def _ignored(ours: Encoding, theirs: Encoding) -> tuple[int, ...]:
    known = theirs.class_of()
    return tuple(sorted({*theirs.ignore, *ours.ignore} - set(known)))


def _places(description: Description, classes: ClassMap) -> Sequence[int] | None:
    """For each class of the dataset its number in the model's; None when that can't be told."""
    names = description.classes.names
    if set(names) <= set(classes.names):
        return [classes.names.index(name) for name in names]
    if description.encoding.kind == "color":
        colors = [pack(*color) for color in classes.colors.tolist()]
        stored = [values[0] if values else -1 for values in description.encoding.values]
        if len(set(colors)) == len(colors) and set(stored) <= set(colors):
            return [colors.index(color) for color in stored]
    if (_unnamed(names) or _unnamed(classes.names)) and len(names) <= len(classes):
        return range(len(names))
    return None


def _unnamed(names: tuple[str, ...]) -> bool:
    """Whether the names were made up here, for want of any."""
    return names in (ClassMap.numbered(len(names)).names, BINARY)
