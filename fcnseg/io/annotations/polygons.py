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
"""(N, 2): the corners (x, y) of a closed line, the first not repeated; whole numbers as traced."""


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


def regions(
    labels: NDArray[np.uint8], only: Iterable[int], *, tolerance: float = 0.0
) -> Iterator[Region]:
    """The connected parts of each class of uint8 (H, W) labels (touching corners connect).

    only: the class indices. tolerance: pixels by which simplified borders may be off; 0: along
    the pixels' edges, exact. See `simplified`.
    """
    nodes = junctions(labels) if tolerance else None
    for index in only:
        for region in _regions_of(index, labels == index):
            yield region if nodes is None else simplified(region, nodes, tolerance)


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
    rise = np.where(low == high, 1, after[:, 1] - here[:, 1])  # level edges are not met
    at = here[:, 0] + (y - here[:, 1]) * (after[:, 0] - here[:, 0]) / rise
    met = np.flatnonzero((low != high) & (low <= y) & (y <= high) & (at <= x))
    edge = int(met[at[met].argmax()])
    foot = np.array([[at[edge], y]])
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


def junctions(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool (H + 1, W + 1): the corners of pixels that a simplified border keeps.

    These are where borders meet (three labels, or two in a chequer) and the image's own corners.
    """
    padded = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    four = np.sort(np.stack([a, b, c, d]), axis=0)
    met = np.diff(four, axis=0).astype(bool).sum(axis=0) >= 2
    met |= (a == d) & (b == c) & (a != b)
    met[:: met.shape[0] - 1, :: met.shape[1] - 1] = True
    return np.asarray(met)


def simplified(region: Region, nodes: NDArray[np.bool_], tolerance: float) -> Region:
    """A region with fewer corners (Douglas and Peucker), none further off than the tolerance.

    Borders are simplified from junction to junction (`junctions`), so that neighbours still fit
    and holes stay holes. Where lines would cross, a hole would come to lie outside or nothing
    would be left, it is tried with half the tolerance, and after that kept as it is.
    """
    for allowed in (tolerance, tolerance / 2):
        outer, *holes = (_fewer(ring, nodes, allowed) for ring in (region.outer, *region.holes))
        flat = any(len(ring) < 3 or ring_area(ring) == 0 for ring in (outer, *holes))
        if not flat and all(_reaches_into(h, outer) for h in holes) and not _cross([outer, *holes]):
            return Region(region.index, outer, tuple(holes))
    return region


def _fewer(ring: Ring, nodes: NDArray[np.bool_], tolerance: float) -> Ring:
    line = _with_nodes(ring, nodes)
    places = np.flatnonzero(nodes[line[:, 1], line[:, 0]])
    if not len(places):  # an island: both of its sides are to begin at the same corner
        places = np.lexsort(line.T)[:1]
    line = np.roll(line, -int(places[0]), axis=0)
    stops = [*(places - places[0]).tolist(), len(line)]
    line = np.vstack([line, line[:1]])
    arcs = [line[start : stop + 1] for start, stop in itertools.pairwise(stops)]
    return np.vstack([_fewer_of_arc(arc, tolerance)[:-1] for arc in arcs])


def _with_nodes(ring: Ring, nodes: NDArray[np.bool_]) -> Ring:
    """A ring along the pixels' edges with the junctions that it passes."""
    after = np.roll(ring, -1, axis=0)
    lengths = np.abs(after - ring).max(axis=1)
    corner = np.repeat(np.arange(len(ring)), lengths)
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    points = ring[corner] + np.sign(after - ring)[corner] * step[:, None]
    return np.asarray(points[(step == 0) | nodes[points[:, 1], points[:, 0]]])


def _fewer_of_arc(arc: Ring, tolerance: float) -> Ring:
    """The same corners of an arc from whichever end, and side, it is looked at."""
    ends = [(*arc[0], *arc[1]), (*arc[-1], *arc[-2])]
    if ends[1] < ends[0]:
        return _fewer_of_arc(arc[::-1], tolerance)[::-1]
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
    """Of points (N, 2) from the straight line between two."""
    along = end - start
    position = np.clip((points - start) @ along / max(1, along @ along), 0, 1)
    return np.asarray(np.hypot(*(points - start - position[:, None] * along).T))


def _reaches_into(hole: Ring, outer: Ring) -> bool:
    """Whether a corner or the middle of an edge of a hole is inside (crossings of a ray)."""
    points = np.vstack([hole, (hole + np.roll(hole, -1, axis=0)) / 2])
    here, after = outer, np.roll(outer, -1, axis=0)
    rise = np.where(here[:, 1] == after[:, 1], 1, after[:, 1] - here[:, 1])
    x, y = points[:, :1], points[:, 1:]
    spans = (here[:, 1] > y) != (after[:, 1] > y)
    right = here[:, 0] + (y - here[:, 1]) * (after[:, 0] - here[:, 0]) / rise > x
    return bool((np.count_nonzero(spans & right, axis=1) % 2 == 1).any())


def _cross(rings: Sequence[Ring]) -> bool:
    """Whether any two edges of closed lines cross; touching is no crossing."""
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
    """-1, 0 or 1: on which side of a line from start to end a point lies."""
    along, to = end - start, point - start
    return np.asarray(np.sign(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]))
