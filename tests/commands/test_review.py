"""review writes what to look at, and reads nothing that it writes over."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fcnseg.datasets.describe import describe
from fcnseg.inference.loading import load
from fcnseg.io.images import read_image, write_labels
from tests.cli.test_cli import call


@pytest.fixture
def folder(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> Path:
    """The model's own predictions as labels, so that it agrees, but for one object erased."""
    place = Path(shutil.copytree(drawn_folder, tmp_path / "data"))
    shutil.rmtree(place / "images/train")
    shutil.rmtree(place / "labels/train")
    model = load(tiny_run, device="cpu", precision="f32", engine="torch")
    for path in sorted((place / "images/val").iterdir()):
        labels = model(read_image(path)).labels
        if path.stem == "0003":
            values, counts = np.unique(labels, return_counts=True)
            labels = labels.copy()
            labels[30:70, 40:90] = (values[counts.argmax()] + 2) % 4
        write_labels(place / "labels/val" / path.name, labels)
    return place


def options(run: Path, out: Path) -> list[object]:
    return ["-m", run, "-o", out, "--device", "cpu", "--precision", "f32", "--engine", "torch"]


def test_the_label_that_was_changed_comes_first(
    folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = [*options(tiny_run, out), "--limit", 2, "--save", "labelme"]
    found = json.loads(call("review", folder, *more, "--json").stdout)
    assert found["images"] == 6
    assert {one["name"] for one in found["suspects"]} == {"0003"}
    rows = list(csv.DictReader((out / "review.csv").read_text().splitlines()))
    assert len(rows) == len(found["suspects"])
    assert rows[0]["labels"].endswith("labels/val/0003.png")
    left, top, width, height = (int(rows[0][key]) for key in ("left", "top", "width", "height"))
    assert 40 <= left <= left + width <= 90
    assert 30 <= top <= top + height <= 70
    page = (out / "review.html").read_text(encoding="utf-8")
    assert page.count("<figcaption>labels") == min(2, len(rows))
    saved = json.loads((out / "labelme/0003.json").read_text())
    assert (out / "labelme" / saved["imagePath"]).samefile(folder / "images/val/0003.png")
    assert saved["shapes"]
    assert sorted(map(str, (out / "labelme").rglob("*.json"))) == found["outputs"][2:]


def test_images_to_label(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(drawn_folder / "images/val", photos)
    shutil.copyfile(photos / "0001.png", photos / "again.png")
    out = tmp_path / "out"
    more = [*options(tiny_run, out), "--save", "labelme"]
    shown = call("review", photos, "--unlabeled", *more).stdout
    assert "Of 7 images" in shown
    rows = list(csv.DictReader((out / "review.csv").read_text().splitlines()))
    names = [row["image"] for row in rows]
    assert len({"0001", "again"} & set(names)) == 1
    assert len(list((out / "labelme").iterdir())) == len(names)
    found = json.loads(call("review", photos, "--unlabelled", *more, "--json").stdout)
    assert [one["name"] for one in found["to_label"]] == names
    assert found["suspects"] == []


def test_label_files_are_no_images_to_label(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    images = len(list((drawn_folder / "images").rglob("*.png")))
    done = call("review", drawn_folder, "--unlabeled", *options(tiny_run, tmp_path / "out"))
    assert f"Of {images} images" in done.stdout
    assert "label images" in done.stderr


def test_a_folder_without_labels_says_how_to_go_on(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    photos = shutil.copytree(drawn_folder / "images/val", tmp_path / "photos")
    shown = call("review", photos, *options(tiny_run, tmp_path / "out"), status=1).stderr
    assert "--unlabeled" in shown
    assert not (tmp_path / "out").exists()


def test_outputs_are_no_inputs(drawn_folder: Path, tiny_run: Path) -> None:
    before = describe(drawn_folder).pairs
    for out in (drawn_folder, drawn_folder / "labels"):
        call("review", drawn_folder, *options(tiny_run, out), status=2)
    images = drawn_folder / "images"
    call("review", images, "--unlabelled", *options(tiny_run, images), status=2)
    assert describe(drawn_folder).pairs == before
