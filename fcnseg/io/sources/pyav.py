"""Decode video frames with PyAV.

Interlaced frames are deinterlaced (bwdif), transparency is composited over white, HDR (PQ and HLG)
is tone-mapped, the display matrix is applied. Other color profiles are ignored.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import io
import itertools
import math
from array import array
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.io.sources.damage import damage_in, find_damage
from fcnseg.io.sources.reader import (
    COVER,
    USUAL_RATE,
    FrameReader,
    Losses,
    Readable,
    no_video,
    notes_on,
    rate_of,
    readable_name,
    usable_rate,
)
from fcnseg.io.sources.rgb_frames import RgbConverter, deinterlaced

_TIMEOUT = 8.0  # seconds without data from a server
_DEMUX_ERRORS = 10  # consecutive errors without a packet that end reading
_MEASURED = 25  # packets used to measure a frame rate
_CLOSED = {"yuv4mpegpipe", "rawvideo"}  # formats without data after the last frame
_INDEXED = {"mov", "mp4", "avi"}  # formats with an index of all frames
_NUMBERED = {"avi", "mxf"}  # formats whose packets FFmpeg may number in coding order
_JUMPING = {"mpegts", "mpeg"}  # formats whose clock may restart, or wrap after 26.5 hours
_MOST_AHEAD = 3600.0  # maximum seconds between two of their frames
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class _UndecodableError(Exception):
    """Threaded decoding failed; only a single thread can identify the packet."""


class PyavReader(FrameReader):
    """The frames of a file, a URL or a pipe; see `FrameReader`.

    source: an absolute path, a URL or a pipe; path: its name in messages. has_times: False for raw
    streams. options: for FFmpeg; container: FFmpeg's name of the format, if known.
    is_live: a URL whose frames are returned as they arrive, like those of a pipe.
    is_described: whether size and pixel format are known before the first frame.
    was_cut: whether reading ended with an error.
    MediaError if it is not a video.
    """

    def __init__(
        self,
        source: str | Readable | io.BytesIO,
        path: str | Path,
        *,
        has_times: bool = True,
        options: dict[str, str] | None = None,
        container: str | None = None,
        is_live: bool = False,
    ) -> None:
        super().__init__(path)
        import av

        self._av: Any = av
        self._source, self._container = source, container
        is_web = isinstance(source, str) and source.lower().startswith(("http://", "https://"))
        # A file on a web server is resumed after a lost connection.
        resumed = {"reconnect": "1", "reconnect_delay_max": "4"} if is_web and not is_live else {}
        self._options = {**resumed, **(options or {})}
        self._is_live, self._is_pipe = is_live, is_live or not isinstance(source, str)
        self.was_cut, self.has_times = False, has_times
        self._open(threads=0)
        self.is_described = bool(self._decoder.width and self._decoder.pix_fmt)
        rate = self._stated_rate()
        self.states_rate = rate is not None or (has_times and not self._is_pipe)
        self.fps = rate or self._measured_rate()
        self._promised = self._indexed()
        self.count = self._promised or self._estimated_count()
        self.aspect = Fraction(self._video.sample_aspect_ratio or 1) or Fraction(1)
        self._packets = 0
        self._end = 0  # offset of the end of the last packet
        self._losses = Losses()
        self._gaps: list[int | None] = []  # timestamps of broken frames
        self._places = array("q")  # offset of each packet in the file
        self._stamps: list[int] = []  # a heap of packet numbers, for formats in _NUMBERED
        self._converter = RgbConverter()
        self._frames = self._decoded()
        # A file's first frame is decoded now, for its orientation and HDR; a pipe may be live.
        self._frame: Any = None if self._is_pipe else next(self._frames, None)
        self._is_ahead = not self._is_pipe
        self._last = 0.0
        self._most_ahead = _MOST_AHEAD if self.container_name in _JUMPING else math.inf
        self.has_sound = bool(self._file.streams.audio)
        self._describe()

    def grab(self) -> float | None:
        """Advance to the next frame; return its time in seconds, or None at the end."""
        if not self._is_ahead:
            self._frame = next(self._frames, None)
        self._is_ahead = False
        if self._frame is None:
            return None
        pts = self._frame.pts
        before = sum(gap is None or pts is None or gap < pts for gap in self._gaps)
        self.index = max(self.index + 1, self.read + before)
        self.read += 1
        self._last = self._time()
        return self._last

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The current frame, uint8 (H, W, 3) RGB, upright; None if it can't be converted."""
        try:
            return self._converter.to_rgb(self._frame)
        except (self._av.FFmpegError, ValueError):
            self.broken.append(self.index)
            return None

    @property
    def stamp(self) -> float | None:
        """The timestamp of the current frame in seconds; None if it has none."""
        base = self._frame.time_base or self._video.time_base
        return None if self._frame.pts is None or not base else float(self._frame.pts * base)

    @property
    def container_name(self) -> str:
        """FFmpeg's name of the container."""
        return str(self._file.format.name)

    def close(self) -> None:
        """Close the file."""
        self._frames.close()
        self._file.close()

    def missing(self) -> int:
        """Number of frames in the file's index that are missing."""
        return max(0, (self._promised or 0) - self._packets)

    def damage(self) -> str:
        """A description of damage between frames; "" for none."""
        if self._is_pipe:
            return f"it is truncated after frame {self.index}" if self._is_cut_pipe() else ""
        if "://" in str(self._source):
            return ""
        place, last = self._damaged_at, self._losses.packet
        if place is not None:
            last = bisect.bisect_left(self._places, place) - 1
        if self._is_torn or (last is not None and last >= len(self._places) - 1):
            return f"it is truncated after frame {self.index}"
        if last is None:
            return ""
        return f"the file is damaged after frame {last}; frames may be missing there"

    def _is_cut_pipe(self) -> bool:
        """Whether a pipe ended too early."""
        source = self._source
        if isinstance(source, io.BytesIO):
            return damage_in(source.getvalue()) is not None
        if isinstance(source, str):
            return False
        within = self._is_torn or (self.container_name in _CLOSED and source.total > self._end)
        return within or (source.is_over and source.framing.is_cut)

    @property
    def _is_torn(self) -> bool:
        return self._losses.is_torn("" if self.has_times else self._decoder.name)

    @functools.cached_property
    def _damaged_at(self) -> int | None:
        return find_damage(Path(str(self._source)))

    # --- opening ---

    def _open(self, *, threads: int) -> None:
        """Open the file and its best video stream; cover art does not count."""
        av = self._av
        try:
            self._file = self._opened()
        except (av.FFmpegError, ValueError):
            raise no_video(self.path) from None
        self._video: Any = self._file.streams.best("video")
        is_cover = self._video is not None and bool(self._video.disposition & COVER)
        if self._video is None or is_cover or self._video.codec_context is None:
            sound = bool(self._file.streams.audio)
            self._file.close()
            if sound:
                raise MediaError(f"{self.path} has sound, but no video stream.")
            raise no_video(self.path)
        self._decoder = self._video.codec_context
        if self._video.metadata.get("alpha_mode") == "1" and self._decoder.name in _ALPHA_DECODERS:
            # FFmpeg's native decoder ignores opacity.
            self._decoder = av.CodecContext.create(_ALPHA_DECODERS[self._decoder.name], "r")
        if not self._is_pipe:
            self._decoder.thread_count = threads
        # Frame threading delays frames, which is unsuitable for live pipes. It also returns a frame
        # before it is known to be incomplete, the only sign of a truncated raw stream.
        by_slice = self._is_pipe or not self.has_times
        self._decoder.thread_type = "SLICE" if by_slice else "AUTO"
        self._threads = threads

    def _opened(self) -> Any:
        source = self._source
        more = {"options": self._options, "format": self._container, "metadata_errors": "replace"}
        if not isinstance(source, str):
            return self._av.open(source, **more)
        timeout = _TIMEOUT if "://" in source else None
        with readable_name(source) as name:
            return self._av.open(name, timeout=timeout, **more)

    def _stated_rate(self) -> Fraction | None:
        """The frame rate from a raw stream's header, else from the container."""
        video = self._video
        rates = [video.codec_context.framerate]
        if self.has_times:
            rates = [video.average_rate, *rates, video.guessed_rate]
        return next(filter(None, (usable_rate(float(rate)) for rate in rates if rate)), None)

    def _measured_rate(self) -> Fraction:
        """The frame rate from the times of a file's first packets; 25 if they have none."""
        if self._is_pipe or not self.has_times:
            return USUAL_RATE
        with self._opened() as file:
            packets = itertools.islice(file.demux(file.streams.best("video")), _MEASURED)
            times = [float(p.pts * p.time_base) for p in packets if p.pts is not None]
        return rate_of(sorted(times))

    def _indexed(self) -> int | None:
        """Number of frames in the index after edit lists; None without a complete index."""
        names = set(self._file.format.name.split(","))
        if self._is_pipe or not self._video.frames or not names & _INDEXED:
            return None
        return len(getattr(self._video, "index_entries", None) or ()) or None

    def _estimated_count(self) -> int | None:
        if self._is_pipe or not self.has_times:
            return None
        if self._video.frames:
            return int(self._video.frames)
        seconds = (self._file.duration or 0) / self._av.time_base
        if self._video.duration:
            seconds = float(self._video.duration * self._video.time_base)
        return round(seconds * self.fps) or None

    def _describe(self) -> None:
        """Set properties that the first frame defines: the aspect ratio and notes."""
        if self._frame is None:
            return
        a, b, _, _ = self._converter.display_matrix(self._frame)
        self.aspect = 1 / self.aspect if abs(a) < abs(b) else self.aspect
        self.note = notes_on(self._file, self._video, self._frame, self.stamp)

    # --- decoding ---

    def _decoded(self) -> Generator[Any, None, None]:
        """Yield deinterlaced frames; those that can't be decoded are skipped and counted."""
        given = 0
        try:
            for frame in deinterlaced(self._attempt(), self._video.time_base):
                given += 1
                yield frame
            # Decoding with threads silently loses frames before a truncated end.
            if self._is_pipe or not (self.missing() or self.damage()):
                return
        except _UndecodableError:
            pass
        self._file.close()
        self._open(threads=1)
        self._packets, self._losses = 0, Losses()
        del self._places[:], self._stamps[:]
        yield from itertools.islice(
            deinterlaced(self._attempt(), self._video.time_base), given, None
        )

    def _attempt(self) -> Iterator[Any]:
        name = self._file.format.name
        guessed = name in _NUMBERED
        for packet in self._demuxed():
            if name == "mxf" and packet is not None and packet.pts != packet.dts:
                guessed = False  # the file has an index with the order
            if guessed and packet is not None and packet.pts is not None:
                heapq.heappush(self._stamps, packet.pts)
            try:
                for frame in self._decoder.decode(packet):
                    if self._stamps:
                        frame.pts = heapq.heappop(self._stamps)
                    self._losses.note_frame(frame)
                    yield frame
            except self._av.FFmpegError:
                if self._threads != 1 and not self._is_pipe:
                    raise _UndecodableError from None
                if packet is not None and packet.size:
                    self._gaps.append(packet.pts)
                    if packet.pts in self._stamps:
                        self._stamps.remove(packet.pts)
                        heapq.heapify(self._stamps)
                    self.broken.append(self._packets - 1)

    def _demuxed(self) -> Iterator[Any]:
        """Yield the packets of the stream, then None; damage between packets is skipped."""
        failed = 0
        while failed < _DEMUX_ERRORS:
            try:
                for packet in self._file.demux(self._video):
                    if packet.size:
                        failed, self.was_cut = 0, False
                        if not self._packets:
                            self._converter.note_first(self._decoder.name, packet)
                        self._packets += 1
                        before = self._places[-1] if self._places else 0
                        self._places.append(before if packet.pos is None else packet.pos)
                        self._end = self._places[-1] + packet.size
                        self._losses.note_packet(packet)
                        yield packet
                break
            except (self._av.FFmpegError, IndexError) as error:  # IndexError: an unlisted stream
                failed, self.was_cut = failed + 1, True
                if self._is_live and not isinstance(error, self._av.InvalidDataError):
                    break  # the connection is lost; damage would be skipped
        yield None

    # --- timestamps ---

    def _time(self) -> float:
        """Seconds since the first frame; continuous when the clock restarts."""
        step = 1 / float(self.fps)
        if not self.has_times:
            return self.index * step
        stamp = self.stamp
        if stamp is None:
            return self._last + step if self.read > 1 else 0.0
        if not self.clock:
            self.clock.append(stamp)
        ahead = stamp - self.clock[-1] - self._last
        if not -step <= ahead <= self._most_ahead:
            self.clock.append(stamp - self._last - step)
        return max(stamp - self.clock[-1], self._last)
