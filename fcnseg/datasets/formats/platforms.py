"""Exports of labeling platforms: V7 Darwin, Datumaro, Hasty, Supervisely, SuperAnnotate."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.formats.documents import (
    Annotated,
    Area,
    Document,
    annotated,
    ellipse,
    holding,
    outlined,
    rotated,
)
from fcnseg.datasets.formats.polygons import read_json
from fcnseg.datasets.pairing import Listing, marks
from fcnseg.io.annotations import box, decode_runs, runs_of
from fcnseg.io.labels import decode_mask

# --- V7 Darwin: a JSON file for each image with polygons, boxes, ellipses and a raster layer ------

_DARWIN_TAGS = ("tag", "text", "string", "attributes", "raster_layer")
"""Keys of annotations without a shape of their own."""


def _darwin_parse(path: Path) -> Document:
    data = read_json(path)
    item = data.get("item") or data["image"]  # 2.0, or 1.0
    slot = item["slots"][0] if item.get("slots") else item
    size = (int(slot["height"]), int(slot["width"])) if "height" in slot else None
    sources = slot.get("source_files") or [{}]
    name = str(item.get("name") or item.get("filename") or item.get("original_filename") or "")
    raster = _darwin_raster(data["annotations"], size)
    shown = [one for one in data["annotations"] if not any(key in one for key in _DARWIN_TAGS)]
    areas = (_darwin_area(one, raster) for one in shown)
    also = str(sources[0].get("file_name", ""))
    return Document({"": annotated(name, size, areas, ordered=True, also=also)})


def _darwin_area(one: Mapping[str, Any], raster: Mapping[str, NDArray[np.bool_]]) -> Area | None:
    name = str(one["name"])
    if one.get("polygon"):
        polygon = one["polygon"]
        rings = polygon.get("paths") or [polygon["path"], *polygon.get("additional_paths", ())]
        return Area(name, [np.array([(p["x"], p["y"]) for p in ring]) for ring in rings])
    if "mask" in one:
        return Area(name, mask=raster[one["id"]]) if one.get("id") in raster else None
    if "ellipse" in one:
        centre, radius = one["ellipse"]["center"], one["ellipse"]["radius"]
        ring = ellipse(0, 0, radius["x"], radius["y"])
        ring = rotated(ring, float(one["ellipse"].get("angle", 0)))
        return Area(name, [ring + np.array([centre["x"], centre["y"]])])
    if "bounding_box" in one and not {"line", "keypoint", "skeleton"} & one.keys():
        side = one["bounding_box"]
        x, y = side["x"], side["y"]
        return Area(name, [box(x, y, x + side["w"], y + side["h"])])
    return None


def _darwin_raster(
    annotations: list[Mapping[str, Any]], size: tuple[int, int] | None
) -> dict[str, NDArray[np.bool_]]:
    """Mask annotations' ids -> bool (H, W), from row-major pairs of a number and its count."""
    layer = next((one["raster_layer"] for one in annotations if "raster_layer" in one), None)
    if layer is None or size is None:
        return {}
    runs = np.array(layer["dense_rle"], np.int64).reshape(-1, 2)
    if int(runs[:, 1].sum()) != size[0] * size[1]:  # checked before memory is allocated
        raise ValueError("dense_rle of another size than its image")
    numbers = np.repeat(runs[:, 0], runs[:, 1]).reshape(size)
    return {key: numbers == value for key, value in layer["mask_annotation_ids_mapping"].items()}


DARWIN = outlined(
    "darwin",
    holding(
        ".json",
        marks(b'"annotations"', b'"item"', b'"slots"'),
        marks(b'"annotations"', b'"image"', b"darwin"),
    ),
    _darwin_parse,
    "JSON files with an item and its slots are V7 Darwin's",
)

# --- Datumaro: annotations/SUBSET.json with items, for images/SUBSET/ -----------------------------

_DATUMARO_SHAPES = ("polygon", "mask", "bbox", "ellipse", "polyline", "points", "rotated_bbox")


def _datumaro_parse(path: Path) -> Document:
    data = read_json(path)
    names = [str(label["name"]) for label in data["categories"].get("label", {}).get("labels", ())]
    return Document(
        {str(item["id"]): _datumaro_image(item, names) for item in data["items"]}, tuple(names)
    )


def _datumaro_image(item: Mapping[str, Any], names: Sequence[str]) -> Annotated:
    about = item.get("image") or item.get("media") or {}
    size = about.get("size")
    shapes = [one for one in item["annotations"] if one["type"] in _DATUMARO_SHAPES]
    shapes.sort(key=lambda one: int(one.get("z_order", 0)))
    return annotated(
        str(about.get("path") or f"{item['id']}.jpg"),
        (int(size[0]), int(size[1])) if size else None,
        (_datumaro_area(one, names) for one in shapes),
        ordered=True,
        also=str(item["id"]),
    )


def _datumaro_area(one: Mapping[str, Any], names: Sequence[str]) -> Area | None:
    if one.get("label_id") is None:
        return None
    name = names[int(one["label_id"])]
    if one["type"] == "polygon":
        return Area(name, [np.array(one["points"], np.float64).reshape(-1, 2)])
    if one["type"] == "mask":
        height, width = (int(extent) for extent in one["rle"]["size"])
        return Area(name, mask=decode_runs(runs_of(one["rle"]), (height, width)))
    if one["type"] == "bbox":
        x, y, width, height = one["bbox"]
        degrees = float(one.get("attributes", {}).get("rotation") or 0)  # of CVAT's boxes
        return Area(name, [rotated(box(x, y, x + width, y + height), degrees)])
    if one["type"] == "ellipse":
        x0, y0, x1, y1 = one["points"]
        return Area(name, [ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)])
    return None


DATUMARO = outlined(
    "datumaro",
    holding(".json", marks(b'"items"', b'"categories"')),
    _datumaro_parse,
    "a JSON file with items and categories is Datumaro's",
)

# --- Hasty.ai: one JSON file of images with labels: polygons, boxes and masks ---------------------


def _hasty_parse(path: Path) -> Document:
    data = read_json(path)
    images = {}
    for number, image in enumerate(data["images"]):
        shown = sorted(image["labels"], key=lambda one: float(one.get("z_index") or 0))
        size = int(image["height"]), int(image["width"])
        areas = [_hasty_area(one, size) for one in shown]
        file = f"{image.get('dataset_name', '')}/{image['image_name']}".lstrip("/")
        part = str(image.get("image_id", number))
        images[part] = annotated(file, size, areas, ordered=True, also=image["image_name"])
    return Document(images, tuple(str(one["class_name"]) for one in data["label_classes"]))


def _hasty_area(one: Mapping[str, Any], image: tuple[int, int]) -> Area | None:
    name = str(one["class_name"])
    x0, y0, x1, y1 = one["bbox"] or (0, 0, 0, 0)
    if one.get("mask"):  # row-major run lengths within the box, beginning with zeros
        size = int(y1) - int(y0), int(x1) - int(x0)
        if size[0] > image[0] or size[1] > image[1]:
            raise ValueError(f"a mask of {size[1]}x{size[0]} in an image of {image[1]}x{image[0]}")
        mask = decode_runs(one["mask"], size[::-1]).T
        return Area(name, mask=mask, corner=(int(x0), int(y0)))
    if one.get("polygon"):
        return Area(name, [np.array(one["polygon"], np.float64).reshape(-1, 2)])
    return Area(name, [box(x0, y0, x1, y1)]) if one.get("bbox") else None


HASTY = outlined(
    "hasty",
    holding(".json", marks(b'"label_classes"', b'"image_name"')),
    _hasty_parse,
    "a JSON file of label_classes and images is Hasty's",
)

# --- Supervisely: ds0/img, ds0/ann, meta.json ---

MOST_BYTES = 1 << 28
"""Maximum bytes of a decompressed bitmap."""


_SUPERVISELY_HEAD = marks(b'"objects"', b'"size"')


def _supervisely_files(listing: Listing) -> list[str]:
    files = [name for name in listing.with_suffix(".json") if "/ann/" in f"/{name}"]
    return [name for name in files if listing.says(name, _SUPERVISELY_HEAD)]


def _supervisely_parse(path: Path) -> Document:
    data = read_json(path)
    size = int(data["size"]["height"]), int(data["size"]["width"])
    # A relative path, as two datasets may have images of the same name.
    image = f"../img/{path.name.removesuffix('.json')}"
    areas = map(_supervisely_area, data["objects"])
    return Document({"": annotated(image, size, areas, ordered=True)}, _supervisely_names(path))


def _supervisely_names(path: Path) -> tuple[str, ...]:
    """The classes of the project's meta.json, in order."""
    for folder in path.parents[1:4]:
        if (folder / "meta.json").is_file():
            return tuple(str(one["title"]) for one in read_json(folder / "meta.json")["classes"])
    return ()


def _supervisely_area(thing: Mapping[str, Any]) -> Area | None:
    kind, name = thing["geometryType"], str(thing["classTitle"])
    if kind == "bitmap":
        try:
            packed = zlib.decompressobj().decompress(
                base64.b64decode(thing["bitmap"]["data"]), MOST_BYTES
            )
        except (zlib.error, binascii.Error) as error:
            raise ValueError(f"a bitmap can't be unpacked: {error}") from None
        left, top = thing["bitmap"]["origin"]
        return Area(name, mask=decode_mask(packed), corner=(int(left), int(top)))
    points = thing.get("points", {})
    rings = [np.array(points.get("exterior", ()), np.float64).reshape(-1, 2)]
    if kind == "polygon":
        holes = [np.array(ring, np.float64).reshape(-1, 2) for ring in points.get("interior", ())]
        return Area(name, rings, holes)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = rings[0]
        return Area(name, [box(x0, y0, x1, y1)])
    return None


SUPERVISELY = outlined(
    "supervisely",
    _supervisely_files,
    _supervisely_parse,
    "JSON files with objects in ann/ are Supervisely's",
)

# --- SuperAnnotate: a.jpg.json (a.jpg___objects.json) for each image, classes/classes.json --------

_SUPERANNOTATE_HEAD = marks(b'"instances"', b'"metadata"')


def _superannotate_files(listing: Listing) -> list[str]:
    names = listing.saying(_SUPERANNOTATE_HEAD, ".json")
    return [name for name in names if not name.endswith("___pixel.json")]  # those have ___save.png


def _superannotate_parse(path: Path) -> Document:
    data = read_json(path)
    about = data["metadata"]
    names = _superannotate_names(path)
    size = (int(about["height"]), int(about["width"])) if about.get("height") else None
    file = str(about.get("name") or path.name.removesuffix(".json").removesuffix("___objects"))
    areas = (_superannotate_area(one, names) for one in data["instances"])
    return Document({"": annotated(file, size, areas, ordered=True)}, tuple(names.values()))


def _superannotate_names(path: Path) -> dict[int, str]:
    """The project's classes by id, in the order of classes.json."""
    for file in (path.parent / "classes/classes.json", path.parent / "classes.json"):
        if file.is_file():
            return {int(one["id"]): str(one["name"]) for one in json.loads(file.read_bytes())}
    return {}


def _superannotate_area(one: Mapping[str, Any], names: Mapping[int, str]) -> Area | None:
    name = str(one.get("className") or names.get(int(one.get("classId", -1)), ""))
    if not name or one["type"] not in ("polygon", "bbox", "ellipse", "rbbox"):
        return None
    if one["type"] == "ellipse":
        ring = ellipse(one["cx"], one["cy"], one["rx"], one["ry"])
        return Area(name, [rotated(ring, float(one.get("angle") or 0))])
    points = one["points"]
    if one["type"] == "rbbox":
        return Area(name, [np.array([(points[f"x{n}"], points[f"y{n}"]) for n in range(1, 5)])])
    if one["type"] == "bbox":
        return Area(name, [box(*(float(points[key]) for key in ("x1", "y1", "x2", "y2")))])
    holes = [np.array(ring, np.float64).reshape(-1, 2) for ring in one.get("exclude", ())]
    return Area(name, [np.array(points, np.float64).reshape(-1, 2)], holes)


SUPERANNOTATE = outlined(
    "superannotate",
    _superannotate_files,
    _superannotate_parse,
    "JSON files with metadata and instances are SuperAnnotate's",
)
