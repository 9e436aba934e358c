"""The same damaged files for the readers that other programs use, beside fcnseg's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fcnseg.errors import MediaError
from fcnseg.models.backbones.torchvision import import_torchvision
from tests.faults.annotations import KINDS as ANNOTATIONS
from tests.faults.images import KINDS
from tests.faults.kinds import Kind


def by_pillow(path: Path) -> None:
    """As torchvision.datasets and rembg read one; OSError is how Pillow refuses."""
    try:
        with path.open("rb") as file:
            Image.open(file).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise MediaError("refused") from error


def by_opencv(path: Path) -> None:
    """As most training scripts read one; None is how OpenCV refuses."""
    data = np.fromfile(path, np.uint8)
    if not len(data) or cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
        raise MediaError("refused")


def by_ultralytics(path: Path) -> None:
    """As `yolo semantic predict` reads and segments one; no result is how it skips a file."""
    try:
        results = _yolo().predict(path, imgsz=32, verbose=False, device="cpu")
    except FileNotFoundError as error:
        raise MediaError("refused") from error
    if not results:
        raise MediaError("refused")


@cache
def _yolo() -> Any:
    """A semantic network of Ultralytics with random weights: only its reading is tried."""
    import_torchvision()  # beside a CPU torch
    from ultralytics import YOLO  # type: ignore[import-not-found,unused-ignore]

    return YOLO("yolo26n-sem.yaml")


def by_torchvision(folder: Path) -> None:
    """As torchvision.datasets.CocoDetection and pycocotools read a folder of COCO."""
    torchvision = import_torchvision()
    for path in sorted(folder.rglob("*.json")):
        split = path.stem.removeprefix("instances_")
        try:
            data = torchvision.datasets.CocoDetection(str(folder / "data/images" / split), path)
            for _, annotations in data:
                for annotation in annotations:
                    data.coco.annToMask(annotation)
        except (OSError, ValueError) as error:  # no JSON is a ValueError
            raise MediaError("refused") from error


READERS: dict[str, Callable[[Path], None]] = {"Pillow": by_pillow, "OpenCV": by_opencv}

if find_spec("ultralytics"):
    READERS["Ultralytics"] = by_ultralytics

UNREAD = {
    "Pillow": ("npy", "heic", "hdr"),
    "OpenCV": ("npy", "heic", "ico", "tga", "dds", "pcx", "sgi", "tif"),
    "Ultralytics": ("npy", "ico", "tga", "dds", "pcx", "sgi", "hdr", "pnm"),
}
"""Formats of which a reader refuses sound files."""


def peers() -> Mapping[str, Kind]:
    """Kinds named "png image, Pillow": `benchmarks/faults.py` damages them as "png image"."""
    images = {
        f"{name}, {peer}": replace(kind, use=partial(_use, read=read))
        for name, kind in KINDS.items()
        for peer, read in READERS.items()
        if not name.startswith(UNREAD[peer])
    }
    if not find_spec("pycocotools"):
        return images
    coco = ("COCO polygons", "COCO run lengths")
    folders = {
        f"{name}, torchvision": replace(ANNOTATIONS[name], use=by_torchvision) for name in coco
    }
    return images | folders


def _use(folder: Path, read: Callable[[Path], None]) -> None:
    """Read the one that is damaged: the newest."""
    read(max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns))
