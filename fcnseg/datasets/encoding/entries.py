"""An entry of a class list: a name, and how its pixels are stored."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from fcnseg.classes import BINARY, IGNORE, pack
from fcnseg.errors import cannot_read

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

    def __post_init__(self) -> None:
        """ValueError for numbers that no label file can hold."""
        numbers = [number for number in (self.value, *self.also) if number is not None]
        if any(abs(number) >= 2**31 for number in numbers):
            raise ValueError(f"{self.name!r} is stored as {numbers}, beyond 32 bits")

    @property
    def values(self) -> tuple[int, ...]:
        """All stored values; () where none is given."""
        return () if self.value is None else (self.value, *self.also)

    @property
    def ignored(self) -> bool:
        """Whether the name says that these pixels do not count."""
        return is_ignored(self.name)


def by_stored_value(entries: Iterable[Entry]) -> list[Entry]:
    """Entries by their stored values, where all have one; else in the list's order."""
    rows = list(entries)
    numbered = all(entry.value is not None for entry in rows)
    return sorted(rows, key=lambda entry: entry.value or 0) if numbered else rows


def mentioned_in(entries: Sequence[Entry]) -> str:
    """What a class list says, for people: "7 road, 8 car"; the first few."""
    shown = []
    for entry in entries[:6]:
        color = "" if entry.color is None else f"#{entry.color:06x}"
        stored = color if entry.value is None else str(entry.value)
        shown.append(f"{stored} {entry.name}".strip())
    return ", ".join(shown) + (f" and {len(entries) - 6} more" if len(entries) > 6 else "")


def counted_from_one(entries: Sequence[Entry], stored: Collection[int]) -> tuple[Entry, ...]:
    """COCO-Stuff's class list as its files mean it; any other list as it is.

    The list begins with 0 for "unlabeled" and 1 for "person"; the files hold 0 for a person and
    255 for what nobody labelled. Source: github.com/nightrome/cocostuff, "labels.txt".
    """
    first = tuple(entry.name.lower() for entry in entries[: len(_COCO_STUFF)])
    numbers = [entry.value for entry in entries]
    if first != _COCO_STUFF or IGNORE not in stored or numbers not in (
        [*range(len(entries))], [None] * len(entries)
    ):  # fmt: skip
        return tuple(entries)
    return tuple(replace(entry, value=n) for n, entry in enumerate(entries[1:]))


_COCO_STUFF = ("unlabeled", "person", "bicycle", "car", "motorcycle")


def is_ignored(name: str) -> bool:
    """Whether a class's name says that its pixels do not count."""
    return plain_name(name) in IGNORED_NAMES


def plain_name(name: str) -> str:
    """A name as it is compared: without regard to case, spaces, - and _."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def text_of(path: Path) -> str:
    """A text file's content; MediaError when unreadable."""
    try:
        with open_text(path) as file:
            return file.read()
    except OSError as error:
        raise cannot_read(path, error) from None


def read_items(path: Path) -> list[Entry]:
    """TensorFlow's label_map.pbtxt (item { id: 1 name: 'leaf' }) and Caffe's labelmap.prototxt
    (label: 1), which begin with 1 as a rule: 0 is then the background."""
    entries = []
    for item in re.findall(r"item\s*\{(.*?)\}", text_of(path), re.DOTALL):
        pairs = re.findall(r"(\w+)\s*:\s*(\"[^\"]*\"|'[^']*'|\d+)", item)
        fields = {key: value.strip("\"'") for key, value in pairs}
        name = fields.get("display_name") or fields["name"]
        entries.append(Entry(name, int(fields["id"] if "id" in fields else fields["label"])))
    bare = entries and min(entry.value or 0 for entry in entries) == 1
    return [Entry(BINARY[0], 0), *entries] if bare else entries


def read_lines(path: Path) -> list[Entry]:
    """A name on each line, perhaps with its number before or behind it, or its colour beside it."""
    lines = [line.strip() for line in text_of(path).splitlines()]
    lines = [line for line in lines if line and (not line.startswith("#") or _HEX.match(line))]
    if len(lines) == 1 and "," in lines[0]:  # all names on one line, perhaps as Python writes them
        lines = [part.strip(" '\"") for part in lines[0].strip("[]()").split(",")]
    head = {*re.findall(r"\w+", lines[0].lower())} if lines else set()
    lines = lines[1:] if len(head) > 1 and head <= _HEADINGS else lines
    behind = [(found[1], found[2]) for found in map(_BEHIND.match, lines) if found]
    columns = [len({*column}) for column in zip(*behind, strict=True)]
    if len(lines) > 1 and columns == [len(lines)] * 2:  # else `zone 1`, `zone 2` are names
        return [Entry(name, int(number)) for name, number in behind]
    entries = [_entry_of(line) for line in lines]
    return [entry for entry in entries if entry.name != "__ignore__"]  # labelme's index -1


_HEADINGS = frozenset(
    ["id", "ids", "index", "name", "names", "class", "label", "value", "category"]
)
"""The words of a line that names the columns."""

_BEHIND = re.compile(r"^([^\W\d](?:.*[^\W\d)])?)\s*(?:[=:,;\t ]|->)\s*(\d+)$")
"""A name with its number behind it."""


_HEX = re.compile(r"^#([0-9a-fA-F]{6})[\s,:;]+(\S.*)$")


def _entry_of(line: str) -> Entry:
    if hexes := _HEX.match(line):
        return Entry(hexes[2], color=int(hexes[1], 16))
    color = re.search(r"\b(\d{1,3})[,\s]+(\d{1,3})[,\s]+(\d{1,3})\b", line)
    if color and max(int(part) for part in color.groups()) <= 255:
        name = (line[: color.start()] + line[color.end() :]).strip(" \t,:;()[]")
        name = re.sub(r"^\d+\s*[:,;\s]\s*", "", name)
        return Entry(name, color=pack(*(int(part) for part in color.groups())))
    numbered = re.match(r"^(\d+)\s*(?:->|[:,;=\t ]|[.)-]\s)\s*(\S.*)$", line)
    return Entry(numbered[2].strip(), int(numbered[1])) if numbered else Entry(line)


def yaml_values(text: str, key: str) -> dict[str, str]:
    """What stands under a key: a list or mapping, in brackets or on lines.

    Lists are numbered from "0".
    """
    start = re.search(rf"^{key}[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    if start is None:
        return {}
    inline = start[1].split(" #")[0].strip()
    if inline.startswith(("[", "{")):
        close = "]" if inline[0] == "[" else "}"
        listed = text[start.start(1) : text.index(close, start.start(1))][1:]
        parts = [part.strip() for part in listed.replace("\n", " ").split(",")]
    elif inline and not inline.startswith("#"):
        return {}
    else:
        block = re.match(r"(?:\s*\n|[ \t]+.*\n|-.*\n)*", text[start.end() + 1 :] + "\n")
        lines = (block[0] if block else "").splitlines()
        parts = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    found: dict[str, str] = {}
    for part in filter(None, parts):
        entry = re.match(r"^(?:-\s*|['\"]?(-?\d+)['\"]?\s*:\s*)?(.*)$", part)
        if entry is not None:
            number = str(len(found)) if entry[1] is None else entry[1]
            found[number] = entry[2].strip(" '\"")
    return found


def yaml_text(path: Path, key: str) -> str:
    """The text beside a key of a YAML file; ""."""
    return next(iter(yaml_texts(text_of(path), key)), "")


def yaml_texts(text: str, key: str) -> list[str]:
    """The texts under a key of a YAML file: one beside it, or a list."""
    line = re.search(rf"^{key}[ \t]*:[ \t]*([^\s#\[{{][^\n\r]*)", text, re.MULTILINE)
    if line is None:
        return list(yaml_values(text, key).values())
    return [re.sub(r"\s#.*", "", line[1]).strip(" '\"")]


def open_text(path: Path) -> TextIO:
    """A text file in the encoding that its first bytes show, line ends as they are.

    UTF-8; UTF-16 with its mark (PowerShell, "Unicode" of Notepad); else Windows' Latin letters.
    What can't be decoded is replaced.
    """
    with path.open("rb") as file:
        encoding = _encoding_of(file.read(1 << 16))
    return path.open(encoding=encoding, errors="replace", newline="")


def _encoding_of(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # its end may be half a letter
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def meaning_alone(two_meanings: bool, entries: Sequence[Entry]) -> tuple[int, ...]:
    """Encoding.alone of labels with 255 in files of 0 and 255 beside files of 1 and 255.

    Where a class list says what is ignored, 255 is ignored in all files.
    """
    return (IGNORE, 1) if two_meanings and not any(entry.ignored for entry in entries) else ()


def why_ignored(ignored: Sequence[int], alone: tuple[int, ...]) -> list[str]:
    """A sentence for people on the values that are ignored, if any are."""
    if alone:
        return [f"value {alone[0]} is ignored beside {alone[1]}, and {alone[1]} in files without"]
    return [f"{', '.join(map(str, ignored))} is ignored"] if ignored else []
