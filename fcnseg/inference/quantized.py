"""Export in int8: a quarter of the size, faster where a CPU multiplies int8.

Weights are rounded channel by channel; what flows between the layers is rounded in the range that
it has on some training images (static quantization, Jacob et al., CVPR 2018). The first
convolution and the scores at the end stay in floating point. What that costs is measured on
validation images.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fcnseg.config import ExportConfig
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.engines import open_exported
from fcnseg.engines.base import Images
from fcnseg.engines.exported import first_line
from fcnseg.engines.model_files import PRECISION
from fcnseg.engines.onnx import import_onnxruntime
from fcnseg.errors import CheckpointError, OptionError, percent
from fcnseg.exporting import FORMATS, labelled, verify, write_report, written_atomically
from fcnseg.exporting.graph import PLAIN, GraphOptions, quiet
from fcnseg.exporting.onnx_file import complete, network_model, save_onnx
from fcnseg.exporting.parity import sample_images
from fcnseg.files import folder_beside
from fcnseg.inference.evaluation import dataset_for
from fcnseg.inference.loading import load
from fcnseg.inference.loading.fastest import least_seconds
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import resize_image, resize_labels
from fcnseg.metrics import Confusion, Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Callback, Message, Progress

FITTED_TO = 64
"""Training images that the ranges of 8 bits are taken from."""

MEASURED_ON = 200
"""Validation images, at most, on which the cost of 8 bits is measured."""

MOST_LOST = 0.01
"""A file that loses more mIoU than this is not written."""


ROUNDED = ["Conv", "Add", "Relu", "Clip"]
"""The operators that are computed in 8 bits."""

TIMED = (360, 480)
"""Height and width of the image that is timed, where a file takes any."""

TURNS = 3
"""So often each of two files is timed."""


@dataclass(frozen=True)
class Cost:
    """What rounding to 8 bits changed on validation images.

    label_agreement: proportion of pixels with the original's label, 0..1.
    miou_before, miou: of the original and of the file.
    ms_before, ms: that ONNX Runtime takes for an image in f32, and in int8, alternating.
    """

    images: int
    label_agreement: float
    miou_before: float
    miou: float
    ms_before: float = 0.0
    ms: float = 0.0


def export_int8(
    config: ExportConfig,
    model: Path,
    checkpoint: Checkpoint,
    path: Path,
    options: GraphOptions,
    about: Mapping[str, str],
    callback: Callback,
) -> Cost:
    """Round, measure what it costs, and only then give the file its name."""
    if config.data is None:
        raise OptionError(
            "int8 needs images for calibration; no dataset folder was given.",
            hint="add --data FOLDER, the one the model was trained on",
        )
    if config.format != "onnx":
        raise OptionError(
            f"int8 is written as onnx, which OpenVINO runs, too; found {config.format!r}.",
            hint="omit --format",
        )
    original = load(model, engine="torch", short_side=config.short_side)
    description = describe(config.data, callback)
    train, val = (dataset_for(original, description, s, callback) for s in ("train", "val"))
    callback(Message(f"Writing {path}, calibrated on {min(FITTED_TO, len(train))} training images"))
    chosen = (train[at].image for at in spread(len(train), FITTED_TO))
    if config.size is not None:
        chosen = (resize_image(image, config.size) for image in chosen)
    images = (original.prepare([image]) for image in chosen)  # each (1, h, w, C)
    with written_atomically(path) as written:
        ms_before, ms = write_int8(checkpoint, written, images, options, about=about)
        cost = _cost(original, load(written), val, callback, size=config.size)
        cost = replace(cost, ms_before=ms_before, ms=ms)
        if cost.miou < cost.miou_before - MOST_LOST:
            raise CheckpointError(
                f"int8 costs too much accuracy: mIoU {percent(cost.miou)}, before "
                f"{percent(cost.miou_before)}; the limit is a loss of {percent(MOST_LOST)}.",
                hint="nothing was written; export without --precision int8",
            )
        write_report(written, asdict(cost))
    if ms >= ms_before:
        times = f"{ms:.0f} ms per image, {ms_before:.0f} in f32"
        callback(Message(f"In int8 the model is not faster on this machine: {times}", "warning"))
    return cost


def _cost(
    original: Segmenter,
    rounded: Segmenter,
    val: SegmentationDataset,
    callback: Callback,
    *,
    size: tuple[int, int] | None,
) -> Cost:
    chosen = spread(len(val), MEASURED_ON)
    matrices = [Confusion(len(val.classes)) for _ in range(2)]
    same = pixels = 0
    for done, index in enumerate(chosen, start=1):
        sample = val[index]
        image, truth = sample.image, sample.labels
        if size is not None:
            image, truth = resize_image(image, size), resize_labels(truth, size)
        before, after = (each.predict([image])[0].labels for each in (original, rounded))
        for matrix, labels in zip(matrices, (before, after), strict=True):
            matrix.add(truth, labels)
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


def write_int8(
    checkpoint: Checkpoint,
    path: Path,
    images: Iterable[Images],
    options: GraphOptions = PLAIN,
    *,
    about: Mapping[str, Any] | None = None,
) -> tuple[float, float]:
    """Write an ONNX file that computes in 8 bits (in QDQ form, which every runtime reads).

    images: for calibration, each uint8 (1, h, w, C), at the size that the network sees.
    The outputs of the graph before rounding are verified; the caller measures the loss of
    accuracy. What comes before and after the network is not rounded.
    Returns the milliseconds that an image takes in f32, and in int8.
    Raises CheckpointError, MissingExtra.
    """
    FORMATS["onnx"].refuse(options)
    import_onnxruntime()
    import onnx

    with folder_beside(path) as folder:
        full, exact, rounded = (folder / f"{name}.onnx" for name in ("full", "f32", "int8"))
        network = network_model(checkpoint, options)
        onnx.save(network, exact)
        before = labelled(checkpoint, options)
        save_onnx(complete(network, checkpoint, options), before, full)
        verify(checkpoint, full, "onnx", options)
        _quantize(exact, rounded, images)
        header = labelled(checkpoint, options, **(about or {}), precision="int8")
        header = replace(header, extra={**header.extra, PRECISION: "int8"})
        save_onnx(complete(onnx.load(rounded), checkpoint, options), header, rounded)
        before_and_after = milliseconds([full, rounded], options)
        rounded.replace(path)
    return before_and_after[0], before_and_after[1]


def _quantize(exact: Path, rounded: Path, images: Iterable[Images]) -> None:
    """Write the file `rounded` of the file `exact`, with ranges calibrated on images."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self._left, None)
            return None if batch is None else {"images": batch}

    prepared = exact.with_name("ready.onnx")
    logging.disable(logging.WARNING)  # it asks for a preparation that was just made
    try:
        with quiet():
            quant_pre_process(exact, prepared, skip_symbolic_shape=True)
            graph = onnx.load(prepared).graph
            quantization.quantize_static(
                prepared,
                rounded,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                # Signed ones ONNX Runtime turns into unsigned ones on x86, with steps in between
                # that take up what is gained.
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                # Weights of 7 bits: products of 8 do not fit where a processor adds two of them in
                # 16 bits (AVX2, AVX-512 without VNNI), and the file would be worse there than here.
                reduce_range=True,
                op_types_to_quantize=ROUNDED,
                nodes_to_exclude=exact_layers(graph),
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"int8 is not available here: {first_line(error)}.") from error
    finally:
        logging.disable(logging.NOTSET)


def milliseconds(paths: Sequence[Path], options: GraphOptions) -> list[float]:
    """That ONNX Runtime takes for the labels of an image with each file: medians of TURNS turns.

    Alternating, so that other work on the machine slows all of them alike.
    """
    opened = [open_exported(path, "onnxruntime", device="cpu") for path in paths]
    size = options.size or TIMED
    image = sample_images((1, *size), seed=0, bands=opened[0][1].preprocess.bands)
    turns = [[least_seconds(engine, image) for engine, _ in opened] for _ in range(TURNS)]
    return [1000 * statistics.median(times) for times in zip(*turns, strict=True)]


def exact_layers(graph: Any) -> list[str]:
    """Names of the nodes that stay in f32: the first convolution, the scores, all after them.

    The first has little to compute, and rounding it lost all of 3 points of mIoU on cell nuclei.
    The last convolution with weights makes the scores.
    """
    weights = {one.name for one in graph.initializer}
    first, *_, last = (n for n in graph.node if n.op_type == "Conv" and n.input[1] in weights)
    names, made = [str(first.name), str(last.name)], set(last.output)
    for node in graph.node:  # they stand in the order in which they are computed
        if made.intersection(node.input):
            names.append(str(node.name))
            made.update(node.output)
    return names
