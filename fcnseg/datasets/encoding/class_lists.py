"""Files that name the classes of a dataset, and what they say."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcnseg.classes import pack
from fcnseg.datasets.pairing import Listing

IGNORED_NAMES = frozenset(
    [
        "void", "ignore", "ignored", "ignore regions", "unlabeled", "unlabelled", "border",
        "boundary", "dontcare", "don't care", "dont care", "undefined", "unlabeled area",
        "unknown", "unclassified", "unannotated", "not labeled", "not labelled", "no label",
        "nolabel", "no data", "nodata", "ignore label", "invalid",
    ]
)  # fmt: skip
"""Classes whose pixels do not count."""


@dataclass(frozen=True)
class Entry:
    """One line of a class list: a name, and the stored value or packed colour where given.

    also: more stored values of the same class.
    """

    name: str
    value: int | None = None
    color: int | None = None
    also: tuple[int, ...] = ()

    @property
    def values(self) -> tuple[int, ...]:
        """All stored values; () where none is given."""
        return () if self.value is None else (self.value, *self.also)

    @property
    def ignored(self) -> bool:
        """Whether the name says that these pixels do not count."""
        return is_ignored(self.name)


def is_ignored(name: str) -> bool:
    """Whether a class's name says that its pixels do not count."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower() in IGNORED_NAMES


def find_entries(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The class list of a dataset folder and the name of its file; ((), "") when there is none."""
    for wanted, reader in _READERS:
        for name in listing.named(*wanted):
            try:
                entries = reader(listing.path(name))
            except (OSError, ValueError, LookupError, TypeError):
                continue  # a file of that name with another content: not a class list
            names = [entry.name for entry in entries]
            if names and len(names) == len(set(names)):
                return tuple(entries), name
    return find_yaml_names(listing)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _read_lines(path: Path) -> list[Entry]:
    """A name on each line, perhaps with its number before it or its colour beside it."""
    entries = []
    for line in _text(path).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        color = re.search(r"\b(\d{1,3})[,\s]+(\d{1,3})[,\s]+(\d{1,3})\b", line)
        if color and max(int(part) for part in color.groups()) <= 255:
            name = (line[: color.start()] + line[color.end() :]).strip(" \t,:;")
            name = re.sub(r"^\d+\s*[:,;\s]\s*", "", name)
            entries.append(Entry(name, color=pack(*(int(part) for part in color.groups()))))
        else:
            numbered = re.match(r"^(\d+)\s*[:,;\t ]\s*(\S.*)$", line)
            entries.append(
                Entry(numbered[2].strip(), int(numbered[1])) if numbered else Entry(line)
            )
    return [entry for entry in entries if entry.name != "__ignore__"]  # labelme's index -1


def _read_label_map(path: Path) -> list[Entry]:
    """CVAT's labelmap.txt: name:r,g,b:parts:actions."""
    entries = []
    for line in _text(path).splitlines():
        if line.strip() and not line.startswith("#"):
            name, color, *_ = line.split(":")
            entries.append(Entry(name.strip(), color=pack(*(int(v) for v in color.split(",")))))
    return entries


_NAME_WORDS = (
    "name", "class", "class name", "class_name", "label", "label_name", "names", "labels",
)  # fmt: skip

_VALUE_WORDS = ("pixel value", "pixel_value", "value", "id", "index", "class_id", "label_id")

_CHANNEL_WORDS = (("r", "g", "b"), ("red", "green", "blue"))


def _read_table(path: Path) -> list[Entry]:
    """A CSV with names and r, g, b (class_dict.csv) or a value (Roboflow's _classes.csv)."""
    text = _text(path)
    comma = max(",;\t", key=text.partition("\n")[0].count)
    rows = list(csv.reader(text.splitlines(), skipinitialspace=True, delimiter=comma))
    head = [cell.strip().lower() for cell in rows[0]]
    known = [head.index(word) for word in _NAME_WORDS if word in head]
    name = known[0]
    value = next((i for i, cell in enumerate(head) if cell in _VALUE_WORDS), None)
    words = next((some for some in _CHANNEL_WORDS if {*some} <= {*head}), None)
    rgb = words and [head.index(word) for word in words]
    return [
        Entry(
            row[name].strip(),
            None if value is None else int(row[value]),
            pack(*(int(row[column]) for column in rgb)) if rgb else None,
        )
        for row in rows[1:]
        if any(cell.strip() for cell in row)
    ]


def _read_json(path: Path) -> list[Entry]:
    """A list of names or of objects with name, id, color; or an object of name: id, color."""
    data = json.loads(_text(path))
    if isinstance(data, Mapping) and _are_names(data.get("labels")):  # Datumaro's meta file
        colors = data.get("label_colors") or [None] * len(data["labels"])
        return [
            Entry(str(name), number, None if color is None else pack(*(int(c) for c in color[:3])))
            for number, (name, color) in enumerate(zip(data["labels"], colors, strict=True))
        ]
    if isinstance(data, Mapping) and isinstance(data.get("label_map"), Mapping):  # and older ones
        colors = data.get("segmentation_colors") or [None] * len(data["label_map"])
        return [
            Entry(str(name), int(number), color and pack(*(int(c) for c in color[:3])))
            for (number, name), color in zip(data["label_map"].items(), colors, strict=True)
        ]
    for key in ("classes", "names", "labels"):
        if isinstance(data, Mapping) and isinstance(data.get(key), list):
            data = data[key]
    if isinstance(data, Mapping):
        return [_entry(name, about) for name, about in data.items()]
    return [
        Entry(about) if isinstance(about, str) else _entry(about["name"], about) for about in data
    ]


def _read_config(path: Path) -> list[Entry]:
    """Mapillary's config.json: `labels`, a list of objects with name and color."""
    data = json.loads(_text(path))
    return [_entry(about.get("readable") or about["name"], about) for about in data["labels"]]


def _are_names(data: Any) -> bool:
    return isinstance(data, list) and all(isinstance(name, str) for name in data)


def _entry(name: str, about: Any) -> Entry:
    if isinstance(about, str) and name.isdecimal():
        return Entry(about, int(name))
    if isinstance(about, int):
        return Entry(name, about)
    if isinstance(about, Sequence) and not isinstance(about, str):
        return Entry(name, color=pack(*(int(part) for part in about[:3])))
    if isinstance(about, Mapping):
        color = about.get("color")
        value = about.get("id", about.get("value"))
        return Entry(
            name,
            None if value is None else int(value),
            pack(*(int(part) for part in color[:3])) if isinstance(color, list) else None,
        )
    raise ValueError(f"not a class: {about!r}")


def read_yaml_names(path: Path) -> list[Entry]:
    """The `names:` of a YOLO data.yaml, and what its `label_mapping:` says is stored for them.

    Only these keys are understood: a YAML reader for them would be a dependency.
    """
    text = _text(path)
    names = _yaml_values(text, "names")
    stored: dict[str, list[int]] = {}
    ignored = []
    for value, meant in _yaml_values(text, "label_mapping").items():
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


def _yaml_values(text: str, key: str) -> dict[str, str]:
    """What stands under a key: a list or mapping, in brackets or on lines.

    Lists are numbered from "0".
    """
    start = re.search(rf"^{key}[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    if start is None:
        return {}
    inline = start[1].split(" #")[0].strip()
    if inline.startswith(("[", "{")):
        close = "]" if inline[0] == "[" else "}"
        whole = text[start.start(1) : text.index(close, start.start(1))][1:]
        parts = [part.strip() for part in whole.replace("\n", " ").split(",")]
    else:
        block = re.match(r"(?:\s*\n|[ \t]+.*\n|-.*\n)*", text[start.end() + 1 :] + "\n")
        lines = (block[0] if block else "").splitlines()
        parts = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    found: dict[str, str] = {}
    for part in filter(None, parts):
        said = re.match(r"^(?:-\s*|['\"]?(-?\d+)['\"]?\s*:\s*)?(.*)$", part)
        if said is not None:
            number = str(len(found)) if said[1] is None else said[1]
            found[number] = said[2].strip(" '\"")
    return found


def yaml_folder(path: Path) -> Path:
    """The folder a data.yaml is about: its `path:` where that is here, else its own.

    Such files travel: an absolute path is another machine's as a rule.
    """
    said = re.search(r"^path[ \t]*:[ \t]*(.*)$", _text(path), re.MULTILINE)
    folder = path.parent / re.sub(r"\s#.*", "", said[1]).strip(" '\"") if said else path.parent
    return folder if folder.is_dir() else path.parent


def find_masks_dir(listing: Listing, yaml: Path | None) -> str:
    """The folder of labels that a data.yaml names (`masks_dir:`), relative to the listing's; "".

    yaml: the file, if it was given; else those of the folder are looked at.
    """
    files = [yaml] if yaml else map(listing.path, listing.with_suffix(".yaml", ".yml"))
    for path in files:
        said = re.search(r"^masks_dir[ \t]*:[ \t]*(.*)$", _text(path), re.MULTILINE)
        folder = re.sub(r"\s#.*", "", said[1]).strip(" '\"").strip("/") if said else ""
        if folder and any(f"/{folder}/" in f"/{name}" for name in listing.images):
            return folder
    return ""


def find_yaml_names(listing: Listing) -> tuple[tuple[Entry, ...], str]:
    """The classes of the first YAML file that has `names:`, and that file's name; ((), "")."""
    for name in listing.with_suffix(".yaml", ".yml"):
        try:
            entries = read_yaml_names(listing.path(name))
        except (OSError, ValueError):
            continue
        if entries:
            return tuple(entries), name
    return (), ""


_READERS: tuple[tuple[tuple[str, ...], Callable[[Path], list[Entry]]], ...] = (
    (("labelmap.txt",), _read_label_map),
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
        _read_lines,
    ),
    (("dataset_meta.json", "classes.json", "labels.json", "label_map.json", "labelmap.json",
      "colormap.json", "palette.json", "obj_class_to_machine_color.json"), _read_json),
    (("config.json", "config_v1.2.json", "config_v2.0.json"), _read_config),
)  # fmt: skip
