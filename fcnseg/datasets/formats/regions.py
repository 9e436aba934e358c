"""Regions of one image a file: Aperio ImageScope, Cityscapes' polygons, GeoJSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.formats.documents import (
    Annotated,
    Area,
    Document,
    outlined,
    read_xml,
)
from fcnseg.datasets.formats.polygons import read_json
from fcnseg.datasets.pairing import marks
from fcnseg.errors import MediaError
from fcnseg.io.annotations import EDGES, EDGES_KEY
from fcnseg.io.bands.georeference import georeference_in_tags

ONE_CLASS = "object"
"""The class of regions without a name."""

# --- Aperio ImageScope: an XML file for each slide, with regions of vertices (MoNuSeg, TNBC) ------

_SCOPE_HEAD = marks(b"<Annotations", b"<Vert")


def _scope_parse(path: Path) -> Document:
    root = read_xml(path)
    areas = []
    for layer in root.iter("Annotation"):
        name = layer.get("Name") or _scope_described(layer) or ONE_CLASS
        for region in layer.iter("Region"):
            points = [(vertex.get("X"), vertex.get("Y")) for vertex in region.iter("Vertex")]
            if len(points) > 2:
                areas.append(Area(name, [np.array(points, np.float64)]))
    return Document({"": Annotated(path.stem, None, areas)})


def _scope_described(layer: ElementTree.Element) -> str:
    """The name that a layer's attributes give (`Description`, `Name`)."""
    attributes = layer.findall("Attributes/Attribute")
    return next((one.get("Value", "") for one in attributes if one.get("Value")), "")


IMAGE_SCOPE = outlined(
    "image-scope",
    lambda listing: listing.saying(_SCOPE_HEAD, ".xml"),
    _scope_parse,
    "XML files with regions of vertices are Aperio ImageScope's",
)

# --- Cityscapes and Mapillary: a JSON file of objects with polygons -------------------------------

_CITYSCAPES_HEAD = marks(b'"objects"', b'"polygon"', b'"label"')

_CITYSCAPES_END = re.compile(r"_gt(fine|coarse)_polygons$", re.IGNORECASE)


def _cityscapes_parse(path: Path) -> Document:
    """Objects are drawn in their order; `label` names the class, `deleted` ones do not count."""
    data = read_json(path)
    height, width = (
        data.get("imgHeight", data.get("height")),
        data.get("imgWidth", data.get("width")),
    )
    areas = [
        Area(str(one["label"]), [np.array(one["polygon"], np.float64).reshape(-1, 2)])
        for one in data["objects"]
        if not one.get("deleted")
    ]
    size = (int(height), int(width)) if height and width else None
    stem = _CITYSCAPES_END.sub("", path.stem)
    image = Annotated(stem, size, areas, ordered=True, also=f"{stem}_leftImg8bit")
    return Document({"": image})


CITYSCAPES_JSON = outlined(
    "cityscapes-json",
    lambda listing: listing.saying(_CITYSCAPES_HEAD, ".json"),
    _cityscapes_parse,
    "JSON files of objects with polygons are Cityscapes'",
)

# --- GeoJSON in pixels (QuPath, SpaceNet's pixel coordinates) -------------------------------------

_GEOJSON_WORDS = ("classification", "class", "label", "name", "type", "category")
"""Properties that name a feature's class, the likeliest first."""


DEGREES = 4326
"""The EPSG number of longitude and latitude."""

_GEOJSON_HEAD = marks(b'"coordinates"', b'"geometry"')


def _geojson_parse(path: Path) -> Document:
    data = json.loads(path.read_bytes())
    features = data["features"] if isinstance(data, Mapping) else data
    areas = [area for one in features for area in _geojson_areas(one)]
    flat = sum(not list(_geojson_areas(one)) for one in features)
    edges = isinstance(data, Mapping) and data.get(EDGES_KEY) == EDGES
    epsg = _geojson_epsg(data)
    points = [ring for area in areas for ring in area.rings]
    if not epsg and not edges and points and _geojson_geographic(np.concatenate(points)):
        epsg = DEGREES
    return Document({"": Annotated(path.stem, None, areas, flat, edges=edges, epsg=epsg)})


def _geojson_epsg(data: Any) -> int:
    """The coordinate system that a file names; 0 for none."""
    crs = str(data.get("crs")) if isinstance(data, Mapping) and data.get("crs") else ""
    number = re.search(r"EPSG:[\d.]*:?(\d+)", crs)
    return int(number[1]) if number else DEGREES if "CRS84" in crs else 0


def _geojson_in_pixels(image: Annotated, path: Path) -> Annotated:
    """Areas on a map as pixels of a GeoTIFF. MediaError where that has another map, or none."""
    if not image.epsg:
        return image
    place = georeference_in_tags(path)
    if place is None or place.epsg not in (image.epsg, None):
        system = "none" if place is None else f"EPSG:{place.epsg}"
        unit = "degrees of longitude and latitude" if image.epsg == DEGREES else "on a map"
        raise MediaError(
            f"{image.file}: its coordinates are {unit} (EPSG:{image.epsg}), not pixels, and the "
            f"georeference of {path} is {system}. Convert them to the image's (ogr2ogr -t_srs)."
        )
    areas = [
        replace(
            area,
            rings=[place.in_pixels(ring) for ring in area.rings],
            holes=[place.in_pixels(ring) for ring in area.holes],
        )
        for area in image.areas
    ]
    return replace(image, areas=areas, edges=True)


def _geojson_areas(feature: Mapping[str, Any]) -> Iterator[Area]:
    shape = feature.get("geometry") or {}
    name = _geojson_name(feature.get("properties") or {})
    kind = shape.get("type")
    several = shape.get("coordinates", ()) if kind == "MultiPolygon" else (shape["coordinates"],)
    for rings in several if kind in ("Polygon", "MultiPolygon") else ():
        outer, *holes = (np.array([point[:2] for point in ring], np.float64) for ring in rings)
        yield Area(name, [outer], holes)


def _geojson_name(properties: Mapping[str, Any]) -> str:
    for word in _GEOJSON_WORDS:
        value = properties.get(word)
        value = value.get("name") if isinstance(value, Mapping) else value  # QuPath
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ONE_CLASS


def _geojson_geographic(points: NDArray[np.float64]) -> bool:
    """Whether points are degrees: within the globe, and all in less than one unit of each other."""
    near = bool((np.ptp(points, axis=0) < 1).all())
    return near and bool((np.abs(points) <= (180, 90)).all())


GEOJSON = outlined(
    "geojson",
    lambda listing: listing.saying(_GEOJSON_HEAD, ".geojson", ".json"),
    _geojson_parse,
    "GeoJSON files of polygons are named like the images",
    _geojson_in_pixels,
)
