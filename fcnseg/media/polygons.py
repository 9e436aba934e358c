"""Labels as shapes: polygons along the pixels' edges (GeoJSON, labelme) and COCO's run lengths.

Coordinates are pixels, x to the right and y down; pixel (x, y) covers x..x+1, y..y+1. The
area inside a class's polygons is exactly its number of pixels.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.frames import Frame
from fcnseg.media._opencv import cv2

Ring = NDArray[np.int64]
"""int64 (N, 2): the corners (x, y) of a closed line, the first not repeated."""


@dataclass(frozen=True, eq=False)
class Region:
    """A connected part of one class.

    index: the class. outer: its border; holes: the borders of what is cut out of it.
    area: pixels.
    """

    index: int
    outer: Ring
    holes: tuple[Ring, ...]

    @property
    def area(self) -> float:
        """Pixels inside."""
        return _area(self.outer) - sum(_area(hole) for hole in self.holes)


def regions(
    labels: NDArray[np.uint8], classes: ClassMap, *, only: Collection[int] | None = None
) -> Iterator[Region]:
    """The connected parts of each class of uint8 (H, W) labels (touching corners connect)."""
    for index in range(len(classes)):
        if only is None or index in only:
            yield from _regions_of(index, labels == index)


def as_geojson(
    labels: NDArray[np.uint8], classes: ClassMap, *, only: Collection[int] | None = None
) -> bytes:
    """A GeoJSON FeatureCollection: one Polygon a region, with class, index and area."""
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
                "coordinates": [_closed(ring) for ring in (region.outer, *region.holes)],
            },
        }
        for region in regions(labels, classes, only=only)
    ]
    return _json({"type": "FeatureCollection", "features": features})


def as_labelme(
    labels: NDArray[np.uint8],
    classes: ClassMap,
    *,
    only: Collection[int] | None = None,
    frame: Frame,
) -> bytes:
    """labelme's JSON: one polygon a region, large ones first.

    labelme knows no holes: what lies in one comes later in the file and is drawn over it.
    """
    found = sorted(regions(labels, classes, only=only), key=lambda region: -_area(region.outer))
    shapes = [
        {
            "label": classes.names[region.index],
            "points": region.outer.astype(float).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for region in found
    ]
    height, width = labels.shape
    return _json(
        {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": frame.path.name if frame.path is not None else frame.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
    )


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """bool (H, W) as COCO's run lengths: down the columns, starting with zeros."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff([0, *changes, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def compressed(runs: list[int]) -> str:
    """Run lengths in COCO's compressed text: differences in groups of 5 bits (its rleToString)."""
    text = []
    for position, run in enumerate(runs):
        value = run - runs[position - 2] if position > 2 else run
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(bits + 32 * more + 48))
    return "".join(text)


def _regions_of(index: int, mask: NDArray[np.bool_]) -> Iterator[Region]:
    """Regions of a bool (H, W) mask.

    OpenCV's contours go through the middles of border pixels. At twice the size, a border
    pixel's middle at x stands beside the edge (x + 1) // 2 of the original: exact.
    """
    if not mask.any():
        return
    double = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, tree = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners((contour[:, 0, :].astype(np.int64) + 1) // 2) for contour in contours]
    holes: dict[int, list[Ring]] = defaultdict(list)
    parents = tree[0][:, 3].tolist()
    for ring, parent in zip(rings, parents, strict=True):
        holes[parent].append(ring)
    for number, ring in enumerate(rings):
        if parents[number] < 0:
            yield Region(index, ring, tuple(holes[number]))


def _corners(ring: Ring) -> Ring:
    """A ring without repeated points and points on a straight line."""
    ring = ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    back = np.sum(before * after, axis=1) < 0
    return np.asarray(ring[turns | back])


def _area(ring: Ring) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))) / 2


def _closed(ring: Ring) -> list[list[int]]:
    """GeoJSON repeats the first point."""
    return [*ring.tolist(), ring[0].tolist()]


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
