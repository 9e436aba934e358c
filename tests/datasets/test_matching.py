"""A test folder that lacks classes is scored with the model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.datasets.describe import describe
from fcnseg.datasets.encoding.matching import match_classes
from fcnseg.errors import DatasetError
from tests.datasets import written
from tests.datasets.test_describe import assert_same, samples
from tests.datasets.written import COLORS, NAMES, Drawn, draw_set, folders, mapped

MODEL = ClassMap.of(NAMES, COLORS)


def part() -> list[Drawn]:
    """Pictures without the last class."""
    return draw_set(void=False, classes=3)


def expected(drawn: list[Drawn]) -> dict[bytes, np.ndarray]:
    return {one.image.tobytes(): one.labels for one in drawn}


@pytest.mark.parametrize("kind", ["index", "colors", "names"])
def test_missing_classes_are_no_hindrance(kind: str, tmp_path: Path) -> None:
    if kind == "names":
        written.layers(tmp_path, part(), "{split}/{kind}/{name}.png")
        (tmp_path / "classes.txt").unlink()
    else:
        folders(tmp_path, part(), written.as_color if kind == "colors" else written.as_index)
    adopted = match_classes(describe(tmp_path), MODEL)
    assert adopted.classes == MODEL
    assert_same(samples(adopted), expected(part()))


def test_the_training_s_encoding_decides(tmp_path: Path) -> None:
    greys = mapped(0, 85, 170, 255)
    folders(tmp_path / "train", draw_set(void=False), greys)
    others = [
        Drawn(d.name, d.split, d.image, np.where(d.labels == 1, 0, d.labels).astype(np.uint8))
        for d in part()
    ]
    folders(tmp_path / "test", others, greys)
    trained, tested = describe(tmp_path / "train"), describe(tmp_path / "test")
    assert len(tested.classes) == 2
    adopted = match_classes(tested, trained.classes, trained.encoding)
    assert_same(samples(adopted), expected(others))


def test_another_way_to_store_the_same_classes(tmp_path: Path) -> None:
    binary = draw_set(void=False, classes=2)
    folders(tmp_path / "train", binary)
    folders(tmp_path / "test", binary, mapped(255, 0))
    trained, tested = describe(tmp_path / "train"), describe(tmp_path / "test")
    adopted = match_classes(tested, trained.classes, trained.encoding)
    assert_same(samples(adopted), expected(binary))


def test_other_classes_are_said(tmp_path: Path) -> None:
    folders(tmp_path, draw_set())
    (tmp_path / "classes.txt").write_text("sea\nsand\npalm\nboat\n")
    with pytest.raises(DatasetError, match=r"sea.*disk"):
        match_classes(describe(tmp_path), MODEL)


def test_colours_of_nobody_are_in_no_order(tmp_path: Path) -> None:
    """Matched by number they would be scored as other classes, without a word."""
    folders(tmp_path, part(), written.as_color)
    (tmp_path / "classes.txt").unlink(missing_ok=True)
    (tmp_path / "class_dict.csv").unlink(missing_ok=True)
    found = describe(tmp_path)
    assert len(found.classes.names) == 3
    other = ClassMap.of(MODEL.names, [[1, 2, 3 + at] for at in range(len(MODEL.names))])
    with pytest.raises(DatasetError, match="can't be matched"):
        match_classes(found, other)
