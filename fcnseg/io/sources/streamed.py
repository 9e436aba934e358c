"""A video that comes through a pipe, decoded as it comes: by PyAV, from the extra `video`.

OpenCV wants files and addresses. Nothing is kept but what the decoder needs, with one
exception: an MP4 file whose index stands at its end.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, MissingExtra
from fcnseg.io.encoders import has_pyav
from fcnseg.io.sources.rates import USUAL_RATE, is_elementary, usable_rate
from fcnseg.io.sources.stdin import ByteStream

MOST_KEPT = 1 << 30
"""Bytes of an MP4 file that are kept where its index comes after its frames."""

_OPTIONS = {"fpsprobesize": "0"}
"""The first frame is given when it is there; FFmpeg would wait for twenty to guess a rate."""


_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


class Readable(Protocol):
    """What PyAV reads from."""

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`; b"" at the end."""


class StreamReader:
    """The frames of a video from a pipe, in order, with their times: as `VideoReader` of files.

    fps: what the stream says (states_rate), or the usual 25. read, index: frames decoded so far,
    and the last one's number. MissingExtra without PyAV; MediaError when it is no video.
    """

    count = None

    def __init__(self, stream: ByteStream, name: str) -> None:
        if not has_pyav():
            raise MissingExtra("Decoding a video that is piped in", "video")
        import av

        self._av: Any = av
        self.path = name
        self.read, self.index = 0, -1
        self.has_times = not is_elementary(stream.peek(16))
        try:
            self._file: Any = av.open(_readable(stream, name), options=_OPTIONS)
        except av.FFmpegError:
            raise _no_video(name) from None
        if not self._file.streams.video:
            raise _no_video(name)
        self._video: Any = self._file.streams.video[0]
        self._video.thread_type = "SLICE"  # threads for frames hold frames back
        rate = _rate(self._video, self.has_times)
        self.fps, self.states_rate = rate or USUAL_RATE, rate is not None
        self._frames = self._decoded()
        self._frame: Any = None
        self._first: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def grab(self) -> float | None:
        """Step to the next frame: its time in seconds; None at the end."""
        self._frame = next(self._frames, None)
        if self._frame is None:
            return None
        self.index += 1
        self.read += 1
        if not self.has_times or self._frame.time is None:
            return self.index / float(self.fps)
        if self._first is None:
            self._first = self._frame.time
        return float(self._frame.time - self._first)

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The frame stepped to, uint8 (H, W, 3) RGB, upright."""
        pixels = self._frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
        turns = round(self._frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns))

    def lost(self) -> int:
        """Frames that are known to be missing: a pipe promises none."""
        return 0

    def _decoded(self) -> Iterator[Any]:
        """Frame after frame; what can't be decoded is passed over."""
        try:
            for packet in self._file.demux(self._video):
                try:
                    yield from packet.decode()
                except self._av.error.InvalidDataError:
                    continue
        except self._av.FFmpegError:  # cut short
            return


def _rate(video: Any, has_times: bool) -> Fraction | None:
    """The rate that is stated: a header's own; else the container's, where there is one."""
    context = video.codec_context
    contained = (video.average_rate, video.guessed_rate) if has_times else ()
    for rate in (*contained, context.framerate):
        if rate and (found := usable_rate(float(rate))):
            return found
    return None


def _readable(stream: ByteStream, name: str) -> Readable:
    """The stream itself; in memory as a file where its index comes last."""
    if not _has_its_index_last(stream):
        return _Pieces(stream)
    data = stream.read(MOST_KEPT + 1)
    if len(data) > MOST_KEPT:
        raise MediaError(
            f"{name} is an MP4 video with its index at the end, and of more than "
            f"{MOST_KEPT >> 20} MiB: it can't be decoded as it comes.",
            hint="write it with -movflags +faststart, or as -f matroska; or give the file's path",
        )
    return io.BytesIO(data)


def _has_its_index_last(stream: ByteStream) -> bool:
    """Whether an MP4's boxes have the frames (mdat) before the index (moov)."""
    position = 0
    while (head := stream.peek(position + 16)[position:]) and head[4:8] in _BOXES:
        if head[4:8] in (b"moov", b"mdat"):
            return head[4:8] == b"mdat"
        size = int.from_bytes(head[:4], "big")
        if size < 8 or position + size > 1 << 20:
            return False
        position += size
    return False


class _Pieces:
    """A stream's bytes as they come, without waiting for more than there is."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        """What is there, at most `count` bytes; b"" at the end."""
        return self._stream.read_some(count)


def _no_video(name: str) -> MediaError:
    return MediaError(
        f"{name} is neither an image nor a video that can be decoded as it comes.",
        hint="images (PNG, JPEG), Matroska, MPEG-TS, MP4, Y4M, MJPEG ... can be piped in",
    )
