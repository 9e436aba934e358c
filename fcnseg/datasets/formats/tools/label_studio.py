"""Label Studio: the JSON export of tasks with polygons, boxes, ellipses and brush masks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.formats.gathered import head_says
from fcnseg.datasets.formats.tools.base import Annotated, Area, Document, box, ellipse, outlined
from fcnseg.datasets.pairing.listing import Listing
from fcnseg.io.images import IMAGE_SUFFIXES

_KINDS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels")


def _files(listing: Listing) -> list[str]:
    files = listing.with_suffix(".json")
    return [n for n in files if head_says(listing.path(n), (b'"result"', b'"original_width"'))]


def _parse(path: Path) -> Document:
    tasks = json.loads(path.read_bytes())
    images = {}
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks]):
        results = [one for one in _results(task) if one["type"] != "choices"]
        areas = [area for area in map(_area, results) if area is not None]
        size = next((_size(one) for one in results), None)
        part = str(task.get("id", number))
        file = _image(task)
        # An uploaded file's name begins with eight digits that the user's own file lacks.
        own = re.sub(r"^[0-9a-f]{8}-", "", file)
        images[part] = Annotated(file, size, areas, len(results) - len(areas), also=own)
    return Document(images)


def _results(task: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the last annotator who did not cancel has drawn."""
    answers = task.get("annotations", task.get("completions", ()))
    kept = [answer for answer in answers if not answer.get("was_cancelled")]
    yield from kept[-1]["result"] if kept else ()


def _image(task: Mapping[str, Any]) -> str:
    """The image's name in a task's data, without the address it was served from."""
    for value in task["data"].values():
        name = unquote(str(value)).rpartition("?d=")[2].partition("?")[0]
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            return re.sub(r"^.*[/\\]", "", name)
    raise ValueError("a task names no image file")


def _size(result: Mapping[str, Any]) -> tuple[int, int]:
    return int(result["original_height"]), int(result["original_width"])


def _area(result: Mapping[str, Any]) -> Area | None:
    if result["type"] not in _KINDS:
        return None
    value = result["value"]
    names = value.get(result["type"])
    height, width = _size(result)
    if not names:
        return None
    if result["type"] == "brushlabels":
        return Area(names[0], mask=_brush(value["rle"], (height, width)))
    scale = np.array([width, height]) / 100
    if result["type"] == "polygonlabels":
        return Area(names[0], [np.array(value["points"], np.float64) * scale])
    if result["type"] == "rectanglelabels":
        x, y = value["x"], value["y"]
        corners = box(x, y, x + value["width"], y + value["height"])
        return Area(names[0], [corners * scale])
    return Area(
        names[0], [ellipse(value["x"], value["y"], value["radiusX"], value["radiusY"]) * scale]
    )


def _brush(data: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """bool (H, W) of Label Studio's brush: run lengths of RGBA bytes, bits packed.

    32 bits: how many bytes; 5: bits of a word, less 1; four times 4: bits of a length, less 1.
    Then runs: 1 bit (the same byte repeated), 2 bits (which length), the length less 1, byte(s).
    Source: label-studio-converter, brush.py.
    """
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if total != size[0] * size[1] * 4:
        raise ValueError("a brush of another size than its picture")
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        same = take(1)
        count = take(lengths[take(2)]) + 1
        if same:
            values[done : done + count] = take(word)
        else:
            values[done : done + count] = [take(word) for _ in range(count)]
        done += count
    return np.asarray(values.reshape(*size, 4)[..., 3] > 127)


FORMAT = outlined(
    "label-studio", _files, _parse, "a JSON file of tasks with results is Label Studio's"
)
