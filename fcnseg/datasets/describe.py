"""Determine the layout, pairs and classes of a dataset folder: a folder -> Description.

`describe` reads the names, then every label file once, as the stored values determine the classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fcnseg.classes import MAX_CLASSES
from fcnseg.concurrency import usable_cores
from fcnseg.datasets import Description, LabelMeaning, Pair, Pairing, Unusable, layouts, sizes
from fcnseg.datasets.dataset_toml import DatasetToml, read_declared
from fcnseg.datasets.draw_splits import with_val
from fcnseg.datasets.encoding import read_values
from fcnseg.datasets.encoding.areas import analyze_areas
from fcnseg.datasets.encoding.class_lists import find_entries, read_yaml_names
from fcnseg.datasets.encoding.entries import (
    counted_from_one,
    holds_sentences,
    mentioned_in,
    yaml_folder,
    yaml_text,
)
from fcnseg.datasets.encoding.objects import class_base, numbered_by_video
from fcnseg.datasets.encoding.values import Values, total
from fcnseg.datasets.formats import FORMATS, PACKED, read_stored, unread_annotations, unread_images
from fcnseg.datasets.formats.any_json import ANY_JSON
from fcnseg.datasets.formats.documents import CONVERT, Finder
from fcnseg.datasets.formats.gathered import (
    fill_boxes,
    find_coco,
    find_labelme,
    find_open_images,
    find_yolo,
    renamed,
)
from fcnseg.datasets.formats.layers import find_layers, find_numbered_folders, with_more_masks
from fcnseg.datasets.formats.named_masks import in_class_folders
from fcnseg.datasets.formats.stacks import read_page
from fcnseg.datasets.many_files import CountsOfFiles, ScanCache, WorkerPool
from fcnseg.datasets.pairing import Listing, list_folder, lists, marks
from fcnseg.datasets.pairing.by_content import find_by_content, find_sides, settle
from fcnseg.datasets.pairing.by_words import by_folds, find_by_stems, in_one_format, pair_by_names
from fcnseg.datasets.pairing.candidates import CHOOSE, in_one_size
from fcnseg.datasets.pairing.named_images import find_whole_images, without_tiled
from fcnseg.datasets.pairing.own_splits import with_own_split
from fcnseg.datasets.pairing.path_words import refuse_shifted
from fcnseg.datasets.scan import ScanResult, detect_transparency, scan_images, scan_labels
from fcnseg.datasets.splits import lacks_val, sort_pairs
from fcnseg.errors import DatasetError, counted, path_fault
from fcnseg.io.images import VIDEO_SUFFIXES
from fcnseg.overwriting import Named, others_in
from fcnseg.progress import Callback, no_callback, progress_reporter


def _find_named(listing: Listing) -> Pairing:
    """Pairs by names, unless a folder per image with files for its objects (`0/0.png`,
    `0/masks/0.png`, `0/masks/1.png`) explains more files."""
    found = pair_by_names(listing)
    if not (found.pairs and found.orphan_labels):
        return found
    layered = find_layers(listing)
    if layered is None or len(layered.orphan_labels) >= len(found.orphan_labels):
        return found
    more = {pair.image for pair in layered.pairs} >= {pair.image for pair in found.pairs}
    return layered if more else found


FINDERS: Mapping[str, Finder] = {
    "labelme-folders": FORMATS["labelme-folders"],  # numbers whose meaning differs by image
    "ade20k-json": FORMATS["ade20k-json"],
    "open-images": Finder(find_open_images, needs=(".csv",)),
    "list": Finder(lists.find_pair_list, needs=(*lists.LIST_SUFFIXES, ".json")),
    "stacks": FORMATS["stacks"],  # other finders would see only the first page
    "voc": Finder(layouts.find_voc, needs=("imagesets/segmentation/",)),
    "cityscapes": Finder(layouts.find_cityscapes, needs=("_leftimg8bit.", "image_2/")),
    "ade20k": Finder(layouts.find_ade20k, needs=("ade_",)),
    "panoptic": FORMATS["panoptic"],  # its PNGs are not label images
    "numbered folders": Finder(find_numbered_folders),
    "folders": Finder(_find_named),
    "layers": Finder(find_layers),
    "coco": Finder(find_coco, needs=(".json",)),
    "labelme": Finder(find_labelme, needs=(".json",)),
    "yolo": Finder(find_yolo, needs=(".txt",)),
    **{name: one for name, one in FORMATS.items() if name != "cityscapes-json"},
    "stems": Finder(find_by_stems),
    "content": Finder(find_by_content),
    "cityscapes-json": FORMATS["cityscapes-json"],  # RailSem19 has masks, too
    "json": ANY_JSON,
}
"""Finders by layout, most specific first; the first that finds pairs is used."""

_ALIASES = {"camvid": "folders", "side by side": "folders", "cvat": "voc"}
"""Layouts found by another one's finder."""


def describe(data: str | Path, callback: Callback = no_callback) -> Description:
    """Describe a dataset; DatasetError if it can't be used for training or scoring.

    data: a folder, a list of pairs (.csv, .txt) or a dataset.toml. Deterministic, including
    splits.
    """
    return scan(data, callback).description


def scan(
    data: str | Path, callback: Callback = no_callback, *, images: bool = False, boxes: bool = False
) -> ScanResult:
    """`describe`, with the results of scanning the files.

    images: scan all images as well. boxes: fill boxes among outlines instead of ignoring them.
    """
    if not isinstance(data, str | Path) or path_fault(data) is not None:
        raise DatasetError(f"A dataset is a path; found {data!r:.60}.")
    path = Path(data)
    declared = read_declared(path) if path.suffix.lower() == ".toml" and path.is_file() else None
    yaml = path if path.suffix.lower() in (".yaml", ".yml") and path.is_file() else None
    root = declared.root if declared else yaml_folder(yaml) if yaml else path
    found, listing = _find(root, declared, yaml, callback)
    found = fill_boxes(found) if boxes else found
    pairs = sort_pairs((found := declared.applied(found) if declared else found).pairs)
    with ScanCache(root) as cache, WorkerPool(usable_cores()) as pool:
        tell = progress_reporter("labels", len(pairs), callback)
        labels = scan_labels(found, pairs, cache, pool, read_stored, tell)
        found, labels = detect_transparency(
            found, labels, lambda other: scan_labels(other, pairs, cache, pool, read_stored)
        )
        values = total(labels.counts.good(), lossy=labels.lossy, class_words=found.class_words)
        if pairs and not values.pixels and labels.problems:
            first = labels.problems[min(labels.problems)]
            hint = CONVERT if found.label_format == "arrays" else "does an image viewer show it?"
            raise DatasetError(f"No label file could be read. The first: {first}", hint=hint)
        reading = (declared and declared.reading) or _read(
            found, pairs, labels.counts, values, listing, yaml
        )
        drawn = lacks_val(pairs) and len(pairs) > 1
        seen = None
        if images or drawn:
            tell = progress_reporter("images", len(pairs), callback)
            seen = scan_images(pairs, cache, pool, read_page, tell)
    description = Description(
        root=root if root.is_dir() else root.parent,
        layout=found.layout,
        pairs=pairs,
        classes=reading.classes,
        encoding=replace(
            reading.encoding, label_format=found.label_format, class_words=found.class_words
        ),
        ignore_index=reading.ignore_index,
        why=(*found.why, *reading.why),
        unlabelled=reading.unlabelled,
        unused_list=reading.unused_list,
        few_objects=reading.few_objects,
        found=found,
    )
    scanned = ScanResult(description, labels, values, seen)
    return with_val(scanned) if drawn else scanned


def own_split_sizes(description: Description) -> dict[str, int]:
    """Number of pairs in each split as defined by the folder; {} if it defines none."""
    pairs = description.found.pairs
    return sizes(sort_pairs(pairs)) if any(pair.split for pair in pairs) else {}


def files_read(description: Description, written: Iterable[Path]) -> list[Named]:
    """A dataset's images and labels, and files in its folder that would be overwritten."""
    return [*description.inputs(), *others_in(description.root, written)]


def _find(
    root: Path, declared: DatasetToml | None, yaml: Path | None, callback: Callback
) -> tuple[Pairing, Listing]:
    """The pairs of a folder or a list; DatasetError, with what was found, if there are none."""
    if not os.path.exists(root):  # noqa: PTH110 - also handles names that are too long
        raise DatasetError(f"There is no folder {root}.", hint="check the path")
    if root.is_file() and root.suffix.lower() in lists.LIST_SUFFIXES:
        return lists.read_pair_list(root), list_folder(root.parent)
    if not root.is_dir() or root.resolve() == Path("/").resolve():
        kind = "the whole file system" if root.is_dir() else "a file"
        hint = "unpack it, and give the folder" if root.suffix.lower() in PACKED else HINT
        raise DatasetError(f"{root} is {kind}; a dataset is a folder.", hint=hint)
    listing = list_folder(root, callback)
    sides = declared.sides if declared else ("", _masks_dir(listing, yaml))
    if any(sides):
        found = with_more_masks(listing, find_sides(listing, *sides))
    else:
        layout = declared.layout if declared else None
        found = find_whole_images(listing, lambda listing: _find_kind(listing, layout))
    if yaml:
        found = renamed(found, read_yaml_names(yaml))
    found = in_class_folders(without_tiled(in_one_size(in_one_format(found))), listing)
    found = by_folds(found, listing) or found
    if not all(pair.split for pair in found.pairs):
        found = with_own_split(found, listing, yaml)
    return found, listing


def _find_kind(listing: Listing, layout: str | None) -> Pairing:
    """The pairs of the first successful finder, or of that of `layout`; DatasetError for none."""
    name = _ALIASES.get(layout, layout) if layout else None
    if name and name not in FINDERS:
        known = ", ".join([*FINDERS, *_ALIASES])
        raise DatasetError(f"No layout {layout!r}; known: {known}.")
    lost: tuple[Unusable, ...] = ()
    for kind, finder in {name: FINDERS[name]}.items() if name else FINDERS.items():
        if finder.needs and not listing.mentions(*finder.needs):
            continue
        found = finder.find(listing)
        if found is None or not found.pairs:
            lost = lost or (found.notes if found is not None else ())
            continue
        found = replace(found, layout=kind) if kind == "stems" else found
        if _uses_every_file(found, listing):
            return found
        found = with_more_masks(listing, settle(listing, found))
        refuse_shifted(listing, found)
        return found
    raise _nothing_found(listing, lost)


def _uses_every_file(found: Pairing, listing: Listing) -> bool:
    """Whether each image file is the image or the labels of exactly one pair."""
    return (
        found.label_format == "pixels"
        and len({pair.labels for pair in found.pairs}) == len(found.pairs)
        and len(listing.images) <= 2 * len(found.pairs)
        and not (found.orphan_images or found.orphan_labels)
    )


def _masks_dir(listing: Listing, yaml: Path | None) -> str:
    """The label folder in a data.yaml (`masks_dir:`), relative to the listing's root; else "".

    yaml: the file, if it was given; else those in the folder are used.
    """
    files = [yaml] if yaml else map(listing.path, listing.with_suffix(".yaml", ".yml"))
    for path in files:
        folder = yaml_text(path, "masks_dir").strip("/")
        if folder and any(f"/{folder}/" in f"/{name}" for name in listing.images):
            return folder
    return ""


HINT = (
    "fcnseg expects images and label files with the same names, for example "
    "DATA/images/a.jpg and DATA/masks/a.png, or DATA/train/images, DATA/train/masks, "
    f"DATA/val/images ...; {CHOOSE}"
)
"""The expected structure of a folder."""

_EMBEDDED = marks(b'"imageData"', b'"shapes"')


def _nothing_found(listing: Listing, lost: Sequence[Unusable]) -> DatasetError:
    """The DatasetError for a folder without pairs. lost: annotations of missing images."""
    root = listing.root
    if not listing.files:
        return DatasetError(f"{root} is empty.", hint=HINT)
    lists.refuse_missing(listing)
    if not listing.images:
        videos = sum(Path(name).suffix.lower() in VIDEO_SUFFIXES for name in listing.files)
        seen = f"{counted(len(listing), 'file')}" + (f", {videos} of them videos" if videos else "")
        packed = [n for n in listing.with_suffix(*PACKED) if not n.lower().endswith(".nii.gz")]
        hint = f"images and labels are read as files: unpack {packed[0]}" if packed else HINT
        if inside := listing.saying(_EMBEDDED, ".json"):
            hint = (
                f"save the images that are in {inside[0]} as files: labelme_export_json FILE.json"
            )
        return DatasetError(f"{root} has no images ({seen}).", hint=hint)
    found = pair_by_names(listing)
    images, labels = counted(len(found.orphan_images), "image"), len(found.orphan_labels)
    if lost:
        return DatasetError(
            f"{root} has {images}, none of which {lost[0].path} is about: {lost[0].why}.",
            hint="give the images the names and folders that the file says, or correct these there",
        )
    if not labels:
        other, hint = unread_annotations(listing)
        return DatasetError(f"{root} has {images} but no labels{other}.", hint=hint or HINT)
    other, hint = ("", "") if found.orphan_images else unread_images(listing)
    example = (found.orphan_images + found.orphan_labels)[0].name
    return DatasetError(
        f"{root} has {images} and {counted(labels, 'label file')}, but no names that match "
        f"(for example {example}){other}.",
        hint=hint or HINT,
    )


def _read(
    found: Pairing,
    pairs: Sequence[Pair],
    counts: CountsOfFiles,
    values: Values,
    listing: Listing,
    yaml: Path | None,
) -> LabelMeaning:
    """The meaning of the values: of a published dataset, else inferred.

    pairs: in the order of the counts.
    yaml: a data.yaml that was given instead of the folder; it defines the class names.
    """
    if values.pixels and found.reading is not None:
        return found.reading
    if published := layouts.published(found, values):
        return published
    own = tuple(read_yaml_names(yaml)) if yaml else ()
    entries, file = (own, str(yaml)) if own else find_entries(listing)
    every = entries = counted_from_one(entries, values.pixels)
    if len(entries) > MAX_CLASSES and not values.class_words:
        entries = tuple(entry for entry in entries if entry.value in values.pixels)
    read = partial(read_stored, label_format=found.label_format, class_words=found.class_words)
    values = analyze_areas(values, pairs, counts, read)
    if found.objects or (not entries and numbered_by_video(pairs, counts)):
        values = replace(values, instances=True)
        entries = entries if class_base(values) else ()
    reading = read_values(values, entries)
    listed = {entry.name for entry in entries}
    if file and not listed.isdisjoint(reading.classes.names):
        reading = replace(reading, why=(*reading.why, f"class names are from {file}"))
    elif every and not values.class_words:
        reading = replace(reading, unused_list=f"{file} lists {mentioned_in(every)}")
    texts = () if every else listing.named("classes.txt", "labels.txt", "names.txt")
    if prose := [name for name in texts if holds_sentences(listing.path(name))]:
        why = f"{prose[0]} holds sentences, no class names"
        reading = replace(reading, why=(*reading.why, why))
    return reading
