"""Writers of small data sets in every layout and encoding fcnseg reads: for round trips.

Everything is made from the same pictures and labels, so whatever is written has to read back
as the same samples.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.uint8]

NAMES = ("background", "disk", "box", "star")
COLORS = ((0, 0, 0), (200, 30, 40), (20, 180, 70), (60, 90, 220))
VOID_COLOR = (255, 255, 255)
SIZE = (48, 64)
"""Height and width of the pictures: no multiple of a JPEG block in either encoding's favour."""


@dataclass(frozen=True)
class Drawn:
    """A picture with labels: image uint8 (H, W, 3), labels uint8 (H, W), 255 = ignore."""

    name: str
    split: str
    image: Array
    labels: Array


def draw_set(*, void: bool = True, classes: int = 4, train: int = 6, val: int = 3) -> list[Drawn]:
    """Pictures in which every class occurs; each area is solid and touches no other."""
    return [
        _draw(index, "train" if index < train else "val", void, classes)
        for index in range(train + val)
    ]


def _draw(index: int, split: str, void: bool, classes: int) -> Drawn:
    rng = np.random.default_rng(index)
    height, width = SIZE
    labels = np.zeros(SIZE, np.uint8)
    for kind in range(1, classes):
        y, x = 6 + int(rng.integers(0, 8)), 5 + 17 * (kind - 1) + int(rng.integers(0, 3))
        tall = 12 + int(rng.integers(0, 10))
        if kind == 1:
            yy, xx = np.mgrid[:height, :width]
            labels[(yy - y - 7) ** 2 + (xx - x - 6) ** 2 <= 36] = 1
        else:
            labels[y : y + tall, x : x + 12] = kind
    if void:
        labels[40:44, 8:56] = 255
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return Drawn(f"p{index:02}_{rng.integers(1 << 30):x}", split, image, labels)


# --- pictures of labels -------------------------------------------------------------------------

Encode = Callable[[Array], Image.Image]


def as_index(labels: Array) -> Image.Image:
    return Image.fromarray(labels)


def as_palette(labels: Array) -> Image.Image:
    image = Image.fromarray(labels)
    table = np.full((256, 3), 77, np.uint8)
    table[: len(COLORS)] = COLORS
    table[255] = VOID_COLOR
    image.putpalette(table.tobytes())
    return image


def as_color(labels: Array) -> Image.Image:
    table = np.zeros((256, 3), np.uint8)
    table[: len(COLORS)] = COLORS
    table[255] = VOID_COLOR
    return Image.fromarray(table[labels])


def as_wide(labels: Array) -> Image.Image:
    return Image.fromarray(np.where(labels == 255, 65535, labels).astype(np.uint16))


def mapped(*values: int) -> Encode:
    """Class i stored as values[i]."""
    table = np.zeros(256, np.uint8)
    table[: len(values)] = values
    return lambda labels: Image.fromarray(table[labels])


def as_bits(labels: Array) -> Image.Image:
    return Image.fromarray(labels > 0)


def as_alpha(labels: Array) -> Image.Image:
    """A photograph cut out: the transparency is the label."""
    rng = np.random.default_rng(int(labels.sum()))
    rgb = rng.integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    return Image.fromarray(np.dstack([rgb, np.where(labels > 0, 255, 0).astype(np.uint8)]))


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


# --- layouts ------------------------------------------------------------------------------------


def folders(
    root: Path,
    drawn: list[Drawn],
    encode: Encode = as_index,
    *,
    place: str = "{role}/{split}",
    roles: tuple[str, str] = ("images", "masks"),
    ends: tuple[str, str] = ("", ""),
    suffixes: tuple[str, str] = (".png", ".png"),
    **options: Any,
) -> None:
    """Images and label pictures in folders; `place` is made of {role} and {split}."""
    for one in drawn:
        for role, end, suffix, picture in (
            (roles[0], ends[0], suffixes[0], Image.fromarray(one.image)),
            (roles[1], ends[1], suffixes[1], encode(one.labels)),
        ):
            folder = root / place.format(role=role, split=one.split)
            save(
                picture,
                folder / f"{one.name}{end}{suffix}",
                **(options if role == roles[1] else {}),
            )


def camvid(root: Path, drawn: list[Drawn]) -> None:
    for one in drawn:
        save(Image.fromarray(one.image), root / one.split / f"{one.name}.png")
        save(as_index(one.labels), root / f"{one.split}annot" / f"{one.name}.png")


def voc(root: Path, drawn: list[Drawn], encode: Encode = as_palette) -> None:
    for one in drawn:
        save(Image.fromarray(one.image), root / "JPEGImages" / f"{one.name}.png")
        save(encode(one.labels), root / "SegmentationClass" / f"{one.name}.png")
        save(as_palette(one.labels), root / "SegmentationObject" / f"{one.name}.png")
    _lists(root, drawn)


def _lists(root: Path, drawn: list[Drawn]) -> None:
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        names = [one.name for one in drawn if one.split == split]
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    (folder / "trainval.txt").write_text("\n".join(one.name for one in drawn))


def cvat(root: Path, drawn: list[Drawn]) -> None:
    voc(root, drawn, as_color)
    lines = ["# label:color_rgb:parts:actions"]
    for name, color in (*zip(NAMES, COLORS, strict=True), ("void", VOID_COLOR)):
        lines.append(f"{name}:{','.join(map(str, color))}::")
    (root / "labelmap.txt").write_text("\n".join(lines))


def cityscapes(root: Path, drawn: list[Drawn], kind: str) -> None:
    """Our classes stand for the first four of Cityscapes: road, sidewalk, building, wall."""
    ids = np.zeros(256, np.uint8)
    ids[:4], ids[255] = (7, 8, 11, 12), 3
    colors = np.zeros((256, 3), np.uint8)
    colors[:4] = (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156)
    for number, one in enumerate(drawn):
        base = f"town/town_{number:06}_000019"
        save(
            Image.fromarray(one.image), root / "leftImg8bit" / one.split / f"{base}_leftImg8bit.png"
        )
        truth = root / "gtFine" / one.split
        save(Image.fromarray(ids[one.labels]), truth / f"{base}_gtFine_labelIds.png")
        save(Image.fromarray(colors[one.labels]), truth / f"{base}_gtFine_color.png")
        save(Image.fromarray(one.labels), truth / f"{base}_gtFine_instanceIds.png")
        if kind == "labelTrainIds":
            save(Image.fromarray(one.labels), truth / f"{base}_gtFine_labelTrainIds.png")
        if kind == "color":
            (truth / f"{base}_gtFine_labelIds.png").unlink()


def ade20k(root: Path, drawn: list[Drawn]) -> None:
    table = np.zeros(256, np.uint8)
    table[:4] = 1, 2, 3, 4
    for number, one in enumerate(drawn, 1):
        long = {"train": "training", "val": "validation"}[one.split]
        name = f"{long}/ADE_{one.split}_{number:08}"
        save(Image.fromarray(one.image), root / "images" / f"{name}.png")
        save(Image.fromarray(table[one.labels]), root / "annotations" / f"{name}.png")


def outlines(labels: Array) -> Iterator[tuple[str, Array, NDArray[np.int32]]]:
    """(class name, its area as 0/1, its outline (N, 2) x, y) of every area, void among them."""
    for value, name in (*enumerate(NAMES[1:], 1), (255, "void")):
        area = (labels == value).astype(np.uint8)
        for ring in cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
            alone = np.zeros_like(area)
            cv2.fillPoly(alone, [ring], 1)
            yield name, alone, ring[:, 0, :]


def runs(area: Array) -> list[int]:
    """COCO's uncompressed run lengths, the slow way."""
    counts, value, run = [], 0, 0
    for pixel in area.T.ravel().tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return [*counts, run]


def coco(root: Path, drawn: list[Drawn], kind: str) -> None:
    """kind: polygons, runs or compressed (by faster-coco-eval)."""
    from faster_coco_eval.core import mask as coco_mask

    categories = [{"id": 3 * i + 2, "name": name} for i, name in enumerate((*NAMES[1:], "void"))]
    numbers = {entry["name"]: entry["id"] for entry in categories}
    for split in ("train", "val"):
        images, annotations = [], []
        for number, one in enumerate(one for one in drawn if one.split == split):
            save(Image.fromarray(one.image), root / "images" / f"{split}2017" / f"{one.name}.png")
            height, width = one.labels.shape
            entry = {"id": number, "file_name": f"{one.name}.png", "height": height, "width": width}
            images.append(entry)
            for name, area, ring in outlines(one.labels):
                packed = coco_mask.encode(np.asfortranarray(area))
                segmentation: Any = {
                    "polygons": [ring.ravel().tolist()],
                    "runs": {"size": [height, width], "counts": runs(area)},
                    "compressed": {"size": [height, width], "counts": packed["counts"].decode()},
                }[kind]
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": numbers[name],
                        "segmentation": segmentation,
                        "iscrowd": int(kind == "runs"),
                        "area": int(area.sum()),
                    }
                )
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        data = {"images": images, "annotations": annotations, "categories": categories}
        path.write_text(json.dumps(data))


def labelme(root: Path, drawn: list[Drawn]) -> None:
    for one in drawn:
        save(Image.fromarray(one.image), root / one.split / f"{one.name}.png")
        shapes = []
        for name, area, ring in outlines(one.labels):
            shape = {"label": name, "points": ring.tolist(), "shape_type": "polygon"}
            if name == "disk":  # as labelme's AI tools write it
                shape |= _labelme_mask(area)
            if name == "void":
                (x0, y0), (x1, y1) = ring.min(0).tolist(), ring.max(0).tolist()
                shape |= {"points": [[x0, y0], [x1, y1]], "shape_type": "rectangle"}
            shapes.append(shape)
        data = {
            "version": "5.4.1",
            "shapes": shapes,
            "imagePath": f"{one.name}.png",
            "imageHeight": one.labels.shape[0],
            "imageWidth": one.labels.shape[1],
        }
        (root / one.split / f"{one.name}.json").write_text(json.dumps(data))
    (root / "labels.txt").write_text("\n".join(["__ignore__", *NAMES]))


def _labelme_mask(area: Array) -> dict[str, Any]:
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    top, left, bottom, right = rows[0], columns[0], rows[-1], columns[-1]
    file = io.BytesIO()
    Image.fromarray(area[top : bottom + 1, left : right + 1] > 0).save(file, "PNG")
    return {
        "points": [[int(left), int(top)], [int(right), int(bottom)]],
        "shape_type": "mask",
        "mask": base64.b64encode(file.getvalue()).decode(),
    }


def roboflow(root: Path, drawn: list[Drawn]) -> None:
    for one in drawn:
        folder = root / {"train": "train", "val": "valid"}[one.split]
        save(Image.fromarray(one.image), folder / f"{one.name}_png.rf.0a1b.png")
        save(as_index(one.labels), folder / f"{one.name}_png.rf.0a1b_mask.png")
        rows = [["Pixel Value", " Class"], *([str(i), f" {name}"] for i, name in enumerate(NAMES))]
        with (folder / "_classes.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


def yolo(root: Path, drawn: list[Drawn]) -> None:
    names = [*NAMES[1:], "void"]
    for one in drawn:
        save(Image.fromarray(one.image), root / "images" / one.split / f"{one.name}.png")
        height, width = one.labels.shape
        lines = [
            " ".join(
                [str(names.index(name)), *(f"{v:.6f}" for v in (ring / (width, height)).ravel())]
            )
            for name, _, ring in outlines(one.labels)
        ]
        path = root / "labels" / one.split / f"{one.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    listed = "".join(f"  {index}: {name}\n" for index, name in enumerate(names))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames:\n{listed}nc: 4\n")


def pair_list(root: Path, drawn: list[Drawn]) -> None:
    rows = [["image", "mask", "split"]]
    for one in drawn:
        save(Image.fromarray(one.image), root / "a" / f"{one.name}.png")
        save(as_index(one.labels), root / "b" / f"truth-{one.name}.png")
        rows.append([f"a/{one.name}.png", f"b/truth-{one.name}.png", one.split])
    with (root / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def layers(root: Path, drawn: list[Drawn], place: str) -> None:
    """A 0/255 file for each class; `place` is made of {split}, {name} and {kind}."""
    for one in drawn:
        save(Image.fromarray(one.image), root / "images" / one.split / f"{one.name}.png")
        for value, kind in (*enumerate(NAMES[1:], 1), (255, "void")):
            area = Image.fromarray(np.where(one.labels == value, 255, 0).astype(np.uint8))
            save(area, root / "masks" / place.format(split=one.split, name=one.name, kind=kind))
    (root / "classes.txt").write_text("\n".join(NAMES))


def class_table(root: Path) -> None:
    rows = [["name", "r", "g", "b"]]
    rows += [[name, *map(str, color)] for name, color in zip(NAMES, COLORS, strict=True)]
    with (root / "class_dict.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*rows, ["void", *map(str, VOID_COLOR)]])
