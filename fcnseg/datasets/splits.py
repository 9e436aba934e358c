"""The splits of a folder and random ones; find videos and copies, which must not be divided."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import SPLITS, Description, Pair, SplitName
from fcnseg.errors import PARSE_ERRORS, to_bytes

if TYPE_CHECKING:
    from fcnseg.datasets.scan import ImageScan


@dataclass(frozen=True)
class Provenance:
    """The training data of a model, as stored in its checkpoint.

    root: digest of the folder's path, which is private. images: digest of the training images'
    names and sizes, which identifies the same dataset elsewhere.
    """

    root: str
    images: str

    @classmethod
    def of(cls, description: Description) -> Provenance:
        """The provenance of a dataset's training pairs."""
        digest = hashlib.blake2b(digest_size=16)
        for pair in description.pairs:
            if pair.split == "train":
                size = pair.image.stat().st_size if pair.image.is_file() else -1
                digest.update(f"{pair.name}\n{size}\n".encode("utf-8", "surrogateescape"))
        root = hashlib.blake2b(os.fsencode(description.root.resolve()), digest_size=16)
        return cls(root.hexdigest(), digest.hexdigest())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Provenance | None:
        """The inverse of vars(); None for data of another form."""
        try:
            return None if data is None else cls(str(data["root"]), str(data["images"]))
        except PARSE_ERRORS:
            return None


VAL_FRACTION = 0.2
"""Proportion of the pairs held out for validation if the folder has no validation split."""


def lacks_val(pairs: Sequence[Pair]) -> bool:
    """Whether a validation split is needed: there are training pairs, but none for validation."""
    parts = {pair.split or "train" for pair in pairs}
    return "train" in parts and "val" not in parts


def sort_pairs(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Pairs sorted by split and name; those without a split are for training."""
    named = [pair if pair.split else replace(pair, split="train") for pair in pairs]
    return tuple(sorted(named, key=lambda pair: (SPLITS.index(pair.split), pair.name)))


def own_parts(description: Description) -> list[SplitName]:
    """The split of each pair as defined by the folder; if it defines none, those in use."""
    pairs = description.found.pairs
    if not any(pair.split for pair in pairs):
        return [pair.split for pair in description.pairs]
    own = {_files(pair): pair.split for pair in sort_pairs(pairs)}
    return [own[_files(pair)] for pair in description.pairs]


def _files(pair: Pair) -> tuple[str, str, str]:
    """A key that identifies a pair; str is hashed much faster than Path."""
    return str(pair.image), str(pair.labels), pair.part


def draw_val(
    names: Sequence[str], groups: NDArray[np.int64], present: NDArray[np.bool_]
) -> frozenset[int]:
    """The indices of about a fifth of the pairs; deterministic for the same names and content.

    groups: (N,), pairs of a group stay together. present: (N, K), classes of each pair, for
    iterative stratification (Sechidis et al., On the stratification of multi-label data, ECML
    2011: the rarest class first, to the split that needs it most).
    """
    ordered, counts = _in_groups(names, groups, present, "")
    if len(ordered) < 2:
        return frozenset()
    in_val = _assign(counts, (1 - VAL_FRACTION, VAL_FRACTION)) == 1
    if in_val.all() or not in_val.any():
        sizes = counts[:, -1]
        in_val = np.zeros(len(ordered), np.bool_)
        in_val[np.abs(sizes - VAL_FRACTION * sizes.sum()).argmin()] = True
    return frozenset(i for some, val in zip(ordered, in_val, strict=True) if val for i in some)


def draw_folds(
    names: Sequence[str],
    groups: NDArray[np.int64],
    present: NDArray[np.bool_],
    folds: int,
    seed: int,
) -> NDArray[np.int64]:
    """int64 (N,): the fold of each pair, from 0; no fold is empty. groups, present: see draw_val.

    Deterministic for the same names, content and seed. Needs at least as many groups as folds.
    """
    ordered, counts = _in_groups(names, groups, present, f"{seed}/")
    assert len(ordered) >= folds, "the caller checks this"
    assigned = _assign(counts, (1 / folds,) * folds)
    if len(np.unique(assigned)) < folds:  # few groups, or very different sizes: balance sizes only
        sizes = np.zeros(folds)
        for group, count in enumerate(counts[:, -1]):  # the largest first
            assigned[group] = sizes.argmin()
            sizes[assigned[group]] += count
    found = np.zeros(len(names), np.int64)
    for some, fold in zip(ordered, assigned, strict=True):
        found[some] = fold
    return found


def _in_groups(
    names: Sequence[str], groups: NDArray[np.int64], present: NDArray[np.bool_], salt: str
) -> tuple[list[list[int]], NDArray[np.float64]]:
    """The members of each group, largest first, ties in a pseudorandom order.

    Also the pairs with each class per group, float (groups, K + 1); the last column counts all.
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(index)
    ordered = sorted(
        members.values(), key=lambda some: (-len(some), _draw(salt + min(names[i] for i in some)))
    )
    with_count = np.hstack([present, np.ones((len(names), 1), np.bool_)])
    return ordered, np.array([with_count[some].sum(0) for some in ordered], np.float64)


def _assign(counts: NDArray[np.float64], fractions: Sequence[float]) -> NDArray[np.int64]:
    """Assign each group to a part. counts: (groups, columns), pairs with each class.

    fractions: size of each part, as a fraction of all pairs.
    """
    total = counts.sum(0)
    needed = np.stack([fraction * total for fraction in fractions])  # (parts, columns)
    open_ = np.ones(len(counts), np.bool_)
    parts = np.zeros(len(counts), np.int64)
    while open_.any():
        left = counts[open_].sum(0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        for group in np.flatnonzero(open_ & (counts[:, rarest] > 0)):
            part = max(range(len(needed)), key=lambda one: (*needed[one, [rarest, -1]],))
            needed[part] -= counts[group]
            parts[group] = part
            open_[group] = False
    return parts


def _draw(name: str) -> bytes:
    """A pseudorandom sort key for a name."""
    return hashlib.blake2b(to_bytes(name), digest_size=8).digest()


FEW_BITS = 4
"""Maximum Hamming distance of the 64-bit fingerprints of similar images."""

FEW_LEVELS = 8.0
"""Maximum mean difference of their thumbnails, in gray levels."""

VIDEO_RATIO = 0.6
"""Numbered images are a video if consecutive ones differ by less than this fraction of the
difference of distant ones. Measured: CamVid's drives 0.05 to 0.45, road cracks 0.8, unrelated
images 1."""

FEWEST_FRAMES = 8

_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))  # (shift, bits): one more than FEW_BITS

MOST_COMPARED = 512
"""Maximum comparisons per image among those with a common band, such as blank images."""


@dataclass(frozen=True)
class Video:
    """Consecutive images whose names differ only in a frame number.

    name: the common part of their names. members: pair indices, by frame.
    numbers: the frame numbers, ascending.
    """

    name: str
    members: tuple[int, ...]
    numbers: tuple[int, ...]


def find_videos(pairs: Sequence[Pair], image_scan: ImageScan) -> tuple[Video, ...]:
    """Find the videos among the pairs, across splits."""
    series: dict[str, list[tuple[int, int]]] = {}
    for index, pair in enumerate(pairs):
        match = re.match(r"^(.*?)(\d+)$", pair.name)
        if match and len(match[2]) < 18:
            first, slash, rest = match[1].partition("/")
            name = rest if slash and first in SPLITS else match[1]
            series.setdefault(name, []).append((int(match[2]), index))
    videos = []
    for name, entries in series.items():
        entries.sort()
        members = [index for _, index in entries]
        if len(entries) >= FEWEST_FRAMES and _is_video(image_scan.thumbnails[members]):
            videos.append(Video(name, tuple(members), tuple(number for number, _ in entries)))
    return tuple(videos)


def _is_video(thumbnails: NDArray[np.uint8]) -> bool:
    """Whether consecutive images are much more similar than images half the series apart."""
    centered = thumbnails.astype(np.float32)
    centered -= centered.mean(1, keepdims=True)
    near = np.abs(centered[1:] - centered[:-1]).mean(1)
    far = np.abs(centered - np.roll(centered, len(centered) // 2, 0)).mean(1)
    return bool(np.median(near) < VIDEO_RATIO * np.median(far))


def find_copies(image_scan: ImageScan) -> list[tuple[int, ...]]:
    """Groups of pairs with identical image files."""
    seen: dict[tuple[int, int], list[int]] = {}
    keys = zip(image_scan.digests.tolist(), image_scan.fingerprints.tolist(), strict=True)
    for index, key in enumerate(keys):
        if index not in image_scan.problems:
            seen.setdefault(key, []).append(index)
    return [tuple(group) for group in seen.values() if len(group) > 1]


def find_similar(image_scan: ImageScan) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of similar images, including identical files.

    Fingerprints that differ in at most FEW_BITS bits agree in at least one of the _BANDS, so only
    images that agree in a band are compared, each with the next MOST_COMPARED.
    """
    count = len(image_scan.digests)
    good = np.array([i for i in range(count) if i not in image_scan.problems], np.int64)
    found = np.zeros(0, np.int64)  # count * i + j; a set of tuples needs ten times the memory
    for shift, bits in _BANDS:
        band = (image_scan.fingerprints[good] >> np.uint64(shift)) & np.uint64(2**bits - 1)
        order = np.lexsort((image_scan.fingerprints[good], band))
        ranked, band = good[order], band[order]
        keys = [found]
        for step in range(1, min(len(good), MOST_COMPARED)):
            here = np.flatnonzero(band[step:] == band[:-step])
            if not len(here):
                break
            first, second = _similar(ranked[here], ranked[here + step], image_scan)
            keys.append(count * first + second)
        found = np.unique(np.concatenate(keys))
    return [*zip((found // count).tolist(), (found % count).tolist(), strict=True)]


def _similar(
    one: NDArray[np.int64], other: NDArray[np.int64], image_scan: ImageScan
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The similar ones among pairs (one[i], other[i]), smaller index first."""
    differing = _ones(image_scan.fingerprints[one] ^ image_scan.fingerprints[other])
    one, other = one[differing <= FEW_BITS], other[differing <= FEW_BITS]
    apart = image_scan.thumbnails[one].astype(np.int16) - image_scan.thumbnails[other]
    near = np.abs(apart).mean(1) <= FEW_LEVELS
    return np.minimum(one, other)[near], np.maximum(one, other)[near]


def _ones(bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The number of set bits of each element."""
    octets = bits[..., None].view(np.uint8)
    return np.asarray(_ONES[octets].sum(-1), np.uint8)


_ONES = np.array([bin(octet).count("1") for octet in range(256)], np.uint8)


def group_numbers(
    count: int, videos: Sequence[Video], alike: Sequence[tuple[int, int]], longest: int
) -> NDArray[np.int64]:
    """int64 (count,): group numbers; pairs of a group must stay in one split.

    A video with more than `longest` frames is divided into segments of that length.
    """
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    cut: set[int] = set()
    for video in videos:
        together = len(video.members) <= longest
        cut.update(() if together else video.members)
        for place, (one, other) in enumerate(zip(video.members, video.members[1:], strict=False)):
            if together or (place + 1) % longest:
                parent[root(other)] = root(one)
    for one, other in alike:
        if one not in cut or other not in cut:  # adjacent frames of a divided video are similar
            parent[root(other)] = root(one)
    return np.array([root(index) for index in range(count)], np.int64)
