"""Annotations that can't be used are counted; of one class there is nothing to learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcnseg.commands.train import train
from fcnseg.config import TrainConfig
from fcnseg.datasets.check import examine
from fcnseg.errors import DatasetError
from fcnseg.io.images import write_image, write_labels

SQUARE = [[5, 5], [30, 5], [30, 30], [5, 30]]


def pictures(root: Path, count: int = 4) -> list[str]:
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        image = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        write_image(root / name, image)
    return names


def labelme(root: Path, *shapes: tuple[str, list[list[int]]]) -> None:
    """Shapes (kind, points), all in each file."""
    for name in pictures(root):
        drawn = [
            {"label": "thing", "shape_type": kind, "points": points} for kind, points in shapes
        ]
        data = {"shapes": drawn, "imagePath": name, "imageHeight": 48, "imageWidth": 64}
        (root / name).with_suffix(".json").write_text(json.dumps(data))


def coco(root: Path, *outlines: Any, **changed: Any) -> None:
    """Each outline as an annotation of each image."""
    names = pictures(root)
    annotations = [
        {"id": 9, "image_id": number, "category_id": 1, "segmentation": outline, **changed}
        for number in range(len(names))
        for outline in outlines
    ]
    images = [
        {"id": number, "file_name": name, "height": 48, "width": 64}
        for number, name in enumerate([*names, "gone.png"])
    ]
    data = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "coco.json").write_text(json.dumps(data))


def yolo(root: Path, *lines: str) -> None:
    for name in pictures(root / "images"):
        path = root / "labels" / f"{Path(name).stem}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines))


def masks(root: Path, *values: int) -> None:
    """Stripes of the values."""
    for name in pictures(root / "images"):
        labels = np.resize(np.repeat(values, 8), 48).astype(np.uint8)[:, None].repeat(64, 1)
        write_labels(root / "masks" / name, labels)


RING = [5, 5, 30, 5, 30, 30, 5, 30]


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda r: labelme(
                r,
                ("polygon", SQUARE),
                ("line", SQUARE[:2]),
                ("point", SQUARE[:1]),
                ("polygon", SQUARE[:2]),
            ),
            "12 annotations can't be used: lines and points cover no pixels (12).",
        ),
        (
            lambda r: coco(r, [RING], [], [RING[:4]], [[]]),
            "12 annotations and 1 image can't be used: no segmentation (12), "
            "no image file 'gone.png' (1).",
        ),
        (
            lambda r: coco(r, [RING], category_id=7),
            "4 annotations and 1 image can't be used: of a category that is not listed (4), "
            "no image file 'gone.png' (1).",
        ),
        (
            lambda r: coco(r, [RING], [RING], image_id=4),
            "8 annotations can't be used: no image file 'gone.png' (8).",
        ),
        (
            lambda r: coco(r, [RING], image_id=77),
            "4 annotations and 1 image can't be used: of an image that is not listed (4), "
            "no image file 'gone.png' (1).",
        ),
        (
            lambda r: yolo(r, "0 .1 .1 .5 .1 .5 .5", "0 .5 .5 .2 .2", "0 .4 .4 .2 .2", ""),
            "8 annotations can't be used: boxes have no outline, what they cover is ignored (8).",
        ),
    ],
)
def test_what_cannot_be_used_is_counted(
    tmp_path: Path, write: Callable[[Path], None], said: str
) -> None:
    write(tmp_path)
    found = {finding.code: finding.message for finding in examine(tmp_path).findings}
    assert found["left-out"] == said


@pytest.mark.parametrize(
    "write",
    [
        lambda r: labelme(r, ("line", SQUARE[:2]), ("linestrip", SQUARE)),
        lambda r: labelme(r, ("point", SQUARE[:1])),
        lambda r: labelme(r),
        lambda r: coco(r),
        lambda r: yolo(r, ""),
        lambda r: masks(r, 0),
        lambda r: masks(r, 7),
        lambda r: masks(r, 255),
        lambda r: masks(r, 1, 255),
    ],
)
def test_one_class_is_nothing_to_learn(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"nothing to learn|No pixel of any class"):
        train(TrainConfig.make({"data": tmp_path / "data", "device": "cpu", "backbone": "tiny"}))
    assert not (tmp_path / "runs").exists()


def test_one_class_in_the_training_part_is_nothing_to_learn(tmp_path: Path) -> None:
    masks(tmp_path / "train", 0)
    masks(tmp_path / "val", 0, 1)
    [finding] = [f for f in examine(tmp_path).findings if f.severity == "error"]
    assert finding.message.startswith("There is nothing to learn: every labeled pixel of the tr")


@pytest.mark.parametrize("heading", ["image,mask", "image,labels", "img_path,label_path,split"])
def test_a_list_of_pairs_that_are_not_there_says_which(tmp_path: Path, heading: str) -> None:
    """A heading that run lengths have, too, made it a malformed CSV of those."""
    names = pictures(tmp_path)
    rows = [f"photos/{name},lab/{name},train" for name in names]
    (tmp_path / "pairs.csv").write_text("\n".join([heading, *rows, ""]))
    for data in (tmp_path, tmp_path / "pairs.csv"):
        with pytest.raises(DatasetError, match=r"photos/0\.png is missing"):
            examine(data)


def test_images_inside_labelme_files_are_to_be_saved(tmp_path: Path) -> None:
    data = {"shapes": [], "imagePath": "a.png", "imageData": "iVBORw0KGgo="}
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="has no images") as raised:
        examine(tmp_path)
    assert "labelme_export_json" in str(raised.value.hint)
