"""The labeled images of a dataset folder as a torch Dataset, with augmentation for training."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, get_worker_info

from fcnseg.datasets import Description, split_pairs
from fcnseg.datasets.augment import MIXES, Augment
from fcnseg.datasets.describe import describe
from fcnseg.datasets.formats import read_sample
from fcnseg.datasets.loader import Sample
from fcnseg.errors import OptionError, counted
from fcnseg.models.spec import IMAGENET, Preprocess

MEMORY_FRACTION = 0.25
"""Maximum proportion of the machine's memory for cached decoded images, all workers together."""

FALLBACK_MEMORY = 4 * 2**30
"""Memory in bytes assumed if the system does not report it."""


class SegmentationDataset(Dataset[Sample]):
    """The labeled images of one split of a dataset folder.

    data: a folder, a list of pairs (.csv), a dataset.toml, or the Description of one.
    split: "train", "val", "test" or "all". transforms: called with image, uint8 (H, W, 3) RGB, and
    labels, uint8 (H, W) with 255 = ignore; returns their replacements.
    preprocess: a model's (model.preprocess), to read images with its bands and their own type.
    Default: 8-bit RGB.

    dataset[index]: (image, labels, name), at the image's own size; works with torch's DataLoader,
    in batches if all images have the same size. classes: names and colors.
    Raises DatasetError if the folder can't be read or has no such split.

        data = fcnseg.SegmentationDataset("photos", split="train")
        image, labels, name = data[0]

    dataset[epoch, index]: augmented by `augment`; random numbers depend only on (seed, epoch,
    index), not on the worker or the order.

    cache: keep decoded images in memory, up to a proportion of the machine's, divided among the
    worker processes, each of which has its own cache.
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
        if transforms is not None and not callable(transforms):
            raise OptionError(
                f"transforms is a function (image, labels); found {transforms!r:.80}."
            )
        self.pairs = split_pairs(description, split)
        self.transforms = transforms
        self.classes = description.classes
        self.encoding = description.encoding
        self.augment = augment
        self.preprocess = preprocess
        self.seed = seed
        self._room = int(MEMORY_FRACTION * _memory()) if cache else 0
        self._decoded: dict[int, tuple[NDArray[Any], NDArray[np.uint8]]] = {}
        self._held = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = self._checked(key)
        name = self.pairs[index].name
        if epoch is None or self.augment is None:
            image, labels = self._read(index)
            if not image.flags.writeable:  # cached
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

    def _checked(self, key: object) -> tuple[int | None, int]:
        """The epoch, or None, and the index of a sample; IndexError if it is out of range."""
        epoch, index = key if isinstance(key, tuple) and len(key) == 2 else (None, key)
        try:
            found = operator.index(index)  # type: ignore[arg-type] # checked here
            number = None if epoch is None else operator.index(epoch)
        except TypeError:
            raise OptionError(
                f"A sample is taken by its number, or by (epoch, number); found {key!r:.80}.",
                hint="several: torch.utils.data.Subset(dataset, range(10)), or a loop",
            ) from None
        if not -len(self) <= found < len(self):
            raise IndexError(f"There are {counted(len(self), 'sample')}; found number {found}.")
        return number, found

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the cached images: a new process starts with none."""
        return {**self.__dict__, "_decoded": {}, "_held": 0}

    def _varied(
        self, index: int, augment: Augment, rng: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        image, labels = self._read(index)
        side, bands = self.preprocess.short_side, self.preprocess.bands
        base = 1.0 if side is None else side / min(labels.shape)
        fill: tuple[float, ...] = tuple(round(255 * value) for value in self.preprocess.mean)
        if bands is not None:
            fill = bands.middle()[: bands.carried]
        return augment(image, labels, rng, fill=fill, base_scale=base, rgb=bands is None)

    def to_rgb(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """A sample's image for display: uint8 (H, W, 3) RGB."""
        bands = self.preprocess.bands
        return image if bands is None else bands.to_rgb(image)

    def _read(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        held = self._decoded.get(index)
        if held is not None:
            return held
        image, labels = read_sample(self.pairs[index], self.encoding, self.preprocess.bands)
        worker = get_worker_info()
        room = self._room // (1 if worker is None else worker.num_workers)
        # Not thread-safe, but exceeding the limit by one image is harmless.
        if self._held + image.nbytes + labels.nbytes <= room:
            image.flags.writeable = labels.flags.writeable = False  # shared by every epoch
            self._decoded[index] = image, labels
            self._held += image.nbytes + labels.nbytes
        return image, labels


def _memory() -> int:
    """The machine's memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return FALLBACK_MEMORY
