"""What turns RGB frames into a video file: PyAV where it is installed, else OpenCV.

PyAV writes H.264, keeps each frame's own time and copies sound. OpenCV's wheels have no
H.264 encoder, know one fixed frame rate and no sound. `fcnseg.io.video_writer` chooses, names
the file and verifies it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.files import utf8_name
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
        if audio is not None:
            self._sound = Sound.of(audio, self._file, start)

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


_LEAD_IN = 0.1  # seconds before 0 at most that an encoder needs; more was cut away by an edit list

_RATE = 48000  # of sound that is encoded again

_ENCODERS = ("aac", "libopus")  # the first that the container holds

_NAMES = {"opus": "libopus"}  # FFmpeg's name of the decoder -> of the encoder


class Sound:
    """The sound streams of a file, written beside the frames.

    trouble: what of it is left out, and why; "" for nothing.
    """

    def __init__(self, source: Any, output: Any, origin: float) -> None:
        self.trouble = ""
        self._source, self._output, self._origin = source, output, origin
        self._copied: dict[int, Any] = {}  # index of the source's stream -> the output's
        self._encoded: dict[int, _Reencoder] = {}
        self._broken = 0
        for stream in source.streams.audio:
            self._add(stream)
        taken = [s for s in source.streams.audio if s.index in {**self._copied, **self._encoded}]
        self._packets: Iterator[Any] = source.demux(taken) if taken else iter(())
        self._waiting: Any = None

    @classmethod
    def of(cls, path: Path, output: Any, start: float) -> Sound | None:
        """The sound of `path` from `start` seconds on; None when it has none."""
        import av

        try:
            with utf8_name(path) as name:
                source = av.open(name)
        except (av.FFmpegError, ValueError):
            return None
        video = source.streams.best("video")
        if not source.streams.audio or video is None:
            source.close()
            return None
        began = float((video.start_time or 0) * (video.time_base or 0))
        return cls(source, output, began + start)

    def copy(self, *, until: float) -> None:
        """Write what sounds before `until` seconds of the output."""
        import av

        try:
            while (packet := self._waiting or next(self._packets, None)) is not None:
                self._waiting = packet
                if packet.dts is not None and packet.pts is not None:
                    if self._time(packet) >= until:
                        return
                    self._write(packet)
                self._waiting = None
        except (av.FFmpegError, ValueError) as error:
            self._packets, self._waiting = iter(()), None
            self._leave_out("the rest of the sound", str(getattr(error, "strerror", error)))

    def close(self) -> None:
        """Close the file the sound came from."""
        self._source.close()

    def finish(self) -> None:
        """Write what the encoders hold."""
        import av

        for encoder in self._encoded.values():
            try:
                self._output.mux(encoder.finish())
            except (av.FFmpegError, ValueError) as error:
                self._leave_out("the end of the sound", str(getattr(error, "strerror", error)))
            if not encoder.written:
                self._leave_out("the sound", "none of it can be decoded")
        if self._broken:
            self._leave_out(f"{self._broken} pieces of the sound", "they are broken")

    def _add(self, stream: Any) -> None:
        """Copy a stream that the container holds; encode it again where it does not."""
        import av

        context = stream.codec_context
        name = context.name if context is not None else "unknown to FFmpeg"
        supported = self._output.supported_codecs
        try:
            known = {name, _NAMES.get(name, name)} & set(supported)
            if known and _can_hold(self._output.format.name, stream):
                self._copied[stream.index] = self._output.add_stream_from_template(stream)
            elif context is not None and context.is_decoder:
                encoder = next(e for e in _ENCODERS if e in supported)
                self._encoded[stream.index] = _Reencoder(self._output, encoder)
            else:
                self._leave_out("the sound", f"its codec is {name}")
        except (av.FFmpegError, ValueError, StopIteration):
            self._leave_out("the sound", f"it can't be written here; its codec is {name}")

    def _time(self, packet: Any) -> float:
        return float(packet.pts * packet.time_base) - self._origin

    def _write(self, packet: Any) -> None:
        import av

        time = self._time(packet)
        if packet.stream.index in self._copied:
            if time < (0 if self._origin else -_LEAD_IN):
                return
            shift = round(self._origin / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._copied[packet.stream.index]
            self._output.mux(packet)
        elif time >= 0 or not self._origin:
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._broken += 1
                return
            self._output.mux(self._encoded[packet.stream.index].encode(frames, max(time, 0.0)))

    def _leave_out(self, what: str, why: str) -> None:
        self.trouble += f"{'; ' if self.trouble else ''}{what} is left out: {why}"


def _can_hold(container: str, stream: Any) -> bool:
    """Whether a container takes a stream as it is.

    Its list of codecs does not tell: MP4 wants a layout of PCM's channels, MOV no Opus. Found out
    when the file is written, it would end the video.
    """
    import av

    early = stream.codec_context is not None and stream.codec_context.name.startswith("pcm_")
    options = {"movflags": "empty_moov"} if early and container in ("mp4", "mov") else {}
    try:
        with av.open(io.BytesIO(), "w", format=container, options=options) as file:
            file.add_stream_from_template(stream)
            file.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


class _Reencoder:
    """Decoded sound as another codec's packets, gaps filled by their time stamps."""

    def __init__(self, output: Any, codec: str) -> None:
        import av

        self.written = 0
        self._stream: Any = output.add_stream(codec, rate=_RATE, layout="stereo")
        layout = self._stream.codec_context.format.name
        self._resampler: Any = av.AudioResampler(format=layout, layout="stereo", rate=_RATE)
        self._queue: Any = av.AudioFifo()
        self._start: int | None = None

    def encode(self, frames: list[Any], time: float) -> list[Any]:
        """Packets of frames that sound from `time` seconds on."""
        if self._start is None and frames:
            self._start = round(time * _RATE)
        for frame in frames:
            frame.pts = None
            self._take(self._resampler.resample(frame))
        return self._packets(flush=False)

    def finish(self) -> list[Any]:
        """The last packets."""
        if self._start is None:
            return []
        self._take(self._resampler.resample(None))
        return [*self._packets(flush=True), *self._stream.encode(None)]

    def _take(self, frames: list[Any]) -> None:
        for frame in frames:
            frame.pts = None
            self._queue.write(frame)

    def _packets(self, *, flush: bool) -> list[Any]:
        size = self._stream.codec_context.frame_size or 1024
        packets = []
        while frame := self._queue.read(size, partial=flush):
            frame.pts = (self._start or 0) + self.written
            frame.time_base = Fraction(1, _RATE)
            self.written += frame.samples
            packets += self._stream.encode(frame)
        return packets
