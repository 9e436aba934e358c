"""Public folders drawn after their descriptions: what is read, or the one reason why not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets.describe import describe, scan
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import DatasetError
from fcnseg.io.images import write_image, write_labels
from fcnseg.io.sources import open_source
from tests.datasets import written


def scene(number: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (48, 64, 3) and its labels."""
    labels = np.zeros((48, 64), np.uint8)
    labels[30:] = 1
    for each in range(2, classes):
        labels[5 : 5 + 6 * each, 4 + 16 * (each - 2) + number : 16 * (each - 1) + number] = each
    noise = np.random.default_rng(number).integers(0, 30, (48, 64, 3))
    return (labels[..., None] * 40 + noise).astype(np.uint8), labels


def numbers_as_text(values: np.ndarray) -> str:
    return "".join(" ".join(map(str, row)) + "\n" for row in values.tolist())


def test_isaid_is_read_by_its_semantic_colours(tmp_path: Path) -> None:
    """All label files are called `instance`: none was a label file."""
    colors = np.array([(0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 127)], np.uint8)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            image, labels = scene(number)
            objects = np.random.default_rng(number).integers(1, 255, (9, 3), np.uint8)
            objects[0] = 0
            name = f"{split}/{{}}/P{number:04}{len(split)}{{}}.png"
            write_image(tmp_path / name.format("images", ""), image)
            semantic = name.format("Semantic_masks/images", "_instance_color_RGB")
            write_image(tmp_path / semantic, colors[labels])
            ids = name.format("Instance_masks/images", "_instance_id_RGB")
            write_image(tmp_path / ids, objects[labels])
    found = describe(tmp_path)
    assert {pair.labels.parent.parent.name for pair in found.pairs} == {"Semantic_masks"}
    assert (len(found.pairs), len(found.classes)) == (6, 4)


def test_stanford_background_is_read_from_its_text(tmp_path: Path) -> None:
    for number in range(4):
        image, labels = scene(number)
        write_image(tmp_path / f"images/000{number}.jpg", image)
        numbers = labels.astype(int)
        numbers[0, :5] = -1
        (tmp_path / "labels").mkdir(exist_ok=True)
        for kind, values in (("regions", numbers), ("surfaces", numbers.clip(0, 2))):
            (tmp_path / f"labels/000{number}.{kind}.txt").write_text(numbers_as_text(values))
    (tmp_path / "horizons.txt").write_text("0000 320 240 120\n")
    found = describe(tmp_path)
    assert (len(found.pairs), len(found.classes), found.ignore_index) == (4, 4, -1)
    pair = min(found.pairs, key=lambda pair: pair.name)
    labels = read_sample(pair, found.encoding)[1]
    assert (labels[0, :5] == 255).all()
    np.testing.assert_array_equal(labels[1:], scene(0)[1][1:])


@pytest.mark.parametrize("void", [True, False])
def test_coco_stuff_counts_from_another_number_than_its_list(tmp_path: Path, void: bool) -> None:
    """Its list says 1 for a person, its files 0, with 255 for what nobody labelled."""
    names = ["unlabeled", "person", "bicycle", "car", "motorcycle", *(f"n{i}" for i in range(40))]
    lines = "".join(f"{number}: {name}\n" for number, name in enumerate(names))
    (tmp_path / "labels.txt").write_text(lines)
    stored = np.array([255 if void else 2, 0, 3, 43], np.uint8)
    for number in range(4):
        image, labels = scene(number)
        write_image(tmp_path / f"images/{number}.jpg", image)
        write_labels(tmp_path / f"annotations/{number}.png", stored[labels])
    found = describe(tmp_path)
    index = {value: place for place, values in enumerate(found.encoding.values) for value in values}
    assert found.classes.names[index[3]] == ("motorcycle" if void else "car")
    assert (0 in index) == void  # else it is the list's "unlabeled"
    assert (found.ignore_index == 255) == void


def boxes(root: Path, name: str) -> None:
    box = "<bndbox><xmin>4</xmin><ymin>5</ymin><xmax>40</xmax><ymax>33</ymax></bndbox>"
    text = f"<annotation><object><name>dog</name>{box}</object></annotation>"
    (root / f"Annotations/{name}.xml").write_text(text)


def lines_of_boxes(root: Path, name: str) -> None:
    (root / f"Annotations/{name}.txt").write_text("10,20,30,12,1,4,0,0\n")


def unknown(root: Path, name: str) -> None:
    (root / f"Annotations/{name}.h5").write_bytes(b"\x89HDF")


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (boxes, r"no labels; Annotations/0\.xml and similar files hold bounding boxes"),
        (lines_of_boxes, r"no labels; Annotations/0\.txt and similar files hold bounding boxes"),
        (unknown, r"no labels that can be read; 3 \.h5 files \(first: Annotations/0\.h5\)"),
    ],
)
def test_what_is_no_segmentation_is_said(
    tmp_path: Path, write: Callable[[Path, str], None], said: str
) -> None:
    (tmp_path / "Annotations").mkdir()
    for number in range(3):
        write_image(tmp_path / f"JPEGImages/{number}.jpg", scene(number)[0])
        write(tmp_path, str(number))
    with pytest.raises(DatasetError, match=said):
        describe(tmp_path)


@pytest.mark.parametrize("labels_suffix", ["png", "npy"])
def test_arrays_in_a_folder_of_images_are_images(tmp_path: Path, labels_suffix: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(4):
        image, labels = scene(number)
        bands = np.concatenate([image, image[..., :2]], 2).astype(np.uint16) * 9
        np.save(tmp_path / f"images/{number}.npy", bands)
        path = tmp_path / f"masks/{number}.{labels_suffix}"
        np.save(path, labels) if labels_suffix == "npy" else write_labels(path, labels)
    scanned = scan(tmp_path, images=True)
    found = scanned.description
    assert (len(found.pairs), len(found.classes)) == (4, 4)
    assert scanned.image_scan is not None
    assert set(scanned.image_scan.layouts) == {"5 uint16"}
    pair = min(found.pairs, key=lambda pair: pair.name)
    np.testing.assert_array_equal(read_sample(pair, found.encoding)[1], scene(0)[1])
    with open_source(tmp_path / "images") as source:
        assert source.count == 4


def videos(root: Path, objects: tuple[int, ...], sides: tuple[str, str], stem: str) -> None:
    """Three frames of each video, with so many things in it, numbered from 1 in each."""
    for video, count in enumerate(objects):
        for number in range(3):
            image, labels = scene(number, count + 1)
            name = f"{{}}/v{video}/{stem}{number:05}.{{}}"
            write_image(root / name.format(sides[0], "jpg"), image)
            write_labels(root / name.format(sides[1], "png"), labels)


@pytest.mark.parametrize(
    ("sides", "objects"),
    [
        (("JPEGImages/480p", "Annotations/480p"), (1, 2, 1)),
        (("JPEGImages", "Annotations"), (1, 2, 1)),
        (("JPEGImages", "Annotations"), (2, 2, 2)),
    ],
)
def test_numbers_of_a_videos_objects_are_no_classes(
    sides: tuple[str, str], objects: tuple[int, ...], tmp_path: Path
) -> None:
    """DAVIS, YouTube-VOS: one or two things in each video, which the next one numbers anew."""
    videos(tmp_path, objects, sides, "")
    found = describe(tmp_path)
    assert (len(found.pairs), found.classes.names) == (9, ("background", "object"))
    assert any("number the objects" in why for why in found.why)


@pytest.mark.parametrize(
    ("sides", "objects", "stem", "names"),
    [
        (("images", "masks"), (1, 2, 1), "", ""),  # places, of which some lack a class
        (("JPEGImages", "Annotations"), (2, 2, 2), "leaf_", ""),
        (("JPEGImages", "Annotations"), (1, 2, 1), "leaf_", ""),
        (("JPEGImages", "Annotations"), (1, 2, 1), "", "soil\nleaf\nstem\n"),
    ],
)
def test_classes_that_a_folder_lacks_are_classes(
    sides: tuple[str, str], objects: tuple[int, ...], stem: str, names: str, tmp_path: Path
) -> None:
    videos(tmp_path, objects, sides, stem)
    if names:
        (tmp_path / "classes.txt").write_text(names)
    assert len(describe(tmp_path).classes) == 3


@pytest.mark.parametrize(("kind", "most"), [("<u2", 300), ("u1", 200)])
def test_a_class_s_file_may_number_its_objects(kind: str, most: int, tmp_path: Path) -> None:
    """Objects up to 127 were lost, where there are more."""
    cells = np.zeros((48, 64), kind)
    cells[8:40] = 1 + np.arange(32 * 64).reshape(32, 64) // 6 % most
    for number in range(2):
        write_image(tmp_path / f"images/{number}.png", scene(number + 5)[0])
        for name, values in (("cell", cells), ("glass", cells * 0)):
            path = tmp_path / f"masks/{name}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    found = describe(tmp_path)
    read = read_sample(found.pairs[0], found.encoding)[1] == found.classes.names.index("cell")
    np.testing.assert_array_equal(read, cells > 0)


def test_bands_stay_those_of_their_image_where_a_val_part_is_drawn(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "images").mkdir(exist_ok=True)
        rng = np.random.default_rng(number)  # none looks like another, or they stay together
        image = rng.integers(0, 255, (16, 16, 4 + number), np.uint8)
        np.save(tmp_path / f"images/{number}.npy", image)
        write_labels(tmp_path / f"masks/{number}.png", np.eye(16, dtype=np.uint8))
    seen = scan(tmp_path, images=True)
    assert seen.image_scan is not None
    bands = [int(layout.split()[0]) for layout in seen.image_scan.layouts]
    assert bands == [4 + int(pair.name) for pair in seen.description.pairs] != [*range(4, 10)]


def test_an_image_without_labels_that_two_lists_name_is_one(tmp_path: Path) -> None:
    written.voc(tmp_path, written.draw_set(train=2, val=1))
    first = sorted((tmp_path / "SegmentationClass").iterdir())[0]
    first.unlink()
    assert [path.name for path in describe(tmp_path).found.orphan_images] == [first.name]
