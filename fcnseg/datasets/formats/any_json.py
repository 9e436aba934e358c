"""Other JSON formats whose objects have an outline and a name, for one image, many, or one per line
(VoTT, Prodigy, HuBMAP, DeepFashion2, ISAT, EISeg, Scale, Kili, Encord, BDD100K)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.datasets import Pairing
from fcnseg.datasets.formats.documents import (
    Annotated,
    Area,
    Document,
    Format,
    annotated,
    holding,
    outlined,
)
from fcnseg.datasets.pairing import Listing, is_image, marks, stem_of
from fcnseg.datasets.pairing.by_words import ONE_CLASS
from fcnseg.errors import PARSE_ERRORS, from_bytes
from fcnseg.io import cv2
from fcnseg.io.annotations import NAMES, rings_in, word_of
from fcnseg.io.images import image_size

_FILES = ("image", "filename", "imagename", "imagepath", "file", "name", "path")
"""Keys of an image's name, normalized by `word_of`, most likely first."""

_OTHER_FILES = re.compile("mask|thumb|label|seg|preview|overlay|result|category|class")
"""Words in keys of other files."""

_IDS = ("imageid", "externalid", "datatitle", "id", "image", "name", "title", "key", "uuid")

_NUMBERS = ("categoryid", "classid", "labelid", "labelfileid", "labelidx")

_LAST = ("name", "title", "value", "text", "type", "kind")
"""Keys that may contain a class name if no other does."""

_INNER = ("attributes", "properties", "regionattributes")

_FLAT = frozenset(["polyline", "line", "linestrip", "point", "points", "keypoint", "keypoints"])

_FORMS = _FLAT | {
    "polygon", "polygons", "rect", "rectangle", "box", "bbox", "segment", "semantic", "brush",
    "bitmap", "mask", "circle", "ellipse", "freehand", "closed", "region", "path", "shape",
    "feature", "object", "multipolygon", "annotation",
}  # fmt: skip
"""Words for kinds of shapes, which are not class names."""

_LAYERS = ("layer", "zindex", "zorder")

_LONGEST_NAME = 1000

Json = Mapping[str, Any]

Above = tuple[tuple[str, Json], ...]
"""The objects that contain a shape, outermost first, each with the key of its descendant."""


@dataclass
class _Entry:
    """The shapes of an image. file: "" if only its id is known."""

    file: str
    id: str
    size: tuple[int, int] | None
    shapes: list[tuple[float, Area | None]] = field(default_factory=list)


def _parse(path: Path) -> Document:
    text = from_bytes(path.read_bytes()).strip()
    lines = [text] if path.suffix.lower() == ".json" else text.splitlines()
    values = [json.loads(line) for line in lines if line.strip()]
    names, files = _tables(values)
    entries: dict[tuple[int, str], _Entry] = {}
    for number, value in enumerate(values):
        for shape, above in _shapes(value, ()):
            entry = _entry_of(shape, above, files)
            at = 0 if entry.file else number, entry.file or entry.id
            words = _words(shape)
            layer = next(
                (words[key] for key in _LAYERS if isinstance(words.get(key), int | float)), 0
            )
            some = entries.setdefault(at, entry).shapes
            some += [(float(layer), area) for area in _areas_of(shape, words, names)]
    if not entries and len(values) == 1 and _is_empty(values[0]):
        file = _file_of(values[0]) if isinstance(values[0], Mapping) else ""
        return Document({"": Annotated(file or stem_of(path.name), also=stem_of(path.name))})
    if not any(area for entry in entries.values() for _, area in entry.shapes):
        return Document()
    for file in _without_shapes(values, {entry.file for entry in entries.values()}):
        entries[0, file] = _Entry(file, "", None)
    images = {}
    for number, entry in enumerate(entries.values()):
        single = len(entries) == 1 and not entry.file
        file, also = (stem_of(path.name), entry.id) if single else (entry.file or entry.id, "")
        areas = [area for _, area in sorted(entry.shapes, key=lambda one: one[0])]
        ordered = len({layer for layer, _ in entry.shapes}) > 1
        part = str(number) if len(entries) > 1 else ""
        images[part] = annotated(file, entry.size, areas, ordered=ordered, also=also)
    return Document(images, tuple(dict.fromkeys(names.values())))


def _words(value: Json) -> dict[str, Any]:
    return {word_of(key): one for key, one in value.items()}


def _is_out(value: Json) -> bool:
    """Whether an entry was rejected or deleted."""
    words = _words(value)
    return words.get("answer") in ("reject", "ignore") or words.get("deleted") in (True, 1)


def _shapes(value: Any, above: Above) -> Iterator[tuple[Json, Above]]:
    """Yield objects with an outline, and lists of outlines by image name."""
    if isinstance(value, list):
        for one in value:
            yield from _shapes(one, above)
    elif isinstance(value, Mapping) and not _is_out(value):
        if rings_in(value):
            yield value, above
            return
        for key, one in value.items():
            inside = (*above, (key, value))
            if is_image(key) and isinstance(one, list) and rings_in(one):
                yield {"polygons": one}, inside
            else:
                yield from _shapes(one, inside)


def _tables(values: Sequence[Any]) -> tuple[dict[object, str], dict[object, str]]:
    """Class names, in order, and image files, by their ids, from lists in the document."""
    names: dict[object, str] = {}
    files: dict[object, str] = {}
    for key, some in ((k, v) for top in values if isinstance(top, Mapping) for k, v in top.items()):
        for place, one in enumerate(some if isinstance(some, list) else ()):
            words = _words(one) if isinstance(one, Mapping) else {"name": one}
            name = next((words[word] for word in ("name", "title", "label") if word in words), None)
            known = words["id"] if isinstance(words.get("id"), int | str) else (key, place)
            if file := _file_in(words):
                files[known] = file
            elif isinstance(name, str) and word_of(key) in NAMES and not rings_in(one):
                names[known] = name
        if isinstance(some, Mapping) and word_of(key) in ("labelmap", "classmap", "categories"):
            listed = {k: v for k, v in some.items() if isinstance(v, str)}
            names |= {int(k) if k.isdecimal() else k: v for k, v in listed.items()}
    return names, files


def _entry_of(shape: Json, above: Above, files: Mapping[object, str]) -> _Entry:
    """The image of a shape, according to the innermost object that names one."""
    outer = [one for _, one in reversed(above)]
    own = _words(shape)
    file = _file_in(own) or next((files[v] for v in _ids(own, ("imageid",)) if v in files), "")
    for key, one in reversed(above):
        file = file or (key if is_image(key) else "") or _file_of(one)
    known = next((str(v) for one in outer for v in _ids(_words(one), _IDS) if v != ""), "")
    return _Entry(file, known, next(filter(None, map(_size_in, outer)), None))


def _ids(words: Json, keys: Sequence[str]) -> list[int | str]:
    """The numbers and texts of these keys."""
    return [words[key] for key in keys if isinstance(words.get(key), int | str)]


def _inside(value: Json) -> Iterator[Json]:
    """Yield the objects in an object, two levels deep."""
    for one in value.values():
        if isinstance(one, Mapping) and not rings_in(one):
            yield one
            yield from (two for two in one.values() if isinstance(two, Mapping))


def _file_of(value: Json) -> str:
    """The image file named by an object, or by one in it; else ""."""
    parts = (value, *_inside(value)) if len(value) < _LONGEST_NAME else (value,)
    return next(filter(None, (_file_in(_words(one)) for one in parts)), "")


def _file_in(words: Json) -> str:
    """The image file among an object's own texts, except masks and the like; else ""."""
    named = {
        word: text
        for word, text in words.items()
        if isinstance(text, str)
        and len(text) < _LONGEST_NAME
        and is_image(text.partition("?")[0])
        and not _OTHER_FILES.search(word)
    }
    likely = (named[word] for word in _FILES if word in named)
    return next(likely, next(iter(named.values()), ""))


def _size_in(value: Json) -> tuple[int, int] | None:
    """The (height, width) in an object, or in one within it."""
    for words in map(_words, (value, *_inside(value))):
        for start in ("", "image", "img", "original"):
            height, width = (words.get(f"{start}{side}") for side in ("height", "width"))
            if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
                return height, width
    return None


def _without_shapes(values: Sequence[Any], known: set[str]) -> Iterator[str]:
    """Yield images without outlines in lists that also contain images with outlines."""
    tops = [one for value in values for one in (value if isinstance(value, list) else [value])]
    groups: list[Any] = [
        tops,
        *(v for one in tops if isinstance(one, Mapping) for v in one.values()),
    ]
    for some in groups:
        listed = [*some.values()] if isinstance(some, Mapping) else some
        entries = (
            [one for one in listed if isinstance(one, Mapping) and not _is_out(one)]
            if isinstance(listed, list)
            else []
        )
        files = dict.fromkeys(file for one in entries if (file := _file_of(one)))
        if not known.isdisjoint(files):
            yield from (file for file in files if file not in known)


def _areas_of(shape: Json, words: Json, names: Mapping[object, str]) -> list[Area | None]:
    """A shape's areas; [None] for a line. Rings within another are holes."""
    forms = {str(words.get(key, "")).lower() for key in ("type", "shape", "shapetype", "kind")}
    inner = words.get("poly2d")
    parts = [one for one in inner if isinstance(one, Mapping)] if isinstance(inner, list) else []
    if forms & _FLAT or any(one.get("closed") is False for one in (shape, *parts)):
        return [None]
    rings = rings_in(shape)
    each: list[Any] = next((words[key] for key in NAMES if isinstance(words.get(key), list)), [])
    if len(each) == len(rings) > 1:
        named = zip(each, rings, strict=True)
        return [Area(_said(name, names) or ONE_CLASS, [ring]) for name, ring in named]
    holes = [ring for ring in rings if any(_lies_in(ring, other) for other in rings)]
    outer = [ring for ring in rings if not any(ring is hole for hole in holes)]
    return [Area(_name_of(words, names), outer, holes)]


def _lies_in(ring: Any, other: Any) -> bool:
    """Whether all vertices of an outline are within another."""
    if ring is other:
        return False
    corners = other.astype(np.float32).reshape(-1, 1, 2)
    return all(cv2.pointPolygonTest(corners, (float(x), float(y)), False) > 0 for x, y in ring)


def _name_of(words: Json, names: Mapping[object, str]) -> str:
    by_number = next((names[v] for v in _ids(words, _NUMBERS) if v in names), "")
    for key in (*NAMES, *_LAST, *_NUMBERS):
        if said := (by_number if key == "name" else "") or _said(words.get(key), names):
            return said
    inner = (words[key] for key in _INNER if isinstance(words.get(key), Mapping))
    return next((_name_of(_words(one), names) for one in inner), ONE_CLASS)


def _said(value: Any, names: Mapping[object, str]) -> str:
    """The class name in a value: an id, a text, a list or an object; else ""."""
    if isinstance(value, list):
        return _said(value[0], names) if value else ""
    if isinstance(value, Mapping):
        words = _words(value)
        return next(
            filter(
                None, (_said(words.get(key), names) for key in ("name", "title", "label", "value"))
            ),
            "",
        )
    if isinstance(value, int) and not isinstance(value, bool):
        return names.get(value, str(value))
    text = value.strip() if isinstance(value, str) else ""
    return names.get(text, text) if text.lower() not in _FORMS else ""


def _in_pixels(image: Annotated, path: Path) -> Annotated:
    """Convert coordinates that are fractions of the image's width and height to pixels."""
    rings = [ring for area in image.areas for ring in (*area.rings, *area.holes)]
    if not rings or max(float(np.abs(ring).max()) for ring in rings) > 1:
        return image
    height, width = image_size(path)
    areas = [
        replace(
            area,
            rings=[ring * (width, height) for ring in area.rings],
            holes=[ring * (width, height) for ring in area.holes],
        )
        for area in image.areas
    ]
    return replace(image, areas=areas, size=(height, width))


_HEADS = [
    marks(word)
    for word in (
        b'oints"', b"olygon", b'ertices"', b'"segmentation"', b'oordinates"', b'"contour', b'"poly',
        b'"path', b"[[[", b'"outline',
    )
]  # fmt: skip

_WITH_OUTLINES = holding((".json", ".jsonl", ".ndjson"), *_HEADS)

_OF_ONE_IMAGE = 1 << 20  # maximum bytes of a file about one image


def _files(listing: Listing) -> list[str]:
    """The files with outlines, and those beside them with the same keys but empty lists."""
    chosen = _WITH_OUTLINES(listing)
    beside = {one.rpartition("/")[0]: listing.path(one) for one in chosen}
    others = sorted({*listing.with_suffix(".json")} - {*chosen}) if chosen else []
    places = ((name, beside.get(name.rpartition("/")[0])) for name in others)
    return chosen + [n for n, other in places if other and _is_empty_form(listing.path(n), other)]


def _is_empty_form(path: Path, other: Path) -> bool:
    """Whether a JSON file has the keys of another one, but no objects."""
    try:
        if max(path.stat().st_size, other.stat().st_size) > _OF_ONE_IMAGE:
            return False
        value, full = (json.loads(from_bytes(one.read_bytes())) for one in (path, other))
        return _is_empty(value) and type(value) is type(full) and (not value or {*value} == {*full})
    except (OSError, *PARSE_ERRORS):
        return False


def _is_empty(value: Any) -> bool:
    """Whether JSON has an empty list and no list of objects: an image without objects."""
    lists = [one for one in (value, *_values_in(value)) if isinstance(one, list)]
    return [] in lists and not any(isinstance(one, Mapping) for some in lists for one in some)


def _values_in(value: Any) -> list[Any]:
    some = value.values() if isinstance(value, Mapping) else ()
    return [*some, *(inner for one in some for inner in _values_in(one))]


_OUTLINED = outlined("json", _files, _parse, "JSON files hold outlines with names", _in_pixels)


def _find(listing: Listing) -> Pairing | None:
    found = _OUTLINED.find(listing)
    return None if found and found.pairs and not found.class_words else found  # None: all are empty


ANY_JSON = Format(_find, _OUTLINED.read)
