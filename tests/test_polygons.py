"""Shapes: rasterised again they are the labels; COCO's own decoder reads our run lengths."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from fcnseg.classes import ClassMap
from fcnseg.io.polygons import as_geojson, as_labelme, compressed, regions, run_lengths
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
        for region in (one for one in regions(labels, CLASSES) if one.index == index):
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
    data = json.loads(as_geojson(labels, CLASSES))
    [feature] = data["features"]
    assert feature["properties"] == {"class": "Straße", "index": 1, "area": 16}
    outer, hole = feature["geometry"]["coordinates"]
    assert outer[0] == outer[-1]
    assert sorted(map(tuple, outer[:-1])) == [(1, 1), (1, 5), (6, 1), (6, 5)]
    assert sorted(map(tuple, hole[:-1])) == [(2, 2), (2, 4), (4, 2), (4, 4)]


def test_labelme_drawn_in_order_is_the_labels():
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (6, 8)), np.ones((8, 8))).astype("u1")
    data = json.loads(as_labelme(labels, CLASSES, frame=FRAME))
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
    data = json.loads(as_labelme(labels, CLASSES, frame=FRAME))
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
