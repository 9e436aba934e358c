"""Annotation formats, a file each: find(listing) gives the pairs, read(pair, terms) the labels."""

from __future__ import annotations

from collections.abc import Mapping

from fcnseg.data.description import Store
from fcnseg.data.formats import (
    arrays,
    cvat,
    label_studio,
    panoptic,
    run_lengths,
    supervisely,
    via,
)
from fcnseg.data.formats.base import Format

FORMATS: Mapping[Store, Format] = {
    "panoptic": panoptic.FORMAT,
    "cvat-xml": cvat.FORMAT,
    "via": via.FORMAT,
    "label-studio": label_studio.FORMAT,
    "supervisely": supervisely.FORMAT,
    "run-lengths": run_lengths.FORMAT,
    "arrays": arrays.FORMAT,
}
