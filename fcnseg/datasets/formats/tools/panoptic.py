"""COCO panoptic: a JSON, and PNGs whose colours are the segments' ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.datasets.description import Found, Pair
from fcnseg.datasets.formats.gathered import Gathered, head_says
from fcnseg.datasets.formats.polygons import read_json
from fcnseg.datasets.formats.tools.base import Format, refuse_broken
from fcnseg.datasets.pairing.by_words import place_of
from fcnseg.datasets.pairing.listing import Listing, stem_of
from fcnseg.errors import MediaError
from fcnseg.io.labels import RawLabels, read_raw_labels

_HEAD = (b'"segments_info"',)


def _find(listing: Listing) -> Found | None:
    files = [n for n in listing.with_suffix(".json") if head_says(listing.path(n), _HEAD)]
    if not files:
        return None
    gathered = Gathered(listing)
    names: dict[str, None] = {}  # an ordered set
    pngs: dict[str, list[str]] = {}
    for name in listing.images:
        pngs.setdefault(name.rpartition("/")[2], []).append(name)
    for file in files:
        path = listing.path(file)
        try:
            images, segments, categories = _document(path, path.stat().st_mtime_ns)
        except MediaError as error:
            gathered.broken.append((path, error.message))
            continue
        names.update(dict.fromkeys(categories[key] for key in sorted(categories)))
        stem = stem_of(file).lower()
        for part, (answer, _) in segments.items():
            # Where the image is a PNG of the same name, the answer lies in a panoptic folder.
            pool = [n for n in pngs.get(answer, ()) if "panoptic" in n.lower() or stem in n.lower()]
            pool = pool or pngs.get(answer, [])
            at = _image(gathered, images.get(part, ""), file, pool)
            if at is None or not pool:
                gathered.note_missing(path, answer if at else images.get(part, part), 1)
                continue
            labels = next((n for n in pool if stem in n.lower()), pool[0])
            place = place_of(at)
            split = place.split or place_of(file).split or place_of(labels).split
            name = "/".join((*place.rest, stem_of(at)))
            layers = (("", listing.path(labels)), ("", path))
            gathered.pairs.append(Pair(listing.path(at), path, split, name, part, layers))
    refuse_broken(gathered)
    found = gathered.found("panoptic", tuple(names), f"{files[0]} is COCO's panoptic format")
    used = {file for pair in found.pairs for _, file in pair.layers}
    alone = tuple(path for path in found.orphan_images if path not in used)
    return Found(**{**vars(found), "orphan_images": alone}) if found.pairs else None


def _image(gathered: Gathered, wanted: str, file: str, answers: Sequence[str]) -> str | None:
    """The image file of an entry, which is none of the answers."""
    at = gathered.find_image(wanted, file)
    if at not in answers:
        return at
    base = wanted.rpartition("/")[2].lower()
    others = [n for p, n in gathered.by_path.items() if p.rpartition("/")[2] == base]
    return next((name for name in others if name not in answers), None)


def _read(pair: Pair, terms: Sequence[str]) -> RawLabels:
    """The numbers of the segments' categories, from 1; 0 where there is none."""
    png, file = (path for _, path in pair.layers)
    _, segments, categories = _document(file, file.stat().st_mtime_ns)
    values = read_raw_labels(png).values.astype(np.int64)
    ids = values if values.ndim == 2 else values @ np.array([1, 256, 65536])
    labels = np.zeros(ids.shape, np.int32)
    found, inverse = np.unique(ids, return_inverse=True)
    number_of = {
        segment: terms.index(categories[category]) + 1
        for segment, category in segments[pair.part][1].items()
        if categories.get(category) in terms
    }
    labels = np.array([number_of.get(value, 0) for value in found.tolist()], np.int32)[inverse]
    return RawLabels(labels.reshape(ids.shape), None, "I")


@lru_cache(maxsize=4)
def _document(
    path: Path, changed: int
) -> tuple[dict[str, str], dict[str, tuple[str, dict[int, Any]]], dict[Any, str]]:
    """Image id -> file; image id -> (PNG, segment -> category); category -> name."""
    del changed  # a part of the cache's key
    data = read_json(path)
    try:
        images = {str(image["id"]): str(image["file_name"]) for image in data["images"]}
        segments = {
            str(one["image_id"]): (
                str(one["file_name"]).rpartition("/")[2],
                {int(part["id"]): part["category_id"] for part in one["segments_info"]},
            )
            for one in data["annotations"]
        }
        return images, segments, {one["id"]: str(one["name"]) for one in data["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise MediaError(f"{path} is no panoptic file: {said}.") from None


FORMAT = Format(_find, _read)
