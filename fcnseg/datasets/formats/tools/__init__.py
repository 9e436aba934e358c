"""Annotation formats, a file each: find(listing) gives the pairs, read(pair, terms) the labels."""

from __future__ import annotations

from collections.abc import Mapping

from fcnseg.datasets.description import Store
from fcnseg.datasets.formats.tools import (
    arrays,
    cvat,
    label_studio,
    panoptic,
    run_lengths,
    supervisely,
    via,
)
from fcnseg.datasets.formats.tools.base import Format

FORMATS: Mapping[Store, Format] = {
    "panoptic": panoptic.FORMAT,
    "cvat-xml": cvat.FORMAT,
    "via": via.FORMAT,
    "label-studio": label_studio.FORMAT,
    "supervisely": supervisely.FORMAT,
    "run-lengths": run_lengths.FORMAT,
    "arrays": arrays.FORMAT,
}
