"""What flows through the program: a picture in, an answer out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import InputError


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    image: uint8 (H, W, 3), RGB, upright.
    index: its number in the source, from 0, counting frames that were skipped or lost.
    time: seconds since the source began (0.0 for single images).
    name: a relative path without suffix, unique in the source: what outputs are called.
    path: the image file it came from; None for frames of a video or a camera.
    stamp: the file's size in bytes and its time of change in ns when it was read; None: as it is.
    """

    image: NDArray[np.uint8]
    index: int = 0
    time: float = 0.0
    name: str = "image"
    path: Path | None = None
    stamp: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        image = self.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise InputError(
                f"A frame is a uint8 RGB array (H, W, 3); found {image.dtype} {image.shape}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one frame, at the frame's own size.

    labels: uint8 (H, W), class indices (255 where the user asked for "unknown").
    confidence: float32 (H, W), the winning class's probability, or None when not asked for.
    probabilities: float32 (K, H, W), softmax over classes, or None when not asked for.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        size = self.labels.shape
        if self.labels.ndim != 2 or self.labels.dtype != np.uint8:
            raise InputError(f"Labels are uint8 (H, W); found {self.labels.dtype} {size}.")
        if self.confidence is not None and self.confidence.shape != size:
            raise InputError(f"Confidence is {self.confidence.shape}, labels {size}.")
        if self.probabilities is not None and self.probabilities.shape[1:] != size:
            raise InputError(f"Probabilities are {self.probabilities.shape}, labels {size}.")
