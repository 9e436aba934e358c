"""Export in int8: a quarter of the size, faster on CPUs with int8 multiplication.

Weights are quantized per channel, activations with the ranges that they have on some training
images (static quantization, Jacob et al., CVPR 2018). The first convolution and the final scores
stay in floating point. The loss of accuracy is measured on validation images.
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
from fcnseg.exporting import FORMATS, verify, with_description, write_report, written_atomically
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

CALIBRATION_IMAGES = 64
"""Training images used for calibration."""

VALIDATION_IMAGES = 200
"""Maximum number of validation images on which the loss of accuracy is measured."""

MAX_LOSS = 0.01
"""A file that loses more mIoU than this is not written."""


QUANTIZED = ["Conv", "Add", "Relu", "Clip"]
"""The operators that are computed in 8 bits."""

TIMED = (360, 480)
"""Height and width of the image for timing, if a file takes any size."""

TURNS = 3
"""How often each of two files is timed."""


@dataclass(frozen=True)
class Cost:
    """The effect of quantization, on validation images.

    label_agreement: proportion of pixels with the same label as the original's, 0..1.
    miou_before, miou: of the original and of the file.
    ms_before, ms: ONNX Runtime's time per image in f32 and in int8, measured alternately.
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
    """Quantize, measure the loss of accuracy, and only then give the file its name."""
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
    callback(
        Message(
            f"Writing {path}, calibrated on {min(CALIBRATION_IMAGES, len(train))} training images"
        )
    )
    chosen = (train[at].image for at in spread(len(train), CALIBRATION_IMAGES))
    if config.size is not None:
        chosen = (resize_image(image, config.size) for image in chosen)
    images = (original.prepare([image]) for image in chosen)  # each (1, h, w, C)
    with written_atomically(path) as written:
        ms_before, ms = write_int8(checkpoint, written, images, options, about=about)
        cost = _cost(original, load(written), val, callback, size=config.size)
        cost = replace(cost, ms_before=ms_before, ms=ms)
        if cost.miou < cost.miou_before - MAX_LOSS:
            raise CheckpointError(
                f"int8 costs too much accuracy: mIoU {percent(cost.miou)}, before "
                f"{percent(cost.miou_before)}; the limit is a loss of {percent(MAX_LOSS)}.",
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
    chosen = spread(len(val), VALIDATION_IMAGES)
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
    """At most `most` of the indices 0 .. count - 1, evenly spaced."""
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
    """Write an ONNX file quantized to 8 bits (in QDQ format, which every runtime reads).

    images: for calibration, each uint8 (1, h, w, C), at the network's input size.
    The outputs of the graph before quantization are verified; the caller measures the loss of
    accuracy. Preprocessing and upsampling are not quantized.
    Returns the milliseconds per image in f32, and in int8.
    Raises CheckpointError, MissingExtra.
    """
    FORMATS["onnx"].refuse(options)
    import_onnxruntime()
    import onnx

    with folder_beside(path) as folder:
        full, exact, rounded = (folder / f"{name}.onnx" for name in ("full", "f32", "int8"))
        network = network_model(checkpoint, options)
        onnx.save(network, exact)
        before = with_description(checkpoint, options)
        save_onnx(complete(network, checkpoint, options), before, full)
        verify(checkpoint, full, "onnx", options)
        _quantize(exact, rounded, images)
        header = with_description(checkpoint, options, **(about or {}), precision="int8")
        header = replace(header, extra={**header.extra, PRECISION: "int8"})
        save_onnx(complete(onnx.load(rounded), checkpoint, options), header, rounded)
        before_and_after = milliseconds([full, rounded], options)
        rounded.replace(path)
    return before_and_after[0], before_and_after[1]


def _quantize(exact: Path, rounded: Path, images: Iterable[Images]) -> None:
    """Quantize the file `exact` to the file `rounded`, calibrated on images."""
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
    logging.disable(logging.WARNING)  # it recommends the preprocessing that was just done
    try:
        with quiet():
            quant_pre_process(exact, prepared, skip_symbolic_shape=True)
            graph = onnx.load(prepared).graph
            quantization.quantize_static(
                prepared,
                rounded,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                # On x86 ONNX Runtime converts signed activations to unsigned ones, which takes as
                # long as int8 saves.
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                # 7-bit weights: CPUs that add two products in 16 bits (AVX2, AVX-512 without VNNI)
                # would overflow with 8, so that the file would be less accurate there.
                reduce_range=True,
                op_types_to_quantize=QUANTIZED,
                nodes_to_exclude=exact_layers(graph),
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"int8 is not available here: {first_line(error)}.") from error
    finally:
        logging.disable(logging.NOTSET)


def milliseconds(paths: Sequence[Path], options: GraphOptions) -> list[float]:
    """ONNX Runtime's time for an image's labels with each file: the median of TURNS.

    Files take turns, so that other load on the machine affects all of them equally.
    """
    opened = [open_exported(path, "onnxruntime", device="cpu") for path in paths]
    size = options.size or TIMED
    image = sample_images((1, *size), seed=0, bands=opened[0][1].preprocess.bands)
    turns = [[least_seconds(engine, image) for engine, _ in opened] for _ in range(TURNS)]
    return [1000 * statistics.median(times) for times in zip(*turns, strict=True)]


def exact_layers(graph: Any) -> list[str]:
    """Names of the nodes that stay in f32: the first convolution, the scores and all after them.

    The first is cheap, and quantizing it cost 3 points of mIoU on cell nuclei. The last
    convolution with weights computes the scores.
    """
    weights = {one.name for one in graph.initializer}
    first, *_, last = (n for n in graph.node if n.op_type == "Conv" and n.input[1] in weights)
    names, made = [str(first.name), str(last.name)], set(last.output)
    for node in graph.node:  # in topological order
        if made.intersection(node.input):
            names.append(str(node.name))
            made.update(node.output)
    return names
