"""Drawing: the fast ways equal the plain arithmetic."""

import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.io.draw import caption, colorize, heatmap, legend, overlay, side_by_side

RNG = np.random.default_rng(0)
CLASSES = ClassMap.of(["road", "sky", "Straße", "car"])
IMAGE = RNG.integers(0, 256, (24, 36, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, (24, 36), dtype=np.uint8)


def test_colorize_is_the_palette_looked_up():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(colorize(every, CLASSES), CLASSES.palette()[every])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_overlay_is_the_weighted_sum(alpha):
    expected = IMAGE * (1 - alpha) + CLASSES.palette()[LABELS] * alpha
    found = overlay(IMAGE, LABELS, CLASSES, alpha=alpha)
    assert np.abs(found - expected).max() <= 0.5 + 1e-4


def test_overlay_leaves_unknown_and_unwanted_pixels_alone():
    labels = LABELS.copy()
    labels[:5] = 255
    whole = overlay(IMAGE, labels, CLASSES)
    assert np.array_equal(whole[:5], IMAGE[:5])
    assert np.array_equal(whole[5:], overlay(IMAGE, LABELS, CLASSES)[5:])
    only = overlay(IMAGE, labels, CLASSES, only={1, 3})
    wanted = np.isin(labels, [1, 3])
    assert np.array_equal(only[~wanted], IMAGE[~wanted])
    assert np.array_equal(only[wanted], whole[wanted])


def test_overlay_does_not_touch_its_input():
    image, labels = IMAGE.copy(), LABELS.copy()
    overlay(image, labels, CLASSES, only=[1])
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(labels, LABELS)


def test_heatmap_gets_brighter_with_the_value():
    values = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(4, 0)
    luma = heatmap(np.zeros((4, 256, 3), np.uint8), values, alpha=1.0) @ [0.299, 0.587, 0.114]
    assert np.all(np.diff(luma[0]) > -1.5)
    assert luma[0, -1] - luma[0, 0] > 200
    red, blue = heatmap(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 0.6), alpha=1.0)[
        0, 0, [0, 2]
    ]
    assert red > 150 > blue  # inferno is red-orange there, never blue


def test_heatmap_survives_what_is_no_number():
    odd = np.array([[np.nan, -1.0, 2.0, np.inf]])
    edge = heatmap(np.zeros((1, 4, 3), np.uint8), odd)
    plain = heatmap(np.zeros((1, 4, 3), np.uint8), np.array([[0.0, 0.0, 1.0, 1.0]]))
    assert np.array_equal(edge, plain)


def test_side_by_side():
    row = side_by_side([IMAGE, IMAGE[:12], IMAGE])
    assert row.shape[0] == 24
    assert np.array_equal(row[:, :36], IMAGE)
    assert np.array_equal(row[:, -36:], IMAGE)
    grid = side_by_side([IMAGE] * 3, columns=2)
    assert grid.shape[0] > 48
    assert np.array_equal(grid[-24:, :36], IMAGE)


def test_caption_and_legend_hold_text():
    named = caption(IMAGE, "Straße 0.93")
    assert np.array_equal(named[-24:], IMAGE)
    assert named[:-24].max() > 200
    panel = legend(CLASSES)
    for color in CLASSES.colors:
        assert (panel == color).all(2).any()
    assert legend(CLASSES, height=24).shape[0] == 24
    assert not (legend(CLASSES, only=[1]) == CLASSES.colors[3]).all(2).any()


def test_where_nothing_is_found_the_image_is_seen():
    classes = ClassMap.of(["car", "background"])
    labels = np.ones((24, 36), np.uint8)
    assert np.array_equal(overlay(IMAGE, labels, classes), IMAGE)
    assert not np.array_equal(overlay(IMAGE, labels, classes, only=[1]), IMAGE)
    alone = ClassMap.of(["background"])
    assert not np.array_equal(overlay(IMAGE, labels * 0, alone), IMAGE)


def test_a_legend_of_many_classes_has_columns_that_can_be_read():
    many = ClassMap.numbered(30)
    panel = legend(many, height=64)
    assert panel.shape[0] == 64
    for color in many.colors:
        assert (panel == color).all(2).any()
