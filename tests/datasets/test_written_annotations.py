"""What infer writes for annotation tools is read back as the same labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
from fcnseg.io.annotations.tools import (
    Cvat,
    LabelStudio,
    as_geojson,
    as_labelme,
    as_yolo,
    class_list,
)
from fcnseg.io.images import encode_image
from fcnseg.io.sources.base import Frame

CLASSES = ClassMap.of(("background", "leaf", "stone"))
ONLY = (1, 2)
COUNT = 3


def drawn(seed: int) -> np.ndarray:
    """Labels with holes, islands of one pixel, areas that touch at corners and at the border."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (6, 8), np.uint8)
    labels = np.kron(coarse, np.ones((8, 8), np.uint8))
    speckles = rng.random(labels.shape) < 0.02
    labels[speckles] = rng.integers(0, 3, speckles.sum())
    labels[20:40, 20:50], labels[25:35, 30:42], labels[28:31, 33:38] = 1, 0, 2
    return labels


def frames(root: Path) -> list[tuple[Frame, np.ndarray]]:
    (root / "images").mkdir(parents=True)
    found = []
    for number in range(COUNT):
        labels, path = drawn(number), root / "images" / f"{number}.png"
        picture = np.stack([labels * 60, 255 - labels * 60, labels * 20 + 9], -1).astype(np.uint8)
        path.write_bytes(encode_image(picture, ".png"))
        found.append((Frame(picture, name=str(number), path=path), labels))
    return found


def each(folder: str, suffix: str, write: Callable[..., bytes]) -> Callable[[Path, float], None]:
    def put(root: Path, tolerance: float) -> None:
        for frame, labels in frames(root):
            (root / folder).mkdir(exist_ok=True)
            data = write(labels, frame, tolerance)
            (root / folder / f"{frame.name}{suffix}").write_bytes(data)

    return put


def together(name: str, kind: type[Cvat | LabelStudio]) -> Callable[[Path, float], None]:
    def put(root: Path, tolerance: float) -> None:
        file = kind(CLASSES, ONLY, tolerance)
        pieces = [file.piece(frame, labels) for frame, labels in frames(root)]
        data = file.head() + file.between.join(pieces) + file.tail()
        (root / name).write_bytes(data)

    return put


def yolo(root: Path, tolerance: float) -> None:
    each("labels", ".txt", lambda labels, _, t: as_yolo(labels, ONLY, tolerance=t))(root, tolerance)
    (root / "labels" / "classes.txt").write_bytes(class_list(CLASSES))


WRITTEN = {
    "labelme": each(
        "images",
        ".json",
        lambda labels, frame, t: as_labelme(labels, CLASSES, ONLY, frame=frame, tolerance=t),
    ),
    "geojson": each(
        "labels", ".geojson", lambda labels, _, t: as_geojson(labels, CLASSES, ONLY, tolerance=t)
    ),
    "yolo": yolo,
    "cvat": together("annotations.xml", Cvat),
    "labelstudio": together("tasks.json", LabelStudio),
}


def read_back(root: Path) -> list[np.ndarray]:
    """The labels by the order of CLASSES."""
    found = describe(root)
    assert not found.found.orphan_labels
    assert not found.found.notes
    table = np.array([CLASSES.names.index(name) for name in found.classes.names], np.uint8)
    pairs = sorted(found.pairs, key=lambda pair: pair.name)
    return [table[read_sample(pair, found.encoding)[1]] for pair in pairs]


@pytest.mark.parametrize("kind", WRITTEN)
def test_exact_outlines_come_back_as_the_same_pixels(kind: str, tmp_path: Path) -> None:
    """Objects had a pixel more at their right and lower side."""
    WRITTEN[kind](tmp_path, 0.0)
    for number, labels in enumerate(read_back(tmp_path)):
        np.testing.assert_array_equal(labels, drawn(number))


@pytest.mark.parametrize("kind", sorted(set(WRITTEN) - {"yolo"}))
def test_simplified_outlines_come_back_with_the_same_areas(kind: str, tmp_path: Path) -> None:
    """YOLO's text can't say where a pixel's corner is: a slanted line is read through middles."""
    WRITTEN[kind](tmp_path, 1.0)
    for number, labels in enumerate(read_back(tmp_path)):
        expected = drawn(number)
        counts = [np.bincount(each.ravel(), minlength=3) for each in (labels, expected)]
        np.testing.assert_allclose(counts[0], counts[1], atol=0.01 * labels.size)
