"""Images and label files paired by the names of files and folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from fcnseg.datasets import Found, Pair, Unusable, name_uniquely
from fcnseg.datasets.pairing import (
    FILLERS,
    LABEL_WORDS,
    LETTERS,
    Listing,
    place_of,
    read_word,
    split_roles,
    stem_of,
    suffix_of,
    without_suffix,
)
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
) -> Found:
    """The pairs of image and label files in a listing, and what is left over: of images/ beside
    masks/, train/ beside trainannot/, a_mask.png beside a.jpg, and their like.

    sides: the images and the label files, where their folders need not say.
    by_stem: what folders are called, apart from splits and roles, does not matter.
    """
    images, labels = sides or split_roles(listing.images)
    layout = "folders"
    if not labels:
        images, labels = _tell_apart(images)
        layout = "side by side"
    pairs, alone, left = _match(listing, images, labels, by_stem=by_stem)
    if layout == "folders" and _are_annot(images, alone, labels, left):
        layout = "camvid"
    return Found(
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
    """Whether the folders of all pairs are called X and Xannot, X being a split.

    alone, left: the images and label files without a partner, which do not count.
    """
    if not any(
        name.rpartition("/")[0].lower().endswith("annot") for name in (*labels[:1], *labels[-1:])
    ):
        return False  # nearly always, and cheap
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
    """Images and labels in one folder: a_mask.png beside a.jpg, or a.png beside a.jpg."""
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
    """Partners by split, folder and stem; then by stems without their usual ends."""

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
    """A file's stem without what marks it as image or labels, for comparisons."""
    short = _IMAGE_END.sub("", _LABEL_END.sub("", _BEGINNING.sub("", stem)))
    return as_text(short or stem).lower()


ONE_CLASS = "object"
"""What the things of a folder with one file for each thing are called."""


def term_of(words: Iterable[str]) -> str:
    """The class that words beside an image's name mean: without numbers and words for labels."""
    kept = [
        part
        for word in words
        for part in LETTERS.findall(word)
        if part.lower() not in LABEL_WORDS | FILLERS | {"object", "instance", "obj", "inst"}
    ]
    return "_".join(kept) or ONE_CLASS


def in_one_format(found: Found) -> Found:
    """What was found, without a folder's second copy in another format (`PNG/Original/1.png` and
    `TIF/Original/1.tif`, `png_images` and `jpeg_images`): of each image the first by its suffix."""
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
"""Suffix -> how folders write it."""


@lru_cache(maxsize=4096)
def _folder_without(folder: str, word: str) -> str:
    """A folder's path without a word: `png_images` and `PNG/images` without png."""
    separate = rf"(?<![^\W_])(?:{word})s?[\W_]+|[\W_]+(?:{word})s?(?![^\W_])"
    return re.sub(separate, "", folder, flags=re.IGNORECASE)


def _rank(suffix: str) -> tuple[bool, str]:
    """PNG first, then the others by name."""
    return suffix != ".png", suffix
