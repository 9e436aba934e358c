"""Find the split that a folder defines: by lists (train.txt), tables, or words in names.

Splits in single names (`train/`, `val_images/`, folds) are found in by_words.py.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from fcnseg.datasets import SPLITS, Pair, Pairing, SplitName, Unusable
from fcnseg.datasets.encoding.entries import text_of, yaml_texts
from fcnseg.datasets.pairing import (
    SPLIT_WORDS,
    Listing,
    is_image,
    start_below,
    stem_of,
    suffix_of,
    without_suffix,
)
from fcnseg.datasets.pairing.by_words import folder_split, folders_split, name_split, short_split
from fcnseg.datasets.pairing.lists import named_folds, with_unused_lists
from fcnseg.datasets.pairing.path_words import words_in
from fcnseg.errors import PARSE_ERRORS, as_text, from_bytes

_LIST_SUFFIXES = (".txt", ".lst", ".csv")

_LIST_WORDS = frozenset(
    [
        "list", "set", "sets", "split", "id", "ids", "file", "files", "image", "images", "img",
        "name", "names", "data", "dataset", "seg", "segmentation", "trainval", "aug", "index",
        "fold", "folds", "sequence", "sequences", "seq", "video", "videos", "scene", "scenes",
        "patient", "patients", "case", "cases", "pair", "pairs", "gt", "label", "labels", "mask",
        "masks", "annotation", "annotations", "path", "paths", "filename", "filenames",
    ]
)  # fmt: skip
"""Words that the name of a list may contain besides its split."""


def with_own_split(found: Pairing, listing: Listing, yaml: Path | None = None) -> Pairing:
    """Assign the split of the folder, or of a given data.yaml, to pairs without one."""
    places = _Places(found.pairs, listing.root)
    listed = _by_flags(found, listing, places) or _by_lists(found, listing, places)
    listed = listed or _by_table(found, listing, places, yaml)
    if listed is not None:
        return with_unused_lists(listed, listing)
    folders = {name.rpartition("/")[0] for name in listing.files}
    for told, needs_all, why in (
        (folders_split, False, "the names of folders say which pairs are for training"),
        (name_split, True, "the names of files say which pairs are for training"),
        (short_split, True, "the names of folders say which pairs are for training"),
    ):
        if told is folders_split and not any(map(folder_split, folders)):
            continue  # folders are few, pairs many
        pairs = _assigned(found.pairs, listing.root, told, needs_all=needs_all)
        if pairs is not None:
            return replace(found, pairs=pairs, why=(*found.why, why))
    return with_unused_lists(found, listing)


def _assigned(
    pairs: Sequence[Pair], root: Path, told: Callable[[Pair, Path], SplitName], *, needs_all: bool
) -> tuple[Pair, ...] | None:
    """Assign the splits returned by `told`; None unless they divide the pairs."""
    if needs_all and not told(pairs[0], root):
        return None  # the common case, checked cheaply
    splits = [pair.split or told(pair, root) for pair in pairs]
    if len(set(splits) - {""}) < 2 or (needs_all and "" in splits):
        return None
    return tuple(
        pair if pair.split else replace(pair, split=split)
        for pair, split in zip(pairs, splits, strict=True)
    )


def _by_lists(found: Pairing, listing: Listing, places: _Places) -> Pairing | None:
    """Splits from lists named after splits (ImageSets/train.txt); None without lists."""
    files = listing.with_suffix(*_LIST_SUFFIXES)
    lists = {name: split for name in files if (split := _list_split(name))}
    if not lists:
        return None
    ordered = sorted(lists, key=lambda name: [*_SPLIT_OF].index(lists[name]))
    named = {name: places.named_by(_lines_of(listing.path(name))) for name in ordered}
    read = _of_one_fold([name for name in ordered if named[name]], lists, named)
    chosen: dict[int, SplitName] = {}
    for name in read:
        for number in named[name]:
            chosen.setdefault(number, _SPLIT_OF[lists[name]])
    if not chosen or not (set(chosen.values()) - {"train"} or len(chosen) < len(found.pairs)):
        return None
    return _as_listed(found, chosen, read, listing)


def _of_one_fold(
    read: Sequence[str], splits: Mapping[str, str], named: Mapping[str, Sequence[int]]
) -> list[str]:
    """Drop lists of further folds (fold_1/train.txt, val_1.txt), whose training images are the
    first fold's validation images."""
    folds: dict[tuple[str, ...], list[str]] = {}
    for name in read:
        key = (name.rpartition("/")[0], *re.findall(r"\d+", stem_of(name)))
        folds.setdefault(key, []).append(name)
    first = min((fold for fold, some in folds.items() if len(some) > 1), default=None)
    if first is None or len(folds) < 2:
        return [*read]
    held = {n for name in folds[first] if splits[name] in ("val", "test") for n in named[name]}
    again = {name for name in read if splits[name] == "train" and not held.isdisjoint(named[name])}
    others = {fold for fold, some in folds.items() if not again.isdisjoint(some)} - {first}
    return [name for name in read if not any(name in folds[fold] for fold in others)]


def _by_table(
    found: Pairing, listing: Listing, places: _Places, yaml: Path | None
) -> Pairing | None:
    """Splits from a table (splits.json, split.csv with a column of splits, data.yaml)."""
    for name, named in _tables_of(listing, yaml):
        chosen: dict[int, SplitName] = {}
        for split, some in named.items():
            for number in places.named_by(some):
                chosen.setdefault(number, split)
        if len(set(chosen.values())) > 1:
            return _as_listed(found, chosen, [name], listing)
    return None


def _by_flags(found: Pairing, listing: Listing, places: _Places) -> Pairing | None:
    """Splits from a `train_test_split.txt` with 1 for the first and 0 for the second split, for
    images or for their ids in a list beside it (CUB's images.txt)."""
    for name in listing.with_suffix(".txt"):
        splits = [SPLIT_WORDS[word] for word in words_in(stem_of(name)) if word in SPLIT_WORDS]
        flags = _columns(listing, name) if len(set(splits)) == len(splits) == 2 else {}
        if {*flags.values()} != {"0", "1"}:
            continue
        beside = f"{name.rpartition('/')[0]}/images.txt".lstrip("/")
        paths = _columns(listing, beside) if beside in listing.files else {}
        chosen: dict[int, SplitName] = {}
        for key, flag in flags.items():
            split = splits[flag == "0"]
            chosen |= dict.fromkeys(places.named_by([paths.get(key, key)]), split)
        if len(set(chosen.values())) > 1:
            return _as_listed(found, chosen, [name], listing)
    return None


def _columns(listing: Listing, name: str) -> dict[str, str]:
    """A two-column text as first cell -> second cell; {} if a row has other columns."""
    rows = [line.replace(",", " ").split() for line in _lines_of(listing.path(name))]
    return {row[0]: row[1] for row in rows} if all(len(row) == 2 for row in rows) else {}


_SPLIT_OF: Mapping[str, SplitName] = {
    "val": "val", "test": "test", "train": "train", "both": "train",
}  # fmt: skip
"""Kind of list -> split, in order of precedence."""


def _list_split(name: str) -> str:
    """The split of a list by its file name; "" if it is not such a list."""
    tokens = words_in(stem_of(name))
    splits = [SPLIT_WORDS[token] for token in tokens if token in SPLIT_WORDS]
    if any(token not in SPLIT_WORDS and token not in _LIST_WORDS for token in tokens):
        return ""
    if "trainval" in tokens or len(set(splits)) > 1:
        return "both"
    return splits[0] if splits else ""


class _Places:
    """Finds the pairs of a list's lines, by path, name or stem of the image or labels, or by a
    folder of these."""

    def __init__(self, pairs: Sequence[Pair], root: Path) -> None:
        self._pairs = pairs
        self._root = root

    @cached_property
    def _known(self) -> tuple[Mapping[str, set[int]], Mapping[str, set[int]]]:
        """Pairs by name and by folder; computed on demand, as most folders have no lists."""
        by_name: dict[str, set[int]] = defaultdict(set)
        by_folder: dict[str, set[int]] = defaultdict(set)
        start = start_below(self._root)
        for number, pair in enumerate(self._pairs):
            for path in (pair.image, pair.labels):
                name = as_text(str(path)[start:]).replace("\\", "/").lower()
                bare = without_suffix(name)
                for known in {name, bare, *(part.rpartition("/")[2] for part in (name, bare))}:
                    by_name[known].add(number)
                folders = name.split("/")[:-1]
                for end in range(1, len(folders) + 1):
                    by_folder["/".join(folders[:end])].add(number)
                    by_folder[folders[end - 1]].add(number)
        return by_name, by_folder

    def named_by(self, lines: Sequence[str]) -> list[int]:
        """The indices of the pairs in a list; [] if most lines match none."""
        found = [numbers for numbers in map(self._named_by, lines) if numbers]
        every = [number for numbers in found for number in sorted(numbers)]
        return every if 2 * len(found) >= len(lines) else []

    def _named_by(self, line: str) -> set[int]:
        """The single pair of a line, or all pairs of a folder."""
        by_name, by_folder = self._known
        spellings = [*_spellings(line)]
        for wanted in spellings:
            numbers = by_name.get(wanted, set())
            if len(numbers) == 1:
                return numbers
        folders = (by_folder.get(wanted.rstrip("/"), set()) for wanted in spellings)
        return next((some for some in folders if 0 < len(some) < len(self._pairs)), set())


def _spellings(line: str) -> Iterable[str]:
    """The possible names in a line: the line, its cells with image files, its first cell (which may
    be a row number); each also as shorter ends of its path."""
    cells = [cell.strip("\"'") for cell in re.split(r"[,;\t ]", line)]
    for cell in dict.fromkeys((line, *filter(is_image, cells), cells[0])):
        path = as_text(cell).strip("\"'").replace("\\", "/").lower().lstrip("./")
        parts = path.split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            yield name
            if is_image(name):
                yield without_suffix(name)


def _as_listed(
    found: Pairing, chosen: dict[int, SplitName], read: Sequence[str], listing: Listing
) -> Pairing | None:
    """Assign the splits of lists; None if lists are incomplete and folders define splits, too.

    A folder's word may mean something else (DeepFish: `valid` are images with fish).
    """
    trains = "train" in chosen.values()
    complete = trains and len(chosen) == len(found.pairs)
    if not complete and any(pair.split for pair in found.pairs):
        return None
    pairs = []
    for number, pair in enumerate(found.pairs):
        if number in chosen:
            pairs.append(replace(pair, split=chosen[number]))
        elif not trains:
            pairs.append(replace(pair, split="train"))
    skipped = len(found.pairs) - len(pairs)
    notes = found.notes
    if skipped:
        why = "in none of the folder's lists"
        notes = (*notes, Unusable(listing.path(read[0]), why, skipped, "image"))
    return replace(
        found,
        pairs=tuple(pairs),
        notes=notes,
        why=(*found.why, f"{', '.join(read[:3])} say which pairs are for training and which not"),
    )


_TABLE_WORDS = frozenset(
    ["split", "splits", "fold", "folds", "partition", "subset", "metadata", "list"]
) | {"dataset", "datalist"}
"""Words in the name of a table of splits."""


def _tables_of(
    listing: Listing, yaml: Path | None
) -> Iterator[tuple[str, Mapping[SplitName, Sequence[str]]]]:
    """Yield possible tables of splits, with their content."""
    for name in listing.with_suffix(".json", ".csv", ".tsv", ".txt"):
        called = name.count("/") <= 1 and not _TABLE_WORDS.isdisjoint(words_in(stem_of(name)))
        lines = _lines_of(listing.path(name)) if called or re.match(r"[^/]+\.csv$", name) else []
        if called or "fold" in "".join(lines[:1]).lower():
            yield name, (_splits_in_json if suffix_of(name) == ".json" else _splits_in_rows)(lines)
    for name in [str(yaml)] if yaml else listing.with_suffix(".yaml", ".yml"):
        yield name, _splits_in_yaml(text_of(yaml or listing.path(name)), listing)


def _splits_in_yaml(text: str, listing: Listing) -> dict[SplitName, list[str]]:
    """The folders, or the images of lists, for each split in a YOLO data.yaml."""
    named: dict[SplitName, list[str]] = defaultdict(list)
    for split in SPLITS:
        for part in yaml_texts(text, split):
            end = "/" + part.removeprefix("./")
            lists = [name for name in listing.with_suffix(".txt") if f"/{name}".endswith(end)]
            named[split] += _lines_of(listing.path(lists[0])) if lists else [part]
    return named


def _splits_in_json(lines: Sequence[str]) -> dict[SplitName, list[str]]:
    """The images by split in {"train": [...], "val": [...]}, also in the first of several folds, or
    in {"a.png": "train", ...}."""
    try:
        data = json.loads("".join(lines))
    except PARSE_ERRORS:
        return {}
    data = data[0] if isinstance(data, list) and data else data
    if isinstance(data, dict) and len(data) == 1 and isinstance(next(iter(data.values())), dict):
        data = next(iter(data.values()))
    named: dict[SplitName, list[str]] = defaultdict(list)
    for key, value in data.items() if isinstance(data, dict) else ():
        if isinstance(value, list) and key.lower() in SPLIT_WORDS:
            named[SPLIT_WORDS[key.lower()]] += filter(None, map(_named_in, value))
        elif isinstance(value, str) and value.lower() in SPLIT_WORDS:
            named[SPLIT_WORDS[value.lower()]].append(key)
    return named


def _named_in(value: object) -> str:
    """The name in a JSON value: a text, a number, or the first image file of an object
    ({"image": "a.png", "label": "b.png"}); "" for other values."""
    if isinstance(value, dict):
        return next((one for one in value.values() if isinstance(one, str) and is_image(one)), "")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _splits_in_rows(lines: Sequence[str]) -> dict[SplitName, list[str]]:
    """The images by split in a table, if all rows but a heading have a word for a split: the cell
    with an image file, or else the first other one. A column of row numbers is skipped."""
    named: dict[SplitName, list[str]] = defaultdict(list)
    delimiter = next((one for one in ",;\t " if lines and one in lines[-1]), ",")
    try:
        rows = named_folds(list(csv.reader(lines, delimiter=delimiter)))
    except csv.Error:
        return {}
    numbered = bool(rows) and rows[0][:1] == [""]
    for row, cells in enumerate(line[numbered:] for line in rows):
        words = [cell.strip().lower() for cell in cells]
        at = next((place for place, word in enumerate(words) if word in SPLIT_WORDS), None)
        if at is not None and len(cells) > 1:
            others = cells[:at] + cells[at + 1 :]
            named[SPLIT_WORDS[words[at]]].append(next(filter(is_image, others), others[0]))
        elif row:
            return {}
    return named


def _lines_of(path: Path) -> list[str]:
    """The non-empty lines of a text file; [] if it can't be read."""
    try:
        lines = from_bytes(path.read_bytes()).splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]
