"""Make a small copy of the datasets: JPEG images, PNG labels.

The copy has the split in its folders (images/train, labels/train, ...), including splits drawn by
fcnseg: the validation images are the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from running import log
from subsets import data_folder

from fcnseg.datasets import Description, Pair, split_sizes
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import DatasetError, OptionError
from fcnseg.io.images import write_labels

SETS = ("camvid", "nuclei", "bag", "crack")
JPEG = (".jpg", ".jpeg")
ORIENTATION = 0x0112
"""The EXIF tag of an image's orientation."""

MAX_BYTES = 64 * 2**20
"""A larger copy is reported."""


def pack(root: Path, out: Path, *, only: Sequence[str], quality: int) -> None:
    """Copy datasets from `root` into `out`; existing ones are skipped.

    JPEG images without an EXIF rotation are copied byte for byte.
    """
    if not 1 <= quality <= 100:
        raise OptionError(f"--quality {quality}: 1 to 100 is expected.")
    for name in only:
        folder = out / name
        if not folder.exists():
            _pack_one(data_folder(root, name), folder, quality)
        log(f"{name}: {_megabytes(folder):.1f} MB, {split_sizes(describe(folder))}")
    total = _megabytes(out)
    log(f"{out}: {total:.1f} MB in all")
    if total * 1e6 > MAX_BYTES:
        log(f"That is more than {MAX_BYTES / 2**20:.0f} MiB: use --only, or --quality 80")


def _pack_one(data: Path, folder: Path, quality: int) -> None:
    """Copy atomically: into a temporary folder, which is renamed at the end."""
    description = describe(data)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for number, pair in enumerate(description.pairs, start=1):
        _pack_pair(pair, description, partial, quality)
        if number % 100 == 0:
            log(f"{folder.name}: {number} of {len(description.pairs)} pairs")
    names = "\n".join(description.classes.names)
    (partial / "classes.txt").write_text(names + "\n", encoding="utf-8")
    _compare(description, describe(partial))
    partial.rename(folder)


def _pack_pair(pair: Pair, description: Description, folder: Path, quality: int) -> None:
    pixels, labels = read_sample(pair, description.encoding)
    image = folder / "images" / pair.split / f"{pair.name}.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    if pair.image.suffix.lower() in JPEG and not _is_turned(pair.image):
        shutil.copyfile(pair.image, image)
    else:
        Image.fromarray(pixels).save(image, quality=quality)
    place = folder / "labels" / pair.split / f"{pair.name}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_labels(place, labels, description.classes.palette())
    with Image.open(place) as written:  # as small as PNG gets
        written.load()
    written.save(place, optimize=True)


def _is_turned(path: Path) -> bool:
    with Image.open(path) as image:
        return bool(image.getexif().get(ORIENTATION, 1) != 1)


def _compare(ours: Description, packed: Description) -> None:
    """DatasetError when the copy is read differently from the original."""
    for what, before, after in (
        ("classes", ours.classes.names, packed.classes.names),
        ("pairs", split_sizes(ours), split_sizes(packed)),
    ):
        if before != after:
            raise DatasetError(f"{ours.root}: the copy has the {what} {after}, not {before}.")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
