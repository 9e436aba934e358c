"""dataset.toml: the description of a dataset folder, to be edited by the user.

root = "camvid"              # the folder, relative to this file
layout = "camvid"            # how pairs are found in it
images = "last"              # instead of layout: the folder or pattern of the images,
labels = "last_msk"          # and of the labels; everything below is then optional
kind = "index"               # index: numbers; color: RGB
ignore = [11]                # stored values of ignored pixels
leave_out = ["0016E5_0803*"] # images that are not used, by name or pattern

[[class]]                    # in the order of the class indices
name = "sky"
color = "#808080"            # for display
values = [0]                 # its stored values; several values merge classes

[splits]                     # images by name or pattern; default: as in the folder
val = ["0016E5_07*"]
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fcnseg.classes import IGNORE, ClassMap, unpack
from fcnseg.config.texts import toml_value
from fcnseg.datasets import SPLITS, Description, Encoding, LabelMeaning, Pair, Pairing, SplitName
from fcnseg.errors import (
    PARSE_ERRORS,
    DatasetError,
    FcnsegError,
    OptionError,
    as_text,
    cannot_read,
    from_bytes,
    reason,
    to_bytes,
    to_path,
)
from fcnseg.io.images import write_bytes

_KEYS = {
    "root", "layout", "images", "labels", "store", "kind", "snap", "ignore", "terms", "alone",
    "leave_out", "class", "splits",
}  # fmt: skip


@dataclass(frozen=True)
class DatasetToml:
    """The content of a dataset.toml.

    splits: split -> names or patterns; {} keeps the folder's own.
    leave_out: names or patterns of images that are not used.
    sides: folders or patterns of images and labels. layout, reading: None if not given.
    """

    root: Path
    layout: str | None
    reading: LabelMeaning | None
    splits: Mapping[SplitName, tuple[str, ...]]
    leave_out: tuple[str, ...]
    sides: tuple[str, str] = ("", "")

    def applied(self, found: Pairing) -> Pairing:
        """What was found in the folder, overridden by this file.

        DatasetError if an image in leave_out does not exist.
        """
        left_out = _named(found.pairs, self.leave_out)
        dropped = set(left_out)  # a pattern may match thousands
        pairs = [pair for pair in found.pairs if pair.name not in dropped]
        if self.splits or self.reading is not None:
            pairs = [*_assign_splits(pairs, self.splits)]
        found = replace(found, pairs=tuple(pairs), left_out=tuple(left_out))
        if self.reading is None:
            return found
        encoding = self.reading.encoding
        return replace(found, label_format=encoding.label_format, class_words=encoding.class_words)


def write_declared(
    description: Description, path: Path, *, parts: Sequence[SplitName] = ()
) -> None:
    """Write a description as a dataset.toml; MediaError when it can't be written, OptionError if
    there is a different file of that name.

    parts: splits whose images are listed; default: a randomly chosen validation split.
    """
    encoding = description.encoding
    lines = [
        "# A dataset as fcnseg understands it: `fcnseg train THIS_FILE` uses it in place of the",
        "# folder. Correct anything. Two classes become one when one lists the other's values; a",
        "# class without its [[class]] is ignored when its values stand under `ignore`. Images",
        '# under `leave_out` (names or patterns such as "night/*") are not used at all.',
        f"root = {toml_value(_root_from(description.root, path))}",
        f"layout = {toml_value(description.layout)}",
        *(
            f"{side} = {toml_value(pattern)}"
            for side, pattern in zip(("images", "labels"), description.found.sides, strict=True)
            if pattern
        ),
        f"store = {toml_value(encoding.label_format)}",
        f"kind = {toml_value(encoding.kind)}",
        f"snap = {toml_value(encoding.nearest)}",
        f"ignore = {toml_value([encoding.shown(value) for value in encoding.ignore])}",
        f"leave_out = {toml_value(list(description.found.left_out))}",
    ]
    if encoding.alone:
        lines.append(f"alone = {toml_value(list(encoding.alone))}")
    if encoding.class_words:
        lines.append(f"terms = {toml_value(list(encoding.class_words))}")
    for name, color, values in zip(
        description.classes.names, description.classes.colors.tolist(), encoding.values, strict=True
    ):
        hexed = "#{:02x}{:02x}{:02x}".format(*color)
        stored = toml_value([encoding.shown(value) for value in values])
        lines += ["", "[[class]]", f"name = {toml_value(name)}", f"color = {toml_value(hexed)}"]
        lines.append(f"values = {stored}")
    if description.random_split and not parts:
        lines += ["", "[splits]  # drawn by fcnseg; every other image is for training"]
        lines += _listed(description.pairs, "val")
    elif parts:
        lines += ["", "[splits]"]
        lines += [line for part in parts for line in _listed(description.pairs, part)]
    data = to_bytes("\n".join(lines) + "\n")
    if path.is_file() and path.read_bytes() != data:
        raise OptionError(
            f"{path} already exists with other content; it may have been edited by hand.",
            hint="name another file, or delete that one",
        )
    write_bytes(path, data)


def _listed(pairs: Sequence[Pair], part: SplitName) -> list[str]:
    """The lines that list the images of a split; none for an empty split."""
    names = [f"  {toml_value(pair.name)}," for pair in pairs if pair.split == part]
    return [f"{part} = [", *names, "]"] if names else []


def read_declared(path: Path) -> DatasetToml:
    """Read a dataset.toml; DatasetError for an invalid one."""
    try:
        data = tomllib.loads(from_bytes(path.read_bytes()))
    except OSError as error:
        raise cannot_read(path, error, DatasetError) from None
    except PARSE_ERRORS as error:  # TOMLDecodeError; numbers or nesting beyond Python's limits
        raise DatasetError(f"{path} is not a TOML file: {reason(error)}.") from None
    unknown = set(data) - _KEYS
    needed = {"root"} if {"images", "labels"} & set(data) else {"root", "layout", "class"}
    if unknown or not needed <= set(data):
        missing = needed - set(data)
        what = (
            f"unknown: {', '.join(sorted(unknown))}"
            if unknown
            else (f"missing: {', '.join(sorted(missing))}")
        )
        raise DatasetError(
            f"{path} is not a dataset description; {what}.",
            hint="write one with: fcnseg check FOLDER --write dataset.toml",
        )
    try:
        return DatasetToml(
            root=path.parent / to_path(str(data["root"])),
            layout=str(data["layout"]) if "layout" in data else None,
            reading=_reading(data) if "class" in data else None,
            splits=_splits(data.get("splits", {})),
            leave_out=_strings(data.get("leave_out", []), "leave_out"),
            sides=(_side(data, "images"), _side(data, "labels")),
        )
    except PARSE_ERRORS as error:
        message = error.message.rstrip(".") if isinstance(error, FcnsegError) else reason(error)
        raise DatasetError(f"{path}: {message}.") from None


def _assign_splits(
    pairs: Sequence[Pair], splits: Mapping[SplitName, tuple[str, ...]]
) -> tuple[Pair, ...]:
    """Assign the splits of a dataset.toml; other pairs keep theirs, or are for training."""
    exact = {as_text(name): split for split, names in splits.items() for name in names}
    patterns = [(name, split) for name, split in exact.items() if set(name) & set("*?[")]

    def split_of(pair: Pair) -> SplitName:
        called = as_text(pair.name)
        if called in exact:
            return exact[called]
        named = next((split for name, split in patterns if fnmatchcase(called, name)), None)
        return named or pair.split or "train"

    return tuple(replace(pair, split=split_of(pair)) for pair in pairs)


def _named(pairs: Sequence[Pair], names: Sequence[str]) -> list[str]:
    """The pairs' names that match these names or patterns; DatasetError if one has no match."""
    by_text: dict[str, list[str]] = {}
    for pair in pairs:
        by_text.setdefault(as_text(pair.name), []).append(pair.name)
    meant: dict[str, None] = {}
    for given in names:
        wanted = as_text(given)
        some = by_text.get(wanted) or [
            name for text, same in by_text.items() if fnmatchcase(text, wanted) for name in same
        ]
        if not some:
            raise DatasetError(
                f"leave_out names {given!r}, but no image is called that.",
                hint="names have no suffix, e.g. street/0001; patterns do too, e.g. street/*",
            )
        meant |= dict.fromkeys(some)
    return list(meant)


def _reading(data: Mapping[str, Any]) -> LabelMeaning:
    terms = tuple(str(term) for term in data.get("terms", ()))
    ignore = tuple(_stored(value, terms) for value in data.get("ignore", ()))
    tables = data["class"]
    encoding = Encoding(
        kind=data.get("kind", "index"),
        values=tuple(tuple(_stored(v, terms) for v in table["values"]) for table in tables),
        ignore=ignore,
        nearest=bool(data.get("snap", False)),
        label_format=data.get("store", "pixels"),
        class_words=terms,
        alone=tuple(int(value) for value in data.get("alone", ())),
    )
    names = [str(table["name"]) for table in tables]
    colors = [table.get("color") for table in tables]
    classes = ClassMap.of(names)
    if all(colors):
        classes = ClassMap.of(names, [unpack(_hex(color)) for color in colors])
    reported = IGNORE if encoding.kind == "color" or terms else min(ignore, default=IGNORE)
    return LabelMeaning(encoding, classes, reported if ignore else None, ("as dataset.toml says",))


def _strings(names: Any, where: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} is a list of names, in quotes; found {names!r}")
    return tuple(names)


def _side(data: Mapping[str, Any], side: str) -> str:
    pattern = data.get(side, "")
    if not isinstance(pattern, str):
        raise ValueError(f"{side} is a folder or a pattern, in quotes; found {pattern!r}")
    return os.fsdecode(to_bytes(pattern))


def _splits(data: Mapping[str, Any]) -> dict[SplitName, tuple[str, ...]]:
    unknown = set(data) - set(SPLITS)
    if unknown:
        raise DatasetError(f"no split {min(unknown)!r}; known: train, val, test.")
    return {split: _strings(data[split], split) for split in SPLITS if split in data}


def _stored(value: Any, terms: Sequence[str]) -> int:
    """A stored value as a number: "#rrggbb" becomes a packed color, a word its term's number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"values are whole numbers, colors or words; found {value!r}")
    if isinstance(value, int):
        return value
    return terms.index(value) + 1 if value in terms else _hex(value)


def _hex(color: str) -> int:
    if len(color) != 7 or color[0] != "#":
        raise ValueError(f"a color is written #rrggbb; found {color!r}")
    return int(color[1:], 16)


def _root_from(root: Path, path: Path) -> str:
    """The folder's path relative to the file."""
    try:
        return Path(os.path.relpath(root.resolve(), path.resolve().parent)).as_posix()
    except ValueError:  # on another drive of Windows
        return root.resolve().as_posix()
