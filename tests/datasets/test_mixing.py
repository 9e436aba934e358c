"""What is laid over a training sample, and that image and labels stay together."""

from pathlib import Path

import numpy as np
import pytest

from fcnseg.classes import IGNORE
from fcnseg.datasets.augment import MIXES, Augment, rectangle, some_classes
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe

PLAIN = {"crop": (96, 128), "flip": 0.0, "color": 0.0, "scale": (1.0, 1.0)}


def test_a_rectangle_takes_any_share() -> None:
    rng, labels = np.random.default_rng(0), np.zeros((40, 60), np.uint8)
    shares = []
    for _ in range(300):
        mask = rectangle(labels, rng)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)
        shares.append(mask.mean())
    assert min(shares) < 0.05
    assert max(shares) > 0.6
    assert 0.2 < np.mean(shares) < 0.4, "half, less what lies outside"


def test_half_of_the_classes_are_taken_and_255_is_none() -> None:
    labels = np.repeat(np.array([0, 1, 2, 3, 4, IGNORE], np.uint8), 10).reshape(6, 10)
    rng, taken = np.random.default_rng(0), np.zeros(5)
    for _ in range(200):
        mask = some_classes(labels, rng)
        assert not mask[labels == IGNORE].any()
        chosen = [value for value in range(5) if mask[labels == value].any()]
        assert len(chosen) == 3
        assert all(mask[labels == value].all() for value in chosen)
        taken[chosen] += 1
    assert (taken > 80).all()
    assert not some_classes(np.full((3, 3), IGNORE, np.uint8), rng).any()


@pytest.mark.parametrize("mix", MIXES)
def test_a_mixed_sample_is_made_of_two(drawn_folder: Path, mix: str) -> None:
    description = describe(drawn_folder)
    mixed, again, plain = (
        SegmentationDataset(description, "train", augment=Augment(**PLAIN, mix=how, mix_share=1.0))
        for how in (mix, mix, "none")
    )
    changed = 0
    for index in range(len(plain)):
        one, same, before = (data[3, index] for data in (mixed, again, plain))
        np.testing.assert_array_equal(one.image, same.image)
        np.testing.assert_array_equal(one.labels, same.labels)
        untouched = (one.image == before.image).all(-1)
        assert (one.labels == before.labels)[untouched].mean() > 0.95
        changed += not untouched.all()
        assert one.name == before.name
    assert changed > 0.7 * len(plain)
    off = Augment(**PLAIN, mix=mix, mix_share=0)
    never = SegmentationDataset(description, "train", augment=off)
    np.testing.assert_array_equal(never[3, 0].image, plain[3, 0].image)
