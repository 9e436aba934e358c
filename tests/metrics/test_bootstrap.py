"""The interval of a difference: it covers as often as it says, and is paired."""

import numpy as np
import pytest
from scipy import stats

from fcnseg.metrics import Report, bootstrap
from fcnseg.metrics.bootstrap import _student, _tail, paired_difference

NAMES = ["background", "thing", "rare"]


def images(rng: np.random.Generator, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Confusion matrices of two models that find the same images hard; the second is better."""
    first, second = [], []
    for _ in range(count):
        sizes = np.array([700, 250, 50]) * rng.uniform(0.5, 1.5, 3)
        hard = rng.beta(8, 2)
        for matrices, skill in ((first, 0.80), (second, 0.84)):
            right = np.clip(skill * (0.7 + 0.3 * hard) + rng.normal(0, 0.04, 3), 0, 1)
            matrix = np.zeros((3, 3), np.int64)
            for k in range(3):
                matrix[k, k] = sizes[k] * right[k]
                matrix[k, (k + 1) % 3] = sizes[k] * (1 - right[k])
            matrices.append(matrix)
    return first, second


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    population = images(rng, 10000)
    truth = miou(population[1]) - miou(population[0])
    trials = 600  # one standard error is 0.9 %
    covered = 0
    for trial in range(trials):
        first, second = images(rng, 30)
        found = paired_difference(second, first, draws=600, seed=trial)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / trials <= 0.97


def miou(matrices: list[np.ndarray]) -> float:
    return Report.of(np.sum(matrices, axis=0), NAMES, len(matrices)).miou


def test_the_value_is_the_difference_of_the_miou() -> None:
    first, second = images(np.random.default_rng(1), 12)
    found = paired_difference(first, second)
    assert found.value == pytest.approx(miou(first) - miou(second))
    assert found.low < found.value < found.high < 0
    assert found.clear
    assert found.better < 0.05
    other = paired_difference(second, first)
    assert other.better > 0.95
    assert other.clear
    once = paired_difference(first, second, draws=1)
    assert once.low == once.high
    assert found == paired_difference(first, second)  # the same draws each time


def test_a_model_against_itself() -> None:
    first, _ = images(np.random.default_rng(2), 5)
    found = paired_difference(first, first)
    assert (found.value, found.low, found.high, found.better) == (0, 0, 0, 0.5)
    assert not found.clear


def test_one_image_has_no_interval() -> None:
    first, second = images(np.random.default_rng(3), 1)
    found = paired_difference(first, second)
    assert np.isnan([found.low, found.high]).all()
    assert not found.clear


def test_a_class_that_few_images_have_is_left_out_of_draws_without_it() -> None:
    first, second = images(np.random.default_rng(4), 6)
    for matrices in (first, second):
        for matrix in matrices[1:]:
            matrix[2] = 0
    found = paired_difference(first, second)
    assert np.isfinite([found.low, found.high]).all()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([[5, 1, 0], [0, 1, 0], [0, 0, 0]], [[4, 2, 0], [1, 0, 0], [0, 0, 0]]),
        ([[6, 0, 0], [0, 1, 0], [0, 0, 0]], [[4, 2, 0], [1, 0, 0], [0, 0, 0]]),
        ([[3, 1, 0], [0, 0, 0], [0, 0, 0]], [[2, 2, 0], [0, 0, 0], [0, 0, 0]]),
        (np.zeros((3, 3)), np.zeros((3, 3))),
    ],
)
def test_a_class_counts_from_its_first_labelled_pixel(first, second) -> None:
    one, other = [np.array(first, np.int64)], [np.array(second, np.int64)]
    wanted = pytest.approx(miou(one) - miou(other), nan_ok=True)
    assert paired_difference(one, other).value == wanted


def test_two_images_are_enough() -> None:
    first, second = images(np.random.default_rng(6), 2)
    assert np.isfinite(paired_difference(first, second).low)


def test_draws_are_the_same_however_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = images(np.random.default_rng(5), 4)
    found = paired_difference(first, second, draws=20)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 7)
    assert paired_difference(first, second, draws=20) == found


@pytest.mark.parametrize("degrees", [4, 9, 29, 300])
def test_students_quantile_is_scipys(degrees: int) -> None:
    """But for the terms of the expansion that are left out, from 1 / degrees**4 on."""
    z = stats.norm.ppf(0.975)
    assert _student(z, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.95 / degrees**4)


def test_the_interval_of_few_images_is_wider_than_its_level() -> None:
    wanted = stats.norm.cdf(-np.sqrt(10 / 9) * stats.t.ppf(0.975, 9))
    assert _tail(10, 0.95) == pytest.approx(wanted, rel=1e-3)
