"""Kinds of damage that the campaign has found to end as another error than fcnseg's own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcnseg.classes import pack
from fcnseg.config import TrainConfig
from fcnseg.datasets import Encoding, Pair
from fcnseg.datasets.dataset_toml import read_declared
from fcnseg.datasets.describe import describe
from fcnseg.datasets.encoding.entries import Entry
from fcnseg.datasets.formats import FORMATS, read_stored
from fcnseg.datasets.formats.polygons import read_json, yolo_lines
from fcnseg.datasets.pairing import list_folder
from fcnseg.errors import CheckpointError, DatasetError, FcnsegError, MediaError, OptionError
from fcnseg.io.sources import open_source
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.overwriting import MANIFEST, inputs_in
from fcnseg.training.run_folder.state import TrainState, load_state, save_state
from tests.datasets import test_annotation_formats as tools
from tests.datasets import test_tool_formats as more

DEEP = b"[" * 100_000


def spoiled_coco(change: Callable[[dict[str, Any]], object], folder: Path) -> list[Pair]:
    tools.half_annotated(folder)
    data = json.loads((folder / "a.json").read_text())
    change(data)
    (folder / "a.json").write_text(json.dumps(data))
    return [*describe(folder).pairs]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["annotations"][0]["segmentation"][0].__setitem__(1, None),
        lambda data: data["images"][0].update(height=2**31, width=2**31),
        lambda data: data["images"][0].update(height=float("inf")),
        lambda data: data["images"][0].update(height=-3),
        lambda data: data["annotations"][0].update(area=[1]),
    ],
    ids=["no number", "huge", "infinite", "negative", "area"],
)
@pytest.mark.timeout(20)  # OpenCV filled outlines with corners at minus infinity for hours
def test_one_spoiled_image_leaves_the_others(
    change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    refused, pairs = [], spoiled_coco(change, tmp_path)
    for pair in pairs:
        try:
            read_stored(pair, "coco", tools.NAMES)
        except MediaError as error:
            refused.append(error.message)
    assert len(pairs) == 4
    assert len(refused) == 1
    assert "a.json" in refused[0]


def test_numbers_of_categories_may_be_words_among_numbers(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["categories"].append({"id": "x", "name": "other"})

    assert len(spoiled_coco(change, tmp_path)) == 4


@pytest.mark.parametrize("store", ["via", "label-studio", "hasty", "datumaro"])
@pytest.mark.parametrize("value", [[], {}, None, True], ids=repr)
def test_a_name_that_is_none_is_one_error(store: str, value: Any, tmp_path: Path) -> None:
    """Wherever a document has a name of a file or a class, there is something else."""
    writers = {**tools.WRITERS, **{name: write for name, (_, write) in more.WRITERS.items()}}
    writers[store](tmp_path)
    document = next(tmp_path.glob("**/*.json"))
    text = document.read_text()
    for word in ('"0.png"', '"leaf"'):
        document.write_text(text.replace(word, json.dumps(value)))
        try:
            found = FORMATS[store].find(list_folder(tmp_path))
        except DatasetError:
            continue
        for pair in found.pairs if found else ():
            read_stored(pair, store, tools.NAMES)


def test_run_lengths_of_more_than_their_mask_take_no_memory(tmp_path: Path) -> None:
    """One number in an annotation file took 2 GB, and so did a box of another size."""
    more.hasty(tmp_path)
    document = next(tmp_path.glob("**/*.json"))
    data = json.loads(document.read_text())
    areas = [area for image in data["images"] for area in image["labels"] if area.get("mask")]
    areas[0]["mask"] = [0, 2**31]
    document.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="Run lengths of 2147483648 pixels"):
        describe(tmp_path)
    areas[0]["bbox"] = [0, 0, 2**16, 2**15]
    document.write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="a mask of 65536x32768 in an image of"):
        describe(tmp_path)


def test_what_is_nested_beyond_all_depth_is_no_document(tmp_path: Path) -> None:
    for name in ("a.json", "a.toml"):
        (tmp_path / name).write_bytes(b"a = " * name.endswith("toml") + DEEP)
    with pytest.raises(MediaError, match="nested too deeply"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DatasetError, match="not a TOML file"):
        read_declared(tmp_path / "a.toml")
    with pytest.raises(OptionError, match="not a TOML file"):
        TrainConfig.load(tmp_path / "a.toml")
    with pytest.raises(CheckpointError, match="broken header"):
        Checkpoint.from_header(DEEP.decode())
    for manifest in (DEEP, b'{"fcnseg": "0.1.0", "files": 3, "source": "a", "model": "b"}'):
        (tmp_path / MANIFEST).write_bytes(manifest)
        assert inputs_in(tmp_path, [MANIFEST]) is None


def test_a_class_beyond_all_lists_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("4294967296 0.1 0.1 0.2 0.2 0.3 0.3")
    with pytest.raises(MediaError, match="line 1"):
        list(yolo_lines(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: pack(0, 300, 0),
        lambda: pack(-1, 0, 0),
        lambda: Entry("a", 2**31),
        lambda: Encoding.of([0, 2**40]),
    ],
)
def test_numbers_that_no_label_file_holds_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"found|beyond"):
        make()


def spoiled_npz(path: Path) -> None:
    np.savez(path, mask=np.zeros((4, 4)))
    path.write_bytes(path.read_bytes().replace(b"PK\x03\x04", b"PK\x03\x05", 1))


def spoiled_npy(path: Path) -> None:
    np.save(path, np.zeros((4, 4)))
    path.write_bytes(path.read_bytes().replace(b"), }", b"(, }", 1))


@pytest.mark.parametrize(("suffix", "write"), [("npz", spoiled_npz), ("npy", spoiled_npy)])
def test_spoiled_arrays_are_one_error(
    suffix: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    tools.image(tmp_path / "a.png", 0)
    write(tmp_path / f"a.{suffix}")
    pair = Pair(tmp_path / "a.png", tmp_path / f"a.{suffix}", "train", "a")
    with pytest.raises(MediaError, match="no array of labels"):
        read_stored(pair, "arrays", ())
    tools.write_arrays(tmp_path / "more", "npz", tools.save_npz)
    assert len(describe(tmp_path / "more").pairs) == 4


@pytest.mark.parametrize("shape", [(), (4,), (1, 2, 3, 4, 5)])
def test_an_array_of_other_dimensions_is_no_stack(shape: tuple[int, ...], tmp_path: Path) -> None:
    more.npz_each(tmp_path)
    for path in tmp_path.glob("*.npz"):
        np.savez(path, imgs=np.zeros(shape), gts=np.zeros(shape, np.uint8))
    with pytest.raises(FcnsegError):
        describe(tmp_path)


def test_a_tiff_without_a_size_is_no_stack(tmp_path: Path) -> None:
    """Pillow says so with a TypeError."""
    more.tiff_pair(tmp_path)
    for path in tmp_path.glob("*.tif"):
        data = bytearray(path.read_bytes())
        at = data.find(b"\x00\x01\x03\x00\x01\x00\x00\x00" + bytes([40]))  # ImageWidth
        data[at + 1] = 99
        path.write_bytes(data)
    with pytest.raises(FcnsegError):
        describe(tmp_path)


def test_names_that_no_disk_takes_are_missing_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    long = "x" * 300
    (tmp_path / "list.txt").write_text(f"a.png\n{long}.png\n~nobody{long}/b.png\n~b.png\n")
    with open_source(tmp_path / "list.txt") as source:
        assert [frame.name for frame in source] == ["a"]
        assert len(source.failures) == 3
    (tmp_path / "pairs.csv").write_text(f"image,mask\na.png,b.png\n{long}.png,{long}_m.png\n")
    from fcnseg.datasets.pairing.lists import read_pair_list

    found = read_pair_list(tmp_path / "pairs.csv")
    assert (len(found.pairs), len(found.notes)) == (1, 1)


def test_a_byte_that_is_another_is_found_in_a_training_state(tmp_path: Path) -> None:
    """Torch would read the number without its checksum, and the run would end differently."""
    path = tmp_path / "state.pt"
    save_state(path, TrainState(step=3), {"learner": {"a": torch.arange(100.0)}})
    assert load_state(path)[0].step == 3
    data = bytearray(path.read_bytes())
    data[data.find(torch.arange(100.0).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(path)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is not None


def test_a_training_state_with_other_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    for track in ({"steps": 3}, [1], "x", None):
        torch.save({"format": 1, "track": track}, path)
        with pytest.raises(CheckpointError, match="not a training state of this version"):
            load_state(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="not a training state of this version"):
        load_state(path)


def test_a_line_cut_short_in_a_list_of_masks(tmp_path: Path) -> None:
    from tests.datasets.test_public_folders import open_images

    open_images(tmp_path)
    path = tmp_path / "train-annotations-object-segmentation.csv"
    path.write_text(path.read_text() + "\nlast.png")
    assert len(describe(tmp_path).pairs) == 6
