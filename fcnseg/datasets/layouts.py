"""Layouts of published datasets: folders, and the meaning of stored values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
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
from fcnseg.datasets import Encoding, LabelMeaning, Pair, Pairing, SplitName, name_uniquely
from fcnseg.datasets.encoding.values import Values
from fcnseg.datasets.pairing import (
    SPLIT_WORDS,
    Listing,
    is_image,
    place_of,
    stem_of,
    without_suffix,
)
from fcnseg.datasets.pairing.by_words import pair_by_names
from fcnseg.datasets.pairing.candidates import two_label_sets
from fcnseg.datasets.pairing.file_stats import Candidate
from fcnseg.errors import DatasetError, as_text, from_bytes

_CAMVID_DRIVES = ("0001TP", "0006R0", "0016E5", "Seq05VD")

_VOC_IMAGE = re.compile(r"^(\d{4}_\d{6}|\d{6})$")

_VOC_LABELS = re.compile(r"^SegmentationClass(Aug)?$")

_ADE_IMAGE = re.compile(r"^ADE_(train|val|frame)_\d{8}$")

_KITTI_360_IDS = 46
"""KITTI-360 has more label ids than Cityscapes' 34; the additional ones are ignored."""

_CITYSCAPES_KINDS = ("labeltrainids", "labelids", "color", "instanceids")


def find_voc(listing: Listing) -> Pairing | None:
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
    _refuse_two_versions(listing, by_stem["JPEGImages/"])
    pairs: dict[str, Pair] = {}
    alone: dict[Path, None] = {}  # an ordered set: train.txt and trainval.txt name the same images
    for name in sorted(lists, key=lambda name: stem_of(name) == "trainval"):
        base = as_text(name[: name.index("ImageSets/")])
        split: SplitName = SPLIT_WORDS.get(stem_of(name).lower(), "")
        for line in as_text(from_bytes(listing.path(name).read_bytes())).split():
            stem = without_suffix(line) if is_image(line) else line
            image = by_stem["JPEGImages/"].get(f"{base}JPEGImages/{stem}")
            labels = by_stem["SegmentationClass/"].get(f"{base}SegmentationClass/{stem}")
            if image and labels and base + stem not in pairs:
                files = listing.path(image), listing.path(labels)
                pairs[base + stem] = Pair(*files, split, base + stem)
            elif image and not labels and split != "test":
                alone[listing.path(image)] = None
    if not pairs:
        return None
    layout = "cvat" if listing.named("labelmap.txt") else "voc"
    why = "JPEGImages, SegmentationClass and the lists in ImageSets/Segmentation are PASCAL VOC's"
    return Pairing(layout, name_uniquely([*pairs.values()]), orphan_images=(*alone,), why=(why,))


def _refuse_two_versions(listing: Listing, images: Mapping[str, str]) -> None:
    """DatasetError if there are both SegmentationClass and SegmentationClassAug (of SBD)."""
    sides = []
    for folder in ("SegmentationClass/", "SegmentationClassAug/"):
        found = [
            (image, name)
            for name in listing.images
            if folder in name
            and (
                image := images.get(as_text(name.replace(folder, "JPEGImages/").rpartition(".")[0]))
            )
        ]
        sides.append(Candidate(tuple(found)))
    if all(side.pairs for side in sides):
        raise two_label_sets(listing, sides)


def find_cityscapes(listing: Listing) -> Pairing | None:
    """Cityscapes' folders: leftImg8bit, and gtFine (or gtCoarse) with several files per image."""
    images = [name for name in listing.images if "_leftImg8bit." in name]
    if listing.named("label_colors.txt"):  # CVAT's export of other classes in this layout
        return None
    if not images:
        return _find_kitti(listing)
    for truth in ("gtFine", "gtCoarse"):
        for kind in _CITYSCAPES_KINDS:
            end = f"_{truth}_{kind}".lower()
            labels = [n for n in listing.images if stem_of(n).lower().endswith(end)]
            if images and labels:
                found = pair_by_names(replace(listing, files=tuple(sorted(images + labels))))
                if not found.pairs:  # img_dir/train, ann_dir/train
                    found = pair_by_names(listing, (images, labels), by_stem=True)
                if found.pairs:
                    reading = _cityscapes_reading(kind) if kind != "instanceids" else None
                    why = (f"*_leftImg8bit and *_{truth}_* are Cityscapes'",)
                    return replace(found, layout="cityscapes", reading=reading, why=why)
    return None


def _find_kitti(listing: Listing) -> Pairing | None:
    """KITTI's segmentation benchmark: image_2 and semantic, with Cityscapes' label ids."""
    pairs = []
    known = {name for name in listing.images if "semantic/" in name}
    for name in (name for name in listing.images if "image_2/" in name):
        labels = re.sub(r"(^|/)image_2/", r"\1semantic/", name)
        if labels != name and labels in known:
            base = name[: name.rindex("image_2/")] + stem_of(name)
            paths = listing.path(name), listing.path(labels)
            pairs.append(Pair(*paths, place_of(name).split, base))
    if not pairs:
        return None
    reading = _cityscapes_reading("labelids")
    why = ("image_2 and semantic are KITTI's, with Cityscapes' classes",)
    return Pairing("kitti", name_uniquely(pairs), reading=reading, why=why)


def find_ade20k(listing: Listing) -> Pairing | None:
    """ADE20K's scene parsing folders: images and annotations, each training and validation."""
    images = [name for name in listing.images if "ADE_" in name]
    if not any(_ADE_IMAGE.match(stem_of(name)) for name in images):
        return None
    if any(re.match(r"^ADE_\w+_\d{8}_seg$", stem_of(name)) for name in images):
        raise DatasetError(
            f"{listing.root} is the full ADE20K with its 3,688 kinds of objects; "
            "at most 255 classes are possible.",
            hint="use the scene parsing version with 150 classes (ADEChallengeData2016)",
        )
    found = pair_by_names(listing)
    why = "files called ADE_train_... and ADE_val_... are ADE20K's scene parsing set"
    return replace(found, layout="ade20k", why=(why,)) if found.pairs else None


def _read_camvid(found: Pairing, values: Values) -> LabelMeaning | None:
    """SegNet's version of CamVid, by CamVid's file names or by the largest value."""
    largest = max(values.pixels)
    if values.kind != "index" or largest > CAMVID_VOID:
        return None
    drives = all(pair.image.name.startswith(_CAMVID_DRIVES) for pair in found.pairs)
    return _SEGNET if drives or largest >= len(CAMVID) - 2 else None


def _read_ade20k(_: Pairing, values: Values) -> LabelMeaning | None:
    fits = values.kind == "index" and max(values.pixels) <= len(ADE20K_NAMES)
    return _ADE20K if fits else None


def _read_voc(found: Pairing, values: Values) -> LabelMeaning | None:
    if not all(_VOC_IMAGE.match(pair.image.stem) for pair in found.pairs):
        return None
    known = range(len(VOC_NAMES))
    classes = ClassMap.of(VOC_NAMES, [unpack(color) for color in voc_palette(len(VOC_NAMES))])
    if values.kind == "index" and values.pixels.keys() <= {*known, IGNORE}:
        why = ("values 0..20 are VOC's classes, the border's 255 is ignored",)
        return LabelMeaning(Encoding.of(known, [IGNORE]), classes, IGNORE, why)
    palette = voc_palette(len(VOC_NAMES))
    if values.kind == "color" and values.pixels.keys() <= {*palette, VOC_BORDER_COLOR}:
        encoding = Encoding("color", tuple((color,) for color in palette), (VOC_BORDER_COLOR,))
        return LabelMeaning(encoding, classes, IGNORE, ("colors are VOC's palette",))
    return None


def _read_voc_labels(found: Pairing, values: Values) -> LabelMeaning | None:
    """VOC, if the label folder is named SegmentationClass or SegmentationClassAug."""
    called = all(_VOC_LABELS.match(pair.labels.parent.name) for pair in found.pairs)
    return _read_voc(found, values) if called else None


def _cityscapes_reading(kind: str) -> LabelMeaning:
    if kind == "labeltrainids":
        encoding = Encoding.of(range(len(CITYSCAPES)), [IGNORE])
        return LabelMeaning(encoding, CITYSCAPES, IGNORE, ("train ids 0..18, 255 is ignored",))
    if kind == "labelids":
        others = [number for number in range(_KITTI_360_IDS) if number not in CITYSCAPES_IDS]
        encoding = Encoding.of(CITYSCAPES_IDS, [*others, IGNORE])
        why = ("of the label ids 0..33 the 19 that are scored; the others are ignored",)
        return LabelMeaning(encoding, CITYSCAPES, 0, why)
    colors = tuple((pack(*color),) for color in CITYSCAPES.colors.tolist())
    why = ("of the colors the 19 that are scored; the others are ignored",)
    return LabelMeaning(Encoding("color", colors, CITYSCAPES_UNSCORED), CITYSCAPES, IGNORE, why)


def _read_instance_ids(_: Pairing, values: Values) -> LabelMeaning | None:
    """Cityscapes' label ids, or 1000 * id + number for objects that are counted."""
    if values.kind != "index":
        return None
    stored: dict[int, list[int]] = {label_id: [label_id] for label_id in CITYSCAPES_IDS}
    ignored: list[int] = []
    for value in sorted(values.pixels):
        own = stored.get(value // 1000 if value >= 1000 else value, ignored)
        if value not in own:
            own.append(value)
    encoding = Encoding("index", tuple(map(tuple, stored.values())), tuple(ignored))
    why = ("of the label ids, or 1000 * id + object, the 19 that are scored; others are ignored",)
    return LabelMeaning(encoding, CITYSCAPES, IGNORE, why)


def published(found: Pairing, values: Values) -> LabelMeaning | None:
    """The meaning of stored values in a published dataset, identified by layout or file paths."""
    if not values.pixels:
        return None
    reading = _PUBLISHED[found.layout](found, values) if found.layout in _PUBLISHED else None
    if reading is not None or found.label_format != "pixels" or len(values.pixels) < _TELLING:
        return reading
    for path, kind, known, reading in _BY_PATH:
        if (
            values.kind == kind
            and values.pixels.keys() <= known
            and all(path.search(pair.labels.as_posix()) for pair in found.pairs)
        ):
            return reading
    return None


_PUBLISHED: Mapping[str, Callable[[Pairing, Values], LabelMeaning | None]] = {
    "cityscapes": _read_instance_ids,
    "camvid": _read_camvid,
    "ade20k": _read_ade20k,
    "voc": _read_voc,
    "content": _read_voc_labels,
    "list": _read_voc_labels,
}
"""Layout -> function that returns the meaning of stored values."""

_SEGNET = LabelMeaning(
    Encoding.of(range(len(CAMVID)), [CAMVID_VOID]),
    CAMVID,
    CAMVID_VOID,
    (
        "values 0..11 in folders X and Xannot are CamVid as SegNet stores it: 11 classes",
        "value 11 is void and ignored",
    ),
)

_ADE20K = LabelMeaning(
    Encoding.of(range(1, len(ADE20K_NAMES) + 1), [0]),
    ClassMap.of(ADE20K_NAMES),
    0,
    ("values 1..150 are the classes of ADE20K's scene parsing, 0 is everything else, ignored",),
)

_LOVEDA = ("background", "building", "road", "water", "barren", "forest", "agriculture")

_ISPRS = {
    "impervious_surfaces": 0xFFFFFF, "building": 0x0000FF, "low_vegetation": 0x00FFFF,
    "tree": 0x00FF00, "car": 0xFFFF00, "clutter": 0xFF0000,
}  # fmt: skip

_TELLING = 5
"""Minimum number of different values to identify a dataset by its paths."""

_BY_PATH: Sequence[tuple[re.Pattern[str], str, frozenset[int], LabelMeaning]] = (
    (
        re.compile(r"bdd100k.*/sem_seg/masks/|_gt_labeltrainids\.", re.IGNORECASE),  # ACDC
        "index",
        frozenset((*range(len(CITYSCAPES)), IGNORE)),
        _cityscapes_reading("labeltrainids"),
    ),
    (
        re.compile("/data_2d_semantics/.*/semantic/"),
        "index",
        frozenset((*range(_KITTI_360_IDS), IGNORE)),
        _cityscapes_reading("labelids"),
    ),
    (
        re.compile("/(urban|rural)/masks_png/", re.IGNORECASE),
        "index",
        frozenset(range(len(_LOVEDA) + 1)),
        LabelMeaning(
            Encoding.of(range(1, len(_LOVEDA) + 1), [0]),
            ClassMap.of(_LOVEDA),
            0,
            ("values 1..7 are LoveDA's classes, 0 is no data, ignored",),
        ),
    ),
    (
        re.compile(r"/(top_mosaic_09cm_area|top_potsdam_)[^/]*$"),
        "color",
        frozenset((*_ISPRS.values(), 0)),
        LabelMeaning(
            Encoding("color", tuple((color,) for color in _ISPRS.values()), (0,)),
            ClassMap.of(list(_ISPRS), [unpack(color) for color in _ISPRS.values()]),
            IGNORE,
            ("colors are those of Potsdam and Vaihingen; black, the boundaries, is ignored",),
        ),
    ),
)
"""Pattern of all label files' paths, kind of values, possible values, their meaning."""
