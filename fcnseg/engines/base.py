"""The engine interface: images in, logits or labels out. Labels are the argmax of logits.

They may be computed from coarse scores, without most of the logits (ScoreGrid). Logits are torch
tensors, or arrays from engines that don't need torch.
"""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.concurrency import physical_cores, usable_cores
from fcnseg.device import before_computing, set_threads_here

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Images = NDArray[Any]
Labels = NDArray[np.uint8]
Size = tuple[int, int]

_BLOCK = 1 << 12  # squares computed at once: their logits fit in the cache
_MAX_FACTOR = 64  # of upsampling


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

    def labels(self, scores: Floats, size: tuple[int, int]) -> Labels:
        """Labels uint8 (H, W) of scores float32 (K, h, w); size: at most factor * (h, w)."""
        rows, columns = ((np.arange(length) - self.shift) / self.factor for length in size)
        return interpolated_labels(scores, rows, columns)

    def logits(self, scores: Floats, size: tuple[int, int]) -> Floats:
        """Logits (N, K, H, W) of scores float32 (N, K, h, w), with sizes as in `labels`."""
        for axis, length in zip((3, 2), size[::-1], strict=True):
            last = scores.shape[axis] - 1
            at = np.clip((np.arange(length) - self.shift) / self.factor, 0, last)
            first = at.astype(np.intp)
            t = (at - first).astype(np.float32).reshape(-1, *[1] * (3 - axis))
            second = np.minimum(first + 1, last)
            scores = scores.take(first, axis) * (1 - t) + scores.take(second, axis) * t
        return scores


def enlarged_labels(logits: Floats, size: Size) -> Labels:
    """Labels uint8 (H, W) of logits float32 (K, h, w) enlarged (bilinear) to a height and width."""
    rows, columns = (
        (np.arange(wanted) + 0.5) * (length / wanted) - 0.5
        for wanted, length in zip(size, logits.shape[1:], strict=True)
    )
    return interpolated_labels(logits, rows, columns)


def interpolated_labels(
    scores: Floats, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> Labels:
    """Labels uint8 (H, W) of bilinear interpolation between scores float32 (K, h, w).

    rows, columns: positions of the labels, (H,) and (W,), ascending, in elements of the scores;
    beyond the first and the last one these are repeated. The first of equal classes wins. Scores
    are interpolated only in squares whose four corners differ in the best class.
    """
    classes, height, width = scores.shape
    down, across = _Axis(rows, height), _Axis(columns, width)
    best = np.pad(argmax_over_classes(scores)[0], 1, mode="edge")  # (h + 2, w + 2)
    corner = best[:-1, :-1]
    mixed = (corner != best[1:, :-1]) | (corner != best[:-1, 1:]) | (corner != best[1:, 1:])
    mixed &= down.used[:, None] & across.used
    labels = corner[down.squares].take(across.squares, axis=1)
    flat, (ys, xs) = scores.reshape(classes, -1), np.nonzero(mixed)
    for start in range(0, len(ys), _BLOCK):
        y, x = ys[start : start + _BLOCK], xs[start : start + _BLOCK]
        top, left = down.corners[:, y] * width, across.corners[:, x]
        places = [top[0] + left[0], top[0] + left[1], top[1] + left[0], top[1] + left[1]]
        corners = np.stack([flat.take(place, axis=1) for place in places])  # (4, K, M)
        with np.errstate(invalid="ignore"):  # infinite scores, of networks that diverged
            found = _upsample(corners, down.fractions[:, y], across.fractions[:, x])
        labels[down.pixels[:, None, y], across.pixels[:, x]] = found
    return labels


class _Axis:
    """Ascending positions between the elements of an axis, grouped by square.

    Square s lies between the elements s - 1 and s; the border's elements are repeated, so there is
    one more square than elements. F: the largest number of positions in a square. Where there are
    fewer, the last one is repeated.

    squares: (N,) of each position. used: (S,), which have a position. corners: (2, S) elements.
    pixels, fractions: (F, S), a square's positions and their distances from its first corner.
    """

    def __init__(self, positions: NDArray[np.float64], elements: int) -> None:
        below = np.floor(positions).astype(np.intp)
        squares = np.arange(elements + 1)
        self.squares = np.clip(below + 1, 0, elements)
        starts, ends = (np.searchsorted(self.squares, squares, side) for side in ("left", "right"))
        self.used = starts < ends
        self.corners = np.stack([np.maximum(squares - 1, 0), np.minimum(squares, elements - 1)])
        steps = np.arange((ends - starts).max())[:, None]
        self.pixels = np.minimum(starts + steps, ends - 1)
        self.fractions = (positions - below).astype(np.float32)[self.pixels]


def _upsample(corners: Floats, down: Floats, across: Floats) -> Labels:
    """Labels uint8 (F, G, M) between corners (4, K, M) at fractions (F, M) and (G, M).

    In each square only the classes that can win are interpolated.
    """
    possible = can_win(corners)
    # Elementwise: a matrix product would wake BLAS's threads, which then spin.
    down, across = np.ascontiguousarray(down.T)[..., None], np.ascontiguousarray(across.T)
    best = np.full((len(down), down.shape[1], across.shape[1]), -np.inf, np.float32)  # (M, F, G)
    labels = np.zeros(best.shape, np.uint8)
    for index in np.flatnonzero(possible.any(axis=1)):
        at = np.flatnonzero(possible[index])
        one, two, three, four = corners[:, index, at, None]  # (m, 1)
        t, u = across[at], down[at]
        above, below = one * (1 - t) + two * t, three * (1 - t) + four * t
        logits = above[:, None] * (1 - u) + below[:, None] * u
        before = best[at]
        best[at] = np.maximum(logits, before)
        labels[at] = np.where(logits > before, np.uint8(index), labels[at])
    return labels.transpose(1, 2, 0)


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
        enlarged = size != own and size[0] >= own[0] and size[1] >= own[1]
        if enlarged and not confidence and self.device == "cpu":
            return np.stack([enlarged_labels(one, size) for one in self.logits(images)]), None
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
