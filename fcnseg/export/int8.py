"""Quantization to int8: a quarter of the size, faster where a CPU multiplies int8.

Weights are rounded channel by channel; what flows between the layers is rounded in the range
it has on some calibration images (static quantization, Jacob et al., CVPR 2018). The scores
at the end stay in floating point.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcnseg.engines import open_exported
from fcnseg.engines.base import PRECISION, Images, first_line
from fcnseg.engines.onnx import import_onnxruntime
from fcnseg.errors import CheckpointError
from fcnseg.export import labelled, require, verify
from fcnseg.export.graph import PLAIN, GraphOptions, quiet
from fcnseg.export.onnx_file import complete, network_model, save_onnx
from fcnseg.export.parity import Trial, sample_images
from fcnseg.files import folder_beside
from fcnseg.models.checkpoint import Checkpoint

ROUNDED = ["Conv", "Add", "Relu", "Clip"]
"""The operators that are computed in 8 bits."""


def write_int8(
    checkpoint: Checkpoint,
    path: Path,
    images: Iterable[Images],
    options: GraphOptions = PLAIN,
    *,
    trial: Trial | None = None,
    about: Mapping[str, Any] | None = None,
) -> float:
    """Write an ONNX file that computes in 8 bits (in QDQ form, which every runtime reads).

    images: for calibration, each uint8 (1, h, w, C), at the size that the network sees.
    The outputs of the graph before rounding are verified; the caller measures the loss of
    accuracy. What comes before and after the network is not rounded.
    Returns the milliseconds that the same graph takes for an image in f32.
    Raises CheckpointError, MissingExtra.
    """
    require("onnx", "onnxscript", extra="onnx", what="Exporting to ONNX")
    import_onnxruntime()
    import onnx

    with folder_beside(path) as folder:
        whole, exact, rounded = (folder / f"{name}.onnx" for name in ("whole", "f32", "int8"))
        network = network_model(checkpoint, options)
        onnx.save(network, exact)
        before = labelled(checkpoint, options)
        save_onnx(complete(network, checkpoint, options), before, whole)
        verify(checkpoint, whole, "onnx", options, trial)
        _quantize(exact, rounded, images)
        header = labelled(checkpoint, options, **(about or {}), precision="int8")
        header = replace(header, extra={**header.extra, PRECISION: "int8"})
        save_onnx(complete(onnx.load(rounded), checkpoint, options), header, rounded)
        rounded.replace(path)
        return milliseconds(whole, options)


def _quantize(exact: Path, rounded: Path, images: Iterable[Images]) -> None:
    """Write the file `rounded` of the file `exact`, with ranges fitted to images."""
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
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=ROUNDED,
                nodes_to_exclude=scoring_layers(graph),
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"int8 is not available here: {first_line(error)}.") from error
    finally:
        logging.disable(logging.NOTSET)


TIMED = (360, 480)
"""Height and width of the image that is timed, where a file takes any."""


def milliseconds(path: Path, options: GraphOptions) -> float:
    """The least of three times that ONNX Runtime takes for the labels of an image."""
    engine, header = open_exported(path, "onnxruntime", device="cpu")
    size = options.size or TIMED
    image = sample_images((1, *size), seed=0, bands=header.preprocess.bands)
    engine.labels(image)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        engine.labels(image)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def scoring_layers(graph: Any) -> list[str]:
    """The last convolution with weights, which makes the scores, and all that follows from it."""
    weights = {one.name for one in graph.initializer}
    last = [n for n in graph.node if n.op_type == "Conv" and n.input[1] in weights][-1]
    names, made = [str(last.name)], set(last.output)
    for node in graph.node:  # they stand in the order in which they are computed
        if made.intersection(node.input):
            names.append(str(node.name))
            made.update(node.output)
    return names
