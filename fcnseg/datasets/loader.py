"""Samples -> batches: which images each step takes, loaded ahead in a thread or in processes."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcnseg.classes import ClassMap
from fcnseg.concurrency import Prefetcher
from fcnseg.errors import DatasetError, FcnsegError, MediaError, OptionError, counted
from fcnseg.io import use_one_thread

T = TypeVar("T")

S = TypeVar("S")

S_co = TypeVar("S_co", covariant=True)

AHEAD = 2
"""Batches that are made before they are asked for (by each worker process)."""

MOST_WORKERS = 8


class Sample(NamedTuple):
    """An image with its labels; a tuple, which torch's default DataLoader can stack.

    image: uint8 (H, W, 3) RGB, or (H, W, C) of other bands. labels: uint8 (H, W), 255 = ignore.
    name: the pair's. The first two are what `transforms` returned where the dataset has transforms.
    """

    image: NDArray[Any]
    labels: NDArray[np.uint8]
    name: str


class UnlabeledBatch(NamedTuple):
    """Crops of images without labels.

    weak, strong: uint8 (N, H, W, 3), the same crops with little and with much changed.
    inside: bool (N, H, W), whether the image is there. covered: bool (N, H, W), where another
    one is to be laid over it.
    """

    weak: Tensor
    strong: Tensor
    inside: Tensor
    covered: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size, stacked.

    images: uint8 (N, H, W, 3) RGB, or (N, H, W, C) of other bands; Preprocess.normalise makes the
        network's input of it.
    labels: int64 (N, H, W), 255 = ignore.
    unlabeled: what is learned without labels in the same step.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    unlabeled: UnlabeledBatch | None = None

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, for fast copies to a GPU."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.names)


class Keyed(Protocol[S_co]):
    """What gives a sample for a key."""

    def __getitem__(self, key: Any, /) -> S_co: ...


@dataclass(frozen=True)
class OrError(Generic[S]):
    """What another gives for a key; the error, not raised, where that can't be read."""

    keyed: Keyed[S]

    def __getitem__(self, key: Any, /) -> S | FcnsegError:
        try:
            return self.keyed[key]
        except (MediaError, DatasetError) as error:
            return error


class LabelledImages(Protocol):
    """What a SegmentationDataset is to code that scores or draws its samples.

    classes: what the labels mean.
    """

    classes: ClassMap

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Sample: ...

    def to_rgb(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """What people see of a sample's image: uint8 (H, W, 3) RGB."""


@dataclass(frozen=True)
class BatchSampler:
    """Which images each step takes.

    images: how many there are. batch: how many a step takes, over all ranks.
    """

    images: int
    batch: int
    epochs: int
    seed: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch < self.ranks:
            raise OptionError(
                f"--batch {self.batch} is less than the {self.ranks} processes that share it.",
                hint=f"use --batch {self.ranks} or more",
            )
        if self.images < self.ranks:
            raise OptionError(
                f"{self.images} training images are too few for {self.ranks} processes."
            )

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch.

        A last batch of one image is left out (batch norm can't learn from it; the order
        changes every epoch, so no image is lost) unless it would be the only one.
        """
        full, rest = divmod(self.images, self.batch)
        return max(1, full + (rest >= max(2, self.ranks)))

    @property
    def steps(self) -> int:
        """Steps of the entire training."""
        return self.epochs * self.epoch_steps

    def keys(self, start: int) -> Iterator[list[tuple[int, int]]]:
        """For each step from `start` to the end, the (epoch, index) of this rank's images."""
        for step in range(start, self.steps):
            epoch, number = divmod(step, self.epoch_steps)
            if step == start or number == 0:
                order = self.order(epoch)
            indices = order[number * self.batch : (number + 1) * self.batch]
            yield [(epoch, index) for index in indices[self.rank :: self.ranks]]

    def order(self, epoch: int) -> list[int]:
        """The images of an epoch, shuffled: a function of the seed and the epoch alone."""
        shuffled: list[int] = (
            np.random.default_rng((self.seed, epoch)).permutation(self.images).tolist()
        )
        return shuffled

    def step_images(self, step: int) -> int:
        """How many images a step takes, over all ranks."""
        number = step % self.epoch_steps
        return min(self.batch, self.images - number * self.batch)


class Pace:
    """How long steps take, the last ones counting most. steps: how many there were."""

    KEEP = 0.9

    def __init__(self) -> None:
        self._images = self._seconds = self._weight = 0.0
        self.steps = 0

    def add(self, images: int, seconds: float) -> None:
        """Take note of a step."""
        self._images = self.KEEP * self._images + images
        self._seconds = self.KEEP * self._seconds + seconds
        self._weight = self.KEEP * self._weight + 1
        self.steps += 1

    @property
    def images_a_second(self) -> float:
        """Over the last steps."""
        return self._images / max(1e-9, self._seconds)

    @property
    def seconds_a_step(self) -> float:
        """Over the last steps."""
        return self._seconds / max(1e-9, self._weight)


def choose_workers(wanted: int, device: str) -> int:
    """How many processes load data: as told, or (-1) none for a CPU's pace, some for a GPU's.

    0 means a thread of this process. device: the type of what computes, e.g. "cuda". OptionError
    for so many that starting them takes minutes, and their memory everything.
    """
    cores = os.cpu_count() or 1
    if wanted > (most := max(16, 4 * cores)):
        raise OptionError(
            f"--workers {wanted}: more than {most} processes are too many for the "
            f"{counted(cores, 'core')} of this machine.",
            hint=f"take --workers {max(1, cores - 1)}, or -1 = automatic",
        )
    if wanted >= 0:
        return wanted
    return 0 if device == "cpu" else min(MOST_WORKERS, max(1, cores - 1))


def load(
    dataset: Keyed[S],
    batches: Iterable[Sequence[Any]],
    collate: Callable[[Sequence[S]], T],
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
        with Prefetcher(made, AHEAD) as ahead:
            yield from ahead
        return
    with warnings.catch_warnings():  # choose_workers has said what is too many
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader[Any](
            _Guarded(dataset, collate),
            batch_sampler=batches,  # type: ignore[arg-type] # any iterable of lists of keys will do
            collate_fn=_as_made,
            num_workers=workers,
            prefetch_factor=AHEAD,
            pin_memory=pin,
            worker_init_fn=_start_quietly,
        )
    for made in loader:
        if isinstance(made, FcnsegError):
            raise made
        yield made


class _Guarded(Dataset[Any]):
    """Makes a batch in a worker; an error of ours is handed over, or torch makes a trace of it."""

    def __init__(self, dataset: Keyed[Any], collate: Callable[[Sequence[Any]], Any]) -> None:
        self._dataset, self._collate = dataset, collate

    def __getitems__(self, keys: Sequence[Any]) -> Any:
        try:
            return self._collate([self._dataset[key] for key in keys])
        except FcnsegError as error:
            return error


def _as_made(batch: T) -> T:
    return batch


def with_unlabeled(
    batches: Generator[Batch, None, None], others: Generator[UnlabeledBatch, None, None]
) -> Generator[Batch, None, None]:
    """Each batch with what is learned without labels beside it."""
    try:
        for batch, other in zip(batches, others, strict=False):
            yield replace(batch, unlabeled=other)
    finally:
        batches.close()
        others.close()


_LAST_SECONDS = 30
"""Of a worker that was asked to end and that nobody ends."""


def _start_quietly(number: int) -> None:
    """A worker leaves Ctrl-C to the main process, which ends it.

    So it does SIGTERM, which batch systems send to every process of a job; but it does not stay
    where the main process has no more need of it and can't say so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alarm = getattr(signal, "alarm", None)  # not on Windows
    later = signal.SIG_DFL if alarm is None else lambda *_: alarm(_LAST_SECONDS)
    signal.signal(signal.SIGTERM, later)
    start_worker(number)


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
