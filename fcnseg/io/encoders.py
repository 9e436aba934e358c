"""What turns RGB frames into a video file: PyAV where the extra `video` is there, else OpenCV.

PyAV writes H.264, keeps each frame's own time and copies sound. OpenCV's wheels have no
H.264 encoder, know one fixed frame rate and no sound. `fcnseg.io.video_writer` chooses, names
the file and verifies it.
"""

from __future__ import annotations

import importlib.util
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.io.opencv import cv2
from fcnseg.io.sound import Sound

FOURCC = {
    ".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "XVID", ".mkv": "XVID", ".webm": "VP80",
}  # fmt: skip
"""The suffixes that can be written, with the best codec OpenCV's wheels can encode for each."""

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
    """Whether the extra `video` is installed."""
    return importlib.util.find_spec("av") is not None


def writable_codecs() -> dict[str, str]:
    """What a video can be encoded with here, best first: codec -> the suffixes to ask for."""
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in FOURCC:
            path = Path(folder) / f"try{suffix}"
            try:
                encoder = open_encoder(path, Fraction(25), (64, 64))
                encoder.write(np.zeros((64, 64, 3), np.uint8), 0.0)
                encoder.close()
            except MediaError:
                continue
            found.setdefault(encoder.codec, []).append(suffix)
    return {codec: " ".join(suffixes) for codec, suffixes in found.items()}


def open_encoder(
    path: Path,
    fps: Fraction,
    size: tuple[int, int],
    *,
    audio: Path | None = None,
    start: float = 0.0,
    aspect: Fraction = Fraction(1),
    live: bool = False,
) -> Encoder:
    """The best encoder there is for the path's suffix.

    size: even (height, width). audio: a file whose sound is copied from `start` seconds on,
    when the encoder can. aspect: width of a pixel over its height. live: frames may be late.
    MediaError when none opens.
    """
    if has_pyav() and path.suffix.lower() != ".avi":  # AVI knows no times and no B-frames
        return PyavEncoder(path, fps, size, audio=audio, start=start, aspect=aspect)
    return OpencvEncoder(path, fps, size, repeat=live)


class OpencvEncoder:
    """cv2.VideoWriter, which raises nothing by itself.

    repeat: a frame is shown again where the next one comes late (cameras skip frames).
    """

    keeps_time = False
    sound_trouble = ""  # nobody expects it here; that there is none is said at the start

    def __init__(
        self, path: Path, fps: Fraction, size: tuple[int, int], *, repeat: bool = False
    ) -> None:
        self.written = 0
        self._fps, self._repeat = fps, repeat
        self._last: NDArray[np.uint8] | None = None
        self.codec = FOURCC[path.suffix.lower()]
        fourcc = cv2.VideoWriter.fourcc(*self.codec)
        self._file = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, fourcc, float(fps), (size[1], size[0])
        )
        if not self._file.isOpened():
            raise MediaError(
                f"OpenCV can't write {self.codec} video to {path.parent}.",
                hint="is there space and may you write there? else: pip install av",
            )

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Append a frame."""
        bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
        while self._repeat and self._last is not None and self.written < int(time * self._fps):
            self._append(self._last)
        self._append(bgr)
        self._last = bgr

    def _append(self, bgr: NDArray[np.uint8]) -> None:
        self._file.write(bgr)
        self.written += 1

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.release()


class PyavEncoder:
    """H.264 (VP8 in .webm) by PyAV, with each frame's time and the sound of another file.

    Times are in ticks of which a whole number makes a frame at `fps`, so that a constant rate
    is exact, and fine enough (0.1 ms) for a variable one.
    """

    keeps_time = True

    def __init__(
        self,
        path: Path,
        fps: Fraction,
        size: tuple[int, int],
        *,
        audio: Path | None,
        start: float,
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
        self._sound: Sound | None = None
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
        if audio is not None:
            self._sound = Sound.of(audio, self._file, start)

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Append a frame, shown from `time` seconds on."""
        planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
        frame = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        self._last = frame.pts = max(self._tick(time), self._last + 1)
        frame.time_base = Fraction(1, self._ticks)
        self.written += 1
        try:
            self._file.mux(self._video.encode(frame))
            if self._sound is not None:
                self._sound.copy(until=time)
        except self._av.FFmpegError as error:
            raise _cannot_write(error) from None

    def close(self) -> None:
        """Write what is left, the sound up to the end of the last frame, and close."""
        try:
            if self._last >= 0:
                self._file.mux(self._video.encode(None))
                if self._sound is not None:
                    self._sound.copy(until=float((self._last + self._frame_ticks) / self._ticks))
                    self._sound.finish()
            self._file.close()
        except self._av.FFmpegError as error:
            raise _cannot_write(error) from None
        finally:
            if self._sound is not None:
                self._sound.close()

    @property
    def sound_trouble(self) -> str:
        """What is wrong with the sound that was to be copied; "" for nothing."""
        return self._sound.trouble if self._sound is not None else ""

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
