"""What every engine is: images in, logits or labels out. Labels are the argmax of logits.

They may be computed from coarse scores, without most of the logits (ScoreGrid). Logits are where
an engine leaves them: tensors of torch, or arrays where there may be no torch.
"""

from __future__ import annotations

import math
import sys
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.concurrency import physical_cores, usable_cores
from fcnseg.device import before_computing, set_threads_here

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]

Labels = NDArray[np.uint8]

_BLOCK = 1 << 12  # squares computed at once: their logits stay in the cache
_MOST = 64  # pixels that an element of the scores stands for, at most
_FEW = 8  # classes up to which finding out which can win takes longer than to upsample them all


@dataclass(frozen=True)
class ScoreGrid:
    """Where scores lie on the pixels: element i at factor * i + shift (models.backbones)."""

    factor: int
    shift: float

    @classmethod
    def from_dict(cls, data: Any) -> ScoreGrid | None:
        """The inverse of dataclasses.asdict, of a file's header; None for anything else."""
        match data:
            case {"factor": int(factor), "shift": int(shift) | float(shift)}:
                known = 2 <= factor <= _MOST and 0 <= shift < factor
                return cls(factor, float(shift)) if known else None
        return None

    @classmethod
    def of_resizing(cls, size: Size, wanted: Size) -> ScoreGrid | None:
        """Where pixels lie when `resized` to a whole number of times their size; else None."""
        factor = wanted[0] // size[0]
        larger = 1 < factor <= _MOST and wanted == (size[0] * factor, size[1] * factor)
        return cls(factor, (factor - 1) / 2) if larger else None

    def labels(self, scores: Floats, size: tuple[int, int]) -> Labels:
        """Labels uint8 (H, W) of scores float32 (K, h, w); size is (H, W), at most factor * (h, w).

        The first of several equal classes wins.
        """
        around = (self.before, 1)
        scores = np.pad(scores, ((0, 0), around, around), mode="edge")
        best = argmax_over_classes(scores)[0]  # (h + before + 1, w + before + 1)
        corner = best[:-1, :-1]
        mixed = (corner != best[1:, :-1]) | (corner != best[:-1, 1:]) | (corner != best[1:, 1:])
        rows, columns = np.nonzero(mixed)
        factor = self.factor
        squares = np.empty((len(corner), factor, corner.shape[1], factor), np.uint8)
        squares[:] = corner[:, None, :, None]
        for start in range(0, len(rows), _BLOCK):
            some = slice(start, start + _BLOCK)
            squares[rows[some], :, columns[some]] = self._between(scores, rows[some], columns[some])
        full = squares.reshape(len(corner) * factor, -1)
        cut = self.cut
        return np.ascontiguousarray(full[cut : cut + size[0], cut : cut + size[1]])

    def logits(self, scores: Floats, size: tuple[int, int]) -> Floats:
        """Logits (N, K, H, W) of scores float32 (N, K, h, w), with sizes as in `labels`."""
        far, around = self.far, (self.before, 1)
        maps = np.pad(scores, ((0, 0), (0, 0), around, around), mode="edge")
        left, right = maps[..., :-1, None], maps[..., 1:, None]
        maps = (left * (1 - far) + right * far).reshape(*maps.shape[:3], -1)
        above, below, down = maps[:, :, :-1, None], maps[:, :, 1:, None], far[:, None]
        maps = above * (1 - down) + below * down  # (N, K, h + before, factor, W')
        full = maps.reshape(*scores.shape[:2], -1, maps.shape[-1])
        cut = self.cut
        return np.ascontiguousarray(full[:, :, cut : cut + size[0], cut : cut + size[1]])

    def _between(self, scores: Floats, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Labels:
        """Labels uint8 (M, factor, factor) of the squares with these first corners."""
        classes, _, width = scores.shape
        flat, first = scores.reshape(classes, -1), rows * width + columns
        # (4, K, M)
        corners = np.stack([flat[:, first + step] for step in (0, 1, width, width + 1)])
        return (self._of_few if classes <= _FEW else self._of_many)(corners)

    def _of_few(self, corners: Floats) -> Labels:
        """Labels uint8 (M, factor, factor) between corners (4, K, M): every class is upsampled."""
        # Products and sums: a product of matrices wakes BLAS's threads, which then spin.
        far = self.far[:, None]
        one, two, three, four = corners[:, :, None]  # (K, 1, M)
        above, below = one * (1 - far) + two * far, three * (1 - far) + four * far
        labels = np.empty((corners.shape[2], self.factor, self.factor), np.uint8)
        for row, weight in enumerate(self.far):
            logits = above * (1 - weight) + below * weight  # (K, factor, M)
            labels[:, row] = argmax_over_classes(logits)[0].T
        return labels

    def _of_many(self, corners: Floats) -> Labels:
        """The same, to the bit; only classes that can win in a square are upsampled there."""
        possible, far = can_win(corners), self.far
        best = np.full((corners.shape[2], self.factor, self.factor), -np.inf, np.float32)
        labels = np.zeros(best.shape, np.uint8)
        for index in np.flatnonzero(possible.any(axis=1)):
            at = np.flatnonzero(possible[index])
            one, two, three, four = corners[:, index, at, None]  # (m, 1)
            above, below = one * (1 - far) + two * far, three * (1 - far) + four * far
            logits = above[:, None] * (1 - far[:, None]) + below[:, None] * far[:, None]
            before = best[at]  # (m, factor, factor)
            best[at] = np.maximum(logits, before)
            labels[at] = np.where(logits > before, np.uint8(index), labels[at])
        return labels

    @property
    def before(self) -> int:
        """Copies of the first element before it: pixels that lie before it are between the two."""
        return int(self.shift > 0)

    @property
    def cut(self) -> int:
        """Pixels between the first element and its copy that are none of the image."""
        return self.before * (self.factor - math.ceil(self.shift))

    @cached_property
    def far(self) -> Floats:
        """(factor,): how far each pixel of a square is from its first corner, 0 to 1."""
        pixels = math.ceil(self.shift) - self.shift + np.arange(self.factor)
        return np.asarray(pixels / self.factor, np.float32)


LOST_BY_ROUNDING = 1e-6  # of the largest absolute value: more than the upsampling's arithmetic


def can_win(corners: Floats) -> NDArray[np.bool_]:
    """Which classes may have the highest value somewhere between corners (4, K, M): (K, M).

    A class whose highest corner is below another one's lowest is below it everywhere; by more than
    the arithmetic loses, so that rounding changes no label.
    """
    lowest, highest = corners.min(axis=0), corners.max(axis=0)  # (K, M)
    largest = np.maximum(-lowest.min(axis=0), highest.max(axis=0))  # (M,), of their absolute values
    limit = lowest.max(axis=0) - np.float32(LOST_BY_ROUNDING) * largest
    return np.asarray(highest >= limit)


_PIXELS_AT_ONCE = 1 << 17  # enough for few calls, few enough to stay in the cache


def argmax_labels(
    logits: Tensor | Floats, *, confidence: bool = False
) -> tuple[Labels, Floats | None]:
    """Labels uint8 (N, H, W) of logits (N, K, H, W), and their probability if requested.

    Computed where the logits are: only labels leave the device. The first of several
    equal classes wins.
    """
    if isinstance(logits, np.ndarray):
        return _argmax_on_cpu(logits, confidence)
    if logits.device.type == "cpu" and logits.is_floating_point() and logits.element_size() == 4:
        return _argmax_on_cpu(logits.detach().numpy(), confidence)
    best, labels = logits.max(dim=1)
    sure = (best - logits.logsumexp(dim=1)).exp().float().cpu().numpy() if confidence else None
    return labels.byte().cpu().numpy(), sure


def softmax(logits: Tensor | Floats, axis: int) -> Floats:
    """Softmax along an axis, in host memory."""
    if not isinstance(logits, np.ndarray):
        found: Floats = logits.softmax(dim=axis).cpu().numpy()
        return found
    exponentials: Floats = np.exp(logits - logits.max(axis=axis, keepdims=True))
    exponentials /= exponentials.sum(axis=axis, keepdims=True)
    return exponentials


def _argmax_on_cpu(logits: Floats, confidence: bool) -> tuple[Labels, Floats | None]:
    """The same on the processor, in a sixth of the time that torch's max takes."""
    count, _, height, width = logits.shape
    labels = np.empty((count, height, width), np.uint8)
    confidences = np.empty((count, height, width), np.float32) if confidence else None
    rows = max(1, _PIXELS_AT_ONCE // width)
    for index in range(count):
        for top in range(0, height, rows):
            block = logits[index, :, top : top + rows]  # (K, rows, W)
            labels[index, top : top + rows], best = argmax_over_classes(block)
            if confidences is not None:
                exponentials = np.exp(block - best)
                np.reciprocal(exponentials.sum(axis=0), out=confidences[index, top : top + rows])
    return labels, confidences


def argmax_over_classes(scores: Floats) -> tuple[Labels, Floats]:
    """The class with the highest of scores (K, H, W), uint8 (H, W), and that score; the first."""
    best: Floats = scores[0].copy()
    labels = np.zeros(best.shape, np.uint8)
    above = np.empty(best.shape, np.bool_)
    number = above.view(np.uint8)  # the same bytes: 0 or 1, then 0 or the class
    for index in range(1, len(scores)):
        np.greater(scores[index], best, out=above)
        np.maximum(scores[index], best, out=best)
        np.multiply(number, np.uint8(index), out=number)
        np.maximum(labels, number, out=labels)
    return labels, best


Images = NDArray[Any]

Size = tuple[int, int]

MAX_PARALLEL = 4  # images; each needs the memory of a forward pass

_here = threading.local()


@dataclass(frozen=True)
class Parallelism:
    """count: images (or batches) at the same time. threads: for each; 0: the runtime's choice."""

    count: int = 1
    threads: int = 0

    def enter(self) -> None:
        """Keep the calling thread to its number of cores, in torch."""
        loaded = sys.modules.get("torch") is not None  # exported files are run without it
        if loaded and self.count > 1 and getattr(_here, "entered", None) != self:
            set_threads_here(self.threads)
            _here.entered = self
        before_computing()


SEQUENTIAL = Parallelism()


def parallelism_on(device: str) -> Parallelism:
    """For many images on a device: a CPU's cores are divided, anything else is one."""
    if device != "cpu":
        return SEQUENTIAL
    torch = sys.modules.get("torch")
    cores = physical_cores() if torch is None else min(usable_cores(), torch.get_num_threads())
    count = min(cores, MAX_PARALLEL)
    return Parallelism(count, cores // count) if count > 1 else SEQUENTIAL


class Engine(ABC):
    """Runs one network on uint8 RGB images (N, H, W, 3).

    name: which runtime ("torch", "onnxruntime", "openvino" ...).
    device: where it runs, as torch names devices.
    precision: its arithmetic ("f32", "bf16", "f16", "int8").
    parallelism: how many threads may call it at the same time, and the cores of each.
    score_grid: where the elements of `scores` lie; None where there are none, or where the device
        computes labels of logits faster.
    shows_network: whether it is a TorchEngine, whose one network can be looked into.
    """

    name: str
    device: str
    precision: str
    parallelism: Parallelism = SEQUENTIAL
    score_grid: ScoreGrid | None = None
    shows_network: ClassVar[bool] = False

    @abstractmethod
    def forward(self, images: Images) -> Tensor | Floats:
        """Logits, float32 (N, K, H, W), where the engine leaves them; the bare network.

        That is a tensor on its device, or an array in host memory.
        """

    @property
    def sums_scores(self) -> bool:
        """Whether `skip_scores` gives a sum with one term per skip (fuse is "score", in torch)."""
        return False

    def scores(self, images: Images) -> NDArray[np.float32]:
        """What the logits are upsampled from, float32 (N, K, h, w); the logits without a grid."""
        return self.logits(images)

    def synchronize(self) -> None:
        """Wait until everything asked for so far is computed."""
        return  # most engines have computed it when they return

    def logits(self, images: Images, *, size: Size | None = None) -> NDArray[np.float32]:
        """Logits float32 (N, K, H, W); with `size`, resized to that height and width."""
        self.parallelism.enter()
        logits = resized(self.forward(images), size)
        if isinstance(logits, np.ndarray):
            return logits
        return np.asarray(logits.cpu().numpy())

    def labels(
        self, images: Images, *, confidence: bool = False, size: Size | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Labels uint8 (N, H, W) and, when asked for, the winners' probability float32 (N, H, W).

        Computed where the logits are: only labels leave the device. With `size` the
        logits (not the labels) are resized before the argmax.
        """
        self.parallelism.enter()
        own: Size = (images.shape[1], images.shape[2])
        size = size or own
        if not confidence and size == own and self.score_grid is not None:
            grid = self.score_grid
            return np.stack([grid.labels(one, own) for one in self.scores(images)]), None
        if not confidence and self.device == "cpu" and (finer := ScoreGrid.of_resizing(own, size)):
            return np.stack([finer.labels(one, size) for one in self.logits(images)]), None
        return argmax_labels(resized(self.forward(images), size), confidence=confidence)

    def just_labels(self, images: Images) -> NDArray[np.uint8]:
        """Labels uint8 (N, H, W) of images at their own size."""
        return self.labels(images)[0]

    def probabilities(
        self, images: Images, *, size: Size | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Labels uint8 (N, H, W) and softmax over the classes, float32 (N, K, H, W)."""
        self.parallelism.enter()
        logits = resized(self.forward(images), size)
        return argmax_labels(logits)[0], softmax(logits, axis=1)


def resized(logits: Tensor | Floats, size: Size | None) -> Tensor | Floats:
    """Logits at another height and width, bilinear; as they are when they have it already."""
    if size is None or tuple(logits.shape[2:]) == size:
        return logits
    from torch.nn.functional import interpolate

    found = interpolate(as_tensor(logits), size, mode="bilinear", align_corners=False)
    return found.numpy() if isinstance(logits, np.ndarray) else found


def as_tensor(maps: Tensor | Floats) -> Tensor:
    """What an engine leaves, as a tensor of torch."""
    from torch import from_numpy

    return from_numpy(maps) if isinstance(maps, np.ndarray) else maps
