"""Load samples ahead of training, in a thread or in worker processes."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from fcnseg.datasets.dataset import Sample, SegmentationDataset, start_worker

T = TypeVar("T")

AHEAD = 2
"""Batches that are made before they are asked for (by each worker process)."""

MOST_WORKERS = 8


def choose_workers(wanted: int, device: str) -> int:
    """How many processes load data: as told, or (-1) none for a CPU's pace, some for a GPU's.

    0 means a thread of this process. device: the type of what computes, e.g. "cuda".
    """
    if wanted >= 0:
        return wanted
    cores = os.cpu_count() or 1
    return 0 if device == "cpu" else min(MOST_WORKERS, max(1, cores - 1))


def load(
    dataset: SegmentationDataset,
    batches: Iterable[Sequence[Any]],
    collate: Callable[[Sequence[Sample]], T],
    *,
    workers: int = 0,
    pin: bool = False,
) -> Generator[T, None, None]:
    """collate(samples) for each list of the dataset's keys, in order, made ahead of time.

    Close the iterator (or use it up) to stop the thread or the processes.
    pin: into page-locked memory, for fast copies to a GPU.
    """
    if workers == 0:
        made = (collate([dataset[key] for key in keys]) for keys in batches)
        yield from in_background(made)
        return
    loader = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type] # any iterable of lists of keys will do
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=AHEAD,
        pin_memory=pin,
        worker_init_fn=_start_quietly,
    )
    yield from loader


def _start_quietly(number: int) -> None:
    """A worker leaves Ctrl-C to the main process, which ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    start_worker(number)


def in_background(items: Iterator[T], ahead: int = AHEAD) -> Generator[T, None, None]:
    """The same items, in the same order, made by a thread before they are asked for.

    An error in making them is raised where the item would have come. The thread has ended
    when the iterator is closed or used up.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stop = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                made.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer("item", item):
                    return
            offer("end", None)
        except BaseException as error:  # noqa: BLE001 - raised again in the other thread
            offer("error", error)

    thread = threading.Thread(target=work, name="fcnseg-loading", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        thread.join()
