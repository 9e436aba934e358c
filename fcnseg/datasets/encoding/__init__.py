"""Detect how labels are encoded: counted values and a class list -> Reading.

Independent of folders and files. Color labels are in fcnseg.datasets.encoding.colors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fcnseg.classes import (
    BACKGROUND_NAMES,
    BINARY,
    IGNORE,
    MAX_CLASSES,
    VOC_BORDER_COLOR,
    ClassMap,
    unpack,
)
from fcnseg.datasets import Encoding, LabelMeaning
from fcnseg.datasets.encoding.colors import read_colors
from fcnseg.datasets.encoding.entries import (
    Entry,
    by_stored_value,
    is_ignored,
)
from fcnseg.datasets.encoding.greys import (
    LARGEST,
    PHOTOGRAPH,
    are_greys,
    are_widely_spaced,
    as_greys,
    assign_greys,
    chroma,
    flat_greys,
    listed_greys,
    listed_values,
    lossy_indices,
    meaning_alone,
    nearest_totals,
    peaks,
    why_ignored,
    without_outliers,
)
from fcnseg.datasets.encoding.objects import (
    class_base,
    class_channel,
    classes_of_channel,
    only_channel,
    read_objects,
)
from fcnseg.datasets.encoding.values import GREY, LOSSY, MOST_VALUES, Values
from fcnseg.errors import DatasetError, counted, percent

BORDER_IS_BACKGROUND = 0.75
"""In a 0/255 mask, white is the background if it covers more than this fraction of the edge."""

NEARLY_GREY = 12
"""Maximum difference between the channels of a gray that compression has tinted."""


def read_values(values: Values, entries: Sequence[Entry] = ()) -> LabelMeaning:
    """Determine the class of each stored value; DatasetError if they can't be labels.

    entries: the class list found in the folder, if any.
    """
    if not values.pixels:
        raise DatasetError(
            "No label file could be read.", hint="open one of them: does an image viewer show it?"
        )
    if values.class_words:
        return _read_terms(values, entries)
    if values.aliases and not any(entry.ignored for entry in entries):  # else they define 255
        return _read_both_scales(values, entries)
    named_by_color = {entry.color for entry in entries} - {None}
    if values.kind == "color" and named_by_color >= values.pixels.keys() - {VOC_BORDER_COLOR}:
        return read_colors(values, entries)  # also if all are gray
    if values.kind == "color" and not named_by_color and (channel := class_channel(values)):
        return _read_channel(values, entries, channel)
    stored = {value for entry in entries for value in entry.values} - {0}
    base = class_base(values) if stored.isdisjoint(values.pixels) else 0
    if base or (values.instances and not entries):
        return read_objects(values, base, entries)
    if values.kind == "color":
        factor = only_channel(values)
        if factor:
            one, _ = classes_of_channel(values, factor)
            return _as_colors(read_values(one, entries), factor)
        exact = not (values.lossy or values.rest or len(values.pixels) > LOSSY)
        dark = max(max(unpack(c)) for c in values.pixels) <= NEARLY_GREY
        tint = 0 if exact or dark else NEARLY_GREY
        if all(chroma(color) <= tint for color in values.pixels):
            return _as_colors(read_values(as_greys(values), entries))
        return read_colors(values, entries)
    indices = lossy_indices(values) if values.lossy else 0
    if indices:
        why = "class indices stored as JPEG, which changes them"
        return LabelMeaning(Encoding.of(range(indices)), ClassMap.numbered(indices), None, (why,))
    smooth = len(values.pixels) > 2 and not values.exact
    drawn = values.solid or peaks(values) or flat_greys(values) if smooth else ()
    if drawn:
        return _read_greys(values, drawn, entries, nearest=True)
    levels = without_outliers(sorted(v for v in values.pixels if v >= 0), values)
    classes = [value for value in levels if value != IGNORE]
    listed = len(classes) > 1 and bool(listed_values(values, classes, entries))
    if values.band is not None and not listed and not assign_greys(levels, entries):
        return _read_without(values, values.band, ": a band between the others")
    if (are_greys(levels) or are_widely_spaced(levels)) and not listed:
        return _read_greys(values, levels, entries, nearest=False)
    if levels and levels[-1] > IGNORE:
        return _read_wide(values, levels, entries)
    return _read_indices(values, entries)


def named(
    names: Sequence[str], entries: Sequence[Entry] = (), colors: Sequence[int | None] = ()
) -> ClassMap:
    """A ClassMap with these names and packed colors; distinct colors where none is given.

    colors: used only if no two classes share one.
    """
    if None in colors or len(set(colors)) < len(colors):
        colors = ()
    by_name = {entry.name: entry.color for entry in entries}
    chosen = ClassMap.of(names).colors.tolist()
    for index, name in enumerate(names):
        color = colors[index] if index < len(colors) else by_name.get(name)
        if color is not None:
            chosen[index] = list(unpack(color))
    return ClassMap.of(names, chosen)


def _read_terms(values: Values, entries: Sequence[Entry]) -> LabelMeaning:
    """One class per word, in the class list's order; pixels without a word are background."""
    # Kaggle's ClassId, masks_2/
    numbers = [term.removeprefix("class_") for term in values.class_words]
    by_number = _numbered(entries, numbers)
    known = all(number in by_number for number in numbers)
    terms = [by_number[number] for number in numbers] if known else values.class_words
    number = {term: index for index, term in enumerate(terms, 1)}
    ignore = [number[term] for term in terms if is_ignored(term)]
    own = next((term for term in terms if term.lower() in BACKGROUND_NAMES), None)
    listed = [entry.name for entry in entries if not entry.ignored]
    things = [t for t in terms if t != own and not is_ignored(t)]
    if set(things) <= set(listed):
        order = listed
    else:
        order = sorted(things, key=lambda t: listed.index(t) if t in listed else len(listed))
    background = own or next((n for n in order if n.lower() in BACKGROUND_NAMES), "background")
    bare = 0 in values.pixels or own is not None or background in order
    names = order if background in order or not bare else [background, *order]
    stored = tuple(
        (*((0,) if name == background else ()), *((number[name],) if name in number else ()))
        for name in names
    )
    why = [f"{counted(len(things), 'class name')}: {', '.join(things[:12])}"]
    if 0 in values.pixels:
        why.append(f"what no area covers is {background}")
    if ignore:
        why.append(f"{', '.join(terms[value - 1] for value in ignore)} does not count")
    encoding = Encoding("index", stored, tuple(ignore), class_words=values.class_words)
    return LabelMeaning(encoding, named(names, entries), IGNORE if ignore else None, tuple(why))


def _numbered(entries: Sequence[Entry], terms: Sequence[str]) -> dict[str, str]:
    """The names of a class list by number. Without numbers, lines are counted: from 0 if 0 is a
    term or the first line is the background, else from 1."""
    if any(entry.value is not None for entry in entries) or not entries:
        return {str(entry.value): entry.name for entry in entries}
    from_0 = "0" in terms or entries[0].name.lower() in BACKGROUND_NAMES
    return {str(number): entry.name for number, entry in enumerate(entries, int(not from_0))}


def _read_indices(values: Values, entries: Sequence[Entry]) -> LabelMeaning:
    """Class indices 0, 1, 2 ..., possibly with 255; rare values far above the others are errors."""
    seen = sorted(value for value in values.pixels if 0 <= value != IGNORE)
    ignore = [value for value in values.pixels if value in (IGNORE, -1)]
    listed = listed_values(values, seen, entries)
    if listed:
        return _read_listed(values, listed, ignore)
    seen = [value for value in without_outliers(seen, values) if value != IGNORE] or [0]
    count = seen[-1] + 1
    distinct = sum(values.files.values()) / max(1, values.count)
    if distinct > (MOST_VALUES * 3 / 4 if values.lossy else PHOTOGRAPH):
        raise DatasetError(
            f"The label files have {distinct:.0f} different values each, on average: they look "
            "like photographs.",
            hint="check that images and labels were not exchanged",
        )
    first = int(seen[0] == 1 and len(seen) > 1)  # Matlab counts from 1; then 0 is not a class
    alone = meaning_alone(values.alone, entries)
    names = BINARY if seen == [0, 1] else ClassMap.numbered(count).names[first:]
    why = [f"label values are class indices {first}..{count - 1}"]
    why += why_ignored(ignore, alone)
    colors = [values.palette.get(index) for index in range(first, count)]
    return LabelMeaning(
        Encoding.of(range(first, count), ignore, alone=alone),
        named(names, colors=colors),
        ignore[0] if ignore else None,
        tuple(why),
        () if values.rim is None else (("", values.rim),),
        few_objects=values.few_objects and first == 0,
    )


def _read_without(
    values: Values, ignored: int, note: str = "", entries: Sequence[Entry] = ()
) -> LabelMeaning:
    """Read the values with one of them ignored. note: the reason, if it should be confirmed."""
    rest = {value: pixels for value, pixels in values.pixels.items() if value != ignored}
    reading = read_values(replace(values, pixels=rest, band=None, rim=None), entries)
    encoding = replace(reading.encoding, ignore=(*reading.encoding.ignore, ignored))
    why = (*reading.why, f"value {ignored} is ignored{note}")
    asked = (("", ignored),) if note else ()
    return replace(reading, encoding=encoding, ignore_index=ignored, why=why, unlabelled=asked)


def _read_listed(
    values: Values, listed: Sequence[tuple[Entry, int]], ignore: Sequence[int]
) -> LabelMeaning:
    stored: dict[Entry, tuple[int, ...]] = {}
    for entry, value in listed:
        if not entry.ignored:
            stored[entry] = (*stored.get(entry, ()), value)
    if sorted(stored.values()) == [(number,) for number in range(len(stored))]:
        stored = dict(sorted(stored.items(), key=lambda one: one[1]))  # keep the indices
    dropped = {value for entry, value in listed if entry.ignored}
    dropped |= set(ignore).difference(*stored.values())
    reported = sorted(dropped & values.pixels.keys()) or sorted(dropped)
    why = [f"label values are named by a class list ({counted(len(stored), 'class')})"]
    alone = meaning_alone(values.alone, [entry for entry, _ in listed])
    why += why_ignored(sorted(dropped), alone)
    colors = [
        values.palette.get(some[0]) if entry.color is None else entry.color
        for entry, some in stored.items()
    ]
    return LabelMeaning(
        Encoding("index", tuple(stored.values()), tuple(sorted(dropped)), alone=alone),
        named([entry.name for entry in stored], colors=colors),
        reported[0] if reported else None,
        tuple(why),
        tuple((entry.name, value) for entry, value in listed if entry.ignored),
    )


def _read_greys(
    values: Values, greys: Sequence[int], entries: Sequence[Entry], *, nearest: bool
) -> LabelMeaning:
    """One class per gray level; of two levels, the one at the images' edges is the background."""
    order = sorted(greys)
    drawn = listed_greys(order, entries)
    if drawn:
        reading = _read_listed(values, [(entry, grey) for grey, entry in drawn.items()], ())
        return replace(reading, encoding=replace(reading.encoding, nearest=nearest))
    near = nearest_totals(values, order)
    why = [f"label values are grays: {', '.join(str(grey) for grey in order)}"]
    if nearest:
        why.append("values in between were made by compression or resizing; the nearest is taken")
    names: Sequence[str] = ClassMap.numbered(len(order)).names
    edges = []
    if len(order) == 2:
        names = BINARY
        edge = near[order[1]][1] / max(1, near[order[0]][1] + near[order[1]][1])
        inside = near[order[1]][0] / max(1, near[order[0]][0] + near[order[1]][0])
        if edge > max(BORDER_IS_BACKGROUND, inside):
            order.reverse()
            edges = [
                f"{percent(edge, 0)} of the images' edges are {order[0]}: that is the background"
            ]
    rows = assign_greys(order, entries)
    if rows:
        reading = _read_listed(values, rows, ())
        encoding = replace(reading.encoding, nearest=nearest)
        return replace(reading, encoding=encoding, why=(*why, *reading.why))
    return LabelMeaning(Encoding.of(order, nearest=nearest), named(names), None, (*why, *edges))


def _read_wide(values: Values, levels: Sequence[int], entries: Sequence[Entry]) -> LabelMeaning:
    """16-bit values: 65535 is ignored, or each value is a class."""
    others = [value for value in levels if value not in (IGNORE, LARGEST)]
    if LARGEST in levels and (not others or others[-1] < IGNORE):
        if list(levels) == [0, LARGEST]:
            return _read_greys(values, levels, entries, nearest=False)
        if list(levels) == [0, IGNORE, LARGEST]:  # 8-bit masks beside 16-bit masks
            both = Encoding("index", ((0,), (IGNORE, LARGEST)))
            note = f"label values are grays: {IGNORE} or {LARGEST} is the object"
            return LabelMeaning(both, named(BINARY), None, (note,))
        return _read_without(values, LARGEST, entries=entries)
    if len(levels) > MAX_CLASSES:
        raise DatasetError(
            f"The labels have {len(levels)} different values up to {levels[-1]}; at most "
            f"{MAX_CLASSES} classes are possible.",
            hint="are these instance numbers? export class numbers instead",
        )
    rows = by_stored_value(entry for entry in entries if not entry.ignored)
    by_value = {value: entry.name for entry in entries for value in entry.values}
    names = [entry.name for entry in rows]
    if len(names) != len(levels) or by_value.keys() & {*levels}:
        names = [by_value.get(value, f"class_{value}") for value in levels]
    why = f"{len(levels)} values up to {levels[-1]}: a class for each"
    return LabelMeaning(Encoding.of(levels), named(names, entries), None, (why,))


def _read_channel(values: Values, entries: Sequence[Entry], factor: int) -> LabelMeaning:
    """Classes in one channel; the other channels are ignored."""
    one, colors = classes_of_channel(values, factor)
    reading = read_values(one, entries)
    why = "one channel holds the classes, others number their objects"
    stored, ignore = reading.encoding.values, reading.encoding.ignore
    encoding = Encoding(
        "color",
        tuple(tuple(c for number in some for c in colors.get(number, ())) for some in stored),
        tuple(color for number in ignore for color in colors.get(number, ())),
    )
    return replace(reading, encoding=encoding, why=(why, *reading.why))


def _as_colors(reading: LabelMeaning, factor: int = GREY) -> LabelMeaning:
    """Convert a reading of numbers for files that store them as grays or in one channel."""
    encoding = reading.encoding
    return replace(
        reading,
        encoding=Encoding(
            "color",
            tuple(tuple(value * factor for value in values) for values in encoding.values),
            tuple(value * factor for value in encoding.ignore if 0 <= value <= IGNORE),
            nearest=encoding.nearest,
        ),
    )


def _read_both_scales(values: Values, entries: Sequence[Entry]) -> LabelMeaning:
    """Some files store indices (0, 1), others grays (0, 255), for the same classes."""
    folded = replace(values, aliases={}, pixels={}, border={}, files={}, palette={})
    for value, pixels in values.pixels.items():
        index = values.aliases.get(value, value)
        folded.pixels[index] = folded.pixels.get(index, 0) + pixels
        folded.border[index] = folded.border.get(index, 0) + values.border[value]
        folded.files[index] = folded.files.get(index, 0) + values.files[value]
    reading = read_values(folded, entries)
    greys = {index: grey for grey, index in values.aliases.items()}
    stored = tuple(
        (*some, *(greys[value] for value in some if value in greys))
        for some in reading.encoding.values
    )
    shown = ", ".join(f"{grey} as {index}" for grey, index in values.aliases.items())
    why = f"some files store grays where others store indices: {shown} is read"
    return replace(
        reading, encoding=replace(reading.encoding, values=stored), why=(*reading.why, why)
    )
