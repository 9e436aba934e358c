"""The entries of class lists, and parsers of text files that contain them."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from fcnseg.classes import BINARY, IGNORE, pack
from fcnseg.errors import PARSE_ERRORS, cannot_read

IGNORED_NAMES = frozenset(
    [
        "void", "ignore", "ignored", "ignore regions", "unlabeled", "unlabelled", "border",
        "boundary", "dontcare", "don't care", "dont care", "undefined", "unlabeled area",
        "unknown", "unclassified", "unannotated", "not labeled", "not labelled", "no label",
        "nolabel", "no data", "nodata", "ignore label", "invalid",
    ]
)  # fmt: skip
"""Names of classes whose pixels are ignored."""


@dataclass(frozen=True)
class Entry:
    """One line of a class list: a name, and its stored value or packed color, if given.

    also: further stored values of the same class.
    """

    name: str
    value: int | None = None
    color: int | None = None
    also: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for numbers beyond 32 bits."""
        numbers = [number for number in (self.value, *self.also) if number is not None]
        if any(abs(number) >= 2**31 for number in numbers):
            raise ValueError(f"{self.name!r} is stored as {numbers}, beyond 32 bits")

    @property
    def values(self) -> tuple[int, ...]:
        """All stored values; () if none is given."""
        return () if self.value is None else (self.value, *self.also)

    @property
    def ignored(self) -> bool:
        """Whether the name means that these pixels are ignored."""
        return is_ignored(self.name)


def by_stored_value(entries: Iterable[Entry]) -> list[Entry]:
    """Sort entries by stored value if all have one; else keep the list's order."""
    rows = list(entries)
    numbered = all(entry.value is not None for entry in rows)
    return sorted(rows, key=lambda entry: entry.value or 0) if numbered else rows


def mentioned_in(entries: Sequence[Entry]) -> str:
    """The first entries of a class list as text: "7 road, 8 car"."""
    shown = []
    for entry in entries[:6]:
        color = "" if entry.color is None else f"#{entry.color:06x}"
        stored = color if entry.value is None else str(entry.value)
        shown.append(f"{stored} {entry.name}".strip())
    return ", ".join(shown) + (f" and {len(entries) - 6} more" if len(entries) > 6 else "")


def counted_from_one(entries: Sequence[Entry], stored: Collection[int]) -> tuple[Entry, ...]:
    """Correct the numbers of COCO-Stuff's class list; other lists are returned unchanged.

    In the list, 0 is "unlabeled" and 1 is "person"; in the files, 0 is a person and 255 is
    unlabeled. Source: github.com/nightrome/cocostuff, "labels.txt".
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
    """Whether a class's name means that its pixels are ignored."""
    return plain_name(name) in IGNORED_NAMES


def plain_name(name: str) -> str:
    """Normalize a name for comparison: ignores case, spaces, - and _."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def text_of(path: Path) -> str:
    """Read a text file; MediaError if it can't be read."""
    try:
        with open_text(path) as file:
            return file.read()
    except OSError as error:
        raise cannot_read(path, error) from None


def read_items(path: Path) -> list[Entry]:
    """Parse TensorFlow's label_map.pbtxt (item { id: 1 name: 'leaf' }) and Caffe's
    labelmap.prototxt (label: 1). Most begin with 1; 0 is then the background."""
    entries = []
    for item in re.findall(r"item\s*\{(.*?)\}", text_of(path), re.DOTALL):
        pairs = re.findall(r"(\w+)\s*:\s*(\"[^\"]*\"|'[^']*'|\d+)", item)
        fields = {key: value.strip("\"'") for key, value in pairs}
        name = fields.get("display_name") or fields["name"]
        entries.append(Entry(name, int(fields["id"] if "id" in fields else fields["label"])))
    bare = entries and min(entry.value or 0 for entry in entries) == 1
    return [Entry(BINARY[0], 0), *entries] if bare else entries


def read_label_map(path: Path) -> list[Entry]:
    """Parse CVAT's labelmap.txt: name:r,g,b:parts:actions."""
    entries = []
    for line in text_of(path).splitlines():
        if line.strip() and not line.startswith("#"):
            name, color, *_ = line.split(":")
            entries.append(Entry(name.strip(), color=read_color(color.split(","))))
    return entries


def read_color(color: Any) -> int:
    """Parse #rrggbb, three numbers (0..255 or fractions of 1), {"r", "g", "b"}, or text with three
    numbers as a packed color; ValueError for other text."""
    if isinstance(color, Mapping):
        color = [color[channel] for channel in "rgb"]
    if isinstance(color, str):
        text = color.strip(" '\"")
        if re.fullmatch(r"#?[0-9a-fA-F]{6}|#[0-9a-fA-F]{8}", text) and not text.isdecimal():
            return int(text.lstrip("#")[:6], 16)  # two more digits are opacity
        color = re.findall(r"\d+(?:\.\d+)?", text)
    red, green, blue = (float(part) for part in color[:3])
    fractions = max(red, green, blue) <= 1 and any("." in str(part) for part in color[:3])
    scale = 255 if fractions else 1
    return pack(round(red * scale), round(green * scale), round(blue * scale))


def read_number(text: str) -> int:
    """Parse an integer, which spreadsheets may write as 1.0; ValueError for other text."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"not a whole number: {text}")
    return int(number)


def read_lines(path: Path) -> list[Entry]:
    """Parse one name per line, optionally with its number before or after it, or its color.

    ValueError if the text consists of sentences.
    """
    lines = [line.strip() for line in text_of(path).splitlines()]
    lines = [line for line in lines if not line.startswith("#") or _HEX.match(line)]
    lines = [line for line in lines if re.search(r"\w", line) and "INTERPOLATION:" not in line]
    if len(lines) == 1 and re.search("[,;]", lines[0]):  # all on one line, as in Python
        lines = re.split("[,;]", re.sub(r"^\w+\s*=\s*", "", lines[0]).strip("[](){}"))
    lines = [_QUOTES.sub("", line).strip(" \t,;") for line in lines]
    if all(line.startswith(("- ", "* ")) for line in lines):
        lines = [line[2:].strip() for line in lines]
    head = {*re.findall(r"\w+", lines[0].lower())} if lines else set()
    lines = lines[1:] if len(head) > 1 and head <= _HEADINGS else lines
    counted = [(found[2], found[1]) for found in map(_COUNTED.match, lines) if found]
    behind = [(found[1], found[2]) for found in map(_BEHIND.match, lines) if found]
    for pairs in (counted, behind):
        columns = [len({*column}) for column in zip(*pairs, strict=True)]
        if len(lines) > 1 and columns == [len(lines)] * 2:  # else `zone 1`, `zone 2` are names
            return [Entry(name, int(number)) for name, number in pairs]
    entries = _with_numbers(lines) or [_entry_of(line) for line in lines]
    if _are_sentences([one.name for one in entries if one.value is None and one.color is None]):
        raise ValueError(f"{path} holds sentences")
    return [entry for entry in entries if entry.name != "__ignore__"]  # labelme's index -1


def holds_sentences(path: Path) -> bool:
    """Whether a text file contains prose, such as a readme, not class names."""
    with contextlib.suppress(OSError, *PARSE_ERRORS):
        return _are_sentences(text_of(path).splitlines())
    return False


def _are_sentences(lines: Sequence[str]) -> bool:
    sentences = [one for one in lines if _SENTENCE.search(one) and not one.endswith("etc.")]
    stating = [one for one in lines if _STATING.search(one) and len(one.split()) > 4]
    return bool(sentences) or 2 * len(stating) > len(lines)


_SENTENCE = re.compile(r"\S\s+\S+\s.*[.!?]$|\w://\w|\w@\w")
"""Three words and a full stop, or an address."""

_STATING = re.compile(r"\b(is|are|was|were|has|have|means?)\b", re.IGNORECASE)

_HEADINGS = frozenset(
    [
        "id", "ids", "idx", "index", "name", "names", "class", "label", "value", "category", "r",
        "g", "b", "red", "green", "blue", "rgb", "color", "colour", "hex",
    ]
)  # fmt: skip
"""Words in a line of column headings."""

_QUOTES = re.compile(r"(?<!\w)['\"]|['\"](?!\w)")

_COUNTED = re.compile(r"^(?:class|label)[ _]?(\d+)\s*[:=-]\s*(\S.*)$", re.IGNORECASE)
"""class 0: sea"""

_BEHIND = re.compile(r"^([^\W\d](?:.*[^\W\d])?)\s*(?:[=:,;\t ]|->)\s*(\d+)$")
"""A name followed by its number."""

_NUMBERS = re.compile(
    r"^((?:[\d.]+[\s,;:]+){4,})(.*[^\W\d].*)$|^(.*[^\W\d])[\s,;:]((?:[\s,;:]*\b\d+){4,})$"
)
"""A name with four numbers or more before or behind it."""


def _with_numbers(lines: Sequence[str]) -> list[Entry]:
    """Parse lines with a name, its number, a color and possibly more (ITK-SNAP, QGIS), or a name
    and a color with opacity; [] for other lines."""
    rows = [found.groups("") for found in map(_NUMBERS.match, lines) if found]
    numbers = [[int(float(one)) for one in re.findall(r"[\d.]+", a + b)] for a, _, _, b in rows]
    if not rows or len(rows) < len(lines) or max(map(max, numbers)) > IGNORE:
        return []
    first = [row[0] for row in numbers]
    at = int(min(map(len, numbers)) > 4 or first == sorted({*first}))
    return [
        Entry((before + behind).strip(), row[0] if at else None, pack(*row[at : at + 3]))
        for row, (_, before, behind, _) in zip(numbers, rows, strict=True)
    ]


_HEX = re.compile(r"^#([0-9a-fA-F]{6})[\s,:;]+(\S.*)$")

_HEX_BEHIND = re.compile(r"^(.*?)[\s,:;=]+\(?#([0-9a-fA-F]{6})(?:[0-9a-fA-F]{2})?\)?$")


def _entry_of(line: str) -> Entry:
    if hexes := _HEX.match(line):
        return Entry(hexes[2], color=int(hexes[1], 16))
    if hexes := _HEX_BEHIND.match(line):
        return replace(_entry_of(hexes[1]), color=int(hexes[2], 16))
    color = re.search(r"\b(\d{1,3})[,\s]+(\d{1,3})[,\s]+(\d{1,3})\b", line)
    if color and max(int(part) for part in color.groups()) <= 255:
        name = (line[: color.start()] + line[color.end() :]).strip(" \t,:;()[]=")
        name = re.sub(r"^\d+\s*[:,;\s]\s*", "", name)
        return Entry(name, color=pack(*(int(part) for part in color.groups())))
    numbered = re.match(r"^(\d+)\s*(?:->|[:,;=\t ]|[.)-]\s)\s*(\S.*)$", line)
    return Entry(numbered[2].strip(), int(numbered[1])) if numbered else Entry(line)


def yaml_folder(path: Path) -> Path:
    """The dataset folder of a data.yaml: its `path:` if that exists here, else its own folder.

    An absolute path is usually from another machine.
    """
    folder = path.parent / yaml_text(path, "path")
    with contextlib.suppress(OSError):  # a name too long for any disk
        return folder if folder.is_dir() else path.parent
    return path.parent


def yaml_parts(text: str, key: str) -> list[str]:
    """The elements of the list or mapping under a key, in brackets or on separate lines."""
    start = re.search(rf"^{key}[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    if start is None:
        return []
    inline = start[1].split(" #")[0].strip()
    if inline.startswith(("[", "{")):
        close = "]" if inline[0] == "[" else "}"
        listed = text[start.start(1) : text.index(close, start.start(1))][1:]
        parts = [part.strip() for part in listed.replace("\n", " ").split(",")]
    elif inline and not inline.startswith("#"):
        return []
    else:
        block = re.match(r"(?:\s*\n|[ \t]+.*\n|-.*\n)*", text[start.end() + 1 :] + "\n")
        lines = (block[0] if block else "").splitlines()
        parts = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return [part for part in parts if part]


def yaml_values(text: str, key: str) -> dict[str, str]:
    """The list or mapping under a key, in brackets or on separate lines.

    Keys of a list are "0", "1", ...
    """
    found: dict[str, str] = {}
    for part in yaml_parts(text, key):
        entry = re.match(r"^(?:-\s*|['\"]?(-?\d+)['\"]?\s*:\s*)?(.*)$", part)
        if entry is not None:
            number = str(len(found)) if entry[1] is None else entry[1]
            found[number] = entry[2].strip(" '\"")
    return found


def yaml_text(path: Path, key: str) -> str:
    """The text value of a key in a YAML file; "" if it has none."""
    return next(iter(yaml_texts(text_of(path), key)), "")


def yaml_texts(text: str, key: str) -> list[str]:
    """The text values of a key in YAML text: one, or a list."""
    line = re.search(rf"^{key}[ \t]*:[ \t]*([^\s#\[{{][^\n\r]*)", text, re.MULTILINE)
    if line is None:
        return list(yaml_values(text, key).values())
    return [re.sub(r"\s#.*", "", line[1]).strip(" '\"")]


def open_text(path: Path) -> TextIO:
    """Open a text file in the encoding detected from its first bytes; line endings are kept.

    UTF-8; UTF-16 with a byte order mark (PowerShell, Notepad's "Unicode"); else Windows-1252.
    Undecodable bytes are replaced.
    """
    with path.open("rb") as file:
        encoding = _encoding_of(file.read(1 << 16))
    return path.open(encoding=encoding, errors="replace", newline="")


def _encoding_of(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # may end within a character
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"
