"""Class lists beside label files: names, colours and stored values in every form they come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets.check import examine
from fcnseg.datasets.describe import scan
from fcnseg.datasets.formats import read_sample
from fcnseg.datasets.scan import Scanned

SIDE = 48
Labels = list[np.ndarray]


def discs(count: int = 6, classes: int = 2) -> Labels:
    """Scenes with one disc of each class: uint8 (48, 48)."""
    found = []
    y, x = np.mgrid[:SIDE, :SIDE]
    for index in range(count):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for value in range(1, classes):
            centre = 8 + 12 * (value - 1) + index
            labels[(y - 14 - 2 * index) ** 2 + (x - centre) ** 2 < 36] = value
        found.append(labels)
    return found


def write(root: Path, stored: Labels, lists: dict[str, str] | None = None) -> Path:
    """images/ and masks/ with these stored labels, and text files beside them."""
    for index, labels in enumerate(stored):
        rng = np.random.default_rng(index)
        for folder, array in (
            ("images", rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)),
            ("masks", labels),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{index}.png")
    for name, text in (lists or {}).items():
        (root / name).write_bytes(text.encode())
    return root


def decoded(seen: Scanned) -> Labels:
    """The labels of all pairs, by name."""
    description = seen.description
    pairs = sorted(description.pairs, key=lambda pair: pair.name)
    return [read_sample(pair, description.encoding)[1] for pair in pairs]


def agrees(seen: Scanned, truth: Labels, share: float = 0.0) -> bool:
    """Whether the labels are the true ones but for this share of the pixels."""
    wrong = [np.mean(a != b) for a, b in zip(decoded(seen), truth, strict=True)]
    return bool(max(wrong) <= share)


LISTS = {
    "dataset_meta.json": '{"labels": ["sky", "leaf", "stone"],'
    ' "label_colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}',
    "labels.csv": "id;label;red;green;blue\r\n0;sky;1;2;3\r\n1;leaf;4;5;6\r\n2;stone;7;8;9\r\n\r\n",
    "data.yaml": "path: /home/someone/else\nnames: [sky, leaf, stone]\n",
    "codes.txt": "sky\r\n\r\nleaf\r\nstone\r\n\r\n",
    "obj.names": "sky\nleaf\nstone\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_class_names_and_colors_come_from_lists(tmp_path: Path, name: str) -> None:
    seen = scan(write(tmp_path, discs(classes=3), {name: LISTS[name]}))
    assert seen.description.classes.names == ("sky", "leaf", "stone")
    if name in ("dataset_meta.json", "labels.csv"):
        assert seen.description.classes.colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_yaml_maps_stored_values_and_can_be_the_dataset(tmp_path: Path) -> None:
    truth = discs(classes=4)
    stored = [np.array([7, 8, 24, 11], np.uint8)[labels] for labels in truth]
    yaml = (
        "path: .\nmasks_dir: masks\nnames:\n  0: ground\n  1: ring  # the outer one\n"
        "label_mapping:\n  7: 0\n  8: 0\n  24: 1\n  11: ignore_label\n"
    )
    write(tmp_path, stored, {"data.yaml": yaml})
    meant = [np.array([0, 0, 1, 255], np.uint8)[labels] for labels in truth]
    for data in (tmp_path, tmp_path / "data.yaml"):
        seen = scan(data)
        assert seen.description.classes.names == ("ground", "ring")
        assert agrees(seen, meant)


@pytest.mark.parametrize(
    ("listed", "palette", "asked"),
    [
        ("name,r,g,b\nvoid,255,0,255\nleaf,0,255,0\nstone,0,0,255\n", (0xFF00FF,), True),
        ("name,r,g,b\nvoid,0,0,0\nleaf,0,255,0\nstone,0,0,255\n", (0,), False),
    ],
)
def test_a_name_without_labels_in_a_colour_of_its_own_is_asked_about(
    tmp_path: Path, listed: str, palette: tuple[int, ...], asked: bool
) -> None:
    colors = np.array([[palette[0] >> 16, 0, palette[0] & 255], [0, 255, 0], [0, 0, 255]], np.uint8)
    write(tmp_path, [colors[labels] for labels in discs(classes=3)], {"class_dict.csv": listed})
    result = examine(tmp_path)
    assert result.description.classes.names == ("leaf", "stone")
    found = [f for f in result.findings if f.code == "unlabelled-class"]
    assert len(found) == asked
    assert not asked or found[0].message.startswith("Is void (#ff00ff, ")
