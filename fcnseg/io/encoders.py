"""What turns RGB frames into a video file: PyAV where it is installed, else OpenCV.

PyAV writes H.264, keeps each frame's own time and copies sound. OpenCV's wheels have no
H.264 encoder, know one fixed frame rate and no sound. `fcnseg.io.video_writer` chooses, names
the file and verifies it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.io import cv2
from fcnseg.io.room import Room

_LIBRARY = {".webm": ("libvpx", {"deadline": "realtime", "cpu-used": "5", "crf": "12", "b": "8M"})}

_H264 = ("libx264", {"preset": "superfast", "crf": "23"})

_MP4 = frozenset({".mp4", ".m4v", ".mov"})

_GRID_SECONDS = 0.002
"""A frame this near to its place at a constant rate is put there: many formats round to 1 ms."""


class Encoder(Protocol):
    """Writes frames of one even size to a path.

    keeps_time: frames are shown at their own times; else one after the other at `fps`.
    written: frames in the file so far.
    """

    codec: str
    keeps_time: bool
    written: int

    @property
    def sound_trouble(self) -> str:
        """What is wrong with the sound of the other file; "" for nothing."""

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Append uint8 (H, W, 3) RGB, shown from `time` seconds after the first frame's."""

    def close(self) -> None:
        """Write what is left and close the file."""


def has_pyav() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


class PyavEncoder:
    """H.264 (VP8 in .webm) by PyAV, with each frame's time and the sound of another file.

    Times are in ticks of which a whole number makes a frame at `fps`, so that a constant rate
    is exact, and fine enough (0.1 ms) for a variable one. sound: makes the Sound of a container
    that is being written, or None.
    """

    keeps_time = True

    def __init__(
        self,
        path: Path,
        fps: Fraction,
        size: tuple[int, int],
        *,
        sound: Callable[[Any], Any] | None,
        aspect: Fraction,
    ) -> None:
        import av

        name, options = _LIBRARY.get(path.suffix.lower(), _H264)
        self.codec = "VP8" if name == "libvpx" else "H.264"
        self._av: Any = av
        self._ticks = fps.numerator * -(-10000 // fps.numerator)
        self._frame_ticks = Fraction(self._ticks) / fps
        self._last = -1
        self.written = 0
        self._sound: Any = None
        self._room = Room(path)
        try:
            fast_start = {"movflags": "+faststart"} if path.suffix.lower() in _MP4 else {}
            file: Any = av.open(str(path), "w", options=fast_start)
            video = file.add_stream(name, rate=fps, options=options)
        except (av.FFmpegError, ValueError) as error:
            raise _cannot_write(error) from None
        self._file, self._video = file, video
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, self._ticks)
        if aspect != 1:
            video.codec_context.sample_aspect_ratio = video.sample_aspect_ratio = aspect
        self._tag_colors()
        if sound is not None:
            self._sound = sound(file)

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Append a frame, shown from `time` seconds on; OSError before the disk is full."""
        planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
        frame = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        self._last = frame.pts = max(self._tick(time), self._last + 1)
        frame.time_base = Fraction(1, self._ticks)
        self.written += 1
        try:
            self._room.fill(self._video.encode(frame), self._file.mux)
            if self._sound is not None:
                self._sound.copy(until=time)
        except self._av.FFmpegError as error:
            raise _cannot_write(error) from None

    def close(self) -> None:
        """Write what is left that has room, the sound up to the last frame's end, and close."""
        try:
            if self._last >= 0:
                with contextlib.suppress(OSError):
                    self._room.fill(self._video.encode(None), self._file.mux)
                if self._sound is not None and self._room.error() is None:
                    end = float((self._last + self._frame_ticks) / self._ticks)
                    self._sound.copy(until=end)
                    self._sound.finish(end)
            self._file.close()
        except self._av.FFmpegError as error:
            raise _cannot_write(error) from None
        finally:
            if self._sound is not None:
                self._sound.close()

    @property
    def sound_trouble(self) -> str:
        """What is wrong with the sound that was to be copied; "" for nothing."""
        return str(self._sound.omitted) if self._sound is not None else ""

    def _tick(self, time: float) -> int:
        grid = round(Fraction(time) * self._ticks / self._frame_ticks) * self._frame_ticks
        near = abs(float(grid / self._ticks) - time) <= _GRID_SECONDS
        return round(grid) if near else round(time * self._ticks)

    def _tag_colors(self) -> None:
        """OpenCV converts with BT.601's coefficients and video levels: say so to the players."""
        context = self._video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 6  # SMPTE 170M
        context.color_range = 1  # video levels


def _cannot_write(error: Exception) -> MediaError:
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(
        f"The video can't be written: {reason}.",
        hint="is there space on the disk and may you write there?",
    )
