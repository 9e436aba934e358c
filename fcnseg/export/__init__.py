"""The formats a model is exported to: each writes a file and runs it again for the parity check."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from fcnseg.engines import (
    SIZES,
    Images,
    LabelsOf,
    Logits,
    LogitsFunction,
    Parity,
    compare,
    open_exported,
    sample_images,
)
from fcnseg.engines.base import SCORES
from fcnseg.engines.fuse import fold_batch_norms
from fcnseg.engines.openvino import import_openvino, read_model
from fcnseg.engines.pytorch import TorchEngine, score_grid_of
from fcnseg.errors import CheckpointError, FcnsegError, MediaError, MissingExtra, percent
from fcnseg.files import folder_beside, utf8_name
from fcnseg.models.checkpoint import KEY, Checkpoint
from fcnseg.progress import held_back


@dataclass(frozen=True)
class Format:
    """One kind of exported file.

    suffix: of its name; beside: of the files that belong to it.
    write: makes the file of a checkpoint.
    run: gives functions from images to logits, and to labels where there is a shorter way,
        that use nothing but the file.
    """

    suffix: str
    beside: tuple[str, ...]
    write: Callable[[Checkpoint, Path], None]
    run: Callable[[Path], tuple[LogitsFunction, LabelsOf | None]]


class Graph(nn.Module):
    """What is exported: a checkpoint's network with its normalisation.

    Batch norms are folded and nothing is done in place: the exporters then have half the
    work, and the graph stays one operator a step.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        network = checkpoint.build().requires_grad_(False)
        self.network = fold_batch_norms(
            network, torch.zeros(1, checkpoint.spec.in_channels, 64, 64)
        ).eval()
        self.preprocess = checkpoint.preprocess
        for module in self.modules():
            if hasattr(module, "inplace"):
                setattr(module, "inplace", False)  # noqa: B010 (mypy takes it for a submodule)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB -> float32 logits (N, K, H, W)."""
        logits: Tensor = self.network(self.prepared(images))
        return logits.float()

    def prepared(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) RGB -> what the network takes."""
        # contiguous: with channels last the exporters spend half their time on strides.
        return self.preprocess.normalise(images).contiguous()


class GraphWithScores(Graph):
    """The same with a second output: the scores that the logits are upsampled from."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """uint8 (N, H, W, 3) RGB -> float32 logits (N, K, H, W), scores (N, K, h, w)."""
        scores, logits = self.network.scores_and_logits(self.prepared(images))
        return logits.float(), scores.float()


def _write_onnx(checkpoint: Checkpoint, path: Path) -> None:
    require("onnx", "onnxscript", extra="onnx", what="Exporting to ONNX")
    graph = Graph(checkpoint)
    outputs = ["logits"]
    if score_grid_of(graph.network) is not None:
        graph, outputs = GraphWithScores(checkpoint), ["logits", SCORES]
    with quiet():
        program = torch.onnx.export(
            graph,
            (example(checkpoint),),
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes={"images": {0: "batch", 1: "height", 2: "width"}},
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # with dynamo there always is one
        program.model.metadata_props[KEY] = checkpoint.header_json()
        program.save(path, external_data=False)


def _run_onnx(path: Path) -> tuple[LogitsFunction, LabelsOf | None]:
    engine, _ = open_exported(path, "onnxruntime", device="cpu")
    return engine.logits, engine.just_labels


def _write_openvino(checkpoint: Checkpoint, path: Path) -> None:
    openvino = import_openvino()
    with TemporaryDirectory(dir=path.parent) as folder:
        onnx = Path(folder) / "model.onnx"
        _write_onnx(checkpoint, onnx)
        with quiet():
            model = read_model(onnx)
            model.set_rt_info(checkpoint.header_json(), [KEY])
            openvino.save_model(model, str(path), compress_to_fp16=False)


def _run_openvino(path: Path) -> tuple[LogitsFunction, LabelsOf | None]:
    engine, _ = open_exported(path, "openvino", precision="f32")
    return engine.logits, engine.just_labels


def _write_torchscript(checkpoint: Checkpoint, path: Path) -> None:
    with quiet():
        # Traced, not scripted: sizes are recorded as computed, so that they stay free.
        traced = torch.jit.trace(Graph(checkpoint), example(checkpoint), check_trace=False)  # type: ignore[no-untyped-call]
        header = checkpoint.header_json().encode()
        torch.jit.save(traced, str(path), _extra_files={KEY: header})


def _run_torchscript(path: Path) -> tuple[LogitsFunction, LabelsOf | None]:
    with quiet():
        return _as_run(torch.jit.load(str(path)))  # type: ignore[no-untyped-call]


def _write_torch_export(checkpoint: Checkpoint, path: Path) -> None:
    free = torch.export.Dim.DYNAMIC
    with quiet():
        program = torch.export.export(
            Graph(checkpoint), (example(checkpoint),), dynamic_shapes=({0: free, 1: free, 2: free},)
        )
        # Guards on how the example lay in memory would refuse sizes that divide by a stride.
        # They do not touch the arithmetic, as the comparison shows. Absent before torch 2.9.
        if hasattr(program, "_guards_code"):
            program._guards_code = []
        torch.export.save(program, path, extra_files={KEY: checkpoint.header_json()})


def _run_torch_export(path: Path) -> tuple[LogitsFunction, LabelsOf | None]:
    with quiet():
        return _as_run(torch.export.load(path).module())


def _as_run(module: Callable[[Tensor], Tensor]) -> tuple[LogitsFunction, None]:
    def run(images: Images) -> Logits:
        with torch.no_grad():
            logits: Logits = module(torch.from_numpy(images)).numpy()
        return logits

    return run, None


def opset_of(path: Path) -> int | None:
    """The version of the operators in an ONNX file; None for files of other kinds."""
    if path.suffix != ".onnx":
        return None
    import onnx

    model = onnx.load(path, load_external_data=False)
    return next(int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx"))


FORMATS = {
    "onnx": Format(".onnx", (), _write_onnx, _run_onnx),
    "openvino": Format(".xml", (".bin",), _write_openvino, _run_openvino),
    "torchscript": Format(".torchscript", (), _write_torchscript, _run_torchscript),
    "torch-export": Format(".pt2", (), _write_torch_export, _run_torch_export),
}


def example(checkpoint: Checkpoint) -> Tensor:
    """The images a graph is traced with: no size divides by a stride, none is 1."""
    return torch.from_numpy(sample_images((2, 97, 131), seed=0, bands=checkpoint.preprocess.bands))


def require(*modules: str, extra: str, what: str) -> None:
    """MissingExtra when one of the modules is not installed."""
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise MissingExtra(what, extra)


@contextmanager
def quiet() -> Iterator[None]:
    """The exporters' warnings and log lines, are suppressed."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def convert(
    checkpoint: Checkpoint,
    path: Path,
    format: str,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Parity:
    """Write a checkpoint in another format, verify that its outputs match, then name the file.

    CheckpointError when it does not; `path` is then as it was before.
    """
    kind = FORMATS[format]
    with written_atomically(path) as written:
        kind.write(checkpoint, written)
        logits, labels = kind.run(written)
        original = TorchEngine(checkpoint.build(), checkpoint.preprocess)  # as it was trained
        bands = checkpoint.preprocess.bands
        parity = compare(original.logits, logits, labels=labels, sizes=sizes, bands=bands)
        if not parity.holds:
            raise CheckpointError(
                f"The outputs of the {format} file do not match the checkpoint's: logits differ by "
                f"up to {parity.max_abs_diff:.3g}, labels agree on "
                f"{percent(parity.label_agreement, 2)} of pixels (99.9 % are required).",
                hint="nothing was written; please report this with the checkpoint's options",
            )
    return parity


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A file in a folder of its own, which gets its name only when the block ends well.

    What was written beside it comes along, before it. Until then its name is one that every
    library takes. MediaError where the system refuses.
    """
    try:
        with folder_beside(path) as folder, utf8_name(folder) as named:
            written = Path(named) / f"model{path.suffix}"
            yield written
            with held_back():  # they belong together
                for part in sorted(written.parent.iterdir(), key=lambda part: part == written):
                    part.replace(path.parent / f"{path.stem}{part.suffix}")
    except OSError as error:
        if isinstance(error, FcnsegError):
            raise
        raise MediaError(f"Can't write {path}: {error.strerror or error}.") from error
