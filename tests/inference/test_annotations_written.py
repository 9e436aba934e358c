"""Annotation files that `infer` writes are read back by our own readers as what was predicted."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from fcnseg.classes import ClassMap
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
from fcnseg.inference.prediction import PredictedArrays

CLASSES = ClassMap.of(["background", "leaf", "little stone"])
HEIGHT, WIDTH = 96, 128


def truth(index: int) -> np.ndarray:
    """A leaf with a hole, in which lies a stone, and another leaf."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    away = np.hypot(y - 45 - index, x - 50)
    labels[(away < 34) & (away > 18)] = 1
    labels[away < 8] = 2
    labels[np.hypot((y - 60) / 2, x - 110) < 12] = 1
    return labels


class Known:
    """A model that knows the image by its blue."""

    classes = CLASSES
    num_parallel = 1

    def predict(self, images, **_):
        return [PredictedArrays(truth(int(image[0, 0, 2]))) for image in images]


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(4):
        image = rng.integers(0, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        image[:, :, 2] = index
        (tmp_path / "set/images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"set/images/photo{index}.png")
    return tmp_path / "set"


def written(photos, kind, **options):
    """Where the outputs are: beside the dataset, as a folder of outputs is never read as one."""
    out = photos.parent / "found"
    config = InferConfig(source=(str(photos / "images"),), out=out, save=(kind,), **options)
    infer(config, segmenter=Known())
    return out


def near_a_border(labels: np.ndarray, pixels: int) -> np.ndarray:
    """Pixels that have another label within so many rows or columns."""
    padded = np.pad(labels, pixels, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * pixels + 1,) * 2)
    return windows.min((2, 3)) != windows.max((2, 3))


@pytest.mark.parametrize("kind", ["labelme", "yolo", "coco", "cvat", "labelstudio"])
def test_it_comes_back_as_it_was_predicted(photos, kind):
    out = written(photos, kind)
    if (out / kind).is_dir():
        shutil.copytree(out / kind, photos / "labels")
    for file in [*out.glob("*.xml"), *out.glob("*.json")]:
        shutil.copy(file, photos)
    described = describe(photos)
    assert set(CLASSES.names[1:]) <= set(described.classes.names)
    assert len(described.pairs) == 4
    for pair in described.pairs:
        _, labels = read_sample(pair, described.encoding)
        names = np.array([*described.classes.names, *[""] * 256])[labels]
        expected = truth(int(pair.image.stem[-1]))
        wrong = names != np.array(CLASSES.names)[expected]
        # The tolerance of a pixel, and one for readers that give the border to the area.
        assert not (wrong & ~near_a_border(expected, 2)).any()
        assert (names == "little stone").sum() == pytest.approx((expected == 2).sum(), rel=0.2)


def test_the_tolerance_is_what_was_asked_for(photos):
    counts = []
    for pixels in (0, 1, 4):
        written(photos, "labelme", simplify=pixels)
        shapes = json.loads((photos.parent / "found/labelme/photo0.json").read_text())["shapes"]
        counts.append(sum(len(shape["points"]) for shape in shapes))
    assert counts[0] > 4 * counts[1] > 4 * counts[2]


def test_the_background_is_no_polygon_unless_it_is_asked_for(photos):
    written(photos, "labelme")
    shapes = json.loads((photos.parent / "found/labelme/photo0.json").read_text())["shapes"]
    assert {shape["label"] for shape in shapes} == {"leaf", "little stone"}
    written(photos, "labelme", classes=("background",))
    shapes = json.loads((photos.parent / "found/labelme/photo0.json").read_text())["shapes"]
    assert {shape["label"] for shape in shapes} == {"background"}
