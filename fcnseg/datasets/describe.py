"""What dataset folders look like: a folder -> Description.

`describe` reads the names, then every label file once (what is stored decides what classes are).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fcnseg.classes import MAX_CLASSES
from fcnseg.concurrency import usable_cores
from fcnseg.datasets import Description, Found, Pair, Reading, SplitName, Unusable, layouts, sizes
from fcnseg.datasets.dataset_toml import Declared, read_declared
from fcnseg.datasets.draw_splits import with_val
from fcnseg.datasets.encoding import read_values
from fcnseg.datasets.encoding.areas import look_closer
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
from fcnseg.datasets.formats.gathered import fill_boxes, find_coco, find_labelme, find_yolo, renamed
from fcnseg.datasets.formats.layers import find_layers, with_more_masks
from fcnseg.datasets.formats.named_masks import find_open_images, in_class_folders
from fcnseg.datasets.formats.stacks import read_page
from fcnseg.datasets.many_files import CountsOfFiles, ScanCache, WorkerPool
from fcnseg.datasets.pairing import Listing, list_folder, lists, marks
from fcnseg.datasets.pairing.by_content import find_by_content, find_sides, settle
from fcnseg.datasets.pairing.by_words import by_folds, find_by_stems, in_one_format, pair_by_names
from fcnseg.datasets.pairing.candidates import CHOOSE, in_one_size
from fcnseg.datasets.pairing.own_splits import with_own_split
from fcnseg.datasets.pairing.path_words import refuse_shifted
from fcnseg.datasets.scan import Scanned, look_through, scan_images, scan_labels
from fcnseg.datasets.splits import lacks_val, sort_pairs
from fcnseg.errors import DatasetError, counted, path_fault
from fcnseg.io.images import VIDEO_SUFFIXES
from fcnseg.overwriting import Named, others_in
from fcnseg.progress import Callback, no_callback, progress_reporter


def _find_named(listing: Listing) -> Found:
    """Pairs by names, unless those agree by chance, and folders say more: a folder for each image
    with the files of its things (`0/0.png`, `0/masks/0.png`, `0/masks/1.png`)."""
    found = pair_by_names(listing)
    if not (found.pairs and found.orphan_labels):
        return found
    layered = find_layers(listing)
    if layered is None or len(layered.orphan_labels) >= len(found.orphan_labels):
        return found
    more = {pair.image for pair in layered.pairs} >= {pair.image for pair in found.pairs}
    return layered if more else found


FINDERS: Mapping[str, Finder] = {
    "labelme-folders": FORMATS["labelme-folders"],  # numbers that differ in their meaning
    "ade20k-json": FORMATS["ade20k-json"],
    "open-images": Finder(find_open_images, needs=(".csv",)),
    "list": Finder(lists.find_pair_list, needs=(*lists.LIST_SUFFIXES, ".json")),
    "stacks": FORMATS["stacks"],  # of which other finders would see the first page
    "voc": Finder(layouts.find_voc, needs=("imagesets/segmentation/",)),
    "cityscapes": Finder(layouts.find_cityscapes, needs=("_leftimg8bit.", "image_2/")),
    "ade20k": Finder(layouts.find_ade20k, needs=("ade_",)),
    "panoptic": FORMATS["panoptic"],  # its PNGs are no label images
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
    if not isinstance(data, str | Path) or path_fault(data) is not None:
        raise DatasetError(f"A dataset is a path; found {data!r:.60}.")
    path = Path(data)
    declared = read_declared(path) if path.suffix.lower() == ".toml" and path.is_file() else None
    yaml = path if path.suffix.lower() in (".yaml", ".yml") and path.is_file() else None
    root = declared.root if declared else yaml_folder(yaml) if yaml else path
    found, listing = _find(root, declared, yaml, callback)
    found = fill_boxes(found) if boxes else found
    found = declared.applied(found) if declared else found
    pairs = sort_pairs(found.pairs)
    with ScanCache(root) as cache, WorkerPool(usable_cores()) as pool:
        tell = progress_reporter("labels", len(pairs), callback)
        labels = scan_labels(pairs, found.store, found.terms, cache, pool, read_stored, tell)
        found, labels = look_through(
            found, labels, lambda store: scan_labels(pairs, store, (), cache, pool, read_stored)
        )
        values = total(labels.counts.good(), lossy=labels.lossy, terms=found.terms)
        if pairs and not values.pixels and labels.problems:
            first = labels.problems[min(labels.problems)]
            hint = CONVERT if found.store == "arrays" else "does an image viewer show it?"
            raise DatasetError(f"No label file could be read. The first: {first}", hint=hint)
        reading = (declared and declared.reading) or _read(
            found, pairs, labels.counts, values, listing, yaml
        )
        encoding = replace(reading.encoding, store=found.store, terms=found.terms)
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
        encoding=encoding,
        ignore_index=reading.ignore_index,
        why=(*found.why, *reading.why),
        unlabelled=reading.unlabelled,
        unused_list=reading.unused_list,
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


def files_read(description: Description, written: Iterable[Path]) -> list[Named]:
    """A dataset's images and labels; of files to be written, all others in its folder."""
    return [*description.inputs(), *others_in(description.root, written)]


def _files(pair: Pair) -> tuple[str, str, str]:
    """What tells a pair from all others; text is hashed much faster than paths are."""
    return str(pair.image), str(pair.labels), pair.part


def _find(
    root: Path, declared: Declared | None, yaml: Path | None, callback: Callback
) -> tuple[Found, Listing]:
    """The pairs of a folder or a list; DatasetError, saying what is there, for none."""
    if not os.path.exists(root):  # noqa: PTH110 - of a name too long for a disk, too
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
        found = _find_kind(listing, declared.layout if declared else None)
    if yaml:
        found = renamed(found, read_yaml_names(yaml))
    found = in_class_folders(in_one_size(in_one_format(found)), listing)
    found = by_folds(found, listing) or found
    if not all(pair.split for pair in found.pairs):
        found = with_own_split(found, listing, yaml)
    return found, listing


def _find_kind(listing: Listing, layout: str | None) -> Found:
    """The pairs as the first finder finds them (of a `layout`: its finder); DatasetError for none.

    Files that are left over may show that others are meant.
    """
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


def _uses_every_file(found: Found, listing: Listing) -> bool:
    """Whether each image file is the image or the labels of one pair."""
    return (
        found.store == "pixels"
        and len({pair.labels for pair in found.pairs}) == len(found.pairs)
        and len(listing.images) <= 2 * len(found.pairs)
        and not (found.orphan_images or found.orphan_labels)
    )


def _masks_dir(listing: Listing, yaml: Path | None) -> str:
    """The folder of labels that a data.yaml names (`masks_dir:`), relative to the listing's; "".

    yaml: the file, if it was given; else those of the folder are looked at.
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
"""What a folder should be like."""

_EMBEDDED = marks(b'"imageData"', b'"shapes"')


def _nothing_found(listing: Listing, lost: Sequence[Unusable]) -> DatasetError:
    """The DatasetError for a folder without a pair: what is there, and what is expected.

    lost: what an annotation file says of other images than those that are here.
    """
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


def _prose_in(listing: Listing) -> str:
    """A file that is called like a class list and holds sentences; ""."""
    texts = listing.named("classes.txt", "labels.txt", "names.txt")
    return next((name for name in texts if holds_sentences(listing.path(name))), "")


def _read(
    found: Found,
    pairs: Sequence[Pair],
    counts: CountsOfFiles,
    values: Values,
    listing: Listing,
    yaml: Path | None,
) -> Reading:
    """What the values mean: a published convention's, else as found out.

    pairs: what was found, in the order of the counts.
    yaml: a data.yaml that was given in place of the folder; it names the classes.
    """
    if values.pixels and found.reading is not None:
        return found.reading
    if published := layouts.published(found, values):
        return published
    own = tuple(read_yaml_names(yaml)) if yaml else ()
    entries, file = (own, str(yaml)) if own else find_entries(listing)
    every = entries = counted_from_one(entries, values.pixels)
    if len(entries) > MAX_CLASSES and not values.terms:
        entries = tuple(entry for entry in entries if entry.value in values.pixels)
    read = partial(read_stored, store=found.store, terms=found.terms)
    values = look_closer(values, pairs, counts, read)
    if found.objects or (not entries and numbered_by_video(pairs, counts)):
        values = replace(values, instances=True)
        entries = entries if class_base(values) else ()
    reading = read_values(values, entries)
    listed = {entry.name for entry in entries}
    if file and not listed.isdisjoint(reading.classes.names):
        reading = replace(reading, why=(*reading.why, f"class names are from {file}"))
    elif every and not values.terms:
        reading = replace(reading, unused_list=f"{file} lists {mentioned_in(every)}")
    elif not every and (text := _prose_in(listing)):
        reading = replace(reading, why=(*reading.why, f"{text} holds sentences, no class names"))
    return reading
