"""Scores summed over images: parts joined, classes in another order, and their plain values."""

import numpy as np
import pytest

from fcnseg.metrics.regions import KINDS
from fcnseg.metrics.scores import BINS, GROUPS, Calibration, Scores

NAMES = ("ground", "leaf", "stone", "never")


def images(count: int = 5) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Labels of blocks (255 among them), predictions that are wrong here and there, confidence."""
    chance, found = np.random.default_rng(0), []
    for _ in range(count):
        labels = np.kron(chance.choice([0, 1, 2, 255], (4, 5)), np.ones((6, 6))).astype(np.uint8)
        wrong = chance.random(labels.shape) < 0.1
        predicted = np.where(wrong | (labels == 255), chance.integers(0, 4, labels.shape), labels)
        confidence = chance.random(labels.shape, np.float32)
        found.append((labels, predicted.astype(np.uint8), confidence))
    return found


def scored(numbers: range, names: tuple[str, ...] = NAMES) -> Scores:
    scores, order = Scores(names), np.arange(256, dtype=np.uint8)
    order[:4] = [names.index(name) for name in NAMES]
    for number in numbers:
        labels, predicted, confidence = images()[number]
        scores.add(number, f"image{number}", order[labels], order[predicted], confidence)
    return scores


def assert_equal(ours: Scores, theirs: Scores) -> None:
    for name in ("matrix", "boundary", "errors"):
        assert (getattr(ours, name) == getattr(theirs, name)).all(), name
    np.testing.assert_allclose(ours.calibration.sums, theirs.calibration.sums)
    assert [(one.index, one.name) for one in ours.images] == [
        (one.index, one.name) for one in theirs.images
    ]
    for one, other in zip(ours.images, theirs.images, strict=True):
        assert one.classes == other.classes
        assert (one.matrix == other.matrix).all()
        assert (one.boundary == other.boundary).all()


def test_parts_joined_are_the_dataset_in_its_order() -> None:
    parts = scored(range(3, 5)), scored(range(1)), scored(range(1, 3))
    assert_equal(Scores.joined(parts), scored(range(5)))


def test_classes_in_another_order() -> None:
    names = ("stone", "never", "ground", "leaf")
    assert_equal(scored(range(5)).reordered(names), scored(range(5), names))


def test_plain_values() -> None:
    scores, drawn = scored(range(5)), images()
    values = scores.as_dict()
    ignored = sum(int((labels == 255).sum()) for labels, *_ in drawn)
    assert scores.ignored == ignored / sum(labels.size for labels, *_ in drawn)
    for key in ("boundary_iou", "boundary_f1"):
        own = [row[key] for row in values["classes"] if row[key] is not None]
        assert len(own) == 3, "one class never occurs"
        assert values[key] == pytest.approx(np.mean(own))
    assert values["boundary_f1"] > values["boundary_iou"], "some pixels off count as right"
    missing = dict.fromkeys(KINDS, 0.0)
    for row in values["classes"]:
        assert (row["missing"] is None) == (row["name"] == "never")
        for kind, value in (row["missing"] or {}).items():
            missing[kind] += value
    assert values["missing"] == pytest.approx(missing)
    assert sum(missing.values()) == pytest.approx(1 - values["miou"])


def test_calibration_counts_right_pixels_and_probabilities() -> None:
    calibration = Calibration(2)
    labels = np.array([[0, 1, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 0, 0]], np.uint8)
    calibration.add(labels, predicted, np.array([[0.9, 0.8, 0.9, 0.1]], np.float32))
    pixels, right, sure = calibration.sums.sum(axis=(1, 2, 3))
    assert (pixels, right) == (3, 2)
    assert sure == pytest.approx(2.6)
    assert calibration.by_class == pytest.approx([abs(1 - 1.8) / 2, 0.2])
    assert calibration.ece == pytest.approx((0.8 + 0.2) / 3)


def test_an_image_alone_has_its_own_scores() -> None:
    labels = np.array([[0, 0, 0, 1], [0, 0, 255, 1]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.uint8)
    scores = Scores(NAMES[:2])
    for index, name in enumerate("ab"):
        scores.add(index, name, labels, predicted)
    assert scores.calibration.ece is None, "no confidence was given"
    first = scores.images[0]
    assert [(one.index, one.name) for one in scores.images] == [(0, "a"), (1, "b")]
    assert (first.size, first.ignored, scores.ignored) == ((2, 4), 1, 1 / 8)
    assert first.matrix.tolist() == [[4, 1], [1, 1]]
    assert (first.report.images, scores.report.images) == (1, 2)
    assert [one.name for one in first.report.classes] == [*NAMES[:2]]
    assert first.report.miou == pytest.approx((4 / 6 + 1 / 3) / 2)
    assert scores.matrix.tolist() == [[8, 2], [2, 2]]
    assert scores.missing == pytest.approx(
        {kind: sum(row["missing"][kind] for row in scores.as_dict()["classes"]) for kind in KINDS}
    )
    assert Scores(NAMES).ignored == 0
    all_ignored = Scores(NAMES)
    all_ignored.add(0, "a", np.full((1, 1), 255, np.uint8), np.zeros((1, 1), np.uint8))
    assert all_ignored.ignored == 1
    assert Scores(NAMES).missing.keys() == set(KINDS)


def test_one_pixel_of_a_class() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[4, 4] = 1
    found, missed = Scores(NAMES[:2]), Scores(NAMES[:2])
    found.add(0, "found", labels, labels)
    missed.add(0, "missed", labels, np.zeros_like(labels))
    assert found.images[0].outline_f1 == found.report.miou == 1
    assert found.as_dict()["classes"][1]["missing"] == dict.fromkeys(KINDS, 0)
    assert missed.report.miou == pytest.approx(80 / 81 / 2)
    assert missed.missing["missed"] == pytest.approx(1 - 80 / 81 / 2)
    assert missed.images[0].outline_f1 < 0.51


def test_the_curve_has_the_bins_with_pixels() -> None:
    calibration = Calibration(2)
    labels = np.array([[0, 0, 1, 1, 0]], np.uint8)
    predicted = np.array([[0, 1, 1, 0, 1]], np.uint8)
    confidence = np.array([[1, 0.95, 0.3, 0.06, 0]], np.float32)
    for _ in range(2):
        calibration.add(labels, predicted, confidence)
    assert calibration.curve == [
        (pytest.approx(0.03), 0.0, 4),
        (pytest.approx(0.3), 1.0, 2),
        (pytest.approx(0.975), 0.5, 4),
    ]
    assert calibration.sums.shape == (3, 2, len(GROUPS), BINS)
    assert calibration.sums[0].sum(axis=(0, 2)).tolist() == [10, 0, 0, 0, 0]
    assert calibration.sums[0].sum(axis=(0, 1)).nonzero()[0].tolist() == [0, 4, 14]
    assert calibration.ece == pytest.approx((0.12 + 1.4 + 1.9) / 10)
    assert calibration.by_distance[GROUPS[0]] == pytest.approx(calibration.ece)


def test_groups_of_distances_from_an_outline() -> None:
    """Columns before an outline: at 0 to 1, 2 to 3, 4 to 7, 8 to 15 pixels, and further."""
    labels = np.zeros((1, 60), np.uint8)
    labels[:, 40:] = 1
    calibration = Calibration(2)
    calibration.add(labels, labels, np.full(labels.shape, 0.5, np.float32))
    left, right = calibration.sums[0].sum(axis=2).tolist()
    assert sum(left) == 40
    assert sum(right) == 20
    assert left[1:4] == right[1:4] == [2, 4, 8]
    assert [*calibration.by_distance.values()] == pytest.approx([0.5] * 5)


def test_the_sums_are_those_of_the_images() -> None:
    scores = scored(range(5))
    assert (scores.boundary == sum(one.boundary for one in scores.images)).all()
    assert (scores.matrix == sum(one.matrix for one in scores.images)).all()
    alone = Calibration(len(NAMES))
    for labels, predicted, confidence in images():
        alone.add(labels, predicted, confidence)
    np.testing.assert_allclose(scores.calibration.sums, alone.sums)
    values = scores.as_dict()
    assert values["ece"] == alone.ece
    assert [row["ece"] for row in values["classes"]] == alone.by_class
    assert values["ece_by_distance"] == alone.by_distance


def test_the_same_order_is_the_same_scores() -> None:
    scores = scored(range(1))
    assert scores.reordered(NAMES) is scores


def test_an_outline_may_be_two_pixels_off() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 20:] = 1
    reached = []
    for pixels in (2, 3):
        scores = Scores(NAMES[:2])
        scores.add(0, "shifted", labels, np.roll(labels, pixels, axis=1) * (labels > 0))
        reached.append(scores.images[0].outline_f1)
    assert reached[0] == 1
    assert reached[1] < 1


def test_a_probability_that_rounding_took_beyond_1_is_in_the_last_bin() -> None:
    calibration, labels = Calibration(2), np.zeros((1, 2), np.uint8)
    over = np.nextafter(np.float32(1), np.float32(2))
    calibration.add(labels, labels, np.array([[over, 1]], np.float32))
    assert calibration.curve == [(pytest.approx(1), 1.0, 2)]
    assert calibration.sums.shape == (3, 2, 5, 15)
    assert calibration.sums[0, 0, :, 14].sum() == 2
