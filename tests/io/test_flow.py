"""Motion between frames: found, measured in the right pixels, and doubted where it should be."""

import itertools

import numpy as np
import pytest

from fcnseg.commands.demo.scenes import draw, make_scene
from fcnseg.exporting.parity import sample_images
from fcnseg.io.warp import LONGEST, Motion, Tracker, warp_labels


def texture(height, width, seed=0):
    return sample_images((1, height, width), seed=seed)[0]


def motion(past, now):
    tracker = Tracker()
    assert tracker.next(past) is None
    return tracker.next(now)


@pytest.mark.parametrize("size", [(120, 160), (2 * LONGEST // 3, 2 * LONGEST)])
def test_a_shift_is_found_in_the_frames_own_pixels(size):
    height, width = size
    wide = texture(height + 4, width + 8)
    past, now = wide[4:, 8:], wide[:height, :width]  # all moves 8 to the right and 4 down
    places, trust = motion(past, now).at(size)
    y, x = np.mgrid[:height, :width]
    inner = np.s_[16:-16, 24:-24]
    assert np.median(np.abs(places[..., 0] - (x - 8))[inner]) < 0.7
    assert np.median(np.abs(places[..., 1] - (y - 4))[inner]) < 0.7
    assert np.mean(trust[inner] > 0.9) > 0.95


def test_what_was_outside_is_not_trusted():
    flow = np.zeros((10, 20, 2), np.float32)
    flow[..., 0] = -3  # all came from the left
    places, trust = Motion(flow, np.ones((10, 20), np.float32)).at((20, 40))
    assert np.all(trust[:, :5] == 0)
    assert np.all(trust[:, 6:] == 1)
    assert np.allclose(places[0, :3, 0], [-6, -5, -4])


def test_what_appears_has_no_past():
    past = texture(120, 160) // 4
    now = past.copy()
    now[40:80, 60:100] = 255
    _, trust = motion(past, now).at((120, 160))
    assert np.mean(trust[46:74, 66:94] < 0.5) > 0.9
    assert np.mean(trust[:30] > 0.9) > 0.95


def test_brighter_light_is_no_cut():
    past = texture(120, 160) // 2
    found = motion(past, past + 40)
    assert found is not None
    assert np.mean(found.trust > 0.9) > 0.95


def test_scenes_go_on_and_cuts_begin_anew():
    scenes = [make_scene(seed) for seed in range(77, 97)]
    for scene in scenes:
        assert motion(draw(scene, 0.0)[0], draw(scene, 0.08)[0]) is not None
    for before, after in itertools.pairwise(scenes):
        assert motion(draw(before, 0.0)[0], draw(after, 0.0)[0]) is None


def test_another_size_begins_anew():
    assert motion(texture(60, 80), texture(80, 60)) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (8, 300), (28, 100), (500, 3), (33, 31)])
def test_tiny_and_thin_frames_are_followed_too(size):
    image = texture(*size)
    places, trust = motion(image, image).at(size)
    assert places.shape == (*size, 2)
    assert trust.shape == size
    assert np.isfinite(places).all()
    assert np.isfinite(trust).all()


def test_labels_are_looked_up_at_the_nearest_place():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    y, x = np.mgrid[:3, :4].astype(np.float32)
    assert np.array_equal(warp_labels(labels, np.dstack([x + 0.3, y - 0.3])), labels)
    moved = warp_labels(labels, np.dstack([x - 1, y]))
    assert np.array_equal(moved, labels[:, [0, 0, 1, 2]])
