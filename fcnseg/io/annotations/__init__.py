"""Rasterize polygons and run lengths of annotation tools; cache their parsed files."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import PARSE_ERRORS, MediaError, cannot_read, reason
from fcnseg.io import cv2
from fcnseg.io.content import MAX_PIXELS

T = TypeVar("T")

EDGES_KEY, EDGES = "points_at", "pixel edges"
"""Key and value in annotation files written by fcnseg: integer coordinates are pixel edges. Other
tools ignore it."""

_OFF_EDGE = 0.02
"""Tolerance in pixels for rounded coordinates on pixel edges."""

_FAR = 1 << 20  # pixels; beyond, OpenCV's fixed point overflows


def blank(size: tuple[int, int]) -> NDArray[np.int32]:
    """int32 (H, W) zeros to draw on; MediaError for an invalid size."""
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise MediaError(f"An image of {size[1]}x{size[0]} pixels (width x height).")
    return np.zeros(size, np.int32)


def fill_polygon(labels: NDArray[np.int32], outline: NDArray[np.floating], value: int) -> None:
    """Fill a polygon in int32 (H, W) labels, in place, by OpenCV's convention (cv2.fillPoly).

    outline: float (N, 2) x, y in pixels, pixel centers at integers, rounded to the nearest; the
        border is filled, too. MediaError for values that are not finite.
    """
    corners = np.rint(np.clip(_finite(outline), -_FAR, _FAR)).astype(np.int32)
    if len(corners):
        cv2.fillPoly(labels, [corners], (value,))


def fill_inside(labels: NDArray[np.int32], outline: NDArray[np.floating], value: int) -> None:
    """Fill a polygon in int32 (H, W) labels, in place: the pixels whose centers are inside.

    outline: float (N, 2) x, y in pixels; (0, 0) is the upper left corner of the first pixel.
        Even-odd rule, so that a hole connected by a bridge is outside. MediaError for values that
        are not finite.
    """
    height, width = labels.shape
    outline = np.clip(_finite(outline), -_FAR, _FAR)
    start, end = outline, np.roll(outline, -1, axis=0)
    upper, lower = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(upper - 0.5), 0, height).astype(np.int64)
    counts = np.clip(np.ceil(lower - 0.5), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (x0, y0), (dx, dy) = start[edge].T, (end - start)[edge].T
    columns = np.clip(np.ceil(x0 + (rows + 0.5 - y0) * dx / dy - 0.5), 0, width).astype(np.int64)
    if not len(rows):
        return
    top, left = int(rows.min()), int(columns.min())
    size = int(rows.max()) - top + 1, int(columns.max()) - left
    crossed = np.zeros((size[0], size[1] + 1), np.int32)
    np.add.at(crossed, (rows - top, columns - left), 1)
    inside = crossed.cumsum(axis=1)[:, :-1] % 2 == 1
    labels[top : top + size[0], left : left + size[1]][inside] = value


def _finite(outline: NDArray[np.floating]) -> NDArray[np.floating]:
    if not np.isfinite(outline).all():
        raise MediaError("An outline's corners are numbers; found one that is not.")
    return outline


def follow_edges(outlines: Iterable[NDArray[np.floating]]) -> bool:
    """Whether the outlines of an image were traced along pixel edges.

    Such outlines have only right angles, at integer coordinates. Rectangles are inconclusive, as
    outlines through pixel centers give them, too; those cut the corners of other shapes.
    """
    turns = False
    for outline in outlines:
        rounded = np.rint(outline)
        steps = np.abs(np.roll(rounded, -1, axis=0) - rounded)
        if np.abs(outline - rounded).max(initial=0) > _OFF_EDGE or (steps.min(axis=1) > 0).any():
            return False
        before = np.roll(steps, 1, axis=0)
        corners = np.count_nonzero((steps[:, 0] > 0) & (before[:, 1] > 0))
        turns |= bool(corners > 2)
    return turns


def box(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
    """A box as a polygon, float (4, 2)."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def rings_in(value: Any) -> list[NDArray[np.float64]]:
    """The outlines in a JSON value, float (N, 2) each: points [x, y] or {"x": x, "y": y}, a list of
    numbers, also as text, {"x": [...], "y": [...]}, or lists of these. In an object, the value of
    a key of OUTLINES counts, with its holes. [] for other values."""
    if isinstance(value, str):
        words = re.split(r"[\s,;]+", value.strip())
        value = [float(one) for one in words] if all(map(_NUMBER, words)) else []
    if isinstance(value, Mapping):
        keys = {word_of(key): one for key, one in value.items()}
        x, y = keys.get("x", keys.get("allpointsx")), keys.get("y", keys.get("allpointsy"))
        if isinstance(x, list) and isinstance(y, list):
            value = [*zip(x, y, strict=False)]
        elif value and all(key.isdecimal() for key in keys):
            value = [*value.values()]
        else:
            types = keys.get("types")
            parts = (_curved(rings_in(keys[key]), types) for key in OUTLINES if key in keys)
            holes = [ring for key in _HOLES if key in keys for ring in rings_in(keys[key])]
            return next(([*rings, *holes] for rings in parts if rings), [])
    if not isinstance(value, list):
        return []
    points = [_point(one) for one in value]
    if None not in points:
        return [np.array(points, np.float64)] if len(points) > 2 else []
    if all(_is_number(one) for one in value):
        even = len(value) % 2 == 0 and len(value) > 5
        return [np.array(value, np.float64).reshape(-1, 2)] if even else []
    return [ring for one in value if not is_named(one) for ring in rings_in(one)]


def _curved(rings: list[NDArray[np.float64]], types: Any) -> list[NDArray[np.float64]]:
    """An outline whose vertices have types (BDD100K), with cubic Bezier curves as line segments:
    from a vertex, by two control points (type C), to the next vertex."""
    if not isinstance(types, str) or "C" not in types or [len(types)] != [*map(len, rings)]:
        return rings
    corners, at = [*rings[0], rings[0][0]], 1
    drawn = [corners[:1]]
    while at < len(types):
        if types[at] == "C" and at + 2 < len(corners):
            drawn.append([*(_BEZIER @ np.array(corners[at - 1 : at + 3]))[1:]])
            at += 3
        else:
            drawn.append([corners[at]])
            at += 1
    return [np.array([corner for some in drawn for corner in some])]


_CURVE = np.linspace(0, 1, 17)[:, None]  # parameters along a curve

_BEZIER = np.array([1, 3, 3, 1]) * _CURVE ** [0, 1, 2, 3] * (1 - _CURVE) ** [3, 2, 1, 0]

_HOLES = ("interior", "interiors", "holes", "inner")

OUTLINES = (
    "polygon", "polygons", "points", "segmentation", "vertices", "normalizedvertices",
    "boundingpoly", "coordinates", "contour", "contours", "outline", "path", "paths", "poly",
    "poly2d", "exterior", "outer", "rings", "geometry", "allpoints", "shapeattributes",
)  # fmt: skip
"""Keys of outlines in JSON, normalized by `word_of`, most specific first."""

NAMES = (
    "label", "class", "classname", "category", "categoryname", "classtitle", "labelname",
    "classification", "tag", "tags", "labels", "categories", "classes", "featuretype",
)  # fmt: skip
"""Keys of an outline's class, normalized by `word_of`."""


def word_of(key: object) -> str:
    """A key in lower case without separators: `category_name` and `categoryName` become equal."""
    return re.sub(r"[\W_]+", "", str(key)).lower()


def is_named(value: object) -> bool:
    """Whether a JSON value is an object with a class."""
    return isinstance(value, Mapping) and not {*map(word_of, value)}.isdisjoint(NAMES)


_NUMBER = re.compile(r"-?\d+\.?\d*(?:[eE][+-]?\d+)?").fullmatch


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _point(value: object) -> tuple[float, float] | None:
    """A point's (x, y); None for other values."""
    if isinstance(value, Mapping):
        by_word = {word_of(key): one for key, one in value.items()}
        value = (by_word.get("x"), by_word.get("y"))
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0]), float(value[1])
    return None


def fill_circle(
    labels: NDArray[np.int32], center: tuple[float, float], radius: float, value: int
) -> None:
    """Fill a circle in int32 (H, W) labels, in place. center: x, y."""
    at = (round(center[0]), round(center[1]))
    cv2.circle(labels, at, max(0, round(radius)), (value,), thickness=-1)


def decode_runs(counts: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode COCO's run lengths to bool (H, W): column-major, beginning with a run of zeros.

    MediaError if the runs do not add up to the image's size.
    """
    lengths = np.asarray(counts, np.int64)
    if lengths.size == 0 or lengths.min() < 0 or int(lengths.sum()) != size[0] * size[1]:
        raise MediaError(
            f"Run lengths of {int(lengths.sum())} pixels for an image of {size[0] * size[1]}."
        )
    filled = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.asarray(filled.reshape(size[1], size[0]).T)


def runs_of(stored: Mapping[str, Any]) -> Sequence[int]:
    """The counts of COCO's run lengths, {"counts": ...}, compressed or not."""
    counts: Sequence[int] | str = stored["counts"]
    return unpack_runs(counts) if isinstance(counts, str) else counts


def unpack_runs(text: str | bytes) -> list[int]:
    """Decompress COCO's run lengths.

    A character, starting at "0", has five bits of the number and a continuation bit; from the
    fourth on, a number is the difference to the one two before. Source: cocoapi, maskApi.c.
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


class Cached(Generic[T]):
    """A parser that caches its last documents; MediaError, naming the file, for malformed ones.

    kept: maximum number of cached documents.
    """

    def __init__(self, parse: Callable[[Path], T], kept: int = 8) -> None:
        self.parse, self.kept = parse, kept
        self.documents: OrderedDict[tuple[Path, int], T] = OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, path: Path) -> T:
        """The parsed document of a file."""
        with self.lock:  # so that threads do not parse the same large file twice
            try:
                key = path, path.stat().st_mtime_ns
                if key not in self.documents:
                    self.documents[key] = self.parse(path)
                    while len(self.documents) > self.kept:
                        self.documents.popitem(last=False)
                return self.documents[key]
            except MediaError:
                raise
            except OSError as error:
                raise cannot_read(path, error) from None
            except PARSE_ERRORS as error:
                raise MediaError(f"{path} is malformed: {reason(error)}.") from None


def rectangles_in(labels: NDArray[np.integer], *, least: int = 64) -> tuple[int, int]:
    """Count the connected regions of values other than 0, and those that are filled rectangles.

    labels: (H, W). least: smaller regions, in pixels, are not counted.
    """
    regions, rectangles = 0, 0
    for value in np.unique(labels[labels != 0]).tolist():
        mask = (labels == value).view(np.uint8)
        stats = cv2.connectedComponentsWithStats(mask)[2][1:]
        areas = stats[:, cv2.CC_STAT_AREA]
        filled = areas == stats[:, cv2.CC_STAT_WIDTH] * stats[:, cv2.CC_STAT_HEIGHT]
        regions += int(np.count_nonzero(areas >= least))
        rectangles += int(np.count_nonzero(filled & (areas >= least)))
    return regions, rectangles
