"""Folders of discs: images, and label files in which the discs are stored as a test wants them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fcnseg.datasets.formats import read_sample
from fcnseg.datasets.scan import ScanResult

SIDE = 48
Labels = list[np.ndarray]


def discs(count: int = 6, classes: int = 2) -> Labels:
    """Scenes with one disc of each class: uint8 (48, 48)."""
    found = []
    y, x = np.mgrid[:SIDE, :SIDE]
    for index in range(count):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for value in range(1, classes):
            centre = 8 + 12 * (value - 1) + index
            labels[(y - 14 - 2 * index) ** 2 + (x - centre) ** 2 < 36] = value
        found.append(labels)
    return found


def write(root: Path, stored: Labels, lists: dict[str, str] | None = None) -> Path:
    """images/ and masks/ with these stored labels, and text files beside them."""
    for index, labels in enumerate(stored):
        rng = np.random.default_rng(index)
        for folder, array in (
            ("images", rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)),
            ("masks", labels),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{index}.png")
    for name, text in (lists or {}).items():
        (root / name).write_bytes(text.encode())
    return root


def decoded(seen: ScanResult) -> Labels:
    """The labels of all pairs, by name."""
    description = seen.description
    pairs = sorted(description.pairs, key=lambda pair: pair.name)
    return [read_sample(pair, description.encoding)[1] for pair in pairs]


def agrees(seen: ScanResult, truth: Labels, tolerated: float = 0.0) -> bool:
    """Whether the labels are the true ones but for this fraction of the pixels."""
    wrong = [np.mean(a != b) for a, b in zip(decoded(seen), truth, strict=True)]
    return bool(max(wrong) <= tolerated)
