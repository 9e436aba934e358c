"""Write labels in formats of annotation tools: GeoJSON, labelme, YOLO; CVAT, Label Studio, COCO.

The first three are one file per image, the others (`Annotations`) one file for all images. Points
are in pixels; (0, 0) is the upper left corner of the first pixel. In formats without holes, a
bridge connects each hole to the outline (`keyhole`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.io.annotations import EDGES, EDGES_KEY
from fcnseg.io.annotations.polygons import (
    Region,
    Ring,
    compressed,
    keyhole,
    regions,
    ring_area,
    run_lengths,
)
from fcnseg.io.bands.georeference import Georeference
from fcnseg.io.sources.base import Frame
from fcnseg.remote import RemotePath

Labels = NDArray[np.uint8]


def as_geojson(
    labels: Labels,
    classes: ClassMap,
    only: Sequence[int],
    *,
    tolerance: float = 0.0,
    place: Georeference | None = None,
) -> bytes:
    """A GeoJSON FeatureCollection: one Polygon per region, with class, index and area in pixels.

    place: the image's georeference, for map coordinates; None for pixels.
    """
    features = [
        {
            "type": "Feature",
            "properties": {
                "class": classes.names[region.index],
                "index": region.index,
                "area": int(region.area),
            },
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    _closed(ring if place is None else place.on_map(ring))
                    for ring in (region.outer, *region.holes)
                ],
            },
        }
        for region in regions(labels, only, tolerance=tolerance)
    ]
    system = {EDGES_KEY: EDGES} if place is None else place.crs()
    return _json({"type": "FeatureCollection", **system, "features": features})


def _closed(ring: NDArray[Any]) -> list[list[float]]:
    return [*ring.tolist(), ring[0].tolist()]


def as_labelme(
    labels: Labels,
    classes: ClassMap,
    only: Sequence[int],
    *,
    frame: Frame,
    tolerance: float = 0.0,
    path: Path | None = None,
) -> bytes:
    """labelme's JSON: one polygon per region, large ones first. path: where it will be written."""
    shapes = [
        {
            "label": classes.names[region.index],
            "points": points.astype(float).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for region, points in _outlines(labels, only, tolerance)
    ]
    height, width = labels.shape
    return _json(
        {
            "version": "5.5.0",
            EDGES_KEY: EDGES,
            "flags": {},
            "shapes": shapes,
            "imagePath": _image_path(frame, path),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
    )


def _image_path(frame: Frame, path: Path | None) -> str:
    """The image's path relative to the JSON file, as labelme expects; else its name."""
    image = frame.path
    if image is None:
        return frame.name
    if path is None or isinstance(path, RemotePath) or isinstance(image, RemotePath):
        return image.name
    try:
        folder = os.path.relpath(image.parent.resolve(), path.parent.resolve())
    except ValueError:  # on another drive
        return image.name
    return (Path(folder) / image.name).as_posix()


def as_yolo(labels: Labels, only: Sequence[int], *, tolerance: float = 0.0) -> bytes:
    """YOLO's text: a line per region, class index and points as fractions of the image's size."""
    size = np.array(labels.shape[::-1])
    lines = [
        " ".join([str(region.index), *(f"{number:.6g}" for number in (points / size).ravel())])
        for region, points in _outlines(labels, only, tolerance)
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def class_list(classes: ClassMap) -> bytes:
    """YOLO's classes.txt: one name per line."""
    return "".join(f"{' '.join(name.split())}\n" for name in classes.names).encode(
        errors="backslashreplace"
    )


class Annotations(Protocol):
    """Writes one annotation file for all images, piece by piece, without keeping them in memory.

    between: separator of two pieces. head, tail: beginning and end of the file.
    """

    between: bytes

    def head(self) -> bytes:
        """The file's beginning."""

    def piece(self, frame: Frame, labels: Labels) -> bytes:
        """The annotations of a frame."""

    def tail(self) -> bytes:
        """The file's end."""


class Cvat:
    """CVAT for images 1.1: an XML file with an <image> for each frame."""

    between = b""

    def __init__(self, classes: ClassMap, only: Sequence[int], tolerance: float) -> None:
        self._classes, self._only, self._tolerance = classes, only, tolerance
        self._count = 0

    def head(self) -> bytes:
        """The header, with classes and colors."""
        labels = "".join(
            f"<label><name>{quoteattr(_xml(self._classes.names[index]))[1:-1]}</name>"
            "<color>#{:02x}{:02x}{:02x}</color></label>".format(*self._classes.colors[index])
            for index in self._only
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
            f"<meta><task><labels>{labels}</labels></task>"
            f"<{EDGES_KEY}>{EDGES}</{EDGES_KEY}></meta>\n"
        ).encode()

    def piece(self, frame: Frame, labels: Labels) -> bytes:
        """The frame's <image>; larger regions are below smaller ones."""
        height, width = labels.shape
        polygons = [
            f"<polygon label={quoteattr(_xml(self._classes.names[region.index]))} "
            f'source="auto" occluded="0" points="{_pairs(points)}" z_order="{order}"/>\n'
            for order, (region, points) in enumerate(_outlines(labels, self._only, self._tolerance))
        ]
        name = quoteattr(_xml(_file_name(frame)))
        self._count += 1
        head = f'<image id="{self._count - 1}" name={name} width="{width}" height="{height}">\n'
        return f"{head}{''.join(polygons)}</image>\n".encode()

    def tail(self) -> bytes:
        """The end."""
        return b"</annotations>\n"


class LabelStudio:
    """Label Studio's tasks, with the labels as predictions to correct."""

    between = b",\n"

    def __init__(self, classes: ClassMap, only: Sequence[int], tolerance: float) -> None:
        self._classes, self._only, self._tolerance = classes, only, tolerance

    def head(self) -> bytes:
        """Begin the list."""
        return b"[\n"

    def piece(self, frame: Frame, labels: Labels) -> bytes:
        """The frame's task. Points are in percent of the image's size."""
        height, width = labels.shape
        found = _outlines(labels, self._only, self._tolerance)
        result = [
            {
                "id": f"{number}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "points": np.round(points * 100 / (width, height), 4).tolist(),
                    "closed": True,
                    "polygonlabels": [self._classes.names[region.index]],
                },
            }
            for number, (region, points) in enumerate(found)
        ]
        predictions = [{"model_version": "fcnseg", EDGES_KEY: EDGES, "result": result}]
        image = f"/data/local-files/?d={_file_name(frame)}"
        return _json({"data": {"image": image}, "predictions": predictions})

    def tail(self) -> bytes:
        """End the list."""
        return b"\n]\n"


class Coco:
    """COCO: an annotation per class and image, as exact run lengths."""

    between = b",\n"

    def __init__(self, classes: ClassMap) -> None:
        self._classes = classes
        self._images: dict[str, dict[str, Any]] = {}  # by the frame's name
        self._count = 0

    def head(self) -> bytes:
        """Begin with the annotations; the images are known only at the end."""
        return b'{"annotations":[\n'

    def piece(self, frame: Frame, labels: Labels) -> bytes:
        """The frame's annotations, one per line."""
        height, width = labels.shape
        known = self._images.get(frame.name)
        image = known["id"] if known else len(self._images) + 1
        name = frame.path.name if frame.path is not None else frame.name
        entry = {"id": image, "file_name": name, "height": height, "width": width}
        self._images[frame.name] = entry
        masks = ((index, labels == index) for index in range(len(self._classes)))
        lines = [json.dumps(self._annotation(image, i, mask)) for i, mask in masks if mask.any()]
        return ",\n".join(lines).encode()

    def tail(self) -> bytes:
        """The images and the classes."""
        names = enumerate(self._classes.names)
        categories = [{"id": i + 1, "name": name} for i, name in names]
        rest = json.dumps(list(self._images.values())), json.dumps(categories)
        return f'\n],"images":{rest[0]},"categories":{rest[1]}}}\n'.encode()

    def _annotation(self, image: int, index: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        self._count += 1
        return {
            "id": self._count,
            "image_id": image,
            "category_id": index + 1,
            "iscrowd": 0,
            "area": int(mask.sum()),
            "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
            "segmentation": {"size": list(mask.shape), "counts": compressed(run_lengths(mask))},
        }


def _outlines(labels: Labels, only: Sequence[int], tolerance: float) -> list[tuple[Region, Ring]]:
    """Regions as one polygon each, large ones first; drawn in this order they give the labels."""
    found = regions(labels, only, tolerance=tolerance)
    ordered = sorted(found, key=lambda region: -ring_area(region.outer))
    return [(region, keyhole(region)) for region in ordered]


def _file_name(frame: Frame) -> str:
    """The image's file name for annotation tools; frames of a video must be saved under it."""
    return frame.path.name if frame.path is not None else f"{frame.name}.png"


def _pairs(points: Ring) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in points.tolist())


def _xml(name: str) -> str:
    """A name without characters that are invalid in XML: controls and lone surrogates."""
    return "".join(c if c.isprintable() or c == " " else "\ufffd" for c in name)


def _json(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")  # lone surrogates become JSON escapes
