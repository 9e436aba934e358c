"""Predictions as numbers: each frame's class proportions, and COCO annotations."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

from fcnseg.classes import IGNORE, ClassMap
from fcnseg.files import atomic_write, partial, temporary_beside
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io.images import cannot_write
from fcnseg.io.polygons import compressed, run_lengths
from fcnseg.io.sources.base import Frame


class ProportionsSink:
    """A JSON line a frame: {"index", "time", "name", "shares": {class: proportion of pixels}}.

    "unknown" is the proportion of pixels labelled 255, where there are any. path "-" is standard
    output; lines are there as soon as the frame is. append: after the lines of other sources.
    """

    def __init__(self, path: Path, classes: ClassMap, *, append: bool = False) -> None:
        self._path, self._classes, self._append = path, classes, append
        self._stack = contextlib.ExitStack()
        self._file = self._open()

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Write the frame's line."""
        line = {
            "index": frame.index,
            "time": round(frame.time, 6),
            "name": frame.name,
            "shares": class_proportions(prediction, self._classes),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self, *, complete: bool = True) -> list[Path]:
        """Close the file; its path, unless it is standard output."""
        del complete
        self._stack.close()
        return [] if str(self._path) == "-" else [self._path]

    def _open(self) -> IO[str]:
        if str(self._path) == "-":
            return sys.stdout
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            mode = "a" if self._append else "w"
            return self._stack.enter_context(self._path.open(mode, encoding="utf-8"))
        except OSError as error:
            raise cannot_write(self._path, error) from None


def class_proportions(prediction: PredictedArrays, classes: ClassMap) -> dict[str, float]:
    """The proportion of pixels of each class, and of "unknown" where there are unknown pixels."""
    counts = np.bincount(prediction.labels.ravel(), minlength=IGNORE + 1) / prediction.labels.size
    found = {name: round(float(counts[i]), 6) for i, name in enumerate(classes.names)}
    return {**found, "unknown": round(float(counts[IGNORE]), 6)} if counts[IGNORE] else found


class CocoSink:
    """One COCO file: an annotation for each class of each frame, as run lengths.

    Annotations go to the disk as they come; memory holds the names of the images only. A frame
    that comes again (a watched file that has changed) replaces what there is of it.
    """

    def __init__(self, path: Path, classes: ClassMap) -> None:
        self._path, self._classes = path, classes
        self._images: dict[str, dict[str, Any]] = {}  # by the frame's name
        self._ids: dict[str, range] = {}  # of its annotations
        self._stale: set[int] = set()
        self._count = 0
        self._stack = contextlib.ExitStack()
        try:
            self._temporary = self._stack.enter_context(temporary_beside(path))
            self._file = self._stack.enter_context(self._temporary.open("w", encoding="utf-8"))
        except OSError as error:
            self._stack.close()
            raise cannot_write(path, error) from None
        self._file.write('{"annotations":[')

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Add the frame's image and its annotations."""
        height, width = frame.size
        known = self._images.get(frame.name)
        image = known["id"] if known else len(self._images) + 1
        name = frame.path.name if frame.path is not None else frame.name
        entry = {"id": image, "file_name": name, "height": height, "width": width}
        self._images[frame.name] = entry
        self._stale.update(self._ids.get(frame.name, ()))
        first = self._count + 1
        for index in range(len(self._classes)):
            mask = prediction.labels == index
            area = int(mask.sum())
            if area:
                self._add(image, index, mask, area)
        self._ids[frame.name] = range(first, self._count + 1)

    def close(self, *, complete: bool = True) -> list[Path]:
        """Finish the file; its path."""
        path = self._path if complete or not self._path.exists() else partial(self._path)
        names = enumerate(self._classes.names)
        categories = [{"id": i + 1, "name": name} for i, name in names]
        rest = json.dumps(list(self._images.values())), json.dumps(categories)
        with self._stack:
            self._file.write(f'\n],"images":{rest[0]},"categories":{rest[1]}}}\n')
            self._file.close()
            if self._stale:
                self._drop_stale()
            self._temporary.replace(path)
        return [path]

    def _drop_stale(self) -> None:
        """Write the file again without the annotations that were replaced."""
        with self._temporary.open(encoding="utf-8") as old, atomic_write(self._temporary) as new:
            new.write(next(old).encode())
            kept = 0
            for line in old:
                annotation = None if line.startswith("]") else json.loads(line.rstrip(",\n"))
                if annotation is None:
                    new.write(f"\n{line}".encode())
                elif annotation["id"] not in self._stale:
                    kept += 1
                    line = json.dumps({**annotation, "id": kept})
                    new.write((",\n" * (kept > 1) + line).encode())

    def _add(self, image: int, index: int, mask: Any, area: int) -> None:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        self._count += 1
        annotation = {
            "id": self._count,
            "image_id": image,
            "category_id": index + 1,
            "iscrowd": 0,
            "area": area,
            "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
            "segmentation": {"size": list(mask.shape), "counts": compressed(run_lengths(mask))},
        }
        self._file.write(("," if self._count > 1 else "") + "\n" + json.dumps(annotation))
