"""Uncompressed video into a pipe: YUV4MPEG2 (y4m), which says its size and rate, or raw frames."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.config import Container
from fcnseg.io import cv2
from fcnseg.io.draw import fit_image
from fcnseg.io.images import resize_labels


class Pipe(Protocol):
    """The part of a file that is written to."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""

    def flush(self) -> None:
        """Pass them on."""


class StreamWriter:
    """Frames into a pipe, each passed on at once.

    size: (height, width) of all frames; those of another are fitted in. container: y4m is YUV
    4:2:0 with video levels; raw frames are RGB, or bytes where they are (H, W). repeat: a frame
    comes again where the next one is late, because neither keeps times. A BrokenPipeError is the
    reader's leaving.
    """

    def __init__(
        self,
        pipe: Pipe,
        container: Container,
        fps: Fraction,
        size: tuple[int, int],
        *,
        aspect: Fraction = Fraction(1),
        repeat: bool = False,
    ) -> None:
        self._pipe, self._container = pipe, container
        self._fps, self._size, self._repeat = fps, size, repeat
        self._last, self._written = b"", 0
        if container == "yuv4mpegpipe":
            # BT.601 and video levels, as OpenCV converts.
            pipe.write(
                f"YUV4MPEG2 W{size[1]} H{size[0]} F{fps.numerator}:{fps.denominator} Ip "
                f"A{aspect.numerator}:{aspect.denominator} C420jpeg XCOLORRANGE=LIMITED\n".encode()
            )

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Pass on uint8 (H, W, 3) RGB or (H, W), shown from `time` seconds after the first."""
        if image.shape[:2] != self._size:
            fit = fit_image if image.ndim == 3 else resize_labels
            image = fit(image, self._size)
        while self._repeat and self._last and self._written < int(time * self._fps):
            self._pass_on(self._last)
        y4m = self._container == "yuv4mpegpipe"
        self._last = b"FRAME\n" + _planes(image) if y4m else image.tobytes()
        self._pass_on(self._last)

    def _pass_on(self, data: bytes) -> None:
        self._pipe.write(data)
        self._pipe.flush()
        self._written += 1


def _planes(image: NDArray[np.uint8]) -> bytes:
    """An RGB image as Y, U and V, the last two of half the size, rounded up."""
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    planes = np.asarray(cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420), np.uint8)
    luma = planes[:height, :width]
    return luma.tobytes() + planes[even.shape[0] :].tobytes()
