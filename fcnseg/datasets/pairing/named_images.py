"""Find the images that annotation files name, and collect pairs while parsing these files; refuse
images of several files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from fcnseg.datasets import Pair, Pairing, SplitName, Unusable, name_uniquely
from fcnseg.datasets.pairing import (
    LABEL_WORDS,
    LETTERS,
    SPLIT_WORDS,
    Listing,
    is_image,
    place_of,
    start_below,
    stem_of,
    without_suffix,
)
from fcnseg.errors import DatasetError, MediaError, as_text
from fcnseg.io.images import image_size

T = TypeVar("T")


class PairCollector:
    """Pairs and problems collected while annotation files are parsed."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.by_path = {as_text(name).lower(): name for name in listing.images}
        self.by_name: dict[str, str] = {}  # by name and by stem, lower case
        self._namesakes: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for name in listing.images:
            base = as_text(name).rpartition("/")[2].lower()
            self._namesakes.setdefault(base, []).append(name)
            if place_of(name).role in ("", "images"):
                self._by_stem.setdefault(stem_of(base), []).append(name)
            if is_image(name):
                self.by_name.setdefault(base, name)
                self.by_name.setdefault(stem_of(base), name)
        self.pairs: list[Pair] = []
        self.counts: list[int] = []
        self.numbers: dict[Path, int] = {}
        self.orphans: list[Path] = []
        self.broken: list[tuple[Path, str]] = []
        self.notes: list[Unusable] = []

    def find_image(self, wanted: str, file: str) -> str | None:
        """The listed image that an annotation file names; None if there is none.

        DatasetError if the name's folders do not distinguish several images.
        """
        wanted = as_text(wanted).replace("\\", "/").lower()
        found = self._find(wanted, file)
        others = (self._find(other, file) for other in _spellings(wanted))
        return found or next(filter(None, others), None) or self._alike(wanted)

    def find_own_image(self, wanted: str, file: str) -> str | None:
        """The image of an annotation file for a single image: the one that it names, or the one
        with the file's own name, if the named one has its own file (renamed or augmented copies).
        """
        found = self.find_image(wanted, file)
        folder, stem = without_suffix(file).rpartition("/")[::2]
        own = self._by_stem.get(as_text(stem).lower(), [])
        if found is None or len(own) != 1 or found == own[0]:
            return found
        other = f"{folder}/{stem_of(found)}{file[len(without_suffix(file)) :]}".lstrip("/")
        return own[0] if other in self._files else found

    @cached_property
    def _files(self) -> frozenset[str]:
        return frozenset(self.listing.files)

    def namesakes(self, base: str) -> Sequence[str]:
        """The images of this name (lower case, with or without suffix) in all folders."""
        named = self._namesakes.get(base, ())
        return named if named or is_image(base) else self._by_stem.get(base, ())

    def _named(self, wanted: str, file: str) -> str | None:
        """The image of a path relative to the annotation file or the root, else the one that shares
        the longest end of the path (absolute paths may be from another machine), or by name."""
        folder = as_text(file).rpartition("/")[0].lower()
        for path in (f"{folder}/{wanted}" if folder else wanted, wanted):
            if path in self.by_path:
                return self.by_path[path]
        *folders, base = wanted.split("/")
        others = self.namesakes(base)
        for place in range(len(folders)):
            end = "/" + "/".join((*folders[place:], base))
            inside = [name for name in others if _has_ending(name, end)]
            if len(inside) == 1:
                return inside[0]
            if inside:
                break
        split, name = split_of(file), self.by_name.get(base)
        if name is None or not split or place_of(name).split in ("", split):
            return name
        return next((other for other in others if place_of(other).split == split), name)

    def _alike(self, wanted: str) -> str | None:
        """The only image whose name differs just in punctuation, as uploads rename `my leaf.jpg` to
        `my_leaf.jpg`."""
        base = [*_spellings(wanted), wanted][0].rpartition("/")[2]
        found = self._by_signs.get(_SIGNS.sub("_", base), [])
        return found[0] if len(found) == 1 else None

    @cached_property
    def _by_signs(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for base, names in self._namesakes.items():
            found[_SIGNS.sub("_", base)] += names
        return found

    def _find(self, wanted: str, file: str) -> str | None:
        *folders, base = wanted.split("/")
        others = self.namesakes(base)
        found = self._named(wanted, file)
        if found is None:  # a.tif for a.png; an id made of several parts of a path
            by, key = (self._by_stem, stem_of(base)) if is_image(base) else (self._by_id, base)
            others = by.get(key, [])
            return others[0] if len(others) == 1 else None
        told = folders and _has_ending(found, f"{folders[-1]}/{base}")
        if told or len(others) < 2 or file.rpartition("/")[0] == found.rpartition("/")[0]:
            return found
        return self._nearest(found, others, file)

    @cached_property
    def _by_id(self) -> Mapping[str, list[str]]:
        """Images by a folder's name and the beginning of their own, as in ids:
        `case1_day2_slice_0003` is case1/case1_day2/scans/slice_0003_266_266.png."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.listing.images:
            *folders, base = as_text(name).lower().split("/")
            parts = stem_of(base).split("_")
            for end in range(1, len(parts) + 1):
                for folder in {*folders}:
                    found[f"{folder}_{'_'.join(parts[:end])}"].append(name)
        return found

    def _nearest(self, found: str, others: Sequence[str], file: str) -> str:
        """Among images of the same name, the one whose folders are most similar to the annotation
        file's; DatasetError if it is ambiguous.
        """
        others = [other for other in others if not _is_among_labels(other)] or others
        found = found if found in others else others[0]
        place, folders = place_of(found), {*file.lower().split("/")[:-1]}
        alike: dict[int, list[str]] = {}
        for other in others:
            if (place_of(other).role, place_of(other).split) == (place.role, place.split):
                alike.setdefault(len(folders & {*other.lower().split("/")}), []).append(other)
        best = alike[max(alike)]
        if len(best) > 1:
            raise DatasetError(
                f"{self.listing.path(file)} says {found.rpartition('/')[2]}, which may be "
                f"{best[0]} or {best[1]}.",
                hint="write the folders into the annotation file, or keep one of them",
            )
        return best[0]

    def parsed(
        self, files: Iterable[str], parse: Callable[[Path], T]
    ) -> Iterator[tuple[str, Path, T]]:
        """Yield each file with its path and parsed content; add unreadable ones to `broken`."""
        for file in files:
            path = self.listing.path(file)
            try:
                content = parse(path)
            except MediaError as error:
                self.broken.append((path, error.message))
            else:
                yield file, path, content

    def add_once(self, pair: Pair, annotations: int) -> None:
        """Add a pair; of several files for one image, the first with annotations is used."""
        number = self.numbers.setdefault(pair.image, len(self.pairs))
        if number == len(self.pairs):
            self.pairs.append(pair)
            self.counts.append(annotations)
        elif not self.counts[number]:
            split = self.pairs[number].split or pair.split
            self.pairs[number], self.counts[number] = replace(pair, split=split), annotations
        elif annotations:
            why = "listed in another file too, which is used"
            self.notes.append(Unusable(pair.labels, why, what="image"))

    def note_missing(self, path: Path, wanted: str, annotations: int) -> None:
        """Record that an image named in an annotation file is missing."""
        why = f"no image file {wanted!r}"
        lost = (
            Unusable(path, why, annotations) if annotations else Unusable(path, why, what="image")
        )
        self.notes.append(lost)

    def found(self, label_format: str, terms: tuple[str, ...], why: str) -> Pairing:
        """The result; images that no annotation uses as image or labels are orphans."""
        used = {pair.image for pair in self.pairs}
        used.update(file for pair in self.pairs for _, file in pair.layers)
        images = map(self.listing.path, self.listing.images)
        return Pairing(
            label_format,
            name_uniquely(self.pairs),
            label_format=label_format,
            class_words=terms,
            orphan_images=tuple(path for path in images if path not in used),
            orphan_labels=tuple(self.orphans),
            broken=tuple(self.broken),
            notes=tuple(self.notes),
            why=(why,),
        )


_SIGNS = re.compile(r"[^\w.]+")

_UPLOADED = re.compile(r"(^|/)[0-9a-f]{8}-(?=[^/]+$)")
"""Prefix that Label Studio adds to the names of uploaded files."""


def _spellings(wanted: str) -> list[str]:
    """Alternative spellings of a name, most changed first: a URL's path, %20 decoded, and without
    Label Studio's prefix."""
    path = unquote(re.sub(r"^\w+://[^/]+/|\?.*$", "", wanted))
    return [one for one in (_UPLOADED.sub(r"\1", path), path) if one and one != wanted]


def _has_ending(name: str, end: str) -> bool:
    """Whether a listed file's path, with or without its suffix, has this end."""
    path = "/" + as_text(name).lower()
    return path.endswith(end) or without_suffix(path).endswith(end)


def _is_among_labels(name: str) -> bool:
    """Whether the name of an image's folder contains a word for labels (`sem_seg`)."""
    folder = as_text(name).lower().rpartition("/")[0].rpartition("/")[2]
    return not LABEL_WORDS.isdisjoint(LETTERS.findall(folder))


def split_of(file: str) -> SplitName:
    """The split in an annotation file's name, or in its folders' names."""
    for word in LETTERS.findall(stem_of(file).lower()):
        if word in SPLIT_WORDS:
            return SPLIT_WORDS[word]
    return place_of(file).split


_BAND = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:SR_)?B(?:0?[1-9]|1[0-3]|8A)|red|green|blue|nir)(?![A-Za-z0-9])"
)
"""A band of Sentinel-2, Landsat or 38-Cloud in a file's name."""


def find_whole_images(listing: Listing, find: Callable[[Listing], Pairing]) -> Pairing:
    """The pairs found by a function, without files of single bands (B02.tif, B03.tif, ...).

    A list may name such files. DatasetError if there are no other images.
    """
    scenes = Counter(_BAND.sub("*", name) for name in listing.images)
    bands = {name for name in listing.images if scenes[_BAND.sub("*", name)] > 2}
    try:
        found, start = find(listing), start_below(listing.root)
        images = [str(pair.image)[start:] for pair in found.pairs]
        if found.layout == "list" or bands.isdisjoint(images):
            return found
    except DatasetError:
        if not bands:
            raise
    try:
        others = tuple(name for name in listing.files if name not in bands)
        return find(Listing(listing.root, others))
    except DatasetError:
        raise DatasetError(
            f"{listing.root} has a file for each band ({min(bands)}); an image must be one file.",
            hint="write the bands of each image into one TIFF, for example with gdal_merge.py "
            "-separate -o IMAGE.tif B02.tif B03.tif B04.tif",
        ) from None


MOST_FOLDERS = 12
"""Maximum number of folders that may be classes."""


def class_folders(pairs: Sequence[Pair], root: Path) -> list[str]:
    """The folder of each pair's labels that may be the class: the first level, apart from names of
    images, labels and splits, that varies, if the names have no digits. [] for none, or many."""
    if not all(pair.labels.is_relative_to(root) for pair in pairs):
        return []  # files of a list
    rests = [place_of(pair.labels.relative_to(root).as_posix()).rest for pair in pairs]
    at = next((at for at, some in enumerate(zip(*rests, strict=False)) if len({*some}) > 1), None)
    if at is None:
        return []
    words = [rest[at] for rest in rests]
    known = Counter(words)
    plain = not any(re.search(r"\d", word) for word in known)
    return words if plain and len(known) <= MOST_FOLDERS and min(known.values()) > 1 else []


_PLACE = re.compile(r"(?:[\W_]*[^\W\d_]{0,6}\d+|[\W_]+(?:tile|patch|part|crop|chip)?)$")
"""The end of a tile's name, of which it may have several: `_0`, `_r1`, `_tile`."""


def without_tiled(found: Pairing) -> Pairing:
    """Drop images of which there are tiles in another folder (`images/a.tif`, `tiles/a_0.jpg`): the
    split would put the same pixels into train and val."""
    by_stem = {as_text(pair.image.stem).lower(): pair for pair in found.pairs if not pair.part}
    tiles: dict[str, list[Pair]] = defaultdict(list)
    for stem, pair in by_stem.items():
        whole = stem
        while (place := _PLACE.search(whole)) and place.start():
            whole = whole[: place.start()]
            same = by_stem.get(whole)
            if same and same.split in ("", pair.split) and same.image.parent != pair.image.parent:
                tiles[whole].append(pair)
    names = {stem for stem, some in tiles.items() if _are_tiles(by_stem[stem], some)}
    if not names:
        return found
    dropped = {id(by_stem[stem]) for stem in names}
    first = tiles[min(names)][0].image
    why = f"cut into tiles, which are used ({first.parent.name}/{first.name})"
    note = Unusable(by_stem[min(names)].image.parent, why, len(names), "image")
    kept = tuple(pair for pair in found.pairs if id(pair) not in dropped)
    return replace(found, pairs=kept, notes=(*found.notes, note))


def _are_tiles(whole: Pair, some: Sequence[Pair]) -> bool:
    """Whether images are so much smaller that they may be tiles of a whole one."""
    try:
        height, width = image_size(whole.image)
        sizes = [image_size(pair.image) for pair in some[:2]]
    except MediaError:
        return False  # reported when all files are read
    return len(sizes) > 1 and all(2 * (h * w) <= height * width for h, w in sizes)
