"""Draw labels from outlines: COCO JSON, labelme JSON, YOLO text.

Each defines an image's size and its areas, back to front. Classes are numbered by the dataset's
`terms`: term i is drawn as i + 1, everything else is 0.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets import Pair
from fcnseg.errors import PARSE_ERRORS, MediaError, cannot_read, from_bytes, reason
from fcnseg.io.annotations import (
    EDGES,
    EDGES_KEY,
    Cached,
    blank,
    box,
    decode_runs,
    fill_circle,
    fill_inside,
    fill_polygon,
    follow_edges,
    runs_of,
)
from fcnseg.io.images import image_size
from fcnseg.io.labels import decode_mask

Json = Mapping[str, Any]

Fill = Callable[[NDArray[np.int32], NDArray[np.floating], int], None]
"""Fills an outline with a number."""

KEPT_DOCUMENTS = 4
"""Number of parsed COCO files in memory; a dataset has one for each split."""

BOXES = "ignore"
"""The term of areas with only a box; a name that marks ignored values."""

MOST_NUMBERED = 1 << 16
"""Maximum class number in a file without names."""

MOST_BEYOND = 2
"""Maximum absolute coordinate of a YOLO outline, whose image is 1 wide and high."""

BOXES_IGNORED = "boxes have no outline, what they cover is ignored"

NO_OUTLINE = "no segmentation"

LABELME_AREAS = {
    "polygon": 3, "rectangle": 2, "circle": 2, "mask": 1, "rotation": 3, "quadrilateral": 3,
}  # fmt: skip
"""Minimum points of labelme's shapes that cover pixels; lines and points do not."""


def by_number(key: Any) -> tuple[bool, Any]:
    """A sort key for ids: numbers in order, others last."""
    return (False, key) if isinstance(key, int | float) else (True, str(key))


def draw_coco(pair: Pair, terms: Sequence[str], *, fill: bool = False) -> NDArray[np.int32]:
    """Draw a COCO image's annotations as int32 (H, W) term numbers, smaller areas over larger.

    fill: fill boxes without outlines with their class; else with the term BOXES, below all areas.
    """
    document = coco_document(pair.labels)
    try:
        image = document.images[pair.part]
        height, width = image.get("height"), image.get("width")
        labels = blank((int(height), int(width)) if height and width else image_size(pair.image))
        areas = []
        for annotation in document.boxes.get(pair.part, ()):
            term = document.names[annotation["category_id"]] if fill else BOXES
            if term in terms:
                left, top, width, height = (float(value) for value in annotation["bbox"])
                ring = box(left, top, left + width, top + height)
                fill_inside(labels, ring, terms.index(term) + 1)
        for annotation in document.annotations.get(pair.part, ()):
            name = document.names.get(annotation["category_id"])
            if name in terms:
                areas.append((_coco_area(annotation), terms.index(name) + 1, annotation))
        draw = _fill_of(ring for *_, one in areas for ring in _rings(one["segmentation"]))
        for _, number, annotation in sorted(areas, key=lambda area: -area[0]):
            _draw_segmentation(labels, annotation["segmentation"], number, draw)
    except PARSE_ERRORS as error:
        raise _malformed(pair.labels, f"image {pair.part}", error) from None
    return labels


def _id(value: Any) -> Any:
    """An id as an int, also if it was written as 1.0 or "1"."""
    if isinstance(value, str) and value.isdecimal() and str(int(value)) == value:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _listed(entries: Sequence[Json] | Mapping[str, Json]) -> Sequence[Json]:
    """Entries as a list; LIVECell's files have them by id."""
    return [*entries.values()] if isinstance(entries, Mapping) else entries


class CocoDocument:
    """A COCO file, indexed.

    images, annotations: by image id, as text; annotations only if they can be drawn. counts:
    number of annotations per image. boxes: annotations with only a box, if others have outlines.
    unusable: number of annotations that can't be drawn, by reason. names: category id -> name.
    """

    def __init__(self, data: Json) -> None:
        self.names = {_id(one["id"]): str(one["name"]).strip() for one in data["categories"]}
        first: dict[str, str] = {}  # file -> first id, as an image may be listed twice
        listed = {str(_id(image["id"])): image for image in data["images"]}
        same = {
            key: first.setdefault(str(image.get("file_name", key)), key)
            for key, image in listed.items()
        }
        self.images: dict[str, Json] = {i: image for i, image in listed.items() if same[i] == i}
        self.annotations: dict[str, list[Json]] = {}
        self.counts: Counter[str] = Counter()
        self.unusable: Counter[str] = Counter()
        annotations = [
            {**one, "image_id": _id(one["image_id"]), "category_id": _id(one.get("category_id"))}
            for one in _listed(data["annotations"])
        ]
        for annotation in annotations:
            image = same.get(str(annotation["image_id"]), "")
            why = self._unusable(annotation, image)
            if why:
                self.unusable[why] += 1
            else:
                self.counts[image] += 1
                self.annotations.setdefault(image, []).append(annotation)
        self.boxes = self._boxes(annotations, same) if self.annotations else {}
        self.unusable -= Counter({NO_OUTLINE: sum(map(len, self.boxes.values()))})

    def _boxes(self, annotations: Sequence[Json], same: Mapping[str, str]) -> dict[str, list[Json]]:
        found: dict[str, list[Json]] = {}
        for one in annotations:
            image = same.get(str(one["image_id"]), "")
            complete = len(one.get("bbox") or ()) == 4 and one["category_id"] in self.names
            if complete and image in self.images and self._unusable(one, image) == NO_OUTLINE:
                found.setdefault(image, []).append(one)
        return found

    def _unusable(self, annotation: Json, image: str) -> str:
        """Why an annotation can't be drawn; "" if it can."""
        outline = annotation.get("segmentation")
        if not outline or (
            isinstance(outline, list)
            and all(isinstance(ring, list) and len(ring) in (0, 2, 4) for ring in outline)
        ):
            return NO_OUTLINE
        if image not in self.images:
            return "of an image that is not listed"
        return "" if annotation["category_id"] in self.names else "of a category that is not listed"


coco_document = Cached(lambda path: CocoDocument(read_json(path)), KEPT_DOCUMENTS)
"""Parse a COCO file, cached; MediaError for other content."""


def draw_labelme(pair: Pair, terms: Sequence[str]) -> NDArray[np.int32]:
    """Draw a labelme file as int32 (H, W) term numbers, later shapes over earlier ones."""
    data = read_json(pair.labels)
    try:
        height, width = data.get("imageHeight"), data.get("imageWidth")
        size = (int(height), int(width)) if height and width else image_size(pair.image)
        labels = blank(size)
        shapes = [shape for shape in data["shapes"] if has_area(shape)]
        rings = (_points(shape) for shape in shapes if LABELME_AREAS[_kind(shape)] == 3)
        fill = _fill_of(rings, edges=data.get(EDGES_KEY) == EDGES)
        for shape in shapes:
            if (name := str(shape["label"]).strip()) in terms:
                _draw_labelme_shape(labels, shape, terms.index(name) + 1, fill)
    except PARSE_ERRORS as error:
        if isinstance(error, MediaError):
            raise
        raise _malformed(pair.labels, "a labelme file", error) from None
    return labels


def has_area(shape: Json) -> bool:
    """Whether a labelme shape covers pixels."""
    kind = _kind(shape)
    return kind in LABELME_AREAS and len(shape["points"]) >= LABELME_AREAS[kind]


def _kind(shape: Json) -> str:
    return str(shape.get("shape_type") or "polygon")


def _points(shape: Json) -> NDArray[np.float64]:
    return np.array(shape["points"], np.float64).reshape(-1, 2)


def draw_yolo(pair: Pair, terms: Sequence[str], *, fill: bool = False) -> NDArray[np.int32]:
    """Draw a YOLO polygon file as int32 (H, W) class numbers + 1, smaller areas over larger.

    Boxes without outlines become the term BOXES, as the object's pixels are unknown.
    fill: they become the box's class.
    """
    height, width = image_size(pair.image)
    labels = np.zeros((height, width), np.int32)
    scale = np.array([width, height], np.float64)
    lines = [*yolo_lines(pair.labels)]
    for number, corners in lines:
        if len(corners) == 2 and (fill or BOXES in terms):
            term = number + 1 if fill else terms.index(BOXES) + 1
            centre, half = corners[0], corners[1] / 2
            fill_inside(labels, box(*(centre - half), *(centre + half)) * scale, term)
    areas = [(number, outline * scale) for number, outline in lines if len(outline) > 2]
    draw = _fill_of(outline for _, outline in areas)
    for number, outline in sorted(areas, key=lambda area: -_ring_area(area[1])):
        if number < len(terms):
            draw(labels, outline, number + 1)
    return labels


def yolo_lines(path: Path) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield (class number, outline as (N, 2) fractions of width and height) for each line.

    Lines with four numbers are boxes: (2, 2), center and size. MediaError for other content.
    """
    try:
        lines = from_bytes(path.read_bytes()).splitlines()
    except OSError as error:
        raise MediaError(f"{path} can't be read: {error}.") from None
    for row, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            number, numbers = int(float(words[0])), np.array(words[1:], np.float64)
        except (ValueError, OverflowError):
            raise MediaError(
                f"{path}, line {row}: not a class and numbers: {line[:40]!r}."
            ) from None
        sound = 0 <= number < MOST_NUMBERED and float(words[0]) == number
        sound = sound and bool(np.isfinite(numbers).all())
        if not sound or len(numbers) % 2:
            raise MediaError(f"{path}, line {row}: not a class and pairs of numbers.")
        far = numbers[np.abs(numbers) > MOST_BEYOND]
        if far.size:
            raise MediaError(
                f"{path}, line {row}: {far[0]:g} is no fraction of the image's width or height; "
                "YOLO's coordinates are from 0 to 1, not pixels."
            )
        if len(numbers) >= 4:
            yield number, numbers.reshape(-1, 2)


def read_json(path: Path) -> Json:
    """Read a JSON file that contains an object; MediaError for other content."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise cannot_read(path, error) from None
    except PARSE_ERRORS as error:  # JSONDecodeError, UnicodeDecodeError, RecursionError
        raise MediaError(f"{path} is not a JSON file: {reason(error)}.") from None
    if not isinstance(data, dict):
        raise MediaError(f"{path} holds a {type(data).__name__}, not an object.")
    return data


def _fill_of(rings: Iterable[NDArray[np.float64]], *, edges: bool = False) -> Fill:
    """The function that fills outlines. edges: whether (0, 0) is known to be a pixel's corner."""
    return fill_inside if edges or follow_edges(rings) else fill_polygon


def _rings(segmentation: Any) -> list[NDArray[np.float64]]:
    """The outlines of a COCO segmentation; [] for run lengths."""
    if isinstance(segmentation, Mapping):
        return []
    if segmentation and isinstance(segmentation[0], int | float):
        segmentation = [segmentation]  # one outline without the list around it
    return [np.array(ring, np.float64).reshape(-1, 2) for ring in segmentation]


def _draw_segmentation(
    labels: NDArray[np.int32], segmentation: Any, number: int, fill: Fill
) -> None:
    """Draw polygons (lists of x, y, x, y ...) or run lengths, compressed or not."""
    if isinstance(segmentation, Mapping):
        runs = runs_of(segmentation)
        height, width = (int(extent) for extent in segmentation["size"])
        if (height, width) != labels.shape:
            raise ValueError(f"runs of {width}x{height} on an image of another size")
        labels[decode_runs(runs, (height, width))] = number
        return
    for ring in _rings(segmentation):
        fill(labels, ring, number)


def _coco_area(annotation: Json) -> float:
    """An annotation's area in pixels: as stated, else computed from outlines or run lengths."""
    stated = annotation.get("area")
    if stated:
        return float(stated)
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, Mapping):
        return float(sum(runs_of(segmentation)[1::2]))
    return sum(map(_ring_area, _rings(segmentation)))


def _ring_area(ring: NDArray[np.float64]) -> float:
    """The area of an outline (shoelace formula)."""
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _draw_labelme_shape(labels: NDArray[np.int32], shape: Json, number: int, fill: Fill) -> None:
    kind, points = _kind(shape), _points(shape)
    if LABELME_AREAS[kind] == 3:
        fill(labels, points, number)
    elif kind == "rectangle":  # two corners, or all four (X-AnyLabeling)
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        fill_polygon(labels, box(x0, y0, x1, y1), number)
    elif kind == "circle":
        centre, edge = points[:2]
        radius = float(np.hypot(*(edge - centre)))
        fill_circle(labels, (float(centre[0]), float(centre[1])), radius, number)
    elif kind == "mask":
        left, top = (round(float(value)) for value in points[0])
        mask = decode_mask(base64.b64decode(shape["mask"]))
        window = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
        window[mask[: window.shape[0], : window.shape[1]]] = number


def _malformed(path: Path, what: str, error: BaseException) -> MediaError:
    return MediaError(f"{path}: {what} can't be drawn: {reason(error)}.")
