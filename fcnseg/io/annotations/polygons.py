"""Labels to polygons and run lengths."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.io import cv2

Ring = NDArray[Any]
"""(N, 2): vertices (x, y) of a closed polygon, the first not repeated; integers as traced."""


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of one class.

    index: the class. outer: its outer ring; holes: the rings of its holes. area: in pixels.
    """

    index: int
    outer: Ring
    holes: tuple[Ring, ...]

    @property
    def area(self) -> float:
        """Area in pixels, without holes."""
        return ring_area(self.outer) - sum(ring_area(hole) for hole in self.holes)


def regions(
    labels: NDArray[np.uint8], only: Iterable[int], *, tolerance: float = 0.0
) -> Iterator[Region]:
    """Yield the connected regions of each class in uint8 (H, W) labels (8-connectivity).

    only: the class indices. tolerance: maximum deviation of simplified borders in pixels; 0 for
    exact borders along pixel edges. See `simplified`.
    """
    nodes = junctions(labels) if tolerance else None
    for index in only:
        for region in _regions_of(index, labels == index):
            yield region if nodes is None else simplified(region, nodes, tolerance)


def keyhole(region: Region) -> Ring:
    """A region with holes as one closed polygon.

    From each hole's leftmost vertex a bridge goes left to the nearest edge, which belongs to the
    outer ring or to a hole further left, which is connected already.
    """
    line = region.outer
    forwards = _signed_area(line) > 0
    for hole in sorted(region.holes, key=lambda ring: ring.min(axis=0)[0]):
        ring = hole if (_signed_area(hole) > 0) != forwards else hole[::-1]
        ring = np.roll(ring, -int(ring[:, 0].argmin()), axis=0)
        line = _bridged(line, np.vstack([ring, ring[:1]]))
    return line


def _bridged(line: Ring, loop: Ring) -> Ring:
    """Insert a horizontal bridge to a loop's start, the loop, and the way back into a polygon."""
    x, y = loop[0]
    here, after = line, np.roll(line, -1, axis=0)
    low, high = np.minimum(here[:, 1], after[:, 1]), np.maximum(here[:, 1], after[:, 1])
    rise = np.where(low == high, 1, after[:, 1] - here[:, 1])  # horizontal edges are ignored
    at = here[:, 0] + (y - here[:, 1]) * (after[:, 0] - here[:, 0]) / rise
    met = np.flatnonzero((low != high) & (low <= y) & (y <= high) & (at <= x))
    edge = int(met[at[met].argmax()])
    foot = np.array([[at[edge], y]])
    return np.vstack([line[: edge + 1], foot, loop, foot, line[edge + 1 :]])


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """bool (H, W) as COCO's run lengths: column-major, beginning with a run of zeros."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff([0, *changes, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def compressed(runs: list[int]) -> str:
    """Run lengths as COCO's compressed text (its rleToString): differences in groups of 5 bits."""
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
    """Yield the regions of a bool (H, W) mask.

    OpenCV's contours go through the centers of border pixels. At twice the size, a border pixel
    center at x corresponds to the original's edge (x + 1) // 2, exactly.
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
    """Remove repeated and collinear points from a ring."""
    ring = ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    back = np.sum(before * after, axis=1) < 0
    return np.asarray(ring[turns | back])


def ring_area(ring: Ring) -> float:
    """The area of a ring in square pixels."""
    return abs(_signed_area(ring)) / 2


def _signed_area(ring: Ring) -> float:
    """Twice the area of a ring; the sign gives its orientation."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def junctions(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool (H + 1, W + 1): pixel corners that simplified borders must keep.

    These are where borders meet (three labels, or two in a checkerboard) and the image's corners.
    """
    padded = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    four = np.sort(np.stack([a, b, c, d]), axis=0)
    met = np.diff(four, axis=0).astype(bool).sum(axis=0) >= 2
    met |= (a == d) & (b == c) & (a != b)
    met[:: met.shape[0] - 1, :: met.shape[1] - 1] = True
    return np.asarray(met)


def simplified(region: Region, nodes: NDArray[np.bool_], tolerance: float) -> Region:
    """Simplify a region (Douglas-Peucker); no vertex is further off than the tolerance.

    Borders are simplified between junctions (`junctions`), so that adjacent regions still match.
    If lines cross, a hole is no longer inside or a ring collapses, half the tolerance is tried,
    and then the region is returned unchanged.
    """
    for allowed in (tolerance, tolerance / 2):
        outer, *holes = (
            _simplified_ring(ring, nodes, allowed) for ring in (region.outer, *region.holes)
        )
        flat = any(len(ring) < 3 or ring_area(ring) == 0 for ring in (outer, *holes))
        if not flat and all(_reaches_into(h, outer) for h in holes) and not _cross([outer, *holes]):
            return Region(region.index, outer, tuple(holes))
    return region


def _simplified_ring(ring: Ring, nodes: NDArray[np.bool_], tolerance: float) -> Ring:
    line = _with_nodes(ring, nodes)
    places = np.flatnonzero(nodes[line[:, 1], line[:, 0]])
    if not len(places):  # an island: its inner and outer border must start at the same vertex
        places = np.lexsort(line.T)[:1]
    line = np.roll(line, -int(places[0]), axis=0)
    stops = [*(places - places[0]).tolist(), len(line)]
    line = np.vstack([line, line[:1]])
    arcs = [line[start : stop + 1] for start, stop in itertools.pairwise(stops)]
    return np.vstack([_simplified_arc(arc, tolerance)[:-1] for arc in arcs])


def _with_nodes(ring: Ring, nodes: NDArray[np.bool_]) -> Ring:
    """Add the junctions that a ring along pixel edges passes to its vertices."""
    after = np.roll(ring, -1, axis=0)
    lengths = np.abs(after - ring).max(axis=1)
    corner = np.repeat(np.arange(len(ring)), lengths)
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    points = ring[corner] + np.sign(after - ring)[corner] * step[:, None]
    return np.asarray(points[(step == 0) | nodes[points[:, 1], points[:, 0]]])


def _simplified_arc(arc: Ring, tolerance: float) -> Ring:
    """Simplify an arc; the result does not depend on its direction."""
    ends = [(*arc[0], *arc[1]), (*arc[-1], *arc[-2])]
    if ends[1] < ends[0]:
        return _simplified_arc(arc[::-1], tolerance)[::-1]
    keep = np.zeros(len(arc), bool)
    keep[[0, -1]] = True
    pending = [(0, len(arc) - 1)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        away = _distances(arc[first + 1 : last], arc[first], arc[last])
        if away.max() > tolerance:
            middle = first + 1 + int(away.argmax())
            keep[middle] = True
            pending += [(first, middle), (middle, last)]
    return arc[keep]


def _distances(points: Ring, start: Ring, end: Ring) -> NDArray[np.float64]:
    """Distances of points (N, 2) from a line segment."""
    along = end - start
    position = np.clip((points - start) @ along / max(1, along @ along), 0, 1)
    return np.asarray(np.hypot(*(points - start - position[:, None] * along).T))


def _reaches_into(hole: Ring, outer: Ring) -> bool:
    """Whether a vertex or an edge's midpoint of a hole is inside (ray casting)."""
    points = np.vstack([hole, (hole + np.roll(hole, -1, axis=0)) / 2])
    here, after = outer, np.roll(outer, -1, axis=0)
    rise = np.where(here[:, 1] == after[:, 1], 1, after[:, 1] - here[:, 1])
    x, y = points[:, :1], points[:, 1:]
    spans = (here[:, 1] > y) != (after[:, 1] > y)
    right = here[:, 0] + (y - here[:, 1]) * (after[:, 0] - here[:, 0]) / rise > x
    return bool((np.count_nonzero(spans & right, axis=1) % 2 == 1).any())


def _cross(rings: Sequence[Ring]) -> bool:
    """Whether any two edges of rings cross; touching does not count."""
    edges = np.vstack([np.hstack([ring, np.roll(ring, -1, axis=0)]) for ring in rings])
    left, right = np.minimum(edges[:, 0], edges[:, 2]), np.maximum(edges[:, 0], edges[:, 2])
    order = np.argsort(left, kind="stable")
    edges, left, right = edges[order], left[order], right[order]
    ends = np.searchsorted(left, right, side="left")
    for number, end in enumerate(ends.tolist()):
        a, b = edges[number, :2], edges[number, 2:]
        c, d = edges[number + 1 : end, :2], edges[number + 1 : end, 2:]
        apart = _side(a, b, c) * _side(a, b, d) < 0
        if np.any(apart & (_side(c, d, a) * _side(c, d, b) < 0)):
            return True
    return False


def _side(start: Ring, end: Ring, point: Ring) -> NDArray[Any]:
    """-1, 0 or 1: the side of a line from start to end on which a point lies."""
    along, to = end - start, point - start
    return np.asarray(np.sign(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]))
