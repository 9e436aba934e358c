"""Folders with pairs of a known kind: published data sets, and lists of pairs."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fcnseg.classes import (
    ADE20K_NAMES,
    CAMVID,
    CAMVID_VOID,
    CITYSCAPES,
    CITYSCAPES_IDS,
    CITYSCAPES_UNSCORED,
    IGNORE,
    VOC_BORDER_COLOR,
    VOC_NAMES,
    ClassMap,
    pack,
    unpack,
    voc_palette,
)
from fcnseg.datasets import Encoding, Found, Pair, Reading, SplitName, Unusable
from fcnseg.datasets.encoding.values import Values
from fcnseg.datasets.pairing import (
    LABEL_WORDS,
    SPLIT_WORDS,
    Listing,
    is_image,
    name_uniquely,
    stem_of,
    suffix_of,
)
from fcnseg.datasets.pairing.by_words import pair_by_names
from fcnseg.datasets.pairing.own_splits import split_in
from fcnseg.errors import DatasetError, as_text, from_bytes, to_path

_CAMVID_DRIVES = ("0001TP", "0006R0", "0016E5", "Seq05VD")

_VOC_PICTURE = re.compile(r"^(\d{4}_\d{6}|\d{6})$")

_ADE_PICTURE = re.compile(r"^ADE_(train|val|frame)_\d{8}$")

_CITYSCAPES_KINDS = ("labeltrainids", "labelids", "color")


def find_voc(listing: Listing) -> Found | None:
    """PASCAL VOC's folders: JPEGImages, SegmentationClass, lists in ImageSets/Segmentation.

    CVAT exports masks in the same folders, with a labelmap.txt.
    """
    lists = [name for name in listing.files if "ImageSets/Segmentation/" in name]
    if not lists:
        return None
    by_stem = {
        folder: {
            as_text(name[: name.rfind(".")]): name for name in listing.images if folder in name
        }
        for folder in ("JPEGImages/", "SegmentationClass/")
    }
    pairs: dict[str, Pair] = {}
    alone = []
    for name in sorted(lists, key=lambda name: stem_of(name) == "trainval"):
        base = as_text(name[: name.index("ImageSets/")])
        split: SplitName = SPLIT_WORDS.get(stem_of(name).lower(), "")
        for line in as_text(from_bytes(listing.path(name).read_bytes())).split():
            stem = line[: len(line) - len(suffix_of(line))] if is_image(line) else line
            image = by_stem["JPEGImages/"].get(f"{base}JPEGImages/{stem}")
            labels = by_stem["SegmentationClass/"].get(f"{base}SegmentationClass/{stem}")
            if image and labels and base + stem not in pairs:
                files = listing.path(image), listing.path(labels)
                pairs[base + stem] = Pair(*files, split, base + stem)
            elif image and not labels and split != "test":
                alone.append(listing.path(image))
    if not pairs:
        return None
    layout = "cvat" if listing.named("labelmap.txt") else "voc"
    why = "JPEGImages, SegmentationClass and the lists in ImageSets/Segmentation are PASCAL VOC's"
    return Found(layout, name_uniquely([*pairs.values()]), orphan_images=(*alone,), why=(why,))


def find_cityscapes(listing: Listing) -> Found | None:
    """Cityscapes' folders: leftImg8bit, and gtFine (or gtCoarse) with several files an image."""
    pictures = [name for name in listing.images if "_leftImg8bit." in name]
    if not pictures:
        return None
    for truth in ("gtFine", "gtCoarse"):
        for kind in _CITYSCAPES_KINDS:
            end = f"_{truth}_{kind}".lower()
            answers = [n for n in listing.images if stem_of(n).lower().endswith(end)]
            if pictures and answers:
                found = pair_by_names(listing.only(sorted(pictures + answers)))
                if found.pairs:
                    reading = _cityscapes_reading(kind)
                    why = (f"*_leftImg8bit and *_{truth}_* are Cityscapes'", *reading.why)
                    return replace(found, layout="cityscapes", reading=reading, why=why)
    return None


def find_ade20k(listing: Listing) -> Found | None:
    """ADE20K's scene parsing folders: images and annotations, training and validation."""
    pictures = [name for name in listing.images if "ADE_" in name]
    if not any(_ADE_PICTURE.match(stem_of(name)) for name in pictures):
        return None
    if any(re.match(r"^ADE_\w+_\d{8}_seg$", stem_of(name)) for name in pictures):
        raise DatasetError(
            f"{listing.root} is the full ADE20K with its 3,688 kinds of objects; "
            "at most 255 classes are possible.",
            hint="use the scene parsing version with 150 classes (ADEChallengeData2016)",
        )
    found = pair_by_names(listing)
    why = "files called ADE_train_... and ADE_val_... are ADE20K's scene parsing set"
    return replace(found, layout="ade20k", why=(why,)) if found.pairs else None


def read_published(found: Found, values: Values) -> Reading | None:
    """What the stored values mean by a published convention; None where none applies."""
    if found.reading is not None:
        return found.reading
    largest = max(values.pixels, default=-1)
    if values.kind == "index" and found.layout == "camvid" and _is_segnet(found, values):
        return _SEGNET
    if values.kind == "index" and found.layout == "ade20k" and largest <= len(ADE20K_NAMES):
        return _ADE20K
    if found.layout == "voc" and all(_VOC_PICTURE.match(p.image.stem) for p in found.pairs):
        return _voc_reading(values)
    return None


def _is_segnet(found: Found, values: Values) -> bool:
    """CamVid's own file names, or a largest value that only its convention explains."""
    largest = max(values.pixels, default=CAMVID_VOID + 1)
    if largest > CAMVID_VOID:
        return False
    drives = all(pair.image.name.startswith(_CAMVID_DRIVES) for pair in found.pairs)
    return drives or largest >= len(CAMVID) - 2


def _voc_reading(values: Values) -> Reading | None:
    known = range(len(VOC_NAMES))
    classes = ClassMap.of(VOC_NAMES, [unpack(color) for color in voc_palette(len(VOC_NAMES))])
    if values.kind == "index" and values.pixels.keys() <= {*known, IGNORE}:
        why = ("values 0..20 are VOC's classes, the border's 255 is ignored",)
        return Reading(Encoding.of(known, [IGNORE]), classes, IGNORE, why)
    palette = voc_palette(len(VOC_NAMES))
    if values.kind == "color" and values.pixels.keys() <= {*palette, VOC_BORDER_COLOR}:
        encoding = Encoding("color", tuple((color,) for color in palette), (VOC_BORDER_COLOR,))
        return Reading(encoding, classes, IGNORE, ("colours are VOC's palette",))
    return None


def _cityscapes_reading(kind: str) -> Reading:
    if kind == "labeltrainids":
        encoding = Encoding.of(range(len(CITYSCAPES)), [IGNORE])
        return Reading(encoding, CITYSCAPES, IGNORE, ("train ids 0..18, 255 is ignored",))
    if kind == "labelids":
        others = [number for number in range(34) if number not in CITYSCAPES_IDS]
        encoding = Encoding.of(CITYSCAPES_IDS, [*others, IGNORE])
        why = ("of the label ids 0..33 the 19 that are scored; the others are ignored",)
        return Reading(encoding, CITYSCAPES, 0, why)
    colors = tuple((pack(*color),) for color in CITYSCAPES.colors.tolist())
    why = ("of the colours the 19 that are scored; the others are ignored",)
    return Reading(Encoding("color", colors, CITYSCAPES_UNSCORED), CITYSCAPES, IGNORE, why)


_SEGNET = Reading(
    Encoding.of(range(len(CAMVID)), [CAMVID_VOID]),
    CAMVID,
    CAMVID_VOID,
    (
        "values 0..11 in folders X and Xannot are CamVid as SegNet stores it: 11 classes",
        "value 11 is void and ignored",
    ),
)

_ADE20K = Reading(
    Encoding.of(range(1, len(ADE20K_NAMES) + 1), [0]),
    ClassMap.of(ADE20K_NAMES),
    0,
    ("values 1..150 are the classes of ADE20K's scene parsing, 0 is everything else, ignored",),
)

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".lst")


def find_pair_list(listing: Listing) -> Found | None:
    """A list of pairs near the top of a folder; lists named after splits are joined."""
    found = []
    for name in listing.with_suffix(*LIST_SUFFIXES):
        if name.count("/") <= 1:
            rows = _rows(listing.path(name))
            for base in dict.fromkeys((listing.path(name).parent, listing.root)):
                columns = _columns(rows, base)
                if columns:
                    found.append((name, base, rows, columns))
                    break
    if not found:
        return None
    pairs, orphans = [], []
    for name, base, rows, columns in found:
        made, missing = _pairs(listing.path(name), rows, columns, base)
        pairs += made
        orphans += missing
    return _found([name for name, *_ in found], pairs, orphans)


def read_pair_list(path: Path) -> Found:
    """The pairs a list names; DatasetError when it is not one."""
    rows = _rows(path)
    columns = _columns(rows, path.parent)
    if columns is None:
        raise DatasetError(
            f"{path} names no existing pair of image and label files.",
            hint="each line: image,labels[,split], relative to the list's folder",
        )
    pairs, missing = _pairs(path, rows, columns, path.parent)
    return _found([path.name], pairs, missing)


def _found(names: Sequence[str], pairs: Sequence[Pair], missing: Sequence[Unusable]) -> Found:
    ordered = sorted(pairs, key=lambda pair: not pair.split)  # train.txt before trainval.txt
    unique = list({(pair.image, pair.labels): pair for pair in reversed(ordered)}.values())[::-1]
    return Found(
        "list",
        name_uniquely(unique),
        notes=tuple(missing),
        why=(f"{', '.join(names[:3])} names an image and its labels on each line",),
    )


def _rows(path: Path) -> list[list[str]]:
    """The cells of each line; [] for a file that is no table."""
    try:
        text = from_bytes(path.read_bytes())
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return []
    for delimiter in (",", ";", "\t", " "):
        if delimiter in lines[-1]:
            rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            return [[cell.strip() for cell in row] for row in rows]
    return []


def _columns(rows: Sequence[Sequence[str]], folder: Path) -> tuple[int, int, int | None] | None:
    """Which columns hold the image, the labels and (if any) the split; None for another table.

    The first lines whose cells exist as image files decide; a heading says which is which.
    """
    for row in rows[:20]:
        named = [i for i, cell in enumerate(row) if is_image(cell)]
        paths = [i for i in named if (folder / to_path(row[i])).is_file()]
        if len(paths) >= 2 and row[paths[0]] != row[paths[1]]:
            image, labels = paths[:2]
            if _is_label_heading(rows[0], image) and not _is_label_heading(rows[0], labels):
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
) -> tuple[list[Pair], list[Unusable]]:
    """The pairs of one list, and the lines whose files are missing."""
    image, labels, split = columns
    own = split_in(path.stem)
    pairs, missing = [], []
    for row in rows:
        if len(row) <= max(image, labels) or not is_image(row[image]):
            continue  # a heading
        files = base / to_path(row[image]), base / to_path(row[labels])
        lost = [str(file) for file in files if not file.is_file()]
        if lost:
            missing.append(Unusable(path, f"no file {lost[0]}", what="line"))
            continue
        said: SplitName = own
        if split is not None and split < len(row):
            said = SPLIT_WORDS.get(row[split].lower(), own)
        name = to_path(row[image]).with_suffix("").as_posix().lstrip("./")
        pairs.append(Pair(*files, said, name))
    return pairs, missing
