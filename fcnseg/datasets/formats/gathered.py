"""Find the pairs of COCO, labelme and YOLO folders, whose labels are outlines in text files; and of
Open Images' masks, which a CSV lists."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fcnseg.classes import MAX_CLASSES
from fcnseg.datasets import Pair, Pairing, Unusable
from fcnseg.datasets.encoding.class_lists import find_entries, find_yaml_names
from fcnseg.datasets.encoding.entries import Entry, open_text, text_of
from fcnseg.datasets.formats.polygons import (
    BOXES,
    BOXES_IGNORED,
    NO_OUTLINE,
    CocoDocument,
    by_number,
    coco_document,
    has_area,
    read_json,
    yolo_lines,
)
from fcnseg.datasets.pairing import (
    Listing,
    is_image,
    marks,
    place_of,
    stem_of,
    without_suffix,
)
from fcnseg.datasets.pairing.named_images import PairCollector, split_of
from fcnseg.errors import (
    PARSE_ERRORS,
    DatasetError,
    MediaError,
    OptionError,
    as_text,
    from_bytes,
    reason,
)

_NOT_INSTANCES = ("captions", "keypoints", "image_info", "panoptic")
"""Words in names of COCO files without areas, or with the same ones again."""


COCO_HEAD = marks(b'"images"', b'"annotations"', b'"categories"')
"""Keys of a COCO file."""

_LABELME_HEAD = marks(b'"shapes"')


def find_coco(listing: Listing) -> Pairing | None:
    """COCO JSON: images, annotations and categories in one file per split."""
    files = [
        name
        for name in listing.with_suffix(".json")
        if not any(word in name.rpartition("/")[2] for word in _NOT_INSTANCES)
        and listing.says(name, COCO_HEAD)
    ]
    if not files:
        return None
    gathered = PairCollector(listing)
    names: dict[str, None] = {}  # an ordered set
    boxes = 0
    ordered = sorted(files, key=lambda file: not split_of(file))  # instances_all.json last
    documents = [*gathered.parsed(ordered, coco_document)]
    bare = any(document.unusable[NO_OUTLINE] for *_, document in documents)
    if bare and not any(document.counts for *_, document in documents):
        return None  # only boxes or keypoints; other files may be the labels
    for file, path, document in documents:
        names.update(dict.fromkeys(_category_names(document)))
        for why, count in document.unusable.items():
            gathered.notes.append(Unusable(path, why, count))
        boxed = sum(map(len, document.boxes.values()))
        if boxed:
            boxes += boxed
            gathered.notes.append(Unusable(path, BOXES_IGNORED, boxed))
        for part, image in document.images.items():
            wanted = str(image.get("file_name") or image.get("coco_url", ""))  # LVIS has the latter
            at = gathered.find_image(wanted, file)
            if at is None:
                gathered.note_missing(path, wanted, document.counts[part])
                continue
            split = split_of(file) or place_of(at).split
            name = str(PurePosixPath(at).with_suffix(""))
            pair = Pair(listing.path(at), path, split, name, part)
            gathered.add_once(pair, document.counts[part])
    shown = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
    why = f"{shown} is a COCO file: images, annotations, categories"
    return gathered.found("coco", _with_boxes(tuple(names), boxes), why)


def _with_boxes(names: tuple[str, ...], boxes: bool | int) -> tuple[str, ...]:
    return (*names, BOXES) if boxes and BOXES not in names else names


def fill_boxes(found: Pairing) -> Pairing:
    """Fill boxes among outlines with their classes; OptionError if there are none."""
    if found.label_format not in FILLED or found.class_words[-1:] != (BOXES,):
        raise OptionError(
            "--fill-boxes has no effect here: the dataset has no boxes among its outlines.",
            hint="omit --fill-boxes",
        )
    notes = tuple(note for note in found.notes if note.why != BOXES_IGNORED)
    why = (*found.why, "what a box alone surrounds is its class (--fill-boxes)")
    return replace(
        found,
        label_format=FILLED[found.label_format],
        class_words=found.class_words[:-1],
        notes=notes,
        why=why,
    )


FILLED: Mapping[str, str] = {"coco": "coco-boxes", "yolo": "yolo-boxes"}


def find_labelme(listing: Listing) -> Pairing | None:
    """labelme: a JSON file with shapes per image, usually beside it."""
    files = listing.saying(_LABELME_HEAD, ".json")
    if not files:
        return None
    gathered = PairCollector(listing)
    labels: set[str] = set()
    for file, path, (wanted, shapes) in gathered.parsed(files, _labelme_shapes):
        at = gathered.find_own_image(wanted, file) or gathered.by_name.get(
            as_text(stem_of(file)).lower()
        )
        if at is None:
            gathered.orphans.append(path)
            continue
        labels.update(label for label, covers in shapes if covers)
        flat = sum(not covers for _, covers in shapes)
        if flat:
            gathered.notes.append(Unusable(path, "lines and points cover no pixels", flat))
        gathered.pairs.append(listing.pair(at, file, place_of(file).split))
    listed = [entry.name for entry in find_entries(listing)[0]]
    terms = (*(name for name in listed if name in labels), *sorted(labels.difference(listed)))
    return gathered.found("labelme", terms, "JSON files with shapes are labelme's")


def find_yolo(listing: Listing) -> Pairing | None:
    """YOLO polygons: a class number and an outline per line, in labels/a.txt for images/a.jpg, or
    in a.txt beside a.jpg."""
    texts = [name for name in listing.with_suffix(".txt") if place_of(name).role == "labels"]
    texts = texts or _texts_beside_images(listing)
    if not any(_begins_with_number(listing.path(name)) for name in texts):
        return None
    partners = {(*place_of(name).key, as_text(stem_of(name)).lower()): name for name in texts}
    gathered = PairCollector(listing)
    seen: set[int] = set()
    outlines, boxes = 0, 0
    for name in listing.images:
        place = place_of(name)
        text = partners.pop((*place.key, as_text(stem_of(name)).lower()), None)
        if place.role == "labels" or text is None:
            continue
        path = listing.path(text)
        gathered.pairs.append(listing.pair(name, text))
        try:
            lines = [*yolo_lines(path)]
        except MediaError as error:
            gathered.broken.append((path, error.message))
            continue
        numbers = [number for number, outline in lines if len(outline) > 2]
        seen.update(numbers)
        outlines += len(numbers)
        if len(lines) > len(numbers):
            boxes += len(lines) - len(numbers)
            gathered.notes.append(Unusable(path, BOXES_IGNORED, len(lines) - len(numbers)))
    if boxes and not outlines:
        raise DatasetError(
            f"{listing.root} has boxes in YOLO's format, but no outlines; "
            "segmentation needs outlines or masks.",
            hint="export the dataset as segmentation (polygons or masks)",
        )
    entries, lists = find_entries(listing)
    alone = (listing.path(name) for name in partners.values() if name != lists)
    gathered.orphans += filter(_is_yolo, alone)
    names = _by_number(find_yaml_names(listing)[0] or entries, seen)
    names += [f"class_{index}" for index in range(len(names), max(seen, default=-1) + 1)]
    terms = _with_boxes(tuple(names), boxes)
    why = "text files with a class number and an outline on each line are YOLO's"
    return gathered.found("yolo", terms, why)


def _by_number(entries: Sequence[Entry], used: Iterable[int] = ()) -> list[str]:
    """The names of the classes 0, 1, ...: by the numbers in a class list (`names:` may have 1
    before 0), else by position, also if the list counts from 1 and the files from 0.

    used: the numbers in the files.
    """
    names = {entry.value: entry.name for entry in entries if entry.value is not None}
    first, last = min(names, default=-1), max(names, default=-1)
    shifted = first > 0 and 0 in used
    if len(names) < len(entries) or first < 0 or last >= MAX_CLASSES or shifted:
        return [entry.name for entry in entries]
    return [names.get(number, f"class_{number}") for number in range(last + 1)]


def _begins_with_number(path: Path) -> bool:
    """Whether a text may be YOLO's: its first word is a number, or it has none."""
    try:
        word = from_bytes(path.read_bytes()).split(maxsplit=1)[:1]
    except OSError:
        return True
    return not word or re.fullmatch(r"[\d.]+", word[0]) is not None


def _is_yolo(path: Path) -> bool:
    """Whether a text file is empty or has YOLO's lines, so is no class list or list of images."""
    try:
        return bool([*yolo_lines(path)]) or not path.read_bytes().strip()
    except MediaError:
        return False


def _texts_beside_images(listing: Listing) -> list[str]:
    """Text files with the folder and stem of an image, if all have YOLO's lines."""
    images = {without_suffix(name).lower() for name in listing.images}
    texts = [n for n in listing.with_suffix(".txt") if without_suffix(n).lower() in images]
    try:
        return texts if any([*yolo_lines(listing.path(name))] for name in texts) else []
    except MediaError:
        return []  # captions, for example


def _labelme_shapes(path: Path) -> tuple[str, list[tuple[str, bool]]]:
    """A labelme file's image, and each shape's label and whether it covers pixels."""
    data = read_json(path)
    try:
        shapes = [(str(shape["label"]).strip(), has_area(shape)) for shape in data["shapes"]]
    except PARSE_ERRORS as error:
        raise MediaError(f"{path} is not a labelme file: {reason(error)}.") from None
    return str(data.get("imagePath", "")), shapes


def renamed(found: Pairing, entries: Sequence[Entry]) -> Pairing:
    """Apply the class names of a data.yaml, given instead of the folder, to YOLO's outlines."""
    names = _by_number(entries)
    if found.label_format != "yolo" or not names:
        return found
    own = [term for term in found.class_words if term != BOXES]
    return replace(
        found, class_words=_with_boxes((*names, *own[len(names) :]), BOXES in found.class_words)
    )


def _category_names(document: CocoDocument) -> list[str]:
    """Category names by ascending id, without an unused parent category (Roboflow's 0)."""
    used = {a["category_id"] for entries in document.annotations.values() for a in entries}
    keys = sorted(document.names, key=by_number)
    ordered = [document.names[key] for key in keys]
    first = keys[0] if keys else None
    grouping = first == 0 and first not in used and len(ordered) > 1
    return ordered[1:] if grouping else ordered


# --- Open Images: a mask for each object, a CSV that says whose and what it is --------------------

_OPEN_IMAGES_HEAD = {"MaskPath", "ImageID", "LabelName"}


def find_open_images(listing: Listing) -> Pairing | None:
    """Find Open Images' object masks, grouped into layers of classes by their CSV."""
    tables = {n: rows for n in listing.with_suffix(".csv") if (rows := _mask_rows(listing.path(n)))}
    if not tables:
        return None
    words = _class_words(listing)
    by_name = {as_text(name).rpartition("/")[2]: name for name in listing.images}
    layers: dict[str, list[tuple[str, str]]] = {}
    gathered = PairCollector(listing)
    splits = {}
    for table, rows in tables.items():
        for row in rows:
            mask, image = by_name.get(row["MaskPath"]), gathered.find_image(row["ImageID"], table)
            if mask is None or image is None:
                gathered.note_missing(listing.path(table), row["MaskPath"], 1)
                continue
            term = words.get(row["LabelName"], row["LabelName"])
            layers.setdefault(image, []).append((term, mask))
            splits[image] = split_of(table)
    for image, some in layers.items():
        pair = listing.pair(image, min(some)[1], splits[image], layers=sorted(some))
        gathered.pairs.append(pair)
    if not gathered.pairs:
        return None
    terms = tuple(sorted({term for some in layers.values() for term, _ in some}))
    return gathered.found("layers", terms, f"{next(iter(tables))} is Open Images' list of masks")


def _mask_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a list of masks; [] for other files."""
    try:
        with open_text(path) as file:
            reader = csv.DictReader(file)
            if not {*(reader.fieldnames or ())} >= _OPEN_IMAGES_HEAD:
                return []
            return [row for row in reader if None not in row.values()]  # a truncated line
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _class_words(listing: Listing) -> dict[str, str]:
    """Class code -> name, from class-descriptions.csv or similar files."""
    words = {}
    for name in listing.with_suffix(".csv"):
        if "description" in stem_of(name).lower():
            with contextlib.suppress(csv.Error):
                for row in csv.reader(text_of(listing.path(name)).splitlines()):
                    if len(row) >= 2 and not is_image(row[0]):
                        words[row[0].strip()] = row[1].strip()
    return words
