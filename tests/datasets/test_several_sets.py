"""Folders with several sets of labels, or of images, of the same scenes: the one that is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fcnseg.datasets.describe import describe, own_split_sizes, scan
from fcnseg.datasets.formats.layers import find_layers
from fcnseg.datasets.pairing import list_folder
from fcnseg.datasets.pairing.candidates import pattern_for
from fcnseg.errors import DatasetError
from tests.datasets.test_pairing import disc, photo, put, scenes
from tests.datasets.test_public_folders import Truth, agrees

COLORS = np.array([[0, 0, 0], [30, 60, 230], [220, 20, 60]], np.uint8)
"""In the order that classes without a list have."""


def other_sensors(root: Path) -> Truth:
    """The color images are meant, whose names share fewer words with the labels'."""
    truth = {}
    for number, picture, labels in scenes(3):
        name = f"rgb/b1-{number}_Clipped.png"
        put(root / name, picture)
        put(root / f"nir_color/b1-{number}.png", picture[..., ::-1])
        put(root / f"nir_gray/b1-{number}.png", picture[..., 0])
        put(root / f"GT_color/b1-{number}_mask.png", COLORS[labels])
        truth[name] = labels
    return truth


def two_sensors_and_two_copies(root: Path) -> Truth:
    """Neither sensor's images go with the one copy of the labels."""
    truth = {}
    for number, picture, labels in scenes(3):
        name = f"images/rgb/frame{number}.png"
        put(root / name, picture)
        put(root / f"images/nir/frame{number}.png", picture[..., 1])
        put(root / f"annotations/colorCleaned/frame{number}.png", COLORS[labels])
        put(root / f"annotations/mapCleaned/frame{number}.png", labels)
        truth[name] = labels
    return truth


def rendered(root: Path) -> Truth:
    """The colors, not the surfaces' directions, are the image."""
    truth = {}
    for number, picture, labels in scenes(3):
        put(root / f"rgba_{number:05}.png", picture)
        put(root / f"normal_{number:05}.png", photo(labels * 0, number + 40))
        put(root / f"segmentation_{number:05}.png", labels)
        truth[f"rgba_{number:05}.png"] = labels
    return truth


def other_sizes(root: Path) -> Truth:
    truth = {}
    for number, picture, labels in scenes():
        name = f"PS-RGB/PS-RGB_img{number}.png"
        put(root / name, picture)
        put(root / f"MUL/MUL_img{number}.png", picture[::2, ::2])
        put(root / f"masks/buildings_img{number}.png", labels * 255)
        truth[name] = labels
    return truth


def finer_classes(root: Path) -> Truth:
    """Plants in masks/, crop and weed in annotations/."""
    truth = {}
    for number, picture, labels in scenes(3):
        put(root / f"images/{number:03}_image.png", picture)
        put(root / f"masks/{number:03}_mask.png", (labels == 0).astype(np.uint8) * 255)
        put(root / f"annotations/{number:03}_annotation.png", COLORS[labels])
        truth[f"images/{number:03}_image.png"] = labels
    return truth


def visible_parts(root: Path) -> Truth:
    truth = {}
    for number, picture, labels in scenes(3):
        put(root / f"images/{number}.png", picture)
        put(root / f"semantics/{number}.png", labels)
        put(root / f"plant_visibility/{number}.png", (labels > 0).astype(np.uint8) * 255)
        truth[f"images/{number}.png"] = labels
    return truth


def centres(root: Path) -> Truth:
    """Points mark places; they are no class within the leaves."""
    truth = {}
    for number in range(6):
        labels = disc(number, 9)
        put(root / f"plant{number}_rgb.png", photo(labels, number))
        put(root / f"plant{number}_fg.png", labels * 255)
        points = np.zeros_like(labels)
        points[tuple(np.argwhere(labels).mean(0).astype(int))] = 255
        put(root / f"plant{number}_centers.png", points)
        truth[f"plant{number}_rgb.png"] = labels
    return truth


def valid_areas(root: Path) -> Truth:
    """Where the camera saw something is not a third class."""
    truth = {}
    for number, picture, labels in scenes(3):
        put(root / f"images/{number}.png", picture)
        for value, word in ((1, "water"), (2, "weeds")):
            put(root / f"labels/{word}/{number}.png", (labels == value).astype(np.uint8) * 255)
        valid = np.full(labels.shape, 255, np.uint8)
        valid[: number % 3] = 0
        put(root / f"masks/{number}.png", valid)
        truth[f"images/{number}.png"] = labels
    return truth


def training_ids(root: Path) -> Truth:
    """labelTrainIds are made for training, and `Train` in it is no split."""
    truth = {}
    for number, picture, labels in scenes(3):
        split = "train" if number < 4 else "val"
        stem = f"fog/{split}/GOPR{number // 2}/frame_{number}"
        put(root / f"rgb_anon/{stem}_rgb_anon.png", picture)
        stored = np.array([0, 1, 255], np.uint8)[labels]
        put(root / f"gt/{stem}_gt_labelTrainIds.png", stored)
        put(root / f"gt/{stem}_gt_labelIds.png", np.array([7, 8, 0], np.uint8)[labels])
        put(root / f"gt/{stem}_gt_labelColor.png", COLORS[labels])
        truth[f"rgb_anon/{stem}_rgb_anon.png"] = stored
    return truth


def folders_like_files(root: Path) -> Truth:
    truth = {}
    for number, picture, labels in scenes(3):
        person = f"Ann_{'ABC'[number // 2]}"
        name = f"photos_of/{person}/{person}_{number % 2}.png"
        put(root / name, picture)
        put(root / f"painted/{person}_{number % 2}.png", COLORS[labels])
        truth[name] = labels
    return truth


def weights_of_pixels(root: Path) -> Truth:
    """Finer than the labels, and no classes (U-Net)."""
    truth = {}
    for number, picture, labels in scenes():
        put(root / f"images/{number}.png", picture)
        put(root / f"labels/{number}.png", labels * 255)
        weights = labels * 90 + 20 + np.arange(len(labels)) // 12
        put(root / f"weights/{number}.png", weights.astype(np.uint8))
        truth[f"images/{number}.png"] = labels
    return truth


def radar(root: Path) -> Truth:
    """Sen1Floods11: images of fractions, whose pixels are no labels' numbers."""
    truth = {}
    for number, picture, labels in scenes():
        put(root / f"S1Hand/India_{number}_S1Hand.tif", picture[..., 0].astype(np.float32) / 9)
        put(root / f"LabelHand/India_{number}_LabelHand.png", labels)
        truth[f"S1Hand/India_{number}_S1Hand.tif"] = labels
    return truth


FOLDERS: dict[str, Callable[[Path], Truth]] = {
    one.__name__: one
    for one in (
        rendered,
        other_sensors, two_sensors_and_two_copies, other_sizes, finer_classes, visible_parts,
        centres, valid_areas, training_ids, folders_like_files, weights_of_pixels, radar,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_the_set_that_is_meant_is_read(name: str, tmp_path: Path) -> None:
    truth = FOLDERS[name](tmp_path)
    assert agrees(describe(tmp_path), truth)


def test_photographs_cut_out_on_black_are_no_labels(tmp_path: Path) -> None:
    """PlantVillage: the leaves of color/ alone on black, for classification."""
    for number, picture, labels in scenes():
        cut = np.where(labels[..., None] > 0, picture, 0).astype(np.uint8)
        put(tmp_path / f"color/scab/{number}.png", picture)
        put(tmp_path / f"segmented/scab/{number}_final_masked.png", cut)
    with pytest.raises(DatasetError, match="12 images but no labels"):
        describe(tmp_path)


def test_objects_that_are_numbered_are_no_finer_classes(tmp_path: Path) -> None:
    truth = {}
    for number in range(6):
        labels = np.zeros((64, 64), np.uint8)
        for place in range(number + 1):
            labels[4 + 10 * place : 10 + 10 * place, 10:30] = place + 1
        binary = (labels > 0).astype(np.uint8)
        put(tmp_path / f"shots/{number}.png", photo(binary, number))
        put(tmp_path / f"leaf/{number}.png", binary * 255)
        put(
            tmp_path / f"leaves/{number}.png", np.stack([labels * 30, labels * 20, 99 - labels], -1)
        )
        put(tmp_path / f"counted/{number}.png", labels)
        truth[f"shots/{number}.png"] = binary
    assert agrees(describe(tmp_path), truth)


def test_of_two_sets_of_labels_each_is_named_by_a_pattern_of_its_own() -> None:
    """KITTI's: the roads' files begin in several ways."""
    road = [f"gt_image_2/{kind}_road_{number}.png" for kind in ("um", "uu") for number in range(3)]
    lane = [f"gt_image_2/um_lane_{number}.png" for number in range(3)]
    assert pattern_for(road, lane) == "*_road_*"
    assert pattern_for(lane, road) == "gt_image_2/um_lane_*"


def test_folders_may_name_splits_by_two_letters(tmp_path: Path) -> None:
    parts = ["DIS-TR"] * 3 + ["DIS-VD"] + ["DIS-TE1", "DIS-TE2"]
    for number, picture, labels in scenes():
        put(tmp_path / f"{parts[number]}/{parts[number]}-Image/{number}.jpg", picture)
        put(tmp_path / f"{parts[number]}/{parts[number]}-Mask/{number}.png", labels * 255)
    assert own_split_sizes(describe(tmp_path)) == {"train": 3, "val": 1, "test": 2}


def test_a_split_may_stand_before_a_number_and_a_word(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        part = "train" if number < 4 else "test"
        put(tmp_path / f"nyu_{part}_rgb/nyu_rgb_{number}.png", picture)
        put(tmp_path / f"{part}13labels/new_nyu_class13_{number}.png", labels)
    assert own_split_sizes(describe(tmp_path)) == {"train": 4, "test": 2}


@pytest.mark.parametrize("second", [0, 1])
def test_one_channel_may_number_objects(second: int, tmp_path: Path) -> None:
    """second: the class in the next channel, where it has one: one class is a class, too."""
    truth = {}
    for number in range(6):
        counted = np.zeros((64, 64), np.uint8)
        for place in range(1 + number):
            counted[2 + 10 * place : 8 + 10 * place, 5:25] = place + 1
        objects = (counted > 0).astype(np.uint8)
        put(tmp_path / f"images/{number}.png", photo(objects, number))
        stored = np.stack([objects * second, counted, objects * 0], -1)
        put(tmp_path / f"masks/{number}.png", stored)
        truth[f"images/{number}.png"] = objects
    assert agrees(describe(tmp_path), truth)


def test_outlines_may_have_other_names_than_their_images(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes():
        name = f"PS-RGB/PS-RGB_AOI_2_img{number}.png"
        put(tmp_path / name, picture)
        ys, xs = np.nonzero(labels)
        box = [
            [xs.min(), ys.min()],
            [xs.max(), ys.min()],
            [xs.max(), ys.max()],
            [xs.min(), ys.max()],
        ]
        ring = [[int(x), int(y)] for x, y in box]
        about = {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "properties": {},
                 "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}}
            ],
        }  # fmt: skip
        file = tmp_path / f"geojson/buildings_AOI_2_img{number}.geojson"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(about))
        truth[name] = np.zeros_like(labels)
        truth[name][ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = 1
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RUGD_annotation-colormap.txt", "0 rock 0 0 0\n1 dirt 220 20 60\n2 grass 40 200 90\n"),
        ("label_num_dic_final.json", '{"rock": 0, "dirt": 1, "grass": 2}'),
    ],
)
def test_a_class_list_is_known_by_its_numbers(name: str, text: str, tmp_path: Path) -> None:
    colored = name.endswith("txt")
    palette = np.array([[0, 0, 0], [220, 20, 60], [40, 200, 90]], np.uint8)
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", palette[labels] if colored else labels)
    (tmp_path / name).write_text(text)
    assert describe(tmp_path).classes.names == ("rock", "dirt", "grass")
    (tmp_path / name).write_text('{"rock": 310, "dirt": 12, "grass": 40}')
    assert "rock" not in describe(tmp_path).classes.names  # counts of something


def test_black_that_no_line_of_a_list_has_is_background(tmp_path: Path) -> None:
    """Where it is most of the pixels: lists of the things that were drawn leave it out."""
    truth = {}
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", COLORS[labels])
        truth[f"images/{number}.png"] = labels
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nleaf,30,60,230\nstone,220,20,60\n")
    description = describe(tmp_path)
    assert description.classes.names == ("background", "leaf", "stone")
    assert agrees(description, truth)


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_packed_dataset_is_to_be_unpacked(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"train-00000.{suffix}").write_bytes(b"images and labels")
    with pytest.raises(DatasetError) as caught:
        describe(tmp_path)
    assert f"unpack train-00000.{suffix}" in (caught.value.hint or "")


def test_labels_that_may_be_of_either_camera_are_asked_about(tmp_path: Path) -> None:
    """EndoVis 2017: all labels are the left camera's; `Left` and `Right` are the tool's hands."""
    for number, picture, labels in scenes():
        folder, file = f"set_{number % 2}", f"frame{number:03}.png"
        put(tmp_path / folder / "left_frame" / file, picture)
        put(tmp_path / folder / "right_frame" / file, photo(np.roll(labels, 4, 1), number + 9))
        words = [("Left_Forceps", "Bipolar"), ("Left_Forceps", "Right_Forceps", "Other")]
        for place, word in enumerate(words[number % 2]):
            tool = np.zeros_like(labels)
            tool[16 * place : 16 * place + 12, 4 + number : 30 - number] = 10
            put(tmp_path / folder / "ground_truth" / f"{word}_labels" / file, tool)
    with pytest.raises(DatasetError, match="two images for each label") as caught:
        describe(tmp_path)
    assert 'images = "*/left_frame/*"' in caught.value.hint
    (tmp_path / "dataset.toml").write_text('root = "."\nimages = "*/left_frame/*"\n')
    found = describe(tmp_path / "dataset.toml")
    assert {pair.image.parent.name for pair in found.pairs} == {"left_frame"}
    assert len(found.classes) == 5


def test_the_images_that_were_chosen_are_not_labelled_by_other_images(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"left/{number}.png", picture)
        put(tmp_path / f"right/{number}.png", photo(np.roll(labels, 4, 1), number + 9))
        put(tmp_path / f"zones/{number}.png", labels * 255)
    (tmp_path / "dataset.toml").write_text('root = "."\nimages = "left"\n')
    found = describe(tmp_path / "dataset.toml")
    assert {pair.labels.parent.name for pair in found.pairs} == {"zones"}


def test_classes_are_meant_where_objects_numbers_stand_beside_them(tmp_path: Path) -> None:
    """IDD: the same borders in other numbers, the names of both in one word."""
    truth = {}
    for number, picture, labels in scenes(3):
        name = f"leftImg8bit/{number}_leftImg8bit.png"
        put(tmp_path / name, picture)
        put(tmp_path / f"gtFine/{number}_gtFine_labellevel3Ids.png", labels)
        wide = labels.astype(np.uint16) * 1000
        put(tmp_path / f"gtFine/{number}_gtFine_instancelevel3Ids.png", wide)
        truth[name] = labels
    assert agrees(describe(tmp_path), truth)


def test_what_the_question_proposes_tells_the_sets_apart(tmp_path: Path) -> None:
    """LIP: the names end and begin alike, and each split has a folder of its own."""
    for number, picture, labels in scenes(3):
        split = ("train", "val")[number % 2]
        put(tmp_path / f"{split}_images/{number}.png", picture)
        put(tmp_path / f"{split}_parts/{number}.png", labels)
        put(tmp_path / f"{split}_parts_again/{number}.png", labels[:, ::-1])
    with pytest.raises(DatasetError) as caught:
        describe(tmp_path)
    assert 'labels = "*_parts/*" (' in caught.value.message
    assert 'labels = "*_parts_again/*" (' in caught.value.message
    (tmp_path / "dataset.toml").write_text('root = "."\nlabels = "*_parts/*"\n')
    found = describe(tmp_path / "dataset.toml")
    assert {pair.labels.parent.name for pair in found.pairs} == {"train_parts", "val_parts"}


def test_a_folders_split_counts_more_than_a_files(tmp_path: Path) -> None:
    """BDD100K: `val/a_train_id.png` holds train ids, and is no training image."""
    for number, picture, labels in scenes():
        split = "train" if number < 4 else "val"
        put(tmp_path / f"seg/images/{split}/{number}.jpg", picture)
        put(tmp_path / f"seg/labels/{split}/{number}_train_id.png", labels)
        put(tmp_path / f"seg/color_labels/{split}/{number}_train_color.png", COLORS[labels])
    assert own_split_sizes(describe(tmp_path)) == {"train": 4, "val": 2}


FOLDS = {
    "folders": "splits/fold_{}/{}.txt",
    "numbers": "{1}_{0}.txt",
}


@pytest.mark.parametrize("name", FOLDS.values(), ids=FOLDS)
def test_of_several_folds_the_first_is_the_split(name: str, tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels)
    for fold in range(3):
        for split in ("train", "val"):
            held = [n for n in range(6) if (n // 2 == fold) == (split == "val")]
            file = tmp_path / name.format(fold, split)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{n}.png\n" for n in held))
    found = describe(tmp_path)
    assert {pair.name for pair in found.pairs if pair.split == "val"} == {"0", "1"}


def test_lists_of_all_images_count_more_than_a_folders_word(tmp_path: Path) -> None:
    """DeepFish: valid/ are the images with fish, empty/ those without."""
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, picture, labels in scenes():
        kind = ("valid", "empty")[number % 2]
        put(tmp_path / f"images/{kind}/{number}.png", picture)
        put(tmp_path / f"masks/{kind}/{number}.png", labels * (kind == "valid"))
        lines[("train", "train", "train", "val", "test", "test")[number]].append(
            f"{kind}/{number},{number}\n"
        )
    for split, some in lines.items():
        (tmp_path / f"{split}.csv").write_text("ID,labels\n" + "".join(some))
    assert own_split_sizes(describe(tmp_path)) == {"train": 3, "val": 1, "test": 2}


def test_a_list_may_name_an_image_with_two_label_files(tmp_path: Path) -> None:
    """Both pairs had one name: the one's pixels were counted twice, and --fix lost the other."""
    lines = []
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        for reader in range(2):
            lines.append(f"images/{number}.png,masks/{number}_{reader}.png")
            put(tmp_path / f"masks/{number}_{reader}.png", labels * (1 - reader))
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    seen = scan(tmp_path / "pairs.csv")
    pairs = seen.description.pairs
    assert len({pair.name for pair in pairs}) == len(pairs) == len(lines)
    values = [one.values for one in seen.labels.counts.good()]
    assert values == [(0, 1) if pair.labels.stem.endswith("0") else (0,) for pair in pairs]


def layered(root: Path, mask: str, image: str = "images/{n}.png", classes: int = 2) -> Truth:
    """A mask of 0 and 255 for each class, and the labels by image."""
    truth = {}
    for number in range(6):
        labels = np.zeros((48, 64), np.uint8)
        for value in range(1, classes + 1):
            x, y = 7 * value - 5, 4 + 5 * ((number + value) % 6)
            labels[y : y + 12, x : x + 6] = value
        for value in range(1, classes + 1):
            mine = (labels == value).astype(np.uint8) * 255
            put(root / mask.format(n=number, c=value), mine)
        put(root / image.format(n=number), photo(np.minimum(labels, 2), number))
        truth[image.format(n=number)] = labels
    return truth


NUMBERED_FOLDERS = {
    "class_{c}_masks/{n}.png": "class_",
    "masks_{c}/{n}.png": "class_",
    "mask_cat_0{c}/{n}.png": "cat_",
    "Label {c}/{n}.png": "class_",
    "defect{c}_mask/{n}.png": "defect_",
}


@pytest.mark.parametrize("classes", [2, 8])
@pytest.mark.parametrize("mask", NUMBERED_FOLDERS)
def test_folders_of_masks_that_a_number_tells_apart_are_classes(
    mask: str, classes: int, tmp_path: Path
) -> None:
    truth = layered(tmp_path, mask, classes=classes)
    found = describe(tmp_path)
    word = NUMBERED_FOLDERS[mask]
    assert found.classes.names == (
        "background", *(f"{word}{number}" for number in range(1, classes + 1))
    )  # fmt: skip
    assert agrees(found, truth)


def test_a_class_list_names_numbered_folders(tmp_path: Path) -> None:
    truth = layered(tmp_path, "masks_{c}/{n}.png")
    (tmp_path / "classes.txt").write_text("background\nroad\nriver\n")
    found = describe(tmp_path)
    assert found.classes.names == ("background", "road", "river")
    assert agrees(found, truth)


def test_numbered_folders_that_images_have_too_are_parts(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes(3):
        part = number % 2 + 1
        put(tmp_path / f"images_{part}/{number // 2}.png", picture)
        put(tmp_path / f"masks_{part}/{number // 2}.png", labels)
        truth[f"images_{part}/{number // 2}.png"] = labels
    assert agrees(describe(tmp_path), truth)


def test_masks_beside_masks_2_are_asked_about(tmp_path: Path) -> None:
    """They were read as one object."""
    layered(tmp_path, "masks_{c}/{n}.png")
    (tmp_path / "masks_1").rename(tmp_path / "masks")
    with pytest.raises(DatasetError, match="2 sets of labels for the same images"):
        describe(tmp_path)


def test_class_0_is_the_background_only_where_it_fills_the_rest(tmp_path: Path) -> None:
    truth = layered(tmp_path / "some", "masks/{n}_class_{c}.png")
    for file in sorted((tmp_path / "some/masks").iterdir()):
        file.rename(file.with_name(file.stem[:-1] + str(int(file.stem[-1]) - 1) + ".png"))
    found = describe(tmp_path / "some")
    assert found.classes.names == ("background", "class_0", "class_1")
    assert agrees(found, truth)
    truth = layered(tmp_path / "all", "masks/{n}_class_{c}.png")
    for number, labels in enumerate(truth.values()):
        rest = (labels == 0).astype(np.uint8) * 255
        put(tmp_path / f"all/masks/{number}_class_0.png", rest)
    assert describe(tmp_path / "all").classes.names == ("background", "class_1", "class_2")


@pytest.mark.parametrize("image", ["{n}", "img{n}", "img_{n}"])
@pytest.mark.parametrize("mask", ["mask{n}_{c}", "{n}_{c}", "{c}_{n}", "mask_{n}_{c}", "x{n}_{c}"])
def test_masks_numbered_by_image_and_object_are_the_images(
    mask: str, image: str, tmp_path: Path
) -> None:
    """mask1_2 was taken for a mask of image 2."""
    truth = layered(tmp_path, f"masks/{mask}.png", f"images/{image}.png")
    found = describe(tmp_path)
    assert (len(found.pairs), found.classes.names) == (6, ("background", "object"))
    assert agrees(found, {image: (labels > 0).astype(np.uint8) for image, labels in truth.items()})


def test_an_objects_number_that_an_image_has_pairs_nothing(tmp_path: Path) -> None:
    layered(tmp_path, "masks/{n}_{c}.png")
    for number, file in enumerate(sorted((tmp_path / "masks").iterdir())):
        file.rename(file.with_name("abc"[number % 3] + file.name))
    assert find_layers(list_folder(tmp_path)) is None


def test_more_classes_than_images_are_classes(tmp_path: Path) -> None:
    truth = layered(tmp_path, "masks/{c}/{n}.png", classes=8)
    for value in range(1, 9):
        (tmp_path / f"masks/{value}").rename(tmp_path / f"masks/{'abcdefgh'[value - 1]}")
    assert agrees(describe(tmp_path), truth)


WHOLE = {
    "landcover.ai": ("images/{n}.tif", "masks/{n}.tif", "out/{n}_{t}.jpg", "out/{n}_{t}_m.png"),
    "folders": ("images/{n}.png", "masks/{n}.png", "t/images/{n}_{t}.png", "t/masks/{n}_{t}.png"),
    "rows": ("image/{n}.png", "gt/{n}.png", "t/image/{n}_r{t}_c0.png", "t/gt/{n}_r{t}_c0.png"),
    "words": ("img/{n}.png", "gt/{n}.png", "t/img/{n}_tile_{t}.png", "t/gt/{n}_tile_{t}.png"),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("names", WHOLE.values(), ids=WHOLE)
def test_of_whole_images_and_their_tiles_the_tiles_are_used(
    names: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    """Of one whole image only that was read; of several, the same pixels were in train and val."""
    image, mask, tile, tile_mask = names
    drawn = list(scenes(3))
    for number in range(count):
        parts = drawn[2 * number : 2 * number + 2]
        files = {"n": f"M-33-{number}-D"}
        put(tmp_path / image.format(**files), np.hstack([part[1] for part in parts]))
        put(tmp_path / mask.format(**files), np.hstack([part[2] for part in parts]))
        for place, (_, picture, labels) in enumerate(parts):
            put(tmp_path / tile.format(**files, t=place), picture)
            put(tmp_path / tile_mask.format(**files, t=place), labels)
    found = describe(tmp_path)
    assert {pair.image.parent for pair in found.pairs} == {(tmp_path / tile).parent}
    assert len(found.pairs) == 2 * count


def test_images_of_one_size_are_not_tiles_of_each_other(tmp_path: Path) -> None:
    for number, picture, labels in scenes():
        for name in (f"a/{{}}/v{number // 3}.png", f"b/{{}}/v{number // 3}_{number}.png"):
            put(tmp_path / name.format("images"), picture)
            put(tmp_path / name.format("masks"), labels)
    assert len(describe(tmp_path).pairs) == 8
