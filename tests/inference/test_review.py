"""What is suspected: planted errors, by how confident the model is; outlines are none."""

import numpy as np
import pytest

from fcnseg.inference.review import choose, features, find_suspects, uncertainty


def probabilities(predicted: np.ndarray, sure: float | np.ndarray = 0.9) -> np.ndarray:
    """float32 (3, H, W): the predicted class has `sure`, the others the rest in equal parts."""
    found = np.zeros((3, *predicted.shape), np.float32)
    found[:] = (1 - np.asarray(sure)) / 2
    np.put_along_axis(found, predicted[None].astype(np.int64), np.asarray(sure) + 0 * predicted, 0)
    return found.astype(np.float32)


def scene() -> np.ndarray:
    labels = np.zeros((60, 80), np.uint8)
    labels[10:20, 10:25] = 1
    labels[40:55, 50:70] = 2
    return labels


def test_an_erased_object_and_one_of_another_class_are_found_where_they_are() -> None:
    truth = scene()
    labels = truth.copy()
    labels[10:20, 10:25] = 0
    labels[40:55, 50:70] = 1
    first, second = find_suspects(3, "a", labels, probabilities(truth), 2)
    assert (first.labelled, first.predicted) == (1, 2)
    assert (first.box, first.area, first.index) == ((50, 40, 20, 15), 300, 3)
    assert (second.labelled, second.predicted, second.box) == (0, 1, (10, 10, 15, 10))
    assert first.p_predicted == pytest.approx(0.9)
    assert first.p_labelled == pytest.approx(0.05)
    odds = np.log(0.9 / 0.05) ** 3  # both are whole objects; 300 and 150 pixels
    assert first.score == pytest.approx(odds * np.sqrt(300 * 300 / 450 / (60 * 80)))
    assert second.score == pytest.approx(odds * np.sqrt(150 * 150 / 450 / (60 * 80)))


def test_of_two_regions_the_one_predicted_more_confidently_comes_first() -> None:
    truth = scene()
    labels = truth.copy()
    labels[10:20, 10:25] = 0
    labels[40:50, 50:65] = 0
    truth[40:55, 50:70] = np.where(labels[40:55, 50:70] == 0, 2, 2)
    sure = np.where(np.arange(60)[:, None] < 30, 0.95, 0.5).repeat(80, 1)
    found = find_suspects(0, "a", labels, probabilities(truth, sure), 2)
    assert [one.predicted for one in found] == [1, 2]


def test_a_missing_object_comes_before_a_poor_outline_of_a_larger_one() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[5:55, 5:50] = 1
    truth[20:30, 60:70] = 1
    labels = truth.copy()
    labels[5:55, 44:50] = 0  # an outline that is off by 6
    labels[20:30, 60:70] = 0  # an object of 100 pixels
    first, second = find_suspects(0, "a", labels, probabilities(truth), 2)
    assert (first.area, second.area) == (100, 292)
    assert first.p_predicted == pytest.approx(second.p_predicted)


def test_an_image_that_the_model_does_not_understand_comes_later() -> None:
    truth = scene()
    labels = truth.copy()
    labels[10:20, 10:25] = 0
    alone = find_suspects(0, "a", labels, probabilities(truth), 2)[0]
    others = truth.copy()
    others[30:36, :40:8] = 1  # predicted where nothing is labelled
    others[30:50, 4:30] = 2
    among = find_suspects(0, "a", labels, probabilities(others), 2)
    same = next(one for one in among if one.box == alone.box)
    assert same.score < alone.score


def test_an_outline_that_is_off_a_little_and_ignored_pixels_are_no_errors() -> None:
    labels = scene()
    shifted = np.roll(labels, 2, axis=1)
    assert find_suspects(0, "a", labels, probabilities(shifted), 2) == []
    assert find_suspects(0, "a", labels, probabilities(shifted), 1) != []
    other = scene()
    labels[10:20, 10:25] = 255
    assert find_suspects(0, "a", labels, probabilities(other), 2) == []
    assert find_suspects(0, "a", other, probabilities(other), 2) == []


def test_uncertainty_is_the_mean_entropy() -> None:
    from scipy.stats import entropy

    found = np.random.default_rng(0).dirichlet(np.ones(4), (5, 6)).transpose(2, 0, 1)
    wanted = entropy(found, axis=0).mean() / np.log(4)
    assert uncertainty(found.astype(np.float32)) == pytest.approx(wanted, rel=1e-5)
    assert uncertainty(np.ones((1, 3, 3), np.float32)) == 0


def test_no_image_is_chosen_beside_its_likes() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.integers(0, 256, (40, 50, 3)).astype(np.uint8) // 2 + 60 * k for k in range(3)]
    images = [group for group in groups for _ in range(4)]
    images = [
        np.clip(one + rng.integers(0, 2, one.shape), 0, 255).astype(np.uint8) for one in images
    ]
    same = np.full((2, 40, 50), 0.5, np.float32)
    unsure = [0.9, 0.8, 0.8, 0.8, 0.1, 0.2, 0.1, 0.1, 0.5, 0.5, 0.5, 0.6]
    chosen = choose(unsure, [features(image, same) for image in images], 12)
    assert len(chosen) == 3
    assert chosen[0] == 0
    assert {place // 4 for place in chosen} == {0, 1, 2}


def test_one_image_is_chosen() -> None:
    image = np.zeros((3, 2, 3), np.uint8)
    one = features(image, np.ones((2, 3, 2), np.float32) / 2)
    assert choose([0.5], [one], 9) == [0]
    assert choose([0.5, 0.5], [one, one], 9) == [0]
