"""Boundary IoU and F1 against loops over pixels, and against OpenCV's erosion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fcnseg.metrics import regions
from fcnseg.metrics.regions import (
    band_width,
    boundary_counts,
    boundary_f1,
    boundary_iou,
    class_band,
    distances,
    outlines,
)

IGNORE, CLASSES = 255, 3


@st.composite
def pair_of_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
    values = st.one_of(st.integers(0, CLASSES - 1), st.just(IGNORE))
    labels = draw(hnp.arrays(np.uint8, shape, elements=values))
    predicted = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, CLASSES - 1)))
    return labels, predicted


def band_by_loop(labels: np.ndarray, distance: int) -> np.ndarray:
    height, width = labels.shape
    band = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(width):
            for v in range(y - distance, y + distance + 1):
                for u in range(x - distance, x + distance + 1):
                    outside = not (0 <= v < height and 0 <= u < width)
                    if outside or labels[v, u] not in (labels[y, x], IGNORE):
                        band[y, x] = True
    return band


def edge_by_loop(labels: np.ndarray, k: int) -> set[tuple[int, int]]:
    height, width = labels.shape
    found = set()
    for y, x in zip(*np.nonzero(labels == k), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < height and 0 <= u < width
            if inside and labels[v, u] not in (k, IGNORE):
                found.add((int(y), int(x)))
    return found


@settings(max_examples=40, deadline=None)
@given(pair_of_maps(), st.integers(1, 3))
def test_boundary_iou_is_that_of_a_loop(maps: tuple[np.ndarray, np.ndarray], width: int) -> None:
    labels, predicted = maps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "band_width", lambda size: width)
        ours = boundary_iou(boundary_counts(labels, predicted, CLASSES, 1))
    predicted = np.where(labels == IGNORE, IGNORE, predicted)
    true_band, found_band = band_by_loop(labels, width), band_by_loop(predicted, width)
    for k in range(CLASSES):
        true, found = (labels == k) & true_band, (predicted == k) & found_band
        if not true.any():  # no such class, or no outline: amid ignored pixels there is none
            assert ours[k] is None
        else:
            assert ours[k] == pytest.approx((true & found).sum() / (true | found).sum())


@settings(max_examples=40, deadline=None)
@given(pair_of_maps(), st.integers(0, 3))
def test_boundary_f1_is_that_of_a_loop(maps: tuple[np.ndarray, np.ndarray], by: int) -> None:
    labels, predicted = maps
    ours = boundary_f1(boundary_counts(labels, predicted, CLASSES, by))
    predicted = np.where(labels == IGNORE, IGNORE, predicted)

    def near(one: set[tuple[int, int]], other: set[tuple[int, int]]) -> int:
        return sum(any((y - v) ** 2 + (x - u) ** 2 <= by * by for v, u in other) for y, x in one)

    for k in range(CLASSES):
        true, found = edge_by_loop(labels, k), edge_by_loop(predicted, k)
        if not true:
            assert ours[k] is None
            continue
        recall = near(true, found) / len(true)
        precision = near(found, true) / len(found) if found else 0.0
        wanted = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
        assert ours[k] == pytest.approx(wanted)


def test_a_band_is_what_the_papers_erosion_takes_away() -> None:
    """A mask with a margin of zeros, eroded d times by a 3x3 square, as its authors do it."""
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.random((60, 80)), 4) > 0.5
    for distance in (1, 2, 5):
        padded = np.pad(mask, 1)
        eroded = ndimage.binary_erosion(
            padded, np.ones((3, 3)), iterations=distance, border_value=1
        )[1:-1, 1:-1]
        ours = mask & class_band(mask.astype(np.uint8), distance)
        assert (ours == (mask & ~eroded)).all()
    assert band_width((360, 480)) == 12
    assert band_width((1, 1)) == 1


def test_one_pixel_halves_the_iou_of_a_thin_thing_and_not_its_f1() -> None:
    labels, predicted = np.zeros((2, 40, 40), np.uint8)
    labels[:, 20:22] = 1
    predicted[:, 21:23] = 1
    counts = boundary_counts(labels, predicted, 2, 1)
    assert boundary_f1(counts)[1] == 1
    assert boundary_iou(counts)[1] == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(pair_of_maps())
def test_distances_are_scipys_chessboard_distances(maps: tuple[np.ndarray, np.ndarray]) -> None:
    labels, _ = maps
    edge = outlines(labels) != IGNORE
    ours = distances(labels, (1, 3))
    if not edge.any():
        assert (ours == 2).all()
        return
    far = ndimage.distance_transform_cdt(~edge, "chessboard")
    assert (ours == (far > 1).astype(int) + (far > 3)).all()
