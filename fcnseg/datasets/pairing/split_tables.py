"""Tables that say which images are for training: splits.json, split.csv, a YOLO data.yaml."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fcnseg.datasets import SPLITS, SplitName
from fcnseg.datasets.encoding.entries import text_of, yaml_texts
from fcnseg.datasets.pairing import LETTERS, SPLIT_WORDS, Listing, is_image, stem_of, suffix_of
from fcnseg.errors import STRANGE, from_bytes

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")

_TABLE_WORDS = frozenset(
    ["split", "splits", "fold", "folds", "partition", "subset", "metadata", "list", "dataset",
     "datalist"]
)  # fmt: skip
"""The name of a table that gives each image's split has one of these."""


def words_in(name: str) -> list[str]:
    """The words of a name, in lower case: TestSet_2 has test and set."""
    return LETTERS.findall(_CAMEL.sub("_", name).lower())


def lines_of(path: Path) -> list[str]:
    """A text's lines but empty ones; [] where it can't be read."""
    try:
        lines = from_bytes(path.read_bytes()).splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()]


def tables_of(
    listing: Listing, yaml: Path | None
) -> Iterator[tuple[str, Mapping[SplitName, Sequence[str]]]]:
    """The tables that may say which images are for what, with what they say."""
    for name in listing.with_suffix(".json", ".csv", ".tsv", ".txt"):
        if name.count("/") <= 1 and not _TABLE_WORDS.isdisjoint(words_in(stem_of(name))):
            read = _splits_in_json if suffix_of(name) == ".json" else _splits_in_rows
            yield name, read(lines_of(listing.path(name)))
    for name in [str(yaml)] if yaml else listing.with_suffix(".yaml", ".yml"):
        yield name, _splits_in_yaml(text_of(yaml or listing.path(name)), listing)


def _splits_in_yaml(text: str, listing: Listing) -> dict[SplitName, list[str]]:
    """The folders, or lists of images, that a YOLO data.yaml gives for each split."""
    named: dict[SplitName, list[str]] = defaultdict(list)
    for split in SPLITS:
        for part in yaml_texts(text, split):
            end = "/" + part.removeprefix("./")
            lists = [name for name in listing.with_suffix(".txt") if f"/{name}".endswith(end)]
            named[split] += lines_of(listing.path(lists[0])) if lists else [part]
    return named


def _splits_in_json(lines: Sequence[str]) -> dict[SplitName, list[str]]:
    """What {"train": [...], "val": [...]} names, also of the first of several folds, or
    {"a.png": "train", ...}."""
    try:
        data = json.loads("".join(lines))
    except STRANGE:
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
    """What a JSON value names: a text, the number that an image is called, or the first image
    file of an object ({"image": "a.png", "label": "b.png"}); "" for another value."""
    if isinstance(value, dict):
        return next((one for one in value.values() if isinstance(one, str) and is_image(one)), "")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _splits_in_rows(lines: Sequence[str]) -> dict[SplitName, list[str]]:
    """What the cell with an image file beside a split's word names, or the first such cell, where
    all rows but a heading have one. Numbers of rows, which have no heading, are none."""
    named: dict[SplitName, list[str]] = defaultdict(list)
    delimiter = next((one for one in ",;\t " if lines and one in lines[-1]), ",")
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
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
