"""Engines for mobile formats, with a fixed input size: LiteRT (TFLite) and ExecuTorch."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.concurrency import usable_cores
from fcnseg.engines.base import SEQUENTIAL, Images, as_tensor, parallelism_on
from fcnseg.engines.exported import ExportedEngine, Workers, as_workers, check_is_cpu, first_line
from fcnseg.engines.model_files import (
    LABELS,
    LOGITS,
    Port,
    check_logits,
    executorch_header,
    included,
    litert_header,
    not_loaded,
    not_written_by_fcnseg,
)
from fcnseg.errors import MissingExtra
from fcnseg.files import utf8_name
from fcnseg.progress import without_native_messages


class LiteRtEngine(ExportedEngine):
    """Runs an exported .tflite file in LiteRT on the CPU, in f32.

    parallel: allow several threads to call it at the same time, where that is faster.
    """

    name = "litert"
    suffixes = (".tflite",)
    names_data_files = False  # litert_header refuses them
    device = "cpu"
    precision = "f32"

    def __init__(
        self, path: Path, *, device: str = "auto", precision: str = "auto", parallel: bool = False
    ) -> None:
        del precision  # f32 only
        super().__init__(path, device=device, parallel=parallel)
        check_is_cpu(device, "LiteRT runs")
        self.header = litert_header(path)
        self._runtime, self._path = import_litert(), path
        self.parallelism = parallelism_on("cpu") if parallel else SEQUENTIAL
        runner = self._open()
        inputs, outputs = (
            [Port(name, np.dtype(one["dtype"]).name, tuple(one["shape"])) for name, one in found]
            for found in (runner.get_input_details().items(), runner.get_output_details().items())
        )
        if [port.name for port in inputs] != ["images"]:
            raise not_written_by_fcnseg(path, "a LiteRT file", inputs, outputs)
        check_logits(path, outputs)
        self.has_labels = LABELS in [port.name for port in outputs]
        others = (self._open() for _ in range(1, self.parallelism.count))
        self._runners = as_workers([runner, *others])

    def _workers(self, output: str) -> Workers:
        del output  # each call computes all outputs
        return self._runners

    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = worker(**inputs)[output]
        return result

    def _open(self) -> Any:
        """A signature runner with its own memory; CheckpointError."""
        threads = self.parallelism.threads or usable_cores()
        try:
            with utf8_name(self._path) as name, without_native_messages():
                model = self._runtime.Interpreter(str(name), num_threads=threads)
                model.allocate_tensors()  # before the runner refers to them
                runner = model.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise not_loaded(self._path, "by LiteRT", first_line(error)) from error
        return runner


def import_litert() -> types.ModuleType:
    """Import LiteRT's interpreter; MissingExtra when it is not installed."""
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        raise MissingExtra("Running a LiteRT file", "litert") from None
    module: types.ModuleType = interpreter
    return module


class ExecuTorchEngine(ExportedEngine):
    """Runs an exported .pte file in ExecuTorch's runtime on the CPU, in f32."""

    name = "executorch"
    suffixes = (".pte",)
    names_data_files = False  # the runtime reads them only if the caller passes their paths
    device = "cpu"
    precision = "f32"

    def __init__(
        self, path: Path, *, device: str = "auto", precision: str = "auto", parallel: bool = False
    ) -> None:
        del precision, parallel  # f32 only; all calls share the runtime's threads
        super().__init__(path, device=device)
        check_is_cpu(device, "ExecuTorch runs")
        self.header = executorch_header(path)
        self.has_labels = "argmax" in included(self.header)
        with without_native_messages():
            self._method = _opened(path)

    def _workers(self, output: str) -> Workers:
        del output  # each call computes all outputs
        return as_workers([self._method])

    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        found = worker.execute([as_tensor(inputs["images"])])
        place = {LOGITS: 0, LABELS: -1}[output]
        result: NDArray[np.float32] = found[place].numpy().copy()  # the runtime reuses its memory
        return result


def _opened(path: Path) -> Any:
    """Load a file's method `forward`; MissingExtra, CheckpointError."""
    try:
        from executorch.runtime import Runtime
    except ImportError:
        raise MissingExtra("Running an ExecuTorch file", "executorch") from None
    try:
        with utf8_name(path) as name:
            return Runtime.get().load_program(str(name)).load_method("forward")
    except (RuntimeError, ValueError) as error:
        raise not_loaded(path, "by ExecuTorch", first_line(error)) from error
