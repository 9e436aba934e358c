"""Class lists beside label files: names, colors and stored values in every form they come in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fcnseg.classes import ADE20K_NAMES, CAMVID, CITYSCAPES, pack, voc_palette
from fcnseg.datasets.check import examine
from fcnseg.datasets.describe import scan
from fcnseg.datasets.encoding.class_lists import find_entries, read_yaml_names
from fcnseg.datasets.encoding.entries import Entry, is_ignored
from fcnseg.datasets.pairing import list_folder
from tests.datasets.discs import agrees, discs, write

FORMS = {
    "classes.txt": "sea\nsand\n\npalm tree\n",
    "labels.txt": "# numbers\n0: sea\n1: sand\n2: palm tree\n",
    "names.txt": "0 sea\n1 sand\n2 palm tree\n",
    "codes.txt": "sea\r\nsand\r\npalm tree\r\n",
    "label_names.txt": "sea = 0\nsand = 1\npalm tree = 2\n",
    "class_list.txt": "palm tree 2\nsea 0\nsand 1\n",
    "category.txt": "id\tname\n0\tsea\n1\tsand\n2\tpalm tree\n",
    "class_ids.txt": "0. sea\n1. sand\n2. palm tree\n",
    "classes.yaml": "classes:\n  - sea\n  - sand\n  - palm tree\n",
    "label_colors.txt": "0 0 255\tsea\n255 255 0\tsand\n0 128 0\t\tpalm tree\n",
    "class_names.txt": "__ignore__\nsea\nsand\npalm tree\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nsea:0,0,255::\nsand:255,255,0::\n"
    "palm tree:0,128,0::\n",
    "class_dict.csv": "name,r,g,b\nsea,0,0,255\nsand,255,255,0\npalm tree,0,128,0\n",
    "class_mapping.csv": "class_name,class_color\nsea,0 0 255\nsand,255 255 0\npalm tree,0 128 0\n",
    "_classes.csv": "Pixel Value, Class\n0, sea\n1, sand\n2, palm tree\n",
    "classes.json": '["sea", "sand", "palm tree"]',
    "labels.json": '{"0": "sea", "1": "sand", "2": "palm tree"}',
    "label_map.json": '{"sea": 0, "sand": 1, "palm tree": 2}',
    "colormap.json": '{"sea": [0, 0, 255], "sand": [255, 255, 0], "palm tree": [0, 128, 0]}',
    "palette.json": '[{"name": "sea", "id": 0, "color": [0, 0, 255]}, {"name": "sand", "id": 1},'
    ' {"name": "palm tree", "id": 2}]',
    "categories.txt": "['sea', 'sand', 'palm tree']\n",
    "colors.txt": "sea (0, 0, 255)\nsand (255, 255, 0)\npalm tree (0, 128, 0)\n",
    "label_map.csv": "2,palm tree\n0,sea\n1,sand\n",
    "labels.csv": "id,name\n0.0,sea\n1.0,sand\n2.0,palm tree\n",
    "category_list.json": '[{"id": "2", "name": "palm tree"}, {"id": "0", "name": "sea"},'
    ' {"id": "1", "name": "sand"}]',
    "dataset.json": '{"labels": {"sea": 0, "sand": 1, "palm tree": 2}, "file_ending": ".png"}',
    "labelmap.json": '{"classes": ["sea", "sand", "palm tree"]}',
    "classes.csv": "sea,0,0,255\nsand,255,255,0\npalm tree,0,128,0\n",
    "label_classes.json": '[{"png_index": 0, "class_name": "sea", "color": "#0000ffff"}, '
    '{"png_index": 1, "class_name": "sand", "color": "#ffff00ff"}, '
    '{"png_index": 2, "class_name": "palm tree", "color": "#00800080"}]',
    "color_map.json": '{"sea": "0,0,255", "sand": "255, 255, 0", "palm tree": "0 128 0"}',
    "rgb_to_class.json": '{"(0, 0, 255)": "sea", "[255,255,0]": "sand", "#008000": "palm tree"}',
    "metadata.yaml": "a: 1\ncolors:\n  sea: [0, 0, 255] # deep\n  sand: [255, 255, 0]\n"
    "  palm tree: '#008000'\n",
    "label_descriptions.json": '{"info": {}, "categories": [{"id": 0, "name": "sea"}, '
    '{"id": 1, "name": "sand"}, {"id": 2, "name": "palm tree"}]}',
    "class_values.csv": "Nr;Klasse\n0;sea\n1;sand\n2;palm tree\n",
    "label_list.csv": ",label_list\n0,sea\n1,sand\n2,palm tree\n",
    "class_colors.csv": "Class,Color_R,Color_G,Color_B\nsea,0.0,0.0,255.0\nsand,255.0,255.0,0.0\n"
    "palm tree,0.0,128.0,0.0\n",
    "class_index.json": '{"classes": {"sea": 0, "sand": 1, "palm tree": 2}}',
    "id2label.json": '{"id2label": {"0": "sea", "1": "sand", "2": "palm tree"}, "label2id": {}}',
    "metainfo.json": '{"classes": ["sea", "sand", "palm tree"], '
    '"palette": [[0, 0, 255], [255, 255, 0], [0, 128, 0]]}',
    "semantic_labels_0000.json": '{"(0, 0, 255, 255)": {"class": "sea"}, '
    '"(255, 255, 0, 255)": {"class": "sand"}, "(0, 128, 0, 255)": {"class": "palm tree"}}',
    "annotation_definitions.json": '{"annotationDefinitions": [{"spec": ['
    '{"label_name": "sea", "pixel_value": {"r": 0, "g": 0, "b": 255, "a": 255}}, '
    '{"label_name": "sand", "pixel_value": [255, 255, 0, 255]}, '
    '{"label_name": "palm tree", "pixel_value": [0, 128, 0, 255]}]}]}',
    "metadata.json": '{"default_mask_targets": {"0": "sea", "1": "sand", "2": "palm tree"}}',
    "esri_model_definition.emd": '{"Classes": [{"Value": 0, "Name": "sea"}, '
    '{"Value": 1, "Name": "sand"}, {"Value": 2, "Name": "palm tree"}]}',
    "rs19-config.json": '{"labels": [{"name": "sea", "color": [0, 0, 255]}, '
    '{"name": "sand", "color": "rgb(255, 255, 0)"}, '
    '{"name": "palm tree", "color_hex": "#008000"}]}',
    "labels.yaml": "sea: 0\nsand: 1\npalm tree: 2\n",
    "data.yml": "classes:\n  - name: sea\n    color: [0, 0, 255]\n  - name: sand\n"
    "    color: '#ffff00'\n  - name: palm tree\n    color: [0, 128, 0]\n",
    "class_color.txt": "sea #0000ff\nsand: #ffff00\npalm tree = (0, 128, 0)\n",
    "class_dict.txt": '{\n  "sea": 0,\n  "sand": 1,\n  "palm tree": 2\n}\n',
    "class_list_of_names.txt": "- class 0: 'sea'\n- class 1: 'sand'\n- class 2: 'palm tree'\n",
    "label_description.txt": '# ITK-SnAP\n  0  0  0 255  0  0  0  "sea"\n'
    '  1 255 255  0  1  1  1  "sand"\n  2  0 128  0  1  1  1  "palm tree"\n',
    "colormap.txt": "# QGIS\nINTERPOLATION:EXACT\n0,0,0,255,255,sea\n1,255,255,0,255,sand\n"
    "2,0,128,0,255,palm tree\n",
}
WITH_COLORS = {
    "class_colors.csv",
    "metainfo.json",
    "semantic_labels_0000.json",
    "annotation_definitions.json",
    "rs19-config.json",
    "data.yml",
    "class_color.txt",
    "label_description.txt",
    "colormap.txt",
    "classes.csv",
    "label_classes.json",
    "color_map.json",
    "rgb_to_class.json",
    "metadata.yaml",
    "class_mapping.csv",
    "label_colors.txt",
    "labelmap.txt",
    "class_dict.csv",
    "colormap.json",
}
WITH_VALUES = {
    "class_values.csv",
    "label_list.csv",
    "class_index.json",
    "id2label.json",
    "metadata.json",
    "esri_model_definition.emd",
    "labels.yaml",
    "class_dict.txt",
    "class_list_of_names.txt",
    "label_description.txt",
    "colormap.txt",
    "label_classes.json",
    "label_descriptions.json",
    "category.txt",
    "class_ids.txt",
    "label_names.txt",
    "labels.txt",
    "names.txt",
    "_classes.csv",
    "labels.json",
    "label_map.json",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_names_the_classes(name: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name).write_text(FORMS[name])
    entries, file = find_entries(list_folder(tmp_path))
    assert file == f"deep/{name}"
    if name in ("class_list.txt", "label_map.csv", "category_list.json"):
        entries = tuple(sorted(entries, key=lambda entry: entry.value or 0))
    assert [entry.name for entry in entries] == ["sea", "sand", "palm tree"]
    if name in WITH_COLORS:
        assert [entry.color for entry in entries] == [0x0000FF, 0xFFFF00, 0x008000]
    if name in WITH_VALUES:
        assert [entry.value for entry in entries] == [0, 1, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("name", ["classes.txt", "class_dict.csv"])
def test_a_list_may_be_encoded_as_windows_does(name: str, encoding: str, tmp_path: Path) -> None:
    text = FORMS[name].replace("sand", "forêt").replace("\n", "\r\n")
    (tmp_path / name).write_bytes(text.encode(encoding))
    names = [entry.name for entry in find_entries(list_folder(tmp_path))[0]]
    assert names == ["sea", "forêt", "palm tree"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.json", "{"),
        ("classes.json", '{"a": null}'),
        ("labelmap.txt", "no colons here\n"),
        ("class_dict.csv", "a,b\n1,2\n"),
        ("class_dict.csv", ""),
        ("classes.txt", "same\nsame\n"),
        ("labels.csv", "patient,age\nA 1,45\nB 2,61\n"),
        ("dataset.json", '{"labels": {"background": 0, "whole": [1, 2, 3], "core": [3]}}'),
        ("labels.json", '[{"name": "1.jpg", "labels": [{"name": "car"}, {"name": "sign"}]}]'),
        ("config.json", '{"epochs": 3, "folds": 5}'),
        ("labels.txt", "Labels\nEach mask is a PNG of 0 and 255.\nSee https://example.org\n"),
        ("labels.txt", "Label 0: nothing was seen here\nLabel 255 means an object is there\n"),
    ],
)
def test_other_content_is_no_class_list(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert find_entries(list_folder(tmp_path)) == ((), "")


@pytest.mark.parametrize(
    "text",
    [
        "names: [sea, 'sand', \"palm tree\"]\nnc: 3\n",
        "names:\n  0: sea\n  1: sand\n  2: palm tree\ntrain: x\n",
        "train: x\nnames:\n- sea\n- sand\n- palm tree\nnc: 3\n",
        "names: {0: sea, 1: sand, 2: palm tree}\n",
        "names: [\n  sea,\n  sand,\n  palm tree\n]\n",
        "names:\n  - sea\n  - 'sand'\n\n  - palm tree\n",
    ],
)
def test_names_in_a_data_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text)
    found = read_yaml_names(tmp_path / "data.yaml")
    assert found == [Entry("sea", 0), Entry("sand", 1), Entry("palm tree", 2)]


@pytest.mark.parametrize("text", ["zone 1\nzone 2\n", "grade 3 a\ngrade 3 b\n"])
def test_names_may_end_in_numbers(text: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    names = [entry.name for entry in find_entries(list_folder(tmp_path))[0]]
    assert names == text.splitlines()


def test_no_names_in_a_data_yaml(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: x\n")
    assert read_yaml_names(tmp_path / "data.yaml") == []


@pytest.mark.parametrize("name", ["void", "Void", "__ignore__", "Unlabelled", "don't care"])
def test_names_that_do_not_count(name: str) -> None:
    assert is_ignored(name)
    assert not is_ignored("background")


def test_published_tables_are_complete() -> None:
    assert len(ADE20K_NAMES) == len(set(ADE20K_NAMES)) == 150
    assert (len(CAMVID), len(CITYSCAPES)) == (11, 19)
    assert voc_palette(4) == (0, pack(128, 0, 0), pack(0, 128, 0), pack(128, 128, 0))
    assert voc_palette()[255] == 0xE0E0C0


LISTS = {
    "dataset_meta.json": '{"labels": ["sky", "leaf", "stone"],'
    ' "label_colors": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}',
    "labels.csv": "id;label;red;green;blue\r\n0;sky;1;2;3\r\n1;leaf;4;5;6\r\n2;stone;7;8;9\r\n\r\n",
    "data.yaml": "path: /home/someone/else\nnames: [sky, leaf, stone]\n",
    "codes.txt": "sky\r\n\r\nleaf\r\nstone\r\n\r\n",
    "obj.names": "sky\nleaf\nstone\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_class_names_and_colors_come_from_lists(tmp_path: Path, name: str) -> None:
    seen = scan(write(tmp_path, discs(classes=3), {name: LISTS[name]}))
    assert seen.description.classes.names == ("sky", "leaf", "stone")
    if name in ("dataset_meta.json", "labels.csv"):
        assert seen.description.classes.colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_yaml_maps_stored_values_and_can_be_the_dataset(tmp_path: Path) -> None:
    truth = discs(classes=4)
    stored = [np.array([7, 8, 24, 11], np.uint8)[labels] for labels in truth]
    yaml = (
        "path: .\nmasks_dir: masks\nnames:\n  0: ground\n  1: ring  # the outer one\n"
        "label_mapping:\n  7: 0\n  8: 0\n  24: 1\n  11: ignore_label\n"
    )
    write(tmp_path, stored, {"data.yaml": yaml})
    meant = [np.array([0, 0, 1, 255], np.uint8)[labels] for labels in truth]
    for data in (tmp_path, tmp_path / "data.yaml"):
        seen = scan(data)
        assert seen.description.classes.names == ("ground", "ring")
        assert agrees(seen, meant)


@pytest.mark.parametrize(
    ("listed", "palette", "asked"),
    [
        ("name,r,g,b\nvoid,255,0,255\nleaf,0,255,0\nstone,0,0,255\n", (0xFF00FF,), True),
        ("name,r,g,b\nvoid,0,0,0\nleaf,0,255,0\nstone,0,0,255\n", (0,), False),
    ],
)
def test_a_name_without_labels_in_a_colour_of_its_own_is_asked_about(
    tmp_path: Path, listed: str, palette: tuple[int, ...], asked: bool
) -> None:
    colors = np.array([[palette[0] >> 16, 0, palette[0] & 255], [0, 255, 0], [0, 0, 255]], np.uint8)
    write(tmp_path, [colors[labels] for labels in discs(classes=3)], {"class_dict.csv": listed})
    result = examine(tmp_path)
    assert result.description.classes.names == ("leaf", "stone")
    found = [f for f in result.findings if f.code == "unlabelled-class"]
    assert len(found) == asked
    assert not asked or found[0].message.startswith("Is void (#ff00ff, ")


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("stored", ["grey", "rgb", "palette", "smoothed"])
@pytest.mark.parametrize("colors", [(0, 128, 64), (255, 0, 128)])
def test_greys_are_named_by_the_colours_of_the_list(
    colors: tuple[int, ...], stored: str, ids: bool, tmp_path: Path
) -> None:
    """Not by their order: B is the lightest, C the one between."""
    truth = discs(classes=3)
    table = np.array(colors, np.uint8)
    lines = [
        f"{name},{c},{c},{c},{i}" for i, (name, c) in enumerate(zip("ABC", colors, strict=True))
    ]
    text = "\n".join(["name,r,g,b,id", *lines])
    if not ids:
        text = "\n".join(line.rpartition(",")[0] for line in text.splitlines())
    masks = [table[labels] for labels in truth]
    if stored == "rgb":
        masks = [np.repeat(mask[..., None], 3, 2) for mask in masks]
    if stored == "smoothed":
        masks = [cv2.GaussianBlur(mask, (3, 3), 0) for mask in masks]
    root = write(tmp_path, masks, {"class_dict.csv": text})
    if stored == "palette":
        for number, labels in enumerate(truth):
            image = Image.fromarray(labels)
            image.putpalette(np.repeat(table, 3).tobytes())
            image.save(root / f"masks/{number}.png")
    seen = scan(root)
    assert seen.description.classes.names == ("A", "B", "C")
    assert agrees(seen, truth, 0.08 if stored == "smoothed" else 0)


@pytest.mark.parametrize(
    ("file", "number"),
    [("label_map.pbtxt", "id"), ("labelmap.prototxt", "label"), ("plants_label_map.pbtxt", "id")],
)
def test_lists_of_tensorflow_and_caffe_begin_with_1(file: str, number: str, tmp_path: Path) -> None:
    item = "item {{\n  name: '{}'\n  {}: {}\n}}\n"
    text = item.format("leaf", number, 1) + item.format("main stem", number, 2)
    truth = discs(classes=3)
    seen = scan(write(tmp_path, truth, {file: text}))
    assert seen.description.classes.names == ("background", "leaf", "main stem")
    assert agrees(seen, truth)


NUMBERED = {
    "from 1, without the background": (
        [0, 1, 2],
        "id,name\n1,disc\n2,ring\n",
        ("background", "disc", "ring"),
    ),
    "by number, not by line": (
        [0, 128, 255],
        "id,name\n2,ring\n0,sea\n1,disc\n",
        ("sea", "disc", "ring"),
    ),
    "one of the greys is void": ([0, 128, 255], "name\nsea\ndisc\nvoid\n", ("sea", "disc")),
    "off by one": ([0, 1, 2], "id,name\n1,sea\n2,disc\n3,ring\n", None),
    "its background is 10": (
        [0, 100, 200],
        "id,name\n10,background\n100,disc\n200,ring\n",
        ("background", "disc", "ring"),
    ),
    "others": ([0, 1, 2], "id,name\n7,sea\n8,disc\n11,ring\n", None),
}


@pytest.mark.parametrize("case", NUMBERED)
def test_a_list_with_numbers_fits_or_is_said_not_to(case: str, tmp_path: Path) -> None:
    greys, text, names = NUMBERED[case]
    labels = [np.array(greys, np.uint8)[one] for one in discs(classes=3)]
    result = examine(write(tmp_path, labels, {"classes.csv": text}))
    unused = [one.message for one in result.findings if one.code == "unused-class-list"]
    assert result.description.classes.names == (names or ("class_0", "class_1", "class_2"))
    assert bool(unused) == (names is None)
    assert case != "others" or "classes.csv lists 7 sea, 8 disc, 11 ring; the label" in unused[0]


def test_a_two_line_list_is_named_by_its_background(tmp_path: Path) -> None:
    labels = [np.uint8(255) * one for one in discs()]
    folder = write(tmp_path, labels, {"classes.txt": "crack\nbackground\n"})
    assert scan(folder).description.encoding.values == ((255,), (0,))
    (folder / "classes.txt").write_text("White is where a crack is.\nBlack is the rest.\n")
    found = scan(folder).description
    assert found.classes.names == ("background", "object")
    assert "classes.txt holds sentences, no class names" in found.why


def test_the_numbers_of_a_list_stay_what_they_are(tmp_path: Path) -> None:
    """A list in another order than its numbers does not exchange what outputs hold."""
    truth = discs(classes=3)
    seen = scan(write(tmp_path, truth, {"label2id.json": '{"sea": 0, "sand": 2, "palm": 1}'}))
    assert seen.description.classes.names == ("sea", "palm", "sand")
    assert agrees(seen, truth)


def test_a_decathlon_dataset_json_names_the_classes(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(
        '{"labels": {"0": "sea", "1": "sand"}, "numTraining": 2}'
    )
    assert [entry.name for entry in find_entries(list_folder(tmp_path))[0]] == ["sea", "sand"]
