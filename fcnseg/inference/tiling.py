"""Large pictures in overlapping tiles: memory for one tile, labels as if it had been whole.

    segmenter = TiledSegmenter(load("runs/train1"), "auto")

Where tiles overlap their logits are blended, with weights that fall to nothing before a
tile's edge (the network sees padding there). Tiles start at multiples of the coarsest
stride, so that every cell of the network lies where it lies in the whole picture.

Not for networks that are given pictures at a size of their own (`short_side`): those never
see a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.classes import ClassMap
from fcnseg.engines.argmax import argmax_labels
from fcnseg.errors import OptionError
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.smoothing import SmoothedEngine
from fcnseg.progress import Callback, Message, no_callback

STRIDE = 32


WHOLE_PIXELS = 9_000_000
"""Up to this size (a frame of 4K video) "auto" first tries a picture whole."""


_LARGEST, _SMALLEST = 1536, 384


_OVERLAP = 256


@dataclass(frozen=True)
class Tile:
    """A span of rows or columns: pixels start..stop, of which the first `before` and the last
    `after` are shared with the neighbours."""

    start: int
    stop: int
    before: int
    after: int

    @property
    def length(self) -> int:
        """Pixels."""
        return self.stop - self.start


class TiledSegmenter:
    """A segmenter that takes pictures of any size.

    tile: "auto" (whole when it fits, else tiles), "off", or the side of a tile in pixels. The
        callback receives a Message when memory ran out and tiles are used instead.
    """

    def __init__(self, segmenter: Segmenter, tile: str, callback: Callback = no_callback) -> None:
        self._segmenter, self._callback = segmenter, callback
        self._side = parse_tile(tile)
        self._auto = tile == "auto" and segmenter.preprocess.short_side is None
        self._one_by_one = False

    @property
    def num_parallel(self) -> int:
        """How many threads may ask for predictions at the same time."""
        return self._segmenter.num_parallel

    @property
    def classes(self) -> ClassMap:
        """What the labels mean."""
        return self._segmenter.classes

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> list[PredictedArrays]:
        """As Segmenter.predict: a prediction for each picture, at its own size."""
        wanted = {"confidence": confidence, "probabilities": probabilities}
        together = len(images) > 1 and not self._one_by_one
        if together and not any(self._side_for(image) for image in images):
            try:
                return self._segmenter.predict(images, **wanted)
            except Exception as error:
                if not self._auto or not is_out_of_memory(error):
                    raise
                self._one_by_one = True
        return [self._one(image, **wanted) for image in images]

    def _one(self, image: NDArray[np.uint8], **wanted: bool) -> PredictedArrays:
        """One picture; in tiles, smaller each time memory runs out."""
        while True:
            side = self._side_for(image)
            try:
                if side:
                    self._refuse_tiles()
                    return predict_tiled(self._segmenter, image, side=side, **wanted)
                return self._segmenter.predict([image], **wanted)[0]
            except Exception as error:
                smallest = (side or max(image.shape)) <= _SMALLEST
                if not self._auto or smallest or not is_out_of_memory(error):
                    raise
            self._make_smaller(side or max(image.shape))

    def _side_for(self, image: NDArray[np.uint8]) -> int:
        """The side of the tiles for a picture; 0: whole."""
        height, width = int(image.shape[0]), int(image.shape[1])
        if self._segmenter.preprocess.short_side is not None:
            return 0
        if self._side:
            return self._side if max(height, width) > self._side else 0
        return _LARGEST if self._auto and height * width > WHOLE_PIXELS else 0

    def _refuse_tiles(self) -> None:
        """OptionError where logits are averaged over frames: tiles do not follow each other."""
        if isinstance(self._segmenter.engine, SmoothedEngine):
            raise OptionError(
                "--smooth needs frames that go through the network whole; these need tiles, by "
                "--tile, their size or lack of memory.",
                hint="leave --smooth away, or make the video smaller first",
            )

    def _make_smaller(self, side: int) -> None:
        self._side = max(_SMALLEST, min(_LARGEST, side // 2))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._callback(
            Message(f"Memory ran out: going on in tiles of {self._side} pixels", "warning")
        )


@torch.inference_mode()
def predict_tiled(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    *,
    side: int,
    overlap: int = _OVERLAP,
    confidence: bool = False,
    probabilities: bool = False,
) -> PredictedArrays:
    """The prediction for one uint8 RGB picture (H, W, 3), tile by tile.

    side, overlap: pixels. Beside the picture and the answer, memory holds one tile and, of one
    row of tiles, the logits that the next row shares.
    """
    answer = _Answer(len(segmenter.classes), image.shape[:2], confidence, probabilities)
    above: Tensor | None = None  # (K, shared rows, W): what the row above gave the next
    for row in cut(image.shape[0], side, overlap):
        below: list[Tensor] = []
        left: Tensor | None = None  # (K, rows, shared columns)
        for column in cut(image.shape[1], side, overlap):
            block = _logits(segmenter, image, row, column)
            if left is not None:
                block[:, :, : column.before] += left
            if above is not None:  # the shared columns came with `left`
                columns = slice(column.start + column.before, column.stop)
                block[:, : row.before, column.before :] += above[:, :, columns]
            done_rows, done_columns = row.length - row.after, column.length - column.after
            answer.put(row.start, column.start, block[:, :done_rows, :done_columns])
            below.append(block[:, done_rows:, :done_columns].clone())
            left = block[:, :, done_columns:].clone()
        above = torch.cat(below, dim=2)
    return answer.prediction()


def cut(length: int, side: int, overlap: int = _OVERLAP) -> list[Tile]:
    """Spans of at most `side` pixels that cover `length`, evenly laid and of like size.

    side: 384 at least. Spans start at multiples of STRIDE and share `overlap` pixels (a
    quarter of the side at most), give or take two strides.
    """
    if length <= side:
        return [Tile(0, length, 0, 0)]
    overlap = min(overlap, side // 4)
    count = -(-(length - overlap) // (side - overlap))
    needed = -(-(length + (count - 1) * overlap) // count)
    side = min(side, -(-needed // STRIDE) * STRIDE)
    starts = [index * (length - side) // (count - 1) // STRIDE * STRIDE for index in range(count)]
    stops = [*(start + side for start in starts[:-1]), length]
    shared = [0, *(stop - start for stop, start in zip(stops[:-1], starts[1:], strict=True)), 0]
    return [
        Tile(start, stop, before, after)
        for start, stop, before, after in zip(starts, stops, shared[:-1], shared[1:], strict=True)
    ]


def parse_tile(tile: str) -> int:
    """The side of a tile in pixels; 0 for "auto" and "off". OptionError for anything else."""
    if tile in ("auto", "off"):
        return 0
    if tile.isdecimal() and int(tile) >= _SMALLEST:
        return int(tile)
    raise OptionError(f"tile: auto, off or a number of pixels from {_SMALLEST} on; found {tile!r}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, ONNX Runtime, OpenVINO or Python says that memory ran out."""
    text = str(error).lower()
    told = ("out of memory", "can't allocate memory", "failed to allocate", "bad alloc")
    return isinstance(error, MemoryError) or any(words in text for words in told)


def ramp(tile: Tile) -> NDArray[np.float32]:
    """The weight of each pixel of a span; neighbours' weights sum to 1 where they share.

    In the outer quarter of what is shared a tile counts for nothing.
    """
    weights = np.ones(tile.length, np.float32)
    weights[: tile.before] = _rise(tile.before)
    weights[tile.length - tile.after :] = 1 - _rise(tile.after)
    return weights


def _rise(count: int) -> NDArray[np.float32]:
    quarter = count / 4
    places = np.arange(count, dtype=np.float32) + 0.5
    weights = np.clip((places - quarter) / max(count - 2 * quarter, 1), 0, 1)
    return np.asarray(weights, np.float32)


def _logits(segmenter: Segmenter, image: NDArray[np.uint8], row: Tile, column: Tile) -> Tensor:
    """Weighted logits of one tile, float32 (K, rows, columns)."""
    part = np.ascontiguousarray(image[row.start : row.stop, column.start : column.stop])
    logits = segmenter.engine.forward(part[None])[0]
    rows, columns = torch.from_numpy(ramp(row)), torch.from_numpy(ramp(column))
    return logits * rows.to(logits.device)[:, None] * columns.to(logits.device)


class _Answer:
    """A prediction that is filled in block by block."""

    def __init__(
        self, classes: int, size: tuple[int, ...], confidence: bool, probabilities: bool
    ) -> None:
        self._labels = np.empty(size, np.uint8)
        self._confidence = np.empty(size, np.float32) if confidence else None
        self._chances = np.empty((classes, *size), np.float32) if probabilities else None

    def put(self, top: int, left: int, logits: Tensor) -> None:
        """Decide a block of logits (K, h, w) and put the answer in its place."""
        if not logits.numel():
            return
        rows = slice(top, top + logits.shape[1])
        columns = slice(left, left + logits.shape[2])
        labels, sure = argmax_labels(logits[None], confidence=self._confidence is not None)
        self._labels[rows, columns] = labels[0]
        if self._confidence is not None and sure is not None:
            self._confidence[rows, columns] = sure[0]
        if self._chances is not None:
            self._chances[:, rows, columns] = logits.softmax(dim=0).cpu().numpy()

    def prediction(self) -> PredictedArrays:
        """The whole."""
        return PredictedArrays(self._labels, self._confidence, self._chances)
