"""Annotation files of other programs: each is read with its names, areas and splits."""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets import Description, Pair
from fcnseg.datasets.describe import describe, scan
from fcnseg.datasets.formats import FORMATS, read_sample, read_stored
from fcnseg.errors import FcnsegError, MediaError, OptionError

HEIGHT, WIDTH = 32, 40
NAMES = ("leaf", "stone")


def corners(index: int, kind: int) -> tuple[int, int, int, int]:
    """The box x0, y0, x1, y1 (inclusive) of a picture's leaf (1) or stone (2)."""
    x, y = 3 + index + 18 * (kind - 1), 4 + 2 * index
    return x, y, x + 9 + kind, y + 12


def truth(index: int) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for kind in (1, 2):
        x0, y0, x1, y1 = corners(index, kind)
        labels[y0 : y1 + 1, x0 : x1 + 1] = kind
    return labels


def ring(index: int, kind: int) -> list[list[int]]:
    x0, y0, x1, y1 = corners(index, kind)
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def image(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(index)
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(path)


def dump(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def cvat(root: Path) -> None:
    rows = []
    for index in range(4):
        image(root / f"images/{index}.png", index)
        x0, y0, x1, y1 = corners(index, 2)
        points = ";".join(f"{x},{y}" for x, y in ring(index, 1))
        rows.append(
            f'<image id="{index}" name="{index}.png" width="{WIDTH}" height="{HEIGHT}">'
            f'<box label="stone" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>'
            f'<polygon label="leaf" points="{points}"/><points label="leaf" points="1,1"/></image>'
        )
    labels = "".join(f"<label><name>{name}</name></label>" for name in NAMES)
    text = f"<annotations><meta><job><labels>{labels}</labels></job></meta>{''.join(rows)}"
    (root / "annotations.xml").write_text(f"{text}</annotations>")


def via(root: Path) -> None:
    entries = {}
    for index in range(4):
        image(root / f"{index}.png", index)
        x, y = np.array(ring(index, 1)).T.tolist()
        x0, y0, x1, y1 = corners(index, 2)
        shapes = (
            {"name": "polygon", "all_points_x": x, "all_points_y": y},
            {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0},
        )
        regions = [
            {"shape_attributes": shape, "region_attributes": {"type": {name: True}}}
            for shape, name in zip(shapes, NAMES, strict=True)
        ]
        entries[f"{index}.png9"] = {"filename": f"{index}.png", "size": 9, "regions": regions}
    dump(root / "via_project.json", {"_via_settings": {}, "_via_img_metadata": entries})


def supervisely(root: Path) -> None:
    for index in range(4):
        part = f"ds{index % 2}"
        image(root / part / "img" / f"{index // 2}.png", index)
        x0, y0, x1, y1 = corners(index, 2)
        png = io.BytesIO()
        Image.fromarray(np.full((y1 - y0 + 1, x1 - x0 + 1), 255, np.uint8)).save(png, "PNG")
        bitmap = base64.b64encode(zlib.compress(png.getvalue())).decode()
        leaf = {"exterior": ring(index, 1), "interior": []}
        dump(root / part / "ann" / f"{index // 2}.png.json", {
            "size": {"height": HEIGHT, "width": WIDTH},
            "objects": [
                {"classTitle": "leaf", "geometryType": "polygon", "points": leaf},
                {"classTitle": "stone", "geometryType": "bitmap",
                 "bitmap": {"data": bitmap, "origin": [x0, y0]}},
            ],
        })  # fmt: skip
    dump(root / "meta.json", {"classes": [{"title": name} for name in NAMES]})


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a mask, one run a row, in its bits."""
    flat = np.repeat(mask.reshape(-1).astype(np.uint8) * 255, 4)
    bits = f"{len(flat):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    for start, stop in pairwise(edges):
        bits += f"1{3:02b}{stop - start - 1:016b}{flat[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def label_studio(root: Path) -> None:
    tasks = []
    for index in range(4):
        image(root / f"images/{index}.png", index)
        points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in ring(index, 1)]
        size = {"original_width": WIDTH, "original_height": HEIGHT}
        result = [
            {**size, "type": "polygonlabels",
             "value": {"points": points, "polygonlabels": ["leaf"]}},
            {**size, "type": "brushlabels",
             "value": {"rle": brush(truth(index) == 2), "brushlabels": ["stone"]}},
        ]  # fmt: skip
        file = f"/data/upload/1/0a1b2c3d-{index}.png"
        tasks.append({"id": 70 + index, "data": {"image": file}, "annotations": [
            {"result": result}, {"was_cancelled": True, "result": []}]})  # fmt: skip
    dump(root / "project.json", tasks)


def panoptic(root: Path) -> None:
    images, marks = [], []
    for index in range(4):
        image(root / f"val/{index}.png", index)
        ids = np.array([0, 300 + index, 70000 + index])[truth(index)]
        (root / "panoptic_val").mkdir(exist_ok=True)
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colors).save(root / f"panoptic_val/{index}.png")
        images.append({"id": index, "file_name": f"{index}.png"})
        segments = [{"id": 300 + index, "category_id": 5}, {"id": 70000 + index, "category_id": 9}]
        marks.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    categories = [{"id": 9, "name": "stone"}, {"id": 5, "name": "leaf"}]
    dump(root / "panoptic_val.json",
         {"images": images, "annotations": marks, "categories": categories})  # fmt: skip


def run_lengths(root: Path) -> None:
    rows = []
    for index in range(4):
        image(root / f"train/{index}.png", index)
        for kind, name in enumerate(NAMES, 1):
            flat = np.r_[0, (truth(index) == kind).T.reshape(-1), 0].astype(int)
            edges = np.flatnonzero(np.diff(flat)) + 1
            runs = " ".join(f"{a} {b - a}" for a, b in edges.reshape(-1, 2))
            rows.append((f"{index}.png_{name}", runs))
    with (root / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Image_Label", "EncodedPixels"), *rows])


def yolo(root: Path) -> None:
    for index in range(4):
        image(root / f"{index}.png", index)
        lines = []
        for kind in (1, 2):
            numbers = [f"{x / WIDTH} {y / HEIGHT}" for x, y in ring(index, kind)]
            lines.append(f"{kind - 1} {' '.join(numbers)}")
        (root / f"{index}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("names:\n- leaf\n- stone\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    "cvat-xml": cvat,
    "via": via,
    "supervisely": supervisely,
    "label-studio": label_studio,
    "panoptic": panoptic,
    "run-lengths": run_lengths,
    "yolo": yolo,
}


def agrees(description: Description) -> bool:
    read = [read_sample(pair, description.encoding)[1] for pair in description.pairs]
    expected = [truth(index) for index in range(4)]
    return all(any(np.array_equal(one, other) for other in read) for one in expected)


@pytest.mark.parametrize("name", WRITERS)
def test_a_format_is_read_with_names_and_areas(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    found = describe(tmp_path)
    assert (found.encoding.label_format, len(found.pairs)) == (name, 4)
    assert found.classes.names == ("background", *NAMES)
    assert agrees(found)


def test_every_format_is_tried() -> None:
    from tests.datasets.test_tool_formats import WRITERS as MORE

    public = {"labelme-folders", "ade20k-json"}  # in tests/datasets/test_public_folders.py
    assert set(FORMATS) <= {*WRITERS, *MORE, *public, "arrays", "stacks", "sa-1b"}


@pytest.mark.parametrize("name", ["cvat-xml", "via", "supervisely", "label-studio", "panoptic"])
def test_a_malformed_document_is_one_error(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    for file in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.xml")]:
        text = file.read_text()
        file.write_text(text[: int(len(text) * 0.9)])
    with pytest.raises(FcnsegError):
        describe(tmp_path)


def save_npz(path: Path, labels: np.ndarray) -> None:
    np.savez(path, image=np.zeros((4, 4)), mask=labels)


def save_mat(path: Path, labels: np.ndarray) -> None:
    io_module = pytest.importorskip("scipy.io")
    io_module.savemat(path, {"GTcls": {"Segmentation": labels, "Boundaries": 0}}, appendmat=False)


def save_one_hot(path: Path, labels: np.ndarray) -> None:
    np.save(path, np.eye(3, dtype=np.float32)[labels])


ARRAYS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "npy": ("npy", lambda path, labels: np.save(path, labels.astype(np.int64))),
    "float": ("npy", lambda path, labels: np.save(path, labels.astype(np.float32)[..., None])),
    "one-hot": ("npy", save_one_hot),
    "npz": ("npz", save_npz),
}


def write_arrays(root: Path, suffix: str, save: Callable[[Path, np.ndarray], None]) -> None:
    for index in range(4):
        image(root / f"images/{index}.png", index)
        (root / "labels").mkdir(exist_ok=True)
        save(root / f"labels/{index}.{suffix}", truth(index))


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_read(kind: str, tmp_path: Path) -> None:
    write_arrays(tmp_path, *ARRAYS[kind])
    found = describe(tmp_path)
    assert (found.encoding.label_format, len(found.classes)) == ("arrays", 3)
    assert agrees(found)


def test_matlab_structs_are_read(tmp_path: Path) -> None:
    write_arrays(tmp_path, "mat", lambda path, labels: save_mat(path, labels))
    assert agrees(describe(tmp_path))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 0)
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    pair = Pair(tmp_path / "a.png", tmp_path / "a.npy", "train", "a")
    with pytest.raises(MediaError, match="no array of labels"):
        read_stored(pair, "arrays", ())


def test_boxes_among_polygons_are_ignored(tmp_path: Path) -> None:
    yolo(tmp_path)
    with (tmp_path / "1.txt").open("a") as file:
        file.write(f"\n1 {20.5 / WIDTH} {29.5 / HEIGHT} {9 / WIDTH} {3 / HEIGHT}\n")
    found = describe(tmp_path)
    assert found.classes.names == ("background", *NAMES)
    labels = read_sample(next(p for p in found.pairs if p.name == "1"), found.encoding)[1]
    expected = truth(1)
    box = expected[28:31, 16:25]  # 9 pixels wide, 3 high
    box[box == 0] = 255
    assert np.array_equal(labels, expected)


def test_boxes_may_be_filled(tmp_path: Path) -> None:
    yolo(tmp_path)
    with pytest.raises(OptionError, match="no boxes among its outlines"):
        scan(tmp_path, boxes=True)
    with (tmp_path / "1.txt").open("a") as file:
        file.write(f"\n1 {20.5 / WIDTH} {29.5 / HEIGHT} {9 / WIDTH} {3 / HEIGHT}\n")
    found = scan(tmp_path, boxes=True).description
    labels = read_sample(next(p for p in found.pairs if p.name == "1"), found.encoding)[1]
    expected = truth(1)
    box = expected[28:31, 16:25]
    box[box == 0] = 2
    assert np.array_equal(labels, expected)
    assert found.classes.names == ("background", *NAMES)


def half_annotated(root: Path) -> np.ndarray:
    """A COCO file of which one annotation has a box and no outline; that box."""
    images, marks = [], []
    for index in range(4):
        image(root / f"images/{index}.png", index)
        images.append({"id": index, "file_name": f"{index}.png", "width": WIDTH, "height": HEIGHT})
        for kind in (1, 2):
            outline = [[value for point in ring(index, kind) for value in point]]
            x0, y0, x1, y1 = corners(index, kind)
            box = [x0, y0, x1 - x0 + 1, y1 - y0 + 1]
            flat = [] if (index, kind) == (2, 2) else outline
            marks.append({"id": len(marks), "image_id": index, "category_id": kind,
                          "segmentation": flat, "bbox": box, "iscrowd": 0})  # fmt: skip
    categories = [{"id": kind, "name": name} for kind, name in enumerate(NAMES, 1)]
    dump(root / "a.json", {"images": images, "annotations": marks, "categories": categories})
    return truth(2) == 2


def test_half_annotated_things_are_ignored_or_filled(tmp_path: Path) -> None:
    box = half_annotated(tmp_path)
    for boxes, value in ((False, 255), (True, 2)):
        found = scan(tmp_path, boxes=boxes).description
        assert found.classes.names == ("background", *NAMES)
        labels = read_sample(next(p for p in found.pairs if "2" in p.name), found.encoding)[1]
        assert set(labels[box].tolist()) == {value}
        assert np.array_equal(labels[~box], truth(2)[~box])


def test_captions_beside_images_are_no_polygons(tmp_path: Path) -> None:
    for index in range(3):
        image(tmp_path / f"{index}.png", index)
        (tmp_path / f"{index}.txt").write_text("a leaf on a stone")
    with pytest.raises(FcnsegError, match="no labels"):
        describe(tmp_path)


def cvat_shape(shape: str) -> str:
    about = '<image id="0" name="a.png" width="32" height="32">'
    return f"<annotations>{about}{shape}</image></annotations>"


def label_studio_shape(**shape: Any) -> list[Any]:
    sides = {"original_width": 32, "original_height": 32}
    kind = "rectanglelabels" if "width" in shape else "ellipselabels"
    size = {key: value / 0.32 if key != "rotation" else value for key, value in shape.items()}
    drawn = {"type": kind, "value": {kind: ["bar"], **size}, **sides}
    blob = {"type": kind, "value": {kind: ["bar"], "x": 0, "y": 0, "width": 99, "height": 99}}
    two = [{"ground_truth": True, "result": [drawn]}, {"result": [{**blob, **sides}]}]
    return [{"id": 1, "data": {"image": "a.png"}, "annotations": two}]


def via_shape(**shape: Any) -> dict[str, Any]:
    region = {"shape_attributes": shape, "region_attributes": {"class": "bar"}}
    return {"a.png9": {"filename": "a.png", "size": 9, "regions": [region]}}


def datumaro_shape(**shape: Any) -> dict[str, Any]:
    labels = {"label": {"labels": [{"name": "bar"}]}}
    item = {"id": "a", "image": {"path": "a.png"}, "annotations": [{**shape, "label_id": 0}]}
    return {"info": {}, "categories": labels, "items": [item]}


def superannotate_shape(**shape: Any) -> dict[str, Any]:
    about = {"name": "a.png", "width": 32, "height": 32}
    return {"metadata": about, "instances": [{**shape, "className": "bar"}]}


def anylabeling(kind: str, points: list[list[int]]) -> dict[str, Any]:
    shape = {"label": "bar", "shape_type": kind, "points": points}
    return {"shapes": [shape], "imagePath": "a.png", "imageHeight": 32, "imageWidth": 32}


UPRIGHT = [[14, 4], [18, 4], [18, 28], [14, 28]]
"""The corners that each of the shapes below has, most of them when it is turned."""

_NAMED = {
    f"{axis}{n}": float(v)
    for n, p in enumerate(UPRIGHT, 1)
    for axis, v in zip("xy", p, strict=True)
}


@pytest.mark.parametrize(
    "said",
    [
        cvat_shape('<box label="bar" xtl="4" ytl="14" xbr="28" ybr="18" rotation="90.00"/>'),
        cvat_shape('<ellipse label="bar" cx="16" cy="16" rx="12" ry="2" rotation="90"/>'),
        label_studio_shape(x=18, y=4, width=24, height=4, rotation=90),
        label_studio_shape(x=16, y=16, radiusX=12, radiusY=2, rotation=90),
        via_shape(name="ellipse", cx=16, cy=16, rx=12, ry=2, theta=float(np.pi / 2)),
        datumaro_shape(type="bbox", bbox=[4, 14, 24, 4], attributes={"rotation": 90}),
        superannotate_shape(type="ellipse", cx=16, cy=16, rx=12, ry=2, angle=90),
        superannotate_shape(type="rbbox", points=_NAMED),
        anylabeling("rotation", UPRIGHT),
        anylabeling("rectangle", UPRIGHT),
    ],
)
def test_turned_shapes_are_drawn_as_they_are_turned(said: Any, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    if isinstance(said, str):
        (tmp_path / "annotations.xml").write_text(said)
    else:
        (tmp_path / "a.json").write_text(json.dumps(said))
    found = describe(tmp_path)
    bar = read_sample(found.pairs[0], found.encoding)[1] == found.classes.index_of("bar")
    rows, columns = np.nonzero(bar)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 28, 14, 18)


def test_the_yaml_that_is_given_names_the_classes(tmp_path: Path) -> None:
    """Its folder is another one's, which has no list of its own."""
    WRITERS["yolo"](tmp_path / "set")
    (tmp_path / "set/data.yaml").unlink()
    (tmp_path / "my.yaml").write_text("path: set  # root\nnames:\n  0: leaf\n  1: stone\n")
    found = describe(tmp_path / "my.yaml")
    assert found.classes.names == ("background", *NAMES)
    assert agrees(found)


@pytest.mark.parametrize(
    ("said", "shift", "names"),
    [
        ("names:\n  1: stone\n  0: leaf\n", 0, ("stone", "leaf")),
        ("names:\n  1: leaf\n  2: stone\n", 1, ("leaf", "stone")),
        ("names:\n  1: leaf\n  2: stone\n", 0, ("leaf", "stone")),  # counts otherwise
        ("names: {0: leaf, 3: none, 1: stone}\n", 0, ("leaf", "none", "stone")),
    ],
)
def test_a_yaml_numbers_its_classes(
    said: str, shift: int, names: tuple[str, ...], tmp_path: Path
) -> None:
    """What stands at a number is its name, whatever the place in the list."""
    WRITERS["yolo"](tmp_path)
    for file in tmp_path.glob("*.txt"):
        lines = [line.split(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("\n".join(f"{int(number) + shift} {rest}" for number, rest in lines))
    (tmp_path / "data.yaml").write_text(said)
    found = describe(tmp_path)
    assert [name for name in found.classes.names[1:] if "class_" not in name] == [*names]
    stored = {name: found.classes.index_of(name) for name in NAMES}
    for pair in found.pairs:
        labels = read_sample(pair, found.encoding)[1]
        for kind, name in enumerate(NAMES, 1):
            middle = np.mean(ring(int(pair.image.stem), kind), 0).astype(int)
            assert labels[middle[1], middle[0]] == stored[name]


def test_renamed_pairs_stay_pairs(tmp_path: Path) -> None:
    """Numbered anew, or varied: what labelme's files name is another image here."""
    for number in range(4):
        image(tmp_path / f"{number}.png", number)
        data = anylabeling("polygon", UPRIGHT) | {"imagePath": f"{(number + 1) % 4}.png"}
        dump(tmp_path / f"{number}.json", data)
    assert all(pair.image.stem == pair.labels.stem for pair in describe(tmp_path).pairs)


@pytest.mark.parametrize("said", ["train: {0}/a\nval: {0}/b", "train: [a, c]\nval: b", "lists"])
def test_a_yaml_says_which_folders_are_for_what(said: str, tmp_path: Path) -> None:
    for index, folder in enumerate("abca"):
        image(tmp_path / f"images/{folder}/{index}.png", index)
        (tmp_path / "labels" / folder).mkdir(parents=True, exist_ok=True)
        numbers = " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in ring(index, 1))
        (tmp_path / f"labels/{folder}/{index}.txt").write_text(f"0 {numbers}")
    if said == "lists":
        (tmp_path / "first.txt").write_text("./images/a/0.png\n./images/a/3.png\nimages/c/2.png\n")
        (tmp_path / "second.txt").write_text("./images/b/1.png\n")
        said = "train: first.txt # 3\nval: ./second.txt"
    (tmp_path / "data.yaml").write_text(f"names: [leaf]\n{said.format('images')}\n")
    splits = {pair.image.stem: pair.split for pair in describe(tmp_path).pairs}
    assert [split for split in splits.values() if split == "val"] == [splits["1"]]


def test_a_space_behind_a_name_makes_no_second_class(tmp_path: Path) -> None:
    cvat(tmp_path / "cvat")
    file = tmp_path / "cvat/annotations.xml"
    file.write_text(file.read_text().replace('label="leaf"', 'label="leaf "', 1))
    assert describe(file.parent).classes.names == ("background", *NAMES)
    for number, word in enumerate(("bar", "bar ")):
        image(tmp_path / f"labelme/{number}.png", number)
        data = anylabeling("polygon", UPRIGHT) | {"imagePath": f"{number}.png"}
        dump(tmp_path / f"labelme/{number}.json", json.loads(json.dumps(data).replace("bar", word)))
    assert describe(tmp_path / "labelme").classes.names == ("background", "bar")
