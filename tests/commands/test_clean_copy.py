"""check --fix OUT, then check OUT: the same pairs, classes, names, colors, splits and pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnseg.commands.check import check
from fcnseg.config import CheckConfig
from fcnseg.datasets import split_sizes
from fcnseg.datasets.describe import describe
from fcnseg.errors import quoted
from fcnseg.progress import Event, Message
from tests.datasets import test_describe, test_pairing, written
from tests.datasets.test_describe import LAYOUTS, assert_same, samples
from tests.datasets.written import draw_set


def copied(data: Path, tmp_path: Path) -> Path:
    """A clean copy, which has to read as the folder does."""
    before = describe(data)
    out = tmp_path / "clean"
    done = check(CheckConfig(data=data, fix=out, contact=tmp_path / "contact.png"))
    assert done.cleaned is not None
    assert not done.cleaned.left_out
    after = describe(out)
    assert after.classes.names == before.classes.names
    np.testing.assert_array_equal(after.classes.colors, before.classes.colors)
    assert split_sizes(after) == split_sizes(before)
    for split in split_sizes(before):
        assert_same(samples(after, split), samples(before, split))
    return out


def test_the_command_to_train_on_the_copy_is_named(drawn_folder: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    out, contact = tmp_path / "a clean copy", tmp_path / "contact.png"
    check(CheckConfig(data=drawn_folder, fix=out, contact=contact), said.append)
    texts = [event.text for event in said if isinstance(event, Message)]
    assert any(text.endswith(f"Next: fcnseg train {quoted(out)}") for text in texts)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout(name: str, tmp_path: Path) -> None:
    LAYOUTS[name][1](tmp_path / "data", draw_set())
    copied(tmp_path / "data", tmp_path)


@pytest.mark.parametrize("name", {**test_pairing.NAMES, **test_pairing.SPLITS})
def test_every_way_to_name_files(name: str, tmp_path: Path) -> None:
    names = {**test_pairing.NAMES, **test_pairing.SPLITS}[name]
    test_pairing.write(tmp_path / "data", *names)
    copied(tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("encode", "classes"),
    [
        (written.as_index, 4),
        (written.as_palette, 4),
        (written.as_color, 4),
        (written.as_wide, 4),
        (written.mapped(0, 255), 2),
        (written.as_bits, 2),
        (written.as_alpha, 2),
    ],
)
def test_every_encoding(encode: written.Encode, classes: int, tmp_path: Path) -> None:
    written.folders(tmp_path / "data", draw_set(void=False, classes=classes), encode=encode)
    copied(tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    "make", [test_pairing.fields_of_view, test_pairing.color_copies, test_pairing.predictions]
)
def test_of_several_sets_of_labels_the_one_that_is_meant(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "data")
    copied(tmp_path / "data", tmp_path)


@pytest.mark.parametrize("place", test_pairing.SEVERAL)
def test_several_masks_of_one_image(place: str, tmp_path: Path) -> None:
    test_pairing.several_masks(tmp_path / "data", place)
    copied(tmp_path / "data", tmp_path)


@pytest.mark.parametrize("file_name", ["images\\1/{}", "C:\\data\\val\\{}", "masks/{}", "./{}"])
def test_coco_files_with_folders_in_their_names(file_name: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    written.coco(data, draw_set(), kind="polygons")
    for path in data.rglob("*.json"):
        document = json.loads(path.read_text())
        for image in document["images"]:
            image["file_name"] = file_name.format(image["file_name"].rpartition("/")[2])
        path.write_text(json.dumps(document))
    copied(data, tmp_path)


def test_words_in_names_are_no_words_of_folders(tmp_path: Path) -> None:
    lines = ["image,labels,split"]
    for number, (one, place) in enumerate(
        zip(draw_set(), ["masks/a", "val/b", "labels", "x/test", "gt", "a_mask", "a", "é,1", "#7"],
            strict=True)
    ):  # fmt: skip
        image, labels = f"{place}/i{number}.png", f"{place}/i{number}_mask.png"
        written.save(Image.fromarray(one.image), tmp_path / "data" / image)
        written.save(Image.fromarray(one.labels), tmp_path / "data" / labels)
        lines.append(f'"{image}","{labels}",{one.split}')
    (tmp_path / "data" / "pairs.csv").write_text("\n".join(lines))
    copied(tmp_path / "data", tmp_path)


def test_a_class_list_with_names_of_all_kinds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    written.folders(data, draw_set())
    (data / "class_dict.csv").write_text(
        'name,r,g,b,id\n"road, dry",224,224,192,0\n#1,0,0,0,1\n7: x,255,255,255,2\nÜ,1,2,3,3\n'
    )
    assert describe(data).classes.names == ("road, dry", "#1", "7: x", "Ü")
    copied(data, tmp_path)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_labels_of_one_class_keep_all_names(value: int, tmp_path: Path) -> None:
    """What the files lack is still in the list; the background's grey is no class number."""
    data = tmp_path / "data"
    written.folders(data, draw_set(void=False))
    (data / "classes.txt").write_text("background\nleaf\nstem\n")
    for path in describe(data).inputs():
        if path[0] == "the labels":
            written.save(Image.fromarray(np.full(written.SIZE, value, np.uint8)), path[1])
    assert describe(data).classes.names == ("background", "leaf", "stem")
    copied(data, tmp_path)


def test_the_copy_is_no_layout_of_its_own(tmp_path: Path) -> None:
    test_describe.folders(tmp_path / "data", draw_set())
    out = copied(tmp_path / "data", tmp_path)
    assert {path.name for path in out.iterdir()} == {
        "images", "labels", "pairs.csv", "class_dict.csv",
    }  # fmt: skip
    description = describe(out / "pairs.csv")
    assert len(description.pairs) == 9
