"""The command `export`: a model in another format, verified to give the same outputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fcnseg.config import ExportConfig
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.engines import SIZES, Parity
from fcnseg.errors import CheckpointError, OptionError, percent
from fcnseg.export import FORMATS, convert, opset_of, written_atomically
from fcnseg.export.int8 import write_int8
from fcnseg.inference.evaluation import as_the_model_sees
from fcnseg.inference.segmenter import Segmenter, load
from fcnseg.metrics import Confusion, Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.zoo import SHIPPED, find_model, model_files
from fcnseg.overwriting import refuse_overwriting
from fcnseg.progress import Callback, Message, Progress, no_callback

FITTED_TO = 64
"""Training images that the ranges of 8 bits are taken from."""

MEASURED_ON = 200
"""Validation images, at most, on which the cost of 8 bits is measured."""

MOST_LOST = 0.02
"""A file that loses more mIoU than this is not written."""


@dataclass(frozen=True)
class Cost:
    """What rounding to 8 bits changed on validation images.

    label_agreement: share of pixels with the original's label, 0..1.
    miou_before, miou: of the original and of the file.
    """

    images: int
    label_agreement: float
    miou_before: float
    miou: float


@dataclass(frozen=True)
class ExportResult:
    """What was written, and the proof.

    opset: the version of the operators, for ONNX; None for formats without one.
    parity: how near the file's answers are to the checkpoint's; None in int8, where they are
        not meant to be equal and `cost` says by how much they differ.
    """

    format: str
    path: Path
    opset: int | None
    size_bytes: int
    parity: Parity | None
    cost: Cost | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "format": self.format,
            "path": str(self.path),
            "opset": self.opset,
            "size_bytes": self.size_bytes,
            "parity": None if self.parity is None else self.parity.as_dict(),
            "int8": None if self.cost is None else asdict(self.cost),
        }


def export(config: ExportConfig, callback: Callback = no_callback) -> ExportResult:
    """Write a checkpoint in another format and compare the two on images of several sizes.

    The file appears only when it gives the same answers; one in int8 when it is nearly as
    good on the validation images. Raises CheckpointError, MissingExtra, OptionError.
    """
    model = find_model(config.model, callback=callback)
    if model.suffix.lower() in {format.suffix for format in FORMATS.values()}:
        raise CheckpointError(
            f"{model} is an exported file already.", hint="give the checkpoint it was made from"
        )
    if config.data is not None and config.precision != "int8":
        raise OptionError("--data is for --precision int8 alone.", hint="omit --data, or add that")
    path = _target(config, model)
    _refuse(config, model, path)
    if config.precision == "int8":
        cost = _export_int8(config, model, path, callback)
        return ExportResult(config.format, path, opset_of(path), path.stat().st_size, None, cost)
    checkpoint = Checkpoint.load(model)
    callback(Message(f"Writing {path} and comparing it with {model}"))
    parity = convert(checkpoint, path, config.format, sizes=_sizes(checkpoint))
    parts = [path, *(path.with_suffix(suffix) for suffix in FORMATS[config.format].beside)]
    size = sum(part.stat().st_size for part in parts)
    return ExportResult(config.format, path, opset_of(path), size, parity)


def _export_int8(config: ExportConfig, model: Path, path: Path, callback: Callback) -> Cost:
    """Round, measure what it costs, and only then give the file its name."""
    if config.data is None:
        raise OptionError(
            "int8 has to be fitted to images; no dataset folder was given.",
            hint="add --data FOLDER, the one the model was trained on",
        )
    if config.format != "onnx":
        raise OptionError(
            f"int8 is written as onnx, which OpenVINO runs, too; found {config.format!r}.",
            hint="leave --format away",
        )
    original = load(model, engine="torch")
    description = as_the_model_sees(describe(config.data, callback), original, callback)
    train, val = (
        SegmentationDataset(description, split, preprocess=original.preprocess, cache=False)
        for split in ("train", "val")
    )
    callback(Message(f"Writing {path}, fitted to {min(FITTED_TO, len(train))} training images"))
    images = (original.prepare([train[at].image]) for at in spread(len(train), FITTED_TO))
    with written_atomically(path) as written:
        write_int8(Checkpoint.load(model), written, images)
        cost = _cost(original, load(written), val, callback)
        if cost.miou < cost.miou_before - MOST_LOST:
            raise CheckpointError(
                f"In int8 the model loses too much: mIoU {percent(cost.miou)}, before "
                f"{percent(cost.miou_before)}; at most {percent(MOST_LOST)} may be lost.",
                hint="nothing was written; export without --precision int8",
            )
    return cost


def _cost(
    original: Segmenter, rounded: Segmenter, val: SegmentationDataset, callback: Callback
) -> Cost:
    chosen = spread(len(val), MEASURED_ON)
    matrices = [Confusion(len(val.classes)) for _ in range(2)]
    same = pixels = 0
    for done, index in enumerate(chosen, start=1):
        sample = val[index]
        before, after = (each.predict([sample.image])[0].labels for each in (original, rounded))
        for matrix, labels in zip(matrices, (before, after), strict=True):
            matrix.add(sample.labels, labels)
        same, pixels = same + int((before == after).sum()), pixels + before.size
        callback(Progress("comparing", done, len(chosen), "images"))
    miou_before, miou = (
        Report.of(matrix.matrix, val.classes, len(chosen)).miou for matrix in matrices
    )
    return Cost(len(chosen), same / pixels, miou_before, miou)


def spread(count: int, most: int) -> list[int]:
    """At most so many of 0 .. count - 1, evenly over all of them."""
    chosen = min(count, most)
    return [index * count // chosen for index in range(chosen)]


def _target(config: ExportConfig, model: Path) -> Path:
    """The file to write; OptionError when its name would hide what it is."""
    suffix = FORMATS[config.format].suffix
    stem = f"{model.stem}.int8" if config.precision == "int8" else model.stem
    if config.out is None:
        folder = Path() if model.parent == SHIPPED else model.parent  # not into the installation
        return folder / f"{stem}{suffix}"
    if config.out.is_dir():
        return config.out / f"{stem}{suffix}"
    if config.out.suffix.lower() != suffix:
        raise OptionError(
            f"An exported {config.format} file is named *{suffix}; found {config.out.name!r}.",
            hint=f"--out {config.out.with_suffix(suffix)}",
        )
    return config.out


def _refuse(config: ExportConfig, model: Path, path: Path) -> None:
    """OptionError when what is read, or a file that is no export of ours, would be replaced."""
    beside = [path.with_suffix(suffix) for suffix in FORMATS[config.format].beside]
    outputs = [("--out", path), *(("--out", file) for file in beside)]
    data = [] if config.data is None else [("--data", config.data)]
    refuse_overwriting(outputs, [], kept=[*model_files(model), *data])
    if config.out is not None:
        refuse_overwriting([("--out", config.out)], [], kept=data)
    taken = [file for file in beside if file.exists() and not path.exists()]
    if taken:
        raise OptionError(
            f"{taken[0]} belongs to something else ({path.name} is not there), and would be "
            "written over.",
            hint=f"name another file, e.g. --out {path.with_stem(f'{path.stem}_export')}",
        )


def _sizes(checkpoint: Checkpoint) -> tuple[tuple[int, int], ...]:
    """Where answers are compared: our sizes, and the one the network was trained for."""
    crop = checkpoint.extra.get("crop")
    own = [(int(crop[0]), int(crop[1]))] if crop else []
    return tuple(dict.fromkeys([*SIZES, *own]))
