"""Names with ../ and absolute paths in annotation files of every format lead nowhere else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from fcnseg.datasets.describe import describe
from fcnseg.errors import FcnsegError
from tests.faults.annotations import WRITERS

BY_THEIR_OWN_NAME = {
    "ADE20K 2020", "Roboflow masks", "YOLO", "class names", "class table", "cityscapes-json",
    "cvat video", "geojson", "image-scope", "labelme folders", "supervisely", "run-lengths",
    "Kaggle runs", "VOC", "Open Images", "asap", "yolo", "label-studio", "label studio min",
}  # fmt: skip
"""Formats whose files name no image as a file of the folder: a stem, an upload, or nothing."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(WRITERS.keys() - BY_THEIR_OWN_NAME))
def test_names_that_leave_the_folder(name: str, tmp_path: Path) -> None:
    data, others = tmp_path / "data", tmp_path / "others"
    data.mkdir()
    WRITERS[name](data)
    files = [path for path in data.rglob("*") if path.is_file()]
    pictures = {path.name for path in files if path.suffix in (".png", ".jpg")}
    others.mkdir()
    for path in files:
        if path.name in pictures:
            shutil.copy(path, others)
    texts = {path: path.read_text() for path in files if path.name not in pictures}
    one_of_them = re.compile(rf"[\w./-]*(?<![\w.-])({'|'.join(map(re.escape, pictures))})(?![\w.])")
    for place in ("../others/", f"{others}/"):
        count = 0
        for path, text in texts.items():
            changed, found = one_of_them.subn(place + r"\1", text)
            path.write_text(changed)
            count += found
        assert count, "the format names images"
        try:
            pairs = describe(data).pairs
        except FcnsegError:
            continue
        read = {file for pair in pairs for file in (pair.image, pair.labels) if file}
        assert all(file.resolve().is_relative_to(data) for file in read)
