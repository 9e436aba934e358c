"""Every layout, written and read back: the same samples, classes, splits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnseg.classes import IGNORE
from fcnseg.datasets import Description, split_pairs, split_sizes
from fcnseg.datasets.check import examine
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.errors import DatasetError
from tests.datasets import written
from tests.datasets.written import NAMES, Drawn, draw_set

Writer = Callable[[Path, list[Drawn]], None]
folders = written.folders

LAYOUTS: dict[str, tuple[str, Writer, bool]] = {
    # name: (layout's name, writer, has splits)
    "images and masks": ("folders", partial(folders, place="{role}"), False),
    "images/train": ("folders", partial(folders, roles=("images", "labels")), True),
    "train/images": ("folders", partial(folders, place="{split}/{role}"), True),
    "annotations": ("folders", partial(folders, roles=("img", "annotations")), True),
    "train_images": ("folders", partial(folders, place="{split}_{role}"), True),
    "camvid": ("camvid", written.camvid, True),
    "voc": ("voc", written.voc, True),
    "cvat": ("cvat", written.cvat, True),
    "cityscapes ids": ("cityscapes", partial(written.cityscapes, kind="labelIds"), True),
    "cityscapes train": ("cityscapes", partial(written.cityscapes, kind="labelTrainIds"), True),
    "cityscapes color": ("cityscapes", partial(written.cityscapes, kind="color"), True),
    "ade20k": ("ade20k", written.ade20k, True),
    "coco polygons": ("coco", partial(written.coco, kind="polygons"), True),
    "coco runs": ("coco", partial(written.coco, kind="runs"), True),
    "coco compressed": ("coco", partial(written.coco, kind="compressed"), True),
    "labelme": ("labelme", written.labelme, True),
    "roboflow": ("side by side", written.roboflow, True),
    "yolo": ("yolo", written.yolo, True),
    "pair list": ("list", written.pair_list, True),
    "class/name": ("layers", partial(written.layers, place="{split}/{kind}/{name}.png"), True),
    "name/class": ("layers", partial(written.layers, place="{split}/{name}/{kind}.png"), True),
    "name_class": ("layers", partial(written.layers, place="{kind}/{split}/{name}_mask.png"), True),
    "_L": ("folders", partial(folders, ends=("", "_L")), True),
    "_mask beside": (
        "side by side",
        partial(folders, place="{split}", ends=("", "_mask")),
        True,
    ),
    "Original, Ground Truth": (
        "stems",
        partial(folders, place="{split}/{role}", roles=("Original", "Ground Truth")),
        True,
    ),
    "prefix": ("folders", partial(folders, ends=("_image", "_segmentation")), True),
}

NAMED = ("cvat", "coco", "labelme", "roboflow", "yolo", "class/name", "name/class", "name_class")
"""Layouts that say what the classes are called."""

FIXED = {"cityscapes": "road", "ade20k": "wall"}
"""Layouts whose class list does not depend on the files."""


def samples(description: Description, split: str = "all") -> dict[bytes, np.ndarray]:
    """The labels of every picture, by the picture's pixels."""
    dataset = SegmentationDataset(description, split, cache=False)
    found = {s.image.tobytes(): s.labels for s in (dataset[i] for i in range(len(dataset)))}
    assert len(found) == len(dataset)
    return found


def wanted(drawn: list[Drawn], split: str = "all") -> dict[bytes, np.ndarray]:
    return {one.image.tobytes(): one.labels for one in drawn if split in ("all", one.split)}


def assert_same(found: dict[bytes, np.ndarray], drawn: dict[bytes, np.ndarray]) -> None:
    assert found.keys() == drawn.keys()
    for key, labels in drawn.items():
        np.testing.assert_array_equal(found[key], labels)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_back_the_same(name: str, tmp_path: Path) -> None:
    layout, write, has_splits = LAYOUTS[name]
    drawn = draw_set()
    write(tmp_path, drawn)
    description = describe(tmp_path)
    assert description.layout == layout
    assert description.why
    assert_same(samples(description), wanted(drawn))
    if has_splits:
        assert not description.random_split
        assert split_sizes(description) == {"train": 6, "val": 3}
        assert_same(samples(description, "val"), wanted(drawn, "val"))
    else:
        assert description.random_split
    if name.startswith(NAMED):
        assert set(description.classes.names) == set(NAMES)
    for start, first in FIXED.items():
        if name.startswith(start):
            assert description.classes.names[0] == first
    assert len({pair.name for pair in description.pairs}) == len(drawn)


def test_a_single_folder_of_things_is_one_class(tmp_path: Path) -> None:
    """Data Science Bowl: a folder an image, a file a nucleus."""
    for one in draw_set(void=False):
        folder = tmp_path / one.name
        written.save(Image.fromarray(one.image), folder / "images" / f"{one.name}.png")
        for index in range(1, 4):
            thing = np.where(one.labels == index, 255, 0).astype(np.uint8)
            written.save(Image.fromarray(thing), folder / "masks" / f"{index * 7919:x}.png")
    description = describe(tmp_path)
    assert description.layout == "layers"
    assert description.classes.names == ("background", "object")
    expected = {k: (v > 0).astype(np.uint8) for k, v in wanted(draw_set(void=False)).items()}
    assert_same(samples(description), expected)


@pytest.mark.parametrize("splits", [("train", "val"), ("val",), ("test",), ("train",)])
def test_camvid_is_known_whichever_parts_are_there(splits: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in splits:
        for number in range(3):
            image = rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)
            labels = rng.integers(0, 7, (24, 32)).astype(np.uint8)
            labels[:4] = 11
            name = f"0016E5_{number:05}.png"
            written.save(Image.fromarray(image), tmp_path / split / name)
            written.save(Image.fromarray(labels), tmp_path / f"{split}annot" / name)
    description = describe(tmp_path)
    assert description.layout == "camvid"
    assert description.ignore_index == 11
    assert description.classes.names[:3] == ("sky", "building", "pole")
    assert len(description.classes) == 11
    labels = samples(description).popitem()[1]
    assert (labels[:4] == IGNORE).all()
    assert labels[4:].max() < 7


@pytest.mark.parametrize(("name", "classes"), [("0006R0_f{:05}", 11), ("street_{:05}", 4)])
def test_camvid_without_void_is_known_by_its_names(name: str, classes: int, tmp_path: Path) -> None:
    drawn = [
        Drawn(name.format(number), one.split, one.image, one.labels)
        for number, one in enumerate(draw_set(void=False))
    ]
    written.camvid(tmp_path, drawn)
    description = describe(tmp_path)
    assert len(description.classes) == classes
    assert_same(samples(description), wanted(drawn))


def test_voc_by_its_own_names_has_its_own_classes(tmp_path: Path) -> None:
    drawn = [
        Drawn(f"2007_{number:06}", one.split, one.image, one.labels)
        for number, one in enumerate(draw_set())
    ]
    written.voc(tmp_path / "VOCdevkit" / "VOC2012", drawn)
    description = describe(tmp_path)
    assert description.classes.names[1] == "aeroplane"
    assert description.ignore_index == 255
    assert_same(samples(description), wanted(drawn))


def test_a_list_is_taken_in_place_of_its_folder(tmp_path: Path) -> None:
    written.pair_list(tmp_path, draw_set())
    description = describe(tmp_path / "pairs.csv")
    assert split_sizes(description) == {"train": 6, "val": 3}
    assert description.root == tmp_path


@pytest.mark.parametrize("away", ["../others/", "{}/others/", "./a/../../others/"])
def test_a_list_in_a_folder_names_nothing_outside_it(away: str, tmp_path: Path) -> None:
    written.pair_list(tmp_path / "others", draw_set(train=3, val=1))
    data, text = tmp_path / "data", (tmp_path / "others" / "pairs.csv").read_text()
    data.mkdir()
    there = away.format(tmp_path)
    (data / "pairs.csv").write_text(text.replace("a/", f"{there}a/").replace("b/", f"{there}b/"))
    (data / "a").mkdir()
    with pytest.raises(DatasetError, match=f"outside {data}") as raised:
        describe(data)
    assert str(data / "pairs.csv") in str(raised.value.hint)
    assert split_sizes(describe(data / "pairs.csv")) == {"train": 3, "val": 1}

    written.pair_list(data, draw_set(train=2, val=1))
    with (data / "pairs.csv").open("a") as file:
        file.write(f"a/{draw_set()[0].name}.png,{there}b/truth-{draw_set()[1].name}.png,train\n")
    assert split_sizes(describe(data)) == {"train": 2, "val": 1}
    assert any("is outside the dataset" in finding.message for finding in examine(data).findings)


def test_a_list_may_name_the_files_of_a_folder_by_where_a_link_leads(tmp_path: Path) -> None:
    stored, link = tmp_path / "stored", tmp_path / "link"
    written.pair_list(stored, draw_set(train=3, val=1))
    text = (stored / "pairs.csv").read_text()
    (stored / "pairs.csv").write_text(
        text.replace("a/", f"{stored}/a/").replace("b/", f"{stored}/b/")
    )
    link.symlink_to(stored)
    assert describe(link).layout == "list"


def test_a_test_part_does_not_stand_in_for_a_val_part(tmp_path: Path) -> None:
    drawn = [Drawn(d.name, "test" if d.split == "val" else d.split, d.image, d.labels)
             for d in draw_set(train=10)]  # fmt: skip
    folders(tmp_path, drawn)
    assert split_sizes(describe(tmp_path)) == {"train": 8, "val": 2, "test": 3}


def test_the_split_depends_on_the_files_alone(tmp_path: Path) -> None:
    drawn = draw_set(train=20, val=5)
    folders(tmp_path / "one", drawn, place="{role}")
    folders(tmp_path / "two", list(reversed(drawn)), place="{role}")
    first, second = describe(tmp_path / "one"), describe(tmp_path / "two")
    assert [(p.name, p.split) for p in first.pairs] == [(p.name, p.split) for p in second.pairs]
    assert split_sizes(first) == {"train": 20, "val": 5}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "There is no folder"),
        (lambda root: root.mkdir(), "is empty"),
        (lambda root: root.write_text("x"), "is a file"),
        (lambda root: written.save(Image.new("RGB", (4, 4)), root / "a.jpg"), "but no labels"),
        (lambda root: (root.mkdir(), (root / "clip.mp4").write_text("x")), "1 of them videos"),
        (
            lambda root: [
                written.save(Image.new("L", (4, 4)), root / "images" / "a.png"),
                written.save(Image.new("L", (4, 4)), root / "masks" / "b.png"),
            ],
            "no names that match",
        ),
        (
            lambda root: [
                written.save(Image.new("L", (4, 4)), root / "masks" / "a.png"),
                (root / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(400)),
            ],
            "a.dcm and similar files, of the same names, are no images: a DICOM file",
        ),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_said(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    make(root)
    with pytest.raises(DatasetError, match=said) as error:
        describe(root)
    assert error.value.hint


def test_yolo_boxes_are_no_outlines(tmp_path: Path) -> None:
    written.save(Image.new("RGB", (8, 8)), tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DatasetError, match="boxes"):
        describe(tmp_path)


def test_a_missing_split_is_said(tmp_path: Path) -> None:
    written.camvid(tmp_path, draw_set())
    with pytest.raises(DatasetError, match="train 6, val 3"):
        split_pairs(describe(tmp_path), "test")
