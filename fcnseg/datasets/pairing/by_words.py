"""Pair images and label files by words in their names; find splits in names."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from fcnseg.datasets import Pair, Pairing, SplitName, Unusable, name_uniquely
from fcnseg.datasets.pairing import (
    FILLERS,
    IMAGE_WORDS,
    LABEL_WORDS,
    LETTERS,
    SPLIT_WORDS,
    Listing,
    one_split,
    place_of,
    read_word,
    split_roles,
    start_below,
    stem_of,
    suffix_of,
    without_suffix,
)
from fcnseg.datasets.pairing.path_words import words_in
from fcnseg.errors import as_text

_LABEL_WORD = r"(masks?|labels?|l|seg|segmentation|gt|groundtruth|annot|annotation|target)"

_LABEL_END = re.compile(
    rf"([_\-. ]{_LABEL_WORD}|_?(gtfine|gtcoarse)_\w+|labelids|labeltrainids)$", re.IGNORECASE
)

_IMAGE_END = re.compile(r"[_\-. ](images?|img|rgb|sat|leftimg8bit|input)$", re.IGNORECASE)

_BEGINNING = re.compile(
    r"^(masks?|labels?|gt|seg|annot|annotation|images?|img)[_\-. ](?=.)", re.IGNORECASE
)


def pair_by_names(
    listing: Listing, sides: tuple[list[str], list[str]] | None = None, *, by_stem: bool = False
) -> Pairing:
    """Pair images and labels by name: images/ and masks/, train/ and trainannot/, a.jpg and
    a_mask.png etc.; also returns files without a partner.

    sides: the images and the label files, if known.
    by_stem: ignore folders, except their splits and roles.
    """
    images, labels = sides or split_roles(listing.images)
    layout = "folders"
    if not labels:
        images, labels = _tell_apart(images)
        layout = "side by side"
    pairs, alone, left = _match(listing, images, labels, by_stem=by_stem)
    if layout == "folders" and _are_annot(images, alone, labels, left):
        layout = "camvid"
    return Pairing(
        layout,
        name_uniquely(pairs),
        orphan_images=tuple(listing.path(name) for name in alone),
        orphan_labels=tuple(listing.path(name) for name in left),
        why=(_WHY[layout],),
    )


_WHY = {
    "folders": "folders called like images and labels hold files of the same names",
    "camvid": "every folder X of images has a folder Xannot of labels",
    "side by side": "label files lie beside their images and differ in the end of the name",
}


def _are_annot(
    images: Sequence[str], alone: Sequence[str], labels: Sequence[str], left: Sequence[str]
) -> bool:
    """Whether the folders of all pairs are named X and Xannot, where X is a split.

    alone, left: the images and label files without a partner, which are ignored.
    """
    if not any(
        name.rpartition("/")[0].lower().endswith("annot") for name in (*labels[:1], *labels[-1:])
    ):
        return False  # the common case, checked cheaply
    image_folders, label_folders = (
        {name.rpartition("/")[0].lower() for name in set(some) - set(others)}
        for some, others in ((images, alone), (labels, left))
    )
    return (
        bool(image_folders)
        and label_folders <= {f"{folder}annot" for folder in image_folders}
        and all(read_word(folder.rpartition("/")[2])[0] for folder in image_folders)
    )


def _tell_apart(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate images and labels in one folder: a.jpg and a_mask.png, or a.jpg and a.png."""
    bases = {without_suffix(name).lower() for name in files}
    jpegs = (name for name in files if suffix_of(name) in (".jpg", ".jpeg"))
    photos = {without_suffix(name).lower() for name in jpegs}
    images: list[str] = []
    labels: list[str] = []
    for name in files:
        base = without_suffix(name)
        bare = _LABEL_END.sub("", base)
        marked = bare != base and any(
            bare.lower() + end in bases for end in ("", "_image", "_img", "_sat", "_rgb")
        )
        beside = suffix_of(name) not in (".jpg", ".jpeg") and base.lower() in photos
        (labels if marked or beside else images).append(name)
    return images, labels


def _match(
    listing: Listing, images: Sequence[str], labels: Sequence[str], *, by_stem: bool
) -> tuple[list[Pair], list[str], list[str]]:
    """Match by split, folder and stem; then by stems without the usual prefixes and suffixes."""

    def key(name: str, last: str) -> tuple[str, str, str]:
        split, rest = place_of(name).key
        return split, "" if by_stem else rest, last

    exact = {key(name, as_text(stem_of(name)).lower()): name for name in reversed(labels)}
    exact |= {key(name, stem_of(name).lower()): name for name in reversed(labels)}
    bare: dict[tuple[str, str, str], str] | None = None
    pairs, alone, used = [], [], set()
    for name in images:
        stem = stem_of(name)
        partner = (
            exact.get(key(name, stem.lower()))
            or exact.get(key(name, as_text(stem).lower()))
            or exact.get(key(name, name.rpartition("/")[2].lower()))  # a.jpg.png
        )
        if partner is None:
            if bare is None:
                bare = {key(name, bare_stem(stem_of(name))): name for name in reversed(labels)}
            partner = bare.get(key(name, bare_stem(stem)))
        if partner is None:
            alone.append(name)
            continue
        used.add(partner)
        pairs.append(listing.pair(name, partner))
    return pairs, alone, [name for name in labels if name not in used]


def bare_stem(stem: str) -> str:
    """A file's stem without words that mark images or labels, for comparisons."""
    short = _IMAGE_END.sub("", _LABEL_END.sub("", _BEGINNING.sub("", stem)))
    return as_text(short or stem).lower()


def find_by_stems(listing: Listing) -> Pairing | None:
    """Pairs in folders of any name; or whose one name begins or ends with the other, and has
    additional text (`IMG_1.jpg`, `8f3a0c1d-IMG_1.png`: Label Studio).
    """
    found = pair_by_names(listing, by_stem=True)
    images, labels = split_roles(listing.images)
    if found.pairs or not labels:
        of_all = {bare_stem(stem_of(name)) for name in labels if not place_of(name).split}
        again = of_all and any(bare_stem(one.stem) in of_all for one in found.orphan_images)
        return None if again else found  # two images for each label file: what they show decides
    image_of = _owners(labels, images)
    pairs = [(image_of[name], name) for name in image_of]
    pairs = pairs or [*_owners(images, labels).items()]
    if not pairs:
        return None
    used = {name for both in pairs for name in both}
    return replace(
        found,
        pairs=name_uniquely([listing.pair(*both) for both in pairs]),
        orphan_images=tuple(listing.path(name) for name in images if name not in used),
        orphan_labels=tuple(listing.path(name) for name in labels if name not in used),
        why=(f"names hold those of their partners: {pairs[0][0]} and {pairs[0][1]}",),
    )


def _owners(longer: Sequence[str], shorter: Sequence[str]) -> dict[str, str]:
    """Map files to the others with whose name theirs begins or ends; {} unless each has its own one
    and most have additional text (a word may be a class)."""
    known = {(place_of(name).split, bare_stem(stem_of(name))): name for name in shorter}
    found, rests = dict[str, str](), set[str]()
    for name in longer:
        split, stem = place_of(name).split, bare_stem(stem_of(name))
        cuts = [(run.start(), run.end()) for run in re.finditer(r"[^\W_]+", stem)]
        parts = [*(stem[start:] for start, _ in cuts[1:]), *(stem[:end] for _, end in cuts[:-1])]
        own = [part for part in parts if (split, part) in known]
        if len(own) != 1:
            return {}
        found[name] = known[split, own[0]]
        rests.add(stem.replace(own[0], "", 1))
    alone = len({*found.values()}) == len(found) and len(known) == len(shorter)
    return found if alone and 2 * len(rests) > len(found) else {}


ONE_CLASS = "object"
"""Class name for a folder with one file per object."""


def term_of(words: Iterable[str]) -> str:
    """The class name in words beside an image's name, without numbers and words for labels."""
    words = [*words]
    if number := class_number("_".join(words)):
        return number
    kept = [
        part
        for word in words
        for part in LETTERS.findall(word)
        if part.lower() not in LABEL_WORDS | FILLERS | {"object", "instance", "obj", "inst"}
    ]
    return "_".join(kept) or ONE_CLASS


def class_number(stem: str) -> str:
    """The class that a name numbers at its end (`a_class_2`); "" for another."""
    found = re.search(r"(?:^|[\W_])(?:class|cls|category|klasse)[\W_]*0*(\d+)$", stem.lower())
    return "" if found is None else f"class_{found[1]}"


def in_one_format(found: Pairing) -> Pairing:
    """Drop copies of pairs in another format (`PNG/Original/1.png` and `TIF/Original/1.tif`,
    `png_images` and `jpeg_images`); the first suffix by `_rank` is kept."""
    if len({pair.image.suffix.lower() for pair in found.pairs}) < 2:
        return found
    kept: dict[tuple[str, ...], Pair] = {}
    start = len(os.path.commonpath([pair.image.parent for pair in found.pairs]))
    for pair in sorted(found.pairs, key=lambda pair: _rank(pair.image.suffix.lower())):
        suffix = pair.image.suffix.lower()[1:]
        folder = str(pair.image.parent)[start:]
        bare = _folder_without(folder, _FORMATS.get(suffix, suffix))
        kept.setdefault((bare, pair.image.stem, pair.part, suffix if bare == folder else ""), pair)
    left = len(found.pairs) - len(kept)
    if not left:
        return found
    used = {id(pair) for pair in kept.values()}
    pairs = tuple(pair for pair in found.pairs if id(pair) in used)
    why = f"the same in another format, {pairs[0].image.parent.name}/{pairs[0].image.name}, is used"
    note = Unusable(pairs[0].image.parent, why, left, "image")
    return replace(found, pairs=pairs, notes=(*found.notes, note))


_FORMATS = {"jpeg": "jpe?g", "jpg": "jpe?g", "tif": "tiff?", "tiff": "tiff?"}
"""Suffix -> pattern of its spellings in folder names."""


@lru_cache(maxsize=4096)
def _folder_without(folder: str, word: str) -> str:
    """A folder's path without a word, e.g. `png_images` and `PNG/images` without png."""
    separate = rf"(?<![^\W_])(?:{word})s?[\W_]+|[\W_]+(?:{word})s?(?![^\W_])"
    return re.sub(separate, "", folder, flags=re.IGNORECASE)


def _rank(suffix: str) -> tuple[bool, str]:
    """A sort key: PNG first, then alphabetical."""
    return suffix != ".png", suffix


_FOLD = re.compile(
    r"^(?:[a-z]{1,5}[_\- ]?)?folds?[_\- ]?(\d+)$|^(\d+)[_\- ]?folds?$", re.IGNORECASE
)


def by_folds(found: Pairing, listing: Listing) -> Pairing | None:
    """Use folders of folds (fold1/images, fold1/masks): the first fold is val; None without folds.

    If each fold has its own train and val, which repeat the images, only the first is used.
    """
    if not listing.mentions("fold"):
        return None
    start = start_below(listing.root)
    numbers = [
        _fold_of(str(pair.image.parent)[start:]) if pair.split != "test" else None
        for pair in found.pairs
    ]
    parts: dict[int, set[SplitName]] = defaultdict(set)
    for pair, number in zip(found.pairs, numbers, strict=True):
        if number is not None:
            parts[number].add(pair.split)
        elif pair.split != "test":
            return None
    if len(parts) < 2:
        return None
    first = min(parts)
    both = list(zip(found.pairs, numbers, strict=True))
    if all(splits >= {"train", "val"} for splits in parts.values()):
        pairs = [pair for pair, number in both if number in (first, None)]
        left = [pair for pair, number in both if number not in (first, None)]
        why = f"in another fold than the first ({first}), which is used"
        note = Unusable(left[0].image.parent, why, len(left), "image")
        return replace(found, pairs=tuple(pairs), notes=(*found.notes, note))
    if any("val" in splits for splits in parts.values()):
        return None
    pairs = [
        pair if number is None else replace(pair, split="val" if number == first else "train")
        for pair, number in both
    ]
    why = f"of {len(parts)} folds the first ({first}) is val, the others are train"
    return replace(found, pairs=tuple(pairs), why=(*found.why, why))


@lru_cache(maxsize=4096)
def _fold_of(folder: str) -> int | None:
    """The fold number in one of a path's folders; None if there is none."""
    matches = filter(None, map(_FOLD.match, folder.replace("\\", "/").split("/")))
    return next((int(match[1] or match[2]) for match in matches), None)


def split_in(name: str) -> SplitName:
    """The split in a name that may have other words, too (`TestDataset`, `train_set_2`)."""
    tokens = words_in(as_text(name))
    return one_split([SPLIT_WORDS[token] for token in tokens if token in SPLIT_WORDS])


def folders_split(pair: Pair, root: Path) -> SplitName:
    """The split in the image's folders, or else in the labels'."""
    start = start_below(root)
    folders = (str(path).rpartition(os.sep)[0][start:] for path in (pair.image, pair.labels))
    return next((split for split in map(folder_split, folders) if split), "")


@lru_cache(maxsize=4096)
def folder_split(folder: str) -> SplitName:
    """The split of the innermost folder that has one in its name."""
    splits = (split_in(part) for part in reversed(folder.replace("\\", "/").split("/")))
    return next((split for split in splits if split), "")


def name_split(pair: Pair, _: Path) -> SplitName:
    """The split at the beginning or end of a file's name (`train_001.jpg`)."""
    tokens = [token for token in words_in(pair.image.stem) if token not in IMAGE_WORDS]
    ends = {SPLIT_WORDS.get(token, "") for token in (*tokens[:1], *tokens[-1:])} - {""}
    return ends.pop() if len(ends) == 1 else ""


_SHORT: Mapping[str, SplitName] = {
    "tr": "train", "va": "val", "vd": "val", "te": "test", "ts": "test"
}  # fmt: skip
"""Ambiguous words for splits, used only if all files have one (DUTS-TR, imagesTs)."""


def short_split(pair: Pair, root: Path) -> SplitName:
    """The split in two letters in the image's folders."""
    folder = str(pair.image.parent)[start_below(root) :]
    return one_split([_SHORT[token] for token in words_in(folder) if token in _SHORT])
