"""Semi-supervised training with unlabeled images: consistency, as in mean teacher and FixMatch.

The averaged weights (the teacher) predict an image that was only scaled, cropped and flipped.
Their confident predictions are the labels of the network (the student) for the same crop with
strong color augmentation and blur, parts of it covered by another image (CutMix).

Sources: Tarvainen & Valpola, Mean teachers are better role models (NeurIPS 2017): the averaged
weights as teacher, the ramp; Sohn et al., FixMatch (NeurIPS 2020): confident predictions of a
weakly augmented image as labels of a strongly augmented one; French et al. (BMVC
2020): CutMix for it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.classes import IGNORE
from fcnseg.concurrency import usable_cores
from fcnseg.config import TrainConfig
from fcnseg.datasets import Description, Pair
from fcnseg.datasets.augment import Augment, color_matrix, rectangle
from fcnseg.datasets.formats.stacks import read_page
from fcnseg.datasets.loader import Batch, BatchSampler, UnlabeledBatch, load, with_unlabeled
from fcnseg.datasets.many_files import ScanCache, WorkerPool
from fcnseg.datasets.scan import scan_images
from fcnseg.errors import OptionError, counted
from fcnseg.io.images import read_image
from fcnseg.io.sources.listing import Choose, collect
from fcnseg.io.warp import blurred, mix_channels
from fcnseg.models.spec import Preprocess
from fcnseg.progress import Callback, Message
from fcnseg.training.run_folder.state import TrainState
from fcnseg.training.schedule import ENDLESS

Feed = Callable[[int], Generator[Batch, None, None]]
"""The batches from a step to the end."""

LABELED_ONLY = 0.5
"""Initial fraction of the training without unlabeled images, until the teacher is good enough."""

RAMP = 0.2
"""Fraction of the training after that over which the weight of the loss rises."""

STRONG_COLOR, BLUR, MAX_BLUR = 0.6, 0.5, 2.0
"""Strong augmentation: of color, probability of a blur, its largest sigma in pixels."""

EPOCHS_BELOW = 3
"""Consecutive epochs below the best mIoU, after which unlabeled images are off."""

HARMFUL = (
    f"The unlabeled images do not help: {EPOCHS_BELOW} epochs in a row were below the best mIoU. "
    "The rest of the training is without them."
)


def find_unlabeled(
    folder: Path, description: Description, choose: Choose, callback: Callback
) -> tuple[Path, ...]:
    """Find the readable images of a folder, without duplicates and images of the dataset.

    Images are compared by content. OptionError if there are none. choose: which files are images,
    not labels. The callback receives what is skipped.
    """
    if not folder.is_dir():
        what = "is a file; a folder is needed" if folder.exists() else "is not there"
        raise OptionError(f"--unlabeled {folder} {what}.", hint="give a folder of images")
    paths = sorted(path for _, path in collect([str(folder)], choose, callback=callback).images)
    labelled = description.pairs
    pairs = [*labelled, *(Pair(path, path, "", str(path)) for path in paths)]
    with ScanCache(folder) as cache, WorkerPool(usable_cores()) as pool:
        seen = scan_images(pairs, cache, pool, read_page)
    first = len(labelled)
    own = {*seen.digests[:first].tolist()}
    bad = [path for i, path in enumerate(paths, first) if i in seen.problems]
    fresh: list[Path] = []
    for number, path in enumerate(paths, first):
        digest = int(seen.digests[number])
        if number not in seen.problems and digest not in own:
            own.add(digest)
            fresh.append(path)
    if bad:
        callback(
            Message(f"{counted(len(bad), 'unlabeled image')} can't be read: {bad[0]}", "warning")
        )
    if not fresh:
        raise OptionError(
            f"--unlabeled {folder}: {counted(len(paths), 'image')}, none that can be read and is "
            "not one of the dataset's.",
            hint="give a folder of other images of the same kind",
        )
    copies = len(paths) - len(bad) - len(fresh)
    note = f"; {copies} skipped, which the dataset or the folder has already" if copies else ""
    callback(Message(f"{counted(len(fresh), 'unlabeled image')} in {folder}{note}"))
    return tuple(fresh)


class Views(NamedTuple):
    """Two augmentations of the same crop of an unlabeled image.

    weak, strong: uint8 (H, W, 3) RGB. inside: bool (H, W), False for padding.
    covered: bool (H, W), where another image of the batch covers the strong one (CutMix).
    """

    weak: NDArray[np.uint8]
    strong: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    covered: NDArray[np.bool_]


@dataclass(frozen=True)
class UnlabeledImages:
    """Views of images; their random numbers are determined by (seed, epoch, index).

    batch: how many each step uses.
    """

    paths: Sequence[Path]
    augment: Augment
    preprocess: Preprocess
    seed: int
    batch: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> Views:
        image = read_image(self.paths[key[1]])
        rng = np.random.default_rng((self.seed, *key, 1))  # 1: other numbers than labelled images
        side, fill = self.preprocess.short_side, tuple(round(255 * m) for m in self.preprocess.mean)
        scale = 1.0 if side is None else side / min(image.shape[:2])
        everywhere = np.zeros(image.shape[:2], np.uint8)
        weak, labels = self.augment(image, everywhere, rng, fill=fill, base_scale=scale)
        strong = mix_channels(weak, color_matrix(STRONG_COLOR, rng))
        if rng.random() < BLUR:
            strong = blurred(strong, rng.uniform(0.1, MAX_BLUR))
        return Views(weak, strong, labels != IGNORE, rectangle(labels, rng))


def collate_views(views: Sequence[Views]) -> UnlabeledBatch:
    """Stack views of the same size."""
    arrays = (np.stack(each) for each in zip(*views, strict=True))
    return UnlabeledBatch(*map(torch.from_numpy, arrays))


def open_unlabeled(
    config: TrainConfig,
    preprocess: Preprocess,
    description: Description,
    processes: int,
    choose: Choose,
    state: TrainState,
    callback: Callback,
) -> UnlabeledImages:
    """Open the images of --unlabeled and record their number in the state.

    choose: leaves out label files. OptionError if they are not supported, or if their number
    differs when a run is resumed.
    """
    if preprocess.bands is not None or processes > 1:
        raise OptionError(
            "--unlabeled is for 8-bit RGB images and one process; found "
            + (f"{processes} processes." if processes > 1 else "images of other bands."),
            hint="omit --unlabeled",
        )
    assert config.unlabeled is not None
    assert config.crop is not None
    paths = find_unlabeled(config.unlabeled, description, choose, callback)
    if state.unlabeled_images not in (0, len(paths)):
        raise OptionError(
            f"The run began with {state.unlabeled_images} unlabeled images; now "
            f"{config.unlabeled} has {len(paths)}.",
            hint="restore the folder, or start a new run",
        )
    state.unlabeled_images = len(paths)
    augment = Augment(config.crop, scale=config.scale, flip=config.flip, color=0.0)
    return UnlabeledImages(paths, augment, preprocess, config.seed, int(config.batch))


def with_images(feed: Feed, images: UnlabeledImages, workers: int) -> Feed:
    """Add unlabeled images to the batches of a feed."""
    sampler = BatchSampler(len(images), images.batch, ENDLESS, images.seed)
    return lambda step: with_unlabeled(
        feed(step), load(images, sampler.keys(step), collate_views, workers=workers)
    )


def weight_at(done: float) -> float:
    """The weight of the loss, 0..1, after a fraction of the training."""
    if done < LABELED_ONLY:
        return 0.0
    return math.exp(-5 * (1 - min(1.0, (done - LABELED_ONLY) / RAMP)) ** 2)


def targets(logits: Tensor, inside: Tensor, threshold: float) -> Tensor:
    """Pseudo-labels int64 (N, H, W): the teacher's classes if it is confident, else 255.

    logits: (N, K, H, W). inside: bool (N, H, W).
    """
    confidence, classes = logits.float().softmax(1).max(1)
    return classes.masked_fill(~inside | (confidence < threshold), IGNORE)


def mixed(batch: UnlabeledBatch, labels: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix: the strong images and their labels, each partly covered by its neighbour."""
    images = torch.where(batch.covered[..., None], batch.strong.roll(1, 0), batch.strong)
    return images, torch.where(batch.covered, labels.roll(1, 0), labels)


def consistency(logits: Tensor, labels: Tensor, pixels: Tensor) -> Tensor:
    """Cross entropy, summed over confident pixels, divided by all `pixels`: a scalar."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="sum")
    return total / pixels.clamp_min(1)


@contextlib.contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Do not update running statistics of batch norms, which describe unmodified images."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


def harms(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last epochs, with unlabeled images, were all below the best mIoU before them.

    rows: the finished epochs; "confident" is None in epochs without unlabeled images.
    """
    before, last = rows[:-EPOCHS_BELOW], rows[-EPOCHS_BELOW:]
    if not before or any(row.get("confident") is None for row in last):
        return False
    return bool(max(row["miou"] for row in last) < max(row["miou"] for row in before))
