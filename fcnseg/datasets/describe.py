"""What dataset folders look like: a folder -> Description.

`describe` reads the folder's names, then every label file once (what is stored decides what
the classes are), and says why it decided as it did.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fcnseg.concurrency import usable_cores
from fcnseg.datasets import Description, Found, Pair, Reading, SplitName, sizes
from fcnseg.datasets.dataset_toml import Declared, read_declared
from fcnseg.datasets.draw_splits import with_val
from fcnseg.datasets.encoding import read_values
from fcnseg.datasets.encoding.areas import look_closer
from fcnseg.datasets.encoding.class_lists import (
    find_entries,
    find_masks_dir,
    read_yaml_names,
    yaml_folder,
)
from fcnseg.datasets.encoding.entries import counted_from_one
from fcnseg.datasets.encoding.values import SMEARED, Values, total
from fcnseg.datasets.formats import FORMATS, layouts, read_stored
from fcnseg.datasets.formats.gathered import fill_boxes, find_coco, find_labelme, find_yolo
from fcnseg.datasets.formats.layers import find_layers, with_more_masks
from fcnseg.datasets.formats.named_masks import find_open_images
from fcnseg.datasets.formats.stacks import read_page
from fcnseg.datasets.many_files import CountsOfFiles, ScanCache, WorkerPool
from fcnseg.datasets.nothing_found import HINT, nothing_found, unreadable
from fcnseg.datasets.pairing import Listing, list_folder, pair_lists
from fcnseg.datasets.pairing.by_content import find_by_content, find_sides, settle
from fcnseg.datasets.pairing.by_words import find_folders, find_stems
from fcnseg.datasets.pairing.own_splits import with_own_split
from fcnseg.datasets.pairing.path_words import refuse_shifted
from fcnseg.datasets.scan import LabelScan, Scanned, scan_images, scan_labels
from fcnseg.datasets.splits import lacks_val, sort_pairs
from fcnseg.errors import DatasetError
from fcnseg.progress import Callback, Progress, no_callback

FINDERS: Mapping[str, Callable[[Listing], Found | None]] = {
    "labelme-folders": FORMATS["labelme-folders"].find,  # numbers that differ in their meaning
    "ade20k-json": FORMATS["ade20k-json"].find,
    "open-images": find_open_images,
    "list": pair_lists.find_pair_list,
    "stacks": FORMATS["stacks"].find,  # of which other finders would see the first page
    "voc": layouts.find_voc,
    "cityscapes": layouts.find_cityscapes,
    "ade20k": layouts.find_ade20k,
    "panoptic": FORMATS["panoptic"].find,  # its PNGs are no label images
    "folders": find_folders,
    "layers": find_layers,
    "coco": find_coco,
    "labelme": find_labelme,
    "yolo": find_yolo,
    **{store: one.find for store, one in FORMATS.items()},
    "stems": find_stems,
    "content": find_by_content,
}
"""The kinds of folders, the most particular first: the first that finds pairs is taken."""

_ALIASES = {"camvid": "folders", "side by side": "folders", "cvat": "voc"}
"""Layouts that another's finder finds."""


def describe(data: str | Path, callback: Callback = no_callback) -> Description:
    """What a dataset is; DatasetError when it can't be trained or scored on.

    data: a folder, a list of pairs (.csv, .txt) or a dataset.toml. The same content gives the
    same description, splits included.
    """
    return scan(data, callback).description


def scan(
    data: str | Path,
    callback: Callback = no_callback,
    *,
    images: bool = False,
    boxes: bool = False,
) -> Scanned:
    """`describe`, with what was seen in the files.

    images: look at all images as well. boxes: boxes among outlines are filled, not ignored.
    """
    path = Path(data)
    declared = read_declared(path) if path.suffix.lower() == ".toml" and path.is_file() else None
    yaml = path if path.suffix.lower() in (".yaml", ".yml") and path.is_file() else None
    root = declared.root if declared else yaml_folder(yaml) if yaml else path
    found, listing = _find(root, declared, yaml, callback)
    found = fill_boxes(found) if boxes else found
    if declared:
        found = declared.applied(found)
    pairs = sort_pairs(found.pairs)
    with ScanCache(root) as cache, WorkerPool(usable_cores()) as pool:
        tell = _teller("labels", len(pairs), callback)
        labels = scan_labels(pairs, found.store, found.terms, cache, pool, read_stored, tell)
        found, labels = _look_through(found, labels)
        values = total(labels.counts.good(), lossy=labels.lossy, terms=found.terms)
        if pairs and not values.pixels and labels.problems:
            raise unreadable(labels.problems)
        reading = (declared and declared.reading) or _read(
            found, labels.counts, values, listing, yaml
        )
        reading = _with_store(reading, found)
        drawn = lacks_val(pairs) and len(pairs) > 1
        seen = None
        if images or drawn:
            tell = _teller("images", len(pairs), callback)
            seen = scan_images(pairs, cache, pool, read_page, tell)
    description = Description(
        root=root if root.is_dir() else root.parent,
        layout=found.layout,
        pairs=pairs,
        classes=reading.classes,
        encoding=reading.encoding,
        ignore_index=reading.ignore_index,
        drawn_split=drawn,
        why=(*found.why, *reading.why),
        unlabelled=reading.unlabelled,
        found=found,
    )
    scanned = Scanned(description, labels, values, seen)
    return with_val(scanned) if drawn else scanned


def own_split_sizes(description: Description) -> dict[str, int]:
    """Pairs in each part as the folder itself names them; {} when it names none."""
    pairs = description.found.pairs
    return sizes(sort_pairs(pairs)) if any(pair.split for pair in pairs) else {}


def own_parts(description: Description) -> list[SplitName]:
    """The part of each pair as the folder itself names it; those in use where it names none."""
    pairs = description.found.pairs
    if not any(pair.split for pair in pairs):
        return [pair.split for pair in description.pairs]
    own = {_files(pair): pair.split for pair in sort_pairs(pairs)}
    return [own[_files(pair)] for pair in description.pairs]


def _files(pair: Pair) -> tuple[str, str, str]:
    """What tells a pair from all others; text is hashed much faster than paths are."""
    return str(pair.image), str(pair.labels), pair.part


def _find(
    root: Path, declared: Declared | None, yaml: Path | None, callback: Callback
) -> tuple[Found, Listing]:
    """The pairs of a folder or a list; DatasetError, saying what is there, for none."""
    if not root.exists():
        raise DatasetError(f"There is no folder {root}.", hint="check the path")
    if root.is_file() and root.suffix.lower() in pair_lists.LIST_SUFFIXES:
        return pair_lists.read_pair_list(root), list_folder(root.parent)
    if not root.is_dir():
        raise DatasetError(f"{root} is a file; a dataset is a folder.", hint=HINT)
    listing = list_folder(root, callback)
    sides = declared.sides if declared else ("", find_masks_dir(listing, yaml))
    if any(sides):
        found = find_sides(listing, *sides)
        return with_own_split(with_more_masks(listing, found), listing), listing
    finders, layout = FINDERS, declared.layout if declared else None
    if layout is not None:
        name = _ALIASES.get(layout, layout)
        if name not in FINDERS:
            known = ", ".join([*FINDERS, *_ALIASES])
            raise DatasetError(f"No layout {layout!r}; known: {known}.")
        finders = {name: FINDERS[name]}
    for name, find in finders.items():
        seen = find(listing)
        if seen is not None and seen.pairs:
            found = dataclasses.replace(seen, layout=name) if name == "stems" else seen
            found = with_more_masks(listing, settle(listing, found))
            refuse_shifted(listing, found)
            return with_own_split(found, listing), listing
    raise nothing_found(root, listing)


def _teller(task: str, count: int, callback: Callback) -> Callable[[int], None]:
    """Tells the callback of progress, some times a second."""
    told = 0.0

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done == count or now - told > 0.05:
            told = now
            callback(Progress(task, done, count, "files"))

    return tell


def _look_through(found: Found, labels: LabelScan) -> tuple[Found, LabelScan]:
    """Labels in the transparency, where that varies and the colours say nothing."""
    through = list(labels.alphas.good())
    if found.store != "pixels" or not through or len({v for t in through for v in t.values}) < 2:
        return found, labels
    colors = {value for one in labels.counts.good() for value in one.values}
    photos = any(one.rest for one in labels.counts.good())
    if len(colors) > 1 and not photos and len(colors) <= SMEARED:
        return found, labels
    why = (*found.why, "the label files' transparency says what is what, not their colours")
    found = dataclasses.replace(found, store="alpha", why=why)
    return found, dataclasses.replace(labels, counts=labels.alphas)


def _read(
    found: Found, counts: CountsOfFiles, values: Values, listing: Listing, yaml: Path | None
) -> Reading:
    """What the values mean: a published convention's, else as found out.

    yaml: a data.yaml that was given in place of the folder; it names the classes.
    """
    reading = layouts.read_published(found, values) if values.pixels else None
    if reading is not None:
        return reading
    own = tuple(read_yaml_names(yaml)) if yaml else ()
    entries, file = (own, str(yaml)) if own else find_entries(listing)
    entries = counted_from_one(entries, values.pixels)
    values = look_closer(
        values,
        sort_pairs(found.pairs),
        counts,
        lambda pair: read_stored(pair, found.store, found.terms),
    )
    reading = read_values(values, entries)
    listed = {entry.name for entry in entries}
    if file and not listed.isdisjoint(reading.classes.names):
        reading = dataclasses.replace(reading, why=(*reading.why, f"class names are from {file}"))
    return reading


def _with_store(reading: Reading, found: Found) -> Reading:
    encoding = dataclasses.replace(reading.encoding, store=found.store, terms=found.terms)
    return dataclasses.replace(reading, encoding=encoding)
