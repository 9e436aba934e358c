"""dataset.toml: written, corrected by hand, read."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from fcnseg.classes import IGNORE
from fcnseg.datasets import Pair, Pairing, dataset_toml, split_sizes
from fcnseg.datasets.dataset_toml import write_declared
from fcnseg.datasets.describe import describe
from fcnseg.errors import DatasetError
from tests.datasets import written
from tests.datasets.test_describe import LAYOUTS, assert_same, samples, wanted
from tests.datasets.written import draw_set, folders

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs/schemas/dataset.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", ["camvid", "voc", "cvat", "coco runs", "labelme", "yolo",
                                  "class/name", "roboflow", "cityscapes ids"])  # fmt: skip
def test_every_kind_of_folder_reads_the_same_from_its_file(name: str, tmp_path: Path) -> None:
    drawn = draw_set()
    LAYOUTS[name][1](tmp_path / "data", drawn)
    before = describe(tmp_path / "data")
    write_declared(before, tmp_path / "notes" / "dataset.toml")
    after = describe(tmp_path / "notes" / "dataset.toml")
    assert_same(samples(after), wanted(drawn))
    assert (after.classes, after.encoding) == (before.classes, before.encoding)
    assert split_sizes(after) == split_sizes(before)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(tomllib.loads((tmp_path / "notes" / "dataset.toml").read_text()), SCHEMA)


@pytest.mark.parametrize(
    "line",
    ["roots = 1", "root = 1", "kind = 'colour'", "leave_out = 'a'", "ignore = [1.5]", "val = []"],
)
def test_the_schema_refuses_what_is_refused(line: str, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    (tmp_path / "data").mkdir()
    sound = {"root": "data", "layout": "camvid", "class": [{"name": "a", "values": [1]}]}
    jsonschema.validate(sound, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**sound, **tomllib.loads(line)}, SCHEMA)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folders(tmp_path / "data", draw_set())
    path = tmp_path / "dataset.toml"
    write_declared(describe(tmp_path / "data"), path)
    return path


def edited(file: Path, *changes: tuple[str, str]) -> Path:
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    file.write_text(text)
    return file


def labels_by_hand(table: dict[int, int]) -> dict[bytes, np.ndarray]:
    lookup = np.full(256, IGNORE, np.uint8)
    lookup[list(table)] = list(table.values())
    return {key: lookup[labels] for key, labels in wanted(draw_set()).items()}


def test_names_and_colors_can_be_corrected(file: Path) -> None:
    first = next(line for line in file.read_text().splitlines() if line.startswith("color"))
    description = describe(edited(file, ('"class_2"', '"boat"'), (first, 'color = "#010203"')))
    assert description.classes.names == ("class_0", "class_1", "boat", "class_3")
    assert description.classes.colors[0].tolist() == [1, 2, 3]


def test_classes_can_be_merged(file: Path) -> None:
    edited(file, ("values = [1]", "values = [1, 3]"))
    start = file.read_text().rindex("[[class]]")
    file.write_text(file.read_text()[:start])
    description = describe(file)
    assert len(description.classes) == 3
    assert_same(samples(description), labels_by_hand({0: 0, 1: 1, 3: 1, 2: 2}))


def test_classes_can_be_dropped(file: Path) -> None:
    start = file.read_text().rindex("[[class]]")
    file.write_text(file.read_text()[:start])
    edited(file, ("ignore = [255]", "ignore = [255, 3]"))
    assert_same(samples(describe(file)), labels_by_hand({0: 0, 1: 1, 2: 2}))


def test_splits_can_be_moved(file: Path) -> None:
    file.write_text(file.read_text() + '\n[splits]\ntest = ["p0[01]*"]\n')
    assert split_sizes(describe(file)) == {"train": 4, "val": 3, "test": 2}


def test_images_can_be_left_out(file: Path, tmp_path: Path) -> None:
    first, second, *others, last = describe(file).pairs
    named = f'leave_out = ["{first.name}", "?{last.name[1:]}"]'
    described = describe(edited(file, ("leave_out = []", named)))
    assert described.pairs == (second, *others)
    write_declared(described, tmp_path / "again.toml")
    assert describe(tmp_path / "again.toml").pairs == described.pairs


def test_a_drawn_split_is_written_down(tmp_path: Path) -> None:
    folders(tmp_path / "data", draw_set(train=12), place="{role}")
    before = describe(tmp_path / "data")
    write_declared(before, tmp_path / "dataset.toml")
    after = describe(tmp_path / "dataset.toml")
    assert [(p.name, p.split) for p in after.pairs] == [(p.name, p.split) for p in before.pairs]
    assert not after.random_split


def test_words_stand_for_what_is_stored(tmp_path: Path) -> None:
    written.coco(tmp_path / "data", draw_set(), "polygons")
    write_declared(describe(tmp_path / "data"), tmp_path / "dataset.toml")
    text = (tmp_path / "dataset.toml").read_text()
    assert 'values = ["star"]' in text
    assert 'ignore = ["void"]' in text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind", "kinds", "unknown: kinds"),
        ('layout = "folders"\n', "", "missing: layout"),
        ('layout = "folders"', 'layout = "flders"', "known: labelme-folders"),
        ("values = [0]", "values = [1]", "two meanings"),
        ("values = [0]", "", "'values' is missing"),
        ("values = [0]", 'values = ["red"]', "#rrggbb"),
        ("values = [0]", "values = [0.5]", "whole numbers"),
        ('"index"', '"indices"', "Not a label encoding"),
        ('store = "pixels"', 'store = "pixles"', "No label format 'pixles'; known: pixels"),
        ("\n[[class]]", "\n[[class", "not a TOML file"),
        ("snap = false", 'snap = false\nsplits = {vall = ["a"]}', "no split 'vall'"),
        ('"class_1"', '"class_0"', "given twice"),
        ("leave_out = []", 'leave_out = ["p99"]', "leave_out names 'p99', but no image"),
        ("leave_out = []", 'leave_out = "p00"', "leave_out is a list of names"),
        ('root = "data"', 'root = "/"', "/ is the whole file system"),
        ('root = "data"', f'root = "{"a" * 300}"', "There is no folder"),
    ],
)
def test_mistakes_are_said(file: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        describe(edited(file, (old, new)))


def test_names_to_leave_out_are_not_compared_with_all_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1,000 names of 5,000 images took five seconds."""
    monkeypatch.delattr(dataset_toml, "fnmatchcase")
    pairs = [Pair(Path(f"{n}.png"), Path(f"{n}_mask.png"), "train", f"a/{n}") for n in range(3)]
    declared = dataset_toml.DatasetToml(Path(), None, None, {}, ("a/2", "a/0"))
    assert [pair.name for pair in declared.applied(Pairing("folders", tuple(pairs))).pairs] == [
        "a/1"
    ]
