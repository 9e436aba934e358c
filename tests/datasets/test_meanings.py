"""Label values whose meaning single files decide: notations, instances, levels, smoothed edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fcnseg.commands.check import check
from fcnseg.datasets.describe import scan
from fcnseg.datasets.encoding.matching import match_classes
from tests.datasets.discs import SIDE, Labels, agrees, discs, write


def test_one_mask_in_two_notations(tmp_path: Path) -> None:
    truth = discs()
    stored = [labels * (1 if index < 4 else 255) for index, labels in enumerate(truth)]
    seen = scan(write(tmp_path, stored))
    assert len(seen.description.classes) == 2
    assert seen.description.ignore_index is None
    assert agrees(seen, truth)


def test_three_classes_in_two_notations(tmp_path: Path) -> None:
    truth = discs(classes=3)
    grey = np.array([0, 127, 254], np.uint8)
    stored = [labels if index < 3 else grey[labels] for index, labels in enumerate(truth)]
    seen = scan(write(tmp_path, stored))
    assert len(seen.description.classes) == 3
    assert agrees(seen, truth)


def test_255_beside_1_in_one_file_is_ignored(tmp_path: Path) -> None:
    truth = discs()
    for labels in truth[:2]:
        labels[:3] = 255
    seen = scan(write(tmp_path, truth))
    assert (len(seen.description.classes), seen.description.ignore_index) == (2, 255)


@pytest.mark.parametrize(("base", "anew"), [(1000, True), (1000, False), (256, True)])
def test_numbers_of_objects_that_hold_their_class(tmp_path: Path, base: int, anew: bool) -> None:
    """class * 1000 + object, numbered in each file anew or throughout."""
    truth = discs(classes=3)
    lower = (np.arange(SIDE) >= SIDE // 2).astype(int)[:, None]
    numbers = [lower if anew else index for index in range(len(truth))]
    stored = [
        np.where(labels > 0, labels.astype(int) * base + number, 0)
        for labels, number in zip(truth, numbers, strict=True)
    ]
    seen = scan(write(tmp_path, [one.astype(np.uint16) for one in stored]))
    assert len(seen.description.classes) == 3
    assert any(f"class * {base} + object" in why for why in seen.description.why)
    assert agrees(seen, truth)


def two_meanings(folder: Path) -> tuple[Path, Labels]:
    """255 is a border beside 1 in half of the files, and the object in the others."""
    truth = discs()
    half = len(truth) // 2
    for labels in truth[:half]:
        labels[:3] = 255
    stored = [*truth[:half], *(labels * 255 for labels in truth[half:])]
    return write(folder, stored), truth


def test_255_alone_in_a_file_is_the_object(tmp_path: Path) -> None:
    folder, truth = two_meanings(tmp_path)
    seen = scan(folder)
    assert (len(seen.description.classes), seen.description.ignore_index) == (2, 255)
    assert agrees(seen, truth)
    [finding] = [f for f in check(folder).findings if f.code == "two-meanings"]
    assert len(finding.files) == len(truth) - len(truth) // 2
    written = tmp_path / "dataset.toml"
    check(folder, write=written)
    again = scan(written)
    assert again.description.encoding == seen.description.encoding
    assert agrees(again, truth)


def test_255_alone_is_the_object_for_a_model_that_ignored_it(tmp_path: Path) -> None:
    folder, truth = two_meanings(tmp_path / "both")
    half = len(truth) // 2
    trained = scan(write(tmp_path / "train", truth[:half])).description
    assert trained.encoding.ignore == (255,)
    objects = write(tmp_path / "test", [labels * 255 for labels in truth[half:]])
    for tested, expected in ((folder, truth), (objects, truth[half:])):
        seen = scan(tested)
        adopted = match_classes(seen.description, trained.classes, trained.encoding)
        assert agrees(replace(seen, description=adopted), expected)


def test_a_class_list_says_that_255_is_ignored(tmp_path: Path) -> None:
    stored = [labels * (1 if index < 4 else 255) for index, labels in enumerate(discs())]
    listed = {"class_dict.csv": "name,id\nground,0\nleaf,1\nvoid,255\n"}
    seen = scan(write(tmp_path, stored, listed))
    assert (seen.description.classes.names, seen.description.ignore_index) == (
        ("ground", "leaf"),
        255,
    )


def numbered(counts: list[int], classes: bool = False) -> Labels:
    """Squares numbered 1..n, n as given; classes: each number in two places."""
    found = []
    for count in counts:
        ids = np.zeros((SIDE, SIDE), np.uint8)
        for number in range(count):
            y, x = 6 * (number // 7), 6 * (number % 7)
            ids[y : y + 5, x : x + 5] = number + 1
            if classes:
                ids[y + 24 : y + 29, x : x + 5] = number + 1
        found.append(ids)
    return found


@pytest.mark.parametrize("step", [1, 10])
def test_instance_numbers_are_one_class(step: int, tmp_path: Path) -> None:
    """Of which later ones may have cut earlier ones in two."""
    ids = numbered([3, 9, 5, 14, 7])
    for one in ids[1:]:
        one[:, 2] *= one[:, 2] != 1
    ids = [one * np.uint8(step) for one in ids]
    seen = scan(write(tmp_path, ids))
    assert seen.description.classes.names == ("background", "object")
    assert any("number the objects" in why for why in seen.description.why)
    assert agrees(seen, [(one > 0).astype(np.uint8) for one in ids])


def test_a_class_list_makes_numbers_classes(tmp_path: Path) -> None:
    names = "\n".join(f"kind {number}" for number in range(15))
    seen = scan(write(tmp_path, numbered([3, 9, 5, 14, 7]), {"classes.txt": names}))
    assert len(seen.description.classes) == 15


@pytest.mark.parametrize("counts", [[7, 7, 7, 7], [3, 9, 5, 12]])
def test_classes_in_several_places_are_no_instances(tmp_path: Path, counts: list[int]) -> None:
    seen = scan(write(tmp_path, numbered(counts, classes=True)))
    assert len(seen.description.classes) == max(counts) + 1


@pytest.mark.parametrize("levels", [(0, 20), (0, 10, 20, 30), (0, 8), (5, 25, 45)])
def test_few_far_values_are_classes_in_their_order(tmp_path: Path, levels: tuple[int]) -> None:
    truth = discs(classes=len(levels))
    seen = scan(write(tmp_path, [np.array(levels, np.uint8)[labels] for labels in truth]))
    assert len(seen.description.classes) == len(levels)
    assert agrees(seen, truth)


def smoothed(array: np.ndarray) -> np.ndarray:
    """Each pixel the mean of its 3x3 neighbourhood, as resampling leaves edges."""
    padded = np.pad(array.astype(float), [(1, 1), (1, 1), *[(0, 0)] * (array.ndim - 2)], "edge")
    parts = [padded[y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)]
    return np.asarray(np.round(np.mean(parts, axis=0)), np.uint8)


@pytest.mark.parametrize("levels", [(0, 20), (0, 128, 255), (0, 60, 120)])
def test_smoothed_greys_snap_to_what_covers_areas(tmp_path: Path, levels: tuple[int]) -> None:
    truth = discs(classes=len(levels))
    stored = [smoothed(np.array(levels, np.uint8)[labels]) for labels in truth]
    seen = scan(write(tmp_path, stored))
    assert len(seen.description.classes) == len(levels)
    assert agrees(seen, truth, tolerated=0.03)


def test_smoothed_colors_snap_to_what_covers_areas(tmp_path: Path) -> None:
    truth = discs(classes=3)
    colors = np.array([[0, 0, 0], [255, 255, 0], [255, 0, 0]], np.uint8)
    seen = scan(write(tmp_path, [smoothed(colors[labels]) for labels in truth]))
    assert len(seen.description.classes) == 3
    assert seen.description.encoding.nearest


def test_thin_classes_are_not_smoothed_away(tmp_path: Path) -> None:
    truth = discs(classes=3)
    for index, labels in enumerate(truth):
        for value in range(3, 12):
            labels[36 + value - 3, index:] = value  # lines of one pixel
    seen = scan(write(tmp_path, truth))
    assert len(seen.description.classes) == 12


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_classes_in_one_channel(tmp_path: Path, channel: int) -> None:
    truth = discs(classes=4)
    stored = []
    for labels in truth:
        rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
        rgba[..., channel], rgba[..., 3] = labels, 255
        stored.append(rgba)
    seen = scan(write(tmp_path, stored))
    assert len(seen.description.classes) == 4
    assert agrees(seen, truth)


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_labels_lie_on_turned_photos_either_way(tmp_path: Path, orientation: int) -> None:
    truth = [labels[:32] for labels in discs()]
    exif = Image.Exif()
    exif[274] = orientation
    back = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}  # fmt: skip
    for index, labels in enumerate(truth):
        rng = np.random.default_rng(index)
        files = [Image.fromarray(rng.integers(0, 255, (32, SIDE, 3), np.uint8)),
                 Image.fromarray(labels)]  # fmt: skip
        if orientation > 1:
            stored = files[0].transpose(back[orientation])
            files = [stored, files[1].transpose(back[orientation]) if index % 2 else files[1]]
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        files[0].save(tmp_path / f"images/{index}.jpg", exif=exif)
        files[1].save(tmp_path / f"masks/{index}.png")
    assert agrees(scan(tmp_path), truth)


@pytest.mark.parametrize("scale", [1, 257])
def test_colors_at_16_bits(tmp_path: Path, scale: int) -> None:
    truth = discs(classes=3)
    colors = np.array([[0, 0, 0], [0, 0, 255], [255, 0, 0]], np.uint16)
    write(tmp_path, truth)
    for index, labels in enumerate(truth):
        stored = np.ascontiguousarray(colors[labels][..., ::-1]) * np.uint16(scale)
        assert cv2.imwrite(str(tmp_path / f"masks/{index}.png"), stored)
    assert agrees(scan(tmp_path), truth)


def test_one_bit_with_white_as_zero(tmp_path: Path) -> None:
    truth = discs()
    write(tmp_path, truth)
    for index, labels in enumerate(truth):
        (tmp_path / f"masks/{index}.png").unlink()
        Image.fromarray(labels > 0).save(tmp_path / f"masks/{index}.tif", tiffinfo={262: 0})
    assert agrees(scan(tmp_path), truth)


def test_hundreds_of_objects_are_one_class(tmp_path: Path) -> None:
    """16-bit numbers of more objects than a file of classes can have values."""
    stored = []
    for index in range(4):
        numbers = np.zeros((96, 96), np.uint16)
        for place in range(280 + 7 * index):
            y, x = divmod(place, 19)
            numbers[y * 5 + 1 : y * 5 + 4, x * 5 + 1 : x * 5 + 4] = place + 1
        stored.append(numbers)
    seen = scan(write(tmp_path, stored))
    assert seen.description.classes.names == ("background", "object")
    assert seen.description.encoding.values == ((0,), tuple(range(1, 302)))


def test_classes_may_count_from_one(tmp_path: Path) -> None:
    """Matlab's habit (CrackForest), and trimaps 1, 2, 3: 0 in no file is no class."""
    truth = discs(classes=3)
    seen = scan(write(tmp_path, [labels + 1 for labels in truth]))
    assert seen.description.classes.names == ("class_1", "class_2", "class_3")
    assert agrees(seen, truth)
