"""Batches of samples: the images of each step, prefetched by a thread or by processes."""

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
"""Number of prefetched batches (per worker process)."""

MOST_WORKERS = 8


class Sample(NamedTuple):
    """An image with its labels; a tuple, which torch's default collate function can stack.

    image: uint8 (H, W, 3) RGB, or (H, W, C) of other bands. labels: uint8 (H, W), 255 = ignore.
    name: the pair's. With `transforms`, image and labels are what it returned.
    """

    image: NDArray[Any]
    labels: NDArray[np.uint8]
    name: str


class UnlabeledBatch(NamedTuple):
    """Crops of images without labels.

    weak, strong: uint8 (N, H, W, 3), the same crops with weak and strong augmentation.
    inside: bool (N, H, W), pixels inside the image. covered: bool (N, H, W), pixels where another
    image is pasted.
    """

    weak: Tensor
    strong: Tensor
    inside: Tensor
    covered: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size, stacked.

    images: uint8 (N, H, W, 3) RGB, or (N, H, W, C) of other bands; Preprocess.normalise converts
        it to the network's input.
    labels: int64 (N, H, W), 255 = ignore.
    unlabeled: crops without labels for the same step.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    unlabeled: UnlabeledBatch | None = None

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, for fast copies to a GPU."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.names)


class KeyedDataset(Protocol[S_co]):
    """Returns a sample for a key."""

    def __getitem__(self, key: Any, /) -> S_co: ...


@dataclass(frozen=True)
class ErrorsAsItems(Generic[S]):
    """Returns another's sample for a key, or its error instead of raising it."""

    keyed: KeyedDataset[S]

    def __getitem__(self, key: Any, /) -> S | FcnsegError:
        try:
            return self.keyed[key]
        except (MediaError, DatasetError) as error:
            return error


class LabelledImages(Protocol):
    """The interface of SegmentationDataset for code that scores or draws its samples.

    classes: names and colors.
    """

    classes: ClassMap

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Sample: ...

    def to_rgb(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """A sample's image for display: uint8 (H, W, 3) RGB."""


@dataclass(frozen=True)
class BatchSampler:
    """The images of each step.

    images: size of the dataset. batch: images per step, over all ranks.
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
        """Steps per epoch.

        A last batch of a single image is omitted unless it is the only one: batch norm needs
        several. As the order changes every epoch, no image is lost.
        """
        full, rest = divmod(self.images, self.batch)
        return max(1, full + (rest >= max(2, self.ranks)))

    @property
    def steps(self) -> int:
        """Total number of steps."""
        return self.epochs * self.epoch_steps

    def keys(self, start: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, index) of this rank's images for each step from `start` on."""
        for step in range(start, self.steps):
            epoch, number = divmod(step, self.epoch_steps)
            if step == start or number == 0:
                order = self.order(epoch)
            indices = order[number * self.batch : (number + 1) * self.batch]
            yield [(epoch, index) for index in indices[self.rank :: self.ranks]]

    def order(self, epoch: int) -> list[int]:
        """The shuffled images of an epoch, which depend only on the seed and the epoch."""
        shuffled: list[int] = (
            np.random.default_rng((self.seed, epoch)).permutation(self.images).tolist()
        )
        return shuffled

    def step_images(self, step: int) -> int:
        """Number of images in a step, over all ranks."""
        number = step % self.epoch_steps
        return min(self.batch, self.images - number * self.batch)


class Pace:
    """Moving averages of the training speed. steps: number of steps so far."""

    KEEP = 0.9

    def __init__(self) -> None:
        self._images = self._seconds = self._weight = 0.0
        self.steps = 0

    def add(self, images: int, seconds: float) -> None:
        """Record a step."""
        self._images = self.KEEP * self._images + images
        self._seconds = self.KEEP * self._seconds + seconds
        self._weight = self.KEEP * self._weight + 1
        self.steps += 1

    @property
    def images_a_second(self) -> float:
        """Recent images per second."""
        return self._images / max(1e-9, self._seconds)

    @property
    def seconds_a_step(self) -> float:
        """Recent seconds per step."""
        return self._seconds / max(1e-9, self._weight)


def choose_workers(wanted: int, device: str) -> int:
    """Number of data loading processes: as given; for -1, none on a CPU and several on a GPU.

    0 means a thread of this process. device: the device type, e.g. "cuda". OptionError if it is
    too large for this machine.
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
    dataset: KeyedDataset[S],
    batches: Iterable[Sequence[Any]],
    collate: Callable[[Sequence[S]], T],
    *,
    workers: int = 0,
    pin: bool = False,
) -> Generator[T, None, None]:
    """Yield collate(samples) for each list of keys, in order, with prefetching.

    Close or exhaust the iterator to stop the thread or the processes.
    pin: use page-locked memory, for fast copies to a GPU.
    """
    if workers == 0:
        made = (collate([dataset[key] for key in keys]) for keys in batches)
        with Prefetcher(made, AHEAD) as ahead:
            yield from ahead
        return
    with warnings.catch_warnings():  # choose_workers checks the number
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader[Any](
            _ErrorsAsBatches(dataset, collate),
            batch_sampler=batches,  # type: ignore[arg-type] # any iterable of lists of keys will do
            collate_fn=_as_made,
            num_workers=workers,
            prefetch_factor=AHEAD,
            pin_memory=pin,
            worker_init_fn=_start_quietly,
        )
        loaded = iter(loader)  # starts the workers
    for made in loaded:
        if isinstance(made, FcnsegError):
            raise made
        yield made


class _ErrorsAsBatches(Dataset[Any]):
    """Creates a batch in a worker; returns FcnsegErrors, as torch would replace them by a trace."""

    def __init__(self, dataset: KeyedDataset[Any], collate: Callable[[Sequence[Any]], Any]) -> None:
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
    """Yield each batch with a batch of unlabeled crops."""
    try:
        for batch, other in zip(batches, others, strict=False):
            yield replace(batch, unlabeled=other)
    finally:
        batches.close()
        others.close()


_LAST_SECONDS = 30
"""Seconds after SIGTERM until a worker ends itself."""


def _start_quietly(number: int) -> None:
    """Ignore Ctrl-C in a worker: the main process handles it and ends its workers.

    The same for SIGTERM, which batch systems send to all processes of a job, but with a timeout in
    case the main process is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    alarm = getattr(signal, "alarm", None)  # not on Windows
    later = signal.SIG_DFL if alarm is None else lambda *_: alarm(_LAST_SECONDS)
    signal.signal(signal.SIGTERM, later)
    start_worker(number)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of the same size, such as training crops."""
    sizes = {sample.labels.shape for sample in samples}
    assert len(sizes) == 1, f"a batch holds one size, found {sorted(sizes)}"
    return Batch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        labels=torch.from_numpy(np.stack([sample.labels for sample in samples]).astype(np.int64)),
        names=tuple(sample.name for sample in samples),
    )


def start_worker(number: int) -> None:
    """DataLoader's worker_init_fn: use one thread per worker."""
    del number
    torch.set_num_threads(1)
    use_one_thread()
