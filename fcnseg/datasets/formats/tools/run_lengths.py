"""Kaggle's run lengths: a CSV with an image's id and "start length start length ..." a row."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from fcnseg.datasets.formats.tools.base import Annotated, Area, Document, outlined
from fcnseg.datasets.pairing.listing import Listing

_IMAGES = ("imageid", "image_id", "image", "img", "id", "filename", "file_name", "image_label",
           "imageid_classid")  # fmt: skip


_RUNS = ("encodedpixels", "encoded_pixels", "rle_mask", "rle", "segmentation", "annotation", "mask")


_CLASSES = ("classid", "class_id", "class", "label", "category", "cell_type")


_ONE_CLASS = "object"


def _files(listing: Listing) -> list[str]:
    return [name for name in listing.with_suffix(".csv") if _columns(listing.path(name))]


def _columns(path: Path) -> tuple[str, str, str] | None:
    """The names of the columns with the image, the runs and the class ("": none)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    by_word = {cell.strip().lower(): cell for cell in head}
    found = [
        next((by_word[word] for word in words if word in by_word), "")
        for words in (_IMAGES, _RUNS, _CLASSES)
    ]
    return (found[0], found[1], found[2]) if found[0] and found[1] else None


def _parse(path: Path) -> Document:
    columns = _columns(path)
    if columns is None:
        raise ValueError("no columns of images and run lengths")
    image_column, runs_column, class_column = columns
    fused = image_column.lower() in ("image_label", "imageid_classid")  # "a.jpg_Fish"
    areas: dict[str, list[Area]] = {}
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            image, _, name = row[image_column].rpartition("_") if fused else (
                row[image_column], "", row[class_column] if class_column else _ONE_CLASS
            )  # fmt: skip
            some = areas.setdefault(image, [])
            runs = [int(part) for part in (row[runs_column] or "").split()]
            if len(runs) >= 2:  # nothing, or -1: an image without anything
                if len(runs) % 2:
                    raise ValueError(f"{image}: an odd number of starts and lengths")
                some.append(Area(name or _ONE_CLASS, runs=runs))
    return Document({image: Annotated(image, None, some) for image, some in areas.items()})


FORMAT = outlined("run-lengths", _files, _parse, "a CSV of images and run lengths is Kaggle's")
