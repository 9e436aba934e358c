"""Engines for ONNX files: ONNX Runtime, and OpenCV, which is always installed."""

from __future__ import annotations

import json
import types
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.device import resolve_device
from fcnseg.engines.base import SEQUENTIAL, Images, parallelism_on
from fcnseg.engines.exported import ExportedEngine, Workers, as_workers, check_is_cpu, first_line
from fcnseg.engines.model_files import (
    LABELS,
    LOGITS,
    SCORES,
    Port,
    bands_in,
    check_logits,
    data_files,
    included,
    metadata,
    not_loaded,
    not_written_by_fcnseg,
)
from fcnseg.errors import PARSE_ERRORS, CheckpointError, MissingExtra, OptionError
from fcnseg.files import utf8_name
from fcnseg.io import Net
from fcnseg.models.checkpoint import EXPORT, KEY
from fcnseg.progress import environment


class OnnxEngine(ExportedEngine):
    """Runs an exported .onnx file in ONNX Runtime.

    parallel: allow several threads to call it at the same time, where that is faster.
    """

    name = "onnxruntime"

    def __init__(
        self, path: Path, *, device: str = "cpu", precision: str = "f32", parallel: bool = False
    ) -> None:
        del precision  # the file's own
        super().__init__(path, device=device, parallel=parallel)
        self._runtime, self._path = import_onnxruntime(), path
        self.device = _onnx_device(self._runtime, device)
        self.precision = "f32"
        self.parallelism = parallelism_on(self.device) if parallel else SEQUENTIAL
        session = self._open(str(path))
        self.header = _header_of(session, path)
        names = [output.name for output in session.get_outputs()]
        self.has_scores, self.has_labels = SCORES in names, LABELS in names
        self.has_logits = LOGITS in names
        self._idle[LOGITS if self.has_logits else LABELS] = self._sessions(str(path), session)

    def _workers(self, output: str) -> Workers:
        model = _part_computing(output, self._path)
        return self._sessions(model, self._open(model))

    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = worker.run([output], inputs)[0]
        return result

    def _sessions(self, model: str | bytes, session: Any) -> Workers:
        """A session for each parallel call, the given one included."""
        # A session with one thread computes in the calling thread, so it can be shared.
        shared = self.parallelism.threads == 1
        others = (
            session if shared else self._open(model) for _ in range(1, self.parallelism.count)
        )
        return as_workers([session, *others])

    def _open(self, model: str | bytes) -> Any:
        """Create a session from a path or a serialised model; CheckpointError when it fails."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.parallelism.threads
        options.log_severity_level = 4
        # Spinning threads would take the cores from decoding and encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = dict.fromkeys([_provider(self.device), "CPUExecutionProvider"])
        named: AbstractContextManager[str | bytes] = nullcontext(model)
        if isinstance(model, str):
            named = utf8_name(Path(model))
        try:
            with named as source:
                return self._runtime.InferenceSession(source, options, providers=list(providers))
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            raise not_loaded(self._path, "as an ONNX file", first_line(error)) from error


def import_onnxruntime() -> types.ModuleType:
    """Import ONNX Runtime with telemetry disabled; MissingExtra when it is not installed."""
    # Since 1.29 the import itself writes a device id under the home folder.
    with environment(ORT_DISABLE_TELEMETRY="1"):
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtra("Running an ONNX file", "onnx") from None
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(4)
    module: types.ModuleType = onnxruntime
    return module


def _part_computing(output: str, path: Path) -> str | bytes:
    """The part of a model that computes an output, serialised; the path if onnx is not installed.

    ONNX Runtime computes all outputs even if only one is requested (1.32).
    """
    if find_spec("onnx") is None:
        return str(path)
    import onnx

    model = onnx.load(path)
    if any(one.type == onnx.AttributeProto.GRAPH for n in model.graph.node for one in n.attribute):
        return str(path)  # the inputs of a branch or a loop are not inputs of its node
    keep_outputs(model, {output})
    serialised: bytes = model.SerializeToString()
    return serialised


def keep_outputs(model: Any, names: Collection[str]) -> None:
    """Remove all other outputs from an onnx.ModelProto, and the nodes and weights only they need.

    The model must have no branches or loops, whose inputs are not inputs of their nodes.
    """
    needed, nodes = set(names), []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    kept = [one for one in model.graph.output if one.name in names]
    weights = [one for one in model.graph.initializer if one.name in needed]
    for field, left in (("node", nodes[::-1]), ("output", kept), ("initializer", weights)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(left)


def _onnx_device(runtime: Any, name: str) -> str:
    """Resolve a device name for this ONNX Runtime; OptionError when it does not support it."""
    there = {_provider(kind): kind for kind in ("cuda", "mps")}
    providers = runtime.get_available_providers()
    found = [there[one] for one in providers if one in there]
    if name == "cpu" or (name == "auto" and not found):
        return "cpu"  # without torch, which takes seconds to import
    if find_spec("torch") is None:
        device = found[0] if name == "auto" else name
    else:
        device = str(resolve_device(name))
    if _provider(device) in providers:
        return device
    if name != "auto":
        raise OptionError(
            f"This ONNX Runtime can't use {device}; it has {', '.join(providers)}.",
            hint="pip install onnxruntime-gpu, or --device cpu, or use the checkpoint itself",
        )
    return "cpu"


def _provider(device: str) -> str:
    return {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}.get(
        device.partition(":")[0], "CPUExecutionProvider"
    )


def _header_of(session: Any, path: Path) -> str:
    """The checkpoint's header in an exported file; CheckpointError for other files."""
    header = session.get_modelmeta().custom_metadata_map.get(KEY)
    inputs, outputs = _ports(session.get_inputs()), _ports(session.get_outputs())
    if header is None or [port.name for port in inputs] != ["images"]:
        raise not_written_by_fcnseg(path, "an ONNX file", inputs, outputs)
    check_logits(path, outputs)
    _check_input(session.get_inputs()[0], str(header), path)
    return str(header)


def _ports(values: Sequence[Any]) -> list[Port]:
    """Inputs or outputs of a session."""
    return [Port(one.name, str(one.type), tuple(one.shape or ())) for one in values]


def _layout_and_size(header: str) -> tuple[str, list[int] | None]:
    """The input layout and the fixed (height, width) of a file, by its header.

    None: any size, or the header is broken.
    """
    try:
        about = json.loads(header)["extra"][EXPORT]
        size = None if about["size"] is None else [int(length) for length in about["size"]]
        return "NCHW" if about.get("layout") == "NCHW" else "NHWC", size
    except PARSE_ERRORS:
        return "NHWC", None


def _check_input(value: Any, header: str, path: Path) -> None:
    """CheckpointError unless the input matches the header, such as uint8 (N, H, W, 3)."""
    (layout, size), (count, dtype) = _layout_and_size(header), bands_in(header)
    kind = f"tensor({'float' if dtype == 'float32' else dtype})"
    found = [n if isinstance(n, int) else None for n in value.shape or []]
    sizes: list[int | None] = [None] * 3 if size is None else [1, *size]
    expected = [sizes[0], count, *sizes[1:]] if layout == "NCHW" else [*sizes, count]
    if value.type != kind or found != expected:
        raise CheckpointError(
            f"{path} takes {value.type} of shape {list(value.shape or [])}; expected {kind} of "
            f"shape [{', '.join(layout).replace('C', str(count))}] with free N, H and W: it was "
            "changed after fcnseg wrote it.",
            hint="export the checkpoint again: fcnseg export MODEL",
        )


class OpenCvEngine(ExportedEngine):
    """Runs an exported .onnx file in OpenCV on the CPU, in f32."""

    name = "opencv"
    device = "cpu"
    precision = "f32"

    def __init__(
        self, path: Path, *, device: str = "auto", precision: str = "f32", parallel: bool = False
    ) -> None:
        del precision, parallel  # f32 only, one thread at a time
        super().__init__(path, device=device)
        check_is_cpu(device, "OpenCV runs networks")
        try:
            model = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"Can't read {path}: {error.strerror}.") from None
        header = metadata(model).get(KEY)
        if header is None:
            raise not_written_by_fcnseg(path, "an ONNX file")
        if "argmax-only" in included(header):
            raise OptionError(
                f"{path} gives no logits, which fcnseg takes from OpenCV.",
                hint="use another --engine, or export with --include argmax",
            )
        self.header = header
        with utf8_name(path) as name:
            self._net = Net(name if data_files(model) else model)

    def _workers(self, output: str) -> Workers:
        del output  # logits only
        return as_workers([self._net])

    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        del output
        logits: NDArray[np.float32] = worker.run(inputs["images"])
        return logits
