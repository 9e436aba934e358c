"""A video that comes through a pipe, decoded as it comes: by PyAV, from the extra `video`.

OpenCV wants files and addresses. Nothing is kept but what the decoder needs, with one
exception: an MP4 file whose index stands at its end.
"""

from __future__ import annotations

import io

from fcnseg.errors import MediaError, MissingExtra
from fcnseg.io.encoders import has_pyav
from fcnseg.io.sources.pyav import PyavReader, Readable
from fcnseg.io.sources.readers import is_elementary
from fcnseg.io.sources.stdin import ByteStream

MOST_KEPT = 1 << 30
"""Bytes of an MP4 file that are kept where its index comes after its frames."""

_OPTIONS = {"fpsprobesize": "0"}
"""The first frame is given when it is there; FFmpeg would wait for twenty to guess a rate."""


_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def read_streamed(stream: ByteStream, name: str) -> PyavReader:
    """The frames of a video from a pipe, as they come; name: what messages call it.

    MissingExtra without PyAV; MediaError when it is no video.
    """
    if not has_pyav():
        raise MissingExtra("Decoding a video that is piped in", "video")
    start = stream.peek(16)
    # Said, because FFmpeg would wait for more than a small frame to find it out.
    container = "yuv4mpegpipe" if start.startswith(b"YUV4MPEG2") else None
    source = _readable(stream, name)
    try:
        return PyavReader(
            source,
            name,
            has_times=not is_elementary(start),
            options=_OPTIONS,
            container=container,
        )
    except MediaError:
        raise _no_video(name) from None


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
