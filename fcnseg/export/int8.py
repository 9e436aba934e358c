"""A network in whole numbers of 8 bits: smaller by four, faster where processors multiply them.

Weights are rounded channel by channel; what flows between the layers is rounded in the range
it has on some of the pictures the network is for (static quantisation, Jacob et al., CVPR
2018). What decides at the end, the scores, stays in floating point.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fcnseg.engines.base import PRECISION, Images, first_line
from fcnseg.engines.onnxruntime import import_onnxruntime
from fcnseg.errors import CheckpointError
from fcnseg.export.formats import convert, quiet, require
from fcnseg.files import folder_beside
from fcnseg.models.checkpoint import KEY, Checkpoint

ROUNDED = ["Conv", "Add", "Relu", "Clip"]
"""The operators that are computed in 8 bits."""


def write_int8(checkpoint: Checkpoint, path: Path, pictures: Iterable[Images]) -> None:
    """Write an ONNX file that computes in 8 bits (in QDQ form, which every runtime reads).

    pictures: what ranges are taken from, each uint8 (1, h, w, 3), at the network's own size.
    The graph before rounding is proven to answer as the checkpoint does; what rounding costs
    is for the caller to measure. Raises CheckpointError, MissingExtra.
    """
    require("onnx", "onnxscript", extra="onnx", what="Exporting to ONNX")
    import_onnxruntime()
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(pictures)

        def get_next(self) -> dict[str, Images] | None:
            picture = next(self._left, None)
            return None if picture is None else {"images": picture}

    with folder_beside(path) as folder:
        whole, prepared, rounded = (folder / f"{n}.onnx" for n in ("f32", "ready", "int8"))
        convert(checkpoint, whole, "onnx")
        logging.disable(logging.WARNING)  # it asks for a preparation that was just made
        try:
            with quiet():
                quant_pre_process(whole, prepared, skip_symbolic_shape=True)
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
                    nodes_to_exclude=deciding(graph),
                )
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(f"8 bits can't be had here: {first_line(error)}.") from error
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


def deciding(graph: Any) -> list[str]:
    """The last convolution with weights, which makes the scores, and all that follows from it."""
    weights = {one.name for one in graph.initializer}
    last = [n for n in graph.node if n.op_type == "Conv" and n.input[1] in weights][-1]
    names, made = [str(last.name)], set(last.output)
    for node in graph.node:  # they stand in the order in which they are computed
        if made.intersection(node.input):
            names.append(str(node.name))
            made.update(node.output)
    return names
