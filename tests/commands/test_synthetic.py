from pathlib import Path

import numpy as np

from fcnseg.commands.demo.scenes import CLASSES, SIZE, draw, make_scene, write_dataset
from fcnseg.io.images import read_image
from fcnseg.io.labels import read_raw_labels


def test_the_same_seed_draws_the_same_image() -> None:
    first, second = draw(make_scene(3), 0.5), draw(make_scene(3), 0.5)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], draw(make_scene(4), 0.5)[0])


def test_things_move() -> None:
    scene = make_scene(0)
    assert not np.array_equal(draw(scene, 0.0)[1], draw(scene, 0.4)[1])


def test_every_class_is_drawn_and_most_is_background() -> None:
    counts = np.zeros(len(CLASSES))
    for seed in range(20):
        image, labels = draw(make_scene(seed), 0.0)
        assert image.shape == (*SIZE, 3)
        assert image.dtype == np.uint8
        assert labels.shape == SIZE
        counts += np.bincount(labels.ravel(), minlength=len(CLASSES))
    share = counts / counts.sum()
    assert share[0] > 0.5
    assert (share[1:] > 0.03).all()


def test_dataset_folder_holds_what_was_drawn(tmp_path: Path) -> None:
    assert write_dataset(tmp_path, train=3, val=2, seed=1) == 5
    image, labels = draw(make_scene(100_003), 0.0)
    assert np.array_equal(read_image(tmp_path / "images/train/0000.png"), image)
    assert np.array_equal(read_raw_labels(tmp_path / "labels/train/0000.png").values, labels)
    assert (tmp_path / "classes.txt").read_text().split() == list(CLASSES.names)
