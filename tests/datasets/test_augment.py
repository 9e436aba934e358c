"""Variations against a plain loop over pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcnseg.classes import IGNORE
from fcnseg.datasets.augment import Augment, color_matrix
from fcnseg.errors import OptionError
from fcnseg.io.warp import crop_grid, histogram, mix_channels, rotated, sample_image, sample_labels

IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8), (90, 70))
LABELS = np.random.default_rng(1).integers(0, 200, (70, 90)).astype(np.uint8)


def nearest(labels: np.ndarray, scale: float, corner: tuple[float, float], flip: int | None,
            size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The label under each output pixel's centre, by the definition; and how near a tie it is."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    x = x if flip is None else flip - 1 - x
    y, x = ((at + 0.5 + start) / scale - 0.5 for at, start in ((y, corner[0]), (x, corner[1])))
    rows, columns = np.rint(y).astype(int), np.rint(x).astype(int)
    inside = (rows >= 0) & (rows < labels.shape[0]) & (columns >= 0) & (columns < labels.shape[1])
    found = labels[rows.clip(0, labels.shape[0] - 1), columns.clip(0, labels.shape[1] - 1)]
    tie = np.minimum(np.abs(y % 1 - 0.5), np.abs(x % 1 - 0.5))
    return np.where(inside, found, IGNORE), tie


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(0.4, 3),
    corner=st.tuples(st.floats(-20, 60), st.floats(-20, 60)),
    flip=st.booleans(),
)
def test_labels_are_the_nearest_pixels(
    scale: float, corner: tuple[float, float], flip: bool
) -> None:
    grid = crop_grid(scale, corner, flip_width=40 if flip else None)
    found = sample_labels(LABELS, grid, (32, 40), IGNORE)
    expected, tie = nearest(LABELS, scale, corner, 40 if flip else None, (32, 40))
    clear = tie > 2e-3  # OpenCV 4 computes positions to a thousandth of a pixel
    np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.parametrize("scale", [0.15, 0.26, 0.4, 0.5, 0.75, 1.0, 1.9])
def test_a_ramp_stays_where_it_is_at_any_scale(scale: float) -> None:
    """Image and labels share a grid: a ramp sampled anywhere has the value of the place."""
    ramp = np.zeros((120, 240, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(240), np.arange(120)[:, None] * 2
    size = int(120 * scale), int(240 * scale)
    found = sample_image(ramp, crop_grid(scale, (0, 0)), size, (0, 0, 0)).astype(float)
    y, x = (np.arange(extent) for extent in size)
    inner = (slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(
        found[..., 0][inner], np.broadcast_to((x + 0.5) / scale - 0.5, size)[inner], atol=1.01
    )
    np.testing.assert_allclose(
        found[..., 1][inner],
        np.broadcast_to(2 * ((y + 0.5) / scale - 0.5)[:, None], size)[inner],
        atol=1.01,
    )


def test_shrinking_a_lot_averages() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (240, 240, 3)).astype(np.uint8)
    small = sample_image(noise, crop_grid(0.125, (0, 0)), (30, 30), (0, 0, 0))
    assert small.std() < noise.std() / 4


def test_a_turn_is_a_turn() -> None:
    grid = rotated(crop_grid(1.0, (-10, 10)), (90, 70), math.pi / 2)
    found = sample_labels(LABELS, grid, (90, 70), IGNORE)
    np.testing.assert_array_equal(found, np.rot90(LABELS, -1))
    small = rotated(crop_grid(1.0, (15, 20)), (40, 50), math.radians(10))
    centre = small @ np.array([24.5, 19.5, 1.0])
    np.testing.assert_allclose(centre, [44.5, 34.5])
    right = small @ np.array([44.5, 19.5, 1.0]) - centre
    cos, sin = math.cos(math.radians(10)), math.sin(math.radians(10))
    np.testing.assert_allclose(right, (20 * cos, -20 * sin))


def test_turns_are_drawn_from_both_sides_and_labels_go_along() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    image = np.repeat(ramp[..., None], 3, 2)
    augment = Augment((64, 64), scale=(1, 1), flip=0, color=0, rotate=20)
    rng, slopes = np.random.default_rng(0), []
    for _ in range(60):
        seen, labels = augment(image, ramp, rng)
        inside = labels != IGNORE
        inner = cv2.erode(inside.astype(np.uint8), np.ones((3, 3))) > 0  # fill blends at the edge
        off = np.where(inner, np.abs(seen[..., 0].astype(int) - labels), 0)
        assert off[1:-1, 1:-1].max() <= 1
        if inside.all():
            slopes.append(math.degrees(math.atan(np.diff(labels.astype(int), axis=0).mean())))
    assert len(slopes) > 20
    assert -21 < min(slopes) < -12
    assert 12 < max(slopes) < 21


def test_the_same_draw_gives_the_same_crop() -> None:
    augment = Augment((48, 64))
    first, second = (augment(IMAGE, LABELS, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].shape == (48, 64, 3)
    assert first[0].dtype == first[1].dtype == np.uint8


def test_around_the_image_is_fill_and_ignore() -> None:
    augment = Augment((100, 120), scale=(1, 1), flip=0, color=0)
    image, labels = augment(IMAGE, LABELS, np.random.default_rng(0), fill=(1, 2, 3))
    outside = labels == IGNORE
    assert outside.sum() == 100 * 120 - 70 * 90
    assert (image[outside] == (1, 2, 3)).mean() > 0.95  # a fraction of a pixel blends at the edge


def test_scales_stay_in_their_range_and_crops_inside() -> None:
    augment = Augment((32, 40), scale=(1, 2), flip=0.5, color=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        _, labels = augment(IMAGE, LABELS, rng)
        assert (labels != IGNORE).all()


def test_flips_happen_as_often_as_said() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    image = np.repeat(ramp[..., None], 3, 2)
    for chance in (0.0, 0.5, 1.0):
        augment = Augment((48, 64), scale=(1, 1), flip=chance, color=0)
        rng = np.random.default_rng(0)
        mirrored = [augment(image, ramp, rng)[1][0, 0] > 32 for _ in range(200)]
        assert abs(np.mean(mirrored) - chance) < 0.1


@pytest.mark.parametrize("crop", [(0, 5), (5, 0)])
def test_an_empty_crop_is_refused(crop: tuple[int, int]) -> None:
    with pytest.raises(OptionError, match="crop"):
        Augment(crop)


def test_color_strength_zero_changes_nothing() -> None:
    matrix = color_matrix(0.0, np.random.default_rng(0))
    np.testing.assert_allclose(matrix, np.eye(3, 4), atol=1e-9)


def test_hue_and_saturation_keep_the_luma() -> None:
    rng = np.random.default_rng(0)
    luma = np.array([0.299, 0.587, 0.114])
    for _ in range(20):
        matrix = color_matrix(0.5, rng)
        grey = matrix[:, :3] @ np.full(3, 100.0)
        assert np.ptp(grey) < 1e-6  # grey stays grey
        gain = grey[0] / 100
        color = np.array([200.0, 40.0, 90.0])
        assert luma @ (matrix[:, :3] @ color) == pytest.approx(gain * (luma @ color), rel=1e-6)


def test_channels_mix_as_a_matrix_does() -> None:
    matrix = color_matrix(0.4, np.random.default_rng(3))
    expected = IMAGE.reshape(-1, 3) @ matrix[:, :3].T + matrix[:, 3]
    found = mix_channels(IMAGE, matrix).reshape(-1, 3)
    np.testing.assert_allclose(found, np.clip(expected, 0, 255), atol=1)


def test_a_histogram_counts() -> None:
    np.testing.assert_array_equal(histogram(LABELS), np.bincount(LABELS.ravel(), minlength=256))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), crop=st.sampled_from([(16, 16), (32, 48), (96, 80)]))
def test_a_wanted_class_is_in_the_crop(seed: int, crop: tuple[int, int]) -> None:
    labels = np.zeros((70, 90), np.uint8)
    labels[61:64, 3:6] = 2  # nine pixels in a corner
    labels[:, 40] = IGNORE
    vary = Augment(crop, scale=(1.0, 3.0), rare=1.0, rarity=(0.0, 5.0, 1.0))
    found = vary(IMAGE, labels, np.random.default_rng(seed))[1]
    assert (found == 2).any()


def test_rare_crops_are_a_share_and_need_the_class() -> None:
    labels = np.zeros((70, 90), np.uint8)
    labels[10, 10] = 1
    seen = []
    for rare in (0.0, 0.5, 1.0):
        vary = Augment((16, 16), scale=(1.0, 1.0), rare=rare, rarity=(1.0, 1e9))
        rngs = [np.random.default_rng(seed) for seed in range(300)]
        seen.append(np.mean([(vary(IMAGE, labels, rng)[1] == 1).any() for rng in rngs]))
    assert seen[0] < 0.1
    assert 0.4 < seen[1] < 0.65
    assert seen[2] == 1
    empty = np.full_like(labels, IGNORE)
    vary = Augment((16, 16), rare=1.0, rarity=(1.0, 1.0))
    assert (vary(IMAGE, empty, np.random.default_rng(0))[1] == IGNORE).all()
