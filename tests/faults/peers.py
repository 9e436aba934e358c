"""The same damaged images for the loaders that other programs use, beside fcnseg's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fcnseg.errors import MediaError
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
    """As Ultralytics reads one; None is how OpenCV refuses."""
    data = np.fromfile(path, np.uint8)
    if not len(data) or cv2.imdecode(data, cv2.IMREAD_COLOR) is None:
        raise MediaError("refused")


READERS: dict[str, Callable[[Path], None]] = {"Pillow": by_pillow, "OpenCV": by_opencv}

UNREAD = {
    "Pillow": ("npy", "heic", "hdr"),
    "OpenCV": ("npy", "heic", "ico", "tga", "dds", "pcx", "sgi", "tif"),
}
"""Formats of which a reader refuses sound files."""


def peers() -> Mapping[str, Kind]:
    """Kinds named "png image, Pillow": `benchmarks/faults.py` damages them as "png image"."""
    return {
        f"{name}, {peer}": replace(kind, use=partial(_use, read=read))
        for name, kind in KINDS.items()
        for peer, read in READERS.items()
        if not name.startswith(UNREAD[peer])
    }


def _use(folder: Path, read: Callable[[Path], None]) -> None:
    """Read the one that is damaged: the newest."""
    read(max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns))
