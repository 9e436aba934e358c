"""The command `export`: convert a model to another format and verify its outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fcnseg import __version__
from fcnseg.config import ExportConfig
from fcnseg.datasets.describe import describe
from fcnseg.engines import open_exported
from fcnseg.engines.model_files import header_in
from fcnseg.errors import CheckpointError, FolderPath, MediaError, OptionError, cannot_write, quoted
from fcnseg.exporting import FORMATS, convert, opset_of
from fcnseg.exporting.graph import GraphOptions
from fcnseg.exporting.onnx_file import (
    MODEL,
    how_to_get_the_runtime,
    is_bundle,
    runtime_folder,
    write_bundle,
    write_page,
)
from fcnseg.exporting.parity import REPORT_SUFFIX, SIZES, Parity, Trial
from fcnseg.files import folder_beside
from fcnseg.inference.evaluation import dataset_for
from fcnseg.inference.loading import load
from fcnseg.inference.quantized import Cost, export_int8, spread
from fcnseg.io.sources import open_source
from fcnseg.models.checkpoint import SHIPPED, Checkpoint, find_model, model_files
from fcnseg.overwriting import refuse_overwriting
from fcnseg.progress import Callback, Event, Message, no_callback

COMPARED_ON = 12
"""Maximum number of images (--images, or validation images of --data) for the comparison."""


@dataclass(frozen=True)
class ExportResult:
    """The exported file and its verification.

    opset: the ONNX operator set version; None for other formats.
    parity: the comparison of the file's outputs with the checkpoint's; None for int8, whose
        outputs differ: `cost` is the loss of accuracy.
    report: the file beside it with the same comparison.
    """

    format: str
    path: Path
    opset: int | None
    size_bytes: int
    parity: Parity | None
    cost: Cost | None = None
    report: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "format": self.format,
            "path": str(self.path),
            "opset": self.opset,
            "size_bytes": self.size_bytes,
            "parity": None if self.parity is None else self.parity.as_dict(),
            "int8": None if self.cost is None else asdict(self.cost),
            "report": None if self.report is None else str(self.report),
        }


def export(
    model: ExportConfig | Path | str | None = None,
    callback: Callback = no_callback,
    **options: Any,
) -> ExportResult:
    """Export a checkpoint and compare both on images of several sizes.

    model: what `fcnseg.load` takes, or an ExportConfig. options: those of ExportConfig, by name.
    The file is written only if its outputs match; an int8 file only if its scores on the
    validation images are nearly as good. Raises CheckpointError, MissingExtra, OptionError.

        done = fcnseg.export("nuclei", format="onnx", out="nuclei.onnx")
        print(done.path)
    """
    config = ExportConfig.of(model, options)
    file = find_model(config.model, callback=callback)
    if header_in(file) is not None:
        raise CheckpointError(
            f"{file} is an exported file already.", hint="give the checkpoint it was made from"
        )
    checkpoint = Checkpoint.load(file)
    checkpoint = replace(checkpoint, preprocess=checkpoint.preprocess.at(config.short_side))
    _check_options(config)
    if config.format == "web":
        return _export_page(config, file, checkpoint, callback)
    if config.bundle:
        return _export_bundle(config, file, callback)
    path = _target(config, file)
    _refuse(config, file, path)
    cost = parity = None
    if config.precision == "int8":
        graph, about = _options(config), _about(file)
        cost = export_int8(config, file, checkpoint, path, graph, about, callback)
    else:
        FORMATS[config.format].refuse(_options(config))
        callback(Message(f"Writing {path} and comparing it with {file}"))
        parity = convert(
            checkpoint,
            path,
            config.format,
            options=_options(config),
            trial=_trial(config, file, checkpoint, callback),
            about=_about(file),
            report=True,
        )
    parts = [path, *(path.with_suffix(suffix) for suffix in FORMATS[config.format].beside)]
    size = sum(part.stat().st_size for part in parts)
    report = path.with_suffix(REPORT_SUFFIX)
    return ExportResult(config.format, path, opset_of(path), size, parity, cost, report)


def _check_options(config: ExportConfig) -> None:
    """OptionError for options that have no effect or can't be combined."""
    if config.layout == "nchw" and (config.format == "web" or config.bundle):
        raise OptionError(
            f"--layout nchw can't be combined with "
            f"{'--bundle' if config.bundle else '--format web'}, whose programs pass NHWC images.",
            hint="omit --layout",
        )
    if config.web_runtime is not None and config.format != "web":
        raise OptionError(
            "--web-runtime is for --format web alone.", hint="omit it, or add --format web"
        )
    if config.images is not None and config.data is not None:
        raise OptionError(
            "--images has no effect with --data, whose images are compared.", hint="omit --images"
        )


def _export_page(
    config: ExportConfig, model: Path, checkpoint: Checkpoint, callback: Callback
) -> ExportResult:
    """Write the folder of a web page: the verified ONNX file, then the page."""
    if checkpoint.preprocess.bands is not None:
        raise OptionError("A browser's images are RGB; this model takes other bands.")
    if config.size is not None:
        raise OptionError("--format web takes images of any size.", hint="omit --size")
    runtime = runtime_folder(config.web_runtime)
    shipped = model.parent == SHIPPED
    folder = config.out or (Path() if shipped else model.parent) / f"{model.stem}-web"
    ours = (folder / "model.json").is_file()
    if folder.is_file() or (folder.exists() and not ours and any(folder.iterdir())):
        raise OptionError(
            f"{folder} already exists and was not written by --format web.",
            hint="name a new one: --out",
        )
    include = ("argmax", *(["skips"] if checkpoint.spec.fuse == "score" else []))
    options = {"format": "onnx", "out": folder / MODEL, "web_runtime": None, "include": include}
    result = export(ExportConfig.make({**config.chosen(), **options}), callback)
    _, header = open_exported(result.path, "onnxruntime", device="cpu")
    written = write_page(folder, header, runtime)
    if runtime is None:
        how = how_to_get_the_runtime(folder)
        callback(Message(f"onnxruntime-web is not here; to complete the page: {how}", "warning"))
    size = result.size_bytes + sum(path.stat().st_size for path in written)
    return replace(result, format="web", path=folder, size_bytes=size)


def _renamed(callback: Callback, before: str, after: str) -> Callback:
    """A callback that replaces the temporary file's name in messages with the final one."""

    def rename(event: Event) -> None:
        if isinstance(event, Message):
            event = replace(event, text=event.text.replace(before, after))
        callback(event)

    return rename


def _export_bundle(config: ExportConfig, model: Path, callback: Callback) -> ExportResult:
    """Write the zip file: the verified ONNX file, its documentation and examples."""
    if config.format != "onnx":
        raise OptionError(f"--bundle holds an ONNX file; found --format {config.format}.")
    folder = Path() if model.parent == SHIPPED else model.parent
    path = config.out or folder / f"{model.stem}.zip"
    path = path / f"{model.stem}.zip" if path.is_dir() else path
    if path.suffix.lower() != ".zip":
        raise OptionError(
            f"A bundle is named *.zip; found {path.name!r}.",
            hint=f"--out {quoted(path.with_suffix('.zip'))}",
        )
    refuse_overwriting([("--out", path)], [], kept=model_files([model]))
    _refuse_other_file(path, is_bundle)
    inside = path
    try:
        with folder_beside(path) as inside:
            include = tuple(dict.fromkeys((*config.include, "argmax")))
            options = {"out": inside / "model.onnx", "bundle": False, "include": include}
            renamed = _renamed(callback, str(inside / "model.onnx"), str(path))
            result = export(ExportConfig.make({**config.chosen(), **options}), renamed)
            _, header = open_exported(result.path, "onnxruntime", device="cpu")
            write_bundle(inside / path.name, result.path, header)
            (inside / path.name).replace(path)
    except OSError as error:
        if isinstance(error, MediaError):  # name the final file, not the temporary one
            text = error.message.replace(str(inside / "model.onnx"), str(path))
            raise MediaError(text, hint=error.hint) from None
        raise cannot_write(path, error) from None
    return replace(result, path=path, size_bytes=path.stat().st_size, report=None)


def _options(config: ExportConfig) -> GraphOptions:
    precision: Literal["f32", "f16"] = "f16" if config.precision == "f16" else "f32"
    layout: Literal["NHWC", "NCHW"] = "NCHW" if config.layout == "nchw" else "NHWC"
    return GraphOptions(
        size=config.size, precision=precision, layout=layout, include=config.include
    )


def _about(model: Path) -> dict[str, str]:
    """The source checkpoint and the version of fcnseg, stored in the file."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"source": model.name, "source_sha256": digest, "fcnseg": __version__}


def _trial(config: ExportConfig, model: Path, checkpoint: Checkpoint, callback: Callback) -> Trial:
    """The images for the comparison with the checkpoint: the user's, or synthetic ones."""
    bands = checkpoint.preprocess.bands
    own = Trial(sizes=_sizes(checkpoint), size=config.size, bands=bands)
    if config.data is not None:
        original = load(model, engine="torch", short_side=config.short_side)
        val = dataset_for(original, describe(config.data, callback), "val", callback)
        chosen = [val[index] for index in spread(len(val), COMPARED_ON)]
        images, labels = [one.image for one in chosen], [one.labels for one in chosen]
        return replace(own, images=images, labels=labels, classes=original.classes)
    if config.images is None:
        return own
    with open_source(config.images, limit=COMPARED_ON) as source:
        source.bands = bands
        images = [frame.pixels for frame in source]
    if not images:
        raise OptionError(f"--images {config.images} holds no image that can be read.")
    return replace(own, images=images)


def _target(config: ExportConfig, model: Path) -> Path:
    """The file to write; OptionError if its suffix is not that of the format."""
    suffix = FORMATS[config.format].suffix
    stem = model.stem if config.precision == "f32" else f"{model.stem}.{config.precision}"
    if config.out is None:
        folder = Path() if model.parent == SHIPPED else model.parent  # not into the installation
        return folder / f"{stem}{suffix}"
    if config.out.is_dir() or isinstance(config.out, FolderPath):
        return config.out / f"{stem}{suffix}"
    if config.out.suffix.lower() != suffix:
        raise OptionError(
            f"An exported {config.format} file is named *{suffix}; found {config.out.name!r}.",
            hint=f"--out {quoted(config.out.with_suffix(suffix))}",
        )
    return config.out


def _refuse(config: ExportConfig, model: Path, path: Path) -> None:
    """OptionError if an input, or a file not written by export, would be overwritten."""
    beside = [path.with_suffix(suffix) for suffix in FORMATS[config.format].beside]
    outputs = [("--out", file) for file in (path, *beside)]
    data = [] if config.data is None else [("--data", config.data)]
    refuse_overwriting(outputs, [], kept=[*model_files([model]), *data])
    if config.out is not None:
        refuse_overwriting([("--out", config.out)], [], kept=data)
    _refuse_other_file(path, lambda file: header_in(file) is not None)
    taken = [file for file in beside if file.exists() and not path.exists()]
    if taken:
        raise OptionError(
            f"{taken[0]} belongs to something else ({path.name} is not there), and would be "
            "written over.",
            hint=f"name another file, e.g. --out {quoted(path.with_stem(f'{path.stem}_export'))}",
        )


def _refuse_other_file(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """OptionError for an existing, non-empty file that was not written by export.

    Devices and pipes are accepted.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with suppress(CheckpointError):
        if is_ours(path):
            return
    raise OptionError(
        f"{path} already exists and was not written by fcnseg export.",
        hint=f"name another file: --out {quoted(path.with_stem(f'{path.stem}_export'))}",
    )


def _sizes(checkpoint: Checkpoint) -> tuple[tuple[int, int], ...]:
    """Image sizes for the comparison: SIZES, and the crop size of the training."""
    crop = checkpoint.extra.get("crop")
    own = [(int(crop[0]), int(crop[1]))] if crop else []
    return tuple(dict.fromkeys([*SIZES, *own]))
