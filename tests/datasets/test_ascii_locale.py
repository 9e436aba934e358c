"""Annotation files and lists that name files, in a locale that knows ASCII only."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

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
told = []
for folder in sys.argv[1:]:
    found = describe(Path(folder))
    for pair in found.pairs:
        read_sample(pair, found.encoding)
    told.append([found.found.layout, sorted(pair.split for pair in found.pairs)])
print(json.dumps(told))
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


def described(roots: Iterable[Path], **environment: str) -> list[object]:
    """What a process of its own finds in each folder, in another locale say."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(os.fsencode, roots)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout)


def test_names_are_found_in_any_locale(tmp_path: Path) -> None:
    roots = {name: tmp_path / name / "ü" for name in WRITERS}
    for name, root in roots.items():
        WRITERS[name](root)
    before = described(roots.values())
    for root in roots.values():
        rename(root, composed=True)
        assert any(NAME in path.name for path in root.rglob("*"))
    for environment in ({}, ASCII):
        after = described(roots.values(), **environment)
        for name, old, new in zip(roots, before, after, strict=True):
            assert new == old, (name, environment)


def test_decomposed_names_are_found(tmp_path: Path) -> None:
    """macOS writes names so, and archives keep it."""
    roots = {name: tmp_path / name for name in ("cvat", "coco", "labelme", "voc")}
    for name, root in roots.items():
        WRITERS[name](root)
    before = described(roots.values())
    for root in roots.values():
        rename(root, composed=False)
    for name, old, new in zip(roots, before, described(roots.values()), strict=True):
        assert new == old, name
