"""OpenCV's own network runtime: runs an exported .onnx with nothing else installed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import OptionError
from fcnseg.media._opencv import cv2


class Net:
    """An ONNX graph from uint8 "images" (N, H, W, 3) to float32 "logits" (N, K, H, W).

    OptionError when this OpenCV can't run it: sizes that are free need version 5.
    """

    def __init__(self, model: bytes) -> None:
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8), cv2.dnn.ENGINE_NEW)
        except (cv2.error, AttributeError, TypeError) as error:
            raise OptionError(
                f"OpenCV {cv2.__version__} can't run this network.",
                hint="pip install --upgrade 'opencv-python>=5', or take another --engine",
            ) from error

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of pictures uint8 RGB, all of one size."""
        self._net.setInput(images, "images")
        return np.asarray(self._net.forward("logits"), np.float32)
