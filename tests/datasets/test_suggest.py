"""Suggestions follow from sizes and frequencies, and say so."""

from __future__ import annotations

import pytest

from fcnseg.datasets.check.statistics import sqrt_weights, suggest, suggest_crop


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((360, 480), (320, 416)),  # CamVid
        ((256, 256), (256, 256)),
        ((1024, 2048), (512, 512)),
        ((128, 160), (128, 160)),
        ((20, 30), (64, 64)),
    ],
)
def test_crops_by_size(size: tuple[int, int], crop: tuple[int, int]) -> None:
    found, why = suggest_crop([size] * 3)
    assert found == crop
    assert f"{size[1]}x{size[0]}" in why


def test_a_crop_that_shows_little_of_a_photo_says_so() -> None:
    assert "2 % of an image; --short-side 720 shows more" in suggest_crop([(3000, 4000)])[1]
    assert "--short-side" not in suggest_crop([(1024, 2048)])[1]


def test_weights_balance() -> None:
    pixels = (900, 100, 0)
    weights = sqrt_weights(pixels)
    assert weights[1] / weights[0] == pytest.approx(3)
    assert sum(w * n for w, n in zip(weights, pixels, strict=True)) == pytest.approx(1000)
    assert weights[2] == 1
    heavy = sqrt_weights((10**9, 1))
    assert heavy[1] / heavy[0] == pytest.approx(50)


def test_everything_has_its_reason() -> None:
    some = suggest([(360, 480)] * 367, [1000, 10], ["road", "pole"])
    assert some.batch == 8
    assert 40 <= some.epochs <= 50
    assert set(some.reasons) == {"crop", "batch", "epochs", "class_weights", "upsample"}
    assert "pole" in some.reasons["class_weights"]
    assert some.class_weights == "sqrt"
    assert some.upsample == some.as_dict()["upsample"] == "subpixel"
    assert "pole is rare" in some.reasons["upsample"]
    assert some.as_dict()["crop"] == [320, 416]
    few = suggest([(64, 64)] * 7, [10], ["thing"])
    assert few.batch == 2
    assert few.epochs == 300
    assert few.class_weights == "none"
    often = suggest([(360, 480)], [1000, 100], ["road", "pole"])
    assert (often.class_weights, often.upsample) == ("none", "fixed")
    absent = suggest([(360, 480)], [1000, 0], ["road", "pole"])
    assert (absent.class_weights, absent.upsample) == ("none", "fixed")
    many = suggest([(360, 480)], [1000, 10, 0], ["road", "pole", "car"])
    assert many.upsample == "fixed"
    assert many.class_weights == many.as_dict()["class_weights"] == "none"
    assert "overlap" in many.reasons["class_weights"]
