"""Pairs of files -> samples -> batches, loaded ahead in a thread or in worker processes."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from fcnseg.datasets import Description, split_pairs
from fcnseg.datasets.augment import MIXES, Augment
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
from fcnseg.io import use_one_thread
from fcnseg.models.spec import IMAGENET, Preprocess

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


MEMORY_SHARE = 0.25
"""Of the machine's memory that decoded images may take, all workers together."""

FALLBACK_MEMORY = 4 * 2**30
"""Bytes taken for the machine's memory where the system does not say."""


class Sample(NamedTuple):
    """An image with its labels; a tuple, which torch's default DataLoader can stack.

    image: uint8 (H, W, 3) RGB, or (H, W, C) of other bands. labels: uint8 (H, W), 255 = ignore.
    name: the pair's. The first two are what `transforms` returned where the dataset has transforms.
    """

    image: NDArray[Any]
    labels: NDArray[np.uint8]
    name: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size, stacked.

    images: uint8 (N, H, W, 3) RGB, or (N, H, W, C) of other bands; Preprocess.normalise makes the
        network's input of it.
    labels: int64 (N, H, W), 255 = ignore.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, for fast copies to a GPU."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.names)


class SegmentationDataset(Dataset[Sample]):
    """The labelled images of one split of a dataset folder.

    data: a folder, a list of pairs (.csv), a dataset.toml, or the Description of one.
    split: "train", "val", "test" or "all". transforms: called with image, uint8 (H, W, 3) RGB, and
    labels, uint8 (H, W) with 255 = ignore; the two that it returns take their places.
    preprocess: a model's (model.preprocess): images are read as it takes them, in its bands and
    their own type. Without it, as 8-bit RGB.

    dataset[index]: (image, labels, name), at the image's own size: any DataLoader of torch can
    load it, in batches where all images have one size. classes: names and colors.
    Raises DatasetError where the folder can't be read or has no such split.

        data = fcnseg.SegmentationDataset("photos", split="train")
        image, labels, name = data[0]

    dataset[epoch, index]: varied by `augment`; everything random about it follows from
    (seed, epoch, index), whichever worker makes it and in whatever order.

    Decoded images stay in memory up to a share of the machine's (`cache`); each worker
    process keeps its own and takes its part of that share.
    """

    def __init__(
        self,
        data: Description | Path | str,
        split: str = "train",
        *,
        transforms: Callable[[NDArray[Any], NDArray[np.uint8]], tuple[Any, Any]] | None = None,
        augment: Augment | None = None,
        preprocess: Preprocess = IMAGENET,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        description = data if isinstance(data, Description) else describe(data)
        self.pairs = split_pairs(description, split)
        self.transforms = transforms
        self.classes = description.classes
        self.encoding = description.encoding
        self.augment = augment
        self.preprocess = preprocess
        self.seed = seed
        self._room = int(MEMORY_SHARE * _memory()) if cache else 0
        self._decoded: dict[int, tuple[NDArray[Any], NDArray[np.uint8]]] = {}
        self._held = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (None, key)
        name = self.pairs[index].name
        if epoch is None or self.augment is None:
            image, labels = self._read(index)
            if not image.flags.writeable:  # those in memory are for all epochs
                image, labels = image.copy(), labels.copy()
            if self.transforms is not None:
                image, labels = self.transforms(image, labels)
            return Sample(image, labels, name)
        rng = np.random.default_rng((self.seed, epoch, index))
        image, labels = self._varied(index, self.augment, rng)
        if self.augment.mix != "none" and rng.random() < self.augment.mix_share:
            above, above_labels = self._varied(int(rng.integers(len(self))), self.augment, rng)
            mask = MIXES[self.augment.mix](above_labels, rng)
            image, labels = image.copy(), labels.copy()
            image[mask], labels[mask] = above[mask], above_labels[mask]
        return Sample(image, labels, name)

    def __getstate__(self) -> dict[str, Any]:
        """Without the decoded images: a new process starts with none."""
        return {**self.__dict__, "_decoded": {}, "_held": 0}

    def _varied(
        self, index: int, augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        image, labels = self._read(index)
        base, bands = self._base_scale(labels.shape), self.preprocess.bands
        fill: tuple[float, ...] = tuple(round(255 * value) for value in self.preprocess.mean)
        if bands is not None:
            fill = bands.middle()[: bands.carried]
        return augment(image, labels, rng, fill=fill, base_scale=base, rgb=bands is None)

    def picture(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """What people see of a sample's image: uint8 (H, W, 3) RGB."""
        bands = self.preprocess.bands
        return image if bands is None else bands.picture(image)

    def _base_scale(self, size: tuple[int, ...]) -> float:
        side = self.preprocess.short_side
        return 1.0 if side is None else side / min(size)

    def _read(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        held = self._decoded.get(index)
        if held is not None:
            return held
        image, labels = read_sample(self.pairs[index], self.encoding, self.preprocess.bands)
        worker = get_worker_info()
        room = self._room // (1 if worker is None else worker.num_workers)
        # Threads may both get here with the last free bytes; one image too many does no harm.
        if self._held + image.nbytes + labels.nbytes <= room:
            image.flags.writeable = labels.flags.writeable = False  # shared by every epoch
            self._decoded[index] = image, labels
            self._held += image.nbytes + labels.nbytes
        return image, labels


def collate(samples: Sequence[Sample]) -> Batch:
    """A batch of samples of one size (training crops are)."""
    sizes = {sample.labels.shape for sample in samples}
    assert len(sizes) == 1, f"a batch holds one size, found {sorted(sizes)}"
    return Batch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        labels=torch.from_numpy(np.stack([sample.labels for sample in samples]).astype(np.int64)),
        names=tuple(sample.name for sample in samples),
    )


def start_worker(number: int) -> None:
    """For DataLoader's worker_init_fn: one thread each, the workers are many already."""
    del number
    torch.set_num_threads(1)
    use_one_thread()


def _memory() -> int:
    """The machine's memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return FALLBACK_MEMORY
