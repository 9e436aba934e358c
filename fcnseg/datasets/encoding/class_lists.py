"""Files that name the classes of a dataset, and what they say.

Of a YOLO data.yaml only the classes, the folder and where the masks are: a reader of all of YAML
would be a dependency.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fcnseg.classes import pack
from fcnseg.datasets.encoding.entries import (
    Entry,
    read_items,
    read_lines,
    text_of,
    yaml_text,
    yaml_values,
)
from fcnseg.datasets.pairing import Listing, is_image, stem_of
from fcnseg.errors import STRANGE
from fcnseg.overwriting import is_own_table


def find_entries(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The class list of a dataset folder and the name of its file; ((), "") when there is none."""
    for wanted, reader in _READERS:
        for name in listing.named(*wanted):
            entries = _read_as(reader, listing.path(name))
            if entries:
                return entries, name
    found = find_yaml_names(listing)
    return found if found[0] else _find_other_list(listing)


def _read_as(reader: Callable[[Path], list[Entry]], path: Path) -> tuple[Entry, ...]:
    """A class list's entries; () for a file with another content."""
    if is_own_table(path):
        return ()
    try:
        entries = reader(path)
    except (OSError, *STRANGE):
        return ()
    names = [entry.name for entry in entries]
    files = any("\t" in name or is_image(name.rpartition(" ")[2]) for name in names)
    return tuple(entries) if names and len(names) == len(set(names)) and not files else ()


def _find_other_list(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The class list whose name is none of the known ones, but made of their words; or with one of
    them, if its colours or numbers (0, 1, 2 ...) are those of a list."""
    for suffix, reader in _BY_SUFFIX.items():
        named = []
        for name in sorted(listing.with_suffix(suffix), key=lambda name: name.count("/")):
            words = set(re.findall(r"[a-z]+", stem_of(name).lower()))
            if words & _LIST_HEADS and words <= _LIST_HEADS | _LIST_WORDS:
                entries = _read_as(reader, listing.path(name))
                if len(entries) > 1:
                    return entries, name
            elif words & _LIST_HEADS:
                named.append(name)
        for name in named if len(named) <= _MOST_LISTS else ():
            entries = _read_as(reader, listing.path(name))
            if _are_complete(entries):
                return entries, name
    return (), ""


_MOST_LISTS = 8
"""More files whose names speak of labels are about an image each."""


def _are_complete(entries: Sequence[Entry]) -> bool:
    """Whether each entry has a colour of its own, or the numbers are 0 or 1 to n."""
    numbers = sorted(entry.value for entry in entries if entry.value is not None)
    first = numbers[0] if numbers else 0
    return len(entries) > 1 and (
        len({entry.color for entry in entries} - {None}) == len(entries)
        or (first in (0, 1) and numbers == [*range(first, first + len(entries))])
    )


_LIST_HEADS = frozenset(
    [
        "class", "classes", "label", "labels", "category", "categories", "color", "colors",
        "colour", "colours", "palette", "legend", "codes", "ontology", "colormap", "labelmap",
    ]
)  # fmt: skip
"""What a class list's name says, one of these at least ..."""

_LIST_WORDS = frozenset(
    [
        "list", "dict", "dictionary", "name", "names", "id", "ids", "info", "map", "mapping",
        "table", "value", "values", "description", "descriptions", "definition", "definitions",
        "seg", "segmentation", "semantic", "rgb", "to", "index", "and", "of", "the", "new",
    ]
)  # fmt: skip
"""... and perhaps some of these."""


def _read_label_map(path: Path) -> list[Entry]:
    """CVAT's labelmap.txt: name:r,g,b:parts:actions."""
    entries = []
    for line in text_of(path).splitlines():
        if line.strip() and not line.startswith("#"):
            name, color, *_ = line.split(":")
            entries.append(Entry(name.strip(), color=read_color(color.split(","))))
    return entries


_NAME_WORDS = (
    "name", "class", "class name", "class_name", "classname", "label", "label_name", "label name",
    "category", "category_name", "names", "labels", "title",
)  # fmt: skip

_VALUE_WORDS = (
    "pixel value", "pixel_value", "value", "id", "index", "class_id", "class id", "label_id",
    "category_id", "train_id", "trainid", "gray", "grey",
)  # fmt: skip

_CHANNEL_WORDS = (("r", "g", "b"), ("red", "green", "blue"))

_COLOR_WORDS = ("color", "colour", "rgb", "hex")
"""A column of whole colours: #ff0000, or three numbers."""


def _read_table(path: Path) -> list[Entry]:
    """A CSV with names and r, g, b (class_dict.csv) or a value (Roboflow's _classes.csv)."""
    text = text_of(path)
    comma = max(",;\t", key=text.partition("\n")[0].count)
    rows = list(csv.reader(text.splitlines(), skipinitialspace=True, delimiter=comma))
    head = [cell.strip().lower() for cell in rows[0]]
    known = [head.index(word) for word in _NAME_WORDS if word in head]
    numbers = sum(map(str.isdecimal, head))
    if not known and (len(head), numbers) in ((2, 1), (4, 3), (5, 4)):  # without a heading
        return read_lines(path)
    name = known[0]
    value = next((i for i, cell in enumerate(head) if cell in _VALUE_WORDS), None)
    words = next((some for some in _CHANNEL_WORDS if {*some} <= {*head}), None)
    rgb = [head.index(word) for word in words] if words else []
    rgb = rgb or [i for i, cell in enumerate(head) if cell.endswith(_COLOR_WORDS)][:1]
    return [
        Entry(
            row[name].strip(),
            None if value is None else _number(row[value]),
            read_color(" ".join(row[column] for column in rgb)) if rgb else None,
        )
        for row in rows[1:]
        if any(cell.strip() for cell in row)
    ]


def _number(text: str) -> int:
    """A whole number, which spreadsheets may write as 1.0; ValueError for another."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"not a whole number: {text}")
    return int(number)


def _read_json(path: Path) -> list[Entry]:
    """A list of names or of objects with name, id, color; or an object of name: id, color."""
    data = json.loads(text_of(path))
    if isinstance(data, Mapping):  # Datumaro's meta file, and its older ones
        labels, numbered = data.get("labels"), data.get("label_map")
        if isinstance(labels, list) and all(isinstance(name, str) for name in labels):
            return _colored(enumerate(labels), data.get("label_colors") or [None] * len(labels))
        if isinstance(numbered, Mapping):
            colors = data.get("segmentation_colors") or [None] * len(numbered)
            return _colored(numbered.items(), colors)
    for key in ("classes", "names", "labels", "categories"):
        if isinstance(data, Mapping) and isinstance(data.get(key), list):
            data = data[key]
    if isinstance(data, Mapping):
        return [_entry(name, about) for name, about in data.items()]
    return [Entry(about) if isinstance(about, str) else _entry("", about) for about in data]


def _read_dataset(path: Path) -> list[Entry]:
    """nnU-Net's dataset.json (`labels`: name -> number), the Medical Decathlon's (the reverse)."""
    labels = json.loads(text_of(path))["labels"]
    reverse = all(str(key).isdecimal() for key in labels)
    numbered = {str(name): key for key, name in labels.items()} if reverse else labels
    return [Entry(str(name), int(number)) for name, number in numbered.items()]


def _read_config(path: Path) -> list[Entry]:
    """Mapillary's config.json: `labels`, a list of objects with name and color; Transformers':
    `id2label`."""
    data = json.loads(text_of(path))
    if isinstance(data.get("id2label"), Mapping):
        return [Entry(str(name), int(number)) for number, name in data["id2label"].items()]
    return [_entry(about.get("readable") or about["name"], about) for about in data["labels"]]


def read_color(color: Any) -> int:
    """A packed colour from #rrggbb, three numbers, or text with three numbers."""
    if isinstance(color, str):
        text = color.strip(" '\"")
        if re.fullmatch(r"#?[0-9a-fA-F]{6}|#[0-9a-fA-F]{8}", text) and not text.isdecimal():
            return int(text.lstrip("#")[:6], 16)  # two more digits are opacity
        color = re.findall(r"\d+", text)
    red, green, blue = (int(part) for part in color[:3])
    return pack(red, green, blue)


_COLOR = re.compile(r"#[0-9a-fA-F]{6}(?:[0-9a-fA-F]{2})?|[\[(]?(?:\s*\d{1,3}\s*,?){3}[\])]?")
"""A colour as text: #rrggbb, 255, 0, 0 or (255, 0, 0)."""

_NUMBER_KEYS = ("id", "value", "index", "png_index", "pixel_value", "class_id")  # in JSON


def _colored(named: Iterable[tuple[Any, Any]], colors: Iterable[Any]) -> list[Entry]:
    """Entries of (number, name) with their colours, None where one has none."""
    return [
        Entry(str(name), int(number), None if color is None else read_color(color))
        for (number, name), color in zip(named, colors, strict=True)
    ]


def _entry(name: str, about: Any) -> Entry:
    if isinstance(about, str) and name.isdecimal():
        return Entry(about, int(name))
    if isinstance(about, str) and (_COLOR.fullmatch(name) or _COLOR.fullmatch(about)):
        name, shown = (about, name) if _COLOR.fullmatch(name) else (name, about)  # A2D2: the former
        return Entry(name, color=read_color(shown))
    if isinstance(about, int):
        return Entry(name, about)
    if isinstance(about, Sequence) and not isinstance(about, str):
        return Entry(name, color=read_color(about))
    if isinstance(about, Mapping):
        color = next((about[word] for word in _COLOR_WORDS if about.get(word)), None)
        numbers = [about[word] for word in _NUMBER_KEYS if word in about]
        value = next(iter(numbers), int(name) if name.isdecimal() else None)
        value = int(value) if isinstance(value, str) and value.isdecimal() else value
        own = next((str(about[word]) for word in _NAME_WORDS if about.get(word)), "")
        name = own if not name or name.isdecimal() else name
        if not name:
            raise ValueError(f"a class without a name: {about!r}")
        return Entry(
            name,
            value if isinstance(value, int) else None,
            None if color is None else read_color(color),
        )
    raise ValueError(f"not a class: {about!r}")


_READERS: tuple[tuple[tuple[str, ...], Callable[[Path], list[Entry]]], ...] = (
    (("labelmap.txt",), _read_label_map), (("label_map.pbtxt", "labelmap.prototxt"), read_items),
    (
        (
            "_classes.csv", "class_dict.csv", "class_dict_seg.csv", "classes.csv", "labels.csv",
            "label_map.csv", "labelmap.csv",
        ),
        _read_table,
    ),
    (
        (
            "classes.txt", "class_names.txt", "names.txt", "labels.txt", "obj.names", "codes.txt",
            "label_colors.txt",
        ),
        read_lines,
    ),
    (("dataset_meta.json", "classes.json", "labels.json", "label_map.json", "labelmap.json",
      "colormap.json", "palette.json", "obj_class_to_machine_color.json"), _read_json),
    (("dataset.json",), _read_dataset),
    (("config.json", "config_v1.2.json", "config_v2.0.json"), _read_config),
)  # fmt: skip

_BY_SUFFIX: Mapping[str, Callable[[Path], list[Entry]]] = {
    ".csv": _read_table, ".json": _read_json, ".pbtxt": read_items, ".prototxt": read_items,
    ".txt": read_lines, ".names": read_lines,
}  # fmt: skip


_YAML_COLOR = re.compile(r"['\"]?([^:'\"]+)['\"]?\s*:\s*(\[[\d\s,]+\]|['\"]?#[0-9a-fA-F]{6}['\"]?)")
"""A line of a YAML file with a name and its colour."""


def read_yaml_names(path: Path) -> list[Entry]:
    """The `names:` of a YOLO data.yaml, and what its `label_mapping:` says is stored for them; or
    the `classes:` of another YAML file."""
    text = text_of(path)
    names = yaml_values(text, "names")
    if not names:
        for key in ("classes", "colors", "palette"):
            colored = [_YAML_COLOR.fullmatch(one) for one in yaml_values(text, key).values()]
            if colored and all(colored):
                return [Entry(one[1], color=read_color(one[2])) for one in filter(None, colored)]
        names = yaml_values(text, "classes")
        names = {} if any(":" in name for name in names.values()) else names
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


def yaml_folder(path: Path) -> Path:
    """The folder a data.yaml is about: its `path:` where that is here, else its own.

    Such files travel: an absolute path is another machine's as a rule.
    """
    folder = path.parent / yaml_text(path, "path")
    with contextlib.suppress(OSError):  # a name too long for any disk
        return folder if folder.is_dir() else path.parent
    return path.parent


def find_masks_dir(listing: Listing, yaml: Path | None) -> str:
    """The folder of labels that a data.yaml names (`masks_dir:`), relative to the listing's; "".

    yaml: the file, if it was given; else those of the folder are looked at.
    """
    files = [yaml] if yaml else map(listing.path, listing.with_suffix(".yaml", ".yml"))
    for path in files:
        folder = yaml_text(path, "masks_dir").strip("/")
        if folder and any(f"/{folder}/" in f"/{name}" for name in listing.images):
            return folder
    return ""


def find_yaml_names(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The classes of the first YAML file that has `names:`, and that file's name; ((), "")."""
    for name in listing.with_suffix(".yaml", ".yml"):
        try:
            entries = read_yaml_names(listing.path(name))
        except (OSError, *STRANGE):
            continue
        if entries:
            return tuple(entries), name
    return (), ""
