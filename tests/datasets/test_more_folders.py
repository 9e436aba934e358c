"""Folders that were once read wrongly: what they hold, and how it is read."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets.describe import describe, own_split_sizes
from fcnseg.errors import DatasetError
from tests.datasets.test_pairing import disc, photo, put, scenes
from tests.datasets.test_public_folders import Truth, agrees


def written(root: Path, image: str, classes: int = 2, mask: str = "", factor: int = 1) -> Truth:
    """Images, perhaps with masks; the labels that are right."""
    truth = {}
    for number, picture, labels in scenes(classes):
        put(root / image.format(n=number), picture)
        if mask:
            put(root / mask.format(n=number), labels * np.uint8(factor))
        truth[image.format(n=number)] = labels
    return truth


def runs_of(mask: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(np.r_[0, mask.ravel(), 0].astype(int))) + 1
    return " ".join(f"{start} {end - start}" for start, end in edges.reshape(-1, 2))


@pytest.mark.parametrize("cut", [48, 40])
@pytest.mark.parametrize("along_rows", [True, False])
def test_run_lengths_go_the_way_that_the_images_show(
    cut: int, along_rows: bool, tmp_path: Path
) -> None:
    """Of square images only the edges in the image tell."""
    truth, rows = {}, ["id,class,segmentation"]
    for number, _, whole in scenes(3):
        labels = whole[:cut]
        put(tmp_path / f"scans/{number}.png", photo(labels, number))
        truth[f"scans/{number}.png"] = labels
        for value in (1, 2):
            mask = labels == value
            rows.append(f"{number},{value},{runs_of(mask if along_rows else mask.T)}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    categories = [{"id": 2, "name": "ring"}, {"id": 1, "name": "disc"}]
    (tmp_path / "label_descriptions.json").write_text(json.dumps({"categories": categories}))
    description = describe(tmp_path)
    assert agrees(description, {name: 2 * (one == 1) + (one == 2) for name, one in truth.items()})
    assert description.classes.names == ("background", "ring", "disc")


def test_of_arrays_the_classes_are_read_and_not_the_objects(tmp_path: Path) -> None:
    truth = written(tmp_path / "types", "images/{n}.png", 3)
    written(tmp_path / "objects", "images/{n}.png")
    for number, labels in enumerate(truth.values()):
        for folder, both in (("types", {"type_map": labels}), ("objects", {})):
            file = tmp_path / folder / f"labels/{number}.npz"
            file.parent.mkdir(exist_ok=True)
            np.savez(file, inst_map=labels * (number + 2), **both)
    assert agrees(describe(tmp_path / "types"), truth)
    objects = {name: (labels > 0).astype(np.uint8) for name, labels in truth.items()}
    assert agrees(describe(tmp_path / "objects"), objects)


def test_palettes_of_which_no_color_recurs_say_nothing(tmp_path: Path) -> None:
    truth = written(tmp_path, "images/{n}.png", 3)
    for number, labels in enumerate(truth.values()):
        mask = Image.fromarray(labels, "P")
        mask.putpalette([40 * number + value for value in range(9)])
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / f"masks/{number}.png")
    assert agrees(describe(tmp_path), truth)


def coco(root: Path, outline: list[list[int]], **image: str) -> None:
    """A COCO file about 0.png; image: what it says of it."""
    area = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "segmentation": outline}
    document = {
        "images": [{"id": 1, "width": 48, "height": 48, **image}],
        "annotations": [area],
        "categories": [{"id": 1, "name": "can"}],
    }
    (root / "labels.json").write_text(json.dumps(document))


def test_coco_may_name_images_by_address_alone(tmp_path: Path) -> None:
    written(tmp_path, "val2017/{n}.png")
    coco(tmp_path, [[1, 1, 9, 1, 9, 9]], coco_url="http://images.cocodataset.org/val2017/0.png")
    (pair,) = describe(tmp_path).pairs
    assert pair.image.name == "0.png"


def test_coco_without_outlines_leaves_the_labels_to_other_files(tmp_path: Path) -> None:
    truth = written(tmp_path, "pics/{n}.png")
    coco(tmp_path, [], file_name="0.png")
    with pytest.raises(DatasetError, match="COCO file of boxes or keypoints"):
        describe(tmp_path)
    written(tmp_path, "pics/{n}.png", mask="drawn/{n}.png", factor=255)
    assert agrees(describe(tmp_path), truth)


def test_a_copy_of_a_mask_is_no_second_drawing(tmp_path: Path) -> None:
    truth = written(tmp_path, "images/{n}.png", mask="masks/{n}.png", factor=255)
    copied = (tmp_path / "masks/3.png").read_bytes()
    (tmp_path / "masks/3 (1).png").write_bytes(copied)
    assert agrees(describe(tmp_path), truth)


def test_vocs_classes_are_known_in_the_augmented_set(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes(3):
        name = f"2007_{number:06}"
        put(tmp_path / f"JPEGImages/{name}.png", picture)
        put(tmp_path / f"SegmentationClassAug/{name}.png", labels * np.uint8(7))
        truth[f"JPEGImages/{name}.png"] = labels * 7
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names[14] == "motorbike"


def test_masks_of_label_studio_with_a_single_tag(tmp_path: Path) -> None:
    mask = "masks/task-{n}-annotation-9-by-1-tag-leaf-0.png"
    truth = written(tmp_path, "images/{n}.png", mask=mask, factor=255)
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names == ("background", "leaf")


def test_stacks_may_hold_fractions(tmp_path: Path) -> None:
    some = [*scenes()]
    np.save(tmp_path / "imgs_train.npy", np.stack([one[1] / 255 for one in some]))
    np.save(tmp_path / "imgs_mask_train.npy", np.stack([one[2][..., None] / 1 for one in some]))
    description = describe(tmp_path)
    assert {pair.image.name for pair in description.pairs} == {"imgs_train.npy"}
    assert len(description.pairs) == len(some)


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    written(tmp_path, "images/{n}.png")
    (tmp_path / "b.shp").touch()
    with pytest.raises(DatasetError, match=r"no labels that can be read; 1 \.shp file \("):
        describe(tmp_path)
    with zipfile.ZipFile(tmp_path / "masks.zip", "w"):
        pass
    with pytest.raises(DatasetError, match=r"no labels; masks\.zip may hold them"):
        describe(tmp_path)
    with pytest.raises(DatasetError) as caught:
        describe(tmp_path / "masks.zip")
    assert "unpack" in caught.value.hint


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_lists_of_pairs_may_have_the_paths_of_another_machine(kind: str, tmp_path: Path) -> None:
    truth = written(tmp_path, "i/{n}.png", mask="m/1{n}.png", factor=255)
    rows = [
        {"image": f"C:\\data\\i\\{n}.png", "mask": f"/content/d/m/1{n}.png",
         "subset": "train" if n < 4 else "val"}
        for n in range(6)
    ]  # fmt: skip
    text = "\n".join(["image,mask,subset", *(",".join(row.values()) for row in rows)])
    (tmp_path / f"data.{kind}").write_text(text if kind == "csv" else json.dumps(rows))
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert own_split_sizes(description) == {"train": 4, "val": 2}


def test_lists_of_splits_may_be_named_in_one_word(tmp_path: Path) -> None:
    written(tmp_path, "images/a{n}.png", mask="masks/a{n}.png", factor=255)
    (tmp_path / "trainImages.txt").write_text("a0\na1\n")
    (tmp_path / "valImages.txt").write_text("a2\na3\na4\na5\n")
    assert own_split_sizes(describe(tmp_path)) == {"train": 2, "val": 4}


def test_two_colors_have_the_names_of_a_list_without_colors(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes():
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", np.array([[0, 0, 0], [9, 90, 200]], np.uint8)[labels])
        truth[f"images/{number}.png"] = labels
    for text, names in (
        ("leaf\nbackground\n", ("background", "leaf")),
        ("sea\nleaf\n", ("sea", "leaf")),  # black is the first
    ):
        (tmp_path / "classes.txt").write_text(text)
        description = describe(tmp_path)
        assert agrees(description, truth)
        assert description.classes.names == names


def test_smoothed_colors_are_no_class_numbers_in_a_channel(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [230, 25, 75], [60, 180, 75], [0, 130, 200]], np.uint8)
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        labels[4:16, 4:16] = 3
        drawn = cv2.GaussianBlur(colors[labels], (3, 3), 0.5)
        put(tmp_path / f"masks/{number}.png", drawn)
    description = describe(tmp_path)
    assert {color for one in description.encoding.values for color in one} == {
        0, 0xE6194B, 0x3CB44B, 0x0082C8
    }  # fmt: skip


def test_a_list_of_as_many_names_as_there_are_values_from_1_on_names_them(tmp_path: Path) -> None:
    truth = {}
    for number, picture, labels in scenes(3):
        put(tmp_path / f"images/{number}.png", picture)
        put(tmp_path / f"masks/{number}.png", labels + np.uint8(1))
        truth[f"images/{number}.png"] = labels
    (tmp_path / "classes.txt").write_text("background\nleaf\nstone\n")
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names == ("background", "leaf", "stone")


def test_a_list_of_pairs_may_name_arrays(tmp_path: Path) -> None:
    truth = written(tmp_path, "p/{n}.png")
    (tmp_path / "q").mkdir()
    for number, labels in enumerate(truth.values()):
        np.save(tmp_path / f"q/m{number}.npy", labels)
    rows = [f"q/m{number}.npy,p/{number}.png" for number in range(6)]
    (tmp_path / "pairs.csv").write_text("\n".join(["mask,image", *rows]))
    assert agrees(describe(tmp_path), truth)


LISTED = {
    "pairs.csv": lambda rows: "image;mask\n" + "\n".join(f"{a}.png;{b}.png" for a, b in rows),
    "index.csv": lambda rows: "mask,image\n" + "\n".join(f"{b},{a}" for a, b in rows),
    "pairs.json": lambda rows: json.dumps({f"p/{a}.png": f"q/{b}.png" for a, b in rows}, indent=1),
    "dataset.json": lambda rows: json.dumps(
        {
            "labels": {"0": "ground", "1": "leaf"},
            "training": [{"image": f"./p/{a}.png", "label": f"./q/{b}.png"} for a, b in rows[:4]],
            "validation": [{"image": f"p/{a}.png", "label": f"q/{b}.png"} for a, b in rows[4:]],
        }
    ),
    "job/output.manifest": lambda rows: "\n".join(
        json.dumps({"source-ref": f"s3://b/p/{a}.png", "j-ref": f"s3://b/job/q/{b}.png", "j": {}})
        for a, b in rows
    ),
}
"""Lists of pairs without their folders or suffixes, and in JSON."""


@pytest.mark.parametrize("name", LISTED)
def test_lists_of_pairs_need_no_paths(name: str, tmp_path: Path) -> None:
    truth, rows = {}, []
    for number, picture, labels in scenes():
        rows.append((chr(97 + number) * 3, f"gt{(number * 5 + 3) % 6}"))
        put(tmp_path / f"p/{rows[-1][0]}.png", picture)
        put(tmp_path / f"q/{rows[-1][1]}.png", labels)
        truth[f"p/{rows[-1][0]}.png"] = labels
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(LISTED[name](rows))
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert name != "dataset.json" or own_split_sizes(description) == {"train": 4, "val": 2}


def test_the_numbers_of_a_table_of_grades_are_no_files(tmp_path: Path) -> None:
    """`label` is a grade there, which some images are called."""
    truth = written(tmp_path, "images/{n}.png", mask="masks/{n}.png")
    rows = [f"{number},{5 - number}" for number in range(6)]
    (tmp_path / "grades.csv").write_text("\n".join(["image,label", *rows]))
    assert agrees(describe(tmp_path), truth)


def test_cut_outs_of_which_some_show_nothing(tmp_path: Path) -> None:
    truth = {}
    for number, picture, whole in scenes():
        labels = whole * (number < 3)
        put(tmp_path / f"shots/{number}.png", picture)
        put(tmp_path / f"cut/{number}.png", np.dstack([picture, labels * np.uint8(255)]))
        truth[f"shots/{number}.png"] = labels
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize("count", [2, 12])
def test_a_folder_for_each_image_holds_all_its_masks(count: int, tmp_path: Path) -> None:
    """Image 1 and its second mask are both called 1.png: by chance."""
    truth = {}
    for number in range(count):
        things = [disc(10 * number + place, 5) for place in range(1 + (number + 1) % 3)]
        labels = np.max(things, axis=0)
        put(tmp_path / f"{number}/{number}.png", photo(labels, number))
        for place, thing in enumerate(things):
            put(tmp_path / f"{number}/masks/{place}.png", thing * np.uint8(255))
        truth[f"{number}/{number}.png"] = labels
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize("folders", [("images_32", "masks_32"), ("thumbs/images", "thumbs/masks")])
def test_the_same_images_in_another_size_are_no_more_pairs(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    truth = written(tmp_path, "images/{n}.png", mask="masks/{n}.png", factor=255)
    for number, picture, labels in scenes():
        put(tmp_path / folders[0] / f"{number}.png", cv2.resize(picture, (32, 32)))
        put(tmp_path / folders[1] / f"{number}.png", np.ones((32, 32), np.uint8) * labels.max())
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert [note.count for note in description.found.notes] == [6]


def test_other_images_of_the_same_names_are_more_pairs(tmp_path: Path) -> None:
    truth = written(tmp_path, "a/images/{n}.png", mask="a/masks/{n}.png", factor=255)
    for number in range(6):
        labels = disc(number + 70)[:40, :40]
        put(tmp_path / f"b/images/{number}.png", photo(labels, number + 70))
        put(tmp_path / f"b/masks/{number}.png", labels * np.uint8(255))
        truth[f"b/images/{number}.png"] = labels
    assert agrees(describe(tmp_path), truth)


def numbered(root: Path, *, classes: bool, numbers: range, seed: int = 0) -> Truth:
    """Squares with other numbers in each of 12 files; of classes each has its color."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 255, (256, 3))
    truth = {}
    for index in range(12):
        stored = np.zeros((64, 64), np.uint8)
        places = rng.choice(36, 8 + index % 4, replace=False)
        some = rng.choice(numbers, len(places), replace=False)
        for place, number in zip(places, some, strict=True):
            y, x = 10 * (place // 6) + rng.integers(0, 3), 10 * (place % 6) + rng.integers(0, 3)
            stored[y : y + 6, x : x + rng.integers(5, 8)] = number
        shown = colors[stored] if classes else colors[(stored > 0).astype(int)]
        noise = rng.normal(0, 9, shown.shape)
        put(root / f"images/{index}.png", (shown + noise).clip(0, 255).astype(np.uint8))
        put(root / f"masks/{index}.png", stored)
        truth[f"images/{index}.png"] = stored if classes else (stored > 0).astype(np.uint8)
    return truth


@pytest.mark.parametrize("numbers", [range(1, 250), range(1, 16), range(3, 40)])
def test_numbers_with_gaps_that_say_nothing_are_of_objects(numbers: range, tmp_path: Path) -> None:
    truth = numbered(tmp_path, classes=False, numbers=numbers)
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names == ("background", "object")


@pytest.mark.parametrize("numbers", [range(1, 16), range(1, 21)])
def test_numbers_of_which_each_has_its_color_are_classes(numbers: range, tmp_path: Path) -> None:
    truth = numbered(tmp_path, classes=True, numbers=numbers)
    assert agrees(describe(tmp_path), truth)


def test_a_hundred_classes_are_no_smoothed_greys(tmp_path: Path) -> None:
    """Of many rare classes on a background the most frequent were taken for all."""
    rng = np.random.default_rng(1)
    truth = {}
    for index in range(12):
        labels = np.zeros((96, 96), np.uint8)
        for place, number in enumerate(rng.choice(range(1, 151), 9, replace=False)):
            y, x = 32 * (place // 3), 32 * (place % 3)
            labels[y : y + 9, x : x + 9] = number
            labels[y + 12 : y + 18, x + 12 : x + 20] = number
        put(tmp_path / f"images/{index}.png", rng.integers(0, 255, (96, 96, 3), np.uint8))
        put(tmp_path / f"masks/{index}.png", labels)
        truth[f"images/{index}.png"] = labels
    assert agrees(describe(tmp_path), truth)


def trimap(root: Path, inner: int, outer: int, greys: tuple[int, ...] = (0, 128, 255)) -> Truth:
    """Discs of one radius within those of another; what lies between is to be ignored."""
    truth = {}
    for number in range(6):
        small, large = disc(number, inner), disc(number, outer)
        place = small + large
        put(root / f"images/{number}.png", photo(small, number))
        put(root / f"masks/{number}.png", np.array(greys, np.uint8)[place])
        truth[f"images/{number}.png"] = np.array([0, 255, 1], np.uint8)[place]
    return truth


@pytest.mark.parametrize("middle", [127, 128])
def test_the_middle_grey_along_an_outline_is_ignored(middle: int, tmp_path: Path) -> None:
    truth = trimap(tmp_path, 5, 8, (0, middle, 255))
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names == ("background", "object")
    assert description.unlabelled == (("", middle),)


def test_the_middle_grey_of_what_is_called_a_trimap_is_ignored(tmp_path: Path) -> None:
    truth = trimap(tmp_path, 2, 10)
    (tmp_path / "masks").rename(tmp_path / "trimaps")
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize("kind", ["a broad ring", "white around", "other greys", "names"])
def test_three_greys_are_three_classes(kind: str, tmp_path: Path) -> None:
    greys = {"white around": (255, 128, 0), "other greys": (0, 60, 255)}.get(kind, (0, 128, 255))
    trimap(tmp_path, 2 if kind == "a broad ring" else 5, 10 if kind == "a broad ring" else 8, greys)
    if kind == "names":
        (tmp_path / "classes.txt").write_text("background\nrim\ncup\n")
    assert len(describe(tmp_path).classes.names) == 3


@pytest.mark.parametrize("in_color", [False, True])
def test_a_manifest_names_the_classes_of_its_masks(in_color: bool, tmp_path: Path) -> None:
    """SageMaker's; each line names those of its image."""
    colors = ((255, 255, 255), (44, 160, 44), (31, 119, 180))
    lines, truth = [], written(tmp_path, "images/{n}.png", 3)
    for number, (name, labels) in enumerate(truth.items()):
        stored = np.array(colors, np.uint8)[labels] if in_color else labels
        put(tmp_path / f"output/{number}_2020.png", stored)
        about = {
            str(value): {"class-name": word, "hex-color": "#{:02x}{:02x}{:02x}".format(*color)}
            for value, (word, color) in enumerate(
                zip(("BACKGROUND", "disc", "ring"), colors, strict=True)
            )
            if value in labels
        }
        line = {"source-ref": f"s3://a/{name}", "job-ref": f"s3://a/output/{number}_2020.png",
                "job-ref-metadata": {"internal-color-map": about}}  # fmt: skip
        lines.append(json.dumps(line))
    (tmp_path / "output.manifest").write_text("\n".join(lines))
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names == ("BACKGROUND", "disc", "ring")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("background\ndisc\nring\n", ("background", "disc", "ring")),
        ("disc\nring\n", ("background", "disc", "ring")),
        ("__ignore__\n_background_\ndisc\nring\n", ("_background_", "disc", "ring")),
        ("background\ndisc\nring\nmoon\n", ("background", "disc", "ring", "moon")),
        ("disc\nring\nmoon\nstar\nsun\n", ("class_0", "class_1", "class_2")),
    ],
)
def test_a_list_without_colors_names_those_of_vocs_palette(
    text: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    truth = written(tmp_path, "images/{n}.png", 3)
    for number, labels in enumerate(truth.values()):
        colors = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
        put(tmp_path / f"masks/{number}.png", colors[labels])
    (tmp_path / "classes.txt").write_text(text)
    description = describe(tmp_path)
    assert agrees(description, truth)
    assert description.classes.names == names


def test_matlab_files_that_are_no_labels_are_named_with_what_they_hold(tmp_path: Path) -> None:
    for number, picture, _ in scenes():
        put(tmp_path / f"images/{number}.png", picture)
    head = struct.pack("<5i", 0, 2, 2, 0, 5)  # version 4: doubles, 2x2, a name of 5 bytes
    (tmp_path / "all.mat").write_bytes(head + b"nyud\0" + bytes(32))
    with pytest.raises(DatasetError, match=r"first: all.mat, which holds nyud") as error:
        describe(tmp_path)
    assert "as a PNG" in str(error.value.hint)


def test_of_labels_with_the_same_borders_the_semantic_ones_are_read(tmp_path: Path) -> None:
    """Segments.ai's release: a_label_ground-truth.png numbers what was drawn."""
    truth = written(tmp_path, "v1/{n}.jpg", 3)
    for number, labels in enumerate(truth.values()):
        put(tmp_path / f"v1/{number}_label_ground-truth.png", labels.astype(np.uint16) * 3)
        put(tmp_path / f"v1/{number}_label_ground-truth_semantic.png", labels)
    assert agrees(describe(tmp_path), truth)


@pytest.mark.parametrize(
    ("file", "text", "is_told"),
    [
        ("ImageSets/val.txt", "other_1\nother_2\n", True),
        ("val.txt", "a caption of an image\n", False),
        ("train.txt", "images\n", False),  # the folder
        ("pairs.csv", "image,mask\nimgs/x.png,gt/x.png\n", True),
        ("grades.csv", "name,grade\nx,2\n", False),
    ],
)
def test_lists_of_files_that_are_not_here_are_told_of(
    file: str, text: str, is_told: bool, tmp_path: Path
) -> None:
    written(tmp_path, "images/{n}.png", 3, "masks/{n}.png")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    notes = describe(tmp_path).found.notes
    assert [(note.path, note.what) for note in notes] == [(tmp_path / file, "list")] * is_told
