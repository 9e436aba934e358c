"""Which pairs are for training, validation and test, where the folder does not say."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.data.description import SPLITS, Description, Pair
from fcnseg.text import to_bytes


@dataclass(frozen=True)
class Provenance:
    """What a model was trained on, as its checkpoint remembers it.

    root, images: digests of the folder's path (which is nobody else's business), and of the
    training images' names and sizes, by which the same dataset is known elsewhere.
    """

    root: str
    images: str

    @classmethod
    def of(cls, description: Description) -> Provenance:
        """Of the training pairs of a dataset."""
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
        except (KeyError, TypeError):
            return None


VAL_SHARE = 0.2
"""The part of the pairs held out for validation when the folder has none."""


def lacks_val(pairs: Sequence[Pair]) -> bool:
    """Whether a val part has to be drawn: something to train on, nothing held out."""
    parts = {pair.split or "train" for pair in pairs}
    return "train" in parts and "val" not in parts


def sort_pairs(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Pairs by split and name; those without a split are for training."""
    named = [pair if pair.split else replace(pair, split="train") for pair in pairs]
    return tuple(sorted(named, key=lambda pair: (SPLITS.index(pair.split), pair.name)))


def hold_out(pairs: Sequence[Pair], chosen: frozenset[int]) -> tuple[Pair, ...]:
    """Pairs with those of these numbers in val, sorted again."""
    moved = [
        replace(pair, split="val") if index in chosen else pair for index, pair in enumerate(pairs)
    ]
    return sort_pairs(moved)


def draw_val(
    names: Sequence[str], groups: NDArray[np.int64], present: NDArray[np.bool_]
) -> frozenset[int]:
    """The numbers of about a fifth of the pairs, the same for the same names and content.

    groups: (N,), pairs of one group stay together. present: (N, K), which classes a pair has:
    each class is shared out like the whole (Sechidis et al., On the stratification of
    multi-label data, ECML 2011: the rarest class first, to the part that needs it most).
    """
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(index)
    if len(members) < 2:
        return frozenset()
    ordered = sorted(
        members.values(), key=lambda some: (-len(some), _draw(min(names[i] for i in some)))
    )
    whole = np.hstack([present, np.ones((len(names), 1), np.bool_)])  # the last column: any pair
    counts = np.array([whole[some].sum(0) for some in ordered], np.float64)  # (groups, K + 1)
    in_val = _share_out(counts)
    if in_val.all() or not in_val.any():
        sizes = counts[:, -1]
        in_val = np.zeros(len(ordered), np.bool_)
        in_val[np.abs(sizes - VAL_SHARE * sizes.sum()).argmin()] = True
    return frozenset(i for some, val in zip(ordered, in_val, strict=True) if val for i in some)


def _share_out(counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which groups go to val. counts: (groups, columns), how often each has each class."""
    needed = np.stack([(1 - VAL_SHARE) * counts.sum(0), VAL_SHARE * counts.sum(0)])  # train, val
    open_ = np.ones(len(counts), np.bool_)
    in_val = np.zeros(len(counts), np.bool_)
    while open_.any():
        left = counts[open_].sum(0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        for group in np.flatnonzero(open_ & (counts[:, rarest] > 0)):
            gain = needed[1, rarest] - needed[0, rarest] or needed[1, -1] - needed[0, -1]
            side = int(gain > 0)
            needed[side] -= counts[group]
            in_val[group] = bool(side)
            open_[group] = False
    return in_val


def _draw(name: str) -> bytes:
    """A number for a name that looks random and is always the same."""
    return hashlib.blake2b(to_bytes(name), digest_size=8).digest()
