"""The OpenCV layer: cv2 is imported here only. Images, videos, cameras; BGR exists nowhere else."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import FcnsegError, MediaError, OptionError
from fcnseg.progress import environment

with environment(OPENCV_LOG_LEVEL="OFF", OPENCV_FFMPEG_LOGLEVEL="-8"):
    try:
        import cv2 as cv2
    except ImportError as error:  # the wheel needs libGL and glib of the system
        raise FcnsegError(
            f"OpenCV can't be loaded: {error}.",
            hint="pip install opencv-python; on a bare Linux also: "
            "apt-get install libgl1 libglib2.0-0",
        ) from error
    cv2.VideoCapture("", cv2.CAP_FFMPEG)  # FFmpeg's switch is read when it is first used
    # Where the wheel's Qt finds its parts, which is read when the first window opens; it would
    # complain of a folder of fonts that the wheel lacks, five times.
    _of_windows = {name: value for name, value in os.environ.items() if name.startswith("QT_")}
    _of_windows["QT_LOGGING_RULES"] = "*.warning=false"

# For programs that loaded it before us. OpenCV 5 has the function elsewhere than 4.
_levels = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2

_levels.setLogLevel(0)


class Net:
    """An ONNX graph from uint8 "images" (N, H, W, 3) to float32 "logits" (N, K, H, W).

    model: the file itself; where weights lie in others beside it, its name.
    OptionError when this OpenCV can't run it: sizes that are free need version 5.
    """

    def __init__(self, model: bytes | str) -> None:
        read = model if isinstance(model, str) else np.frombuffer(model, np.uint8)
        try:
            self._net = cv2.dnn.readNetFromONNX(read, cv2.dnn.ENGINE_NEW)
        except (cv2.error, AttributeError, TypeError) as error:
            raise OptionError(
                f"OpenCV {cv2.__version__} can't run this network.",
                hint="pip install --upgrade 'opencv-python>=5', or take another --engine",
            ) from error

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of images uint8 RGB, all of one size."""
        self._net.setInput(images, "images")
        return np.asarray(self._net.forward("logits"), np.float32)


_TRY = "import cv2; cv2.namedWindow('fcnseg'); cv2.waitKey(1); cv2.destroyAllWindows()"


@functools.cache
def has_display() -> bool:
    """Whether OpenCV can open a window here."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    try:
        tried = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


_TITLE = "fcnseg"

_ENDING_KEYS = frozenset({ord("q"), ord("Q"), 27})


class Window:
    """A window that shows images until q, Esc or its own cross.

    shown: whether there is an image in it. ended: whether the user has closed it.
    OptionError when there is no display.
    """

    def __init__(self) -> None:
        if not has_display():
            raise OptionError("There is no display to show a window on.", hint="omit --show")
        self.shown = self.ended = False

    def show(self, image: NDArray[np.uint8], text: str = "") -> str:
        """Show an image uint8 (H, W, 3) RGB with a line of text over it; the key of `listen`."""
        image = np.ascontiguousarray(image[:, :, ::-1])
        for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                image, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, width, cv2.LINE_AA
            )
        with environment(**({} if self.shown else _of_windows)):
            cv2.imshow(_TITLE, image)
        self.shown = True
        return self.listen(1)

    def listen(self, milliseconds: int) -> str:
        """Wait for a key: its character, "" for none. q, Esc and the window's cross end it."""
        code = cv2.waitKey(milliseconds)
        closed = cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1
        self.ended = self.ended or code & 0xFF in _ENDING_KEYS or closed
        return chr(code & 0xFF) if code >= 0 else ""

    def close(self) -> None:
        """Close the window."""
        if self.shown:
            cv2.destroyAllWindows()


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread: for workers that are many themselves."""
    cv2.setNumThreads(0)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within it OpenCV uses the calling thread alone: for callers that have many."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


_DEPTHS = (10, 12, 14)
"""Bits of sensors whose values are stored in 16 as they are."""

_NITS_WHITE = 203.0  # of diffuse white, ITU-R BT.2408

_NITS_PEAK = 1000.0  # of an HLG display

_KNEE = 0.8  # of white; light below it is shown as it is

_PQ = 16  # as in ITU-T H.273

_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)  # linear BT.2020 to linear BT.709, ITU-R BT.2087


def eight_bits(
    pixels: NDArray[np.generic], name: str, *, maximum: int | None = None
) -> NDArray[np.uint8]:
    """Values of any type as uint8; name: for the MediaError.

    maximum: the value of white, where the file states it. Else 16 bits are scaled by the least
    of 10, 12, 14 and 16 bits that holds the largest value; floats are 0..1, or 0..255 where they
    exceed 1, and stretched from their least to their largest value where they exceed that, as
    integers of other types are.
    """
    if pixels.dtype == np.uint8:
        plain = pixels.astype(np.uint8, copy=False)
        return plain if maximum in (None, 255) else _scaled(plain, 0, float(maximum or 255))
    if pixels.dtype == np.uint16:
        if maximum is None:
            most = int(pixels.max(initial=0))
            maximum = next(((1 << d) - 1 for d in _DEPTHS if 255 < most < 1 << d), 65535)
        if maximum == 65535:
            return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return _scaled(pixels, 0, float(maximum))
    if pixels.dtype.kind in "fiu":
        return _stretched(pixels)
    raise MediaError(
        f"{name} has pixels of type {pixels.dtype}; integers or floats can be used.",
        hint="save it as an 8-bit PNG or JPEG",
    )


def _stretched(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Floats and wide integers; what is not finite is the least value."""
    values = pixels.astype(np.float32)
    finite = np.isfinite(values)
    low, high = (
        (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 1.0)
    )
    values = np.where(finite, values, low)
    if low >= 0 and high <= 255:
        return _scaled(values, 0, 1.0 if high <= 1 and pixels.dtype.kind == "f" else 255.0)
    return _scaled(values, low, high)


def _scaled(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """low..high as 0..255, rounded."""
    wide = (values.astype(np.float64) - low) * (255 / max(high - low, 1e-30))
    return np.clip(np.floor(wide + 0.5), 0, 255).astype(np.uint8)


def over_white(rgb: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB (H, W, 3) laid over white; opacity is (H, W), 255 where nothing shows through."""
    if opacity.min() == 255:
        return np.ascontiguousarray(rgb)
    alpha = opacity[:, :, None].astype(np.uint16)
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def tone_mapped(image: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """HDR uint16 (H, W, 3) RGB of BT.2020 as it looks on a usual screen, uint8.

    transfer: 16 (PQ) or 18 (HLG). Light up to 0.8 of diffuse white is shown as it is; what is
    brighter is compressed.
    """
    linear = _linear_light(transfer)[image] @ _TO_BT709.T
    brightest = np.maximum(linear.max(2, keepdims=True), 1e-6)
    compressed = 1 - (1 - _KNEE) * np.exp(-np.maximum(brightest - _KNEE, 0) / (1 - _KNEE))
    scale = np.where(brightest <= _KNEE, 1, compressed / brightest)
    levels = np.clip(linear * scale, 0, 1) * (len(_display_levels()) - 1)
    return np.asarray(_display_levels()[levels.astype(np.uint16)])


@functools.cache
def _linear_light(transfer: int) -> NDArray[np.float32]:
    """Light, 1.0 being diffuse white, of each 16-bit level."""
    signal = np.arange(65536) / 65535
    if transfer == _PQ:  # SMPTE ST 2084
        power = signal ** (1 / 78.84375)
        ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
        nits = 10000 * ratio ** (1 / 0.1593017578125)
    else:  # HLG, ARIB STD-B67, with the system gamma of a 1000 cd/m2 display
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        nits = _NITS_PEAK * scene**1.2
    return (nits / _NITS_WHITE).astype(np.float32)


@functools.cache
def _display_levels() -> NDArray[np.uint8]:
    """The 8-bit level, gamma 2.2, of light from 0 to 1 in 65536 steps."""
    return np.round(255 * (np.arange(65536) / 65535) ** (1 / 2.2)).astype(np.uint8)
