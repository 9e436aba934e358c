"""Several label files per image: one for each class, or one for each object.

masks/road/a.png, masks/a/road.png, a/masks/*.png, a_class_road.png, a_mask_1.png.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from fcnseg.datasets import Pair, Pairing, files_of, name_uniquely
from fcnseg.datasets.formats.documents import layer_areas
from fcnseg.datasets.formats.masks import further_masks, without_combined
from fcnseg.datasets.formats.named_masks import (
    BRUSH,
    common_word,
    numbered_folders,
    owner_by_name,
)
from fcnseg.datasets.pairing import Listing, place_of, split_roles, stem_of
from fcnseg.datasets.pairing.by_words import ONE_CLASS, bare_stem, class_number, term_of
from fcnseg.datasets.pairing.candidates import means, recurring_terms, two_label_sets
from fcnseg.datasets.pairing.file_stats import (
    Candidate,
    apart_in_space,
    measure_file,
    overlap,
    sample,
    sample_stats,
)
from fcnseg.datasets.pairing.path_words import CHUNK
from fcnseg.errors import MediaError, as_text

Layer = tuple[str, str]
"""A class name and a listed file."""

Keys = dict[tuple[str, str, str], str]
"""The image of a split, a folder and a stem."""


def find_layers(listing: Listing) -> Pairing | None:
    """Find one folder or file per class, or one file per object of a single class."""
    images, labels = split_roles(listing.images)
    if not labels:
        return None
    keys = {(*place_of(name).key, bare_stem(stem_of(name))): name for name in reversed(images)}
    alone: dict[tuple[str, str], list[str]] = {}
    for name in images:
        alone.setdefault(place_of(name).key, []).append(name)
    words = recurring_terms(labels)
    by_image, left = _grouped(labels, lambda name: _owner(name, keys, alone, words))
    if not by_image:
        bare = _without_folders(keys)  # Bilder/a.png, masks/road/a_mask.png: no folder in common
        by_image, left = _grouped(labels, lambda name: _owner(name, bare, {}, {}))
        if max(map(len, by_image.values()), default=0) < 2:
            by_image, left = _grouped_by_name(labels, keys, alike=True)
        if not by_image:  # shapes_2018/7.jpeg, annotations/7_square_0.png
            by_image, left = _grouped_by_name(labels, bare, alike=False)
        if all(len(layers) == 1 and not BRUSH.match(stem_of(layers[0][1]))
               for layers in by_image.values()):  # fmt: skip
            return None  # a_P.png: one label file per image, with a custom suffix
    looked = sample_stats(listing, [name for layers in by_image.values() for _, name in layers])
    if any(one.levels > 2 for one in looked):
        return None  # labels of several classes: versions of the labels, not one class each
    return _found(listing, by_image, images, left)


def find_numbered_folders(listing: Listing) -> Pairing | None:
    """Find one folder of masks for each class, told apart by a number: `class_1_masks/`,
    `masks_2/`, `mask_cat_03/`."""
    term_in = numbered_folders(listing.images)
    labels = [name for name in listing.images if name.rpartition("/")[0] in term_in]
    others = {*listing.images} - {*labels} if labels else set()
    images = split_roles(sorted(others))[0]
    keys = {(place_of(name).split, bare_stem(stem_of(name))): name for name in images}

    def owner_of(name: str) -> tuple[str, str] | None:
        image = keys.get((place_of(name).split, bare_stem(stem_of(name))))
        return (image, term_in[name.rpartition("/")[0]]) if image is not None else None

    by_image, left = _grouped(labels, owner_of)
    if not by_image or len(keys) < len(images) or len(left) > len(labels) / 2:
        return None
    some = [(term, i, name) for i in sample(sorted(by_image)) for term, name in by_image[i]]
    seen = {(t, i): one for t, i, n in some if (one := measure_file(listing.path(n)))}
    sets = [{i: one for (t, i), one in seen.items() if t == term} for term in {t for t, _ in seen}]
    return _found(listing, by_image, images, left) if apart_in_space(sets) else None


def _grouped(
    labels: Sequence[str], owner_of: Callable[[str], tuple[str, str] | None]
) -> tuple[dict[str, list[Layer]], list[str]]:
    """The label files of each image with their classes, and label files without an image."""
    by_image: dict[str, list[Layer]] = {}
    for name in labels:
        image, term = owner_of(name) or ("", "")
        by_image.setdefault(image, []).append((term, name))
    left = by_image.pop("", [])
    return by_image, [name for _, name in left]


def _found(
    listing: Listing, by_image: dict[str, list[Layer]], images: Sequence[str], left: Sequence[str]
) -> Pairing:
    """The pairs of images with a label file for each class. left: label files without an image."""
    by_image = _numbered_classes(listing, without_combined(by_image))
    first = any(term == "class_0" for layers in by_image.values() for term, _ in layers)
    if first and _cover_all(listing, by_image):  # what no other file shows
        by_image = {
            image: [("background" if term == "class_0" else term, name) for term, name in layers]
            for image, layers in by_image.items()
        }
    _refuse_drawings(listing, by_image)
    _refuse_same_areas(listing, by_image)
    terms = tuple(sorted({term for layers in by_image.values() for term, _ in layers}))
    pairs = [
        listing.pair(image, min(layers)[1], layers=sorted(layers))
        for image, layers in by_image.items()
    ]
    why = [f"each class has label files of its own: {', '.join(terms[:8])}"]
    overlapping = _overlapping(pairs)
    if overlapping:
        why.append(
            f"areas of two classes overlap in {overlapping} of {len(sample(pairs))} images looked "
            "at: there the smaller area is taken"
        )
    return Pairing(
        "layers",
        name_uniquely(pairs),
        label_format="layers",
        class_words=terms,
        orphan_images=tuple(listing.path(n) for n in images if n not in by_image),
        orphan_labels=tuple(listing.path(name) for name in left),
        why=tuple(why),
    )


def _owner(
    name: str, keys: Keys, alone: Mapping[tuple[str, str], list[str]], words: Mapping[str, str]
) -> tuple[str, str] | None:
    """The image and class of a label file, by folders."""
    place, stem = place_of(name), stem_of(name)
    if place.rest:
        outer = place.split, as_text("/".join(place.rest[:-1])).lower()
        own = keys.get((*outer, bare_stem(stem)))
        if own is not None and bare_stem(stem) != bare_stem(place.rest[-1]):  # masks/road/a.png
            return own, place.rest[-1]
        folder = keys.get((*outer, bare_stem(place.rest[-1])))
        if folder is not None:  # masks/a/road.png, masks/a/a_road.png
            return folder, _without_name(stem, place.rest[-1])
        single = alone.get(place.key, [])
        if len(single) == 1:  # a/images/a.png, a/masks/1.png, a/masks/2.png
            return single[0], words.get(stem, ONE_CLASS)
    return None


def _without_name(stem: str, image: str) -> str:
    """The class in a label file's name, without the image's name at its beginning."""
    rest = stem[len(image) :]
    if not stem.lower().startswith(image.lower()) or rest[:1].isalnum():
        return stem
    return term_of(CHUNK.findall(rest))


def _without_folders(keys: Keys) -> Keys:
    """Images by split and stem, without ambiguous ones."""
    counts = Counter((split, stem) for split, _, stem in keys)
    return {
        (split, "", stem): name
        for (split, _, stem), name in keys.items()
        if counts[split, stem] == 1
    }


def _grouped_by_name(
    labels: Sequence[str], keys: Keys, *, alike: bool
) -> tuple[dict[str, list[Layer]], list[str]]:
    """Group label files by the images whose names theirs all begin, or all end, with: whichever
    gives more images labels. {} if one number names an image by chance (`x1_2.png` and `2.png`).

    alike: whether both must be in corresponding folders.
    """
    word, bare = (common_word(map(stem_of, some)) for some in (labels, keys.values()))
    keys = {(key[0], key[1], key[2].removeprefix(bare)): keys[key] for key in keys} | keys

    def owner_of(name: str, *, first: bool) -> tuple[str, str] | None:
        return owner_by_name(name, keys, word, alike=alike, first=first)

    ways = [_grouped(labels, partial(owner_of, first=first)) for first in (True, False)]
    by_image, left = max(ways, key=lambda way: (len(way[0]), -len(way[1])))
    numbers = {key[2] for key in keys if key[2].isdecimal()}
    others = {
        number
        for image, layers in by_image.items()
        for _, name in layers
        for number in {*re.findall(r"\d+", stem_of(name))} - {bare_stem(stem_of(image))}
    }
    return ({}, [*labels]) if len(others & numbers) > len(by_image) else (by_image, left)


def _overlapping(pairs: Sequence[Pair]) -> int:
    """Number of sampled pairs in which areas of two classes overlap."""
    count = 0
    for pair in sample(pairs):
        try:
            count += bool((np.sum([*layer_areas(pair).values()], axis=0) > 1).any())
        except MediaError:
            continue  # reported when all files are read
    return count


COVERED = 0.98
"""Minimum proportion of an image covered, without overlap, by a complete set of classes."""


def _numbered_classes(listing: Listing, by_image: dict[str, list[Layer]]) -> dict[str, list[Layer]]:
    """Interpret files that differ only in a number as one class each, if all images have the same
    numbers and each pixel is in one file (HELEN: a_lbl00.png ... a_lbl10.png). 0 is background."""
    numbered = {
        image: [(end[0], name) for _, name in layers if (end := re.search(r"\d+$", stem_of(name)))]
        for image, layers in by_image.items()
    }
    numbers = {tuple(sorted({number for number, _ in some})) for some in numbered.values()}
    alike = len(numbers) == 1 and len({term for some in by_image.values() for term, _ in some}) == 1
    every = next(iter(numbers), ())
    if not alike or len(every) < 2 or any(len(some) != len(every) for some in by_image.values()):
        return by_image
    if not _cover_all(listing, by_image):
        return by_image
    return {
        image: [(f"class_{n if int(n) else 0}", name) for n, name in some]
        for image, some in numbered.items()
    }


def _cover_all(listing: Listing, by_image: Mapping[str, Sequence[Layer]]) -> bool:
    """Whether each pixel is in one of an image's files."""
    for image in sample(sorted(by_image)):
        measured = [measure_file(listing.path(name)) for _, name in by_image[image]]
        shown = [one.shown for one in measured if one]
        if len(shown) < len(measured) or (np.sum(shown, axis=0) == 1).mean() < COVERED:
            return False
    return True


SAME = 0.5
"""Minimum IoU of two areas that are drawings of the same object."""


def _refuse_drawings(listing: Listing, by_image: Mapping[str, Sequence[Layer]]) -> None:
    """DatasetError if files of one class repeat the same objects in most sampled images: drawings
    of several annotators, or versions."""
    several = {
        image: [name for one, name in layers if one == term]
        for image, layers in by_image.items()
        for term, count in Counter(term for term, _ in layers).most_common(1)
        if count > 1
    }
    some = sample(sorted(several))
    if not some or 2 * sum(_are_drawings(listing, several[image]) for image in some) <= len(some):
        return
    number = min(map(len, several.values()))
    sides = [
        Candidate(tuple((image, sorted(names)[at]) for image, names in several.items()))
        for at in range(number)
    ]
    raise two_label_sets(listing, sides)


NEARLY_SAME = 0.75
"""The same for words that differ in more than a number (`manual`, `auto`)."""

MOST_COMPARED = 6  # classes


def _refuse_same_areas(listing: Listing, by_image: Mapping[str, Sequence[Layer]]) -> None:
    """DatasetError if two supposed classes (`expert1`, `expert2`) have the same areas in most
    sampled images."""
    terms = sorted({term for layers in by_image.values() for term, _ in layers})
    for pair in combinations(terms, 2) if len(terms) <= MOST_COMPARED else ():
        files = {image: dict(layers) for image, layers in by_image.items()}
        both = {image: some for image, some in files.items() if {*pair} <= some.keys()}
        one, other = (re.sub(r"[\W_]*\d+", "", term) for term in pair)
        least = SAME if one == other else NEARLY_SAME
        some = sample(sorted(both))
        alike = [
            _are_drawings(listing, [both[image][term] for term in pair], least) for image in some
        ]
        if 2 * len(both) > len(by_image) and 2 * sum(alike) > len(some):
            raise two_label_sets(
                listing,
                [
                    Candidate(tuple((image, one[term]) for image, one in both.items()))
                    for term in pair
                ],
            )


def _are_drawings(listing: Listing, names: Sequence[str], least: float = SAME) -> bool:
    """Whether two label files of an image have nearly the same area."""
    looked = sample_stats(listing, sorted(names)[:2])
    if len(looked) < 2:
        return False
    first, second = (one.shown for one in looked)
    return bool(first.any()) and overlap(first, second) >= least


def with_more_masks(listing: Listing, found: Pairing) -> Pairing:
    """Add further masks of images that have several (`a_mask_1.png` beside `a_mask.png`): areas of
    one class, if the masks are binary. With chosen labels, only those."""
    layered = found.label_format == "layers" and len(found.class_words) == 1
    masks = found.label_format == "pixels" and len(listing.images) > 2 * len(found.pairs)
    if not (layered or masks):
        return found
    chosen = [name for name in listing.images if means(found.sides[1], name)]
    more = further_masks(listing, chosen, found.pairs)
    looked = sample_stats(listing, [name for names in more.values() for name in names])
    if not more or any(one.levels > 2 for one in looked):
        return found
    drawn = {}
    for number, names in more.items():
        pair = found.pairs[number]
        image, own = (p.relative_to(listing.root).as_posix() for p in (pair.image, pair.labels))
        drawn[image] = [(ONE_CLASS, name) for name in (own, *names)]
    _refuse_drawings(listing, drawn)
    used = {listing.path(name) for names in more.values() for name in names}
    term = found.class_words[0] if layered else ONE_CLASS
    pairs = []
    for number, pair in enumerate(found.pairs):
        files = (*files_of(pair), *map(listing.path, more.get(number, ())))
        pairs.append(replace(pair, layers=tuple((class_number(p.stem) or term, p) for p in files)))
    terms = tuple(sorted({word for pair in pairs for word, _ in pair.layers}))
    why = f"{len(more)} images have more than one mask: areas of {', '.join(terms)}"
    return replace(
        found,
        pairs=tuple(pairs),
        label_format="layers",
        class_words=terms,
        orphan_images=tuple(path for path in found.orphan_images if path not in used),
        orphan_labels=tuple(path for path in found.orphan_labels if path not in used),
        why=(*found.why, why),
    )
