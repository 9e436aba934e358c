"""Candidates for the images and the labels of a folder, and what is said where two remain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fcnseg.datasets.description import Found, Pair
from fcnseg.datasets.pairing.likeness import Look, look
from fcnseg.datasets.pairing.listing import Listing, suffix_of
from fcnseg.errors import DatasetError

CHOOSE = "or list the pairs in a CSV, a line each: image,labels[,split]"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to read a folder: images with their labels, listed names.

    image_words, label_words: what tells the two sides apart.
    """

    pairs: tuple[tuple[str, str], ...]
    image_words: tuple[str, ...] = ()
    label_words: tuple[str, ...] = ()

    @cached_property
    def images(self) -> frozenset[str]:
        """The image files."""
        return frozenset(image for image, _ in self.pairs)

    @cached_property
    def labels(self) -> frozenset[str]:
        """The label files."""
        return frozenset(labels for _, labels in self.pairs)

    @property
    def words(self) -> int:
        """How many words tell the sides apart: of two readings the simpler is meant."""
        return len(self.image_words) + len(self.label_words)


class Looks:
    """What files of a folder show, each looked at once."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._seen: dict[str, Look | None] = {}

    def of(self, names: Iterable[str]) -> list[Look]:
        """Of those that can be read."""
        return [one for name in names if (one := self._look(name)) is not None]

    def by_image(self, candidate: Candidate, images: Sequence[str]) -> dict[str, Look]:
        """What a candidate's labels of some images show."""
        labels = dict(candidate.pairs)
        shown = {image: self._look(labels[image]) for image in images if image in labels}
        return {image: one for image, one in shown.items() if one is not None}

    def _look(self, name: str) -> Look | None:
        if name not in self._seen:
            self._seen[name] = look(self.listing.path(name))
        return self._seen[name]


def share(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two sets are mostly the same files."""
    return 2 * len(one & other) > min(len(one), len(other))


def two_images(listing: Listing, rivals: Sequence[Sequence[tuple[str, str]]]) -> DatasetError:
    """The refusal of labels with two images each, as change detection has them."""
    shown = " and ".join(f"{pairs[0][0]} with {pairs[0][1]}" for pairs in rivals[:3])
    files = [image for image, _ in rivals[0]]
    pattern = pattern_for(files, [image for pairs in rivals[1:] for image, _ in pairs])
    return DatasetError(
        f"{listing.root} has two images for each label file ({shown}): labels of a change between "
        "two images are not the labels of one.",
        hint=f'if one set of images is meant, write a dataset.toml: root = "{listing.root}", '
        f'images = "{pattern}"; {CHOOSE}',
    )


def two_label_sets(listing: Listing, rivals: Sequence[Candidate]) -> DatasetError:
    """The refusal of a folder with two sets of labels for the same images."""
    lines = []
    for one in rivals:
        others = [name for other in rivals if other is not one for name in other.labels]
        image, labels = one.pairs[0]
        lines.append(f'labels = "{pattern_for(sorted(one.labels), others)}" ({image}: {labels})')
    return DatasetError(
        f"{listing.root} has {len(rivals)} sets of labels for the same images: {'; '.join(lines)}.",
        hint=f'choose one in a dataset.toml: root = "{listing.root}" and one of these lines; '
        f"{CHOOSE}",
    )


def pattern_for(files: Sequence[str], others: Iterable[str]) -> str:
    """A folder or pattern that means these files and none of the others."""
    others = list(others)
    folder = os.path.commonpath(files) if len(files) > 1 else files[0].rpartition("/")[0]
    if folder and not any(name.startswith(f"{folder}/") for name in others):
        return folder
    named = set.intersection(*({*name.split("/")[:-1]} for name in files))
    taken = {part for name in others for part in name.split("/")[:-1]}
    if named - taken:
        return f"*/{min(named - taken)}/*"
    end = _common([name[::-1] for name in files])[::-1].lstrip("0123456789")
    if not any(name.endswith(end) for name in others):
        return f"*{end}"
    return f"{_common(files).rstrip('0123456789')}*"


def _common(names: Sequence[str]) -> str:
    """What all names begin with."""
    first, last = min(names), max(names)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[:same]


def pair(listing: Listing, image: str, labels: Sequence[tuple[str, str]], layered: bool) -> Pair:
    """A pair of files, with the name that both share."""
    files = tuple((term, listing.path(name)) for term, name in sorted(labels))
    return Pair(
        listing.path(image),
        files[0][1],
        "",
        image[: len(image) - len(suffix_of(image))],
        layers=files if layered else (),
    )


def why(chosen: Sequence[Candidate]) -> str:
    """How the two sides are told apart, in words."""
    image, labels = chosen[0].pairs[0]
    return f"files match one to one and show images and labels: {image} and {labels}"


def leaves(found: Found, listing: Listing) -> bool:
    """Whether enough image files are left over to be another set of labels (or of images)."""
    used = len({pair.labels for pair in found.pairs}) + len(found.pairs)
    twice = used < 2 * len(found.pairs)
    return twice or len(listing.images) - used >= max(2, len(found.pairs) / 4)
