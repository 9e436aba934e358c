"""Shapes: rasterised again they are the labels; COCO's own decoder reads our run lengths."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from fcnseg.classes import ClassMap
from fcnseg.io.annotations.polygons import compressed, keyhole, regions, run_lengths
from fcnseg.io.annotations.tools import as_geojson, as_labelme
from fcnseg.io.sources.base import Frame

CLASSES = ClassMap.of(["road", "Straße", "car"])
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
FRAME = Frame(np.zeros((1, 1, 3), np.uint8), name="sub/a")


def inside(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which pixel centres lie in a closed line: crossings of a ray to the right, plainly."""
    result = np.zeros(size, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        for row in range(size[0]):
            y = row + 0.5
            if (y0 > y) != (y1 > y):
                x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                result[row, : max(0, int(np.ceil(x - 0.5)))] ^= True
    return result


@given(arrays(np.uint8, SIZES, elements=st.sampled_from([0, 1, 2, 255])))
@settings(max_examples=100, deadline=None)
def test_regions_cover_each_class_exactly(labels):
    for index in range(3):
        covered = np.zeros(labels.shape, int)
        for region in (one for one in regions(labels, range(3)) if one.index == index):
            mask = inside(region.outer, labels.shape)
            for hole in region.holes:
                mask &= ~inside(hole, labels.shape)
            assert mask.sum() == region.area
            covered += mask
        assert np.array_equal(covered, labels == index)


def test_geojson_holds_closed_rings_with_holes():
    labels = np.full((6, 8), 255, np.uint8)
    labels[1:5, 1:6] = 1
    labels[2:4, 2:4] = 255
    data = json.loads(as_geojson(labels, CLASSES, range(3)))
    [feature] = data["features"]
    assert feature["properties"] == {"class": "Straße", "index": 1, "area": 16}
    outer, hole = feature["geometry"]["coordinates"]
    assert outer[0] == outer[-1]
    assert sorted(map(tuple, outer[:-1])) == [(1, 1), (1, 5), (6, 1), (6, 5)]
    assert sorted(map(tuple, hole[:-1])) == [(2, 2), (2, 4), (4, 2), (4, 4)]


def test_labelme_drawn_in_order_is_the_labels():
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (6, 8)), np.ones((8, 8))).astype("u1")
    data = json.loads(as_labelme(labels, CLASSES, range(3), frame=FRAME))
    assert (data["imageHeight"], data["imageWidth"], data["imagePath"]) == (48, 64, "sub/a")
    canvas = Image.new("L", (64, 48), 255)
    for shape in data["shapes"]:
        points = np.array(shape["points"])
        mask = inside(points.astype(int), labels.shape)
        color = CLASSES.names.index(shape["label"])
        ImageDraw.Draw(canvas).bitmap((0, 0), Image.fromarray(mask), fill=color)
    assert np.array_equal(np.asarray(canvas), labels)


@given(arrays(np.uint8, SIZES, elements=st.sampled_from([1, 255, 255])))
@settings(max_examples=200, deadline=None)
def test_a_hole_stays_a_hole_where_nothing_is_drawn_over_it(labels):
    data = json.loads(as_labelme(labels, CLASSES, range(3), frame=FRAME))
    covered = np.zeros(labels.shape, int)
    for shape in data["shapes"]:
        covered += inside(np.array(shape["points"]), labels.shape)
    assert np.array_equal(covered, labels == 1)


@given(arrays(bool, SIZES))
@settings(max_examples=100, deadline=None)
def test_run_lengths_are_cocos(mask):
    coco = pytest.importorskip("faster_coco_eval").mask
    runs = run_lengths(mask)
    counts = compressed(runs)
    rle = {"size": list(mask.shape), "counts": counts}
    assert np.array_equal(coco.decode(rle), mask)
    reference = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert counts == (reference.decode() if isinstance(reference, bytes) else reference)


def test_long_runs():
    coco = pytest.importorskip("faster_coco_eval").mask
    mask = np.zeros((700, 900), bool)
    mask[100:650, 200:820] = True
    rle = {"size": [700, 900], "counts": compressed(run_lengths(mask))}
    assert np.array_equal(coco.decode(rle), mask)


# Simplified


def distance(points: np.ndarray, ring: np.ndarray) -> float:
    """How far the furthest of points lies from a closed line."""
    start, along = ring, np.roll(ring, -1, axis=0) - ring
    to = points[:, None] - start
    share = np.clip((to * along).sum(2) / np.maximum((along**2).sum(1), 1e-9), 0, 1)
    return float(np.hypot(*(np.moveaxis(to - share[..., None] * along, -1, 0))).min(1).max())


def crossings(region) -> int:
    """Pairs of edges of a region that cross, plainly."""
    rings = [region.outer, *region.holes]
    edges = [pair for ring in rings for pair in zip(ring, np.roll(ring, -1, axis=0), strict=True)]

    def side(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    return sum(
        side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        for index, (a, b) in enumerate(edges)
        for c, d in edges[:index]
    )


def blobs(seed: int, size=(40, 56)) -> np.ndarray:
    """Labels of three classes with smooth borders, islands and holes."""
    y, x = np.mgrid[: size[0], : size[1]]
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8)
    for _ in range(9):
        cy, cx, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(2, 14)
        labels[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = rng.integers(0, 3)
    return labels


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tolerance", [0.8, 1.5, 4.0])
def test_simplified_borders_stay_near_and_do_not_cross(seed, tolerance):
    labels = blobs(seed)
    exact, fewer = (
        list(regions(labels, range(3))),
        list(regions(labels, range(3), tolerance=tolerance)),
    )
    assert len(exact) == len(fewer)
    for one, other in zip(exact, fewer, strict=True):
        assert (one.index, len(one.holes)) == (other.index, len(other.holes))
        pairs = zip((one.outer, *one.holes), (other.outer, *other.holes), strict=True)
        assert all(distance(ring, line) <= tolerance + 1e-9 for ring, line in pairs)
        assert crossings(other) == 0
        assert other.area > 0
    corners = [
        sum(len(r.outer) + sum(map(len, r.holes)) for r in found) for found in (exact, fewer)
    ]
    assert corners[1] < 0.8 * corners[0]


def test_neighbours_share_their_simplified_border():
    labels = np.zeros((60, 60), np.uint8)
    y, x = np.mgrid[:60, :60]
    labels[x > 30 + 8 * np.sin(y / 7)] = 1
    labels[(y - 30) ** 2 + (x - 44) ** 2 < 80] = 2
    found = list(regions(labels, range(3), tolerance=1.5))
    assert sum(region.area for region in found) == labels.size  # no gap and no overlap, in sum
    island = next(region for region in found if region.index == 2)
    sea = next(region for region in found if region.index == 1)
    assert {tuple(p) for p in island.outer.tolist()} == {tuple(p) for p in sea.holes[0].tolist()}


@given(arrays(np.uint8, SIZES, elements=st.sampled_from([0, 1, 2, 255])), st.floats(0.3, 3))
@settings(max_examples=100, deadline=None)
def test_nothing_is_lost_by_simplifying(labels, tolerance):
    exact = list(regions(labels, range(3)))
    fewer = list(regions(labels, range(3), tolerance=tolerance))
    assert [r.index for r in exact] == [r.index for r in fewer]
    assert all(r.area > 0 and crossings(r) == 0 for r in fewer)
    for region in fewer:
        assert len(keyhole(region)) >= 3
