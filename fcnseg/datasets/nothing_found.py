"""What to say of a folder in which no pair of images and labels was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fcnseg.datasets.pairing import Listing, marks, pair_lists
from fcnseg.datasets.pairing.by_words import pair_by_names
from fcnseg.datasets.pairing.candidates import CHOOSE
from fcnseg.errors import DatasetError, counted
from fcnseg.io.images import VIDEO_SUFFIXES

HINT = (
    "fcnseg expects images and label files with the same names, for example "
    "DATA/images/a.jpg and DATA/masks/a.png, or DATA/train/images, DATA/train/masks, "
    f"DATA/val/images ...; {CHOOSE}"
)
"""What a folder should be like."""

_BOXES_HINT = "export the dataset as segmentation (polygons or masks)"

_BOX = marks(b"<bndbox>")

_ANNOTATIONS = (".xml", ".json", ".mat", ".txt", ".csv", ".h5", ".hdf5", ".parquet", ".tfrecord")
"""Suffixes that annotations have, of formats that are read and of others."""


def unreadable(problems: Mapping[int, str]) -> DatasetError:
    """The DatasetError for labels of which no file can be read, with the first reason."""
    said = problems[min(problems)]
    return DatasetError(f"No label file could be read. The first: {said}", hint=HINT)


def nothing_found(root: Path, listing: Listing) -> DatasetError:
    """The DatasetError for a folder without a pair: what is there, and what is expected."""
    images = listing.images
    if not listing.files:
        return DatasetError(f"{root} is empty.", hint=HINT)
    pair_lists.refuse_missing(listing)
    if not images:
        videos = sum(Path(name).suffix.lower() in VIDEO_SUFFIXES for name in listing.files)
        seen = f"{counted(len(listing), 'file')}" + (f", {videos} of them videos" if videos else "")
        return DatasetError(f"{root} has no images ({seen}).", hint=HINT)
    found = pair_by_names(listing)
    alone, labels = len(found.orphan_images), len(found.orphan_labels)
    if not labels:
        other, hint = _about_other_files(listing)
        return DatasetError(f"{root} has {alone} images but no labels{other}.", hint=hint)
    example = (found.orphan_images + found.orphan_labels)[0].name
    return DatasetError(
        f"{root} has {alone} images and {labels} label files, but no names that match "
        f"(for example {example}).",
        hint=HINT,
    )


def _about_other_files(listing: Listing) -> tuple[str, str]:
    """What stands beside the images that may be meant for labels, and the hint for it."""
    boxes = listing.saying(_BOX, ".xml")
    if boxes:
        said = f"{boxes[0]} and its like hold boxes, which do not say what pixels belong to a thing"
        return f": {said}", _BOXES_HINT
    for suffix in _ANNOTATIONS:
        files = listing.with_suffix(suffix)
        if files:
            seen = counted(len(files), f"{suffix} file")
            return f" that can be read; {seen} (first: {files[0]}) may be annotations", HINT
    return "", HINT
