import numpy as np
import pytest

from fcnseg.engines import Parity, compare, sample_images


def colours(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).astype(np.float32)


def test_equal_answers_compare_equal():
    parity = compare(colours, colours, sizes=[(33, 47), (8, 8)], batches=[1, 2])
    assert parity.holds
    assert parity.max_abs_diff == 0
    assert parity.label_agreement == 1
    assert parity.pixels == 3 * (33 * 47 + 64)
    assert parity.as_dict()["sizes"] == [[33, 47], [8, 8]]


@pytest.mark.parametrize(
    "other",
    [
        lambda images: colours(images) + 1,  # the same labels, other scores
        lambda images: np.where(np.arange(47) < 1, 0, colours(images)),  # wrong at the border
        lambda images: colours(images)[:, ::-1],
        lambda images: colours(images)[:, :, :-1],
        lambda images: np.full_like(colours(images), np.nan),
    ],
)
def test_other_answers_do_not_hold(other):
    assert not compare(colours, other, sizes=[(33, 47)]).holds


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
