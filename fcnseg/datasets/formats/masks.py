"""Labels as arrays (.npy, .npz, .mat) and run lengths in a CSV; several masks of an image."""

from __future__ import annotations

import contextlib
import csv
import filecmp
import itertools
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import Pair, Pairing, files_of
from fcnseg.datasets.encoding.entries import open_text
from fcnseg.datasets.formats.documents import (
    Annotated,
    Area,
    Document,
    Format,
    outlined,
)
from fcnseg.datasets.pairing import Listing, place_of, stem_of, without_suffix
from fcnseg.datasets.pairing.by_words import ONE_CLASS, bare_stem, pair_by_names
from fcnseg.datasets.pairing.file_stats import sample
from fcnseg.datasets.pairing.named_images import PairCollector
from fcnseg.errors import PARSE_ERRORS, MediaError
from fcnseg.io.annotations import Cached
from fcnseg.io.images import read_image
from fcnseg.io.labels import holds_objects, is_pickled, read_array

_SUFFIXES = (".npy", ".npz", ".mat")

_MATRIX = re.compile(rb"\s*(?:-?\d+[\s,;]+){8,}")
"""The beginning of a text file with a number per pixel."""

_SURFACES = {".surfaces", ".layers"}
"""Other annotations beside the classes (`.regions`) in the Stanford Background dataset."""


def _find_arrays(listing: Listing) -> Pairing | None:
    images = {*listing.images}
    arrays = [
        name
        for name in listing.with_suffix(*_SUFFIXES)
        if place_of(name).role != "other" and name not in images
    ]
    arrays += _matrices(listing)
    if not arrays or not listing.images:
        return None
    if len(listing.images) > len(arrays) and all(is_pickled(listing.path(n)) for n in arrays[:3]):
        return None  # beside label files
    gathered = PairCollector(listing)
    by_key: dict[tuple[str, ...], list[str]] = {}
    for name in arrays:
        for key in _keys(name, _array_stem(name)):
            by_key.setdefault(key, []).append(name)
    used = set()
    for name in listing.images:
        keys = _keys(name, bare_stem(stem_of(name)))
        partners = next((by_key[key] for key in keys if key in by_key), [])
        if len(partners) == 1 and partners[0] not in used:
            used.add(partners[0])
            gathered.pairs.append(listing.pair(name, partners[0], place_of(partners[0]).split))
    gathered.orphans += [listing.path(name) for name in arrays if name not in used]
    why = f"arrays (*{Path(arrays[0]).suffix}) are named like the images"
    if len(gathered.pairs) <= len(pair_by_names(listing, by_stem=True).pairs):
        return None  # Oxford's pets: three arrays that are no labels lie among the images
    found = gathered.found("arrays", (), why)
    return replace(found, objects=holds_objects(found.pairs[0].labels))


def _keys(name: str, stem: str) -> tuple[tuple[str, ...], ...]:
    """Keys that an image and its array may share, most specific first."""
    place = place_of(name)
    return (*place.key, stem), (place.split, stem), (stem,)


def _matrices(listing: Listing) -> list[str]:
    """Text files with a number per pixel: a.regions.txt, a.txt, a.csv."""
    texts = [n for n in listing.with_suffix(".txt", ".csv") if place_of(n).role != "other"]
    texts = [n for n in texts if Path(stem_of(n)).suffix.lower() not in _SURFACES]
    stems = {bare_stem(stem_of(name)) for name in listing.images}
    texts = [name for name in texts if _array_stem(name) in stems]
    return texts if texts and all(map(_is_matrix, map(listing.path, sample(texts)))) else []


def _is_matrix(path: Path) -> bool:
    """Whether a text begins with lines of equally many integers."""
    try:
        with path.open("rb") as file:
            lines = file.read(1 << 16).splitlines()[:3]
    except OSError:
        return False
    widths = {len(line.replace(b",", b" ").replace(b";", b" ").split()) for line in lines[:2]}
    return len(lines) > 2 and len(widths) == 1 and all(map(_MATRIX.match, lines[:2]))


def _array_stem(name: str) -> str:
    """The image's stem in an array's name: 0047 of 0047.regions.txt."""
    stem = stem_of(name)
    return bare_stem(stem.removesuffix(".regions"))


ARRAYS = Format(_find_arrays, lambda pair, _: read_array(pair.labels))

_IMAGES = ("imageid", "image_id", "image", "img", "id", "filename", "file_name", "image_label",
           "imageid_classid")  # fmt: skip

_RUNS = (
    "encodedpixels", "encoded_pixels", "rle_mask", "rle", "rles", "encoding", "segmentation",
    "annotation", "mask",
)  # fmt: skip

_CLASSES = ("classid", "class_id", "class", "label", "category", "cell_type")

_ROWS_SEEN = 20

_lock = threading.Lock()


def _run_length_files(listing: Listing) -> list[str]:
    """CSV files with such columns, except Kaggle's sample submission."""
    files = [n for n in listing.with_suffix(".csv") if "submission" not in stem_of(n).lower()]
    return [name for name in files if _has_runs(listing.path(name))]


def _has_runs(path: Path) -> bool:
    """Whether a file has such columns, with numbers in the column of runs."""
    columns = _run_length_columns(path)
    if columns is None:
        return False
    with contextlib.suppress(OSError, *PARSE_ERRORS), _long_cells(), open_text(path) as file:
        some = itertools.islice(csv.DictReader(file), _ROWS_SEEN)
        return not any(re.search(r"[^\d\s-]", row[columns[1]] or "") for row in some)
    return False


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Raise the csv module's process-wide limit on cells to the length of a mask's runs."""
    with _lock:
        before = csv.field_size_limit(min(sys.maxsize, 1 << 30))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _run_length_columns(path: Path) -> tuple[str, str, str] | None:
    """The names of the columns of the image, the runs and the class ("" if missing)."""
    try:
        with open_text(path) as file:
            head = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    by_word = {cell.strip().lower(): cell for cell in head}
    found = [
        next((by_word[word] for word in words if word in by_word), "")
        for words in (_IMAGES, _RUNS, _CLASSES)
    ]
    return (found[0], found[1], found[2]) if found[0] and found[1] else None


def _run_length_parse(path: Path) -> Document:
    columns = _run_length_columns(path)
    if columns is None:
        raise ValueError("no columns of images and run lengths")
    image_column, runs_column, class_column = columns
    fused = image_column.lower() in ("image_label", "imageid_classid")  # "a.jpg_Fish"
    areas: dict[str, list[Area]] = {}
    with _long_cells(), open_text(path) as file:
        for row in csv.DictReader(file):
            image, _, name = row[image_column].rpartition("_") if fused else (
                row[image_column], "", row[class_column] if class_column else ONE_CLASS
            )  # fmt: skip
            some = areas.setdefault(image, [])
            runs = [int(part) for part in (row[runs_column] or "").split()]
            if len(runs) >= 2:  # empty or -1: an image without objects
                if len(runs) % 2:
                    raise ValueError(f"{image}: an odd number of starts and lengths")
                some.append(Area(name or ONE_CLASS, runs=_absolute_starts(runs)))
    return Document({image: Annotated(image, None, some) for image, some in areas.items()})


def _absolute_starts(runs: list[int]) -> list[int]:
    """Runs with absolute starts; starts that do not increase count from the previous end (SIIM)."""
    starts, lengths = np.array(runs[::2]), np.array(runs[1::2])
    if (starts[1:] >= starts[:-1] + lengths[:-1]).all():
        return runs
    ends = (starts + lengths).cumsum()
    return np.stack([ends - lengths + 1, lengths], 1).ravel().tolist()


def _find_run_lengths(listing: Listing) -> Pairing | None:
    found = _DOWN_COLUMNS.find(listing)
    if found is None or not _are_row_major(found):
        return found
    why = "runs along the rows, not down the columns, follow what the images show"
    return replace(found, label_format="run-lengths-rows", why=(*found.why, why))


def _row_major(image: Annotated, _: Path) -> Annotated:
    areas = [replace(area, along_rows=True) for area in image.areas]
    return replace(image, areas=areas)


def _are_row_major(found: Pairing) -> bool:
    """Whether areas have fewer boundary pixels, or follow edges better, if runs are row-major.

    Most of Kaggle's competitions use column-major order. For square images, boundary pixels are
    the same in both.
    """
    pieces, edges, votes = np.zeros(2), np.zeros(2), 0
    for pair in sample(found.pairs):
        try:
            grey = read_image(pair.image).astype(np.float32).mean(2)
            drawn = [
                np.asarray(one.read(pair, found.class_words).values, np.int32)
                for one in (_DOWN_COLUMNS, ALONG_ROWS)
            ]
        except MediaError:
            continue  # reported when all files are read
        if grey.shape != drawn[0].shape or not drawn[0].any():
            continue
        seen = np.array([_steps_at_edges(labels, grey) for labels in drawn])
        pieces += seen[:, 0]
        edges += seen[:, 1] / np.maximum(seen[:, 0], 1)
        votes += int(np.sign(seen[1, 1] * seen[0, 0] - seen[0, 1] * seen[1, 0]))
    if pieces.min() < CLEARLY * pieces.max():
        return bool(pieces[1] < pieces[0])
    return votes >= FEWEST_VOTES and bool(edges[0] < CLEARLY * edges[1])


def _steps_at_edges(labels: NDArray[np.int32], grey: NDArray[np.float32]) -> tuple[int, float]:
    """Number of adjacent pixels with different labels, and the sum of their gray differences."""
    count, steps = 0, 0.0
    for axis in (0, 1):
        edge = np.diff(labels, axis=axis) != 0
        count += int(edge.sum())
        steps += float(np.abs(np.diff(grey, axis=axis))[edge].sum())
    return count, steps


CLEARLY = 0.8
"""Maximum ratio of boundary pixels, or of mean gray steps there, between the two orders."""

FEWEST_VOTES = 3
"""Minimum majority, in images, with larger gray steps."""

_WHY = "a CSV of images and run lengths is Kaggle's"

_documents = Cached(_run_length_parse)  # shared by both orders, as the files are large

_DOWN_COLUMNS = outlined("run-lengths", _run_length_files, _documents, _WHY)

ALONG_ROWS = outlined("run-lengths-rows", _run_length_files, _documents, _WHY, _row_major)

RUN_LENGTHS = Format(_find_run_lengths, _DOWN_COLUMNS.read)


# --- Several masks of an image --------------------------------------------------------------------

_NUMBERED = re.compile(r"[ _.\-(]*\d+\)?$")


def further_masks(
    listing: Listing, names: Iterable[str], pairs: Sequence[Pair]
) -> dict[int, list[str]]:
    """Those of the files that differ from a pair's labels only in a number at the end, by pair."""
    owners: dict[str, set[int]] = {}
    used = {path for pair in pairs for path in (pair.image, *files_of(pair))}
    for number, pair in enumerate(pairs):
        base = str(pair.labels.with_suffix("")).lower()
        for name in (base, _NUMBERED.sub("", base)):
            owners.setdefault(name, set()).add(number)
    more: dict[int, list[str]] = {}
    for name in names:
        base = without_suffix(str(listing.path(name))).lower()
        bare = _NUMBERED.sub("", base)
        if bare != base and len(owners.get(bare, ())) == 1 and listing.path(name) not in used:
            number = next(iter(owners[bare]))
            if not _is_copy(listing.path(name), pairs[number].labels):
                more.setdefault(number, []).append(name)
    return more


def _is_copy(path: Path, other: Path) -> bool:
    """Whether two files have the same content, as `a (1).png` and `a.png` may have."""
    with contextlib.suppress(OSError):  # reported when all files are read
        return filecmp.cmp(path, other, shallow=False)
    return False


ALL_OBJECTS = frozenset(["all", "full", "complete", "combined", "merged", "total", "union"])
"""Names of files that combine the areas of all others."""


def without_combined(
    by_image: Mapping[str, list[tuple[str, str]]],
) -> dict[str, list[tuple[str, str]]]:
    """Drop files that combine all objects; names that never recur are objects, not classes."""
    images = Counter(term for layers in by_image.values() for term in {term for term, _ in layers})
    once = 2 * sum(count == 1 or term.isdecimal() for term, count in images.items()) > len(images)
    seldom = once and 2 < len(by_image) < len(images)
    meant = {}
    for image, layers in by_image.items():
        single = [layer for layer in layers if layer[0].lower() not in ALL_OBJECTS] or layers
        meant[image] = [(ONE_CLASS, name) for _, name in single] if seldom else single
    return meant
