"""Formats of annotation tools: CVAT, VIA, Label Studio."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fcnseg.datasets.encoding.entries import open_text
from fcnseg.datasets.formats.documents import (
    Annotated,
    Area,
    Document,
    annotated,
    ellipse,
    holding,
    outlined,
    read_xml,
    rotated,
)
from fcnseg.datasets.formats.polygons import read_json
from fcnseg.datasets.pairing import Listing, marks
from fcnseg.datasets.pairing.by_words import ONE_CLASS
from fcnseg.io.annotations import EDGES, EDGES_KEY, box, decode_runs
from fcnseg.io.images import IMAGE_SUFFIXES


def _cvat_parse(path: Path) -> Document:
    root = read_xml(path)
    edges = root.findtext(f"meta/{EDGES_KEY}") == EDGES
    images = {  # by their places: each task of a project counts its images from 0
        str(number): _cvat_shapes(
            _cvat_file(image.attrib["name"], image), _cvat_size(image), image, edges=edges
        )
        for number, image in enumerate(root.iter("image"))
    }
    images |= _cvat_frames(root)
    names = tuple(label.text or "" for label in root.findall("meta//labels/label/name"))
    return Document(images, tuple(name for name in names if name))


def _cvat_file(name: str, element: ElementTree.Element) -> str:
    """An image's path in an export; in projects, each subset has its own folder."""
    subset = element.get("subset", "")
    return f"{subset}/{name}" if subset and not name.startswith(f"{subset}/") else name


def _cvat_frames(root: ElementTree.Element) -> dict[str, Annotated]:
    """The frames of "CVAT for video 1.1": each track's shape per frame, unless it is outside.

    Each task of a project numbers its frames from 0.
    """
    frames: dict[tuple[str, int], list[ElementTree.Element]] = {}
    files: dict[tuple[str, int], str] = {}
    for track in root.iter("track"):
        for shape in track:
            number = int(shape.attrib["frame"])
            frame = track.get("task_id", ""), number
            files[frame] = _cvat_file(f"frame_{number:06}", track)
            some = frames.setdefault(frame, [])
            if shape.get("outside") != "1":
                shape.set("label", track.get("label", ""))
                some.append(shape)
    sizes = {task.findtext("id", ""): _frame_size(task) for task in root.findall("meta//task")}
    return {
        f"{task}/{number}": _cvat_shapes(
            files[task, number], sizes.get(task, _frame_size(root)), shapes, also=f"{number:06}"
        )
        for (task, number), shapes in sorted(frames.items())
    }


def _frame_size(element: ElementTree.Element) -> tuple[int, int] | None:
    height, width = (element.findtext(f".//original_size/{side}") for side in ("height", "width"))
    return (int(height), int(width)) if height and width else None


def _cvat_size(element: ElementTree.Element) -> tuple[int, int]:
    return int(element.attrib["height"]), int(element.attrib["width"])


def _cvat_shapes(
    name: str, size: tuple[int, int] | None, shapes: Iterable[ElementTree.Element], **rest: Any
) -> Annotated:
    shapes = sorted(shapes, key=lambda shape: int(shape.get("z_order", 0)))
    areas = [area for area in map(_cvat_area, shapes) if area is not None]
    flat = sum(shape.tag in ("polyline", "points", "skeleton") for shape in shapes)
    return Annotated(name, size, areas, flat, ordered=True, **rest)


def _cvat_area(shape: ElementTree.Element) -> Area | None:
    name, value = shape.get("label", ""), shape.get
    if shape.tag == "polygon":
        pairs = [point.split(",") for point in shape.attrib["points"].split(";") if point]
        return Area(name, [np.array(pairs, np.float64)])
    if shape.tag in ("box", "ellipse"):
        ring, keys = (box, "xtl ytl xbr ybr") if shape.tag == "box" else (ellipse, "cx cy rx ry")
        drawn = ring(*(float(shape.attrib[key]) for key in keys.split()))
        return Area(name, [rotated(drawn, float(value("rotation", 0)))])
    if shape.tag == "mask":
        corner = round(float(value("left", 0))), round(float(value("top", 0)))
        runs = [int(part) for part in shape.attrib["rle"].split(",")]  # along the rows
        return Area(name, mask=decode_runs(runs, _cvat_size(shape)[::-1]).T, corner=corner)
    return None


CVAT = outlined(
    "cvat-xml",
    holding(".xml", marks(b"<annotations", b"<image "), marks(b"<annotations", b"<track ")),
    _cvat_parse,
    "an XML file with <image> or <track> is CVAT's",
)

_VIA_HEAD = marks(b"shape_attributes")

_VIA_3_HEAD = marks(b'"metadata"', b'"vid"', b'"fname"')


def _via_files(listing: Listing) -> list[str]:
    three = listing.saying(_VIA_3_HEAD, ".json")
    return listing.saying(_VIA_HEAD, ".json", ".csv") or three


def _via_parse(path: Path) -> Document:
    if path.suffix.lower() == ".csv":
        return _via_parse_csv(path)
    data = read_json(path)
    if "metadata" in data and "view" in data:
        return _via_3(data)
    entries = data.get("_via_img_metadata", data)
    images = {}
    for key, entry in entries.items():
        regions = entry["regions"]
        regions = list(regions.values()) if isinstance(regions, Mapping) else regions  # VIA 1
        images[key] = _via_image(entry["filename"], regions)
    return Document(images)


def _via_3(data: Mapping[str, Any]) -> Document:
    """VIA 3: `metadata` of views, one per file. Source: via-3.x.y/src/js/_via_metadata.js."""
    files = {
        view: data["file"][str(about["fid_list"][0])]["fname"]
        for view, about in data["view"].items()
        if about["fid_list"]
    }
    regions: dict[str, list[Mapping[str, Any]]] = {view: [] for view in files}
    for one in data["metadata"].values():
        if one["xy"] and str(one["vid"]) in regions:
            named = {}
            for key, value in one["av"].items():
                about = data["attribute"][key]
                named[about["aname"]] = (about.get("options") or {}).get(value, value)
            shape = _via_3_shape(*one["xy"])
            regions[str(one["vid"])].append({"shape_attributes": shape, "region_attributes": named})
    return Document({view: _via_image(files[view], some) for view, some in regions.items()})


def _via_3_shape(kind: float, *xy: float) -> Mapping[str, Any]:
    """Convert a shape's numbers to VIA 2's names; points and lines have no area."""
    if kind == 7:
        return {"name": "polygon", "all_points_x": xy[::2], "all_points_y": xy[1::2]}
    keys = {2: ("x", "y", "width", "height"), 3: ("cx", "cy", "r"), 4: ("cx", "cy", "rx", "ry"),
            8: ("x", "y", "width", "height"), 9: ("cx", "cy", "r")}.get(int(kind), ())  # fmt: skip
    name = "rect" if "width" in keys else "circle" if keys else "point"
    return {"name": name, **dict(zip(keys, xy, strict=False))}


def _via_parse_csv(path: Path) -> Document:
    """VIA's CSV export: one region per line, with attributes as JSON."""
    regions: dict[str, list[Mapping[str, Any]]] = {}
    with open_text(path) as file:
        for row in csv.DictReader(file):
            some = regions.setdefault(row.get("filename") or row["#filename"], [])
            shape = json.loads(row["region_shape_attributes"])
            if shape:
                attributes = json.loads(row["region_attributes"] or "{}")
                some.append({"shape_attributes": shape, "region_attributes": attributes})
    return Document({name: _via_image(name, some) for name, some in regions.items()})


def _via_image(name: str, regions: Sequence[Mapping[str, Any]]) -> Annotated:
    return annotated(name, None, map(_via_area, regions))


def _via_area(region: Mapping[str, Any]) -> Area | None:
    shape, name = region["shape_attributes"], _via_name(region.get("region_attributes") or {})
    kind = shape["name"]
    if kind == "polygon":
        xy = [shape["all_points_x"], shape["all_points_y"]]
        return Area(name, [np.array(xy, np.float64).T])
    if kind == "rect":
        x, y = shape["x"], shape["y"]
        return Area(name, [box(x, y, x + shape["width"], y + shape["height"])])
    if kind in ("circle", "ellipse"):
        radius = shape.get("r", 0)
        across, down = shape.get("rx", radius), shape.get("ry", radius)
        drawn = ellipse(shape["cx"], shape["cy"], across, down)
        return Area(name, [rotated(drawn, float(np.rad2deg(shape.get("theta", 0))))])
    return None


def _via_name(attributes: Mapping[str, Any]) -> str:
    """The class among a region's attributes: by its key, else the first non-empty value."""
    named = {}
    for key, value in attributes.items():
        if isinstance(value, Mapping):  # checkboxes
            value = next((word for word, on in value.items() if on), "")
        if str(value).strip():
            named[key.lower()] = str(value).strip()
    for key in ("class", "label", "name", "type", "category", "object"):
        if key in named:
            return named[key]
    return next(iter(named.values()), ONE_CLASS)


VIA = outlined("via", _via_files, _via_parse, "files with shape_attributes are VIA's")

_LABEL_STUDIO_KINDS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels")


def _label_studio_parse(path: Path) -> Document:
    tasks = json.loads(path.read_bytes())
    images = {}
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks]):
        task = task if "data" in task else _label_studio_task(task)
        chosen = _label_studio_annotation(task)
        if not chosen:
            continue  # not labeled
        results = [one for one in chosen.get("result", ()) if one["type"] != "choices"]
        size = next((_label_studio_size(one) for one in results), None)
        part = str(task.get("id", number))
        file = _label_studio_image(task)
        # Uploaded files get a prefix of eight digits.
        own = re.sub(r"^[0-9a-f]{8}-", "", file)
        edges = chosen.get(EDGES_KEY) == EDGES
        areas = map(_label_studio_area, results)
        images[part] = annotated(file, size, areas, also=own, edges=edges)
    return Document(images)


def _label_studio_task(least: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a task of JSON-MIN, which has the labels beside the image, to the form of JSON."""
    listed = [value for value in least.values() if isinstance(value, list)]
    shown = [one for some in listed for one in some if "original_width" in one]
    result = [
        {**one, "value": one, "type": next((k for k in _LABEL_STUDIO_KINDS if k in one), "")}
        for one in shown
    ]
    return {"id": least.get("id", 0), "data": least, "annotations": [{"result": result}]}


def _label_studio_annotation(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotation marked as ground truth; else the last one that was not cancelled; without
    annotations, the prediction."""
    annotations = task.get("annotations", task.get("completions", ()))
    kept = [one for one in annotations if not one.get("was_cancelled")]
    kept = [one for one in kept if one.get("ground_truth")] or kept
    kept = kept or list(task.get("predictions", ()) if not annotations else ())
    return kept[-1] if kept else {}


def _label_studio_image(task: Mapping[str, Any]) -> str:
    """The image's name in a task's data, without the URL of its folder."""
    for value in task["data"].values():
        name = unquote(str(value)).rpartition("?d=")[2].partition("?")[0]
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            return re.sub(r"^.*[/\\]", "", name)
    raise ValueError("a task names no image file")


def _label_studio_size(result: Mapping[str, Any]) -> tuple[int, int]:
    return int(result["original_height"]), int(result["original_width"])


def _label_studio_area(result: Mapping[str, Any]) -> Area | None:
    if result["type"] not in _LABEL_STUDIO_KINDS:
        return None
    value = result["value"]
    names = value.get(result["type"])
    height, width = _label_studio_size(result)
    if not names:
        return None
    if result["type"] == "brushlabels":
        return Area(names[0], mask=_label_studio_brush(value["rle"], (height, width)))
    scale, about = np.array([width, height]) / 100, None
    if result["type"] == "polygonlabels":
        ring = np.array(value["points"], np.float64) * scale
    elif result["type"] == "rectanglelabels":
        x, y = value["x"], value["y"]
        ring = box(x, y, x + value["width"], y + value["height"]) * scale
        about = ring[0]
    else:
        ring = ellipse(value["x"], value["y"], value["radiusX"], value["radiusY"]) * scale
    return Area(names[0], [rotated(ring, float(value.get("rotation") or 0), about)])


def _label_studio_brush(data: list[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode Label Studio's brush to bool (H, W): bit-packed run lengths of RGBA bytes.

    32 bits: number of bytes; 5: bits per word - 1; four times 4: bits per length - 1.
    Then runs: 1 bit (one byte repeated), 2 bits (which length), the length - 1, byte(s).
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
        raise ValueError("a brush of another size than its image")
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


LABEL_STUDIO = outlined(
    "label-studio",
    holding(
        ".json",
        marks(b'"result"', b'"original_width"'),
        *(marks(b'"original_width"', f'"{kind}"'.encode()) for kind in _LABEL_STUDIO_KINDS),
    ),
    _label_studio_parse,
    "a JSON file of tasks with results is Label Studio's",
)
