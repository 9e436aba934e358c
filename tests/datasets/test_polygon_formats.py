"""Outlines and runs against the references: faster-coco-eval, cv2.fillPoly."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from fcnseg.datasets import Pair
from fcnseg.datasets.formats.polygons import draw_coco, draw_labelme, draw_yolo, yolo_lines
from fcnseg.errors import MediaError
from fcnseg.io.annotations import decode_runs, fill_circle, fill_polygon, unpack_runs
from fcnseg.io.content import upright
from fcnseg.io.labels import read_alpha
from tests.datasets.written import runs

coco_mask = pytest.importorskip("faster_coco_eval.core.mask")


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**20),
)
def test_runs_decode_as_faster_coco_eval_does(
    size: tuple[int, int], share: float, seed: int
) -> None:
    area = (np.random.default_rng(seed).random(size) < share).astype(np.uint8)
    packed = coco_mask.encode(np.asfortranarray(area))
    np.testing.assert_array_equal(decode_runs(unpack_runs(packed["counts"]), size), area)
    np.testing.assert_array_equal(decode_runs(runs(area), size), area)
    assert unpack_runs(packed["counts"].decode()) == runs(area)


@pytest.mark.parametrize("counts", [[], [3], [5, -1], [2, 1]])
def test_runs_of_another_size_are_refused(counts: list[int]) -> None:
    with pytest.raises(MediaError, match="Run lengths"):
        decode_runs(counts, (2, 2))


def test_cut_runs_are_refused() -> None:
    with pytest.raises(MediaError, match="middle of a number"):
        unpack_runs("R")  # its sixth bit says that more follows


@settings(max_examples=40, deadline=None)
@given(points=st.lists(st.tuples(st.floats(-20, 60), st.floats(-20, 60)), min_size=1, max_size=9))
def test_polygons_are_drawn_as_fill_poly_does(points: list[tuple[float, float]]) -> None:
    labels, expected = np.zeros((40, 48), np.int32), np.zeros((40, 48), np.uint8)
    fill_polygon(labels, np.array(points), 70_000)
    cv2.fillPoly(expected, [np.rint(np.array(points)).astype(np.int32)], 1)
    np.testing.assert_array_equal(labels == 70_000, expected == 1)


def test_a_circle_is_round() -> None:
    labels = np.zeros((21, 21), np.int32)
    fill_circle(labels, (10, 8), 5, 3)
    y, x = np.mgrid[:21, :21]
    distance = np.hypot(x - 10, y - 8)
    assert (labels[distance < 4.5] == 3).all()
    assert (labels[distance > 5.5] == 0).all()


def test_turning_labels_is_turning_images(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    from PIL import ImageOps

    for orientation in range(1, 9):
        image = Image.fromarray(labels)
        exif = image.getexif()
        exif[0x0112] = orientation
        image.save(tmp_path / "a.png", exif=exif)
        with Image.open(tmp_path / "a.png") as stored:
            turned = np.asarray(ImageOps.exif_transpose(stored))
        np.testing.assert_array_equal(upright(labels, orientation), turned)


def test_alpha_is_read_or_absent(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3, 4), (1, 2, 3, 9), np.uint8)).save(tmp_path / "a.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("no picture")
    alpha = read_alpha(tmp_path / "a.png")
    assert alpha is not None
    assert alpha.tolist() == [[9] * 3] * 2
    assert read_alpha(tmp_path / "b.png") is None
    with pytest.raises(MediaError, match=r"c\.png"):
        read_alpha(tmp_path / "c.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    one_row = Image.fromarray(np.array([[1], [2]], np.uint8))
    Image.merge("LA", (one_row, one_row)).save(tmp_path / "d.png", exif=exif)
    turned = read_alpha(tmp_path / "d.png")
    assert turned is not None
    assert turned.tolist() == [[2], [1]]


def coco_pair(folder: Path, annotations: list[dict[str, Any]], size: tuple[int, int]) -> Pair:
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "categories": [{"id": 5, "name": "big"}, {"id": 9, "name": "small"}],
        "annotations": [{"image_id": 1, **one} for one in annotations],
    }
    path = folder / "a.json"
    path.write_text(json.dumps(data))
    return Pair(folder / "a.png", path, "", "a", "1")


def square(low: int, high: int) -> list[list[int]]:
    return [[low, low, high, low, high, high, low, high]]


def test_small_things_lie_over_large_ones(tmp_path: Path) -> None:
    pair = coco_pair(
        tmp_path,
        [
            {"category_id": 9, "segmentation": square(4, 6)},
            {"category_id": 5, "segmentation": square(1, 9)},
        ],
        (12, 12),
    )
    labels = draw_coco(pair, ("big", "small"))
    assert labels[5, 5] == 2
    assert labels[2, 2] == 1
    assert labels[0, 0] == 0


def test_several_rings_are_one_area(tmp_path: Path) -> None:
    rings = [*square(0, 2), *square(5, 8)]
    pair = coco_pair(tmp_path, [{"category_id": 5, "segmentation": rings}], (10, 10))
    labels = draw_coco(pair, ("big",))
    assert labels[1, 1] == labels[6, 6] == 1
    assert labels[4, 4] == 0


@pytest.mark.parametrize(
    "segmentation", [{"size": [4, 4], "counts": [16]}, {"counts": [100]}, [[1, 2, 3]], [["x"]]]
)
def test_broken_annotations_are_named(segmentation: Any, tmp_path: Path) -> None:
    pair = coco_pair(tmp_path, [{"category_id": 5, "segmentation": segmentation}], (10, 10))
    with pytest.raises(MediaError, match=r"a\.json"):
        draw_coco(pair, ("big",))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shapes": [{"label": "a"}]}', "\xff"])
def test_broken_labelme_files_are_named(text: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(MediaError, match=r"a\.json"):
        draw_labelme(Pair(tmp_path / "a.png", tmp_path / "a.json", "", "a"), ("a",))


def test_labelme_circles_and_sizes_from_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (16, 12)).save(tmp_path / "a.png")
    shape = {"label": "a", "shape_type": "circle", "points": [[6, 6], [9, 6]]}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [shape]}))
    labels = draw_labelme(Pair(tmp_path / "a.png", tmp_path / "a.json", "", "a"), ("a",))
    assert labels.shape == (12, 16)
    assert labels[6, 8] == 1
    assert labels[6, 11] == 0


@pytest.mark.parametrize(
    "line",
    ["a 0.1 0.2 0.3", "0 0.1 0.2 0.3", "-1 0.1 0.2", "0 nan 0.1", "0.5 0 0", "0 8 8 40 8 8 40"],
)
def test_broken_yolo_lines_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"\n{line}\n")
    with pytest.raises(MediaError, match="line 2"):
        list(yolo_lines(tmp_path / "a.txt"))


def test_a_yolo_class_may_be_written_as_a_fraction(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("2.0 0 0 1.01 0 1 1")
    assert [number for number, _ in yolo_lines(tmp_path / "a.txt")] == [2]


def test_yolo_classes_beyond_the_names_are_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0 0 0.5 0 0.5 0.5 0 0.5\n7 0 0 1 0 1 1 0 1\n")
    labels = draw_yolo(Pair(tmp_path / "a.png", tmp_path / "a.txt", "", "a"), ("a",))
    assert set(np.unique(labels)) == {0, 1}


@settings(max_examples=40, deadline=None)
@given(place=st.tuples(*[st.floats(0.05, 0.95)] * 2), extent=st.tuples(*[st.floats(0.05, 0.5)] * 2))
def test_a_box_covers_the_pixels_whose_middles_it_surrounds(
    place: tuple[float, float], extent: tuple[float, float]
) -> None:
    size = np.array([40, 30])
    x, y = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    middle, reach = np.array(place) * size, np.array(extent) * size / 2
    inside = np.stack([reach[0] - abs(x - middle[0]), reach[1] - abs(y - middle[1])])
    assume(abs(inside).min() > 1e-6)  # no middle lies on the box's border
    expected = (inside > 0).all(axis=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("RGB", (40, 30)).save(folder / "a.png")
        (folder / "a.txt").write_text(f"0 {place[0]} {place[1]} {extent[0]} {extent[1]}\n")
        pair = Pair(folder / "a.png", folder / "a.txt", "", "a")
        np.testing.assert_array_equal(draw_yolo(pair, ("a",), fill=True) == 1, expected)
