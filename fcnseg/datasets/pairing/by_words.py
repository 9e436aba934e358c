"""Images and label files paired by the names of files and folders.

One rule for many layouts: each folder's name is read as a split (train, val, test), a role
(images or labels), both ("trainannot") or neither; two files of different roles belong
together when everything else about their paths agrees.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fcnseg.datasets import Found, Pair, SplitName
from fcnseg.datasets.pairing import SPLIT_WORDS, Listing, is_image, one_split, stem_of, suffix_of
from fcnseg.errors import as_text

IMAGE_WORDS = frozenset(
    [
        "image", "images", "img", "imgs", "jpegimages", "jpgs", "rgb", "input", "inputs",
        "photo", "photos", "picture", "pictures", "frame", "frames", "leftimg8bit", "sat", "x",
    ]
)  # fmt: skip


LABEL_WORDS = frozenset(
    [
        "mask", "masks", "label", "labels", "annot", "annots", "annotation", "annotations",
        "gt", "gts", "groundtruth", "ground_truth", "seg", "segs", "segmentation",
        "segmentations", "segmentationclass", "segmentationclasspng", "target", "targets",
        "labelids", "labeltrainids", "gtfine", "gtcoarse", "labelled", "labeled", "y",
    ]
)  # fmt: skip


_LETTERS = re.compile(r"[^\W\d_]+")

FILLERS = frozenset(["png", "pngs", "jpg", "raw", "all", "semantic", "binary", "class", "ids"])
"""Words that change nothing in a folder's name ("masks_png")."""

OTHER_WORDS = frozenset(
    [
        "segmentationobject", "segmentationobjectpng", "segmentationclassvisualization",
        "inst", "instance", "instances", "instanceids", "panoptic", "depth", "disparity", "overlay",
        "overlays",
    ]
)  # fmt: skip
"""Folders of pictures that are neither."""

_LABEL_WORD = r"(masks?|labels?|l|seg|segmentation|gt|groundtruth|annot|annotation|target)"


_LABEL_END = re.compile(
    rf"([_\-. ]{_LABEL_WORD}|_?(gtfine|gtcoarse)_\w+|labelids|labeltrainids)$", re.IGNORECASE
)


_IMAGE_END = re.compile(r"[_\-. ](images?|img|rgb|sat|leftimg8bit|input)$", re.IGNORECASE)


_BEGINNING = re.compile(
    r"^(masks?|labels?|gt|seg|annot|annotation|images?|img)[_\-. ](?=.)", re.IGNORECASE
)


@dataclass(frozen=True)
class Place:
    """Where a file stands.

    role: "images", "labels", "other" or "" when no folder says.
    rest: the folders that say nothing, as written.
    """

    split: SplitName
    role: str
    rest: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What partners have in common."""
        return self.split, "/".join(self.rest).lower()


def find_folders(listing: Listing) -> Found | None:
    """images/ beside masks/, train/ beside trainannot/, a_mask.png beside a.jpg, and their like."""
    found = pair_by_names(listing)
    return found if found.pairs else None


def find_stems(listing: Listing) -> Found | None:
    """Images and label files in folders whose names do not match, when their stems do."""
    found = pair_by_names(listing, by_stem=True)
    return found if found.pairs else None


def pair_by_names(listing: Listing, *, by_stem: bool = False) -> Found:
    """The pairs of image and label files in a listing, and what is left over.

    by_stem: what folders are called, apart from splits and roles, does not matter.
    """
    images, labels = split_roles(listing.images)
    layout = "folders"
    if not labels:
        images, labels = _tell_apart(images)
        layout = "side by side"
    pairs, alone, left = _match(listing, images, labels, by_stem=by_stem)
    lone, unused = set(alone), set(left)
    if (
        layout == "folders"
        and pairs
        and _is_annot(
            [name for name in images if name not in lone],
            [name for name in labels if name not in unused],
        )
    ):
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


def split_roles(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """The image files and the label files, as the names of their folders say."""
    by_role: dict[str, list[str]] = {"images": [], "labels": [], "other": [], "": []}
    for name in files:
        by_role[place_of(name).role].append(name)
    if by_role["labels"]:
        return by_role["images"] or by_role[""], by_role["labels"]
    return by_role["images"] + by_role[""], []


def place_of(name: str) -> Place:
    """What the folders of a listed file say."""
    return _place(name.rpartition("/")[0])


@lru_cache(maxsize=4096)
def _place(folder: str) -> Place:
    split: SplitName = ""
    role = ""
    rest = []
    for part in folder.split("/") if folder else []:
        said_split, said_role = read_word(part)
        split = said_split or split
        role = said_role or role
        if not (said_split or said_role):
            rest.append(part)
    return Place(split, role, tuple(rest))


def read_word(folder: str) -> tuple[SplitName, str]:
    """The split and the role in a folder's name ("trainannot": train, labels); ("", "") if none."""
    word = folder.lower().replace(" ", "_").replace("-", "_")
    if word in OTHER_WORDS:
        return "", "other"
    if _role(word):
        return "", _role(word)
    splits: list[SplitName] = []
    role = ""
    for token in (part for run in _LETTERS.findall(word) for part in _unfuse(run)):
        if token in SPLIT_WORDS:
            splits.append(SPLIT_WORDS[token])
        elif _role(token):
            role = "labels" if "labels" in (role, _role(token)) else "images"
        elif token not in FILLERS:
            return "", ""
    return one_split(splits), role


def _role(word: str) -> str:
    return "images" if word in IMAGE_WORDS else "labels" if word in LABEL_WORDS else ""


def _unfuse(word: str) -> tuple[str, ...]:
    """ "trainannot" as train, annot."""
    for split in SPLIT_WORDS:
        if word.startswith(split) and _role(word[len(split) :]):
            return split, word[len(split) :]
        if word.endswith(split) and _role(word[: -len(split)]):
            return word[: -len(split)], split
    return (word,)


def _is_annot(images: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether the folders are called X and Xannot, X being a split."""
    pictures = {name.rpartition("/")[0].lower() for name in images}
    answers = {name.rpartition("/")[0].lower() for name in labels}
    return answers <= {f"{folder}annot" for folder in pictures} and all(
        read_word(folder.rpartition("/")[2])[0] for folder in pictures
    )


def _tell_apart(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Images and labels in one folder: a_mask.png beside a.jpg, or a.png beside a.jpg."""
    bases = {name[: len(name) - len(suffix_of(name))].lower() for name in files}
    photos = {
        name[: len(name) - len(suffix_of(name))].lower()
        for name in files
        if suffix_of(name) in (".jpg", ".jpeg")
    }
    images: list[str] = []
    labels: list[str] = []
    for name in files:
        base = name[: len(name) - len(suffix_of(name))]
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

    exact = {key(name, stem_of(name).lower()): name for name in reversed(labels)}
    bare: dict[tuple[str, str, str], str] | None = None
    pairs, alone, used = [], [], set()
    for name in images:
        place, stem = place_of(name), stem_of(name)
        partner = (
            exact.get(key(name, stem.lower()))
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
        inside = "/".join((*place.rest, stem))
        pairs.append(Pair(listing.path(name), listing.path(partner), place.split, inside))
    return pairs, alone, [name for name in labels if name not in used]


def bare_stem(stem: str) -> str:
    """A file's stem without what marks it as image or labels, lower case."""
    short = _IMAGE_END.sub("", _LABEL_END.sub("", _BEGINNING.sub("", stem)))
    return (short or stem).lower()


def name_uniquely(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Pairs whose names differ: with their split, and their file's suffix, where needed."""
    for longer in _LONGER_NAMES:
        if max(Counter(pair.name for pair in pairs).values(), default=1) == 1:
            break
        pairs = [replace(pair, name=longer(pair)) for pair in pairs]
    return tuple(pairs)


_LONGER_NAMES: tuple[Callable[[Pair], str], ...] = (
    lambda pair: f"{pair.split}/{pair.name}" if pair.split else pair.name,
    lambda pair: pair.name + pair.image.suffix,
    lambda pair: f"{pair.name}-{pair.part}",
)


def partner_index(files: Iterable[str]) -> dict[str, str]:
    """Image files by stem and by name, lower case: for annotation files that name their image."""
    index: dict[str, str] = {}
    for name in files:
        if is_image(name):
            base = as_text(name).rpartition("/")[2].lower()
            index.setdefault(base, name)
            index.setdefault(stem_of(base), name)
    return index
