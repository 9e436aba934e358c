"""Annotation files and lists that name files, in a locale that knows ASCII only."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets import test_annotation_formats as tools
from tests.datasets import written
from tests.datasets.written import draw_set

NAME = "é"
"""What stands before every name of an image."""

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

TEXTS = {".json", ".csv", ".txt", ".xml", ".yaml"}

WRITERS: dict[str, Callable[[Path], None]] = {
    **{name: getattr(tools, name) for name in ("cvat", "via", "label_studio", "panoptic")},
    **{name: getattr(tools, name) for name in ("supervisely", "run_lengths", "yolo")},
    "coco": lambda root: written.coco(root, draw_set(), "polygons"),
    "labelme": lambda root: written.labelme(root, draw_set()),
    "voc": lambda root: written.voc(root, draw_set()),
    "list": lambda root: written.pair_list(root, draw_set()),
}

PROGRAM = """
import json, sys
from pathlib import Path
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
found = describe(Path(sys.argv[1]))
for pair in found.pairs:
    read_sample(pair, found.encoding)
print(json.dumps([found.found.layout, sorted(pair.split for pair in found.pairs)]))
"""


def rename(root: Path, *, composed: bool) -> None:
    """Put the letter before every image's name, in the files that name them, too."""
    images = [path for path in root.rglob("*") if path.suffix in (".png", ".jpg")]
    stems = sorted({path.stem for path in images}, key=len, reverse=True)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        if path.suffix in TEXTS:
            path.write_text(_with_letter(path.read_text("utf-8"), stems), "utf-8")
    letter = NAME if composed else unicodedata.normalize("NFD", NAME)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        stem = path.name.partition(".")[0]
        if stem in stems:
            path.rename(path.with_name(letter + path.name))


def _with_letter(text: str, stems: list[str]) -> str:
    names = "|".join(map(re.escape, stems))
    whole = re.sub(rf"(?m)^({names})$", rf"{NAME}\1", text)
    return re.sub(rf"(?<!\w)({names})(?=\.png|\.jpg)", rf"{NAME}\1", whole)


def described(root: Path, **environment: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, os.fsencode(root)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", WRITERS)
def test_names_are_found_in_any_locale(name: str, tmp_path: Path) -> None:
    root = tmp_path / "ü"
    WRITERS[name](root)
    before = described(root)
    rename(root, composed=True)
    assert any(NAME in path.name for path in root.rglob("*"))
    assert described(root) == before
    assert described(root, **ASCII) == before


@pytest.mark.parametrize("name", ["cvat", "coco", "labelme", "voc"])
def test_decomposed_names_are_found(name: str, tmp_path: Path) -> None:
    """macOS writes names so, and archives keep it."""
    root = tmp_path / "data"
    WRITERS[name](root)
    before = described(root)
    rename(root, composed=False)
    assert described(root) == before
