"""The base class of engines that run files written by `fcnseg export`."""

from __future__ import annotations

import copy
import os
import queue
import re
import threading
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fcnseg.device import OpenedIn, before_computing, keep_alive
from fcnseg.engines.base import Engine, Floats, Images, Size
from fcnseg.engines.model_files import LABELS, LOGITS, SCORES, check_data_files
from fcnseg.errors import CheckpointError, FcnsegError, OptionError, reason

_opening = threading.RLock()

if hasattr(os, "register_at_fork"):  # another thread may hold the lock when the process forks
    os.register_at_fork(after_in_child=lambda: globals().update(_opening=threading.RLock()))


Workers = queue.SimpleQueue[Any]
"""The runtime's objects that compute an output, one per parallel call: a call takes one from the
queue and puts it back."""


def as_workers(found: Iterable[Any]) -> Workers:
    """Put a runtime's objects into a queue."""
    workers: Workers = queue.SimpleQueue()
    for one in found:
        workers.put(one)
    return workers


def check_is_cpu(device: str, runs: str) -> None:
    """OptionError for another device than the CPU. runs: for the message, "LiteRT runs"."""
    if device not in ("auto", "cpu"):
        raise OptionError(
            f"{runs} on the processor here; {device} was requested.",
            hint="--device cpu, or --engine torch with the checkpoint",
        )


class ExportedEngine(Engine):
    """Runs a file written by `fcnseg export`; the workers of an output are created on first use.

    suffixes: of the files it runs. precisions: that it supports. names_data_files: whether such a
    file may refer to files of external weights. header: the checkpoint's header in the file.
    has_scores: whether the file has an output with the scores that its logits are upsampled from;
    if so, open_exported sets `score_grid`.
    has_labels: whether it has an output with labels. has_logits: whether it has one with logits;
    otherwise they are upsampled from its scores. fixed_size: the only (height, width) it takes,
    one image at a time; None: any. channels_first: whether the file takes (N, C, H, W).

    Pickling and copying store the path; the file is opened again, as it is after a fork.
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
        self._idle: dict[str, Workers] = {}
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
        """As Engine.labels; taken from the file's own output of labels if it has one."""
        own: Size = (images.shape[1], images.shape[2])
        if self.has_labels and not confidence and size in (None, own):
            self.parallelism.enter()
            return np.asarray(self._run(LABELS, images), np.uint8), None
        return super().labels(images, confidence=confidence, size=size)

    @abstractmethod
    def _workers(self, output: str) -> Workers:
        """Create the workers of an output; if the runtime allows it, they compute only that one."""

    @abstractmethod
    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        """Run a worker and return this output."""

    def _reopen_after_fork(self) -> None:
        """Open the file again: the runtime's threads exist only in the parent process."""
        self._opened_in.check_device(self.device)
        keep_alive(self.__dict__.copy())
        here = copy.copy(self)
        self.__dict__.clear()
        self.__dict__.update(here.__dict__)

    def _run(self, output: str, images: Images) -> NDArray[np.float32]:
        if self.fixed_size is None:
            return self._run_batch(output, images)
        if images.shape[1:3] != self.fixed_size:
            (height, width), found = self.fixed_size, images.shape
            raise OptionError(
                f"{self._opened_as[0].name} takes images of {width} x {height} pixels only; "
                f"found one of {found[2]} x {found[1]} pixels.",
                hint="resize the images, or export the checkpoint without --size",
            )
        return np.concatenate([self._run_batch(output, one[None]) for one in images])

    def _run_batch(self, output: str, images: Images) -> NDArray[np.float32]:
        before_computing(self._opened_in)
        with _opening:
            if self._opened_in.forked_since():
                self._reopen_after_fork()
        with self._making:
            if output not in self._idle:
                self._idle[output] = self._workers(output)
        worker = self._idle[output].get()
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
            self._idle[output].put(worker)


def channels_first(images: Images) -> Images:
    """Images (N, H, W, C) as contiguous (N, C, H, W)."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def reopened(
    kind: type[Engine], path: Path, options: dict[str, Any], state: dict[str, Any]
) -> Engine:
    """Open a pickled engine's file again; CheckpointError if it is missing."""
    engine: Engine = kind(path, **options)  # type: ignore[call-arg]
    for name, value in state.items():
        setattr(engine, name, value)
    return engine


def first_line(error: Exception) -> str:
    """The first informative line of a runtime's error, without locations in its code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if not re.match(r"Exception from |Check '|While ", line)]
    first = (causes or lines or [type(error).__name__])[0]
    # ONNX Runtime: "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from a.onnx failed:..."
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first)
    return re.sub(r"^Load model from .* failed:\s*", "", first).rstrip(".")
