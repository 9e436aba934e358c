"""Findings about a dataset, and the checks of its files and class names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fcnseg.classes import BINARY, IGNORE
from fcnseg.datasets import files_of
from fcnseg.datasets.encoding.values import GREY, GREYS
from fcnseg.datasets.pairing.named_images import class_folders
from fcnseg.datasets.scan import ScanResult
from fcnseg.errors import DatasetError, counted
from fcnseg.io.bands import Layout, common_layout

ABOUT_VALUES = frozenset(
    {"undeclared-value", "two-meanings", "unlabelled-class", "snapped", "unused-class-list"}
)
"""Codes of findings about the class of a stored value, on which scores depend."""

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """A property or a problem of a dataset.

    severity: "error" prevents training; "warning" is shown before it; "info" is not.
    code: a fixed identifier. message: what was found. repair: how to fix it.
    files: the files concerned, relative to the dataset folder if they are in it.
    """

    severity: Severity
    code: str
    message: str
    files: tuple[str, ...] = ()
    repair: str = ""

    @property
    def sentence(self) -> str:
        """The message, with the first three files."""
        return f"{self.message} ({listed(self.files, 3)})" if self.files else self.message

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {**vars(self), "files": list(self.files)}


def counts_by_severity(findings: Sequence[Finding]) -> str:
    """The number of findings as text: "1 error, 3 warnings and 2 notes"."""
    words = {"error": "error", "warning": "warning", "info": "note"}
    counts = {kind: sum(one.severity == kind for one in findings) for kind in SEVERITIES}
    parts = [counted(number, words[kind]) for kind, number in counts.items() if number]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:]))) or "No findings"


SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""In order of severity."""


def label_names(seen: ScanResult, numbers: Sequence[int]) -> tuple[str, ...]:
    """The label files of these pairs, as named in findings."""
    pairs = seen.description.pairs
    return file_names(seen, [path for number in numbers for path in files_of(pairs[number])])


def file_names(seen: ScanResult, files: Sequence[Path]) -> tuple[str, ...]:
    """Paths as named in findings, without duplicates."""
    return tuple(dict.fromkeys(relative(file, seen.description.root) for file in files))


def relative(file: Path, root: Path) -> str:
    """A path relative to the dataset folder if it is in it."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def are(number: int, what: str) -> str:
    """ "3 files are"."""
    return f"{counted(number, what)} {'is' if number == 1 else 'are'}"


def have(number: int, what: str) -> str:
    """ "3 files have"."""
    return f"{counted(number, what)} {'has' if number == 1 else 'have'}"


def its(number: int) -> str:
    """ "its" or "their"."""
    return "its" if number == 1 else "their"


def listed(names: Sequence[str], most: int = 12) -> str:
    """The first names as text, and the number of others."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def file_findings(seen: ScanResult) -> Iterable[Finding]:
    """Findings about the files."""
    yield from _unreadable(seen)
    yield from _sizes(seen)
    yield from _orphans(seen)
    yield from _left_out(seen)
    yield from _image_properties(seen)


def layout_of_images(seen: ScanResult) -> tuple[Layout | None, list[Finding]]:
    """The common bands and type of all images, and findings if they differ."""
    pairs = zip(seen.images.layouts, seen.description.pairs, strict=True)
    files = {text: pair.image for text, pair in reversed([*pairs]) if text}
    try:
        layout = common_layout(files)
    except DatasetError as error:
        names = file_names(seen, list(files.values()))
        return None, [Finding("error", "mixed-bands", error.message, names, error.hint)]
    if layout is None or not layout.as_rgb or layout.dtype == "uint8":
        return layout, []
    text = "Images of 8 and of 16 bits are mixed: those of 16 are scaled to 8."
    repair = "give all images one type: then they are used as they are stored"
    return layout, [Finding("warning", "mixed-depth", text, (), repair)]


def _unreadable(seen: ScanResult) -> Iterable[Finding]:
    pairs = seen.description.pairs
    broken: list[tuple[Path, str]] = list(seen.description.found.broken)
    broken += [(pairs[i].labels, why) for i, why in seen.labels.problems.items()]
    broken += [(pairs[i].image, why) for i, why in seen.images.problems.items()]
    broken = list(dict(broken).items())
    empty = [(path, why) for path, why in broken if path.is_file() and not path.stat().st_size]
    other = [entry for entry in broken if entry not in empty]
    for entries, code, what in (
        (empty, "empty-file", "empty (0 bytes)"),
        (other, "unreadable", "not readable"),
    ):
        if entries:
            yield Finding(
                "error",
                code,
                f"{are(len(entries), 'file')} {what}: {entries[0][1]}",
                file_names(seen, [path for path, _ in entries]),
                "replace or remove them; --fix OUT writes a copy without these pairs",
            )


def _sizes(seen: ScanResult) -> Iterable[Finding]:
    """Labels whose size differs from the image's, or equals that before its EXIF rotation."""
    unequal: list[int] = []
    lying: list[int] = []
    first = ""
    for number, one in enumerate(seen.labels.counts):
        height, width = seen.images.sizes[number].tolist()
        if one is None or not height or one.size == (height, width):
            continue
        if seen.images.orientations[number] >= 5 and one.size == (width, height):
            lying.append(number)
        else:
            unequal.append(number)
            first = first or f"image {width}x{height}, labels {one.size[1]}x{one.size[0]}"
    if lying:
        yield Finding(
            "warning",
            "exif-mismatch",
            f"{are(len(lying), 'image')} turned by {its(len(lying))} EXIF orientation, the "
            "labels are not: they were drawn on the image as stored and are turned with it.",
            label_names(seen, lying),
            "turn the labels the same way; --fix OUT does",
        )
    if unequal:
        yield Finding(
            "error",
            "size-mismatch",
            f"{have(len(unequal), 'pair')} image and labels of different size: {first} in the "
            "first.",
            label_names(seen, unequal),
            "give both the same size (labels with nearest-neighbor only); --fix OUT does where "
            "the proportions agree and leaves the others out",
        )


def _orphans(seen: ScanResult) -> Iterable[Finding]:
    found = seen.description.found
    for files, code, what, other in (
        (found.orphan_images, "orphan-image", "image", "labels"),
        (found.orphan_labels, "orphan-labels", "label file", "image"),
    ):
        if files:
            yield Finding(
                "warning",
                code,
                f"{have(len(files), what)} no {other} and "
                f"{'is' if len(files) == 1 else 'are'} skipped.",
                file_names(seen, files),
                f"add the {other}, or remove the files",
            )


def _left_out(seen: ScanResult) -> Iterable[Finding]:
    notes = seen.description.found.notes
    lost: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for note in notes:
        lost[note.what] = lost.get(note.what, 0) + note.count
        reasons[note.why] = reasons.get(note.why, 0) + note.count
    if notes:
        what = " and ".join(counted(count, what) for what, count in lost.items())
        why = [f"{why} ({count:,})" for why, count in reasons.items()]
        yield Finding(
            "warning",
            "left-out",
            f"{what} can't be used: {listed(why, 3)}.",
            file_names(seen, list(dict.fromkeys(note.path for note in notes))),
            "correct the files, or continue without these",
        )


def _image_properties(seen: ScanResult) -> Iterable[Finding]:
    for mask, code, what, repair in (
        (
            seen.images.deep,
            "deep-image",
            "more than 8 bits a band: used as stored, normalized by the training images' own range",
            "give images of the same bands and type later: 8-bit copies have other values",
        ),
        (
            seen.images.clear,
            "transparent-image",
            "transparent parts, which are laid over white",
            "flatten them if the images the model will see have another background",
        ),
        (
            seen.images.orientations > 1,
            "exif-turned",
            "an EXIF orientation: turned upright when read, and the labels have to be upright, too",
            "look at contact.png: do the labels line up with the objects?",
        ),
    ):
        numbers = np.flatnonzero(mask).tolist()
        if numbers:
            files = [seen.description.pairs[number].image for number in numbers]
            message = f"{have(len(numbers), 'image')} {what}."
            yield Finding("info", code, message, file_names(seen, files), repair)


def ambiguities(seen: ScanResult) -> Iterable[Finding]:
    """Ambiguous classes: two that may be one (numbers beside colors, similar names), or one that
    may be two."""
    yield from _two_storages(seen)
    yield from _names_alike(seen)
    yield from _class_folders(seen)
    yield from _unused_list(seen)


def _two_storages(seen: ScanResult) -> Iterable[Finding]:
    """Some label files contain numbers (0, 1, 2), others colors: their relation is unknown."""
    encoding = seen.description.encoding
    if seen.values.kind != "color" or encoding.class_words:
        return
    known = encoding.class_of()
    numbered = []
    for index, one in enumerate(seen.labels.counts):
        if one is not None and one.kind == "index" and not one.palette:
            held = {*one.values} - {0, IGNORE}
            if held and max(held) < GREYS and {value * GREY for value in held} <= known.keys():
                numbered.append(index)
    if numbered and len(numbered) < len(seen.description.pairs):
        yield Finding(
            "warning",
            "two-storages",
            f"Of the label files {are(len(numbered), 'file')} of numbers, the others are in "
            "colors: each number and each color is read as a class of its own.",
            label_names(seen, numbered),
            repair="save all label files in one way, or write a dataset.toml (--write) with the "
            "color and the number (1 is #010101) of a class under its `values`",
        )


def _names_alike(seen: ScanResult) -> Iterable[Finding]:
    """Class names that differ only in case, spaces or hyphens."""
    by_letters: dict[str, list[str]] = {}
    for name in seen.description.classes.names:
        by_letters.setdefault(re.sub(r"[\s_-]+", "", name).casefold(), []).append(name)
    alike = [" and ".join(names) for key, names in by_letters.items() if key and len(names) > 1]
    if alike:
        yield Finding(
            "warning",
            "names-alike",
            f"Is each of these one class? {', '.join(alike)}. They are read as two.",
            repair="if it is, use one name in the annotations, or write a dataset.toml (--write) "
            "with one [[class]] that has the `values` of both",
        )


def _class_folders(seen: ScanResult) -> Iterable[Finding]:
    """Masks in folders whose names may be classes (cat/masks, dog/masks) or not (masks/anna,
    masks/bert: annotators), without a class list."""
    description = seen.description
    pairs = description.found.pairs
    words, read, repair = [*description.encoding.class_words], "classes: each image has one", ""
    if description.encoding.label_format == "pixels" and description.classes.names == BINARY:
        folders = class_folders(pairs, description.root)
        split_of = {*zip(folders, (pair.split for pair in pairs), strict=False)}
        words, read = [*dict.fromkeys(folders)], f"one class, {BINARY[1]}"
        repair = (
            "if they are, put a classes.txt into the folder, with one of these names on each line"
        )
        if len(split_of) == len(words) and len({split for _, split in split_of}) > 1:
            return  # the folders are the splits
    elif (
        description.encoding.label_format != "layers"
        or any(len(pair.layers) != 1 for pair in pairs)
        or any("class names are from" in why for why in description.why)
    ):
        return
    repair = (
        repair or "if not, write a dataset.toml (--write) with the `values` of all in one [[class]]"
    )
    if len(words) > 1:
        yield Finding(
            "warning",
            "class-folders",
            f"Are {listed(words)} classes? The label files are in folders of these names, and are "
            f"read as {read}.",
            repair=repair,
        )


def _unused_list(seen: ScanResult) -> Iterable[Finding]:
    """A class list whose numbers, colors or length differ from the label files'."""
    description = seen.description
    if description.unused_list:
        shown = [str(description.encoding.shown(value)) for value in sorted(seen.values.pixels)]
        yield Finding(
            "warning",
            "unused-class-list",
            f"The class list does not fit the labels, and its names are not used: "
            f"{description.unused_list}; the label files hold {listed(shown, 8)}.",
            repair="correct the class list: it gives each class the number or color that is "
            "stored for it; or write a dataset.toml (--write) and name the classes there",
        )
