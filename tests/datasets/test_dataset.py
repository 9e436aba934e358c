"""Pairs -> samples -> batches: the same sample for the same key, whoever makes it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fcnseg.datasets.augment import Augment
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.datasets.loader import Batch, collate, start_worker
from fcnseg.errors import DatasetError, MediaError
from fcnseg.models.spec import Preprocess
from tests.datasets.written import draw_set, folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folders(tmp_path, draw_set())
    return tmp_path


def varied(folder: Path, **changes: object) -> SegmentationDataset:
    return SegmentationDataset(
        describe(folder), "train", augment=Augment((32, 40)), seed=3, **changes
    )


def test_a_sample_is_a_function_of_seed_epoch_and_index(folder: Path) -> None:
    one, other = varied(folder), varied(folder, cache=False)
    later = one[1, 2]
    for index in reversed(range(len(one))):
        first, again = one[0, index], other[0, index]
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(one[1, 2].image, later.image)
    assert not np.array_equal(one[0, 2].image, later.image)
    assert not np.array_equal(varied(folder)[0, 2].image, one[0, 3].image)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_workers_make_the_same_samples(folder: Path) -> None:
    dataset = varied(folder)
    keys = [[(0, 1), (0, 4)], [(1, 0), (1, 5)], [(2, 2), (2, 3)]]
    loader = DataLoader(
        dataset,
        batch_sampler=keys,
        collate_fn=collate,
        num_workers=2,
        worker_init_fn=start_worker,
        multiprocessing_context="forkserver" if hasattr(torch.multiprocessing, "fork") else None,
    )
    for batch, some in zip(loader, keys, strict=True):
        expected = collate([dataset[key] for key in some])
        assert batch.names == expected.names
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)


def test_a_batch_is_bytes_and_indices(folder: Path) -> None:
    dataset = varied(folder)
    batch = collate([dataset[0, 0], dataset[0, 1]])
    assert isinstance(batch, Batch)
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (2, 32, 40, 3))
    assert (batch.labels.dtype, tuple(batch.labels.shape)) == (torch.int64, (2, 32, 40))


def test_without_an_epoch_nothing_is_varied(folder: Path) -> None:
    dataset = varied(folder)
    sample = dataset[0]
    with Image.open(dataset.pairs[0].image) as image:
        np.testing.assert_array_equal(sample.image, np.asarray(image))
    assert sample.name == dataset.pairs[0].name


def test_decoded_images_are_kept_up_to_a_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = varied(folder)
    _ = dataset[0, 0], dataset[0, 1]
    reads = []
    monkeypatch.setattr("fcnseg.datasets.dataset.read_sample", lambda *given: reads.append(given))
    _ = dataset[1, 0], dataset[1, 1]
    assert reads == []
    monkeypatch.undo()
    dataset._room = dataset._held
    _ = dataset[0, 2]
    assert set(dataset._decoded) == {0, 1}


def test_a_sample_that_is_changed_changes_no_later_one(folder: Path) -> None:
    dataset = varied(folder)
    before = dataset[0].image.copy()
    dataset[0].image[:] = 0
    np.testing.assert_array_equal(dataset[0].image, before)


def test_a_new_process_starts_without_images(folder: Path) -> None:
    dataset = varied(folder)
    _ = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < dataset[0].image.nbytes
    np.testing.assert_array_equal(copy[0, 1].image, dataset[0, 1].image)


def test_short_side_sets_the_scale(folder: Path) -> None:
    """At twice the size, a crop shows half of the picture."""
    still = Augment((96, 128), scale=(1, 1), flip=0, color=0)
    double = SegmentationDataset(
        describe(folder),
        "train",
        augment=still,
        preprocess=Preprocess((0.5,) * 3, (0.5,) * 3, short_side=96),
    )
    labels = double[0, 0].labels
    np.testing.assert_array_equal(labels[::2, ::2], double[0].labels)
    np.testing.assert_array_equal(labels[1::2, 1::2], double[0].labels)


def test_unequal_sizes_and_broken_files_are_named(folder: Path) -> None:
    dataset = varied(folder)
    Image.new("L", (9, 9)).save(dataset.pairs[0].labels)
    with pytest.raises(DatasetError, match=r"64x48 and its labels .* 9x9"):
        _ = dataset[0]
    dataset.pairs[1].image.write_text("gone")
    with pytest.raises(MediaError, match=dataset.pairs[1].image.name):
        _ = dataset[1]
