"""VGG Image Annotator (VIA) 2: a JSON file or project with `regions` for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.datasets.formats.gathered import head_says
from fcnseg.datasets.formats.polygons import read_json
from fcnseg.datasets.formats.tools.base import Annotated, Area, Document, box, ellipse, outlined
from fcnseg.datasets.pairing.listing import Listing

ONE_CLASS = "object"
"""The class of regions without any attribute."""


def _files(listing: Listing) -> list[str]:
    files = listing.with_suffix(".json")
    return [name for name in files if head_says(listing.path(name), (b'"shape_attributes"',))]


def _parse(path: Path) -> Document:
    data = read_json(path)
    entries = data.get("_via_img_metadata", data)
    images = {}
    for key, entry in entries.items():
        regions = entry["regions"]
        regions = list(regions.values()) if isinstance(regions, Mapping) else regions  # VIA 1
        areas = [area for area in map(_area, regions) if area is not None]
        images[key] = Annotated(entry["filename"], None, areas, len(regions) - len(areas))
    return Document(images)


def _area(region: Mapping[str, Any]) -> Area | None:
    shape, name = region["shape_attributes"], _name(region.get("region_attributes") or {})
    kind = shape["name"]
    if kind == "polygon":
        xy = [shape["all_points_x"], shape["all_points_y"]]
        return Area(name, [np.array(xy, np.float64).T])
    if kind == "rect":
        x, y = shape["x"], shape["y"]
        return Area(name, [box(x, y, x + shape["width"], y + shape["height"])])
    if kind in ("circle", "ellipse"):
        radius = shape.get("r", 0)
        across, down = shape.get("rx", radius), shape.get("ry", radius)
        return Area(name, [ellipse(shape["cx"], shape["cy"], across, down)])
    return None


def _name(attributes: Mapping[str, Any]) -> str:
    """The class among a region's attributes: one called so, else the first that says something."""
    said = {}
    for key, value in attributes.items():
        if isinstance(value, Mapping):  # checkboxes
            value = next((word for word, on in value.items() if on), "")
        if str(value).strip():
            said[key.lower()] = str(value).strip()
    for key in ("class", "label", "name", "type", "category", "object"):
        if key in said:
            return said[key]
    return next(iter(said.values()), ONE_CLASS)


FORMAT = outlined("via", _files, _parse, "JSON files with shape_attributes are VIA's")
