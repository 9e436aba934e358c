"""Pair files by common words and numbers in their paths, whatever the words mean."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fcnseg.datasets import Pairing, SplitName
from fcnseg.datasets.pairing import (
    OTHER_WORDS,
    SPLIT_WORDS,
    Listing,
    one_split,
    stem_of,
    suffix_of,
    without_suffix,
)
from fcnseg.errors import DatasetError

_COLOR = {"color", "colors", "colour", "colours", "colored", "coloured"}

SECONDARY = OTHER_WORDS | _COLOR | {
    "watershed", "trimap", "trimaps",
    "fov", "roi", "preview", "previews", "vis", "visualization", "viz", "blend", "blended",
    "contour", "contours", "boundary", "boundaries", "edge", "edges", "skeleton", "prediction",
    "predictions", "pred", "preds", "weight", "weights", "weightmap", "weightmaps", "prob", "probs",
    "probability", "probabilities", "heatmap", "heatmaps", "distance", "distances",
    "visibility", "reversed", "mirrored", "flipped",
}  # fmt: skip
"""Words in names of secondary label files, beside the actual labels."""

DERIVED = (SECONDARY - _COLOR) | {
    "ir", "nir", "infrared", "thermal", "tir", "lwir", "swir", "pan", "sar", "dsm", "dem", "ndvi",
    "clahe", "enhanced", "processed", "preprocessed", "denoised", "equalized", "equalised",
    "normalized", "normalised", "augmented", "aug", "blurred", "resized", "gray", "grey",
    "grayscale", "thumb", "thumbs", "thumbnail", "thumbnails", "downsampled", "upsampled",
}  # fmt: skip
"""Words in names of derived images, beside the photographs: other sensors, and copies."""

CHUNK = re.compile(r"[^\W_]+")

RUN = re.compile(r"\d+|[^\W\d_]+")

CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])(?!(?<=[Tt]rain)Ids?)")
"""`labelTrainIds` is split into label and trainids, as this "train" is not a split."""

RECURS = 50
"""A word must occur in at least one of this many files to distinguish sides."""

NUMBER_RECURS = 6
"""A number, or a word with a number (`manual1`, `v2`), must occur in more than one of this many
files: in six sets of six files, the number of an image occurs in exactly one of six."""

GROUP = 40
"""Maximum number of files of one group that are compared with all others in it."""

MOST = 48
"""Maximum number of differences that are considered."""

Words = tuple[str, ...]
"""Sorted, with repetitions."""


@dataclass(frozen=True)
class Difference:
    """The difference of two sides: words (with repetitions) that only one of them has."""

    first: Words
    second: Words

    def swapped(self) -> Difference:
        """The same with the sides exchanged."""
        return Difference(self.second, self.first)


@dataclass(frozen=True, slots=True)
class _Name:
    """A parsed path: recurring words, the parts that identify the image, and the split.

    numbers: all numbers in order, including those among the words.
    """

    words: Words
    identity: tuple[str | int, ...]
    split: SplitName
    numbers: tuple[int, ...]


class Names:
    """The parsed paths of a folder's files; recurring words are found among all of them."""

    def __init__(
        self, files: Sequence[str], *, suffixes: bool = False, shards: bool = False
    ) -> None:
        """suffixes: whether file suffixes count as words (a.tif and a.png in one folder).
        shards: whether to ignore folders named by a number (0/00001.png, as thousands of files
        are distributed) or like the beginning of the files' names.
        """
        self.files = tuple(files)
        chunks = {name: _chunks(_without_shards(name) if shards else name) for name in files}
        recurring = _recurring(chunks.values())
        self._names = {
            name: _parse_chunks(parts, recurring, suffix_of(name) if suffixes else "")
            for name, parts in chunks.items()
        }

    @cached_property
    def _by_all(self) -> dict[tuple[tuple[str | int, ...], Words], list[str]]:
        groups: dict[tuple[tuple[str | int, ...], Words], list[str]] = defaultdict(list)
        for name in self.files:
            groups[self._names[name].identity, self._names[name].words].append(name)
        return groups

    def differences(self) -> list[Difference]:
        """Differences between files of one image, most frequent first, in one direction."""
        groups: dict[tuple[str | int, ...], list[str]] = defaultdict(list)
        for name in self.files:
            groups[self._names[name].identity].append(name)
        counts: Counter[Difference] = Counter()
        for group in groups.values():
            for first, second in _pair_by_number(group):
                one, other = self._names[first], self._names[second]
                if one.words != other.words and _agree(one.split, other.split):
                    counts[_difference(one.words, other.words)] += 1
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0].first, item[0].second))
        return [difference for difference, count in ordered[:MOST] if count > 1]

    def matches(self, difference: Difference) -> list[tuple[str, str]]:
        """The files of the first side with a unique partner on the second."""
        taken = Counter(difference.first)
        added = Counter(difference.second)
        found = []
        for name in self.files:
            own = self._names[name]
            words = Counter(own.words)
            if taken - words:
                continue
            wanted = tuple(sorted((words - taken + added).elements()))
            partners = [
                other
                for other in self._by_all.get((own.identity, wanted), ())
                if _agree(own.split, self._names[other].split)
            ]
            if len(partners) > 1:
                partners = self._nearest(name, partners)
            if len(partners) == 1:
                found.append((name, partners[0]))
        used = Counter(partner for _, partner in found)
        return [(name, partner) for name, partner in found if used[partner] == 1]

    def _nearest(self, name: str, partners: Sequence[str]) -> list[str]:
        """Among files with the same words, those of the same split, then those of the same name,
        or else with numbers in the same order (`0/1.jpg` does not match `1/0.jpg`)."""
        own = self._names[name]
        same = [other for other in partners if self._names[other].split == own.split]
        left = same or partners
        left = [other for other in left if stem_of(other) == stem_of(name)] or left
        return [
            other
            for other in left
            if _in_order(own.numbers, self._names[other].numbers)
            or _in_order(self._names[other].numbers, own.numbers)
        ]


def partners_of(listing: Listing, files: Sequence[str]) -> dict[str, str]:
    """The image of each of these files, if all names differ in the same words
    (`RGB_tile_1.tif`, `buildings_tile_1.geojson`); {} if it is ambiguous.

    DERIVED images are used if there are no others.
    """
    names = Names((*listing.images, *files))
    wanted = {*files}
    ways = []
    for one in names.differences():
        for way in (one, one.swapped()):
            pairs = {b: a for a, b in names.matches(way) if b in wanted and a not in wanted}
            derived = "rgb" not in way.first and not DERIVED.isdisjoint(way.first)
            ways.append(((len(pairs), not derived, -len(way.first + way.second)), pairs))
    best = max((rank for rank, _ in ways), default=(0,))
    first, *others = [pairs for rank, pairs in ways if rank == best] or [{}]
    return {} if others else first


def _without_shards(name: str) -> str:
    """A path without shard folders, see `_is_shard`."""
    *folders, file = name.split("/")
    return "/".join((*(folder for folder in folders if not _is_shard(folder, file)), file))


def are_sharded(files: Iterable[str]) -> bool:
    """Whether any file is in a shard folder, see `_is_shard`."""
    return any(
        _is_shard(folder, file)
        for *folders, file in (name.split("/") for name in files)
        for folder in folders
    )


def _is_shard(folder: str, file: str) -> bool:
    """Whether a folder is a number, or the beginning of the file's name (`creek/creek_1.png`)."""
    return folder.isdecimal() or (
        file.startswith(folder) and not file[len(folder) : len(folder) + 1].isalpha()
    )


def _in_order(some: Sequence[int], more: Sequence[int]) -> bool:
    """Whether `some` is a subsequence of `more`."""
    rest = iter(more)
    return all(number in rest for number in some)


def _chunks(name: str) -> list[str]:
    """Alphanumeric runs in a path without its suffix, numbers without padding; runs with a split
    among other parts (train13labels) are divided into letters and digits."""
    parts = []
    for part in CHUNK.findall(CAMEL.sub("_", without_suffix(name))):
        runs = RUN.findall(part.lower())
        apart = len(runs) > 2 and not SPLIT_WORDS.keys().isdisjoint(runs)
        parts += runs if apart else [part.lower()]
    return [str(int(part)) if part.isdecimal() else part for part in parts]


def _recurring(paths: Iterable[Sequence[str]]) -> frozenset[str]:
    """Words that occur in many paths, and numbers (or mixtures) that occur in very many.

    A number within a recurring mixture (`v2`) is not counted separately.
    """
    paths = list(paths)
    whole = Counter(chunk for chunks in paths for chunk in {*chunks})
    known = _many(whole, len(paths))
    parts = Counter(
        run
        for chunks in paths
        for run in {run for c in chunks if c not in known or c.isalpha() for run in RUN.findall(c)}
    )
    return known | _many(parts, len(paths))


def _many(counts: Counter[str], total: int) -> frozenset[str]:
    return frozenset(
        word
        for word, count in counts.items()
        if count > 1
        and (
            count * NUMBER_RECURS > total
            if any(map(str.isdecimal, word))
            else count * RECURS >= total
        )
    )


def _parse_chunks(chunks: Sequence[str], recurring: frozenset[str], suffix: str) -> _Name:
    words: list[str] = [suffix] if suffix else []
    identity: list[str | int] = []
    splits: list[SplitName] = []
    for chunk in chunks:
        for run in [chunk] if chunk in recurring else RUN.findall(chunk):
            if run in SPLIT_WORDS:
                splits.append(SPLIT_WORDS[run])
            elif run in recurring:
                words.append(run)
            else:
                identity.append(int(run) if run.isdecimal() else run)
    numbers = (int(run) for chunk in chunks for run in RUN.findall(chunk) if run.isdecimal())
    named = splits[:1] if splits[:1] == ["val"] else splits  # val/a_train_id.png is val
    return _Name(tuple(sorted(words)), tuple(identity), one_split(named), tuple(numbers))


def _pair_by_number(group: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, first in enumerate(group[:GROUP]):
        for second in group[place + 1 :]:
            yield first, second


def _difference(first: Words, second: Words) -> Difference:
    one, other = Counter(first), Counter(second)
    sides = (tuple(sorted(part.elements())) for part in (one - other, other - one))
    return Difference(*sorted(sides))


def _agree(one: SplitName, other: SplitName) -> bool:
    return not one or not other or one == other


def refuse_shifted(listing: Listing, found: Pairing) -> None:
    """DatasetError if the images' numbers start at another value than the labels' (1..9 and 0..8,
    or 10, 20 ... 90 and 0, 10 ... 80).

    Then files of the same number may not belong together, which only the images show.
    """
    alone = (*found.orphan_images, *found.orphan_labels)
    if found.label_format != "pixels" or not 2 <= len(alone) <= max(2, len(found.pairs) // 4):
        return
    if any(_number(pair.image) != _number(pair.labels) for pair in found.pairs):
        return
    sides = {pair.image.parent for pair in found.pairs}, {p.labels.parent for p in found.pairs}
    if sides[0] & sides[1] or len(sides[0]) > 1 or len(sides[1]) > 1:
        return
    left = [[path for path in alone if path.parent in side] for side in sides]
    images, labels = (
        sorted(_number(path) for path in (*(pair.image for pair in found.pairs), *some))
        for some in left
    )
    if (
        len(images) == len(labels)
        and images != labels
        and all(
            side[0] >= 0 and side == [*range(side[0], side[-1] + 1, max(1, side[1] - side[0]))]
            for side in (images, labels)
        )
    ):
        raise _shifted(listing, found, images, labels, [*left[0], *left[1]])


def _shifted(
    listing: Listing, found: Pairing, images: list[int], labels: list[int], alone: Sequence[Path]
) -> DatasetError:
    first = found.pairs[0]
    files = [str(path.relative_to(listing.root)) for path in alone]
    return DatasetError(
        f"{listing.root}: the images are numbered {images[0]} to {images[-1]}, the label files "
        f"{labels[0]} to {labels[-1]}. Do files with the same number belong together "
        f"({len(found.pairs)} pairs, {len(files)} files left over) or those in the same place "
        f"({len(images)} pairs)?",
        hint=f"the same number: remove {' and '.join(files[:4])}, or write a dataset.toml: root = "
        f'"{listing.root}", images = "{first.image.parent.relative_to(listing.root).as_posix()}"; '
        "the same place: list the pairs in a CSV, a line each: image,labels[,split]",
    )


def _number(path: Path) -> int:
    """The last number in a file's stem; -1 when there is none."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else -1


_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def words_in(name: str) -> list[str]:
    """The words of a name, in lower case: test, set for TestSet_2."""
    return re.findall(r"[^\W\d_]+", _CAMEL.sub("_", name).lower())
