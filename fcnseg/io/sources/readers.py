"""What every reader of a video gives, the rates that can be believed, and reading by OpenCV.

OpenCV reads where PyAV (`fcnseg.io.sources.pyav`) is absent. It knows no interlacing, no AV1
and no aspect ratio of pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.files import utf8_name
from fcnseg.io.opencv import cv2

_FASTEST = 480  # frames/s; what a file claims beyond that is a time base, not a rate

USUAL_RATE = Fraction(25)

_BROKEN_PACKETS = 300
"""So many broken frames in a row are skipped; more are the end."""

_MISSING_FRACTION = 0.1
"""A count that is only estimated may be wrong by this before frames count as missing."""

_NUMBERS_NAMED = 5


class FrameReader(ABC):
    """The frames of a video, upright, in order, with their times: `with open_video(path) as it`.

    path: what messages call it.
    fps: frames a second, as a fraction (30000/1001 for 29.97).
    has_times: False for a raw stream (.h264, .hevc, .m2v, .mjpeg): its frames have none.
    states_rate: whether fps comes from the file.
    count: how many frames the file says it has (an estimate), or None.
    aspect: width of a pixel, seen upright, over its height.
    read: how many have been decoded so far; index: the last one's number in the file, which
        counts those that are broken.
    broken: numbers of the frames that could not be decoded.
    note: what was done to the colours that the user should know; "" for nothing.
    """

    path: str | Path
    fps: Fraction
    has_times = True
    states_rate = True
    count: int | None = None
    aspect = Fraction(1)
    note = ""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.read, self.index = 0, -1
        self.broken: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """(uint8 (H, W, 3) RGB, seconds since the first frame)."""
        while (time := self.grab()) is not None:
            image = self.retrieve()
            if image is not None:
                yield image, time

    @abstractmethod
    def grab(self) -> float | None:
        """Step to the next frame: its time in seconds; None at the end."""

    @abstractmethod
    def retrieve(self) -> NDArray[np.uint8] | None:
        """The frame stepped to, uint8 (H, W, 3) RGB; None when it can't be decoded."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    @abstractmethod
    def missing(self) -> int:
        """After the last frame: how many the file promises that are not in it."""

    def trouble(self) -> str:
        """After the last frame: what could not be decoded, with its numbers; "" for nothing."""
        said = []
        if self.broken:
            numbers = ", ".join(map(str, self.broken[:_NUMBERS_NAMED]))
            more = len(self.broken) - _NUMBERS_NAMED
            numbers += f" and {more} more" if more > 0 else ""
            said.append(f"broken, could not be decoded: frame {numbers}")
        if missing := self.missing():
            end = f"it ends after frame {self.index}"
            said.append(f"{missing} of {self.count} frames are missing: {end}, cut short")
        return "; ".join(said)


class OpencvReader(FrameReader):
    """The frames of a video file or an address, by OpenCV.

    address: an absolute path, because FFmpeg takes "a:b.mp4" for a protocol. MediaError when it
    can't be opened.
    """

    def __init__(self, address: str, path: str | Path, *, has_times: bool = True) -> None:
        super().__init__(path)
        self._address, self.has_times = address, has_times
        self._capture = self._open()
        self.states_rate = has_times
        self.fps = usable_rate(self._capture.get(cv2.CAP_PROP_FPS)) or self._measure_fps()
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = round(count) if 0 < count < 2**40 else None
        # Asking on past the end of a file costs nothing; a dead server makes each try wait.
        self._tries = 0 if "://" in address else _BROKEN_PACKETS

    def grab(self) -> float | None:
        """Step to the next frame: its time in seconds; None at the end."""
        failed = 0
        while not self._capture.grab():  # at the end, or at a packet that is broken
            failed += 1
            if failed > self._tries:
                return None
        self.broken += range(self.index + 1, self.index + 1 + failed)
        self.index += 1 + failed
        self.read += 1
        if not self.has_times:
            return float(self.index / self.fps)
        time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return time if time > 0 or self.index == 0 else float(self.index / self.fps)

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The frame stepped to, uint8 (H, W, 3) RGB; None when it can't be decoded."""
        done, pixels = self._capture.retrieve()
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8) if done else None

    def close(self) -> None:
        """Let go of the file."""
        self._capture.release()

    def missing(self) -> int:
        """Frames that are not there, where that is more than an estimate may be wrong by."""
        count = self.count or 0
        gone = count - self.index - 1
        return gone if gone > max(1, _MISSING_FRACTION * count) else 0

    def _open(self) -> cv2.VideoCapture:
        with readable_name(self._address) as name:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise no_video(self.path)
        return capture

    def _measure_fps(self) -> Fraction:
        """From the times of the first frames; the usual 25 when they have none."""
        times: list[float] = []
        while len(times) < 25 and self._capture.grab():
            times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        self._capture.release()
        self._capture = self._open()
        return rate_of(times)


def no_video(path: str | Path) -> MediaError:
    """The MediaError for what is not a video."""
    return MediaError(
        f"{path} is not a video that can be read.",
        hint="the file may be cut short, or of a kind FFmpeg does not know",
    )


def readable_name(address: str) -> AbstractContextManager[str]:
    """What FFmpeg can open; an open file needs its name no more."""
    return nullcontext(address) if "://" in address else utf8_name(Path(address))


def read_start(path: str | Path) -> bytes:
    """A file's first bytes."""
    with Path(path).open("rb") as file:
        return file.read(16)


def is_elementary(start: bytes) -> bool:
    """Whether what begins so is a coded stream without a container, which has no times.

    MPEG-2, MPEG-4, H.264 and H.265 begin with a start code (a program stream, a container, with
    that of a pack), MJPEG with an image, AV1 with a temporal delimiter.
    """
    code = start.startswith((b"\0\0\1", b"\0\0\0\1")) and not start.startswith(b"\0\0\1\xba")
    return code or start.startswith((b"\xff\xd8\xff", b"\x12\0\x0a"))


def rate_of(times: list[float]) -> Fraction:
    """The mean rate of frames at these seconds; the usual 25 where they tell none."""
    elapsed = times[-1] - times[0] if times else 0.0
    return usable_rate((len(times) - 1) / elapsed) or USUAL_RATE if elapsed > 0 else USUAL_RATE


def usable_rate(fps: float) -> Fraction | None:
    """A rate as a fraction with the denominators in use (1, 2, 1001 ...); None if it can't be."""
    if not math.isfinite(fps) or not 0 < fps <= _FASTEST:
        return None
    rate = Fraction(fps).limit_denominator(1001)
    return rate if rate > 0 else Fraction(fps).limit_denominator(10**6)
