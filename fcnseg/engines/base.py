"""What every engine is: arrays in, logits or labels out; and those that run an exported file."""

from __future__ import annotations

import copy
import os
import queue
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.concurrency import physical_cores, usable_cores
from fcnseg.device import OpenedIn, before_computing, never_free, set_threads_here
from fcnseg.engines.argmax import Floats, ScoreGrid, argmax_labels, softmax
from fcnseg.engines.exported import LABELS, LOGITS, SCORES, check_data_files
from fcnseg.errors import CheckpointError, FcnsegError, OptionError, reason

if TYPE_CHECKING:
    from torch import Tensor

Images = NDArray[Any]

Size = tuple[int, int]

MAX_PARALLEL = 4
"""Images in parallel; each needs the memory of a forward pass."""

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
        array: NDArray[np.float32] = logits.cpu().numpy()
        return array

    def labels(
        self, images: Images, *, confidence: bool = False, size: Size | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Labels uint8 (N, H, W) and, when asked for, the winners' probability float32 (N, H, W).

        Computed where the logits are: only labels leave the device. With `size` the
        logits (not the labels) are resized before the argmax.
        """
        self.parallelism.enter()
        own: Size = (images.shape[1], images.shape[2])
        if self.score_grid is not None and not confidence and size in (None, own):
            grid = self.score_grid
            return np.stack([grid.labels(one, own) for one in self.scores(images)]), None
        return argmax_labels(resized(self.forward(images), size), confidence=confidence)

    def just_labels(self, images: Images) -> NDArray[np.uint8]:
        """Labels uint8 (N, H, W) of images at their own size."""
        return self.labels(images)[0]

    def least_seconds(self, images: Images, *, within: float = 0.0) -> float:
        """The shortest time that labels take, of three times or as many as fit within seconds."""
        self.labels(images)
        laps, began = list[float](), time.perf_counter()
        while len(laps) < 3 or time.perf_counter() - began < within:
            start = time.perf_counter()
            self.labels(images)
            laps.append(time.perf_counter() - start)
        return min(laps)

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


def first_line(error: Exception) -> str:
    """What a runtime's error says first; the rest is where in its own code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if not re.match(r"Exception from |Check '|While ", line)]
    first = (causes or lines or [type(error).__name__])[0]
    # ONNX Runtime: "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from a.onnx failed:..."
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first)
    return re.sub(r"^Load model from .* failed:\s*", "", first).rstrip(".")


_opening = threading.RLock()

if hasattr(os, "register_at_fork"):  # another thread may hold it when the process is forked
    os.register_at_fork(after_in_child=lambda: globals().update(_opening=threading.RLock()))

Workers = queue.SimpleQueue[Any]
"""What computes one output, one for each parallel call; a call takes one and puts it back."""


def as_workers(found: Iterable[Any]) -> Workers:
    """A queue of what computes an output."""
    workers: Workers = queue.SimpleQueue()
    for one in found:
        workers.put(one)
    return workers


def check_is_cpu(device: str, runs: str) -> None:
    """OptionError for another device than the processor; runs: "LiteRT runs"."""
    if device not in ("auto", "cpu"):
        raise OptionError(
            f"{runs} on the processor here; {device} was requested.",
            hint="--device cpu, or --engine torch with the checkpoint",
        )


class ExportedEngine(Engine):
    """A file written by `fcnseg export`; what computes an output is made when first asked for.

    suffixes, precisions: the files it runs, and in what it computes. names_data_files: whether
    those may name files of their weights. header: the checkpoint's header, as the file carries it.
    has_scores: whether the file gives the scores that its logits are upsampled from; whoever opens
    it sets `score_grid` then.
    has_labels: whether it computes labels itself. has_logits: whether it gives logits; they are
    upsampled from its scores otherwise. fixed_size: the only (height, width) it takes,
    one image at a time; None: any. channels_first: whether the file takes (N, C, H, W).

    It pickles and copies by its file, which is opened again; so it is in a forked process.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    precisions: ClassVar[tuple[str, ...]] = ("f32",)
    names_data_files: ClassVar[bool] = True
    header: str
    has_scores = False
    has_labels = False
    has_logits = True
    fixed_size: Size | None = None
    channels_first = False

    def __init__(self, path: Path, **options: Any) -> None:
        if self.names_data_files:
            check_data_files(path)
        self._opened_as = path.resolve(), options
        self._free: dict[str, Workers] = {}
        self._making = threading.Lock()
        self._opened_in = OpenedIn()

    def __reduce__(self) -> tuple[Any, ...]:
        path, options = self._opened_as
        names = ("precision", "score_grid", "fixed_size", "channels_first")
        state = {name: getattr(self, name) for name in names}
        return reopened, (type(self), path, options, state)

    def forward(self, images: Images) -> Floats:
        """Logits, float32 (N, K, H, W), in host memory."""
        if self.has_logits:
            return self._run(LOGITS, images)
        if self.score_grid is None:
            raise CheckpointError(
                f"{self._opened_as[0]} gives no logits, and does not say where its scores lie.",
                hint="export the checkpoint again: fcnseg export MODEL",
            )
        size: Size = (images.shape[1], images.shape[2])
        return self.score_grid.logits(self._run(SCORES, images), size)

    def scores(self, images: Images) -> NDArray[np.float32]:
        """The scores that the logits are upsampled from, float32 (N, K, h, w)."""
        return self._run(SCORES, images)

    def labels(
        self, images: Images, *, confidence: bool = False, size: Size | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """As Engine.labels; where the file computes labels, they are taken from there."""
        own: Size = (images.shape[1], images.shape[2])
        if self.has_labels and not confidence and size in (None, own):
            self.parallelism.enter()
            return np.asarray(self._run(LABELS, images), np.uint8), None
        return super().labels(images, confidence=confidence, size=size)

    @abstractmethod
    def _workers(self, output: str) -> Workers:
        """What computes an output and, where the runtime allows it, nothing else."""

    @abstractmethod
    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        """A worker's output."""

    def _open_here(self) -> None:
        """Open the file in this process: the runtime's threads stayed in the one that forked it."""
        self._opened_in.check_device(self.device)
        never_free(self.__dict__.copy())
        here = copy.copy(self)
        self.__dict__.clear()
        self.__dict__.update(here.__dict__)

    def _run(self, output: str, images: Images) -> NDArray[np.float32]:
        if self.fixed_size is None:
            return self._run_together(output, images)
        if images.shape[1:3] != self.fixed_size:
            (height, width), found = self.fixed_size, images.shape
            raise OptionError(
                f"{self._opened_as[0].name} takes images of {width} x {height} pixels only; "
                f"found one of {found[2]} x {found[1]} pixels.",
                hint="resize the images, or export the checkpoint without --size",
            )
        return np.concatenate([self._run_together(output, one[None]) for one in images])

    def _run_together(self, output: str, images: Images) -> NDArray[np.float32]:
        before_computing(self._opened_in)
        with _opening:
            if self._opened_in.forked_since():
                self._open_here()
        with self._making:
            if output not in self._free:
                self._free[output] = self._workers(output)
        worker = self._free[output].get()
        try:
            taken = channels_first(images) if self.channels_first else np.ascontiguousarray(images)
            return self._compute(worker, output, {"images": taken})
        except (FcnsegError, MemoryError):
            raise
        except Exception as error:  # the runtimes' errors share no base class
            path = self._opened_as[0]
            raise CheckpointError(
                f"{self.name} can't compute {path}: {reason(error)}.",
                hint="export the checkpoint again: fcnseg export MODEL",
            ) from error
        finally:
            self._free[output].put(worker)


def channels_first(images: Images) -> Images:
    """Images (N, H, W, C) as (N, C, H, W), in memory too."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def reopened(
    kind: type[Engine], path: Path, options: dict[str, Any], state: dict[str, Any]
) -> Engine:
    """An engine of a file, opened as another one was; CheckpointError where it is gone."""
    engine: Engine = kind(path, **options)  # type: ignore[call-arg]
    for name, value in state.items():
        setattr(engine, name, value)
    return engine
