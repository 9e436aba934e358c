"""Predictions: labels, images drawn from them, and class proportions as JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE, ClassMap
from fcnseg.config import InferConfig
from fcnseg.engines.base import Engine, Floats, Labels, Size
from fcnseg.errors import InputError, OptionError, cannot_write, naming, path_of, percent
from fcnseg.files import NonLocalPath, is_stdout
from fcnseg.io.draw import heatmap, legend, overlay, side_by_side
from fcnseg.io.images import encode_image, write_image, write_labels
from fcnseg.io.sources.base import Frame

Image = NDArray[np.uint8]

PredictLabels = Callable[[Sequence[Image]], Sequence[Labels]]
"""Images uint8 (H, W, 3) -> labels uint8 (H, W), each at its image's size."""


@dataclass(frozen=True, eq=False)
class PredictedArrays:
    """The network's output for one frame, at the frame's own size.

    labels: uint8 (H, W), class indices (255 = "unknown", with --conf).
    confidence: float32 (H, W), the predicted class's probability, or None when not requested.
    probabilities: float32 (K, H, W), softmax over classes, or None when not requested.
    """

    labels: Labels
    confidence: Floats | None = None
    probabilities: Floats | None = None

    def __post_init__(self) -> None:
        size = self.labels.shape
        if self.labels.ndim != 2 or self.labels.dtype != np.uint8:
            raise InputError(f"Labels are uint8 (H, W); found {self.labels.dtype} {size}.")
        if self.confidence is not None and self.confidence.shape != size:
            raise InputError(f"Confidence is {self.confidence.shape}, labels {size}.")
        if self.probabilities is not None and self.probabilities.shape[1:] != size:
            raise InputError(f"Probabilities are {self.probabilities.shape}, labels {size}.")


class Predictor(Protocol):
    """The interface of a Segmenter, or of a substitute for one."""

    @property
    def classes(self) -> ClassMap:
        """The classes of the labels."""

    @property
    def num_parallel(self) -> int:
        """How many threads may call `predict` at the same time."""

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> list[PredictedArrays]:
        """Return a prediction for each uint8 RGB image (H, W, 3), at its own size."""


def is_rgb(image: object) -> TypeGuard[NDArray[np.uint8]]:
    """Whether an image is a contiguous uint8 array (H, W, 3), like decoded files."""
    if type(image) is not np.ndarray or image.dtype != np.uint8 or image.ndim != 3:
        return False
    return image.shape[2] == 3 and image.size > 0 and image.flags.c_contiguous


MOST_PIXELS = 1 << 23
"""Pixels of a batch at most, unless it is a single image: memory is proportional to them."""


def batches_of(images: Sequence[NDArray[Any]]) -> Iterator[tuple[Size, list[int]]]:
    """Divide images (H, W, C) into batches of one size: (height, width) and indices."""
    groups: dict[Size, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        groups[image.shape[0], image.shape[1]].append(index)
    for (height, width), at in groups.items():
        step = max(1, MOST_PIXELS // (height * width))
        for start in range(0, len(at), step):
            yield (height, width), at[start : start + step]


def predict_labels(
    engine: Engine, batch: Image, size: Size, confidence: bool
) -> list[PredictedArrays]:
    """Run an engine on images (N, h, w, C): labels at `size`, and if requested confidence."""
    labels, sure = engine.labels(batch, confidence=confidence, size=size)
    sures = [None] * len(labels) if sure is None else sure
    return [PredictedArrays(one, each) for one, each in zip(labels, sures, strict=True)]


def predict_probabilities(
    engine: Engine, batch: Image, size: Size, confidence: bool
) -> list[PredictedArrays]:
    """Run an engine on images (N, h, w, C): labels and probabilities at `size`."""
    labels, probabilities = engine.probabilities(batch, size=size)
    return [
        PredictedArrays(one, each.max(axis=0) if confidence else None, each)
        for one, each in zip(labels, probabilities, strict=True)
    ]


class Prediction:
    """The labels of one image, at its own size, and what is derived from them.

        prediction = fcnseg.load("nuclei")("cells.png")
        prediction.labels                    # uint8 (H, W), class indices
        prediction.heatmap("nucleus")        # float32 (H, W), its probability
        prediction.save("overlay.png")

    Confidence and probabilities that were not requested are computed on first access, by running
    the network on the image once more. Notebooks show the overlay with its legend.

    frame: the image and its position in the source. classes: of the labels.
    again: computes the probabilities, float32 (K, H, W), on demand; None: not possible.
    """

    def __init__(
        self,
        found: PredictedArrays,
        frame: Frame,
        classes: ClassMap,
        again: Callable[[], Floats] | None = None,
    ) -> None:
        self.labels, self.frame, self.classes, self._again = found.labels, frame, classes, again
        for name in ("confidence", "probabilities"):  # fill the cached properties
            if getattr(found, name) is not None:
                self.__dict__[name] = getattr(found, name)

    @cached_property
    def probabilities(self) -> Floats:
        """float32 (K, H, W), softmax over the classes.

        InputError when they were not requested and can't be computed: the prediction came from
        another process, or its labels were smoothed over time.
        """
        if self._again is None:
            raise InputError(
                "This prediction holds labels only, and can't be computed again.",
                hint="ask for them with the labels: model(image, probabilities=True)",
            )
        return self._again()

    @cached_property
    def confidence(self) -> Floats:
        """float32 (H, W), the predicted class's probability, 0..1; errors as `probabilities`."""
        return np.asarray(self.probabilities.max(axis=0), np.float32)

    @property
    def image(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB, upright."""
        return self.frame.image

    @property
    def index(self) -> int:
        """The frame's number in its source, from 0."""
        return self.frame.index

    @property
    def time(self) -> float:
        """Seconds since the start of the source; 0.0 for single images."""
        return self.frame.time

    @property
    def name(self) -> str:
        """The name of its output files: a path without suffix."""
        return self.frame.name

    def heatmap(self, name: str) -> Floats:
        """The probability of one class, float32 (H, W), 0..1; OptionError for an unknown one."""
        values: Floats = self.probabilities[self.classes.index_of(name)]
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The labels, uint8 (H, W), for `np.asarray(prediction)`."""
        return np.array(self.labels, dtype, copy=copy)

    def overlay(
        self,
        *,
        alpha: float = 0.5,
        classes: str | Collection[str] | None = None,
        heatmap_of: str | None = None,
    ) -> NDArray[np.uint8]:
        """The image with the labels' colors over it, uint8 (H, W, 3) RGB.

        alpha: opacity of the colors, 0..1.
        classes: name or names of the classes to draw; None: all.
        heatmap_of: name of a class whose probability is drawn instead.
        """
        alpha = InferConfig.checked("alpha", alpha)
        if heatmap_of is not None:
            return heatmap(self.image, self.heatmap(heatmap_of), alpha=alpha)
        names = [classes] if isinstance(classes, str | int) else classes
        if not isinstance(names, Iterable | None):
            raise OptionError(f"classes: expected names; found {classes!r:.80}.")
        only = None if names is None else [self.classes.index_of(name) for name in names]
        return overlay(self.image, self.labels, self.classes, alpha=alpha, only=only)

    def save(self, path: str | Path, *, labels: bool = False, **drawn: Any) -> Path:
        """Write the overlay as an image file, in the format of the suffix; return its path.

        labels: write the labels instead, as a PNG of class indices with the classes' colors.
        drawn: arguments of `overlay`: `save("sure.png", heatmap_of="nucleus")`.
        MediaError when it can't be written.
        """
        path = path_of(path, "path")
        if not path.name or is_stdout(path):
            what = "standard output" if path.name else "the folder"
            raise OptionError(f"A prediction is saved as a file; found {what} {path}.")
        if labels and drawn:
            raise OptionError(f"{next(iter(drawn))} has no effect on labels: they are not drawn.")
        if labels:
            if path.suffix.lower() != ".png":
                raise OptionError(f"Labels are written as PNG, which is lossless; found {path}.")
            write_labels(path, self.labels, self.classes.palette())
        else:
            write_image(path, self.overlay(**drawn))
        return path

    def __repr__(self) -> str:
        height, width = self.labels.shape
        counts = np.bincount(self.labels.ravel(), minlength=256)[: len(self.classes)]
        found = [
            f"{name} {percent(count / self.labels.size, 1)}"
            for name, count in zip(self.classes.names, counts, strict=True)
            if count
        ]
        return f"Prediction({width}x{height}: {', '.join(found)})"

    def _repr_png_(self) -> bytes:
        """For notebooks: the overlay, with a legend of the classes that occur."""
        shown = [index for index in np.unique(self.labels).tolist() if index < len(self.classes)]
        image = self.overlay()
        names = legend(self.classes, height=image.shape[0], only=shown)
        return encode_image(side_by_side([image, names]))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the model, which other processes load themselves."""
        return {**self.__dict__, "_again": None}


class ProportionsSink:
    """A JSON line per frame: {"index", "time", "name", "shares": {class: proportion of pixels}}.

    "unknown" is the proportion of pixels labelled 255, if there are any. path "-" is standard
    output; each line is flushed at once. append: after the lines of other sources.
    """

    def __init__(self, path: Path, classes: ClassMap, *, append: bool = False) -> None:
        self._path, self._classes, self._append = path, classes, append
        self._stack = contextlib.ExitStack()
        self._older = False
        self._new = not os.path.lexists(path)
        self._file = self._open()
        self._end = self._size()

    def write(self, frame: Frame, prediction: PredictedArrays) -> None:
        """Write the frame's line."""
        line = {
            "index": frame.index,
            "time": round(frame.time, 6),
            "name": frame.name,
            "shares": class_proportions(prediction, self._classes),
        }
        with naming(self._path):
            self._begin()
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        self._end = self._size()

    def close(self, *, complete: bool = True) -> list[Path]:
        """Close the file; return its path, unless it is standard output or has no lines."""
        whole = False
        try:
            with naming(self._path), self._stack:
                if complete:
                    self._begin()
            whole = complete
        finally:
            if not whole:
                self._cut()
        kept = whole or not self._new or self._end
        return [self._path] if kept and not is_stdout(self._path) else []

    def _begin(self) -> None:
        """Delete the lines of an earlier run, which are kept until there are new ones."""
        if self._older:
            self._file.truncate(0)
            self._older = False
            self._end = 0

    def _size(self) -> int:
        """The file's size, 0 if it is no file of this machine."""
        return self._path.stat().st_size if self._is_local() else 0

    def _is_local(self) -> bool:
        return not isinstance(self._path, NonLocalPath) and self._path.is_file()

    def _cut(self) -> None:
        """Remove the part of a line that a full disk left, or a new file without lines."""
        if self._is_local() and self._new and not self._end:
            self._path.unlink()
        elif self._is_local():
            os.truncate(self._path, self._end)

    def _open(self) -> IO[str]:
        if is_stdout(self._path):
            return sys.stdout
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            local = self._path.is_file() and not isinstance(self._path, NonLocalPath)
            self._older = local and not self._append
            mode = "a" if self._append or self._older else "w"
            return self._stack.enter_context(self._path.open(mode, encoding="utf-8"))
        except OSError as error:
            raise cannot_write(self._path, error) from None


def class_proportions(prediction: PredictedArrays, classes: ClassMap) -> dict[str, float]:
    """The proportion of pixels of each class, and of "unknown" if there are such pixels."""
    counts = np.bincount(prediction.labels.ravel(), minlength=IGNORE + 1) / prediction.labels.size
    found = {name: round(float(counts[i]), 6) for i, name in enumerate(classes.names)}
    return {**found, "unknown": round(float(counts[IGNORE]), 6)} if counts[IGNORE] else found
