import os
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnseg.datasets.loader import (
    BatchSampler,
    Pace,
    Sample,
    choose_workers,
    collate,
    load,
)
from fcnseg.errors import MissingExtra, OptionError


class Pictures:
    """A stand-in for SegmentationDataset; its samples tell which key they are of."""

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        if index == 13:
            raise ValueError("unlucky")
        if index == 14:
            raise MissingExtra("Reading it", "images")
        if index == 15:
            os.kill(os.getpid(), signal.SIGTERM)
        image = np.full((4, 4, 3), 10 * epoch + index, np.uint8)
        return Sample(image, image[..., 0], f"{epoch}/{index}")


KEYS = [[(epoch, index), (epoch, index + 1)] for epoch in range(2) for index in (0, 2, 4)]


def loading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fcnseg-ahead"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(workers: int) -> None:
    batches = list(load(Pictures(), KEYS, collate, workers=workers))
    assert [batch.names for batch in batches] == [
        tuple(f"{epoch}/{index}" for epoch, index in keys) for keys in KEYS
    ]
    assert batches[-1].images[1, 0, 0, 0] == 15


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_where_the_batch_would(workers: int) -> None:
    batches = load(Pictures(), [[(0, 0)], [(0, 13)], [(0, 1)]], collate, workers=workers)
    assert next(batches).names == ("0/0",)
    with pytest.raises(ValueError, match="unlucky"):
        next(batches)
    assert not loading_threads()


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_ours_come_as_they_are(workers: int) -> None:
    with pytest.raises(MissingExtra) as caught:
        next(load(Pictures(), [[(0, 14)]], collate, workers=workers))
    told = MissingExtra("Reading it", "images")
    assert (caught.value.message, caught.value.hint) == (told.message, told.hint)


def test_a_worker_leaves_sigterm_to_the_main_process() -> None:
    """Batch systems send it to every process of a job; the main one saves everything first."""
    keys = [[(0, 15)], [(0, 1)], [(0, 2)], [(0, 3)]]
    assert len(list(load(Pictures(), keys, collate, workers=1))) == 4


def test_closing_ends_the_thread() -> None:
    batches = load(Pictures(), KEYS * 50, collate)
    next(batches)
    assert loading_threads()
    batches.close()
    assert not loading_threads()


def test_how_many_workers(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert choose_workers(3, "cpu") == 3
    assert choose_workers(0, "cuda") == 0
    assert choose_workers(-1, "cpu") == 0
    assert choose_workers(-1, "cuda") == 8
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert choose_workers(-1, "cuda") == 1


plans = st.builds(
    BatchSampler,
    images=st.integers(1, 40),
    batch=st.integers(1, 12),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 5),
)


@given(plans)
def test_every_epoch_has_steps_and_no_image_comes_twice(plan: BatchSampler) -> None:
    batches = list(plan.keys(0))
    assert len(batches) == plan.steps == plan.epochs * plan.epoch_steps > 0
    for epoch in range(plan.epochs):
        inside = batches[epoch * plan.epoch_steps : (epoch + 1) * plan.epoch_steps]
        keys = [key for batch in inside for key in batch]
        assert {key[0] for key in keys} == {epoch}
        indices = [key[1] for key in keys]
        assert len(set(indices)) == len(indices)
        assert plan.images - len(indices) <= 1, "at most a last batch of one is left out"
        assert all(len(batch) > 1 for batch in inside) or plan.images == 1 or plan.batch == 1
    counted = [plan.step_images(step) for step in range(plan.steps)]
    assert counted == [len(batch) for batch in batches]


@given(plans, st.data())
def test_going_on_gives_the_same_batches(plan: BatchSampler, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.steps))
    assert list(plan.keys(start)) == list(plan.keys(0))[start:]


@given(st.integers(4, 40), st.integers(3, 9), st.integers(1, 3))
def test_ranks_share_each_batch(images: int, batch: int, ranks: int) -> None:
    whole = BatchSampler(images, batch, 2, seed=1, rank=0, ranks=1)
    shares = [list(BatchSampler(images, batch, 2, 1, rank, ranks).keys(0)) for rank in range(ranks)]
    least = max(2, ranks)
    for number, parts in enumerate(zip(*shares, strict=True)):
        together = sorted(key for part in parts for key in part)
        assert all(parts), "no rank is without an image"
        if images % batch >= least or images % batch == 0:
            assert together == sorted(list(whole.keys(0))[number])


def test_epochs_are_shuffled_by_the_seed() -> None:
    plan = BatchSampler(images=50, batch=5, epochs=2, seed=3)
    assert plan.order(0) != plan.order(1) != sorted(plan.order(1))
    assert plan.order(1) == BatchSampler(images=50, batch=7, epochs=9, seed=3).order(1)
    assert plan.order(0) != BatchSampler(images=50, batch=5, epochs=2, seed=4).order(0)


def test_too_few_for_the_processes() -> None:
    with pytest.raises(OptionError, match="--batch 2 is less than the 3"):
        BatchSampler(images=9, batch=2, epochs=1, seed=0, ranks=3)
    with pytest.raises(OptionError, match="2 training images are too few"):
        BatchSampler(images=2, batch=8, epochs=1, seed=0, ranks=3)


def test_the_pace_is_that_of_the_last_steps() -> None:
    pace = Pace()
    for _ in range(50):
        pace.add(8, 2.0)
    assert (pace.steps, round(pace.seconds_a_step, 3), round(pace.images_a_second, 3)) == (50, 2, 4)
