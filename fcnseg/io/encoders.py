"""Encode RGB frames: to a file by PyAV, or as an uncompressed stream to a pipe.

PyAV writes H.264, keeps each frame's timestamp and copies sound. OpenCV's wheels have no H.264
encoder, a constant frame rate and no sound. `fcnseg.io.video_writer` selects the encoder, names the
file and verifies it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.config import Container
from fcnseg.errors import MediaError
from fcnseg.io import cv2
from fcnseg.io.draw import fit_image
from fcnseg.io.images import resize_labels

try:
    import resource
except ImportError:  # Windows, which has no limit on file sizes
    resource = None  # type: ignore[assignment]

_LIBRARY = {".webm": ("libvpx", {"deadline": "realtime", "cpu-used": "5", "crf": "12", "b": "8M"})}

_H264 = ("libx264", {"preset": "superfast", "crf": "23"})

_MP4 = frozenset({".mp4", ".m4v", ".mov"})

_GRID_SECONDS = 0.002
"""Timestamps this close to a constant rate are snapped to it: many formats round to 1 ms."""


class Encoder(Protocol):
    """Writes frames of a constant, even size to a path.

    keeps_time: whether frames keep their timestamps; else they are shown at a constant `fps`.
    written: number of frames written so far.
    """

    codec: str
    keeps_time: bool
    written: int

    @property
    def sound_warning(self) -> str:
        """Which sound could not be copied, and why; "" for none."""

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Append uint8 (H, W, 3) RGB, shown from `time` seconds after the first frame's."""

    def close(self, *, complete: bool = True) -> None:
        """Flush and close the file. complete: False if frames are missing."""


class PyavEncoder:
    """H.264 (VP8 in .webm) by PyAV, with timestamps and the sound of another file.

    A frame at `fps` is a whole number of ticks, so that a constant rate is exact; ticks are fine
    enough (0.1 ms) for a variable rate. sound: creates the Sound for the output container, or None.
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
        self._space = DiskSpace(path)
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
        """Append a frame, shown from `time` seconds on; OSError shortly before the disk is full."""
        planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
        frame = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        self._last = frame.pts = max(self._tick(time), self._last + 1)
        frame.time_base = Fraction(1, self._ticks)
        self.written += 1
        try:
            self._space.mux(self._video.encode(frame), self._file.mux)
            if self._sound is not None:
                self._sound.copy(until=time)
        except self._av.FFmpegError as error:
            raise _cannot_write(error) from None

    def close(self, *, complete: bool = True) -> None:
        """Flush as much as the disk has space for, including sound, and close."""
        try:
            if self._last >= 0:
                with contextlib.suppress(OSError):
                    self._space.mux(self._video.encode(None), self._file.mux)
                if self._sound is not None and self._space.error() is None:
                    end = float((self._last + self._frame_ticks) / self._ticks)
                    self._sound.finish(end, complete=complete)
            self._file.close()
        except self._av.FFmpegError as error:
            raise _cannot_write(error) from None
        finally:
            if self._sound is not None:
                self._sound.close()

    @property
    def sound_warning(self) -> str:
        """Which sound could not be copied, and why; "" for none."""
        return str(self._sound.omitted) if self._sound is not None else ""

    def _tick(self, time: float) -> int:
        grid = round(Fraction(time) * self._ticks / self._frame_ticks) * self._frame_ticks
        near = abs(float(grid / self._ticks) - time) <= _GRID_SECONDS
        return round(grid) if near else round(time * self._ticks)

    def _tag_colors(self) -> None:
        """Tag the stream as BT.601 with limited range, as OpenCV converts."""
        context = self._video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 6  # SMPTE 170M
        context.color_range = 1  # limited


class DiskSpace:
    """Checks the disk space while a video is written, with a reserve for its index.

    An MP4 file whose index does not fit on the disk can't be played at all.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._packets, self._bytes = path, 0, 0

    def mux(self, packets: Iterable[Any], mux: Callable[[Any], object]) -> None:
        """Write packets; OSError before the first that does not fit.

        This precedes FFmpeg's own error, after which a file can't be finished.
        """
        for packet in packets:
            self._packets, self._bytes = self._packets + 1, self._bytes + packet.size
            if (error := self.error()) is not None:
                self._bytes -= packet.size
                raise error
            mux(packet)

    def error(self) -> OSError | None:
        """The error that writing would cause; None while there is space."""
        spare = 2**16 + 64 * self._packets
        disk = shutil.disk_usage(self._path.parent)
        on_disk = self._path.stat().st_size if self._path.exists() else 0
        waiting = max(0, self._bytes - on_disk)
        if disk.total and disk.free < waiting + spare:  # some network drives report 0
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if resource is not None:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            if most not in (-1, resource.RLIM_INFINITY) and self._bytes + spare > most:
                return OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return None


def _cannot_write(error: Exception) -> MediaError:
    reason = getattr(error, "strerror", None) or str(error)
    return MediaError(
        f"The video can't be written: {reason}.",
        hint="is there space on the disk and may you write there?",
    )


class Pipe(Protocol):
    """A writable binary file."""

    def write(self, data: bytes, /) -> object:
        """Write bytes."""

    def flush(self) -> None:
        """Flush buffers."""


class StreamWriter:
    """Writes frames to a pipe and flushes each.

    size: (height, width) of the output; other frames are scaled to fit. container: y4m is YUV 4:2:0
    with limited range; raw frames are RGB, or gray if they are (H, W). repeat: repeat a frame while
    the next one is late, as neither container has timestamps. BrokenPipeError when the reader has
    closed the pipe.
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
            # BT.601 and limited range, as OpenCV converts.
            pipe.write(
                f"YUV4MPEG2 W{size[1]} H{size[0]} F{fps.numerator}:{fps.denominator} Ip "
                f"A{aspect.numerator}:{aspect.denominator} C420jpeg XCOLORRANGE=LIMITED\n".encode()
            )

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Write uint8 (H, W, 3) RGB or (H, W), shown from `time` seconds after the first frame."""
        if image.shape[:2] != self._size:
            fit = fit_image if image.ndim == 3 else resize_labels
            image = fit(image, self._size)
        while self._repeat and self._last and self._written < int(time * self._fps):
            self._send(self._last)
        y4m = self._container == "yuv4mpegpipe"
        self._last = b"FRAME\n" + _planes(image) if y4m else image.tobytes()
        self._send(self._last)

    def _send(self, data: bytes) -> None:
        self._pipe.write(data)
        self._pipe.flush()
        self._written += 1


def _planes(image: NDArray[np.uint8]) -> bytes:
    """An RGB image as Y, U and V planes; the last two have half the size, rounded up."""
    height, width = image.shape[:2]
    even = even_sized(image)
    planes = np.asarray(cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420), np.uint8)
    luma = planes[:height, :width]
    return luma.tobytes() + planes[even.shape[0] :].tobytes()


def even_sized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An RGB image padded to an even size by repeating its last row and column."""
    odd = image.shape[0] % 2, image.shape[1] % 2
    return np.pad(image, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else image
