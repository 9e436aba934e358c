"""Several COCO files about the same images, and images that are listed twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets import Description, split_sizes
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_stored
from fcnseg.datasets.pairing import Listing
from fcnseg.datasets.pairing.named_images import PairCollector
from fcnseg.errors import DatasetError

SQUARES = ((4, 4), (20, 4), (4, 20), (20, 20))


def square(number: int, image: int | str, category: int = 1) -> dict[str, Any]:
    x, y = SQUARES[number]
    ring = [x, y, x + 7, y, x + 7, y + 7, x, y + 7]
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": 0,
            "segmentation": [ring], "bbox": [x, y, 7, 7], "area": 49}  # fmt: skip


def write(path: Path, images: dict[int, str], annotations: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "images": [{"id": i, "file_name": name, "width": 32, "height": 32}
                   for i, name in images.items()],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }))  # fmt: skip


def pictures(root: Path, count: int = 3) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = np.random.default_rng(number).integers(0, 255, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(values).save(root / f"{number}.png")


def areas(description: Description) -> dict[str, int]:
    encoding = description.encoding
    return {
        pair.image.stem: int((read_stored(pair, "coco", encoding.class_words).values > 0).sum())
        for pair in description.pairs
    }


def test_an_image_listed_twice_has_the_annotations_of_both(tmp_path: Path) -> None:
    pictures(tmp_path)
    images = {1: "0.png", 2: "1.png", 3: "0.png", 4: "2.png"}
    write(tmp_path / "coco.json", images, [square(0, 1), square(1, 3), square(2, 2), square(0, 4)])
    assert areas(describe(tmp_path)) == {"0": 128, "1": 64, "2": 64}


@pytest.mark.parametrize("form", ["flat", "utf-16"])
def test_forms_of_a_file(form: str, tmp_path: Path) -> None:
    pictures(tmp_path, 1)
    one = square(0, 1)
    one["segmentation"] = one["segmentation"][0] if form == "flat" else one["segmentation"]
    write(tmp_path / "coco.json", {1: "0.png"}, [one])
    if form == "utf-16":
        text = (tmp_path / "coco.json").read_text()
        (tmp_path / "coco.json").write_text(text, encoding="utf-16")
    assert areas(describe(tmp_path)) == {"0": 64}


def test_annotations_may_be_held_by_their_ids(tmp_path: Path) -> None:
    pictures(tmp_path)
    path = tmp_path / "coco.json"
    write(path, {n: f"{n}.png" for n in range(3)}, [square(n, n) for n in range(3)])
    data = json.loads(path.read_text())
    data["annotations"] = {str(n): one for n, one in enumerate(data["annotations"])}
    path.write_text(json.dumps(data))
    assert len(areas(describe(tmp_path))) == 3


def test_a_file_of_everything_beside_those_of_the_splits(tmp_path: Path) -> None:
    pictures(tmp_path / "images", 4)
    names = {n: f"{n}.png" for n in range(4)}
    every = [square(n, n) for n in range(4)]
    write(tmp_path / "annotations" / "all.json", names, every)
    write(tmp_path / "annotations" / "train.json", {n: names[n] for n in range(3)}, every[:3])
    write(tmp_path / "annotations" / "val.json", {3: names[3]}, every[3:])
    write(tmp_path / "annotations" / "aaa_captions.json", names, [])
    description = describe(tmp_path)
    assert split_sizes(description) == {"train": 3, "val": 1}
    assert areas(description) == dict.fromkeys("0123", 64)
    assert {note.path.name for note in description.found.notes} == {"all.json"}
    assert sum(note.count for note in description.found.notes) == 4


def test_the_file_with_annotations_is_used(tmp_path: Path) -> None:
    pictures(tmp_path)
    names = {n: f"{n}.png" for n in range(3)}
    write(tmp_path / "a.json", names, [])
    write(tmp_path / "b.json", names, [square(n, n) for n in range(3)])
    assert areas(describe(tmp_path)) == dict.fromkeys("012", 64)


def test_names_that_leave_the_folder_read_nothing(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    pictures(data)
    pictures(outside, 1)
    hostile = {3: "../outside/0.png", 4: str(outside / "0.png"), 5: "./x/../../outside/0.png"}
    names = {n: f"{n}.png" for n in range(3)} | hostile
    write(data / "coco.json", names, [square(n % 4, n) for n in names])
    description = describe(data)
    assert {pair.image for pair in description.pairs} == {data / f"{n}.png" for n in range(3)}


def test_a_bare_name_of_several_images_is_asked_about(tmp_path: Path) -> None:
    """The first one was taken, and two listed images of one name were one image."""
    for camera in ("cam0", "cam1"):
        pictures(tmp_path / "images" / camera)
    write(tmp_path / "all.json", {0: "0.png", 1: "1.png"}, [square(0, 0), square(1, 1)])
    with pytest.raises(DatasetError, match=r"0\.png, which may be images/cam0/0\.png or"):
        describe(tmp_path)
    for folder in ("data", "sem_seg"):  # which says itself that it holds labels
        pictures(tmp_path / "images/train" / folder, 2)
    (tmp_path / "all.json").rename(tmp_path / "images/train/labels.json")
    pairs = describe(tmp_path / "images/train").pairs
    assert {pair.image.parent.name for pair in pairs} == {"data"}


def test_a_bare_name_is_of_the_folder_that_the_file_s_is_like(tmp_path: Path) -> None:
    for number, camera in enumerate(("cam0", "cam1")):
        pictures(tmp_path / "images" / camera)
        file = tmp_path / "annotations" / camera / "coco.json"
        write(file, {0: "0.png", 1: "1.png"}, [square(number, 0), square(1, 1)])
    found = describe(tmp_path)
    assert len(found.pairs) == 4
    assert all(pair.image.parent.name == pair.labels.parent.name for pair in found.pairs)


def test_an_absolute_path_of_another_machine_keeps_its_last_folder(tmp_path: Path) -> None:
    """Every recording has a 0.png: the first one's was taken for all."""
    names = {}
    for number in range(2):
        pictures(tmp_path / f"images/cam{number}", 1)
        names[number] = f"C:\\Users\\me\\cam{number}\\0.png"
    write(tmp_path / "coco.json", names, [square(0, 0), square(1, 1)])
    found = describe(tmp_path)
    assert {pair.image.parent.name: pair.part for pair in found.pairs} == {"cam0": "0", "cam1": "1"}


@pytest.mark.parametrize("change", ["floats", "texts", "other suffix", "no size"])
def test_what_programs_write_otherwise_means_the_same(change: str, tmp_path: Path) -> None:
    pictures(tmp_path)
    write(tmp_path / "a.json", {n: f"{n}.png" for n in range(3)}, [square(n, n) for n in range(3)])
    data = json.loads((tmp_path / "a.json").read_text())
    for one in data["annotations"]:
        number = {"floats": float, "texts": str}.get(change, int)
        one |= {key: number(one[key]) for key in ("image_id", "category_id")}
    for one in data["images"] if change in ("other suffix", "no size") else ():
        if change == "no size":
            del one["width"]
        else:
            one["file_name"] = one["file_name"].replace("png", "tiff")
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert areas(describe(tmp_path)) == dict.fromkeys("012", 64)


def test_an_image_is_found_without_a_look_at_all_others(tmp_path: Path) -> None:
    """Of 4,000 images in train/ and as many of the same names in val/ it took a minute."""

    class Known(dict[str, str]):
        def items(self) -> Any:
            raise AssertionError("looked through")

    files = [f"{split}/{number}.png" for split in ("train", "val") for number in range(3)]
    gathered = PairCollector(Listing(tmp_path, tuple(files)))
    gathered.by_path = Known(gathered.by_path)
    assert gathered.find_image("1.png", "annotations/val.json") == "val/1.png"
