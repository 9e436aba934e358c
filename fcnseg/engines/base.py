"""The engine interface: images in, logits or labels out. Labels are the argmax of logits.

They may be computed from coarse scores, without most of the logits (ScoreGrid). Logits are torch
tensors, or arrays from engines that don't need torch.
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

_BLOCK = 1 << 12  # squares computed at once: their logits fit in the cache
_MAX_FACTOR = 64  # of upsampling
_FEW = 8  # classes up to which upsampling all is faster than finding those that can win


@dataclass(frozen=True)
class ScoreGrid:
    """The pixel positions of scores: element i at factor * i + shift (models.backbones)."""

    factor: int
    shift: float

    @classmethod
    def from_dict(cls, data: Any) -> ScoreGrid | None:
        """The inverse of dataclasses.asdict, of a file's header; None for anything else."""
        match data:
            case {"factor": int(factor), "shift": int(shift) | float(shift)}:
                valid = 2 <= factor <= _MAX_FACTOR and 0 <= shift < factor
                return cls(factor, float(shift)) if valid else None
        return None

    @classmethod
    def of_resizing(cls, size: Size, wanted: Size) -> ScoreGrid | None:
        """The grid of enlarging (bilinear) by an integer factor; None for other sizes."""
        factor = wanted[0] // size[0]
        larger = 1 < factor <= _MAX_FACTOR and wanted == (size[0] * factor, size[1] * factor)
        return cls(factor, (factor - 1) / 2) if larger else None

    def labels(self, scores: Floats, size: tuple[int, int]) -> Labels:
        """Labels uint8 (H, W) of scores float32 (K, h, w); size is (H, W), at most factor * (h, w).

        The first of equal classes wins. Logits are computed only where neighbours differ.
        """
        padding = (self.before, 1)
        scores = np.pad(scores, ((0, 0), padding, padding), mode="edge")
        best = argmax_over_classes(scores)[0]  # (h + before + 1, w + before + 1)
        corner = best[:-1, :-1]
        mixed = (corner != best[1:, :-1]) | (corner != best[:-1, 1:]) | (corner != best[1:, 1:])
        rows, columns = np.nonzero(mixed)
        factor = self.factor
        squares = np.empty((len(corner), factor, corner.shape[1], factor), np.uint8)
        squares[:] = corner[:, None, :, None]
        for start in range(0, len(rows), _BLOCK):
            some = slice(start, start + _BLOCK)
            squares[rows[some], :, columns[some]] = self._square_labels(
                scores, rows[some], columns[some]
            )
        full = squares.reshape(len(corner) * factor, -1)
        cut = self.cut
        return np.ascontiguousarray(full[cut : cut + size[0], cut : cut + size[1]])

    def logits(self, scores: Floats, size: tuple[int, int]) -> Floats:
        """Logits (N, K, H, W) of scores float32 (N, K, h, w), with sizes as in `labels`."""
        t, padding = self.fractions, (self.before, 1)
        maps = np.pad(scores, ((0, 0), (0, 0), padding, padding), mode="edge")
        left, right = maps[..., :-1, None], maps[..., 1:, None]
        maps = (left * (1 - t) + right * t).reshape(*maps.shape[:3], -1)
        above, below, down = maps[:, :, :-1, None], maps[:, :, 1:, None], t[:, None]
        maps = above * (1 - down) + below * down  # (N, K, h + before, factor, W')
        full = maps.reshape(*scores.shape[:2], -1, maps.shape[-1])
        cut = self.cut
        return np.ascontiguousarray(full[:, :, cut : cut + size[0], cut : cut + size[1]])

    def _square_labels(
        self, scores: Floats, rows: NDArray[np.intp], columns: NDArray[np.intp]
    ) -> Labels:
        """Labels uint8 (M, factor, factor) of the squares with these top left corners."""
        classes, _, width = scores.shape
        flat, first = scores.reshape(classes, -1), rows * width + columns
        # (4, K, M)
        corners = np.stack([flat[:, first + step] for step in (0, 1, width, width + 1)])
        with np.errstate(invalid="ignore"):  # infinite scores, of networks that diverged
            return (self._upsample_all if classes <= _FEW else self._upsample_candidates)(corners)

    def _upsample_all(self, corners: Floats) -> Labels:
        """Labels uint8 (M, factor, factor) between corners (4, K, M): every class is upsampled."""
        # Elementwise: a matrix product would wake BLAS's threads, which then spin.
        t = self.fractions[:, None]
        one, two, three, four = corners[:, :, None]  # (K, 1, M)
        above, below = one * (1 - t) + two * t, three * (1 - t) + four * t
        labels = np.empty((corners.shape[2], self.factor, self.factor), np.uint8)
        for row, weight in enumerate(self.fractions):
            logits = above * (1 - weight) + below * weight  # (K, factor, M)
            labels[:, row] = argmax_over_classes(logits)[0].T
        return labels

    def _upsample_candidates(self, corners: Floats) -> Labels:
        """As _upsample_all, bit for bit; in each square only classes that can win are upsampled."""
        possible, t = can_win(corners), self.fractions
        best = np.full((corners.shape[2], self.factor, self.factor), -np.inf, np.float32)
        labels = np.zeros(best.shape, np.uint8)
        for index in np.flatnonzero(possible.any(axis=1)):
            at = np.flatnonzero(possible[index])
            one, two, three, four = corners[:, index, at, None]  # (m, 1)
            above, below = one * (1 - t) + two * t, three * (1 - t) + four * t
            logits = above[:, None] * (1 - t[:, None]) + below[:, None] * t[:, None]
            before = best[at]  # (m, factor, factor)
            best[at] = np.maximum(logits, before)
            labels[at] = np.where(logits > before, np.uint8(index), labels[at])
        return labels

    @property
    def before(self) -> int:
        """Elements replicated before the first one, for the pixels before it: 0 or 1."""
        return int(self.shift > 0)

    @property
    def cut(self) -> int:
        """Pixels between the replicated and the first element that lie outside the image."""
        return self.before * (self.factor - math.ceil(self.shift))

    @cached_property
    def fractions(self) -> Floats:
        """(factor,): interpolation weights, each pixel's distance from the first corner, 0 to 1."""
        pixels = math.ceil(self.shift) - self.shift + np.arange(self.factor)
        return np.asarray(pixels / self.factor, np.float32)


ROUNDING_ERROR = 1e-6  # relative to the largest absolute value: an upper bound for the upsampling


def can_win(corners: Floats) -> NDArray[np.bool_]:
    """Which classes can have the highest value somewhere between corners (4, K, M): (K, M).

    A class whose highest corner is below another class's lowest is below it everywhere. The margin
    is larger than rounding errors, so that these change no label.
    """
    lowest, highest = corners.min(axis=0), corners.max(axis=0)  # (K, M)
    largest = np.maximum(-lowest.min(axis=0), highest.max(axis=0))  # (M,), of their absolute values
    limit = lowest.max(axis=0) - np.float32(ROUNDING_ERROR) * largest
    return np.asarray(highest >= limit)


_PIXELS_AT_ONCE = 1 << 17  # large enough for few calls, small enough for the cache


def argmax_labels(
    logits: Tensor | Floats, *, confidence: bool = False
) -> tuple[Labels, Floats | None]:
    """Return labels uint8 (N, H, W) of logits (N, K, H, W), and if requested their probability.

    Computed on the logits' device: only the results are copied to host memory. The first of
    several equal classes wins.
    """
    if isinstance(logits, np.ndarray):
        return _argmax_on_cpu(logits, confidence)
    if logits.device.type == "cpu" and logits.is_floating_point() and logits.element_size() == 4:
        return _argmax_on_cpu(logits.detach().numpy(), confidence)
    best, labels = logits.max(dim=1)
    sure = (best - logits.logsumexp(dim=1)).exp().float().cpu().numpy() if confidence else None
    return labels.byte().cpu().numpy(), sure


def softmax(logits: Tensor | Floats, axis: int) -> Floats:
    """Softmax along an axis, as an array in host memory."""
    if not isinstance(logits, np.ndarray):
        found: Floats = logits.softmax(dim=axis).cpu().numpy()
        return found
    exponentials: Floats = np.exp(logits - logits.max(axis=axis, keepdims=True))
    exponentials /= exponentials.sum(axis=axis, keepdims=True)
    return exponentials


def _argmax_on_cpu(logits: Floats, confidence: bool) -> tuple[Labels, Floats | None]:
    """argmax_labels on the CPU, six times as fast as torch's max."""
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
    """The (first) class with the highest of scores (K, H, W), uint8 (H, W), and that score."""
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
    """count: parallel calls. threads: of each call; 0: the runtime's choice."""

    count: int = 1
    threads: int = 0

    def enter(self) -> None:
        """Limit torch to `threads` threads in the calling thread."""
        loaded = sys.modules.get("torch") is not None  # exported files run without it
        if loaded and self.count > 1 and getattr(_here, "entered", None) != self:
            set_threads_here(self.threads)
            _here.entered = self
        before_computing()


SEQUENTIAL = Parallelism()


def parallelism_on(device: str) -> Parallelism:
    """Parallelism for many images: the cores of a CPU are divided, other devices take one call."""
    if device != "cpu":
        return SEQUENTIAL
    torch = sys.modules.get("torch")
    cores = physical_cores() if torch is None else min(usable_cores(), torch.get_num_threads())
    count = min(cores, MAX_PARALLEL)
    return Parallelism(count, cores // count) if count > 1 else SEQUENTIAL


class Engine(ABC):
    """Runs one network on uint8 RGB images (N, H, W, 3).

    name: the runtime ("torch", "onnxruntime", "openvino" ...).
    device: in torch's notation.
    precision: numeric precision ("f32", "bf16", "f16", "int8").
    parallelism: how many threads may call it at the same time, and the cores of each.
    score_grid: the grid of `scores`; None without scores, or where the device computes labels
        faster from logits.
    shows_network: whether it is a TorchEngine, whose network can be inspected.
    """

    name: str
    device: str
    precision: str
    parallelism: Parallelism = SEQUENTIAL
    score_grid: ScoreGrid | None = None
    shows_network: ClassVar[bool] = False

    @abstractmethod
    def forward(self, images: Images) -> Tensor | Floats:
        """Run the network: logits float32 (N, K, H, W), a tensor on the device or an array."""

    @property
    def sums_scores(self) -> bool:
        """Whether `skip_scores` splits the logits into one term per skip (torch, fuse "score")."""
        return False

    def scores(self, images: Images) -> NDArray[np.float32]:
        """The scores that logits are upsampled from, float32 (N, K, h, w); else the logits."""
        return self.logits(images)

    def synchronize(self) -> None:
        """Wait until all previous calls are computed."""
        return  # most engines are synchronous

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
        """Labels uint8 (N, H, W) and, if requested, their probability float32 (N, H, W).

        Computed on the logits' device: only the results are copied to host memory. With `size`
        the logits (not the labels) are resized before the argmax.
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
    """Resize logits to a height and width, bilinear; unchanged if they have it already."""
    if size is None or tuple(logits.shape[2:]) == size:
        return logits
    from torch.nn.functional import interpolate

    found = interpolate(as_tensor(logits), size, mode="bilinear", align_corners=False)
    return found.numpy() if isinstance(logits, np.ndarray) else found


def as_tensor(maps: Tensor | Floats) -> Tensor:
    """An engine's output as a torch tensor."""
    from torch import from_numpy

    return from_numpy(maps) if isinstance(maps, np.ndarray) else maps
