import threading
import time

import numpy as np
import pytest

from fcnseg.datasets.dataset import Sample, choose_workers, collate, in_background, load


class Pictures:
    """A stand-in for SegmentationDataset; its samples tell which key they are of."""

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        if index == 13:
            raise ValueError("unlucky")
        image = np.full((4, 4, 3), 10 * epoch + index, np.uint8)
        return Sample(image, image[..., 0], f"{epoch}/{index}")


KEYS = [[(epoch, index), (epoch, index + 1)] for epoch in range(2) for index in (0, 2, 4)]


def loading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "fcnseg-loading"]


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


def test_closing_ends_the_thread() -> None:
    batches = load(Pictures(), KEYS * 50, collate)
    next(batches)
    assert loading_threads()
    batches.close()
    assert not loading_threads()


def test_items_are_made_ahead_but_not_all() -> None:
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    background = in_background(items(), ahead=3)
    assert next(background) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]  # one taken, three waiting, one held by the thread
    background.close()


def test_how_many_workers(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert choose_workers(3, "cpu") == 3
    assert choose_workers(0, "cuda") == 0
    assert choose_workers(-1, "cpu") == 0
    assert choose_workers(-1, "cuda") == 8
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert choose_workers(-1, "cuda") == 1
