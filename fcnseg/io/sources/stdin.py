"""Images or a video piped into standard input (`-`), decoded as they arrive."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fcnseg.errors import MediaError, MissingExtra, OptionError, cannot_read
from fcnseg.io import has_pyav
from fcnseg.io.content.byte_stream import ByteStream
from fcnseg.io.content.image_stream import is_alone, next_image
from fcnseg.io.sources.base import Frame, ImageSource, Kind, Selection, frame_of
from fcnseg.io.sources.damage import PipedFraming
from fcnseg.io.sources.pyav import PyavReader
from fcnseg.io.sources.reader import RawVideo, is_elementary

_ALONE = 1.0
"""Seconds to wait after the first image to see whether the pipe has more."""


def open_stdin() -> ByteStream:
    """Standard input as a ByteStream; OptionError if it is a terminal."""
    if sys.stdin is None or sys.stdin.isatty():
        raise OptionError(
            "The source is -, but nothing is piped in.", hint="cat a.jpg | fcnseg infer -"
        )
    return _opened(sys.stdin.buffer, "-")


def open_pipe(path: Path) -> ByteStream:
    """A named pipe as a ByteStream."""
    try:
        with path.open("rb") as file:
            return _opened(file, path)
    except OSError as error:
        raise cannot_read(path, error) from None


def _opened(file: Any, name: str | Path) -> ByteStream:
    stream = ByteStream(_chunks(file))
    if not stream.peek(1):
        raise MediaError(f"The source is {name}, and what is piped in is empty.")
    return stream


def _chunks(file: Any) -> Iterator[bytes]:
    """Yield a file's bytes as soon as they are available.

    Reads the file descriptor, as a thread that waits in Python's buffered reader blocks the exit;
    and a duplicate of it, as the original may be closed and reused while the thread waits.
    """
    try:
        number = os.dup(file.fileno())
    except (AttributeError, OSError):  # a file-like object
        yield from iter(lambda: bytes(file.read1(1 << 16)), b"")
        return
    try:
        yield from iter(lambda: os.read(number, 1 << 16), b"")
    finally:
        os.close(number)


class PipedImages(ImageSource):
    """Concatenated images in a stream, named stdin_000000 and so on."""

    kind: Kind = "folder"

    def __init__(self, stream: ByteStream, selection: Selection) -> None:
        super().__init__()
        self._stream, self._selection = stream, selection
        stream.over = lambda: self._over
        self.first = next_image(stream)
        if is_alone(stream, _ALONE):
            self.kind, self.count = "image", 1

    def __iter__(self) -> Iterator[Frame]:
        index, data = 0, self.first
        while data and not (self._over or self._selection.is_full(self.taken)):
            if index % self._selection.every == 0:
                self.taken += 1
                name = "stdin" if self.kind == "image" else f"stdin_{index:06d}"
                try:
                    yield frame_of(data, name, self.bands, index, self._time(index), name)
                except MediaError as error:
                    if self.kind == "image":
                        raise
                    self.failures.append((name, error.message))
            if self._selection.is_full(self.taken):
                return  # without waiting for another image
            index, data = index + 1, next_image(self._stream)

    def close(self) -> None:
        """Stop reading."""
        super().close()
        self._stream.close()


MOST_KEPT = 1 << 30
"""Maximum bytes of an MP4 file that is buffered because its index comes after its frames."""

_NO_RATE_PROBE = {"fpsprobesize": "0"}
"""Keeps FFmpeg from waiting for twenty frames to guess the rate."""

_PROMPT = (
    {**_NO_RATE_PROBE, "probesize": "32"},
    {**_NO_RATE_PROBE, "analyzeduration": "200000"},
)
"""Options that avoid delaying the first frame: the stream is identified by one packet or, if sound
comes first, by 0.2 seconds."""

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
"""First bytes -> FFmpeg's name of the format. Given explicitly, as probing waits for more data."""

_TS_PACKET = 188

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def read_streamed(stream: ByteStream, name: str) -> PyavReader:
    """Read the frames of a video from a pipe as they arrive; name: for messages.

    MissingExtra without PyAV; MediaError if it is not a video.
    """
    if not has_pyav():
        raise MissingExtra("Decoding a video that is piped in", "video")
    start = stream.peek(16)
    source = _readable(stream, name)
    container, has_times = _container(stream), not is_elementary(start)
    open_reader = functools.partial(PyavReader, source, name, has_times=has_times)
    if isinstance(source, _ReplayableStream):
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
        return open_reader(options=_NO_RATE_PROBE)
    except MediaError:
        raise MediaError(
            f"{name} is neither an image nor a video that can be decoded as it comes.",
            hint="images (PNG, JPEG), Matroska, MPEG-TS, MP4, Y4M, MJPEG ... can be piped in",
        ) from None


def read_raw(stream: ByteStream, name: str, raw: RawVideo) -> PyavReader:
    """Read raw frames from a pipe as they arrive."""
    options = {**_NO_RATE_PROBE, **raw.options(), "probesize": "32"}
    source = _ReplayableStream(stream)
    source.forget()
    return PyavReader(source, name, has_times=False, options=options, container="rawvideo")


def _container(stream: ByteStream) -> str | None:
    """FFmpeg's name of a stream's format, by its first bytes; None if unknown."""
    start = stream.peek(16)
    if start[4:8] == b"ftyp":
        return "mp4"
    if start[:1] == b"G" and stream.at(_TS_PACKET) == start[0]:
        return "mpegts"
    return next((name for mark, name in _CONTAINERS.items() if start.startswith(mark)), None)


def _readable(stream: ByteStream, name: str) -> _ReplayableStream | io.BytesIO:
    """The stream; if its index comes last, a file in memory."""
    if not _has_its_index_last(stream):
        return _ReplayableStream(stream)
    data = stream.read(MOST_KEPT + 1)
    if len(data) > MOST_KEPT:
        raise MediaError(
            f"{name} is an MP4 video with its index at the end, and of more than "
            f"{MOST_KEPT >> 20} MiB: it can't be decoded as it comes.",
            hint="write it with -movflags +faststart, or as -f matroska; or give the file's path",
        )
    return io.BytesIO(data)


def _has_its_index_last(stream: ByteStream) -> bool:
    """Whether an MP4's frames (mdat) precede its index (moov)."""
    position = 0
    while (head := stream.peek(position + 16)[position:]) and head[4:8] in _BOXES:
        if head[4:8] in (b"moov", b"mdat"):
            return head[4:8] == b"mdat"
        size = int.from_bytes(head[:4], "big")
        if size < 8 or position + size > 1 << 20:
            return False
        position += size
    return False


class _ReplayableStream:
    """A non-blocking view of a stream, which can be rewound until `forget` is called.

    total: number of bytes read; framing: checks their structure; is_over: whether it has ended.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self.total = 0
        self.framing, self.is_over = PipedFraming(), False
        self._kept, self._keeps = bytearray(), True
        self._again = io.BytesIO()

    def read(self, count: int) -> bytes:
        """Available bytes, at most `count`; b"" at the end."""
        data = self._again.read(count)
        if not data:
            data = self._stream.read_some(count)
            self.total += len(data)
            self.framing.feed(data)
            self.is_over = not data
            self._kept += data if self._keeps else b""
        return data

    def rewind(self) -> None:
        """Start again from the first byte."""
        self._again = io.BytesIO(bytes(self._kept))

    def forget(self) -> None:
        """Stop buffering; no more rewinding."""
        self._keeps = False
