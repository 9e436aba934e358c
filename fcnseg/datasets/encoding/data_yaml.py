"""What a YOLO data.yaml says: the classes, the folder, where the masks are.

Only these keys are understood: a YAML reader for them would be a dependency.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from fcnseg.datasets.encoding.entries import Entry, text_of
from fcnseg.datasets.pairing import Listing
from fcnseg.errors import STRANGE


def read_yaml_names(path: Path) -> list[Entry]:
    """The `names:` of a YOLO data.yaml, and what its `label_mapping:` says is stored for them."""
    text = text_of(path)
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
    said = re.search(r"^path[ \t]*:[ \t]*(.*)$", text_of(path), re.MULTILINE)
    folder = path.parent / re.sub(r"\s#.*", "", said[1]).strip(" '\"") if said else path.parent
    with contextlib.suppress(OSError):  # a name too long for any disk
        return folder if folder.is_dir() else path.parent
    return path.parent


def find_masks_dir(listing: Listing, yaml: Path | None) -> str:
    """The folder of labels that a data.yaml names (`masks_dir:`), relative to the listing's; "".

    yaml: the file, if it was given; else those of the folder are looked at.
    """
    files = [yaml] if yaml else map(listing.path, listing.with_suffix(".yaml", ".yml"))
    for path in files:
        said = re.search(r"^masks_dir[ \t]*:[ \t]*(.*)$", text_of(path), re.MULTILINE)
        folder = re.sub(r"\s#.*", "", said[1]).strip(" '\"").strip("/") if said else ""
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
