"""Polygons and run lengths to labels, and labels to polygons and run lengths."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.errors import MediaError
from fcnseg.io import cv2
from fcnseg.io.sources.base import Frame

_FAR = 1 << 20  # pixels; OpenCV's fixed point overflows beyond


def fill_polygon(labels: NDArray[np.int32], outline: NDArray[np.floating], value: int) -> None:
    """Draw an area into int32 (H, W) labels, in place, by OpenCV's convention (cv2.fillPoly).

    outline: float (N, 2) x, y in pixels, pixel centres at whole numbers, rounded to the
        nearest; the border belongs to the area.
    """
    corners = np.rint(np.clip(outline, -_FAR, _FAR)).astype(np.int32)
    if len(corners):
        cv2.fillPoly(labels, [corners], (value,))


def fill_circle(
    labels: NDArray[np.int32], centre: tuple[float, float], radius: float, value: int
) -> None:
    """Draw a filled circle into int32 (H, W) labels, in place. centre: x, y."""
    at = (round(centre[0]), round(centre[1]))
    cv2.circle(labels, at, max(0, round(radius)), (value,), thickness=-1)


def decode_runs(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (H, W) of COCO's run lengths: down the columns, beginning with a run of zeros.

    MediaError when the runs do not add up to the image.
    """
    lengths = np.asarray(counts, np.int64)
    if lengths.size == 0 or lengths.min() < 0 or int(lengths.sum()) != size[0] * size[1]:
        raise MediaError(
            f"Run lengths of {int(lengths.sum())} pixels for an image of {size[0] * size[1]}."
        )
    filled = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(filled.reshape(size[1], size[0]).T)


def unpack_runs(text: str | bytes) -> list[int]:
    """COCO's compressed run lengths as numbers.

    Six bits a character from "0" on: five of the number, one for "more follows"; from the
    third on a number is the difference to the one two before. Source: cocoapi, maskApi.c.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    at = 0
    while at < len(data):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(data):
                raise MediaError("Compressed run lengths end in the middle of a number.")
            code = data[at] - 48
            value |= (code & 31) << shift
            more = bool(code & 32)
            at, shift = at + 1, shift + 5
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


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
        return ring_area(self.outer) - sum(ring_area(hole) for hole in self.holes)


def regions(labels: NDArray[np.uint8], classes: ClassMap) -> Iterator[Region]:
    """The connected parts of each class of uint8 (H, W) labels (touching corners connect)."""
    for index in range(len(classes)):
        yield from _regions_of(index, labels == index)


def as_geojson(labels: NDArray[np.uint8], classes: ClassMap) -> bytes:
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
        for region in regions(labels, classes)
    ]
    return _json({"type": "FeatureCollection", "features": features})


def as_labelme(labels: NDArray[np.uint8], classes: ClassMap, *, frame: Frame) -> bytes:
    """labelme's JSON: one polygon a region, large ones first.

    labelme knows no holes: a line that goes in along a bridge, round the hole and back cuts
    it out (see `keyhole`).
    """
    found = sorted(regions(labels, classes), key=lambda region: -ring_area(region.outer))
    shapes = [
        {
            "label": classes.names[region.index],
            "points": keyhole(region).astype(float).tolist(),
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


def keyhole(region: Region) -> Ring:
    """A region with holes as one closed line.

    From each hole's leftmost corner a bridge goes left to the first edge there is, which is of
    the outer border or of a hole further left: that is joined already.
    """
    line = region.outer
    forwards = _turning(line) > 0
    for hole in sorted(region.holes, key=lambda ring: ring.min(axis=0)[0]):
        ring = hole if (_turning(hole) > 0) != forwards else hole[::-1]
        ring = np.roll(ring, -int(ring[:, 0].argmin()), axis=0)
        line = _joined(line, np.vstack([ring, ring[:1]]))
    return line


def _joined(line: Ring, loop: Ring) -> Ring:
    """A closed line that on its way goes straight to a loop's start, along it, and back."""
    x, y = loop[0]
    here, after = line, np.roll(line, -1, axis=0)
    low, high = np.minimum(here[:, 1], after[:, 1]), np.maximum(here[:, 1], after[:, 1])
    upright = here[:, 0] == after[:, 0]
    met = np.flatnonzero(upright & (low <= y) & (y <= high) & (here[:, 0] <= x))
    edge = int(met[here[met, 0].argmax()])
    foot = np.array([[here[edge, 0], y]])
    return np.vstack([line[: edge + 1], foot, loop, foot, line[edge + 1 :]])


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


def ring_area(ring: Ring) -> float:
    """The area in square pixels that a closed line encloses."""
    return abs(_turning(ring)) / 2


def _turning(ring: Ring) -> float:
    """Twice the area a closed line encloses; its sign tells which way round it goes."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def _closed(ring: Ring) -> list[list[int]]:
    """GeoJSON repeats the first point."""
    return [*ring.tolist(), ring[0].tolist()]


def _json(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")  # half of a surrogate pair: JSON's own escape
