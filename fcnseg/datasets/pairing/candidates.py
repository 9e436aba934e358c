"""Choose among candidate pairings of a folder's files; errors for ambiguous ones."""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.datasets import Pair, Pairing, Unusable
from fcnseg.datasets.pairing import FILLERS, LABEL_WORDS, Listing, stem_of, without_suffix
from fcnseg.datasets.pairing.by_words import term_of
from fcnseg.datasets.pairing.file_stats import (
    TINT,
    Candidate,
    FileStats,
    StatsCache,
    apart_in_space,
    are_points,
    is_constant,
    refines,
    same_regions,
    sample,
)
from fcnseg.datasets.pairing.path_words import CAMEL, DERIVED, RUN, SECONDARY
from fcnseg.errors import DatasetError, MediaError
from fcnseg.io.images import read_image, resize_image

SHADES = 16
"""Minimum number of values in a photograph with its background removed."""

DARK = 24
"""Maximum brightness of a black background after JPEG compression."""

ALIKE = 0.6
"""Minimum proportion of it that is as bright as the photograph, within JPEG's error."""

CHOOSE = "or list the pairs in a CSV, a line each: image,labels[,split]"


def mostly_same(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two sets have more than half of the smaller one in common."""
    return 2 * len(one & other) > min(len(one), len(other))


def means(pattern: str, name: str) -> bool:
    """Whether a folder or pattern matches a listed file; "" matches all."""
    pattern = pattern.removeprefix("./").rstrip("/")
    return (
        not pattern
        or name.startswith(f"{pattern}/")
        or fnmatch.fnmatchcase(name, pattern)
        or fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)
    )


def two_images(listing: Listing, rivals: Sequence[Sequence[tuple[str, str]]]) -> DatasetError:
    """The DatasetError for labels with two images each, as in change detection."""
    shown = " and ".join(f"{pairs[0][0]} with {pairs[0][1]}" for pairs in rivals[:3])
    files = [image for image, _ in rivals[0]]
    pattern = pattern_for(files, [image for pairs in rivals[1:] for image, _ in pairs])
    return DatasetError(
        f"{listing.root} has two images for each label file ({shown}): labels of a change between "
        "two images, or of a file for each band, are not the labels of one image.",
        hint=f'if one set of images is meant, write a dataset.toml: root = "{listing.root}", '
        f'images = "{pattern}"; {CHOOSE}',
    )


_SIDE = re.compile("left|right", re.IGNORECASE)


def refuse_two_cameras(listing: Listing, chosen: Sequence[Candidate]) -> None:
    """DatasetError if images of both cameras are paired by ambiguous words: `Left_Forceps_labels`
    may be labels of the left camera, or of the left forceps."""
    pairs = {
        image: labels
        for one in chosen
        if not LABEL_WORDS.union(FILLERS, _GROUND_TRUTH).issuperset(one.label_words)
        for image, labels in one.pairs
    }
    both = [(image, other) for image in pairs if (other := _other_side(image)) in pairs]
    sides: dict[str, list[tuple[str, str]]] = {}
    for image, other in both:
        if image != other:
            side = _SIDE.findall(image)[-1].lower()
            sides.setdefault(side, []).append((image, pairs[image]))
    if len(sides) == 2:
        raise two_images(listing, [sides[side] for side in sorted(sides)])


_GROUND_TRUTH = ("ground", "truth")


def _other_side(name: str) -> str:
    """The name of the other camera's image."""
    return _SIDE.sub(lambda side: _OTHERS.get(side[0], side[0]), name)


_OTHERS = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


def two_label_sets(listing: Listing, rivals: Sequence[Candidate]) -> DatasetError:
    """The DatasetError for several sets of labels for the same images."""
    lines = []
    for one in rivals:
        others = [name for other in rivals if other is not one for name in other.labels]
        image, labels = one.pairs[0]
        lines.append(f'labels = "{pattern_for(sorted(one.labels), others)}" ({image}: {labels})')
    return DatasetError(
        f"{listing.root} has {len(rivals)} sets of labels for the same images: {'; '.join(lines)}.",
        hint="where each shows one class, move them into one folder, a folder for each class "
        "(DATA/masks/car, DATA/masks/tree); else choose one in a dataset.toml: "
        f'root = "{listing.root}" and one of these lines; {CHOOSE}',
    )


def pattern_for(files: Sequence[str], others: Iterable[str]) -> str:
    """A folder or pattern that matches these files and none of the others."""
    others = list(others)
    folder = os.path.commonpath(files) if len(files) > 1 else files[0].rpartition("/")[0]
    if folder and not any(name.startswith(f"{folder}/") for name in others):
        return folder
    named = set.intersection(*({*name.split("/")[:-1]} for name in files))
    taken = {part for name in others for part in name.split("/")[:-1]}
    if named - taken:
        return f"*/{min(named - taken)}/*"
    end = _common([name[::-1] for name in files])[::-1].lstrip("0123456789")
    start = _common(files).rstrip("0123456789")
    folders = [f"{name.rpartition('/')[0]}/" for name in files]
    inside = _common([name[::-1] for name in folders])[::-1]
    patterns = [f"*{end}", f"*{inside}*", f"{start}*", f"{_common(folders)}*{end}"]
    words = set.intersection(*({*name.rpartition("/")[2].split("_")[1:-1]} for name in files))
    patterns += [f"*_{word}_*" for word in sorted(words)]
    return next((one for one in patterns if not fnmatch.filter(others, one)), patterns[0])


def _common(names: Sequence[str]) -> str:
    """The common prefix of all names."""
    first, last = min(names), max(names)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[:same]


def pair(listing: Listing, image: str, labels: Sequence[tuple[str, str]], layered: bool) -> Pair:
    """A pair named after its image."""
    files = tuple((term, listing.path(name)) for term, name in sorted(labels))
    return Pair(
        listing.path(image), files[0][1], "", without_suffix(image), layers=files if layered else ()
    )


def has_unpaired(found: Pairing, listing: Listing) -> bool:
    """Whether enough image files are unpaired to be another set of labels or images."""
    used = len({pair.labels for pair in found.pairs}) + len(found.pairs)
    twice = used < 2 * len(found.pairs)
    return twice or len(listing.images) - used >= max(2, len(found.pairs) / 4)


def choose(listing: Listing, rivals: Sequence[Candidate], stats: StatsCache) -> list[Candidate]:
    """Choose among sets of labels for the same images; returns several if each is a class.

    DatasetError if it is ambiguous.
    """
    if len(rivals) < 2:
        return list(rivals)
    counts = Counter(image for one in rivals for image in one.images)
    some = sample(sorted(image for image, count in counts.items() if count > 1))
    seen = {one: stats.by_image(one, some) for one in rivals}
    left = unless_all(rivals, lambda one: other_size(one, stats))
    left = unless_all(left, lambda one: is_constant([*seen[one].values()]))
    left = unless_all(left, lambda one: are_points([*seen[one].values()]))
    left = unless_all(left, lambda one: has_word(one.label_words, SECONDARY))
    left = unless_all(left, lambda one: "trainids" not in one.label_words)
    most = max(len(one.pairs) for one in left)
    left = unless_all(left, lambda one: len(one.pairs) < most and _is_second(one))
    fine = left
    left = unless_all(left, lambda one: any(refines(seen[other], seen[one]) for other in fine))
    left = _without_copies(left, seen)
    if len(left) > 1 and apart_in_space([seen[one] for one in left]):
        return left
    left = unless_all(left, lambda one: not has_word(one.label_words, LABEL_WORDS))
    if len(left) > 1:
        raise two_label_sets(listing, left)
    return left


def _is_second(one: Candidate) -> bool:
    """Whether labels are a second annotator's (2nd_manual beside 1st_manual in DRIVE)."""
    return all(re.search(r"(?<!\d)2nd|\bsecond(?![a-z])", name.lower()) for name in one.labels)


def unless_all(
    candidates: Sequence[Candidate], dropped: Callable[[Candidate], bool]
) -> list[Candidate]:
    """Drop candidates by a rule, unless it would drop all."""
    return [one for one in candidates if not dropped(one)] or list(candidates)


def has_word(words: Sequence[str], known: Iterable[str]) -> bool:
    """Whether one of the words is known, also with trailing digits."""
    known = set(known)
    return any(word in known or word.rstrip("0123456789") in known for word in words)


def _without_copies(
    candidates: Sequence[Candidate], seen: Mapping[Candidate, Mapping[str, FileStats]]
) -> list[Candidate]:
    """Keep one of several label sets with the same borders: numbers rather than colors, classes
    (few values, or named semantic) rather than object numbers."""
    kept: list[Candidate] = []

    def rank(one: Candidate) -> tuple[bool, int, bool, bool, int]:
        stats = seen[one].values()
        values = {value for stat in stats for value in np.unique(stat.small).tolist()}
        color = any(stat.color for stat in stats)
        large, semantic = max(values, default=0) > IGNORE, "semantic" in one.label_words
        return color, len(values), large, not semantic, len(one.label_words)

    for one in sorted(candidates, key=rank):
        if not any(same_regions(seen[other], seen[one]) for other in kept):
            kept.append(one)
    return kept


def other_size(one: Candidate, stats: StatsCache) -> bool:
    """Whether a candidate's images differ in size from their labels, as those of another sensor or
    copies. Pairs with an unreadable file are ignored."""
    both = [stats.of(pair) for pair in sample(one.pairs)]
    sizes = [[stat.size for stat in pair] for pair in both if len(pair) == 2]
    return bool(sizes) and all(image != labels for image, labels in sizes)


def are_cut_outs(both: Sequence[Sequence[FileStats]]) -> bool:
    """Whether the supposed labels are photographs with their background removed: equal to the image
    except where they are black."""
    same = []
    whole = [(pair[0], pair[1]) for pair in both if len(pair) == 2 and not pair[1].through]
    if 3 * (len(both) - len(whole)) >= len(both):
        return False  # the opacity is the label
    for image, other in whole:
        grey, cut = (_grey(one) for one in (image, other))
        kept = cut > DARK
        if len(np.unique(other.small[kept])) >= SHADES:
            same.append(bool((np.abs(grey - cut)[kept] <= 2 * TINT).mean() >= ALIKE))
    return 2 * sum(same) > len(both)


def _grey(one: FileStats) -> NDArray[np.int32]:
    """Brightness, int32 (64, 64)."""
    if not one.color:
        return one.small
    red, green, blue = (one.small >> shift & 255 for shift in (16, 8, 0))
    return np.asarray((299 * red + 587 * green + 114 * blue) // 1000)


def terms_of(listing: Listing, sides: Sequence[Candidate]) -> list[str]:
    """Class names of several sets of label files: the words that they do not all share.

    DatasetError for two folders with labels of the same images and no such word.
    """
    common = set.intersection(*(set(one.label_words) for one in sides)) if len(sides) > 1 else set()
    terms = [term_of(_as_written(one, common)) for one in sides]
    for (term, one), (again, other) in combinations(zip(terms, sides, strict=True), 2):
        folders = {side.pairs[0][1].rpartition("/")[0] for side in (one, other)}
        if term == again and len(folders) > 1 and one.images & other.images:
            raise two_label_sets(listing, (one, other))
    return terms


def _as_written(side: Candidate, common: Iterable[str]) -> list[str]:
    """A side's words in the order and case of its first file, without repetitions."""
    wanted = set(side.label_words).difference(common)
    path = side.pairs[0][1]
    found = {
        run.lower(): run
        for run in RUN.findall(CAMEL.sub("_", without_suffix(path)))
        if run.lower() in wanted
    }
    return list(found.values())


def in_one_size(found: Pairing) -> Pairing:
    """Drop folders with the same images in another size (`images/`, `masks/` and `images_256/`,
    `masks_256/`); the one whose name is not that of a copy, or else the larger, is kept."""
    by_folder: dict[Path, dict[tuple[str, str], Pair]] = {}
    for pair in found.pairs:
        by_folder.setdefault(pair.image.parent, {})[pair.image.stem, pair.part] = pair
    if not 1 < len(by_folder) <= MOST_FOLDERS:
        return found
    copies: dict[int, Path] = {}
    for (one, pairs), (other, others) in combinations(by_folder.items(), 2):
        shared = sorted(pairs.keys() & others.keys())
        some = shared[:: max(1, len(shared) // SIZES_SEEN)]
        larger = [_larger(pairs[key].image, others[key].image) for key in some]
        if len(larger) < 2 or abs(sum(larger)) < len(larger):
            continue
        own = [{*RUN.findall(str(folder).lower())} for folder in (one, other)]
        called = [has_word([*own[0] - own[1]], DERIVED), has_word([*own[1] - own[0]], DERIVED)]
        first = called[1] if any(called) and not all(called) else larger[0] > 0
        for key in shared:
            copies[id((others if first else pairs)[key])] = one if first else other
    if not copies:
        return found
    kept = tuple(pair for pair in found.pairs if id(pair) not in copies)
    folder = next(iter(copies.values()))
    why = f"the same in another size; the images in {folder.name} are used"
    note = Unusable(folder, why, len(copies), "image")
    return replace(found, pairs=kept, notes=(*found.notes, note))


SIZES_SEEN, MOST_FOLDERS = 6, 40
"""Number of images that are compared; maximum number of folders to compare."""

SAME_IMAGE = 0.95
"""Minimum correlation of the same image in two sizes."""


def _larger(one: Path, other: Path) -> int:
    """1 or -1 if the first or the second of two files with the same image is larger; else 0."""
    try:
        images = [read_image(path) for path in (one, other)]
    except MediaError:
        return 0
    areas = [image.shape[0] * image.shape[1] for image in images]
    if areas[0] == areas[1]:
        return 0
    first, second = (resize_image(image, (16, 16)).mean(2).ravel() for image in images)
    if min(first.std(), second.std()) < 1 or np.corrcoef(first, second)[0, 1] < SAME_IMAGE:
        return 0
    return 1 if areas[0] > areas[1] else -1


def recurring_terms(names: Iterable[str]) -> dict[str, str]:
    """What files show that words alone tell apart, the same in several folders: stem -> class
    (`a/masks/liver.png`, `b/masks/liver_2.png`); {} unless all are such."""
    bare = {name: re.sub(r"[\W_]*\d+$", "", stem_of(name)) for name in names}
    folders = Counter(word for _, word in {(n.rpartition("/")[0], bare[n]) for n in bare})
    if any(times < 2 or re.search(r"\d|^$", word) for word, times in folders.items()):
        return {}
    return {stem: term_of([stem]) for stem in map(stem_of, bare)}
