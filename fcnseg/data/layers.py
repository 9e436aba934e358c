"""Folders with a label file for each class: masks/road/a.png, masks/a/road.png, a/masks/*.png."""

from __future__ import annotations

from collections.abc import Sequence

from fcnseg.data.description import Found, Pair
from fcnseg.data.folders import bare_stem, name_uniquely, place_of, split_roles
from fcnseg.data.listing import Listing, stem_of

ONE_CLASS = "object"
"""What the things of a folder with one file for each thing are called."""

Layer = tuple[str, str]
"""A class name and a listed file."""


def find_layers(listing: Listing) -> Found | None:
    """One folder (or file) for each class, or one file for each thing of a single class."""
    images, labels = split_roles(listing.images)
    if not labels:
        return None
    by_image: dict[str, list[Layer]] = {}
    keys = {(*place_of(name).key, bare_stem(stem_of(name))): name for name in reversed(images)}
    alone: dict[tuple[str, str], list[str]] = {}
    for name in images:
        alone.setdefault(place_of(name).key, []).append(name)
    left = []
    for name in labels:
        owner = _owner(name, keys, alone)
        if owner is None:
            left.append(name)
        else:
            by_image.setdefault(owner[0], []).append((owner[1], name))
    if not by_image:
        return None
    terms = tuple(sorted({term for layers in by_image.values() for term, _ in layers}))
    pairs = [_pair(listing, name, layers) for name, layers in by_image.items()]
    return Found(
        "layers",
        name_uniquely(pairs),
        store="layers",
        terms=terms,
        orphan_images=tuple(listing.path(n) for n in images if n not in by_image),
        orphan_labels=tuple(listing.path(name) for name in left),
        why=(f"each class has label files of its own: {', '.join(terms[:8])}",),
    )


def _owner(
    name: str,
    keys: dict[tuple[str, str, str], str],
    alone: dict[tuple[str, str], list[str]],
) -> tuple[str, str] | None:
    """The image a label file belongs to, and the class it shows."""
    place, stem = place_of(name), stem_of(name)
    if place.rest:
        outer = place.split, "/".join(place.rest[:-1]).lower()
        own = keys.get((*outer, bare_stem(stem)))
        if own is not None:  # masks/road/a.png
            return own, place.rest[-1]
        folder = keys.get((*outer, bare_stem(place.rest[-1])))
        if folder is not None:  # masks/a/road.png
            return folder, stem
        single = alone.get(place.key, [])
        if len(single) == 1:  # a/images/a.png, a/masks/1.png, a/masks/2.png
            return single[0], ONE_CLASS
    return None


def _pair(listing: Listing, image: str, layers: Sequence[Layer]) -> Pair:
    place = place_of(image)
    ordered = sorted(layers)
    return Pair(
        image=listing.path(image),
        labels=listing.path(ordered[0][1]),
        split=place.split,
        name="/".join((*place.rest, stem_of(image))),
        layers=tuple((term, listing.path(file)) for term, file in ordered),
    )
