"""What dataset folders look like: a folder -> Description.

`describe` reads the folder's names, then every label file once (what is stored decides what
the classes are), and says why it decided as it did.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.concurrency import usable_cores
from fcnseg.datasets import Description, Encoding, Found, Pair, Reading, SplitName, sizes
from fcnseg.datasets.dataset_toml import Declared, read_declared
from fcnseg.datasets.encoding import read_values
from fcnseg.datasets.encoding.areas import look_closer
from fcnseg.datasets.encoding.class_lists import find_entries
from fcnseg.datasets.encoding.data_yaml import find_masks_dir, read_yaml_names, yaml_folder
from fcnseg.datasets.encoding.entries import counted_from_one
from fcnseg.datasets.encoding.values import SMEARED, Values, total, values_of
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
from fcnseg.datasets.scan import ImageScan, LabelScan, Scanned, scan_images, scan_labels
from fcnseg.datasets.splits import (
    VAL_FRACTION,
    Video,
    draw_val,
    find_lookalikes,
    find_videos,
    group_numbers,
    hold_out,
    lacks_val,
    sort_pairs,
)
from fcnseg.errors import DatasetError, counted
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
    return _draw_split(scanned) if drawn else scanned


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


def presence(counts: CountsOfFiles, encoding: Encoding, kind: str) -> NDArray[np.bool_]:
    """bool (N, K): which classes each label file has. kind: that of the dataset's values."""
    index = encoding.class_of()
    present = np.zeros((len(counts), len(encoding.values)), np.bool_)
    for row, one in enumerate(counts):
        if one is not None:
            for value in values_of(one, kind):
                if value in index:
                    present[row, index[value]] = True
    return present


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


def _draw_split(scanned: Scanned) -> Scanned:
    """The same with a val part; groups of look-alikes and videos stay together."""
    before, image_scan = scanned.description, scanned.image_scan
    assert image_scan is not None, "a split is drawn after looking at the images"
    training = [i for i, pair in enumerate(before.pairs) if pair.split == "train"]
    videos = find_videos(before.pairs, image_scan)
    longest = _longest_whole(videos, len(before.pairs))
    groups = group_numbers(len(before.pairs), videos, find_lookalikes(image_scan), longest)
    present = presence(scanned.labels.counts, before.encoding, scanned.values.kind)
    chosen = draw_val([before.pairs[i].name for i in training], groups[training], present[training])
    order = hold_out(before.pairs, frozenset(training[i] for i in chosen))
    place = {_files(pair): i for i, pair in enumerate(before.pairs)}
    moved = [place[_files(pair)] for pair in order]
    description = dataclasses.replace(
        before, pairs=order, why=(*before.why, _split_reason(len(chosen), videos, longest))
    )
    return Scanned(
        description,
        _reordered(scanned.labels, moved),
        scanned.values,
        reorder_image_scan(image_scan, moved),
    )


def _files(pair: Pair) -> tuple[str, str, str]:
    """What tells a pair from all others; text is hashed much faster than paths are."""
    return str(pair.image), str(pair.labels), pair.part


def _longest_whole(videos: Sequence[Video], count: int) -> int:
    """The most frames kept together: all, unless a video is more than half of everything."""
    longest = max((len(video.members) for video in videos), default=0)
    return max(1, round(count * VAL_FRACTION / 2)) if longest > count / 2 else max(1, longest)


def _split_reason(count: int, videos: Sequence[Video], longest: int) -> str:
    text = f"no val part: {counted(count, 'pair')} chosen at random for it, stratified by class"
    if any(len(video.members) > longest for video in videos):
        return f"{text}; the one long video was cut into stretches of {longest} frames"
    return f"{text}; each video stays in one part" if videos else text


def _reordered(labels: LabelScan, order: Sequence[int]) -> LabelScan:
    counts, alphas = CountsOfFiles(), CountsOfFiles()
    for index in order:
        counts.append(labels.counts[index])
        alphas.append(labels.alphas[index])
    problems = {
        new: labels.problems[old] for new, old in enumerate(order) if old in labels.problems
    }
    return LabelScan(counts, alphas, problems, labels.lossy)


def reorder_image_scan(image_scan: ImageScan, order: Sequence[int]) -> ImageScan:
    """The same images in another order."""
    rows = np.array(order, int)
    arrays = {
        field.name: getattr(image_scan, field.name)[rows]
        for field in dataclasses.fields(image_scan)
        if isinstance(getattr(image_scan, field.name), np.ndarray)
    }
    problems = {
        new: image_scan.problems[old] for new, old in enumerate(order) if old in image_scan.problems
    }
    return dataclasses.replace(image_scan, **arrays, problems=problems)
