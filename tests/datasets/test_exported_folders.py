"""Folders that annotation tools and data sets have in several versions, tasks or parts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fcnseg.cli.app import app
from fcnseg.datasets import Description
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import DatasetError
from tests.datasets.test_pairing import put

SIZE = 24, 32


def photo(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)


def labels_of(description: Description) -> dict[str, np.ndarray]:
    """Image, relative to the folder -> its labels."""
    return {
        pair.image.relative_to(description.root).as_posix(): read_sample(
            pair, description.encoding
        )[1]
        for pair in description.pairs
    }


def box(number: int) -> tuple[slice, slice]:
    return slice(2 + number, 10 + number), slice(4, 20)


def cvat_box(number: int) -> str:
    rows, columns = box(number)
    return (
        f'label="leaf" xtl="{columns.start}" ytl="{rows.start}" '
        f'xbr="{columns.stop - 1}" ybr="{rows.stop - 1}"'
    )


def test_each_task_of_a_cvat_project_counts_its_images_from_0(tmp_path: Path) -> None:
    parts, truth = "", {}
    for number, subset in enumerate(("Train", "Validation", "Test")):
        name = f"images/{subset}/0.png"
        put(tmp_path / name, photo(number, SIZE))
        truth[name] = np.zeros(SIZE, np.uint8)
        truth[name][box(number)] = 1
        parts += (
            f'<image id="0" name="0.png" subset="{subset}" task_id="{number}" width="{SIZE[1]}" '
            f'height="{SIZE[0]}"><box {cvat_box(number)}/></image>'
        )
    (tmp_path / "annotations.xml").write_text(f"<annotations>{parts}</annotations>")
    found = describe(tmp_path)
    assert {pair.split for pair in found.pairs} == {"train", "val", "test"}
    read = labels_of(found)
    assert read.keys() == truth.keys()
    assert all(np.array_equal(read[name], truth[name]) for name in truth)


def test_each_task_of_a_cvat_project_counts_its_frames_from_0(tmp_path: Path) -> None:
    tracks, tasks, truth = "", "", {}
    for number, subset in enumerate(("train", "val")):
        name = f"images/{subset}/frame_000000.png"
        put(tmp_path / name, photo(number, SIZE))
        truth[name] = np.zeros(SIZE, np.uint8)
        truth[name][box(number)] = 1
        shape = f'<box {cvat_box(number)} frame="0" outside="0"/>'
        tracks += f'<track label="leaf" task_id="{number}" subset="{subset}">{shape}</track>'
        size = f"<width>{SIZE[1]}</width><height>{SIZE[0]}</height>"
        tasks += f"<task><id>{number}</id><original_size>{size}</original_size></task>"
    meta = f"<meta><project><tasks>{tasks}</tasks></project></meta>"
    (tmp_path / "annotations.xml").write_text(f"<annotations>{meta}{tracks}</annotations>")
    read = labels_of(describe(tmp_path))
    assert read.keys() == truth.keys()
    assert all(np.array_equal(read[name], truth[name]) for name in truth)


def test_of_two_versions_of_panoptic_labels_the_later_is_used(tmp_path: Path) -> None:
    """Mapillary's v1.2 and v2.0: PNGs of the same names, numbers of different classes."""
    truth = {}
    for version, names in (("v1.2", ["Bird", "Sky"]), ("v2.0", ["Animal", "Bird", "Sky"])):
        folder = f"training/{version}/panoptic"
        images, annotations = [], []
        for number in range(3):
            put(tmp_path / f"training/images/{number}.jpg", photo(number, SIZE))
            ids = np.full((*SIZE, 3), [2, 0, 0], np.uint8)
            ids[box(number)] = [1, 0, 0]
            put(tmp_path / folder / f"{number}.png", ids)
            images.append({"id": number, "file_name": f"{number}.jpg"})
            bird = {"id": 1, "category_id": names.index("Bird") + 1}
            sky = {"id": 2, "category_id": names.index("Sky") + 1}
            annotations.append(
                {"image_id": number, "file_name": f"{number}.png", "segments_info": [bird, sky]}
            )
            truth[f"training/images/{number}.jpg"] = ids[..., 0] == 1
        categories = [{"id": place, "name": name} for place, name in enumerate(names, 1)]
        data = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / folder / f"panoptic_{version[1]}.json").write_text(json.dumps(data))
    found = describe(tmp_path)
    assert "Animal" in found.classes.names
    read = labels_of(found)
    assert read.keys() == truth.keys()
    bird = found.classes.names.index("Bird")
    for name, birds in truth.items():
        assert np.array_equal(read[name] == bird, birds), name
    output = " ".join(CliRunner().invoke(app, ["check", str(tmp_path)]).output.split())
    assert "3 images can't be used: listed in another file too, which is used (3)" in output


def test_instance_ids_of_cityscapes_are_its_classes(tmp_path: Path) -> None:
    for number in range(4):
        base = f"train/aachen/aachen_{number:06}_000019"
        put(tmp_path / f"leftImg8bit/{base}_leftImg8bit.png", photo(number, SIZE))
        ids = np.full(SIZE, 7, np.uint16)  # road
        ids[:8] = 23  # sky
        ids[8:12] = 3  # not scored
        ids[box(10)] = 26000 + number  # cars
        put(tmp_path / f"gtFine/{base}_gtFine_instanceIds.png", ids)
    found = describe(tmp_path)
    assert found.layout == "cityscapes"
    (labels, *_) = labels_of(found).values()
    names = found.classes.names
    assert names[labels[0, 0]] == "sky"
    assert labels[9, 0] == 255
    assert names[labels[23, 0]] == "road"
    assert names[labels[14, 6]] == "car"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("label_2/0.txt", "Van 0.00 0 -1.58 587 173 614 200 1.65 1.67 3.64 -0.65 1.71 46.7 -1.59"),
        ("labelTxt/0.txt", "0 0 0 2 2 2 2 0 large-vehicle 0"),
    ],
)
def test_text_files_of_boxes_are_said_to_be_such(name: str, line: str, tmp_path: Path) -> None:
    put(tmp_path / "image_2/0.png", photo(0, SIZE))
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(f"{line}\n")
    with pytest.raises(DatasetError, match=rf"1 image but no labels; {name} holds bounding boxes"):
        describe(tmp_path)


def test_a_folder_of_train_alone_whose_images_are_all_alike_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        put(tmp_path / f"train/images/{number}.png", photo(0, SIZE))
        labels = np.zeros(SIZE, np.uint8)
        labels[box(number)] = 1
        put(tmp_path / f"train/masks/{number}.png", labels)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check", "."])
    assert "3 images with labels in train/masks/ (0/1), split by the folder's train (3)." in (
        " ".join(result.output.split())
    )


def test_images_of_one_pixels_width_are_looked_at(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"a/{number}.png", photo(number, (SIZE[0], 1)))
        put(tmp_path / f"b/{number}.png", np.zeros((SIZE[0], 1), np.uint8))
    assert len(describe(tmp_path).pairs) == 3
