"""The OpenVINO engine: often the fastest on a CPU, from Intel or others."""

from __future__ import annotations

import functools
import os
import sys
import threading
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.concurrency import usable_cores
from fcnseg.engines.base import SEQUENTIAL, Images, parallelism_on
from fcnseg.engines.exported import ExportedEngine, Workers, as_workers, check_is_cpu, first_line
from fcnseg.engines.model_files import (
    LABELS,
    LOGITS,
    SCORES,
    Port,
    check_logits,
    not_loaded,
    not_written_by_fcnseg,
)
from fcnseg.errors import MissingExtra, OptionError
from fcnseg.files import utf8_name
from fcnseg.models.checkpoint import KEY

_CACHE_CAPACITY = "64"
"""Compiled layers that are cached for later images of the same size. With the default of 5,000
memory grows with every new size: benchmarks/many_sizes.py."""


_ONE_THREAD = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}

_engine_closed = threading.Event()
"""Set when an engine was closed in this process or in one that it was forked from."""


class OpenVinoEngine(ExportedEngine):
    """Runs an exported .onnx or .xml file in OpenVINO on the CPU.

    precision: "auto" is f32. OpenVINO's own default is bf16 on CPUs that support it, which changes
    labels.
    parallel: allow several threads to call it at the same time, where that is faster.
    """

    name = "openvino"
    suffixes = (".onnx", ".xml")
    precisions = ("f32", "bf16", "f16")
    device = "cpu"

    def __init__(
        self, path: Path, *, device: str = "auto", precision: str = "auto", parallel: bool = False
    ) -> None:
        super().__init__(path, device=device, precision=precision, parallel=parallel)
        check_is_cpu(device, "OpenVINO runs")
        wanted = "f32" if precision == "auto" else precision
        if wanted not in self.precisions:
            known = ", ".join(self.precisions)
            raise OptionError(f"OpenVINO computes in {known}; found {precision!r}.")
        model = read_model(path)
        self.header = _header_of(model, path)
        options = {
            "INFERENCE_PRECISION_HINT": wanted,
            "CPU_RUNTIME_CACHE_CAPACITY": _CACHE_CAPACITY,
        }
        self.parallelism = parallelism_on("cpu") if parallel else SEQUENTIAL
        if self.parallelism.count > 1:
            threads = self.parallelism.count * self.parallelism.threads
            options |= {
                "NUM_STREAMS": str(self.parallelism.count),
                "INFERENCE_NUM_THREADS": str(threads),
            }
        if _first_process() != os.getpid():
            options |= _options_after_fork()
        weakref.finalize(self, _engine_closed.set)
        self._model, self._options = model, options
        names = {name for output in model.outputs for name in output.names}
        self.has_scores, self.has_labels = SCORES in names, LABELS in names
        self.has_logits = LOGITS in names
        first = SCORES if self.has_scores else LOGITS
        self._idle[first] = self._workers(first)

    def _workers(self, output: str) -> Workers:
        openvino = import_openvino()
        part = openvino.Model([self._model.output(output)], self._model.get_parameters())
        compiled = _core().compile_model(part, "CPU", self._options)
        self.precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        return as_workers(compiled.create_infer_request() for _ in range(self.parallelism.count))

    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = worker.infer(inputs)[output]
        return result


def import_openvino() -> types.ModuleType:
    """Import OpenVINO with telemetry disabled; MissingExtra when it is not installed."""
    # This package, which OpenVINO imports if it is there, writes an id under the home folder and
    # sends data; without it OpenVINO does neither.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingExtra("Running a network in OpenVINO", "openvino") from None
    module: types.ModuleType = openvino
    return module


def read_model(path: Path) -> Any:
    """Read a file as an OpenVINO model; CheckpointError when it is not one."""
    import_openvino()
    try:
        with utf8_name(path) as name:
            return _core().read_model(name)
    except UnicodeDecodeError as error:  # OpenVINO's message quotes the file
        raise not_loaded(path, "by OpenVINO", "it is damaged: a name in it is not UTF-8") from error
    except RuntimeError as error:
        raise not_loaded(path, "by OpenVINO", first_line(error)) from error


@functools.cache
def _first_process() -> int:
    """Id of the process that first used OpenVINO; a process with another id was forked."""
    return os.getpid()


def _options_after_fork() -> dict[str, str]:
    """Options with which OpenVINO creates new threads in a forked process.

    OpenVINO reuses the threads of a closed model for a new one with the same options; in a forked
    process these threads do not exist, and it would wait for them forever. With one core there are
    no different options: OptionError.
    """
    if usable_cores() == 1 and _engine_closed.is_set():
        raise OptionError(
            "OpenVINO can't open a model here: this process was forked from one that had closed "
            "a model, and OpenVINO would wait for that one's threads.",
            hint='start the workers with multiprocessing\'s "spawn", or use another engine',
        )
    return _ONE_THREAD


@functools.cache
def _core() -> Any:
    """OpenVINO's Core with its plugins, created once and never released.

    The plugins allocate a signal stack for the thread that loads them (CPUs with AMX need a large
    one). If another thread releases them, the stack is freed but still in use, and the next Ctrl-C
    ends the process with a segmentation fault (2026.4).

    A tensor's data is accessed here, before any thread computes, to prevent a deadlock: the first
    access initialises NumPy's API and releases the GIL meanwhile; a second thread then waits for
    the initialisation while it holds the GIL (2026.4; seen once, under load).
    """
    _first_process()
    openvino = import_openvino()
    _ = openvino.Tensor(np.zeros(1, np.uint8)).data
    return openvino.Core()


def _header_of(model: Any, path: Path) -> str:
    # OpenVINO puts an .onnx file's metadata under "framework".
    inputs, outputs = _ports(model.inputs), _ports(model.outputs)
    for place in ([KEY], ["framework", KEY]):
        if model.has_rt_info(place) and [port.name for port in inputs] == ["images"]:
            check_logits(path, outputs)
            return str(model.get_rt_info(place).value)
    raise not_written_by_fcnseg(path, "a model for OpenVINO", inputs, outputs)


def _ports(values: Any) -> list[Port]:
    """Inputs or outputs of a model."""
    return [
        Port(
            next(iter(one.names), "?"),
            str(one.element_type.to_string()),
            tuple(str(length) for length in one.partial_shape),
        )
        for one in values
    ]
