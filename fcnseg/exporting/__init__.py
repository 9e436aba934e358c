"""Export formats: each writes a file and runs it for the parity check."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcnseg.config.options import EngineName
from fcnseg.engines import open_exported
from fcnseg.engines.base import Images
from fcnseg.engines.exported import channels_first
from fcnseg.engines.model_files import PRECISION
from fcnseg.engines.openvino import import_openvino, read_model
from fcnseg.engines.pytorch import TorchEngine, score_grid_of
from fcnseg.errors import CheckpointError, FcnsegError, MissingExtra, cannot_write, reason
from fcnseg.exporting.graph import (
    PLAIN,
    Complete,
    GraphOptions,
    describe_graph,
    pre_and_postprocessing,
    quiet,
)
from fcnseg.exporting.mobile import refuse_options, write_executorch, write_litert
from fcnseg.exporting.onnx_file import write_onnx
from fcnseg.exporting.parity import (
    REPORT_SUFFIX,
    LabelsOf,
    Logits,
    LogitsFunction,
    Parity,
    Trial,
    compare,
    example_images,
    tolerance_of,
)
from fcnseg.files import folder_beside, utf8_name
from fcnseg.io.images import resize_image
from fcnseg.models.checkpoint import EXPORT, KEY, Checkpoint
from fcnseg.models.networks import build_empty
from fcnseg.progress import defer_interrupts


@dataclass(frozen=True)
class Format:
    """An export format.

    suffix: of its file; beside: suffixes of additional files.
    write: writes a checkpoint, including its header, to a file.
    run: returns functions from images to logits, and to labels if the file has them as an output,
        which use only the file.
    refuse: raises OptionError or MissingExtra when it can't be written, before work is done.
    """

    suffix: str
    beside: tuple[str, ...]
    write: Callable[[Checkpoint, Path, GraphOptions], None]
    run: Callable[[Path], tuple[LogitsFunction, LabelsOf | None]]
    refuse: Callable[[GraphOptions], None] = lambda _: None


def _need_onnx(_: GraphOptions) -> None:
    _require("onnx", "onnxscript", extra="onnx", what="Exporting to ONNX")


def _refuse_for_mobile(kind: str, module: str, extra: str, options: GraphOptions) -> None:
    refuse_options(options, kind)
    _require(module, extra=extra, what=f"Exporting to {kind}")


def _run_in(engine: EngineName, path: Path) -> tuple[LogitsFunction, LabelsOf | None]:
    opened, _ = open_exported(path, engine, device="cpu")
    return opened.logits, opened.just_labels


def _need_openvino(options: GraphOptions) -> None:
    import_openvino()
    _need_onnx(options)


def _write_openvino(checkpoint: Checkpoint, path: Path, options: GraphOptions) -> None:
    openvino = import_openvino()
    with TemporaryDirectory(dir=path.parent) as folder:
        onnx = Path(folder) / "model.onnx"
        write_onnx(checkpoint, onnx, replace(options, precision="f32"))
        with quiet():
            model = read_model(onnx)
            model.set_rt_info(checkpoint.header_json(), [KEY])
            half = options.precision == "f16"  # weights only; the runtime chooses its precision
            try:
                openvino.save_model(model, str(path), compress_to_fp16=half)
            except RuntimeError as error:  # I/O errors, such as a full disk
                raise OSError(
                    errno.EIO, f"OpenVINO did not write all of it ({reason(error)})"
                ) from None


def _write_torchscript(checkpoint: Checkpoint, path: Path, options: GraphOptions) -> None:
    module = Complete(checkpoint.build(), checkpoint.preprocess, options)
    images = example_images(options.size, checkpoint.preprocess.bands, options.layout)
    with quiet():
        # Traced, not scripted: sizes are recorded as computations and stay dynamic.
        traced = torch.jit.trace(module, images, check_trace=False)  # type: ignore[no-untyped-call]
        header = checkpoint.header_json().encode()
        written = io.BytesIO()  # torch.jit.save aborts the process on a full disk
        torch.jit.save(traced, written, _extra_files={KEY: header})
    path.write_bytes(written.getbuffer())


def _run_torchscript(path: Path) -> tuple[LogitsFunction, LabelsOf | None]:
    header = {KEY: ""}
    with quiet():
        module = torch.jit.load(str(path), _extra_files=header)  # type: ignore[no-untyped-call]
    return _as_run(module, header[KEY])


def _write_torch_export(checkpoint: Checkpoint, path: Path, options: GraphOptions) -> None:
    free, first = torch.export.Dim.DYNAMIC, 2 if options.layout == "NCHW" else 1
    sizes = ({0: free, first: free, first + 1: free},) if options.size is None else None
    module = Complete(checkpoint.build(), checkpoint.preprocess, options)
    images = example_images(options.size, checkpoint.preprocess.bands, options.layout)
    with quiet():
        program = torch.export.export(module, (images,), dynamic_shapes=sizes)
        # Guards on the example's memory layout would reject sizes that are divisible by a stride.
        # They do not affect outputs, as the parity check shows. Absent before torch 2.9.
        if hasattr(program, "_guards_code"):
            program._guards_code = []
        written = io.BytesIO()
        torch.export.save(program, written, extra_files={KEY: checkpoint.header_json()})
    path.write_bytes(written.getbuffer())


def _run_torch_export(path: Path) -> tuple[LogitsFunction, LabelsOf | None]:
    header = {KEY: ""}
    with quiet():
        program = torch.export.load(path, extra_files=header)
        return _as_run(program.module(), header[KEY])


def _as_run(
    module: Callable[[Tensor], Tensor | tuple[Tensor, ...]], header: str | bytes
) -> tuple[LogitsFunction, LabelsOf | None]:
    """Make the functions to logits and labels of a module, by its header."""
    text = header if isinstance(header, str) else header.decode()
    about = Checkpoint.from_header(text).extra.get(EXPORT, {})

    def outputs(images: Images) -> tuple[Tensor, ...]:
        parts = images[:, None] if about.get("size") else [images]  # fixed size: batch of 1
        if about.get("layout") == "NCHW":
            parts = [channels_first(part) for part in parts]
        with torch.no_grad():
            found = [module(torch.from_numpy(part)) for part in parts]
        each = [one if isinstance(one, tuple) else (one,) for one in found]
        return tuple(torch.cat(same) for same in zip(*each, strict=True))

    def logits(images: Images) -> Logits:
        array: Logits = outputs(images)[0].numpy()
        return array

    if "argmax" not in about.get("include", ()):
        return logits, None
    return logits, lambda images: outputs(images)[-1].numpy()


def opset_of(path: Path) -> int | None:
    """The opset version of an ONNX file; None for other files."""
    if path.suffix != ".onnx":
        return None
    import onnx

    model = onnx.load(path, load_external_data=False)
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


FORMATS = {
    "onnx": Format(".onnx", (), write_onnx, partial(_run_in, "onnxruntime"), _need_onnx),
    "openvino": Format(
        ".xml", (".bin",), _write_openvino, partial(_run_in, "openvino"), _need_openvino
    ),
    "torchscript": Format(".torchscript", (), _write_torchscript, _run_torchscript),
    "torch-export": Format(".pt2", (), _write_torch_export, _run_torch_export),
    "litert": Format(
        ".tflite",
        (),
        write_litert,
        partial(_run_in, "litert"),
        partial(_refuse_for_mobile, "LiteRT", "litert_torch", "litert"),
    ),
    "executorch": Format(
        ".pte",
        (),
        write_executorch,
        partial(_run_in, "executorch"),
        partial(_refuse_for_mobile, "ExecuTorch", "executorch", "executorch"),
    ),
}


def _require(*modules: str, extra: str, what: str) -> None:
    """MissingExtra when one of the modules is not installed."""
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise MissingExtra(what, extra)


def convert(
    checkpoint: Checkpoint,
    path: Path,
    format: str,
    *,
    options: GraphOptions = PLAIN,
    trial: Trial | None = None,
    about: Mapping[str, Any] | None = None,
    report: bool = False,
) -> Parity:
    """Export a checkpoint and verify that the outputs match.

    about: added to the export's entry in the file's header. report: write the results beside it,
    as *.parity.json.
    OptionError or MissingExtra when the format can't be written, CheckpointError when the outputs
    do not match; `path` is unchanged then.
    """
    kind = FORMATS[format]
    kind.refuse(options)
    with written_atomically(path) as written:
        kind.write(with_description(checkpoint, options, **(about or {})), written, options)
        parity = verify(checkpoint, written, format, options, trial)
        if report:
            write_report(written, parity.as_dict())
    return parity


def write_report(path: Path, figures: Mapping[str, Any]) -> None:
    """Write the results of the parity check beside a file."""
    text = json.dumps(figures, indent=1)
    path.with_suffix(REPORT_SUFFIX).write_text(f"{text}\n", encoding="utf-8")


def verify(
    checkpoint: Checkpoint,
    path: Path,
    format: str,
    options: GraphOptions,
    trial: Trial | None = None,
) -> Parity:
    """Compare a file's outputs with a checkpoint's; CheckpointError when they do not match."""
    trial = trial or Trial(size=options.size, bands=checkpoint.preprocess.bands)
    resizes = pre_and_postprocessing(checkpoint.preprocess, options)[0] is not None
    trial = replace(trial, tolerance=tolerance_of(options.precision, resizes=resizes))
    logits, labels = FORMATS[format].run(path)
    parity = compare(original_logits(checkpoint, options), logits, labels=labels, trial=trial)
    if not parity.holds:
        raise CheckpointError(
            f"The outputs of the {format} file do not match the checkpoint's: {parity.summary}",
            hint="nothing was written; please report this with the checkpoint's options",
        )
    return parity


def with_description(checkpoint: Checkpoint, options: GraphOptions, **more: object) -> Checkpoint:
    """A copy of a checkpoint whose header describes the exported graph; more: added to it."""
    grid = score_grid_of(build_empty(checkpoint.spec))
    about = {
        **describe_graph(checkpoint.preprocess, options),
        "grid": None if grid is None else asdict(grid),
        **more,
    }
    extra = {**checkpoint.extra, EXPORT: about}
    if options.precision != "f32":
        extra[PRECISION] = options.precision
    return replace(checkpoint, extra=extra)


def original_logits(checkpoint: Checkpoint, options: GraphOptions) -> LogitsFunction:
    """The reference: the network as `infer` runs it, without changes for export."""
    engine = TorchEngine(checkpoint.build(), checkpoint.preprocess)
    if pre_and_postprocessing(checkpoint.preprocess, options)[0] is None:
        return engine.logits

    def logits(images: Images) -> Logits:
        size = (images.shape[1], images.shape[2])
        seen = checkpoint.preprocess.network_size(size)
        return engine.logits(np.stack([resize_image(one, seen) for one in images]), size=size)

    return logits


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a path in a temporary folder; the file is renamed to `path` if the block succeeds.

    Files written beside it are moved as well, first. The temporary name is ASCII, which every
    library accepts. MediaError for errors of the system.
    """
    try:
        with folder_beside(path) as folder, utf8_name(folder) as named:
            written = Path(named) / f"model{path.suffix}"
            yield written
            with defer_interrupts():  # no interruption between files that belong together
                for part in sorted(written.parent.iterdir(), key=lambda part: part == written):
                    part.replace(path.parent / f"{path.stem}{part.name.removeprefix('model')}")
    except OSError as error:
        if isinstance(error, FcnsegError):
            raise
        raise cannot_write(path, error) from None
