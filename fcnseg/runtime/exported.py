"""What the engines of exported files share: an output is computed alone, on a lane of its own."""

from __future__ import annotations

import copy
import os
import queue
import threading
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.runtime.engines import SCORES, Engine, Images
from fcnseg.runtime.forking import Home, abandon, computing

LOGITS = "logits"

_opening = threading.RLock()
if hasattr(os, "register_at_fork"):  # another thread may hold it when the process is forked
    os.register_at_fork(after_in_child=lambda: globals().update(_opening=threading.RLock()))

Workers = queue.SimpleQueue[Any]
"""What computes one output, once for each lane; who asks takes one and gives it back."""


class ExportedEngine(Engine):
    """A file written by `fcnseg export`; what computes an output is made when first asked for.

    header: the checkpoint's header, as the file carries it.

    It pickles and copies by its file, which is opened again; so it is in a forked process.
    """

    header: str

    def __init__(self, path: Path, **options: Any) -> None:
        self._opened_as = path.resolve(), options
        self._free: dict[str, Workers] = {}
        self._making = threading.Lock()
        self._home = Home()

    def __reduce__(self) -> tuple[Any, ...]:
        path, options = self._opened_as
        return reopened, (type(self), path, options, self.precision)

    def forward(self, images: Images) -> Tensor:
        """Logits, float32 (N, K, H, W), in host memory."""
        return torch.from_numpy(self._run(LOGITS, images))

    def scores(self, images: Images) -> NDArray[np.float32]:
        """The scores that the logits are upsampled from, float32 (N, K, h, w)."""
        return self._run(SCORES, images)

    @abstractmethod
    def _workers(self, output: str) -> Workers:
        """What computes an output and, where the runtime allows it, nothing else."""

    @abstractmethod
    def _ask(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        """A worker's answer."""

    def _open_here(self) -> None:
        """Open the file in this process: the runtime's threads stayed in the one that forked it."""
        self._home.check_device(self.device)
        abandon(self.__dict__.copy())
        here = copy.copy(self)
        self.__dict__.clear()
        self.__dict__.update(here.__dict__)

    def _run(self, output: str, images: Images) -> NDArray[np.float32]:
        computing(self._home)
        with _opening:
            if self._home.left():
                self._open_here()
        with self._making:
            if output not in self._free:
                self._free[output] = self._workers(output)
        worker = self._free[output].get()
        try:
            return self._ask(worker, output, {"images": np.ascontiguousarray(images)})
        finally:
            self._free[output].put(worker)


def reopened(kind: type[Engine], path: Path, options: dict[str, Any], precision: str) -> Engine:
    """An engine of a file, opened as another one was; CheckpointError where it is gone."""
    engine: Engine = kind(path, **options)  # type: ignore[call-arg]
    engine.precision = precision  # int8 is the file's
    return engine
