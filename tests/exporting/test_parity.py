import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.exporting.parity import Parity, Trial, compare, sample_images, tolerance_of


def colors(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).astype(np.float32)


def test_equal_answers_compare_equal():
    parity = compare(colors, colors, trial=Trial(sizes=[(33, 47), (8, 8)]))
    assert parity.holds
    assert parity.max_abs_diff == 0
    assert parity.label_agreement == 1
    assert parity.pixels == 4 * (33 * 47 + 64)
    assert parity.as_dict()["sizes"] == [[33, 47], [8, 8]]


@pytest.mark.parametrize(
    "other",
    [
        lambda images: colors(images) + 1,  # the same labels, other scores
        lambda images: np.where(np.arange(47) < 1, 0, colors(images)),  # wrong at the border
        lambda images: colors(images)[:, ::-1],
        lambda images: colors(images)[:, :, :-1],
        lambda images: np.full_like(colors(images), np.nan),
    ],
)
def test_other_answers_do_not_hold(other):
    assert not compare(colors, other, trial=Trial(sizes=[(33, 47)])).holds


def test_labels_decide_when_scores_are_near():
    assert Parity(1e-6, 1.0, 0.9991, (), (), 1).holds
    assert not Parity(1e-6, 1.0, 0.9989, (), (), 1).holds
    assert Parity(9e-3, 10.0, 1.0, (), (), 1).holds
    assert not Parity(1.1e-3, 0.1, 1.0, (), (), 1).holds


def test_sample_images_look_like_images():
    images = sample_images((2, 60, 80), seed=3)
    assert images.shape == (2, 60, 80, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, sample_images((2, 60, 80), seed=3))
    assert not np.array_equal(images[0], images[1])
    assert 30 < images.std() < 100  # neither flat nor noise: neighbours are alike
    assert np.abs(np.diff(images.astype(int), axis=2)).mean() < 0.4 * images.std()


def test_a_users_images_are_compared_at_three_sizes_with_miou():
    images = list(sample_images((2, 40, 60), seed=1))
    labels = [image.argmax(axis=2).astype(np.uint8) for image in images]
    classes = ClassMap.of(["red", "green", "blue"])
    trial = Trial(images=images, labels=labels, classes=classes)
    parity = compare(colors, colors, trial=trial)
    assert parity.sizes == ((40, 60), (30, 45), (20, 30))
    assert parity.images == 2
    assert parity.miou == parity.miou_before
    assert parity.holds
    worse = compare(
        colors, colors, labels=lambda images: np.zeros(images.shape[:3], np.uint8), trial=trial
    )
    assert worse.miou < worse.miou_before
    assert not worse.holds
    fixed = compare(colors, colors, trial=Trial(images=images, size=(24, 32)))
    assert fixed.sizes == ((24, 32),)


def test_a_file_that_resizes_may_round_a_pixel_to_the_other_side():
    assert tolerance_of("f32", resizes=False).logits == 1e-3
    resized = tolerance_of("f32", resizes=True)
    assert resized.labels == 0.999
    assert Parity(0.0476, 12.7, 1.0, (), (), 1, tolerance=resized).holds
    assert not Parity(0.0476, 12.7, 0.998, (), (), 1, tolerance=resized).holds
    assert not Parity(0.78, 14.4, 1.0, (), (), 1, tolerance=resized).holds  # floats, not 11 bits
    assert tolerance_of("f16", resizes=True).logits == 0.05
