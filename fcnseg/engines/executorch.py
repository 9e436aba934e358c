"""ExecuTorch as an engine: the files of phones, of one size, run here by XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.engines.base import (
    ExportedEngine,
    Images,
    Workers,
    as_tensor,
    as_workers,
    check_is_cpu,
    first_line,
)
from fcnseg.engines.exported import LABELS, LOGITS, executorch_header, included, not_loaded
from fcnseg.errors import MissingExtra
from fcnseg.files import utf8_name
from fcnseg.progress import without_native_messages


class ExecuTorchEngine(ExportedEngine):
    """An exported .pte file, run by ExecuTorch's own runtime on the processor in f32."""

    name = "executorch"
    suffixes = (".pte",)
    names_data_files = False  # they are given to the runtime by name, or not at all
    device = "cpu"
    precision = "f32"

    def __init__(
        self, path: Path, *, device: str = "auto", precision: str = "auto", parallel: bool = False
    ) -> None:
        del precision, parallel  # one precision; its threads are shared by all calls
        super().__init__(path, device=device)
        check_is_cpu(device, "ExecuTorch runs")
        self.header = executorch_header(path)
        self.has_labels = "argmax" in included(self.header)
        with without_native_messages():
            self._method = _opened(path)

    def _workers(self, output: str) -> Workers:
        del output  # all are computed, whatever is asked for
        return as_workers([self._method])

    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        found = worker.execute([as_tensor(inputs["images"])])
        place = {LOGITS: 0, LABELS: -1}[output]
        result: NDArray[np.float32] = found[place].numpy().copy()  # it is the runtime's memory
        return result


def _opened(path: Path) -> Any:
    """The method that computes a file's outputs; MissingExtra, CheckpointError."""
    try:
        from executorch.runtime import Runtime
    except ImportError:
        raise MissingExtra("Running an ExecuTorch file", "executorch") from None
    try:
        with utf8_name(path) as name:
            return Runtime.get().load_program(str(name)).load_method("forward")
    except (RuntimeError, ValueError) as error:
        raise not_loaded(path, "by ExecuTorch", first_line(error)) from error
