"""A video that comes through a pipe, decoded as it comes: by PyAV, from the extra `video`.

OpenCV wants files and addresses. Nothing is kept but what the decoder needs, with one
exception: an MP4 file whose index stands at its end.
"""

from __future__ import annotations

import functools
import io
from contextlib import suppress

from fcnseg.errors import MediaError, MissingExtra
from fcnseg.io.encoders import has_pyav
from fcnseg.io.sources.pyav import PyavReader
from fcnseg.io.sources.readers import is_elementary
from fcnseg.io.sources.stdin import ByteStream

MOST_KEPT = 1 << 30
"""Bytes of an MP4 file that are kept where its index comes after its frames."""

_PATIENT = {"fpsprobesize": "0"}
"""FFmpeg does not wait for twenty frames to guess a rate."""

_PROMPT = ({**_PATIENT, "probesize": "32"}, {**_PATIENT, "analyzeduration": "200000"})
"""The first frame is given when it is there: one packet has to say what the stream is, or, where
sound comes first, 0.2 seconds of it."""

_CONTAINERS = {
    b"YUV4MPEG2": "yuv4mpegpipe",
    b"FLV\1": "flv",
    b"\x1aE\xdf\xa3": "matroska",
    b"nut/multimedia c": "nut",
    b"DKIF": "ivf",
    b"\0\0\0\1\x67": "h264",
    b"\0\0\0\1\x27": "h264",
    b"\0\0\0\1\x40\1": "hevc",
}
"""What begins so -> FFmpeg's name of it, said because it would wait for more than small frames."""

_TS_PACKET = 188

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def read_streamed(stream: ByteStream, name: str) -> PyavReader:
    """The frames of a video from a pipe, as they come; name: what messages call it.

    MissingExtra without PyAV; MediaError when it is no video.
    """
    if not has_pyav():
        raise MissingExtra("Decoding a video that is piped in", "video")
    start = stream.peek(16)
    source = _readable(stream, name)
    container, has_times = _container(stream), not is_elementary(start)
    open_reader = functools.partial(PyavReader, source, name, has_times=has_times)
    if isinstance(source, _Pieces):
        for options in _PROMPT:
            with suppress(MediaError):
                reader = open_reader(options=options, container=container)
                if reader.is_described:
                    source.forget()
                    return reader
                reader.close()
            source.rewind()
        source.forget()
    try:
        return open_reader(options=_PATIENT)
    except MediaError:
        raise _no_video(name) from None


def _container(stream: ByteStream) -> str | None:
    """FFmpeg's name of a stream's format; None where its first bytes do not tell."""
    start = stream.peek(16)
    if start[4:8] == b"ftyp":
        return "mp4"
    if start[:1] == b"G" and stream.at(_TS_PACKET) == start[0]:
        return "mpegts"
    return next((name for mark, name in _CONTAINERS.items() if start.startswith(mark)), None)


def _readable(stream: ByteStream, name: str) -> _Pieces | io.BytesIO:
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
    """A stream's bytes as they come, without waiting for more than there is.

    What was read is kept until `forget`, so that `rewind` can give it once more.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._kept, self._keeps = bytearray(), True
        self._again = io.BytesIO()

    def read(self, count: int) -> bytes:
        """What is there, at most `count` bytes; b"" at the end."""
        data = self._again.read(count)
        if not data:
            data = self._stream.read_some(count)
            self._kept += data if self._keeps else b""
        return data

    def rewind(self) -> None:
        """Begin again."""
        self._again = io.BytesIO(bytes(self._kept))

    def forget(self) -> None:
        """Keep nothing more."""
        self._keeps = False


def _no_video(name: str) -> MediaError:
    return MediaError(
        f"{name} is neither an image nor a video that can be decoded as it comes.",
        hint="images (PNG, JPEG), Matroska, MPEG-TS, MP4, Y4M, MJPEG ... can be piped in",
    )
