"""Lists of images with their labels: CSV, text, JSON and JSON lines."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcnseg.datasets import Pair, Pairing, SplitName, Unusable, name_uniquely
from fcnseg.datasets.pairing import (
    LABEL_WORDS,
    SPLIT_WORDS,
    Listing,
    is_image,
    marks,
    place_of,
    stem_of,
    suffix_of,
)
from fcnseg.datasets.pairing.by_words import split_in
from fcnseg.errors import PARSE_ERRORS, DatasetError, from_bytes, is_file, quoted, to_path

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".lst", ".jsonl", ".manifest")

_ARRAYS = (".npy", ".npz", ".mat")
"""Suffixes of labels that are not images."""

_LARGEST_JSON, _MOST_JSON = 1 << 25, 8
"""Maximum bytes of a JSON list of pairs, and maximum number of JSON files in its folder."""

_SEEN = 20
"""Number of lines of a list that are checked."""

_LABEL_KEYS = marks(b"mask", b"label", b"annot", b"seg", b"gt", b"target")


def find_pair_list(listing: Listing) -> Pairing | None:
    """Find lists of pairs near the top of a folder; lists named after splits are combined."""
    found = []
    jsons = listing.with_suffix(".json")
    jsons = jsons if len(jsons) <= _MOST_JSON else ()  # more are one per image
    lists = [name for name in jsons if any(listing.says(name, (key,)) for key in _LABEL_KEYS)]
    for name in (*listing.with_suffix(*LIST_SUFFIXES), *lists):
        if name.count("/") <= 1 or suffix_of(name) == ".manifest":  # SageMaker's, manifests/output/
            rows = named_folds(_rows(listing.path(name)))
            for base in dict.fromkeys((listing.path(name).parent, listing.root)):
                columns = _columns(rows, base, listing.root)
                if columns:
                    found.append((name, base, rows, columns))
                    break
            else:
                rows = _located(rows, listing)
                columns = _columns(rows, listing.root, listing.root)
                if columns and _are_apart(rows, columns):
                    found.append((name, listing.root, rows, columns))
    if not found:
        return None
    pairs, orphans = [], []
    for name, base, rows, columns in found:
        made, missing = _pairs(listing.path(name), rows, columns, base, listing.root)
        pairs += made
        orphans += missing
    return _found(
        [name for name, *_ in found],
        pairs,
        orphans,
        folds=any(_SPLIT in rows[0] for *_, rows, _ in found),
    )


def _located(rows: Sequence[Sequence[str]], listing: Listing) -> list[list[str]]:
    """Replace cells that name files without folders or suffixes with the files' paths; [] unless
    exactly one column has a heading for labels."""
    columns = range(len(rows[0])) if rows else ()
    labels = [at for at in columns if _is_label_heading(rows[0], at)]
    if len(labels) != 1:
        return []
    named: dict[str, list[str]] = defaultdict(list)
    for name in listing.images:
        base = name.rpartition("/")[2].lower()
        named[base].append(name)
        if not stem_of(base).isdecimal():  # could be any number
            named[stem_of(base)].append(name)

    def located(cell: str, role: str) -> str:
        some = named.get(cell.lower(), [])
        some = [name for name in some if place_of(name).role == role] if some[1:] else some
        return some[0] if len(some) == 1 else cell

    roles = ["labels" if at in labels else "images" for at in columns]
    return [[located(cell, role) for cell, role in zip(row, roles, strict=False)] for row in rows]


def _are_apart(rows: Sequence[Sequence[str]], columns: tuple[int, int, int | None]) -> bool:
    """Whether no file is listed twice, neither as image nor as labels."""
    both = [[row[at] for row in rows if len(row) > at] for at in columns[:2]]
    return len({*both[0], *both[1]}) == len(both[0]) + len(both[1])


def read_pair_list(path: Path) -> Pairing:
    """Read a list of pairs, whose files may be anywhere; DatasetError if it is not one."""
    rows = named_folds(_rows(path))
    columns = _columns(rows, path.parent)
    if columns is None:
        raise DatasetError(
            f"{path} names no existing pair of image and label files{_first_missing(path)}.",
            hint="each line: image,labels[,split], relative to the list's folder",
        )
    pairs, missing = _pairs(path, rows, columns, path.parent)
    return _found([path.name], pairs, missing, folds=_SPLIT in rows[0])


def refuse_missing(listing: Listing) -> None:
    """DatasetError if a list near the top of a folder contains pairs of which no file exists."""
    for name in listing.with_suffix(*LIST_SUFFIXES):
        if name.count("/") > 1:
            continue
        path = listing.path(name)
        missing = _first_missing(path)
        if missing:
            raise DatasetError(
                f"{path} lists pairs of image and label files, none of which is there{missing}.",
                hint="paths are relative to the list's folder; correct them, or remove the list",
            )
        if any(_leaves(file, listing.root) for file in _files(path)):
            raise DatasetError(
                f"{path} lists pairs of image and label files outside {listing.root}.",
                hint=f"if that is what you want, name the list itself: {quoted(path)}",
            )


def with_unused_lists(found: Pairing, listing: Listing) -> Pairing:
    """Add a note for each list of pairs without its files, or of a split without most of them."""
    notes = []
    for name in listing.with_suffix(".csv", ".txt", ".lst"):
        path, is_split = listing.path(name), stem_of(name).lower() in SPLIT_WORDS
        if is_split and suffix_of(name) != ".csv":
            stems = [stem_of(one).lower() for one in _words_of(path)]
            count, here = len(stems), sum(map(listing.mentions, stems))
        else:
            files = _files(path) if "/" not in name and suffix_of(name) == ".csv" else []
            count, here = len(files), len(files) * any(map(is_file, files))
        if 2 * here < count:
            why = "no file is here that it names"
            why = f"of the first {count} files that it names {here} are here" if here else why
            notes.append(Unusable(path, why, what="list"))
    return replace(found, notes=(*found.notes, *notes)) if notes else found


def _words_of(path: Path) -> list[str]:
    """The first lines of a text file with one word per line; else []."""
    with contextlib.suppress(OSError):
        lines = from_bytes(path.read_bytes()).split("\n")[:_SEEN]
        words = [line.strip().replace("\\", "/").rstrip("/") for line in lines if line.strip()]
        return [] if any(" " in word or "," in word for word in words) else words
    return []


def _first_missing(path: Path) -> str:
    """ ": PATH is missing" for the first missing file of a list of pairs; else ""."""
    return next((f": {file} is missing" for file in _files(path) if not file.is_file()), "")


def _files(path: Path) -> list[Path]:
    """The files in the first lines of a list, in lines with at least two image files."""
    rows = [row for row in _rows(path)[:_SEEN] if sum(map(is_image, row)) >= 2]
    return [_file(path.parent, cell) for row in rows for cell in row if is_image(cell)]


def _file(folder: Path, cell: str) -> Path:
    """The file in a cell, which may be from Windows or another machine: if the path does not exist,
    the longest end of it that does."""
    file = folder / to_path(cell)
    if is_file(file):
        return file
    path = cell.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    elsewhere = path.startswith("/") or ":" in parts[0] if parts else False
    ends = ("/".join(parts[at:]) for at in range(len(parts) - (not elsewhere)))
    files = (folder / to_path(end) for end in ends if not end.startswith(".."))
    return next(filter(is_file, files), file)


def _leaves(file: Path, root: Path | None) -> bool:
    """Whether a path, both as written and with links resolved, is outside a dataset's folder."""
    if root is None:
        return False
    ways = (os.path.abspath, os.path.realpath)  # a link in the folder may lead out of it
    return not any(way(file).startswith(os.path.join(way(root), "")) for way in ways)  # noqa: PTH118


def _found(
    names: Sequence[str], pairs: Sequence[Pair], missing: Sequence[Unusable], *, folds: bool
) -> Pairing:
    ordered = sorted(pairs, key=lambda pair: not pair.split)  # train.txt before trainval.txt
    unique = list({(pair.image, pair.labels): pair for pair in reversed(ordered)}.values())[::-1]
    arrays = bool(unique) and all(pair.labels.suffix.lower() in _ARRAYS for pair in unique)
    told = "; the first fold is val, the others are train" * folds
    return Pairing(
        "list",
        name_uniquely(unique),
        label_format="arrays" if arrays else "pixels",
        notes=tuple(missing),
        why=(f"{', '.join(names[:3])} names an image and its labels on each line{told}",),
    )


def _rows(path: Path) -> list[list[str]]:
    """The cells of each line; [] for a file that is not a table."""
    try:
        text = from_bytes(path.read_bytes()) if _may_list(path) else ""
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return []
    if path.suffix.lower() in (".jsonl", ".json", ".manifest"):
        return _objects(lines)
    for delimiter in (",", ";", "\t", " "):
        if delimiter in lines[-1]:
            rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            with contextlib.suppress(csv.Error):
                return [[cell.strip() for cell in row] for row in rows]
    return []


_SPLIT = "split of folds"  # a heading
_FOLD = re.compile(r"(?:k|cv)?[_ -]?folds?[_ -]?(?:id|no|number)?", re.IGNORECASE)


def named_folds(rows: Sequence[list[str]]) -> Sequence[list[str]]:
    """A table with splits for the numbers in a column `fold`, unless another column has splits: the
    first fold is val, the others are train."""
    head = [_FOLD.fullmatch(cell.strip()) is not None for cell in (rows or [[]])[0]]
    at = head.index(True) if True in head else len(head)
    cells = [row[at].strip() if at < len(row) else "" for row in rows[1:]]
    folds = [re.fullmatch(r"(?:fold[_ -]?)?(-?\d+)(?:\.0)?", cell) for cell in cells]
    numbers = [int(fold[1]) for fold in folds if fold]
    known = any(cell.lower() in SPLIT_WORDS for row in rows[1:] for cell in row)
    first = min((number for number in numbers if number >= 0), default=-1)  # -1: in no fold
    if known or first < 0 or len({*numbers}) < 2 or len(numbers) < len(rows) - 1:
        return rows
    splits = ["val" if number == first else "train" for number in numbers]
    both = zip(rows, (_SPLIT, *splits), strict=True)
    return [[*row[:at], split, *row[at + 1 :]] for row, split in both]


def _may_list(path: Path) -> bool:
    """Whether a file may be a list of pairs; JSON only up to a maximum size."""
    if path.suffix.lower() != ".json":
        return True
    with path.open("rb") as file:
        is_list = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"[")
        return file.seek(0, 2) <= (_LARGEST_JSON if is_list else _LARGEST_JSON // 8)


def _objects(lines: Sequence[str]) -> list[list[str]]:
    """Convert JSON lines, a list of objects, one list per split, or an object {image: labels} to a
    table with a heading; [] for other data."""
    whole = lines[0].lstrip().startswith("[") or not lines[0].rstrip().endswith("}")
    try:
        data = json.loads("".join(lines)) if whole or not lines[1:] else [*map(json.loads, lines)]
    except PARSE_ERRORS:
        return []
    if isinstance(data, dict):
        if all(isinstance(value, str) and is_image(key) for key, value in data.items()):
            return [["image", "label"], *map(list, data.items())]
        parts = [(key, some) for key, some in data.items() if key.lower() in SPLIT_WORDS]
        flat = not any(isinstance(value, list | dict) for value in data.values())
        data = (
            [data] if flat else [{**o, "split": key} for key, some in parts for o in _dicts(some)]
        )
    head = list(data[0]) if data and len(data) == len(_dicts(data)) else []
    return [head, *([str(one.get(key, "")) for key in head] for one in data)] if head else []


def _dicts(data: Any) -> list[dict[str, Any]]:
    """The objects of a JSON list."""
    return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []


def _columns(
    rows: Sequence[Sequence[str]], folder: Path, root: Path | None = None
) -> tuple[int, int, int | None] | None:
    """The columns of the image, the labels and (if any) the split; None for another table.

    Determined by the first lines whose cells are existing image files (below `root`, if given),
    and by the heading.
    """
    for row in rows[:20]:
        named = [i for i, cell in enumerate(row) if is_image(cell) or suffix_of(cell) in _ARRAYS]
        files = {i: _file(folder, row[i]) for i in named}
        paths = [i for i, file in files.items() if is_file(file) and not _leaves(file, root)]
        shown = [i for i in paths if is_image(row[i])]
        paths = [*shown, *(i for i in paths if i not in shown)]  # arrays are labels
        if shown and len(paths) >= 2 and files[paths[0]] != files[paths[1]]:
            image, labels = paths[:2]
            heads = [_is_label_heading(rows[0], column) for column in (image, labels)]
            if labels in shown and heads == [True, False]:
                image, labels = labels, image
            split = next((i for i, cell in enumerate(row) if cell.lower() in SPLIT_WORDS), None)
            return image, labels, split
    return None


def _is_label_heading(head: Sequence[str], column: int) -> bool:
    word = head[column].lower() if column < len(head) else ""
    return any(part in LABEL_WORDS for part in word.replace("-", "_").split("_"))


def _pairs(
    path: Path,
    rows: Sequence[Sequence[str]],
    columns: tuple[int, int, int | None],
    base: Path,
    root: Path | None = None,
) -> tuple[list[Pair], list[Unusable]]:
    """The pairs of a list, and notes on lines whose files are missing or not below `root`."""
    image, labels, split = columns
    own_names = rows[0].index("name") if "name" in rows[0] else None  # of a clean copy
    own = split_in(path.stem)
    pairs, missing = [], []
    for row in rows:
        if len(row) <= max(image, labels) or not is_image(row[image]):
            continue  # a heading
        files = _file(base, row[image]), _file(base, row[labels])
        lost = [str(file) for file in files if not is_file(file)]
        if lost:
            why = f"no file {lost[0]}" if row[image] and row[labels] else "no labels named"
            missing.append(Unusable(path, why, what="line"))
            continue
        away = [str(file) for file in files if _leaves(file, root)]
        if away:
            missing.append(Unusable(path, f"{away[0]} is outside the dataset", what="line"))
            continue
        named: SplitName = own
        if split is not None and split < len(row):
            named = SPLIT_WORDS.get(row[split].lower(), own)
        name = to_path(row[image]).with_suffix("").as_posix().lstrip("./")
        if own_names is not None and own_names < len(row):
            name = row[own_names]
        pairs.append(Pair(*files, named, name))
    return pairs, missing
