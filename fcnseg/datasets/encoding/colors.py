"""Detect the classes of color labels, also of labels blurred by resampling or JPEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from fcnseg.classes import (
    BACKGROUND_NAMES,
    BINARY,
    CAMVID_32,
    CITYSCAPES,
    CITYSCAPES_UNSCORED,
    IGNORE,
    MAX_CLASSES,
    VOC_BORDER_COLOR,
    ClassMap,
    pack,
    unpack,
    voc_palette,
)
from fcnseg.datasets import Encoding, LabelMeaning
from fcnseg.datasets.encoding.entries import Entry, by_stored_value
from fcnseg.datasets.encoding.values import LOSSY, Values
from fcnseg.errors import DatasetError, counted

SAME = 24
"""Colors at a smaller distance (in RGB) are one color, changed by compression."""

NOISE = 2
"""Up to twice that distance, a color is noise if the other one has this many times its pixels."""

MOST_COMPARED = 1000
"""Maximum number of colors of lossy labels to compare, the most frequent first."""

RAMP = 4
"""At least this many colors between the same two are the result of smoothing ..."""

RARER = 5
"""... if each of the two has this many times the pixels of each color between them ..."""

NEAR = 2.0
"""... and the colors are no farther from the line between the two, in each channel."""

MOVED = 6
"""Greatest change of a channel within an area by compression."""

FLAT = 0.6
"""Least fraction of the pixels of lossy labels that are near one of the few true colors."""

MOST_OF_EDGES = 0.75
"""Of two colors, one that covers more than this fraction of the images' edges is the background."""

_WHITE = 0xFFFFFF

_ROAD = 0x804080  # of CamVid and of Cityscapes; required to recognise either


def read_colors(values: Values, entries: Sequence[Entry] = ()) -> LabelMeaning:
    """Determine the class of each color; DatasetError if there are too many to be classes."""
    listed = [entry for entry in entries if entry.color is not None]
    if listed:
        return _read_listed(values, listed)
    lossy = values.lossy or values.rest > 0 or len(values.pixels) > LOSSY
    drawn = values.solid or (() if lossy else without_gradients(values))
    seen = list(drawn) or (_dominant(values) if lossy else sorted(values.pixels))
    lossy = lossy or bool(drawn)
    if lossy and not values.solid and _pixels_near(values, seen) < FLAT * values.total:
        raise DatasetError(
            f"The label files have {len(values.pixels):,} colors or more, and no few of them "
            "cover most of the pixels: they look like photographs.",
            hint="check that images and labels were not exchanged; if the colors are instances, "
            "a class list with colors (class_dict.csv) says which ones count",
        )
    reading = _read_published(seen, lossy) or _read_voc(seen, lossy, entries)
    if reading:
        return reading
    colors = [color for color in seen if color != VOC_BORDER_COLOR]
    ignore = (VOC_BORDER_COLOR,) if VOC_BORDER_COLOR in seen else ()
    names = ClassMap.numbered(len(colors)).names
    why = f"labels are {len(colors)} colors, in the order of their RGB values (black first)"
    ground = _background(values, colors)
    if ground is not None:
        colors.sort(key=lambda color: color != ground)
        names = _two_names(entries, ground)
        why = f"labels are two colors, of which #{ground:06x} is the background"
    return _reading([(color,) for color in colors], names, ignore, lossy, why)


def _two_names(entries: Sequence[Entry], ground: int) -> tuple[str, str]:
    """The names of background and object in a class list that names both, or only the object. Of
    two names that are not a background's, the first belongs to black."""
    names = [entry.name for entry in by_stored_value(entries)]
    objects = [name for name in names if name.lower() not in BACKGROUND_NAMES]
    if len(objects) == len(names) == 2 and ground == 0 and not any(e.ignored for e in entries):
        return names[0], names[1]
    if len(objects) != 1 or len(names) > 2:
        return BINARY
    own = next((name for name in names if name not in objects), BINARY[0])
    return own, objects[0]


def _background(values: Values, colors: Sequence[int]) -> int | None:
    """The background of two colors of which one is black or white; None if unknown.

    Black is, unless the other color covers most of the images' edges; white is if it does.
    """
    if len(colors) != 2 or {0, _WHITE}.isdisjoint(colors):
        return None
    plain = 0 if 0 in colors else _WHITE
    other = next(color for color in colors if color != plain)
    edge, inside = (
        counts.get(plain, 0) / max(1, counts.get(plain, 0) + counts.get(other, 0))
        for counts in (values.border, values.pixels)
    )
    if plain == 0:
        return 0 if 1 - edge <= max(MOST_OF_EDGES, 1 - inside) else other
    return _WHITE if edge > max(MOST_OF_EDGES, inside) else None


def _read_listed(values: Values, listed: Sequence[Entry]) -> LabelMeaning:
    exchanged = _are_exchanged(values, {entry.color for entry in listed})
    if exchanged:
        listed = [replace(entry, color=_exchanged(entry.color or 0)) for entry in listed]
    known = {entry.color for entry in listed}
    classes = [entry for entry in listed if not entry.ignored]
    ignore = tuple(entry.color or 0 for entry in listed if entry.ignored)
    unlisted = [color for color in values.pixels if color not in known]
    ramps = set(unlisted).isdisjoint(values.solid or without_gradients(values) or unlisted)
    lossy = values.rest > 0 or len(unlisted) > (0 if values.lossy or ramps else LOSSY)
    if VOC_BORDER_COLOR in unlisted:
        ignore = (*ignore, VOC_BORDER_COLOR)
    why = f"labels are colors, named by a class list ({counted(len(classes), 'class')})"
    why += ", of which red and blue are exchanged (OpenCV writes BGR)" if exchanged else ""
    stored = [(entry.color or 0,) for entry in classes]
    names = [entry.name for entry in classes]
    if 0 in unlisted and 2 * values.pixels[0] > values.total and "background" not in names:
        stored, names = [(0,), *stored], ["background", *names]
        why += "; black, which is most of the pixels and in no line of it, is background"
    reading = _reading(stored, names, ignore, lossy, why)
    unlabelled = tuple((entry.name, entry.color or 0) for entry in listed if entry.ignored)
    return replace(reading, unlabelled=unlabelled)


def _exchanged(color: int) -> int:
    """A packed color with red and blue exchanged."""
    return pack(*reversed(unpack(color)))


def _are_exchanged(values: Values, known: Set[int | None]) -> bool:
    """Whether a list contains all colors only with red and blue exchanged."""
    return not known >= values.pixels.keys() and known >= {*map(_exchanged, values.pixels)}


def _reading(
    stored: Sequence[tuple[int, ...]],
    names: Sequence[str],
    ignore: tuple[int, ...],
    lossy: bool,
    why: str,
) -> LabelMeaning:
    reasons = [why]
    if lossy:
        reasons.append("colors in between were made by compression or resizing; nearest taken")
    if ignore:
        shown = ", ".join(f"#{color:06x}" for color in ignore)
        reasons.append(f"{shown} is ignored")
    encoding = Encoding("color", tuple(stored), ignore, nearest=lossy)
    classes = ClassMap.of(names, [unpack(values[0]) for values in stored])
    return LabelMeaning(encoding, classes, IGNORE if ignore else None, tuple(reasons))


_PUBLISHED: tuple[tuple[str, Mapping[str, int], tuple[int, ...]], ...] = (
    (
        "CamVid's",
        {name: color for name, color in CAMVID_32.items() if name != "Void"},
        (CAMVID_32["Void"],),
    ),
    (
        "Cityscapes'",
        {n: pack(*c) for n, c in zip(CITYSCAPES.names, CITYSCAPES.colors.tolist(), strict=True)},
        CITYSCAPES_UNSCORED,
    ),
)
"""Color tables: whose they are, class -> color, and the colors that are ignored."""


def _read_published(seen: Sequence[int], lossy: bool) -> LabelMeaning | None:
    for whose, colors, ignored in _PUBLISHED:
        known = (*ignored, *colors.values())
        found = {*(_nearby(seen, known) if lossy else seen)}
        if found <= {*known} and len(found) >= 5 and _ROAD in found:
            why = f"colors are {whose} {len(colors)} classes"
            return _reading([(c,) for c in colors.values()], [*colors], ignored, lossy, why)
    return None


def _read_voc(seen: Sequence[int], lossy: bool, entries: Sequence[Entry]) -> LabelMeaning | None:
    """Colors of PASCAL VOC's palette: the position in the palette is the class index."""
    seen = _nearby(seen, (*voc_palette(64), VOC_BORDER_COLOR)) if lossy else seen
    place = {color: index for index, color in enumerate(voc_palette())}
    places = [place[color] for color in seen if color in place]
    border = VOC_BORDER_COLOR in seen
    if len(places) + border < len(seen) or not places or max(places) > 2 * len(places):
        return None
    count = max(places) + 1
    why = f"colors are the first {count} of PASCAL VOC's palette"
    rows = _in_places(entries, count)
    colors = [(color,) for color in voc_palette(len(rows) or count)]
    ignore: tuple[int, ...] = (VOC_BORDER_COLOR,) if border else ()
    ignore += tuple(color for (color,), row in zip(colors, rows, strict=False) if row.ignored)
    stored = [color for color in colors if color[0] not in ignore]
    names = [row.name for row in rows if not row.ignored] or ClassMap.numbered(count).names
    return _reading(stored, names, ignore, lossy, why)


def _in_places(entries: Sequence[Entry], count: int) -> list[Entry]:
    """A class list without colors that has one line for each of the first `count` colors of a
    palette (or more lines, the background first), or for all but the background; else []."""
    every = by_stored_value(entries)
    rows = [entry for entry in every if not entry.ignored]
    own = [place for place, row in enumerate(rows) if row.name.lower() in BACKGROUND_NAMES]
    if len(rows) != count and len(every) == count:
        rows = every
    if len(rows) == count - 1 and not own:
        rows = [Entry(BINARY[0]), *rows]
    return rows if len(rows) == count or (len(rows) > count and own[:1] == [0]) else []


def _nearby(seen: Sequence[int], table: Sequence[int]) -> list[int]:
    """Replace lossy colors with the colors of a table that they are very near to."""
    known = np.array([unpack(color) for color in table])
    moved = []
    for color in seen:
        distance = np.abs(known - np.array(unpack(color))).max(1)
        near = int(distance.argmin())
        moved.append(pack(*known[near].tolist()) if distance[near] <= SAME / 4 else color)
    return sorted(set(moved))


def _dominant(values: Values) -> list[int]:
    """The original colors of lossy labels: frequent together with those near them, and neither near
    a more frequent one nor noise around it."""
    order = sorted(values.pixels, key=lambda color: -values.pixels[color])[:MOST_COMPARED]
    points = np.array([unpack(color) for color in order], np.float64).reshape(-1, 3)
    pixels = np.array([values.pixels[color] for color in order])
    apart = [np.sqrt(((points - point) ** 2).sum(1)) for point in points]
    held = np.array([pixels[distance < SAME].sum() for distance in apart])
    chosen: list[int] = []
    for place in np.lexsort((-pixels, -held)).tolist():
        if held[place] < values.total / 1000 or len(chosen) > MAX_CLASSES:
            break
        weight = held[place]
        place = int(np.where(apart[place] < SAME, pixels, 0).argmax())
        near = apart[place][chosen]
        noise = (near < 2 * SAME) & (held[chosen] > NOISE * weight)
        if not (near < SAME).any() and (not noise.any() or pixels[place] > values.total / 200):
            chosen.append(place)
    return _in_order([order[place] for place in chosen])


def _in_order(colors: Sequence[int]) -> list[int]:
    """Sort colors by channel; near values count as equal, because compression changes them."""
    steps = [sorted({unpack(color)[channel] for color in colors}) for channel in range(3)]
    rank = [
        dict(zip(some, np.cumsum(np.diff(some, prepend=0) > MOVED).tolist(), strict=True))
        for some in steps
    ]
    return sorted(colors, key=lambda color: ([rank[n][unpack(color)[n]] for n in range(3)], color))


def without_gradients(values: Values) -> tuple[int, ...]:
    """The colors that cover areas, if smoothing has added many rare ones between two of them.

    () otherwise: a few colors between two others may be classes.
    """
    order = sorted(values.pixels, key=lambda color: -values.pixels[color])
    if not RAMP < len(order) <= LOSSY:
        return ()
    kept: list[int] = []
    steps: dict[tuple[int, int], list[int]] = {}
    for color in order:
        ends = _mixture_of(color, kept, values.pixels)
        if ends is None:
            kept.append(color)
        else:
            steps.setdefault(ends, []).append(color)
    if max(map(len, steps.values()), default=0) < RAMP:
        return ()
    areas = sorted(color for color in kept if values.pixels[color] >= values.total / 1000)
    held = sum(values.pixels[color] for color in areas)
    return tuple(areas) if held >= 0.8 * values.total else ()


def _mixture_of(
    color: int, kept: Sequence[int], pixels: Mapping[int, int]
) -> tuple[int, int] | None:
    """The two far more frequent colors of which a color is a mixture; None if there are none."""
    mixed = np.array(unpack(color), np.float64)
    frequent = [other for other in kept if pixels[other] >= RARER * pixels[color]][:MAX_CLASSES]
    for place, one in enumerate(frequent):
        start = np.array(unpack(one), np.float64)
        for other in frequent[place + 1 :]:
            way = np.array(unpack(other), np.float64) - start
            part = float((mixed - start) @ way / (way @ way))
            if 0 < part < 1 and float(np.abs(start + part * way - mixed).max()) <= NEAR:
                return one, other
    return None


def _pixels_near(values: Values, chosen: Sequence[int]) -> int:
    """Number of pixels with a color near a chosen one; uncounted colors are not."""
    if not 0 < len(chosen) <= MAX_CLASSES:
        return 0
    colors = np.array([unpack(color) for color in values.pixels])
    pixels = np.array(list(values.pixels.values()))
    nearest = np.full(len(colors), np.inf)
    for color in chosen:
        nearest = np.minimum(nearest, ((colors - np.array(unpack(color))) ** 2).sum(1))
    return int(pixels[nearest < SAME**2].sum())
