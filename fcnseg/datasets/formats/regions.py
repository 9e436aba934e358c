"""Formats of regions, one file per image: Aperio ImageScope, PAGE, ASAP, LabelMe, Cityscapes'
polygons, GeoJSON, xBD, SA-1B; one file for many images: Labelbox."""

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
    annotated,
    holding,
    outlined,
    read_xml,
)
from fcnseg.datasets.formats.polygons import read_json
from fcnseg.datasets.pairing import marks
from fcnseg.datasets.pairing.by_words import ONE_CLASS
from fcnseg.errors import MediaError
from fcnseg.io.annotations import EDGES, EDGES_KEY, box, decode_runs, runs_of
from fcnseg.io.bands.georeference import georeference_in_tags

# --- Aperio ImageScope: an XML file for each slide, with regions of vertices (MoNuSeg, TNBC) ------


def _scope_parse(path: Path) -> Document:
    root = read_xml(path)
    areas = []
    for layer in root.iter("Annotation"):
        described = (one.get("Value") for one in layer.findall("Attributes/Attribute"))
        name = layer.get("Name") or next(filter(None, described), ONE_CLASS)
        for region in layer.iter("Region"):
            points = [(vertex.get("X"), vertex.get("Y")) for vertex in region.iter("Vertex")]
            if len(points) > 2:
                areas.append(Area(name, [np.array(points, np.float64)]))
    return Document({"": Annotated(path.stem, None, areas)})


IMAGE_SCOPE = outlined(
    "image-scope",
    holding(".xml", marks(b"<Annotations", b"<Vert")),
    _scope_parse,
    "XML files with regions of vertices are Aperio ImageScope's",
)

# --- PAGE (documents: PRImA, Transkribus) and ASAP (slides: Camelyon): XML of outlines ------------


def _page_parse(path: Path) -> Document:
    """Regions of a page by their <Coords>; the class is `type`, else the element's name."""
    root = read_xml(path)
    page = next((one for one in root.iter() if _tag(one) == "Page"), root)
    height, width = page.get("imageHeight"), page.get("imageWidth")
    areas = []
    for region in (one for one in page.iter() if _tag(one).endswith("Region")):
        coords = next((one for one in region if _tag(one) == "Coords"), None)
        points = [] if coords is None else coords.get("points", "").split()
        nested = [
            (one.get("x", ""), one.get("y", "")) for one in (coords if coords is not None else ())
        ]
        ring = np.array([point.split(",") for point in points] or nested, np.float64)
        if len(ring) > 2:
            areas.append(Area(region.get("type") or _tag(region), [ring]))
    size = (int(height), int(width)) if height and width else None
    return Document(
        {"": Annotated(page.get("imageFilename") or path.stem, size, areas, also=path.stem)}
    )


def _tag(element: ElementTree.Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


PAGE_XML = outlined(
    "page-xml",
    holding(".xml", marks(b"<PcGts", b"Coords")),
    _page_parse,
    "XML files with regions of a page are PAGE's",
)


def _asap_parse(path: Path) -> Document:
    areas = []
    for one in read_xml(path).iter("Annotation"):
        group = one.get("PartOfGroup") or ""
        name = group if group.lower() not in ("", "none") else ONE_CLASS
        points = [(at.get("X", ""), at.get("Y", "")) for at in one.iter("Coordinate")]
        if len(points) > 2:
            areas.append(Area(name, [np.array(points, np.float64)]))
    return Document({"": Annotated(path.stem, None, areas)})


ASAP = outlined(
    "asap",
    holding(".xml", marks(b"<ASAP_Annotations", b"<Coordinate ")),
    _asap_parse,
    "XML files of coordinates are ASAP's",
)

# --- LabelMe's XML (the old web tool's, CVAT's "LabelMe 3.0"), and Pascal VOC's with outlines -----


def _labelme_parse(path: Path) -> Document:
    root = read_xml(path)
    objects = [one for one in root.iter("object") if (one.findtext("deleted") or "0") == "0"]
    file = (root.findtext("filename") or path.stem).strip()
    return Document({"": annotated(file, None, map(_labelme_area, objects), also=path.stem)})


def _labelme_area(one: ElementTree.Element) -> Area | None:
    """An <object>'s polygon: <pt>s with <x> and <y>; <x1>, <y1>, <x2> ... (Roboflow); its box."""
    name = (one.findtext("name") or "").strip() or ONE_CLASS
    if one.find("segm") is not None:
        raise ValueError("<segm> names a mask in another file; export as CVAT for images or COCO")
    outline = one.find("polygon")
    if outline is not None:
        points = [(pt.findtext("x"), pt.findtext("y")) for pt in outline.iter("pt")]
        numbers = [part.text for part in outline if re.fullmatch(r"[xy]\d+", part.tag)]
        ring = np.array(points or numbers, np.float64).reshape(-1, 2)
        return Area(name, [ring]) if len(ring) > 2 else None
    sides = [one.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    return Area(name, [box(*(float(side) for side in sides if side))]) if all(sides) else None


LABELME_XML = outlined(
    "labelme-xml",
    holding(".xml", marks(b"<polygon>")),
    _labelme_parse,
    "XML files of objects with a <polygon> are LabelMe's (or Pascal VOC's with outlines)",
)

# --- Cityscapes and Mapillary: a JSON file of objects with polygons -------------------------------

_CITYSCAPES_END = re.compile(r"_gt(fine|coarse)_polygons$", re.IGNORECASE)


def _cityscapes_parse(path: Path) -> Document:
    """Objects are drawn in order; `label` is the class, `deleted` ones are skipped."""
    data = read_json(path)
    height, width = (
        data.get("imgHeight", data.get("height")),
        data.get("imgWidth", data.get("width")),
    )
    areas = (
        Area(str(one["label"]), [np.array(one["polygon"], np.float64).reshape(-1, 2)])
        if "polygon" in one
        else None  # RailSem19's rails are lines
        for one in data["objects"]
        if not one.get("deleted")
    )
    size = (int(height), int(width)) if height and width else None
    stem = _CITYSCAPES_END.sub("", path.stem)
    image = annotated(stem, size, areas, ordered=True, also=f"{stem}_leftImg8bit")
    return Document({"": image})


CITYSCAPES_JSON = outlined(
    "cityscapes-json",
    holding(".json", marks(b'"objects"', b'"polygon"', b'"label"')),
    _cityscapes_parse,
    "JSON files of objects with polygons are Cityscapes'",
)

# --- GeoJSON in pixels (QuPath, SpaceNet's pixel coordinates) -------------------------------------

_GEOJSON_WORDS = ("classification", "class", "label", "name", "type", "category")
"""Properties with a feature's class, most likely first."""


DEGREES = 4326
"""The EPSG number of longitude and latitude."""


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
    """The EPSG code of a file's coordinate system; 0 for none."""
    crs = str(data.get("crs")) if isinstance(data, Mapping) and data.get("crs") else ""
    number = re.search(r"EPSG:[\d.]*:?(\d+)", crs)
    return int(number[1]) if number else DEGREES if "CRS84" in crs else 0


def _geojson_in_pixels(image: Annotated, path: Path) -> Annotated:
    """Convert areas from map coordinates to pixels of a GeoTIFF.

    MediaError if its coordinate system differs or is missing.
    """
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
    """Whether points are degrees: valid coordinates, all within one degree."""
    near = bool((np.ptp(points, axis=0) < 1).all())
    return near and bool((np.abs(points) <= (180, 90)).all())


GEOJSON = outlined(
    "geojson",
    holding((".geojson", ".json"), marks(b'"coordinates"', b'"geometry"')),
    _geojson_parse,
    "GeoJSON files of polygons are named like the images",
    _geojson_in_pixels,
)

# --- xBD (xView2): a JSON file for each image, with buildings as well-known text ------------------


def _xbd_parse(path: Path) -> Document:
    data = read_json(path)
    about = data["metadata"]
    areas = [_xbd_area(one) for one in data["features"]["xy"]]
    size = (int(about["height"]), int(about["width"])) if about.get("height") else None
    return Document({"": Annotated(str(about.get("img_name", path.stem)), size, areas)})


def _xbd_area(one: Mapping[str, Any]) -> Area:
    rings = [
        np.array([pair.split()[:2] for pair in ring.split(",")], np.float64)
        for ring in re.findall(r"\(([^()]+)\)", one["wkt"])
    ]
    several = one["wkt"].lstrip().upper().startswith("MULTI")
    name = str(one["properties"].get("feature_type") or ONE_CLASS)
    return Area(name, rings if several else rings[:1], [] if several else rings[1:])


XBD = outlined(
    "xbd",
    holding(".json", marks(b'"lng_lat"', b'"wkt"')),
    _xbd_parse,
    "JSON files with wkt are xBD's: what is a building, not how damaged it is (subtype)",
)

# --- SA-1B: a JSON file for each image, with run lengths and no classes ---------------------------


def _sa_1b_parse(path: Path) -> Document:
    data = read_json(path)
    about = data["image"]
    size = int(about["height"]), int(about["width"])
    stored = (one["segmentation"] for one in data["annotations"])
    areas = [Area(ONE_CLASS, mask=decode_runs(runs_of(one), size)) for one in stored]
    return Document({"": Annotated(str(about["file_name"]), size, areas)})


SA_1B = outlined(
    "sa-1b",
    holding(".json", marks(b'"predicted_iou"', b'"segmentation"', b'"image"')),
    _sa_1b_parse,
    "JSON files with predicted_iou are SA-1B's: masks without classes, read as object",
)

# --- Labelbox: a line of JSON for each image (NDJSON) ---------------------------------------------


def _labelbox_parse(path: Path) -> Document:
    text = path.read_bytes().strip()
    rows = json.loads(text) if text.startswith(b"[") else [*map(json.loads, text.splitlines())]
    images = {}
    for number, row in enumerate(rows):
        about, shown = row["data_row"], row.get("media_attributes") or {}
        labels = [one for project in row["projects"].values() for one in project["labels"]]
        if not labels:
            continue  # not labeled
        objects = labels[-1]["annotations"]["objects"]
        size = (int(shown["height"]), int(shown["width"])) if shown.get("height") else None
        file = str(about.get("external_id") or about.get("global_key") or about["id"])
        also = re.sub(r"^.*/|\?.*$", "", str(about.get("row_data", "")))
        images[str(number)] = annotated(file, size, map(_labelbox_area, objects), also=also)
    return Document(images)


def _labelbox_area(one: Mapping[str, Any]) -> Area | None:
    name = str(one["name"])
    if "mask" in one or "composite_mask" in one:
        raise ValueError("a mask is an address at Labelbox: convert the export to COCO there")
    if one.get("polygon"):
        return Area(name, [np.array([(pt["x"], pt["y"]) for pt in one["polygon"]], np.float64)])
    if one.get("bounding_box"):
        top, left, height, width = (
            float(one["bounding_box"][key]) for key in ("top", "left", "height", "width")
        )
        return Area(name, [box(left, top, left + width, top + height)])
    return None


LABELBOX = outlined(
    "labelbox",
    holding((".ndjson", ".json", ".jsonl"), marks(b'"data_row"', b'"annotation_kind"')),
    _labelbox_parse,
    "lines of JSON with a data_row are Labelbox's",
)
