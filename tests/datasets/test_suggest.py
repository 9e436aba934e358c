"""Suggestions follow from sizes and frequencies, and say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets.check import examine
from fcnseg.datasets.check.suggestions import (
    sqrt_weights,
    suggest,
    suggest_crop,
    suggest_short_side,
)


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


def test_the_part_of_an_image_that_a_crop_shows_is_said() -> None:
    assert suggest_crop([(3000, 4000)])[1].endswith("2 % of an image")
    crop, why = suggest_crop([(3000, 4000)], 720)
    assert (crop, "then 960x720" in why, "38 % of an image" in why) == ((512, 512), True, True)


@pytest.mark.parametrize(
    ("size", "enough", "side"),
    [
        ((3000, 4000), 720, 720),
        ((4000, 3000), 721, 1080),
        ((3000, 4000), 2000, 2160),
        ((3000, 4000), 2500, 0),
        ((1200, 1600), 800, 1080),
        ((1200, 1600), 1100, 0),
        ((1080, 1920), 0, 0),
    ],
)
def test_large_images_are_resized_where_their_labels_remain(
    size: tuple[int, int], enough: int, side: int
) -> None:
    found, why = suggest_short_side([size] * 3, lambda side: 0.97 if side >= enough else 0.8)
    assert found == side
    assert bool(why) == (min(size) > 1080)
    if why:
        assert f"resized to {side or '2160' * (min(size) > 2160) or '1080'} and back" in why
        assert ("not resized" in why, "80.0 %" in why) == (not side, not side)


@pytest.mark.parametrize(("radius", "side"), [(300, 720), (9, 1080), (6, 0)])
def test_the_labels_themselves_are_measured(tmp_path: Path, radius: int, side: int) -> None:
    y, x = np.mgrid[:1200, :1440]
    for number in range(2):
        disc = (y - 400) ** 2 + (x - 500 - 100 * number) ** 2 < radius**2
        for folder, values in (("images", disc * 200), ("masks", disc)):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = Image.fromarray(values.astype(np.uint8))
            image.save(tmp_path / folder / f"{number}.png", compress_level=1)
    suggestion = examine(tmp_path).suggestion
    assert suggestion is not None
    assert suggestion.short_side == side
    assert "short_side" in suggestion.reasons


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
