"""Intel's OpenVINO as an engine: often the fastest on a processor, Intel's or not."""

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

_KEPT = "64"
"""Layers prepared for one size that are kept for the next image of that size. Of the usual 5,000
memory grows with every new size: benchmarks/many_sizes.py."""


_ONE_THREAD = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}

_let_go = threading.Event()
"""Whether an engine was closed in this process or one that it was forked from."""


class OpenVinoEngine(ExportedEngine):
    """An exported file, .onnx or .xml, run by OpenVINO on the processor.

    precision: f32 unless another is asked for. Left to itself OpenVINO takes bf16 where the
    processor has it, and labels change.
    parallel: several threads may call it at the same time, where that is faster.
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
        options = {"INFERENCE_PRECISION_HINT": wanted, "CPU_RUNTIME_CACHE_CAPACITY": _KEPT}
        self.parallelism = parallelism_on("cpu") if parallel else SEQUENTIAL
        if self.parallelism.count > 1:
            threads = self.parallelism.count * self.parallelism.threads
            options |= {
                "NUM_STREAMS": str(self.parallelism.count),
                "INFERENCE_NUM_THREADS": str(threads),
            }
        if _opened_in() != os.getpid():
            options |= _in_a_fork()
        weakref.finalize(self, _let_go.set)
        self._model, self._options = model, options
        names = {name for output in model.outputs for name in output.names}
        self.has_scores, self.has_labels = SCORES in names, LABELS in names
        self.has_logits = LOGITS in names
        asked_first = SCORES if self.has_scores else LOGITS
        self._free[asked_first] = self._workers(asked_first)

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
    """OpenVINO with its telemetry off; MissingExtra when it is not installed."""
    # Its import looks for this package, which writes an id under the home folder and phones
    # home; without it OpenVINO does neither.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise MissingExtra("Running a network in OpenVINO", "openvino") from None
    module: types.ModuleType = openvino
    return module


def read_model(path: Path) -> Any:
    """A model file as OpenVINO's own; CheckpointError when it is none."""
    import_openvino()
    try:
        with utf8_name(path) as name:
            return _core().read_model(name)
    except UnicodeDecodeError as error:  # OpenVINO's message quotes the file
        raise not_loaded(path, "by OpenVINO", "it is damaged: a name in it is not UTF-8") from error
    except RuntimeError as error:
        raise not_loaded(path, "by OpenVINO", first_line(error)) from error


@functools.cache
def _opened_in() -> int:
    """The process that first used OpenVINO; another one was forked from it."""
    return os.getpid()


def _in_a_fork() -> dict[str, str]:
    """Options with which a forked process makes threads of its own.

    OpenVINO gives a new model the threads of one that was closed, if they were made with the same
    options; in a forked process they are missing, and it would wait for them for ever. With one
    core no options differ: OptionError.
    """
    if usable_cores() == 1 and _let_go.is_set():
        raise OptionError(
            "OpenVINO can't open a model here: this process was forked from one that had closed "
            "a model, and OpenVINO would wait for that one's threads.",
            hint='start the workers with multiprocessing\'s "spawn", or take another engine',
        )
    return _ONE_THREAD


@functools.cache
def _core() -> Any:
    """OpenVINO's plugins, one set for as long as the process lives.

    They give the thread that loads them a stack for its signals (processors with AMX need a large
    one). When they are let go of in another thread that stack is gone but still in use, and the
    next Ctrl-C ends the process with a segmentation fault (2026.4).

    An array is looked at before any thread computes: whoever does it first initialises numpy's
    interface and lets go of Python's lock meanwhile; a second thread then waits for that with the
    lock in its hands, and both wait for ever (2026.4; seen once, under load).
    """
    _opened_in()
    openvino = import_openvino()
    _ = openvino.Tensor(np.zeros(1, np.uint8)).data
    return openvino.Core()


def _header_of(model: Any, path: Path) -> str:
    # An .onnx file's metadata arrive under "framework".
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
