"""Predict frames (FramePredictor); large images in overlapping tiles.

    predict = FramePredictor(load("runs/train1"), "auto")
    labels = predict(frames)[0].labels

Tiling needs the memory of one tile and gives the same labels as the untiled image. In overlaps
logits are blended with weights that fall to 0 before a tile's edge, where the network sees padding.
Tiles start at multiples of the coarsest stride, so that the elements of feature maps have the same
positions as in the untiled image.

Not for networks with a fixed input size (`short_side`), whose inputs are never large.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE, ClassMap
from fcnseg.engines.averaging import Flicker, SmoothedEngine
from fcnseg.engines.base import argmax_labels, softmax
from fcnseg.errors import OptionError, is_out_of_memory
from fcnseg.inference.prediction import Image, PredictedArrays, PredictLabels, Predictor
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.bands import Bands
from fcnseg.io.sources.base import Frame
from fcnseg.progress import Callback, Message, no_callback

STRIDE = 32

MAX_UNTILED_PIXELS = 9_000_000
"""Up to this size (a frame of 4K video) "auto" first tries an image without tiles."""

_LARGEST, _SMALLEST = 1536, 384

_OVERLAP = 256


@dataclass(frozen=True)
class Tile:
    """A span of rows or columns: pixels start..stop, of which the first `before` and the last
    `after` overlap with the neighbours."""

    start: int
    stop: int
    before: int
    after: int

    @property
    def length(self) -> int:
        """Its length in pixels."""
        return self.stop - self.start


def bands_of(predictor: Predictor) -> Bands | None:
    """The bands to read from image files for a model; None: 8-bit RGB."""
    return predictor.preprocess.bands if isinstance(predictor, Segmenter) else None


class FramePredictor:
    """Predicts frames with the options of a command; the function that a Pipeline calls.

    tile: "auto" (tiles if the image does not fit into memory), "off", or the side of a tile in
        pixels. The callback receives a Message when memory runs out and tiles are used instead.
    smooth: weight of the previous frames, for the frames of one video in order; 0: off.
    conf: pixels with lower confidence are labelled 255.
    classes: pixels of other classes than these indices are labelled 255; None: keep all.
    probabilities: compute them with the labels.

    Only a Segmenter can be tiled or smoothed: OptionError for other predictors.
    """

    def __init__(
        self,
        segmenter: Predictor,
        tile: str = "off",
        callback: Callback = no_callback,
        *,
        smooth: float = 0.0,
        conf: float = 0.0,
        classes: Collection[int] | None = None,
        probabilities: bool = False,
    ) -> None:
        self._smoothed: SmoothedEngine | None = None
        if smooth:
            if not isinstance(segmenter, Segmenter):
                raise OptionError("smooth averages the logits of a Segmenter, which this is not.")
            self._smoothed = SmoothedEngine(segmenter.engine, smooth)
            segmenter = replace(segmenter, engine=self._smoothed)
        self._segmenter, self._callback = segmenter, callback
        self._side = parse_tile(tile)
        fixed = isinstance(segmenter, Segmenter) and segmenter.sees_fixed_size
        self._never, self._auto = tile == "off" or fixed, tile == "auto" and not fixed
        self._one_by_one = False
        self._conf, self._probabilities = conf, probabilities
        self._kept: NDArray[np.uint8] | None = None  # (256,): label -> itself or 255
        if classes is not None:
            self._kept = np.full(IGNORE + 1, IGNORE, np.uint8)
            self._kept[list(classes)] = list(classes)

    def __call__(self, frames: Sequence[Frame]) -> list[PredictedArrays]:
        """Predict each frame, in order."""
        predictions = self.predict(
            [frame.pixels for frame in frames],
            confidence=self._conf > 0,
            probabilities=self._probabilities,
        )
        return [self._with_unknown(prediction) for prediction in predictions]

    @property
    def num_parallel(self) -> int:
        """How many threads may call it at the same time."""
        return self._segmenter.num_parallel

    @property
    def classes(self) -> ClassMap:
        """The classes of the labels."""
        return self._segmenter.classes

    def flicker(self) -> Flicker | None:
        """With `smooth`, the flicker of all frames so far; None if unknown."""
        return None if self._smoothed is None else self._smoothed.flicker()

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> list[PredictedArrays]:
        """As Segmenter.predict: a prediction for each image, at its own size."""
        wanted = {"confidence": confidence, "probabilities": probabilities}
        batched = len(images) > 1 and not self._one_by_one
        if batched and not any(self._side_for(image) for image in images):
            try:
                return self._segmenter.predict(images, **wanted)
            except Exception as error:
                if not self._auto or not is_out_of_memory(error):
                    raise
                self._one_by_one = True
        return [self._one(image, **wanted) for image in images]

    def _with_unknown(self, prediction: PredictedArrays) -> PredictedArrays:
        """Label pixels below `conf` and those of other classes 255."""
        labels = prediction.labels
        if self._conf and prediction.confidence is not None:
            unsure = (prediction.confidence < self._conf).view(np.uint8)
            labels = labels | unsure * np.uint8(IGNORE)
        if self._kept is not None:
            labels = self._kept[labels]
        return prediction if labels is prediction.labels else replace(prediction, labels=labels)

    def _one(self, image: NDArray[np.uint8], **wanted: bool) -> PredictedArrays:
        """Predict one image; each time memory runs out, with smaller tiles."""
        while True:
            side = self._side_for(image)
            try:
                if side:
                    return predict_tiled(self._tileable(), image, side=side, **wanted)
                return self._segmenter.predict([image], **wanted)[0]
            except Exception as error:
                smallest = (side or max(image.shape)) <= _SMALLEST
                if not self._auto or smallest or not is_out_of_memory(error):
                    raise
            self._make_smaller(side or max(image.shape))

    def _side_for(self, image: NDArray[np.uint8]) -> int:
        """The side of the tiles for an image; 0: no tiles."""
        height, width = int(image.shape[0]), int(image.shape[1])
        if self._never:
            return 0
        if self._side:
            return self._side if max(height, width) > self._side else 0
        return _LARGEST if self._auto and height * width > MAX_UNTILED_PIXELS else 0

    def _tileable(self) -> Segmenter:
        """The segmenter; OptionError if it can't be tiled, as with smoothing."""
        if not isinstance(self._segmenter, Segmenter):
            raise OptionError("Only a Segmenter is tiled; use tile='off' for others.")
        if self._smoothed is not None or isinstance(self._segmenter.engine, SmoothedEngine):
            raise OptionError(
                "--smooth needs frames that are not tiled; these need tiles, because of --tile, "
                "their size or lack of memory.",
                hint="omit --smooth, or make the video smaller first",
            )
        return self._segmenter

    def _make_smaller(self, side: int) -> None:
        self._side = max(_SMALLEST, min(_LARGEST, side // 2))
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._callback(
            Message(f"Memory ran out: continuing in tiles of {self._side} pixels", "warning")
        )


def labels_of(segmenter: Segmenter) -> PredictLabels:
    """Wrap a segmenter as a function from images to labels; large ones are predicted in tiles."""
    predict = FramePredictor(segmenter, "auto").predict
    return lambda images: [prediction.labels for prediction in predict(images)]


def arrays_of(segmenter: Segmenter) -> Callable[[Sequence[Image]], Sequence[PredictedArrays]]:
    """As `labels_of`, with confidence."""
    predict = FramePredictor(segmenter, "auto").predict
    return lambda images: predict(images, confidence=True)


def predict_tiled(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    *,
    side: int,
    confidence: bool = False,
    probabilities: bool = False,
) -> PredictedArrays:
    """Predict one uint8 RGB image (H, W, 3), tile by tile.

    side: of tiles, in pixels. Memory: the image, the prediction, one tile, and the logits of one
    row of tiles in the overlap with the next row.
    """
    canvas = _Canvas(len(segmenter.classes), image.shape[:2], confidence, probabilities)
    above: Any = None  # (K, overlapping rows, W) of the row above
    for row in cut(image.shape[0], side):
        below: list[Any] = []
        left: Any = None  # (K, rows, overlapping columns)
        for column in cut(image.shape[1], side):
            block = _logits(segmenter, image, row, column)
            if left is not None:
                block[:, :, : column.before] += left
            if above is not None:  # the overlapping columns came with `left`
                columns = slice(column.start + column.before, column.stop)
                block[:, : row.before, column.before :] += above[:, :, columns]
            done_rows, done_columns = row.length - row.after, column.length - column.after
            canvas.put(row.start, column.start, block[:, :done_rows, :done_columns])
            below.append(_copied(block[:, done_rows:, :done_columns]))
            left = _copied(block[:, :, done_columns:])
        above = _joined(below)
    return canvas.prediction()


def cut(length: int, side: int, overlap: int = _OVERLAP) -> list[Tile]:
    """Divide `length` into spans of at most `side` pixels, evenly spaced and of similar size.

    side: at least 384. Spans start at multiples of STRIDE and overlap by `overlap` pixels (at most
    a quarter of the side), plus or minus two strides.
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
    raise OptionError(
        f"--tile: expected auto, off or a number of pixels, at least {_SMALLEST}; found {tile!r}."
    )


def ramp(tile: Tile) -> NDArray[np.float32]:
    """The weight of each pixel of a span; neighbours' weights sum to 1 where they overlap.

    In the outer quarter of the overlap the weight is 0.
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


def _logits(segmenter: Segmenter, image: NDArray[np.uint8], row: Tile, column: Tile) -> Any:
    """Weighted logits of one tile, float32 (K, rows, columns)."""
    part = np.ascontiguousarray(image[row.start : row.stop, column.start : column.stop])
    logits: Any = segmenter.engine.forward(part[None])[0]
    down, across = ramp(row)[:, None], ramp(column)
    if isinstance(logits, np.ndarray):
        return logits * down * across
    from torch import from_numpy

    return logits * from_numpy(down).to(logits.device) * from_numpy(across).to(logits.device)


def _copied(maps: Any) -> Any:
    """A copy of a part of maps, so that the rest can be freed."""
    return maps.copy() if isinstance(maps, np.ndarray) else maps.clone()


def _joined(row: Sequence[Any]) -> Any:
    """Concatenate maps (K, h, w) along their width."""
    if isinstance(row[0], np.ndarray):
        return np.concatenate(row, axis=2)
    from torch import cat

    return cat(list(row), dim=2)


class _Canvas:
    """A prediction that is filled block by block."""

    def __init__(
        self, classes: int, size: tuple[int, ...], confidence: bool, probabilities: bool
    ) -> None:
        self._labels = np.empty(size, np.uint8)
        self._confidence = np.empty(size, np.float32) if confidence else None
        self._probabilities = np.empty((classes, *size), np.float32) if probabilities else None

    def put(self, top: int, left: int, logits: Any) -> None:
        """Write the labels of a block of logits (K, h, w) at (top, left)."""
        if 0 in logits.shape:
            return
        rows = slice(top, top + logits.shape[1])
        columns = slice(left, left + logits.shape[2])
        labels, sure = argmax_labels(logits[None], confidence=self._confidence is not None)
        self._labels[rows, columns] = labels[0]
        if self._confidence is not None and sure is not None:
            self._confidence[rows, columns] = sure[0]
        if self._probabilities is not None:
            self._probabilities[:, rows, columns] = softmax(logits, axis=0)

    def prediction(self) -> PredictedArrays:
        """The prediction of the image."""
        return PredictedArrays(self._labels, self._confidence, self._probabilities)
