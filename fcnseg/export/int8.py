"""Quantization to int8: a quarter of the size, faster where a CPU multiplies int8.

Weights are rounded channel by channel; what flows between the layers is rounded in the range
it has on some calibration images (static quantization, Jacob et al., CVPR 2018). The scores
at the end stay in floating point.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fcnseg.engines.base import PRECISION, Images, first_line
from fcnseg.engines.onnx import import_onnxruntime
from fcnseg.errors import CheckpointError
from fcnseg.export import convert, quiet, require
from fcnseg.files import folder_beside
from fcnseg.models.checkpoint import KEY, Checkpoint

ROUNDED = ["Conv", "Add", "Relu", "Clip"]
"""The operators that are computed in 8 bits."""


def write_int8(checkpoint: Checkpoint, path: Path, images: Iterable[Images]) -> None:
    """Write an ONNX file that computes in 8 bits (in QDQ form, which every runtime reads).

    images: for calibration, each uint8 (1, h, w, 3), at the network's own size.
    The outputs of the graph before rounding are verified; the caller measures the loss of
    accuracy. Raises CheckpointError, MissingExtra.
    """
    require("onnx", "onnxscript", extra="onnx", what="Exporting to ONNX")
    import_onnxruntime()
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self._left, None)
            return None if batch is None else {"images": batch}

    with folder_beside(path) as folder:
        exact, prepared, rounded = (folder / f"{n}.onnx" for n in ("f32", "ready", "int8"))
        convert(checkpoint, exact, "onnx")
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
        model = onnx.load(rounded)
        extra = {**checkpoint.extra, PRECISION: "int8"}
        header = Checkpoint(
            checkpoint.spec, checkpoint.preprocess, checkpoint.classes, {}, checkpoint.report, extra
        )
        onnx.helper.set_model_props(model, {KEY: header.header_json()})
        onnx.save(model, rounded)
        rounded.replace(path)


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
