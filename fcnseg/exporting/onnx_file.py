"""ONNX files: the network's graph with those of preprocessing and postprocessing.

Also packages for other programs: a zip file, or a folder with a web page that segments images and
the camera in a browser. The page needs onnxruntime-web, which is not part of fcnseg: it is copied
from its npm package if that is installed.
"""

from __future__ import annotations

import copy
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fcnseg.engines.exported import first_line
from fcnseg.engines.model_files import LABELS, SCORES
from fcnseg.engines.onnx import keep_outputs
from fcnseg.engines.pytorch import score_grid_of
from fcnseg.errors import CheckpointError, OptionError, cannot_write
from fcnseg.exporting.graph import Graph, GraphOptions, Preprocessing, pre_and_postprocessing, quiet
from fcnseg.exporting.labels import labels_model
from fcnseg.exporting.parity import REPORT_SUFFIX, example_images
from fcnseg.models.checkpoint import KEY, Checkpoint
from fcnseg.models.networks import build_empty

_INSIDE = "network."
"""Prefix of the names of the network's inputs and outputs that are not those of the file."""


def write_onnx(checkpoint: Checkpoint, path: Path, options: GraphOptions) -> None:
    """Write a checkpoint, including its header, as ONNX."""
    save_onnx(complete(network_model(checkpoint, options), checkpoint, options), checkpoint, path)


def save_onnx(model: Any, checkpoint: Checkpoint, path: Path) -> None:
    """Write an onnx.ModelProto with a checkpoint's header."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: checkpoint.header_json()})
    onnx.save(model, path)


def network_model(checkpoint: Checkpoint, options: GraphOptions) -> Any:
    """Export the network only, for images at its input size, as an onnx.ModelProto."""
    before, _ = pre_and_postprocessing(checkpoint.preprocess, options)
    graph = Graph(checkpoint.build(), checkpoint.preprocess, options, scores=before is None)
    size = options.size and checkpoint.preprocess.network_size(options.size)
    images = example_images(size, checkpoint.preprocess.bands)
    return _model(graph, (images,), ["images"], graph.names, None if size else (_FREE,))


def complete(model: Any, checkpoint: Checkpoint, options: GraphOptions) -> Any:
    """Add preprocessing and postprocessing to the network's model, for images at their own size."""
    full = _surrounded(model, checkpoint, options)
    if options.labels_only:
        keep_outputs(full, {SCORES, LABELS})
    return _channels_first(full) if options.layout == "NCHW" else full


def _channels_first(model: Any) -> Any:
    """Add a transpose for images (N, C, H, W), which runtimes merge with later ones."""
    import onnx

    for node in model.graph.node:
        node.input[:] = ["images_nhwc" if name == "images" else name for name in node.input]
    turn = onnx.helper.make_node("Transpose", ["images"], ["images_nhwc"], perm=[0, 2, 3, 1])
    model.graph.node.insert(0, turn)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    batch, height, width, channels = (copy.deepcopy(size) for size in sizes)
    del sizes[:]
    sizes.extend([batch, channels, height, width])
    return model


def _surrounded(model: Any, checkpoint: Checkpoint, options: GraphOptions) -> Any:
    before, after = pre_and_postprocessing(checkpoint.preprocess, options)
    if after is None:
        return model
    images = example_images(options.size, checkpoint.preprocess.bands)
    size, free = (images.shape[1], images.shape[2]), options.size is None
    names = [value.name for value in model.graph.output]
    if SCORES in names and free:
        return _with_labels(model, checkpoint)
    inside = {name: f"{_INSIDE}{name}" for name in names}
    parts = [_renamed(model, inside, "1.")]
    if before is not None:
        seen, size = f"{_INSIDE}images", checkpoint.preprocess.network_size(size)
        opaque = Preprocessing(before.preprocess, opaque=True)
        first = _model(opaque, (images,), ["images"], [seen], (_FREE,) if free else None)
        kept = {"images": seen, **inside}
        parts = [_renamed(first, {seen: seen}, "0."), _renamed(model, kept, "1.")]
    maps = [torch.zeros(len(images), checkpoint.spec.num_classes, *size) for _ in names]
    last = _model(
        after,
        (images, *maps),
        ["images", *inside.values()],
        [*names, *[LABELS] * after.labels],
        (_FREE, tuple(_FREE_SEEN if before else _FREE_MAPS for _ in names)) if free else None,
    )
    outputs = {value.name: value.name for value in last.graph.output}
    kept = outputs | {name: name for name in inside.values()}
    return _joined([*parts, _renamed(last, kept, "2.")])


def _with_labels(model: Any, checkpoint: Checkpoint) -> Any:
    """Add labels computed from scores, with only some classes upsampled in each square.

    For dynamic sizes only: graphs of fixed size are for runtimes that need static shapes
    (TensorRT).
    """
    grid = score_grid_of(build_empty(checkpoint.spec))
    assert grid is not None, "there are scores"
    last = labels_model(grid, model)
    outputs = [*model.graph.output, *last.graph.output]
    joined = _joined([model, _renamed(last, {SCORES: SCORES, LABELS: LABELS}, "labels.")])
    joined.graph.ClearField("output")
    joined.graph.output.extend(outputs)
    return joined


_FREE = {0: "batch", 1: "height", 2: "width"}
"""Dynamic axes of images."""

_FREE_MAPS = {0: "batch", 2: "height", 3: "width"}

_FREE_SEEN = {0: "batch", 2: "seen_height", 3: "seen_width"}


@torch.library.custom_op(
    "fcnseg::upsample_bilinear2d",
    mutates_args=(),
    schema="(Tensor maps, SymInt[] size, bool align_corners) -> Tensor",
)
def _upsample_bilinear2d(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    return F.interpolate(maps, list(size), mode="bilinear", align_corners=align_corners)


@_upsample_bilinear2d.register_fake
def _(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:  # noqa: ARG001
    return maps.new_empty(*maps.shape[:2], *size)


class _InterpolateAsOneOp(TorchFunctionMode):
    """Trace bilinear interpolation as one operator.

    torch would trace its decomposition only to find the shape of the result: up to a quarter of
    the time of an export.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        more = kwargs or {}
        if func is F.interpolate and more.get("mode") == "bilinear":
            return _upsample_bilinear2d(*args, more["size"], bool(more["align_corners"]))
        return func(*args, **more)


def _model(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    outputs: Sequence[str],
    shapes: tuple[Any, ...] | None,
) -> Any:
    """Export a module as an onnx.ModelProto."""
    from onnxscript.function_libs.torch_lib.ops.nn import aten_upsample_bilinear2d

    translated: dict[Any, Any] = {
        torch.ops.fcnseg.upsample_bilinear2d.default: aten_upsample_bilinear2d
    }
    with quiet(), _InterpolateAsOneOp():
        try:
            program = torch.onnx.export(
                module, inputs, input_names=names, output_names=outputs, dynamic_shapes=shapes,
                custom_translation_table=translated, dynamo=True, verbose=False,
            )  # fmt: skip
        except RuntimeError as error:  # for example an unsupported layer
            raise CheckpointError(
                f"torch.onnx can't convert this network: {first_line(error)}.",
                hint="--format torchscript, or a network with another backbone",
            ) from error
    assert program is not None, "there is one with dynamo"
    return _without_metadata(program.model_proto)


def _without_metadata(model: Any) -> Any:
    """Remove torch's stack traces of each node, which contain local paths."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input):
        del part.metadata_props[:]
    for value in graph.output:
        del value.metadata_props[:]
    return model


def _renamed(model: Any, kept: Mapping[str, str], prefix: str) -> Any:
    """A copy with a prefix added to all names except those in `kept` and "images"."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {"": "", "images": "images", **kept}

    def new(name: str) -> str:
        return names.get(name, f"{prefix}{name}")

    for node in copy.graph.node:
        node.name = f"{prefix}{node.name}"
        for field in (node.input, node.output):
            field[:] = [new(name) for name in field]
    for value in (*copy.graph.initializer, *copy.graph.output):
        value.name = new(value.name)
    return copy


def _joined(parts: Sequence[Any]) -> Any:
    """Merge models: outputs of one are the inputs of the same name of later ones."""
    joined, *others = parts
    for part in others:
        joined.graph.node.extend(part.graph.node)
        joined.graph.initializer.extend(part.graph.initializer)
    joined.graph.ClearField("value_info")  # their symbols for dynamic sizes conflict
    joined.graph.ClearField("output")
    joined.graph.output.extend(others[-1].graph.output)
    return joined


TEXTS = {
    "contract.md": "contract.md",
    "segment.py": "segment.py.in",
    "segment.cpp": "segment.cpp",
    "Dockerfile": "Dockerfile",
}
"""Names in the zip file -> names in fcnseg/exporting/bundled."""

RUNTIME = (
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""The files of onnxruntime-web that the page loads: WebGPU, with WebAssembly as fallback."""

PAGE = ("index.html", "page.js")

INSTALLED = Path("node_modules") / "onnxruntime-web"
"""Where npm installs the package."""

MODEL = "model.onnx"


def write_bundle(path: Path, model: Path, header: Checkpoint) -> None:
    """Write a zip file with `model`, the report beside it, its classes and TEXTS. MediaError."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.write(model, "model.onnx")
            bundle.write(model.with_suffix(REPORT_SUFFIX), "parity.json")
            bundle.writestr("model.json", header.header_json())
            for name, source in TEXTS.items():
                text = files("fcnseg.exporting").joinpath("bundled", source).read_text("utf-8")
                bundle.writestr(name, text)
    except OSError as error:
        raise cannot_write(path, error) from None


def is_bundle(path: Path) -> bool:
    """Whether a file was written by `write_bundle`."""
    try:
        with zipfile.ZipFile(path) as bundle:
            return {"model.onnx", "model.json", *TEXTS} <= {*bundle.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False


def runtime_folder(given: Path | None) -> Path | None:
    """Find onnxruntime-web's files; OptionError when a given folder does not have them."""
    package = given or INSTALLED
    for folder in (package / "dist", package / "package" / "dist", package):
        if all((folder / name).is_file() for name in RUNTIME):
            return folder
    if given is None:
        return None
    raise OptionError(
        f"--web-runtime {given} is not the npm package onnxruntime-web: {', '.join(RUNTIME)} are "
        "not there, nor in its dist.",
        hint="npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz; --web-runtime package",
    )


def write_page(folder: Path, header: Checkpoint, runtime: Path | None) -> list[Path]:
    """Write the page's files except the ONNX file into a folder; return their paths. MediaError."""
    written = []
    try:
        for name in PAGE:
            text = files("fcnseg.exporting").joinpath("page", name).read_text(encoding="utf-8")
            written.append(_write(folder / name, text))
        written.append(_write(folder / "model.json", header.header_json()))
        written.append(_write(folder / "README.txt", _readme(runtime is not None)))
        if runtime is not None:
            (folder / "ort").mkdir(exist_ok=True)
            copies = ((runtime / name, folder / "ort" / name) for name in RUNTIME)
            written += [Path(shutil.copyfile(*copy)) for copy in copies]
    except OSError as error:
        raise cannot_write(folder, error) from None
    return written


def how_to_get_the_runtime(folder: Path) -> str:
    """The commands that complete a folder without onnxruntime-web."""
    names = " ".join(f"package/dist/{name}" for name in RUNTIME)
    return (
        "npm pack onnxruntime-web && tar xzf onnxruntime-web-*.tgz && "
        f"mkdir -p {folder}/ort && cp {names} {folder}/ort/"
    )


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _readme(complete: bool) -> str:
    serve = (
        "Serve this folder with any static server, e.g. python3 -m http.server, and open\n"
        "http://localhost:8000 in a browser.\n"
    )
    if complete:
        return f"{serve}ort/ holds files of onnxruntime-web (MIT license, Microsoft).\n"
    return f"{serve}It needs files of onnxruntime-web:\n\n    {how_to_get_the_runtime(Path())}\n"
