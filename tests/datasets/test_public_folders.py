"""Folders as public data sets and tools have them, each with what is particular of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from fcnseg.cli.app import app
from fcnseg.datasets import Description
from fcnseg.datasets.describe import describe, own_split_sizes
from fcnseg.datasets.encoding.class_lists import find_entries
from fcnseg.datasets.formats import read_sample
from fcnseg.datasets.pairing import SPLIT_WORDS, Listing, list_folder
from fcnseg.datasets.pairing.named_images import PairCollector
from fcnseg.errors import DatasetError
from tests.datasets.test_pairing import PALETTE, disc, photo, put, scenes

Truth = dict[str, np.ndarray]
"""Image file -> labels."""


def agrees(description: Description, truth: Truth, tolerance: float = 0.0) -> bool:
    """Whether just these images are paired, with these labels."""
    read = {
        pair.image.relative_to(description.root).as_posix(): read_sample(
            pair, description.encoding
        )[1]
        for pair in description.pairs
    }
    return read.keys() == truth.keys() and all(
        np.mean(read[name] != truth[name]) <= tolerance for name in read
    )


def two_class_masks(root: Path, image: str, mask: str, words: tuple[str, str]) -> Truth:
    """Images with a mask file for each of two classes."""
    truth = {}
    for number, picture, labels in scenes(3):
        name = image.format(n=number, g=number // 3)
        put(root / name, picture)
        truth[name] = labels
        for value, word in enumerate(words, 1):
            put(
                root / mask.format(n=number, g=number // 3, word=word),
                (labels == value).astype(np.uint8) * 255,
            )
    return truth


def celebamask(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """Masks shelved in folders by the thousand, numbers padded."""
    words = "brow", "skin"
    masks = "CelebAMask-HQ-mask-anno/{g}/{n:05}_{word}.png"
    return two_class_masks(root, "CelebA-HQ-img/{n}.jpg", masks, words), ("background", *words)


def idrid(root: Path) -> tuple[Truth, tuple[str, ...]]:
    words = "1. Cotton/IDRiD_{n:02}_CO", "2. Exudates/IDRiD_{n:02}_EX"
    truth: Truth = {}
    for number, picture, labels in scenes(3):
        name = f"A. Seg/1. Original Images/a. Training Set/IDRiD_{number:02}.jpg"
        put(root / name, picture)
        truth[name] = labels
        for value, word in enumerate(words, 1):
            mask = np.zeros((*labels.shape, 3), np.uint8)
            mask[labels == value] = (255, 0, 0)
            folder = "A. Seg/2. All Groundtruths/a. Training Set"
            put(root / f"{folder}/{word.format(n=number)}.tif", mask)
    return truth, ("background", "Cotton_CO", "Exudates_EX")


def disc_and_cup(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """The cup lies within the disc: classes, not two drawings of one thing."""
    truth = {}
    for number in range(6):
        large, small = disc(number, 9), disc(number, 4)
        put(root / f"Im{number:03}.bmp", photo(large + small, number))
        put(root / f"Im{number:03}-1-Cup-T.png", small * 255)
        put(root / f"Im{number:03}-1-Disc-T.png", large * 255)
        truth[f"Im{number:03}.bmp"] = np.array([0, 2, 1], np.uint8)[large + small]
    return truth, ("background", "Cup", "Disc")


def segments_ai(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """Numbers of objects, classes and colors, all with the same borders."""
    truth = {}
    for number, picture, labels in scenes(3):
        name = f"run/img{number}"
        put(root / f"{name}.png", picture)
        objects = np.where(labels, labels + number, 0).astype(np.uint16)
        put(root / f"{name}_label_ground-truth.png", objects)
        put(root / f"{name}_label_ground-truth_semantic.png", labels)
        put(root / f"{name}_label_ground-truth_colored.png", PALETTE[labels])
        truth[f"{name}.png"] = labels
    return truth, ("class_0", "class_1", "class_2")


def colors_in_a_folder_of_images(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """The drone set: `RGB_color_image_masks` are no images, for all they are called."""
    truth = {}
    for number, picture, labels in scenes(3):
        put(root / f"set/original_images/{number:03}.jpg", picture)
        put(root / f"set/label_images_semantic/{number:03}.png", labels)
        colors = "RGB_color_image_masks/RGB_color_image_masks"
        put(root / f"{colors}/{number:03}.png", PALETTE[labels])
        truth[f"set/original_images/{number:03}.jpg"] = labels
    return truth, ("class_0", "class_1", "class_2")


def labelme_folders(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """labelme_json_to_dataset numbers the classes of each image for itself."""
    truth = {}
    for number, picture, labels in scenes(3):
        folder = root / f"shot{number}_json"
        put(folder / "img.png", picture)
        swapped = number % 2
        put(folder / "label.png", np.array([0, 2, 1], np.uint8)[labels] if swapped else labels)
        put(folder / "label_viz.png", picture // 2 + PALETTE[labels] // 2)
        names = ["_background_", "leaf", "stone"]
        own = [names[0], names[2], names[1]] if swapped else names
        (folder / "label_names.txt").write_text("\n".join(own) + "\n")
        truth[f"shot{number}_json/img.png"] = labels
    return truth, ("_background_", "leaf", "stone")


def ade20k_2020(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """Red and green are a number, a JSON file has its name."""
    truth = {}
    for number, picture, labels in scenes(3):
        name = f"data/training/street/img{number}"
        put(root / f"{name}.jpg", picture)
        stored = np.array([0, 7, 300])[labels]
        seg = np.stack([stored // 256 * 10, stored % 256, labels * number], -1)
        put(root / f"{name}_seg.png", seg.astype(np.uint8))
        put(root / name / f"instance_000_img{number}.png", (labels == 1).astype(np.uint8) * 255)
        objects = [
            {"id": 0, "name": "leaf", "name_ndx": 7, "parts": {"part_level": 0}},
            {"id": 1, "name": "stone", "name_ndx": 300, "parts": {"part_level": 0}},
            {"id": 2, "name": "vein", "name_ndx": 8, "parts": {"part_level": 1}},
        ]
        about = {"annotation": {"filename": f"img{number}.jpg", "object": objects}}
        (root / f"{name}.json").write_text(json.dumps(about))
        truth[f"{name}.jpg"] = labels
    return truth, ("background", "leaf", "stone")


def open_images(root: Path) -> tuple[Truth, tuple[str, ...]]:
    truth, rows = {}, ["MaskPath,ImageID,LabelName,BoxID"]
    for number, picture, labels in scenes(3):
        name = f"{number:016x}"
        put(root / f"images/train/{name}.jpg", picture)
        for value, code in ((1, "m01yrx"), (2, "m07j7r")):
            file = f"{name}_{code}_{number}{value}ab.png"
            put(root / f"masks/train/{file}", labels == value)
            rows.append(f"{file},{name},/m/{code[1:]},{number}{value}ab")
        truth[f"images/train/{name}.jpg"] = labels
    (root / "train-annotations-object-segmentation.csv").write_text("\n".join(rows))
    (root / "class-descriptions.csv").write_text("/m/01yrx,Cat\n/m/07j7r,Tree\n")
    return truth, ("background", "Cat", "Tree")


def hugging_face(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """metadata.jsonl says which file holds the labels of which."""
    truth, lines = {}, []
    for number, picture, labels in scenes():
        put(root / f"train/a{number}.png", picture)
        put(root / f"train/b{number * 7 + 3}.png", labels * 255)
        row = {"file_name": f"a{number}.png", "mask_file_name": f"b{number * 7 + 3}.png"}
        lines.append(json.dumps(row))
        truth[f"train/a{number}.png"] = labels
    (root / "train/metadata.jsonl").write_text("\n".join(lines))
    return truth, ("background", "object")


def kaggle_runs(root: Path) -> tuple[Truth, tuple[str, ...]]:
    """sample_submission.csv is no list of labels."""
    truth, rows = {}, ["ImageId,EncodedPixels"]
    for number, picture, labels in scenes():
        put(root / f"train/{number}.png", picture)
        put(root / f"test/t{number}.png", picture[::-1])
        edges = np.flatnonzero(np.diff(np.pad(labels.T.ravel(), 1).astype(int))) + 1
        runs = [f"{a} {b - a}" for a, b in zip(edges[::2], edges[1::2], strict=True)]
        rows.append(f"{number},{' '.join(runs)}")
        truth[f"train/{number}.png"] = labels
    (root / "train.csv").write_text("\n".join(rows))
    (root / "sample_submission.csv").write_text("ImageId,EncodedPixels\nt0,1 1\nt1,1 1\n")
    return truth, ("background", "object")


FOLDERS: dict[str, Callable[[Path], tuple[Truth, tuple[str, ...]]]] = {
    "shelves of masks": celebamask,
    "lesions": idrid,
    "disc and cup": disc_and_cup,
    "segments.ai": segments_ai,
    "colors among images": colors_in_a_folder_of_images,
    "labelme's folders": labelme_folders,
    "ADE20K 2020": ade20k_2020,
    "Open Images": open_images,
    "Hugging Face": hugging_face,
    "Kaggle's example of an answer": kaggle_runs,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_public_folder_is_read(name: str, tmp_path: Path) -> None:
    truth, names = FOLDERS[name](tmp_path / "data")
    description = describe(tmp_path / "data")
    assert agrees(description, truth)
    assert description.classes.names == names
    clean = tmp_path / "clean"
    arguments = ["check", str(tmp_path / "data"), "--fix", str(clean)]
    arguments += ["--contact", str(tmp_path / "sheet.png"), "--json"]
    first = json.loads(CliRunner().invoke(app, arguments).stdout)
    again = describe(clean)
    assert again.classes.names == names
    assert own_split_sizes(again) in (first["splits"], {})
    copied = {read_sample(p, again.encoding)[1].tobytes() for p in again.pairs}
    assert copied == {labels.tobytes() for labels in truth.values()}


def test_a_clean_copy_keeps_the_folders_own_split(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        part = "train" if number < 4 else "test"
        put(tmp_path / f"data/{part}_img/{number}.jpg", picture)
        put(tmp_path / f"data/{part}_lab/{number}.png", labels * 255)
    clean = str(tmp_path / "clean")
    arguments = ["check", str(tmp_path / "data"), "--fix", clean, "--json"]
    arguments += ["--contact", str(tmp_path / "sheet.png")]
    first = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert first["splits"] == own_split_sizes(describe(clean)) == {"train": 4, "test": 2}


def test_kitti_has_the_classes_of_cityscapes(tmp_path: Path) -> None:
    for number, picture, labels in scenes(3):
        put(tmp_path / f"training/image_2/{number:06}_10.png", picture)
        ids = np.array([7, 23, 26], np.uint8)[labels]
        put(tmp_path / f"training/semantic/{number:06}_10.png", ids)
        put(tmp_path / f"training/semantic_rgb/{number:06}_10.png", PALETTE[labels])
    description = describe(tmp_path)
    assert len(description.classes) == 19
    pair = description.pairs[0]
    _, labels = read_sample(pair, description.encoding)
    assert {description.classes.names[value] for value in np.unique(labels)} == {
        "road", "sky", "car"
    }  # fmt: skip


def test_the_labels_of_sbd_beside_vocs_are_asked_about(tmp_path: Path) -> None:
    sets = tmp_path / "VOC2012/ImageSets/Segmentation"
    sets.mkdir(parents=True)
    for number, picture, labels in scenes(3):
        name = f"2008_00000{number}.png"
        put(tmp_path / f"VOC2012/JPEGImages/{name}".replace(".png", ".jpg"), picture)
        put(tmp_path / "VOC2012/SegmentationClassAug" / name, labels)
        if number % 2:
            put(tmp_path / "VOC2012/SegmentationClass" / name, labels)
    (sets / "train_aug.txt").write_text("".join(f"2008_00000{n}\n" for n in range(4)))
    (sets / "val.txt").write_text("2008_000004\n2008_000005\n")
    with pytest.raises(DatasetError) as caught:
        describe(tmp_path)
    line = 'labels = "VOC2012/SegmentationClassAug"'
    assert line in str(caught.value)
    chosen = tmp_path / "dataset.toml"
    chosen.write_text(f'root = "."\n{line}\n')
    description = describe(chosen)
    assert own_split_sizes(description) == {"train": 4, "val": 2}
    assert description.classes.names[:2] == ("background", "aeroplane")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_list.json", '{"#010203": "sky", "#040506": "leaf"}'),
        ("colors.json", '{"sky": "#010203", "leaf": "#040506"}'),
        ("classes.json", '{"classes": [{"title": "sky", "color": "#010203"},'
         ' {"title": "leaf", "color": "#040506"}]}'),
        ("categories.json", '{"0": {"name": "sky", "color": [1, 2, 3]},'
         ' "1": {"name": "leaf", "color": [4, 5, 6]}}'),
        ("label_class_dict.csv", "name,r,g,b\nsky,1,2,3\nleaf,4,5,6\n"),
        ("color_legend.csv", "Color,Class\n#010203,sky\n#040506,leaf\n"),
        ("palette.txt", "#010203 sky\n# those were the days\n#040506 leaf\n"),
        ("class-values.csv", "class_name;rgb\nsky;1 2 3\nleaf;(4, 5, 6)\n"),
    ],
)  # fmt: skip
def test_a_class_list_may_have_any_name_of_the_kind(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    entries, file = find_entries(list_folder(tmp_path))
    assert file == name
    assert [(entry.name, entry.color) for entry in entries] == [("sky", 0x010203),
                                                                ("leaf", 0x040506)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("category_id.txt", "1 0001.jpg\n2 0002.jpg\n"),  # images by number
        ("Labels.txt", "1\t1\t0576.PNG\t1\t0576_label.PNG\n"),  # DAGM's list of files
        ("labels_of_the_photographers.txt", "sky\nleaf\n"),
    ],
)
def test_lists_of_other_things_name_no_classes(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert find_entries(list_folder(tmp_path)) == ((), "")


def test_splits_may_be_named_in_one_word(tmp_path: Path) -> None:
    for split, words in (
        ("train", ("trainset", "traindata", "trainingsdaten")),
        ("val", ("valset", "validierungsdaten", "evaluation")),
        ("test", ("testset", "testdaten")),
    ):
        assert {SPLIT_WORDS[word] for word in words} == {split}
    for number, picture, labels in scenes():
        part = f"train_{number}" if number < 4 else f"test{'AB'[number % 2]}_{number}"
        put(tmp_path / f"{part}.bmp", picture)
        put(tmp_path / f"{part}_anno.bmp", labels)
    assert own_split_sizes(describe(tmp_path)) == {"train": 4, "test": 2}


def numbered(labels: np.ndarray, first: int, order: tuple[int, int], dtype: type) -> np.ndarray:
    """Labels in one channel, the numbers of their objects in another."""
    colors = np.zeros((*labels.shape, 3), dtype)
    colors[..., order[0]] = labels
    colors[..., order[1]] = np.where(labels > 0, first, 0)
    return colors


NUMBERED = {
    "Synthia": lambda labels, n: numbered(labels, n + 3, (0, 1), np.uint16),
    "Synthia, many objects": lambda labels, n: numbered(labels, 700 + 411 * n, (0, 1), np.uint16),
    "KITTI-STEP": lambda labels, n: numbered(labels, 20 * n + 5, (0, 2), np.uint8),
    "written by OpenCV": lambda labels, n: numbered(labels, n + 1, (2, 1), np.uint8),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_classes_in_one_channel_and_objects_in_another(kind: str, tmp_path: Path) -> None:
    truth = {}
    for number, image, labels in scenes(3):
        put(tmp_path / f"RGB/{number}.png", image)
        (tmp_path / "GT").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"GT/{number}.png"), NUMBERED[kind](labels, number)[..., ::-1])
        truth[f"RGB/{number}.png"] = labels
    description = describe(tmp_path)
    assert len(description.classes) == 3
    assert agrees(description, truth)
    assert any("one channel holds the classes" in why for why in description.why)


def test_colours_of_small_numbers_are_colours(tmp_path: Path) -> None:
    """Neither greys that JPEG has tinted, nor edges that smoothing has mixed."""
    colors = np.array([[0, 0, 0], [1, 1, 0], [2, 0, 1], [0, 2, 2], [3, 3, 3], [1, 0, 3]], np.uint8)
    for number in range(4):
        labels = np.kron(np.arange(6).reshape(2, 3), np.ones((20, 20), int))
        put(tmp_path / f"images/{number}.png", photo((labels % 2).astype(np.uint8), number))
        put(tmp_path / f"labels/{number}.png", colors[labels])
    assert len(describe(tmp_path).classes) == 6


@pytest.mark.parametrize("name", ["cutouts/{}.png", "images/{}.png", "nobg/{}_nobg.png"])
def test_the_transparency_of_cut_out_photographs_is_the_label(name: str, tmp_path: Path) -> None:
    truth = {}
    for number, image, labels in scenes():
        mask = (labels > 0).astype(np.uint8)
        put(tmp_path / f"images/{number}.jpg", image)
        put(tmp_path / name.format(number), np.dstack([image, mask * 255]))
        truth[f"images/{number}.jpg"] = mask
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.encoding.label_format == "alpha"


@pytest.mark.parametrize("folder", ["instances", "instance_masks", "train/inst"])
def test_labels_of_objects_alone_are_labels(folder: str, tmp_path: Path) -> None:
    truth = {}
    rng = np.random.default_rng(0)
    for number in range(4):
        colors = np.zeros((48, 64, 3), np.uint8)
        for _ in range(3 + number):
            y, x = rng.integers(0, 40), rng.integers(0, 56)
            colors[y : y + 8, x : x + 8] = rng.integers(30, 255, 3)
        mask = colors.any(2).astype(np.uint8)
        put(tmp_path / f"images/{number}.png", photo(mask, number))
        put(tmp_path / f"{folder}/{number}.png", colors)
        truth[f"images/{number}.png"] = mask
    description = describe(tmp_path)
    assert description.classes.names == ("background", "object")
    assert agrees(description, truth)
    assert any("number the objects" in why for why in description.why)


@pytest.mark.parametrize("folders", [("A", "B"), ("before", "after"), ("T1", "T2")])
def test_two_images_for_each_label_are_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    for number, image, labels in scenes():
        put(tmp_path / f"{folders[0]}/{number}.png", image)
        put(tmp_path / f"{folders[1]}/{number}.png", photo(labels * 0, number + 7))
        put(tmp_path / f"label/{number}.png", labels)
    with pytest.raises(DatasetError, match="labels of a change between two images"):
        describe(tmp_path)


@pytest.mark.parametrize(
    ("scene", "labels"),
    [
        ("scene_{n}/B{band}.tif", "labels/scene_{n}.tif"),
        ("source/s2_{n}/s2_{n}_B{band}_10m.tif", "labels/s2_{n}_field_ids.tif"),
        ("train_{band}/{band}_{n}.tif", "train_gt/gt_{n}.tif"),
    ],
)
def test_a_file_for_each_band_is_refused(scene: str, labels: str, tmp_path: Path) -> None:
    """AgriFieldNet and others: of the bands, one would be taken for the image."""
    for number, picture, classes in scenes(4):
        for band in ("red", "green", "blue") if "{band}/" in scene else ("02", "03", "8A", "11"):
            put(tmp_path / scene.format(n=number + 10, band=band), picture[..., 0])
        put(tmp_path / labels.format(n=number + 10), classes)
    with pytest.raises(DatasetError, match="has a file for each band"):
        describe(tmp_path)


def test_a_scene_may_have_its_bands_beside_the_image(tmp_path: Path) -> None:
    truth = {}
    for number, picture, classes in scenes(4):
        for band in ("B02", "B03", "B04"):
            put(tmp_path / f"scene_{number}/{band}.png", picture[..., 0])
        put(tmp_path / f"scene_{number}/TCI.png", picture)
        put(tmp_path / f"scene_{number}/mask.png", classes)
        truth[f"scene_{number}/TCI.png"] = classes
    assert agrees(describe(tmp_path), truth)


def test_a_second_annotators_labels_of_some_images_are_left(tmp_path: Path) -> None:
    """DRIVE has them for its test images."""
    truth = {}
    for number, picture, classes in scenes(6):
        put(tmp_path / f"images/{number}_test.png", picture)
        put(tmp_path / f"1st_manual/{number}_manual1.png", classes)
        if number < 3:
            put(tmp_path / f"2nd_manual/{number}_manual2.png", np.roll(classes, 1, 1))
        truth[f"images/{number}_test.png"] = classes
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert any("not used" in why for why in description.why)


def test_a_list_may_name_one_band(tmp_path: Path) -> None:
    rows = ["image,labels"]
    for number, picture, classes in scenes(4):
        for band in ("B02", "B03", "B04"):
            put(tmp_path / f"scene_{number}/{band}.png", picture[..., 0])
        put(tmp_path / f"labels/scene_{number}.png", classes)
        rows.append(f"scene_{number}/B04.png,labels/scene_{number}.png")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    assert {pair.image.name for pair in describe(tmp_path).pairs} == {"B04.png"}


def test_images_are_those_that_most_labels_have(tmp_path: Path) -> None:
    """MMFlood: a hydrography of some areas only is no image, though its name is shorter."""
    truth = {}
    for number, picture, classes in scenes(6):
        put(tmp_path / f"a{number}/s1_raw/a{number}.png", picture)
        put(tmp_path / f"a{number}/mask/a{number}.png", classes)
        truth[f"a{number}/s1_raw/a{number}.png"] = classes
        if number < 3:
            put(tmp_path / f"a{number}/hydro/a{number}.png", picture[::-1].copy())
    assert agrees(describe(tmp_path), truth)


BESIDE = {
    "another sensor": ("vi/{}.png", "ir/{}.png", "label/{}.png"),
    "near infrared": ("color/{}.png", "nir/{}.png", "gt/{}.png"),
    "an improved copy": ("raw/{}.png", "clahe/{}.png", "masks/{}.png"),
    "the other camera": ("left/{}.png", "right/{}.png", "left_labels/{}.png"),
    "another day": (
        "RAW/2021-03-0{}_10_rgb.png",
        "RAW/2021-04-0{}_10_rgb.png",
        "GT/2021-03-0{}_10_classes.png",
    ),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_other_images_beside_are_no_change(kind: str, tmp_path: Path) -> None:
    truth = {}
    for number, image, labels in scenes(3):
        first, second, label = (name.format(number + 1) for name in BESIDE[kind])
        put(tmp_path / first, image)
        put(tmp_path / second, np.minimum(image, 225) + 30)
        put(tmp_path / label, labels)
        truth[first] = labels
    assert agrees(describe(tmp_path), truth)


def _folds(root: Path) -> dict[str, int]:
    for number, picture, labels in scenes():
        put(root / f"fold{number % 3 + 1}/images/{number}.png", picture)
        put(root / f"fold{number % 3 + 1}/masks/{number}.png", labels * 255)
    return {"train": 4, "val": 2}


def _folds_with_both_parts(root: Path) -> dict[str, int]:
    for number, picture, labels in scenes():
        for fold in range(3):
            part = f"Fold {fold}/{'val' if number % 3 == fold else 'train'}"
            put(root / f"{part}/images/{number}.png", picture)
            put(root / f"{part}/masks/{number}.png", labels * 255)
    return {"train": 4, "val": 2}


def _two_formats(root: Path, sides: tuple[str, str]) -> dict[str, int]:
    for number, picture, labels in scenes():
        for kind in ("tiff", "png"):
            put(root / sides[0].format(kind) / f"{number}.{kind}", picture)
            put(root / sides[1].format(kind) / f"{number}.{kind}", labels * 255)
    return {}


def _number_in_a_folders_name(root: Path) -> dict[str, int]:
    for number, picture, labels in scenes():
        put(root / f"mito-v2/{number:03}.png", picture)
        put(root / f"truth/mask{number:03}.png", labels * 255)
    return {}


def _listed(root: Path, name: str, texts: Callable[[Sequence[int]], str]) -> dict[str, int]:
    for number, picture, labels in scenes():
        put(root / f"images/{number}.png", picture)
        put(root / f"labels/{number}.png", labels * 255)
    for part, numbers in (("train", range(4)), ("val", range(4, 6))):
        (root / name.format(part)).write_text(texts(numbers))
    return {"train": 4, "val": 2}


def _numbered_rows(numbers: Sequence[int]) -> str:
    return ",file\n" + "".join(f'{row},"{n}.png"\n' for row, n in enumerate(numbers))


def _objects(_: Sequence[int]) -> str:
    parts = {"training": range(4), "validation": range(4, 6)}
    return json.dumps(
        {p: [{"image": f"images/{n}.png", "fold": 0} for n in parts[p]] for p in parts}
    )


def _flagged(root: Path) -> dict[str, int]:
    """1 for training, by the numbers of a list: CUB."""
    _listed(root, "images.txt", lambda _: "".join(f"{n + 1} images/{n}.png\n" for n in range(6)))
    flags = "".join(f"{n + 1} {int(n < 4)}\n" for n in range(6))
    (root / "train_val_split.txt").write_text(flags)
    return {"train": 4, "val": 2}


OWN_SPLITS: dict[str, Callable[[Path], dict[str, int]]] = {
    "folds": _folds,
    "folds with both parts": _folds_with_both_parts,
    "two formats": lambda root: _two_formats(root, ("{}/Original", "{}/Ground Truth")),
    "two formats, in words": lambda root: _two_formats(root, ("{}_images/X", "{}_masks/Y")),
    "a number in a folder's name": _number_in_a_folders_name,
    "numbered rows": lambda root: _listed(root, "{}.csv", _numbered_rows),
    "label files": lambda root: _listed(
        root, "{}_labels.txt", lambda some: "".join(f"labels/{n}.png\n" for n in some)
    ),
    "culane": lambda root: _listed(
        root, "{}_gt.txt", lambda some: "".join(f"/images/{n}.png /x/{n}.png 1 0\n" for n in some)
    ),
    "flags": _flagged,
    "objects": lambda root: _listed(root, "datalist.json", _objects),
}


@pytest.mark.parametrize("kind", OWN_SPLITS)
def test_each_image_is_used_once_and_in_the_part_it_is_said_to_be(
    kind: str, tmp_path: Path
) -> None:
    wanted = OWN_SPLITS[kind](tmp_path)
    description = describe(tmp_path)
    assert own_split_sizes(description) == wanted
    assert len(description.pairs) == 6
    for pair in description.pairs:
        assert int(re.findall(r"\d+", pair.labels.stem)[-1]) == int(pair.image.stem)
        if wanted and "fold" not in kind:
            assert (pair.split == "val") == (int(pair.image.stem) > 3)
    again = "two formats" in kind or kind == "folds with both parts"
    assert bool(description.found.notes) == again


PUBLISHED = {
    "bdd100k/images/10k/{s}/{n}.jpg": (
        "bdd100k/labels/sem_seg/masks/{s}/{n}.png", [0, 13, 255], ["road", "car"], [3, 4],
    ),
    "leftImg/{s}/b_{n}_leftImg8bit.png": (
        "ann/{s}/b_{n}_gtFine_labelTrainIds.png", [0, 13, 255], ["road", "car"], [3, 4],
    ),
    "rgb_anon/fog/{s}/G{n}_rgb_anon.png": (
        "gt/fog/{s}/G{n}_gt_labelTrainIds.png", [0, 13, 255], ["road", "car"], [3, 4],
    ),
    "data_2d_raw/{s}/image_00/{n}.png": (
        "data_2d_semantics/{s}/image_00/semantic/{n}.png", [7, 26, 38], ["road", "car"], [8, 11],
    ),
    "{s}/Rural/images_png/{n}.png": (
        "{s}/Rural/masks_png/{n}.png", [2, 7, 0], ["building", "agriculture"], [3, 4],
    ),
    "top/top_mosaic_09cm_area{n}.png": (
        "gt/top_mosaic_09cm_area{n}_noBoundary.png", [0xFFFFFF, 0x00FF00, 0],
        ["impervious_surfaces", "tree"], [0x0000FF, 0xFFFF00],
    ),
}  # fmt: skip


@pytest.mark.parametrize("image", PUBLISHED)
def test_published_values_are_known_by_the_files_paths(image: str, tmp_path: Path) -> None:
    name, stored, names, more = PUBLISHED[image]
    truth = {}
    for number, picture, labels in scenes(3):
        at = {"s": "train" if number < 4 else "val", "n": number}
        put(tmp_path / image.format(**at), picture)
        values = np.array(stored)[labels]
        values[0, :2], labels = more, labels.copy()  # as many classes as are telling
        labels[0, :2] = 3
        colors = np.stack([values >> shift & 255 for shift in (16, 8, 0)], -1)
        put(
            tmp_path / name.format(**at),
            (colors if max(stored) > 255 else values).astype(np.uint8),
        )
        truth[image.format(**at)] = labels
    description = describe(tmp_path)
    assert len(description.pairs) == len(truth)
    for pair in description.pairs:
        labels = read_sample(pair, description.encoding)[1]
        wanted = truth[pair.image.relative_to(tmp_path).as_posix()]
        for value, known in enumerate(names):
            assert (labels[wanted == value] == description.classes.names.index(known)).all()
        assert (labels[wanted == 2] == 255).all()


def test_an_image_is_known_by_parts_of_its_path(tmp_path: Path) -> None:
    """UW-Madison: the id says the folder's name and how the file's begins."""
    rows = ["id,class,segmentation"]
    for number, picture, _ in scenes():
        day = f"case7_day{number % 2}"
        put(tmp_path / f"train/case7/{day}/scans/slice_{number:04}_48_48_1.50.png", picture)
        rows.append(f"{day}_slice_{number:04},bowel,{number * 10 + 1} 9")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    description = describe(tmp_path)
    assert len(description.pairs) == 6
    for pair in description.pairs:
        start = int(pair.image.stem.split("_")[1]) * 10
        drawn = read_sample(pair, description.encoding)[1].T.ravel()
        assert np.flatnonzero(drawn).tolist() == [*range(start, start + 9)]


def test_colours_over_a_transparent_photograph_are_the_labels(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        shown = np.where(labels[..., None] > 0, PALETTE[labels], picture)
        colors = np.dstack([shown, (labels > 0) * 255]).astype(np.uint8)
        put(tmp_path / f"masks/{number}.png", colors)
        truth[f"images/{number}.png"] = np.array([0, 2, 1], np.uint8)[labels]  # blue before red
    description = describe(tmp_path)
    assert description.encoding.label_format == "opaque"
    assert agrees(description, truth)


def test_images_of_a_folder_beside_those_with_labels_are_told_of(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels * 255)
        put(tmp_path / f"night/n{number}.png", picture[::-1])
        put(tmp_path / f"overlay_vis/n{number}.png", picture)
    found = describe(tmp_path).found
    assert {path.parent.name for path in found.orphan_images} == {"night"}
    assert len(found.orphan_images) == 6


def test_a_list_of_more_classes_than_possible_names_what_it_numbers(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"labels/{number}.png", labels)
    names = [f"thing{number}" for number in range(400)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert "thing0, thing1" in describe(tmp_path).unused_list
    (tmp_path / "classes.txt").write_text("\n".join(f"{n} {t}" for n, t in enumerate(names)))
    assert describe(tmp_path).classes.names == ("thing0", "thing1")


def test_large_numbers_with_gaps_are_of_objects(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, picture, labels in scenes():
        stored = np.zeros(labels.shape, np.uint16)
        some = rng.choice([5, 9, 17, 60, 300, 777, 1000], number + 1, replace=False)
        for place, value in enumerate(some):
            stored[6 * place : 6 * place + 4, 4:20] = value
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", stored)
    assert describe(tmp_path).classes.names == ("background", "object")


@pytest.mark.parametrize(
    "wanted",
    [
        "/data/upload/1/0a1b2c3d-my_leaf_1.jpg",  # Label Studio's
        "0a1b2c3d-my leaf 1.jpg",
        "my%20leaf%201.jpg",
        "https://example.org/data/my%20leaf%201.jpg?X-Key=1",
    ],
)
def test_an_upload_is_the_image_that_was_uploaded(wanted: str, tmp_path: Path) -> None:
    files = ("images/my leaf 1.jpg", "images/my leaf 11.jpg")
    gathered = PairCollector(Listing(tmp_path, files))
    assert gathered.find_image(wanted, "result.json") == files[0]
    assert gathered.find_image(wanted.replace("1.jpg", "2.jpg"), "result.json") is None


def test_an_annotation_file_about_other_images_says_so(tmp_path: Path) -> None:
    put(tmp_path / "images/here.png", photo(disc(0), 0))
    image = {"id": 1, "file_name": "gone.png", "width": 48, "height": 48}
    area = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    document = {"images": [image], "annotations": [area], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"a\.json is about: no image file 'gone\.png'"):
        describe(tmp_path)


def test_run_lengths_may_count_from_the_last_run(tmp_path: Path) -> None:
    for number, picture, _ in scenes():
        put(tmp_path / f"images/{number}.png", picture)
    rows = "".join(f"{number}, 90 3 45 3 45 3\n" for number in range(6))
    (tmp_path / "train-rle.csv").write_text(f"ImageId, EncodedPixels\n{rows}")
    description = describe(tmp_path)
    drawn = read_sample(description.pairs[0], description.encoding)[1].T.ravel()
    assert np.flatnonzero(drawn).tolist() == [90, 91, 92, 138, 139, 140, 186, 187, 188]


@pytest.mark.parametrize(
    "name", ["masks/{n}_rater{r}.png", "masks/{n}_{r}.png", "masks/rater{r}/{n}.png"]
)
def test_several_drawings_of_one_thing_are_asked_about(name: str, tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        for rater in (1, 2):
            put(tmp_path / name.format(n=number, r=rater), np.roll(labels, rater, 1) * 255)
    with pytest.raises(DatasetError, match="2 sets of labels") as caught:
        describe(tmp_path)
    line = re.findall(r'labels = "[^"]+"', str(caught.value))[1]
    (tmp_path / "dataset.toml").write_text(f'root = "."\n{line}\n')
    description = describe(tmp_path / "dataset.toml")
    for pair in description.pairs:
        assert pair.labels == tmp_path / name.format(n=pair.image.stem, r=2)
    assert description.encoding.label_format == "pixels"


def _white(values: np.ndarray) -> np.ndarray:
    return np.array([[255, 255, 255], [255, 0, 0]], np.uint8)[values]


def _wide(values: np.ndarray) -> np.ndarray:
    return values * (np.uint8(255) if values[0].any() or values.sum() % 2 else np.uint16(65535))


@pytest.mark.parametrize("stored", [_white, _wide])
def test_two_values_are_background_and_object(
    stored: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    truth = {}
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        part = labels.copy()
        part[-1, -1] = number % 2  # an odd number of pixels in some
        put(tmp_path / f"masks/{number}.png", stored(part))
        truth[f"images/{number}.png"] = part
    description = describe(tmp_path)
    assert description.classes.names == ("background", "object")
    assert agrees(description, truth)


def test_the_classes_of_a_transformers_model_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"id2label": {"0": "sky", "1": "leaf"}}')
    entries, _ = find_entries(list_folder(tmp_path))
    assert [(entry.name, entry.value) for entry in entries] == [("sky", 0), ("leaf", 1)]


def test_numbered_masks_that_cover_each_image_are_classes(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number + 100}_1.png", picture)
        for value in range(3):
            name = f"labels/{number + 100}_1/{number + 100}_1_lbl{value:02}.png"
            put(tmp_path / name, (labels == value).astype(np.uint8) * 255)
        truth[f"images/{number + 100}_1.png"] = labels
    description = describe(tmp_path)
    assert description.classes.names == ("background", "class_01", "class_02")
    assert agrees(description, truth)
