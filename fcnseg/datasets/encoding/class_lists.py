"""Find and parse class lists: files that name the classes of a dataset.

Of a YOLO data.yaml only the classes, the folder and the mask folder are parsed: a complete YAML
parser would be a dependency.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcnseg.datasets.encoding.entries import (
    Entry,
    is_ignored,
    read_color,
    read_items,
    read_label_map,
    read_lines,
    read_number,
    text_of,
    yaml_parts,
    yaml_values,
)
from fcnseg.datasets.pairing import Listing, is_image, stem_of
from fcnseg.errors import PARSE_ERRORS
from fcnseg.overwriting import is_own_table


def find_entries(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The class list of a dataset folder and the name of its file; ((), "") when there is none."""
    for wanted, reader in _READERS:
        for name in (*listing.named(*wanted), *listing.with_suffix(*wanted)):
            entries = _read_as(reader, listing.path(name))
            if entries:
                return entries, name
    found = find_yaml_names(listing)
    return found if found[0] else _find_other_list(listing)


def _read_as(reader: Callable[[Path], list[Entry]], path: Path) -> tuple[Entry, ...]:
    """The entries of a class list; () if the file is not one."""
    entries: list[Entry] = []
    with contextlib.suppress(OSError, *PARSE_ERRORS):
        entries = [] if is_own_table(path) else reader(path)
    names = [entry.name for entry in entries]
    files = any("\t" in name or is_image(name.rpartition(" ")[2]) for name in names)
    return tuple(entries) if names and len(names) == len(set(names)) and not files else ()


def _find_other_list(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """A class list with an unknown name that consists of words of the known ones; or contains one
    of them and has distinct colors or consecutive numbers."""
    for suffix, reader in _BY_SUFFIX.items():
        named = []
        for name in sorted(listing.with_suffix(suffix), key=lambda name: name.count("/")):
            words = set(re.findall(r"[a-z]+", stem_of(name).lower()))
            if words & _LIST_HEADS and words <= _LIST_HEADS | _LIST_WORDS:
                if len(entries := _read_as(reader, listing.path(name))) > 1:
                    return entries, name
            elif words & _LIST_HEADS:
                named.append(name)
        for name in named if len(named) <= _MOST_LISTS else ():
            if _are_complete(entries := _read_as(reader, listing.path(name))):
                return entries, name
    others = sorted(listing.with_suffix(".json", ".emd"), key=lambda name: name.count("/"))
    for name in [one for one in others if _ABOUT.search(stem_of(one).lower())][:_MOST_LISTS]:
        if _are_complete(entries := _read_as(_read_inside, listing.path(name))):
            return entries, name
    return (), ""


_MOST_LISTS = 8
"""If more files than this have such names, each belongs to an image."""


def _are_complete(entries: Sequence[Entry]) -> bool:
    """Whether the entries have distinct colors, or consecutive numbers from 0 or 1."""
    numbers = sorted(entry.value for entry in entries if entry.value is not None)
    first = numbers[0] if numbers else 0
    return len(entries) > 1 and (
        len({entry.color for entry in entries} - {None}) == len(entries)
        or (first in (0, 1) and numbers == [*range(first, first + len(entries))])
    )


_LIST_HEADS = frozenset([
    "class", "classes", "label", "labels", "category", "categories", "color", "colors",
    "colour", "colours", "palette", "legend", "codes", "ontology", "colormap", "labelmap",
])  # fmt: skip
"""The name of a class list contains at least one of these words ..."""

_LIST_WORDS = frozenset([
    "list", "dict", "dictionary", "name", "names", "id", "ids", "info", "map", "mapping",
    "table", "value", "values", "description", "descriptions", "definition", "definitions",
    "seg", "segmentation", "semantic", "rgb", "to", "index", "and", "of", "the", "new",
])  # fmt: skip
"""... and possibly some of these."""

_ABOUT = re.compile(r"(?<![a-z])(config|meta(data|info)?|info|dataset|definitions?)(?![a-z])")
"""The name of a JSON file that may contain the classes among other information."""

_NAME_WORDS = (
    "readable", "name", "class", "classname", "label", "labelname", "category", "categoryname",
    "names", "labels", "labellist", "title",
)  # fmt: skip
"""Names of the column or key with class names, as returned by `_plain`; below, those of others."""

_VALUE_WORDS = (
    "id", "value", "index", "pngindex", "pixelvalue", "classid", "idx", "code", "maskvalue",
    "labelvalue", "classvalue", "labelid", "categoryid", "trainid", "classindex", "labelindex",
    "gray", "grey", "grayvalue", "greyvalue",
)  # fmt: skip

_CHANNELS = ({"r", "red"}, {"g", "green"}, {"b", "blue"})

_COLOR_WORDS = re.compile("colou?r|rgb|hex")
"""The name of a column with complete colors: #ff0000, or three numbers."""


def _plain(word: object) -> str:
    """Normalize `Class Name`, `class_name` and `className` to classname."""
    return re.sub(r"[\W_]+", "", str(word)).lower()


def _read_table(path: Path) -> list[Entry]:
    """A CSV with names and r, g, b (class_dict.csv) or a value (Roboflow's _classes.csv); or with
    other headings, if one column has names and others numbers or colors."""
    text = text_of(path)
    comma = max(",;\t", key=text.partition("\n")[0].count)
    rows = list(csv.reader(text.splitlines(), skipinitialspace=True, delimiter=comma))
    head, body = rows[0], [row for row in rows[1:] if any(cell.strip() for cell in row)]
    words, numbers = [_plain(cell) for cell in head], sum(map(str.isdecimal, map(str.strip, head)))
    if not {*words} & {*_NAME_WORDS} and (len(head), numbers) in ((1, 0), (2, 1), (4, 3), (5, 4)):
        return read_lines(path)  # without a heading
    columns = [[row[at].strip() for row in body] for at in range(len(head))]
    texts = [at for at, cells in enumerate(columns) if not _reads(read_number, *cells)]
    known = [words.index(word) for word in _NAME_WORDS if word in words]
    name = next((at for at in known if at in texts), None if texts else known[0])
    values = [at for at, word in enumerate(words) if word in _VALUE_WORDS and at not in texts]
    shown = [at for at in texts if at != name and _reads(read_color, *columns[at])]
    if name is None:
        (name,) = {*texts} - {*shown}
    else:
        shown = [at for at in shown if _COLOR_WORDS.search(words[at])]
    if len(head) == 2 and not texts[1:] and (not known or "" in words):
        values = [1 - name]
    apart = [re.findall("[a-z]+", cell.lower()) for cell in head]
    rgb = [next((at for at, some in enumerate(apart) if one & {*some}), -1) for one in _CHANNELS]
    rgb = shown[:1] if min(rgb) < 0 else rgb
    entries = [
        Entry(
            columns[name][row],
            read_number(columns[values[0]][row]) if values else None,
            read_color(" ".join(columns[at][row] for at in rgb)) if rgb else None,
        )
        for row in range(len(body))
    ]
    return entries if known or _are_complete(entries) else []


def _reads(reader: Callable[[Any], int], *values: Any) -> bool:
    """Whether a reader accepts the values."""
    with contextlib.suppress(*PARSE_ERRORS):
        return bool([reader(value) for value in values])
    return False


def _read_json(path: Path) -> list[Entry]:
    return _entries_in(json.loads(text_of(path)))


def _read_inside(path: Path) -> list[Entry]:
    """The classes in a JSON file with other content, too (nnU-Net's dataset.json, Mapillary's and
    Transformers' config.json, a metadata.json)."""
    data = json.loads(text_of(path)) if path.stat().st_size < _LARGEST else None
    return _entries_in(data) if _inside(data) is not None else []


_INSIDE = (
    "id2label", "classes", "classnames", "names", "labels", "labelnames", "categories", "labelmap",
    "labelmapping", "classmapping", "defaultmasktargets", "annotationdefinitions", "spec", "tools",
    "items",
)  # fmt: skip
"""JSON keys under which classes are found, as returned by `_plain`; Unity's is `spec`."""

_LARGEST = 1 << 20
"""Greatest size of such a file, in bytes: a file that describes every image is larger."""

_PALETTES = ("labelcolors", "segmentationcolors", "palette", "colors")


def _inside(data: Any) -> Any:
    """The part of a JSON document that contains the classes; None if there is none."""
    several = isinstance(data, list)  # Unity's definitions: of pixel colors, of boxes
    for one in sorted(data, key=lambda one: "pixel" not in str(one)) if several else [data]:
        said = {_plain(key): one[key] for key in one} if isinstance(one, Mapping) else {}
        held = [said[word] for word in (["spec"] if several else _INSIDE) if said.get(word)]
        if found := [some for some in held if isinstance(some, list | Mapping)]:
            return found[0]
    return None


def _entries_in(data: Any) -> list[Entry]:
    """Parse a list of names or of objects with name, id, color; an object of name: id or color, or
    the reverse; or a document that contains one of these."""
    inside = _inside(data)
    if inside is not None:
        said = {_plain(key): data[key] for key in data} if isinstance(data, Mapping) else {}
        order = said.get("regionsclassorder")
        if order:  # nnU-Net's nested regions: the number stored for each
            parts = [one for one, about in inside.items() if about != 0 and not is_ignored(one)]
            inside = {**inside, **dict(zip(parts, order, strict=True))}
        entries = _entries_in(inside)
        colors = next((said[word] for word in _PALETTES if word in said), ())
        if isinstance(colors, list) and len(colors) == len(entries):
            shown = [None if color is None else read_color(color) for color in colors]
            return [replace(one, color=color) for one, color in zip(entries, shown, strict=True)]
        return entries
    if isinstance(data, Mapping):
        if len({isinstance(about, int) for about in data.values()}) > 1:
            raise ValueError("some classes have several numbers")
        return [_entry(str(name), about) for name, about in data.items()]
    return [_listed(about) for about in data]


def _listed(about: Any) -> Entry:
    """Parse a list element: a name, an object, or a name and its number or color."""
    if isinstance(about, list):
        name, other = about if isinstance(about[0], str) else reversed(about)
        return _entry(str(name), other)
    return Entry(about) if isinstance(about, str) else _entry("", about)


_COLOR = re.compile(r"#[0-9a-fA-F]{6}(?:[0-9a-fA-F]{2})?|[\[(]?(?:\s*\d{1,3}\s*,?){3,4}[\])]?")
"""A color as text: #rrggbb, 255, 0, 0 or (255, 0, 0)."""


def _entry(name: str, about: Any) -> Entry:
    if isinstance(about, str) and name.isdecimal():
        return Entry(about, int(name))
    if isinstance(about, str) and (_COLOR.fullmatch(name) or _COLOR.fullmatch(about)):
        name, color = (about, name) if _COLOR.fullmatch(name) else (name, about)  # A2D2: by color
        return Entry(name, color=read_color(color))
    about = about[0] if isinstance(about, list) and len(about) == 1 else about
    if isinstance(about, int) and not isinstance(about, bool):
        return Entry(name, about)
    if isinstance(about, Sequence) and not isinstance(about, str):
        return Entry(name, color=read_color(about))
    if not isinstance(about, Mapping):
        raise ValueError(f"not a class: {about!r}")
    said = {_plain(key): value for key, value in about.items() if value is not None}
    shown: list[Any] = [value for key, value in said.items() if _COLOR_WORDS.search(key)]
    shown += [said.get("pixelvalue"), said, name if _COLOR.fullmatch(name) else ""]
    colors = [read_color(value) for value in shown if _reads(read_color, value)]
    numbers = [said[word] for word in _VALUE_WORDS if word in said]
    numbers += [name] if name.isdecimal() else []
    value = next((int(one) for one in numbers if re.fullmatch(r"-?\d+", str(one))), None)
    own = next((str(said[word]) for word in _NAME_WORDS if said.get(word)), "")
    name = own if not name or name.isdecimal() or _COLOR.fullmatch(name) else name
    if not name:
        raise ValueError(f"a class without a name: {about!r}")
    return Entry(name, value, colors[0] if colors else None)


def _read_manifest(path: Path) -> list[Entry]:
    """The classes in a SageMaker manifest, each line of which names those of its image."""
    parts = [one for line in text_of(path).splitlines() for one in json.loads(line).values()]
    maps = [one.get("internal-color-map", {}) for one in parts if isinstance(one, Mapping)]
    found = {int(key): about for one in maps for key, about in one.items()}
    return [_entry(str(key), found[key]) for key in sorted(found)]


_READERS: tuple[tuple[tuple[str, ...], Callable[[Path], list[Entry]]], ...] = (
    (("labelmap.txt",), read_label_map),
    (("label_map.pbtxt", "labelmap.prototxt"), read_items),
    (("_classes.csv", "class_dict.csv", "class_dict_seg.csv", "classes.csv", "labels.csv",
      "label_map.csv", "labelmap.csv"), _read_table),
    (("classes.txt", "class_names.txt", "names.txt", "labels.txt", "obj.names", "codes.txt",
      "label_colors.txt"), read_lines),
    (("dataset_meta.json", "classes.json", "labels.json", "label_map.json", "labelmap.json",
      "colormap.json", "palette.json", "obj_class_to_machine_color.json"), _read_json),
    (("dataset.json", "config.json", "config_v1.2.json", "config_v2.0.json"), _read_inside),
    ((".manifest",), _read_manifest),
)  # fmt: skip

_BY_SUFFIX: Mapping[str, Callable[[Path], list[Entry]]] = {
    ".csv": _read_table, ".tsv": _read_table, ".json": _read_json, ".pbtxt": read_items,
    ".prototxt": read_items, ".txt": read_lines, ".names": read_lines,
}  # fmt: skip


def read_yaml_names(path: Path) -> list[Entry]:
    """The `names:` of a YOLO data.yaml, with the stored values in its `label_mapping:`; or the
    `classes:` of another YAML file, or the content of a file named as a list (labels.yaml)."""
    text = text_of(path)
    names = yaml_values(text, "names")
    if not names:
        keys = ["classes", "colors", "palette", "class_names", "label_map", "id2label"]
        if {*re.findall("[a-z]+", path.stem.lower())} <= _LIST_HEADS | _LIST_WORDS:
            keys += ["labels", "categories", "all"]
            text += "\nall:\n" + "".join(f" {line}\n" for line in text.splitlines())
        found = [entries for key in keys if len(entries := _of_parts(yaml_parts(text, key))) > 1]
        return next((some for some in found if some[0].color is not None), [*found, []][0])
    stored: dict[str, list[int]] = {}
    ignored = []
    for value, meant in yaml_values(text, "label_mapping").items():
        if meant.isdecimal() and meant in names:
            stored.setdefault(meant, []).append(int(value))
        else:
            ignored.append(int(value))
    if not stored:
        return [Entry(name, int(key)) for key, name in names.items()]
    entries = [
        Entry(name, stored[key][0], also=tuple(stored[key][1:]))
        for key, name in names.items()
        if key in stored
    ]
    rest = [Entry("ignore", ignored[0], also=tuple(ignored[1:]))] if ignored else []
    return entries + rest


def _of_parts(parts: Sequence[str]) -> list[Entry]:
    """Parse the elements of a YAML list or mapping as classes; [] if they are something else."""
    pairs = [part.lstrip("- ").partition(":")[::2] for part in parts]
    if not any(":" in part for part in parts):
        return [Entry(name.strip(" '\""), number) for number, (name, _) in enumerate(pairs)]
    if not all(value for _, value in pairs):
        return []
    cells = [(key.strip(" '\""), value.strip(" '\"")) for key, value in pairs]
    if any(part.startswith("-") for part in parts):
        starts = [at for at, part in enumerate(parts) if part.startswith("-")]
        ends = [*starts[1:], len(parts)]
        return [_entry("", dict(cells[a:b])) for a, b in zip(starts, ends, strict=True)]
    return [_entry(key, int(value) if value.isdecimal() else value) for key, value in cells]


def find_yaml_names(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The classes of the first YAML file that has `names:`, and that file's name; ((), "")."""
    for name in listing.with_suffix(".yaml", ".yml"):
        with contextlib.suppress(OSError, *PARSE_ERRORS):
            if entries := read_yaml_names(listing.path(name)):
                return tuple(entries), name
    return (), ""
