"""What the engines of exported files share: an output is computed alone, on a lane of its own."""

from __future__ import annotations

import queue
import threading
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.runtime.engines import SCORES, Engine, Images

LOGITS = "logits"

Workers = queue.SimpleQueue[Any]
"""What computes one output, once for each lane; who asks takes one and gives it back."""


class ExportedEngine(Engine):
    """A file written by `fcnseg export`; what computes an output is made when first asked for.

    header: the checkpoint's header, as the file carries it.
    """

    header: str

    def __init__(self) -> None:
        self._free: dict[str, Workers] = {}
        self._making = threading.Lock()

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

    def _run(self, output: str, images: Images) -> NDArray[np.float32]:
        with self._making:
            if output not in self._free:
                self._free[output] = self._workers(output)
        worker = self._free[output].get()
        try:
            return self._ask(worker, output, {"images": np.ascontiguousarray(images)})
        finally:
            self._free[output].put(worker)
