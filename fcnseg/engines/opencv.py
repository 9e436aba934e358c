"""OpenCV as an engine: slower than the others, but always there."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.engines.base import (
    HEADER_KEY,
    ExportedEngine,
    Images,
    Workers,
    not_written_by_fcnseg,
)
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.io.opencv import Net


class OpenCvEngine(ExportedEngine):
    """An exported .onnx file, run by OpenCV on the processor in f32."""

    name = "opencv"
    device = "cpu"
    precision = "f32"

    def __init__(
        self, path: Path, *, device: str = "auto", precision: str = "f32", parallel: bool = False
    ) -> None:
        del precision, parallel  # one precision, one thread at a time
        super().__init__(path, device=device)
        if device not in ("auto", "cpu"):
            raise OptionError(
                f"OpenCV runs networks on the processor here; {device} was asked for.",
                hint="--device cpu, or --engine torch with the checkpoint",
            )
        try:
            model = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"Can't read {path}: {error.strerror}.") from None
        header = metadata(model).get(HEADER_KEY)
        if header is None:
            raise not_written_by_fcnseg(path, "an ONNX file")
        self.header = header
        self._net = Net(model)

    def _workers(self, output: str) -> Workers:
        del output  # the network has one
        workers: Workers = queue.SimpleQueue()
        workers.put(self._net)
        return workers

    def _compute(self, worker: Any, output: str, inputs: dict[str, Images]) -> NDArray[np.float32]:
        del output
        logits: NDArray[np.float32] = worker.run(inputs["images"])
        return logits


def metadata(model: bytes) -> dict[str, str]:
    """The metadata of an ONNX file (ModelProto.metadata_props), without the package onnx.

    What is not an ONNX file has none.
    """
    found = {}
    try:
        for number, value in _fields(memoryview(model)):
            if number == 14:  # metadata_props: StringStringEntryProto(key = 1, value = 2)
                entry = {part: str(text, "utf-8") for part, text in _fields(value)}
                found[entry[1]] = entry.get(2, "")
    except (IndexError, KeyError, ValueError):
        return {}
    return found


def _fields(data: memoryview) -> list[tuple[int, memoryview]]:
    """The fields of a protobuf message that hold bytes, with their numbers."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("the message is cut short")
            fields.append((tag >> 3, data[at : at + length]))
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"no wire type {kind}")
    return fields


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits from `at` on, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
