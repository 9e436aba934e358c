"""--fix OUT: a copy of a dataset with what can be repaired repaired, and the rest left out."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.datasets.describe import Scanned
from fcnseg.datasets.description import Pair
from fcnseg.datasets.encoding.values import decode
from fcnseg.datasets.formats import read_stored
from fcnseg.datasets.splits import find_copies, find_lookalikes, find_videos
from fcnseg.errors import MediaError, OptionError
from fcnseg.files import fitting, folder_beside
from fcnseg.io.images import cannot_write, read_image, resize_labels, write_image
from fcnseg.io.labels import turn, write_labels
from fcnseg.text import to_bytes

SAME_PROPORTIONS = 0.01
"""Labels of another size are resized when their proportions differ by no more than this."""


@dataclass(frozen=True)
class Cleaned:
    """What a clean copy holds.

    folder: where it is. written: pairs in it. repaired, left_out: pair name -> what and why.
    """

    folder: Path
    written: int
    repaired: dict[str, str]
    left_out: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "folder": str(self.folder),
            "written": self.written,
            "repaired": self.repaired,
            "left_out": self.left_out,
        }


def write_clean(seen: Scanned, out: Path, tell: Callable[[int], None]) -> Cleaned:
    """Write images/SPLIT/, labels/SPLIT/ (index PNG, 255 = ignore), pairs.csv and class_dict.csv.

    Image files are copied as they are unless EXIF turns them; labels are turned or resized
    (nearest) to fit them. Pairs that can't be repaired, and training pictures that are also
    scored on, are left out. The folder gets its name when it is complete. OptionError when `out`
    is not empty; MediaError when it can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"--fix {out}: there is something there.", hint="name a new folder")
    try:
        with folder_beside(out) as folder:
            cleaned = _write(seen, folder, tell)
            if cleaned.written:
                if out.is_dir():
                    out.rmdir()  # empty: not every system lets a name be taken over
                folder.rename(out)
    except OSError as error:
        if isinstance(error, MediaError):
            raise
        raise cannot_write(out, error) from None
    return replace(cleaned, folder=out)


def _write(seen: Scanned, out: Path, tell: Callable[[int], None]) -> Cleaned:
    """Everything of a clean copy."""
    left_out = _leaked(seen)
    repaired: dict[str, str] = {}
    written: list[tuple[Path, Path, str]] = []
    palette = seen.description.classes.palette()
    for number, pair in enumerate(seen.description.pairs):
        if pair.name not in left_out:
            try:
                labels, what = _fitting(seen, number)
            except MediaError as error:
                left_out[pair.name] = error.message
            else:
                if labels is None:
                    left_out[pair.name] = what
                else:
                    files = _write_pair(seen, number, labels, palette, out)
                    written.append((*files, pair.split))
                    repaired |= {pair.name: what} if what else {}
        tell(number + 1)
    if written:
        # Without the list, words in names (masks, val ...) would be read as folders' are.
        rows = [(*(p.relative_to(out).as_posix() for p in row[:2]), row[2]) for row in written]
        _write_table(out / "pairs.csv", [("image", "labels", "split"), *rows])
        _write_table(out / "class_dict.csv", _class_rows(seen.description.classes))
    return Cleaned(out, len(written), repaired, left_out)


def _class_rows(classes: ClassMap) -> list[tuple[object, ...]]:
    colors = classes.colors.tolist()
    rows = [
        (name, *color, index)
        for index, (name, color) in enumerate(zip(classes.names, colors, strict=True))
    ]
    return [("name", "r", "g", "b", "id"), *rows]


def _write_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_bytes(to_bytes(text.getvalue()))


def _leaked(seen: Scanned) -> dict[str, str]:
    """Training pictures with a copy or a look-alike (not a video's neighbour) that is scored on."""
    pairs, pictures = seen.description.pairs, seen.pictures
    if pictures is None:
        return {}
    video_of = {
        number: place
        for place, video in enumerate(find_videos(pairs, pictures))
        for number in video.members
    }
    alike = [(a, b) for group in find_copies(pictures) for a in group for b in group if a < b]
    alike += [
        (a, b)
        for a, b in find_lookalikes(pictures)
        if a not in video_of or video_of[a] != video_of.get(b)
    ]
    leaked = {}
    for one, other in alike:
        for mine, theirs in ((pairs[one], pairs[other]), (pairs[other], pairs[one])):
            if mine.split == "train" and theirs.split != "train":
                leaked[mine.name] = f"looks like {theirs.name} in {theirs.split}"
    return leaked


def _fitting(seen: Scanned, number: int) -> tuple[NDArray[np.uint8] | None, str]:
    """A pair's labels at its picture's size and what was done to them, or None and why not."""
    pair, encoding = seen.description.pairs[number], seen.description.encoding
    height, width = read_image(pair.image).shape[:2]
    labels = decode(read_stored(pair, encoding.store, encoding.terms), encoding)
    if labels.shape == (height, width):
        return labels, ""
    orientation = 1 if seen.pictures is None else int(seen.pictures.orientations[number])
    if orientation >= 5 and labels.shape == (width, height):
        return turn(labels, orientation), "labels turned as the picture's EXIF says"
    proportion = (labels.shape[1] / labels.shape[0]) / (width / height)
    if abs(proportion - 1) > SAME_PROPORTIONS:
        return None, (
            f"labels are {labels.shape[1]}x{labels.shape[0]}, the picture is {width}x{height}"
        )
    what = f"labels resized from {labels.shape[1]}x{labels.shape[0]} to {width}x{height}"
    return resize_labels(labels, (height, width)), what


def _write_pair(
    seen: Scanned, number: int, labels: NDArray[np.uint8], palette: NDArray[np.uint8], out: Path
) -> tuple[Path, Path]:
    """Write an image and its labels; where they are."""
    pair: Pair = seen.description.pairs[number]
    turned = seen.pictures is not None and seen.pictures.orientations[number] > 1
    # Two names that differ in their folders only must not meet in one: keep the folders.
    name = fitting(pair.name, room=5)  # of either suffix; the pair keeps one name
    suffix = ".png" if turned else pair.image.suffix
    image = out / "images" / pair.split / f"{name}{suffix}"
    truth = out / "labels" / pair.split / f"{name}.png"
    if turned:
        write_image(image, read_image(pair.image))
    else:
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pair.image, image)
    write_labels(truth, labels, palette)
    return image, truth
