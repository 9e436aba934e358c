from pathlib import Path

import numpy as np
import pytest

from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.io.images import read_image
from fcnseg.training.validation import draw_same, draw_worst


@pytest.fixture(scope="module")
def dataset(drawn_folder: Path) -> SegmentationDataset:
    return SegmentationDataset(describe(drawn_folder), "val")


def truth_of(dataset: SegmentationDataset):
    """Answers right, but of the second and fourth image."""
    known = {dataset[i].image.tobytes(): (i, dataset[i].labels) for i in range(len(dataset))}

    def predict(images):
        index, labels = known[images[0].tobytes()]
        answer = labels.copy()
        answer[: {1: 60, 3: 20}.get(index, 0)] ^= 1
        return [np.minimum(answer, 3)]

    return predict


def test_the_same_images_are_drawn(dataset: SegmentationDataset, tmp_path: Path) -> None:
    paths = draw_same(truth_of(dataset), dataset, tmp_path, epoch=7)
    assert len(paths) == 4
    assert all(path.name.endswith("_epoch007.png") for path in paths)
    picture = read_image(paths[0])
    height, width = dataset[0].labels.shape
    assert picture.shape[1] >= 4 * width
    assert picture.shape[0] > height, "there is a caption"
    again = draw_same(truth_of(dataset), dataset, tmp_path, epoch=8)
    assert [path.name[:-13] for path in again] == [path.name[:-13] for path in paths]


def test_the_worst_come_first(dataset: SegmentationDataset, tmp_path: Path) -> None:
    paths = draw_worst(truth_of(dataset), dataset, tmp_path)
    assert len(paths) == 6
    names = [dataset[index].name.replace("/", "_") for index in (1, 3)]
    assert [path.stem for path in paths[:2]] == [f"worst1_{names[0]}", f"worst2_{names[1]}"]
    wrong, right = (
        read_image(path)[:, -dataset[0].labels.shape[1] :] for path in (paths[0], paths[2])
    )
    assert (wrong[40:60] > 200).mean() > (right[40:60] > 200).mean() + 0.3
