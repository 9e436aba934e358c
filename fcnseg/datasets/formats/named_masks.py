"""Label images whose values are defined by other files or by their folder: labelme's folders,
ADE20K, COCO's panoptic format; and classes in the names of label files and their folders.

The meaning of a number differs from file to file, or is defined in a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.classes import MAX_CLASSES
from fcnseg.datasets import Pair, Pairing, name_uniquely
from fcnseg.datasets.encoding.class_lists import find_entries
from fcnseg.datasets.encoding.entries import text_of
from fcnseg.datasets.formats.documents import Format, refuse_broken
from fcnseg.datasets.formats.polygons import by_number, read_json
from fcnseg.datasets.pairing import (
    FILLERS,
    LABEL_WORDS,
    LETTERS,
    Listing,
    marks,
    place_of,
    stem_of,
)
from fcnseg.datasets.pairing.by_words import bare_stem, term_of
from fcnseg.datasets.pairing.file_stats import sample, sample_stats
from fcnseg.datasets.pairing.named_images import PairCollector, class_folders
from fcnseg.datasets.pairing.path_words import CHUNK, words_in
from fcnseg.errors import PARSE_ERRORS, DatasetError, MediaError, as_text, reason
from fcnseg.io.annotations import Cached
from fcnseg.io.labels import RawLabels, read_raw_labels

# --- labelme_json_to_dataset: a folder for each image, with img.png, label.png, label_names.txt ---


def _find_labelme_folders(listing: Listing) -> Pairing | None:
    found: list[Pair] = []
    class_words: dict[str, None] = {}  # an ordered set
    files = set(listing.images)
    for name in listing.named("label_names.txt"):
        folder = name.rpartition("/")[0]
        image, labels = f"{folder}/img.png", f"{folder}/label.png"
        if folder and {image, labels} <= files:
            class_words.update(dict.fromkeys(_label_names(listing.path(name))))
            split = place_of(image).split
            found.append(Pair(listing.path(image), listing.path(labels), split, folder))
    if not found:
        return None
    why = "folders with img.png, label.png and label_names.txt are labelme's"
    return Pairing(
        "labelme-folders",
        name_uniquely(found),
        label_format="labelme-folders",
        class_words=tuple(class_words),
        why=(why,),
    )


def _label_names(path: Path) -> list[str]:
    return [line.strip() for line in text_of(path).splitlines() if line.strip()]


def _read_labelme_folder(pair: Pair, terms: Sequence[str]) -> RawLabels:
    """Convert label.png's numbers, which refer to its own folder's names, to those of `terms`."""
    try:
        own = _label_names(pair.labels.with_name("label_names.txt"))
    except OSError as error:
        raise MediaError(f"{pair.labels}: its label_names.txt can't be read: {error}.") from None
    return _renumbered(pair.labels, read_raw_labels(pair.labels), dict(enumerate(own)), terms)


def _renumbered(
    path: Path, raw: RawLabels, names: Mapping[int, str], terms: Sequence[str]
) -> RawLabels:
    """Convert stored numbers, by their names, to numbers in `terms`, from 1; 0 stays 0."""
    stored, inverse = np.unique(raw.values, return_inverse=True)
    unlisted = [value for value in stored.tolist() if value and value not in names]
    if unlisted or raw.values.ndim != 2:
        raise MediaError(
            f"{path} holds {unlisted[0] if unlisted else 'colors'}, which has no name."
        )
    number = [
        terms.index(names[value]) + 1 if names.get(value) in terms else 0
        for value in stored.tolist()
    ]
    return RawLabels(np.array(number, np.int32)[inverse].reshape(raw.values.shape), None, "I")


LABELME_FOLDERS = Format(_find_labelme_folders, _read_labelme_folder, needs=("label_names.txt",))

# --- ADE20K (2020): a.jpg, a_seg.png whose red and green are a number, a.json with its names ------

_ADE_HEAD = marks(b'"annotation"', b'"name_ndx"')


def _find_ade20k(listing: Listing) -> Pairing | None:
    segments = {n: n[: -len("_seg.png")] for n in listing.images if n.endswith("_seg.png")}
    files = set(listing.files)
    names: dict[int, str] = {}
    pairs: list[Pair] = []
    for labels, base in segments.items():
        image = next((base + end for end in (".jpg", ".png") if base + end in files), None)
        if image is None or f"{base}.json" not in files:
            continue
        if not pairs and not listing.says(f"{base}.json", _ADE_HEAD):
            return None
        names |= _ade_names(listing.path(f"{base}.json"))
        pairs.append(listing.pair(image, labels))
    if not pairs:
        return None
    terms = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    if len(terms) >= MAX_CLASSES:
        raise DatasetError(
            f"{listing.root} is the full ADE20K, with {len(terms):,} kinds of objects here; "
            f"at most {MAX_CLASSES} classes are possible.",
            hint="use the scene parsing version with 150 classes (ADEChallengeData2016)",
        )
    why = (
        "JSON files with name_ndx beside *_seg.png are ADE20K's: names of objects by red and green"
    )
    return Pairing(
        "ade20k-json",
        name_uniquely(pairs),
        label_format="ade20k-json",
        class_words=terms,
        why=(why,),
    )


def _ade_names(path: Path) -> dict[int, str]:
    """A file's objects, without parts of objects: number -> name."""
    try:
        objects = read_json(path)["annotation"]["object"]
        return {
            int(one["name_ndx"]): str(one["name"])
            for one in objects
            if not one.get("parts", {}).get("part_level")
        }
    except PARSE_ERRORS as error:
        raise MediaError(f"{path} is not an ADE20K file: {reason(error)}.") from None


def _read_ade20k(pair: Pair, terms: Sequence[str]) -> RawLabels:
    raw = read_raw_labels(pair.labels)
    if raw.values.ndim != 3:
        raise MediaError(f"{pair.labels} holds no colors, as ADE20K's *_seg.png do.")
    red, green = (raw.values[..., channel].astype(np.int32) for channel in (0, 1))
    numbers = RawLabels(red // 10 * 256 + green, None, "I")
    names = _ade_names(pair.image.with_suffix(".json"))
    return _renumbered(pair.labels, numbers, names, terms)


ADE20K_JSON = Format(_find_ade20k, _read_ade20k, needs=("_seg.png",))

# --- cat/masks/1.png, dog/masks/1.png: what a file shows is what its folder is called -------------


def in_class_folders(found: Pairing, listing: Listing) -> Pairing:
    """Use such folders as classes if a class list contains them all."""
    words = class_folders(found.pairs, listing.root) if found.label_format == "pixels" else []
    if not words or not {*words} <= {entry.name for entry in find_entries(listing)[0]}:
        return found
    names = [pair.labels.relative_to(listing.root).as_posix() for pair in found.pairs]
    if any(one.levels > 2 for one in sample_stats(listing, sample(names))):
        return found
    pairs = [
        replace(pair, layers=((word, pair.labels),))
        for pair, word in zip(found.pairs, words, strict=True)
    ]
    terms = tuple(sorted({*words}))
    why = f"what label files show is what their folders are called: {', '.join(terms)}"
    return replace(
        found, pairs=tuple(pairs), label_format="layers", class_words=terms, why=(*found.why, why)
    )


# --- masks_1/a.png, masks_2/a.png: a folder of masks for each class -----------------------------


def numbered_folders(files: Iterable[str]) -> dict[str, str]:
    """The class of each folder of labels that differs from others by a number alone and has files
    of the same names; without those that belong to images so numbered (`images_1/`, `masks_1/`)."""
    stems: dict[str, set[str]] = {}
    for name in files:
        stems.setdefault(name.rpartition("/")[0], set()).add(stem_of(name))
    groups: dict[str, dict[str, str]] = {}
    for folder in stems:
        for part in re.finditer(r"(?<![^/])[^\d/]*(\d+)[^\d/]*(?![^/])", folder):
            bare = f"{folder[: part.start(1)]}#{folder[part.end(1) :]}"
            groups.setdefault(bare, {})[folder] = part[0]
    numbers = {bare: {re.sub(r"\D", "", p) for p in some.values()} for bare, some in groups.items()}
    taken = [numbers[bare] for bare in groups if LABEL_WORDS.isdisjoint(words_in(bare))]
    class_words: dict[str, str] = {}
    for bare, some in groups.items():
        files = [stem for folder in some for stem in stems[folder]]
        again = len(some) > 1 and len(files) > 1.5 * len({*files})
        if again and not any(map(numbers[bare].intersection, taken)):
            named = ((folder, part) for folder, part in some.items() if words_in(part))
            class_words |= {folder: _numbered_term(part) for folder, part in named}
    return class_words


def _numbered_term(part: str) -> str:
    """The class in a folder's name: class_1 for `masks_1`, cat_3 for `mask_cat_03`."""
    words = [w for w in LETTERS.findall(part) if w.lower() not in LABEL_WORDS | FILLERS]
    return "_".join([*(words or ["class"]), str(int(re.sub(r"\D", "", part)))])


# --- a_road.png, 7_square_0.png, task-1-annotation-2-tag-road.png: image and class -------

BRUSH = re.compile(r"^task-(\d+)-annotation-.*?-tag-(.+?)(?:-\d+)?$", re.IGNORECASE)


def common_word(stems: Iterable[str]) -> str:
    """The letters, in lower case, with which all stems begin: mask for `mask1_2`, `mask3_1`."""
    some = [as_text(stem).lower() for stem in stems] or [""]
    first, last = min(some), max(some)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    word = first[:same].rstrip("0123456789")
    return word if word.isalpha() else ""


def owner_by_name(
    name: str, keys: Mapping[tuple[str, str, str], str], word: str, *, alike: bool, first: bool
) -> tuple[str, str] | None:
    """The image whose name is the beginning (`first`, perhaps after a word) or the end of a label
    file's; the rest is the class."""
    place, written = place_of(name), as_text(stem_of(name))
    stem = written.lower()
    where = place.key if alike else (place.split, "")
    brush = BRUSH.match(stem)  # Label Studio's brush export
    if brush:
        own = keys.get((*where, brush[1])) or keys.get((*where, f"task-{brush[1]}"))
        return (own, written[brush.start(2) : brush.end(2)]) if own else None
    runs = [(run.start(), run.end()) for run in CHUNK.finditer(stem)]
    for cut in range(len(runs) - 1, 0, -1):
        at = cut if first else len(runs) - cut
        called, rest = (
            (stem[: runs[at - 1][1]], runs[at:]) if first else (stem[runs[at][0] :], runs[:at])
        )
        image = keys.get((*where, bare_stem(called)))
        image = image or keys.get((*where, called.removeprefix(word)))
        if image is not None:
            return image, term_of([written[start:end] for start, end in rest])
    return None


# --- COCO's panoptic format: PNGs of segment ids, and a JSON file with their categories ----------

_PANOPTIC_HEAD = marks(b'"segments_info"')


def _find_panoptic(listing: Listing) -> Pairing | None:
    files = listing.saying(_PANOPTIC_HEAD, ".json")
    if not files:
        return None
    gathered = PairCollector(listing)
    listed: dict[str, list[str]] = {}  # the class names of each file that is used
    pngs: dict[str, list[str]] = {}
    for name in listing.images:
        pngs.setdefault(as_text(name.rpartition("/")[2]), []).append(name)
    # The last one first: an image that two versions have (Mapillary's v1.2, v2.0) is the later's.
    for file, path, (images, segments, categories) in gathered.parsed(files[::-1], _panoptic):
        before = len(gathered.pairs)
        stem, folder = stem_of(file).lower(), file[: file.rfind("/") + 1]
        for part, (png, _) in segments.items():
            # If the image is a PNG of the same name, the labels are in a panoptic folder.
            pool = [n for n in pngs.get(png, ()) if "panoptic" in n.lower() or stem in n.lower()]
            pool = pool or pngs.get(png, [])
            at = _image_of(gathered, images.get(part, ""), file, pool)
            if at is None or not pool:
                gathered.note_missing(path, png if at else images.get(part, part), 1)
                continue
            labels = max(pool, key=lambda n: (stem in n.lower(), n.startswith(folder)))
            split = place_of(file).split or place_of(labels).split
            layers = (("", labels), ("", file))
            pair = listing.pair(at, file, split, part=part, layers=layers)
            gathered.add_once(pair, 1 + len(segments[part][1]))
        if len(gathered.pairs) > before:
            listed[file] = [categories[key] for key in sorted(categories, key=by_number)]
    refuse_broken(gathered)
    used = [file for file in files if file in listed]
    if not used:
        return None
    names = dict.fromkeys(name for file in used for name in listed[file])
    return gathered.found("panoptic", tuple(names), f"{used[0]} is COCO's panoptic format")


def _image_of(gathered: PairCollector, wanted: str, file: str, labels: Sequence[str]) -> str | None:
    """The image file of an entry, which must not be one of the labels."""
    at = gathered.find_image(wanted, file)
    if at not in labels:
        return at
    others = gathered.namesakes(as_text(wanted).rpartition("/")[2].lower())
    return next((name for name in others if name not in labels), None)


def _read_panoptic(pair: Pair, terms: Sequence[str]) -> RawLabels:
    """The numbers of the segments' categories, from 1; 0 elsewhere."""
    png, file = (path for _, path in pair.layers)
    _, segments, categories = _panoptic(file)
    values = read_raw_labels(png).values.astype(np.int64)
    ids = values if values.ndim == 2 else values @ np.array([1, 256, 65536])
    found, inverse = np.unique(ids, return_inverse=True)
    number_of = {
        segment: terms.index(categories[category]) + 1
        for segment, category in segments[pair.part][1].items()
        if categories.get(category) in terms
    }
    labels = np.array([number_of.get(value, 0) for value in found.tolist()], np.int32)[inverse]
    return RawLabels(labels.reshape(ids.shape), None, "I")


def _parse_panoptic(
    path: Path,
) -> tuple[dict[str, str], dict[str, tuple[str, dict[int, Any]]], dict[Any, str]]:
    """Image id -> file; image id -> (PNG, segment -> category); category -> name."""
    data = read_json(path)
    images = {str(image["id"]): str(image["file_name"]) for image in data["images"]}
    segments = {
        str(one["image_id"]): (
            as_text(str(one["file_name"])).rpartition("/")[2],
            {int(part["id"]): part["category_id"] for part in one["segments_info"]},
        )
        for one in data["annotations"]
    }
    return images, segments, {one["id"]: str(one["name"]) for one in data["categories"]}


_panoptic = Cached(_parse_panoptic, 4)

PANOPTIC = Format(_find_panoptic, _read_panoptic, needs=(".json",))
