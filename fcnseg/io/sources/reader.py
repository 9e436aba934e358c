"""Base class of video decoders; description of raw video."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, MissingExtra, OptionError
from fcnseg.files import utf8_name
from fcnseg.io import has_pyav
from fcnseg.io.content.profiles import HDR
from fcnseg.io.sources.damage import PipedFraming

_FASTEST = 480  # frames/s; a higher stated rate is a time base

USUAL_RATE = Fraction(25)

BROKEN_PACKETS = 300
"""Maximum consecutive broken frames that are skipped before reading ends."""

MISSING_FRACTION = 0.1
"""Relative error of an estimated frame count up to which no frames count as missing."""

_NUMBERS_NAMED = 5

COVER = 0x400  # a stream's disposition, FFmpeg's AV_DISPOSITION_ATTACHED_PIC

_LATE = 0.2  # seconds without a frame at the start that frame reordering does not explain


class FrameReader(ABC):
    """The frames of a video, upright, in order, with times: `with open_video(path) as reader`.

    path: its name in messages.
    fps: frame rate as a fraction (30000/1001 for 29.97).
    has_times: whether frames have timestamps; False for raw streams (.h264, .hevc, .m2v, .mjpeg).
    states_rate: whether fps comes from the file.
    count: number of frames stated by the file (an estimate), or None.
    aspect: pixel aspect ratio, width over height, when upright.
    read: number of frames decoded so far; index: the last one's number in the file, including
        broken frames.
    broken: numbers of frames that could not be decoded.
    note: information for the user about colors and streams; "" for none.
    clock: for each segment between two jumps of the file's clock, the timestamp in seconds that
        corresponds to time 0; it grows as frames are read.
    has_sound: whether the file is known to have sound.
    """

    path: str | Path
    fps: Fraction
    has_times = True
    states_rate = True
    count: int | None = None
    aspect = Fraction(1)
    note = ""
    has_sound = False

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.clock: list[float] = []
        self.read, self.index = 0, -1
        self.broken: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """Yield (uint8 (H, W, 3) RGB, seconds since the first frame)."""
        while (time := self.grab()) is not None:
            image = self.retrieve()
            if image is not None:
                yield image, time

    @abstractmethod
    def grab(self) -> float | None:
        """Advance to the next frame; return its time in seconds, or None at the end."""

    @abstractmethod
    def retrieve(self) -> NDArray[np.uint8] | None:
        """The current frame, uint8 (H, W, 3) RGB; None if it can't be decoded."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def missing(self) -> int:
        """After the last frame: number of frames stated by the file that are missing."""

    def damage(self) -> str:
        """After the last frame: where the file is truncated or damaged; "" if not known to be."""
        return ""

    def damage_found(self) -> str:
        """After the last frame: a description of broken and missing frames; "" for none."""
        notes = []
        if self.broken:
            numbers = ", ".join(map(str, self.broken[:_NUMBERS_NAMED]))
            more = len(self.broken) - _NUMBERS_NAMED
            numbers += f" and {more} more" if more > 0 else ""
            notes.append(f"broken, could not be decoded: frame {numbers}")
        if missing := self.missing():
            end = f"it is truncated after frame {self.index}"
            notes.append(f"{missing} of {self.count} frames are missing: {end}")
        if not notes and (damage := self.damage()):
            notes.append(damage)
        return "; ".join(notes)


class Readable(Protocol):
    """A stream that PyAV can read.

    total: number of bytes read so far; framing: checks their structure; is_over: whether it has
    ended.
    """

    total: int
    framing: PipedFraming
    is_over: bool

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`; b"" at the end."""


_REORDERED = 4
"""Number of frames at the end of a video among which the last coded one may be."""

_TO_KEY = 4
"""Maximum packets from a break in the count to the key frame of an appended recording."""

_ONE_FRAME_A_PACKET = {"hevc", "av1", "libdav1d"}


class Losses:
    """Losses that FFmpeg flags and skips.

    packet: number of a packet before which others are missing; None if not known to be.
    """

    def __init__(self) -> None:
        self.packet: int | None = None
        self._packets = self._frames = 0
        self._concealed = -2 * _REORDERED

    def note_packet(self, packet: Any) -> None:
        """Record a packet: flagged as corrupt if packets before it are missing, but also where
        another recording was appended."""
        if packet.is_keyframe and self.packet is not None and self._packets - self.packet < _TO_KEY:
            self.packet = None
        elif packet.is_corrupt and self.packet is None:
            self.packet = self._packets
        self._packets += 1

    def note_frame(self, frame: Any) -> None:
        """Record a frame, which may contain concealed errors."""
        if frame.is_corrupt:
            self._concealed = self._frames
        self._frames += 1

    def is_torn(self, decoder: str) -> bool:
        """After the last frame: whether it was incomplete; decoder: of a raw stream, else ""."""
        lost = decoder in _ONE_FRAME_A_PACKET and self._packets > self._frames
        return lost or self._concealed >= self._frames - _REORDERED


def notes_on(file: Any, stream: Any, frame: Any, first: float | None) -> str:
    """Information for the user about a file opened by PyAV: other video streams, a start that can't
    be decoded, HDR; "" for none. frame: the first decoded one; first: its timestamp in seconds.
    """
    notes = []
    count = sum(not other.disposition & COVER for other in file.streams.video)
    if count > 1:
        notes.append(f"it has {count} video streams; only stream {stream.index} is read")
    if first is not None and stream.start_time is not None and stream.time_base:
        late = first - float(stream.start_time * stream.time_base)
        if late > _LATE:
            notes.append(f"its first {late:.2f} s have no key frame and can't be decoded")
    if transfer := HDR.get(int(frame.color_trc)):
        notes.append(f"HDR ({transfer}) is tone-mapped to 8 bits")
    return "; ".join(notes)


class NoVideoError(MediaError):
    """The input is not a video of a known format."""


def no_video(path: str | Path) -> NoVideoError:
    """The error for an input that is not a video."""
    return NoVideoError(
        f"{path} is not a video that can be read.",
        hint="the file may be truncated, or of a kind FFmpeg does not know",
    )


def readable_name(address: str) -> AbstractContextManager[str]:
    """A name that FFmpeg can open; only needed until the file is open."""
    return nullcontext(address) if "://" in address else utf8_name(Path(address))


def is_elementary(start: bytes) -> bool:
    """Whether data with these first bytes is an elementary stream: no container, no timestamps.

    MPEG-2, MPEG-4, H.264 and H.265 begin with a start code (that of a pack is a program stream, a
    container), MJPEG with an image, AV1 with a temporal delimiter.
    """
    code = start.startswith((b"\0\0\1", b"\0\0\0\1")) and not start.startswith(b"\0\0\1\xba")
    return code or start.startswith((b"\xff\xd8\xff", b"\x12\0\x0a"))


def rate_of(times: list[float]) -> Fraction:
    """The mean frame rate of these times in seconds; 25 if it can't be computed."""
    elapsed = times[-1] - times[0] if times else 0.0
    return usable_rate((len(times) - 1) / elapsed) or USUAL_RATE if elapsed > 0 else USUAL_RATE


def usable_rate(fps: float) -> Fraction | None:
    """A rate as a fraction with a denominator of at most 1001 if possible; None if invalid."""
    if not math.isfinite(fps) or not 0 < fps <= _FASTEST:
        return None
    rate = Fraction(fps).limit_denominator(1001)
    return rate if rate > 0 else Fraction(fps).limit_denominator(10**6)


@dataclass(frozen=True)
class RawVideo:
    """Format of raw video: size (width, height) and FFmpeg's name of the pixel format."""

    size: tuple[int, int]
    pix_fmt: str

    @classmethod
    def of(cls, video_size: str | None, pix_fmt: str | None) -> RawVideo:
        """From the options; OptionError for invalid ones."""
        if video_size is None or pix_fmt is None:
            raise OptionError(
                "Raw video needs both its size and its pixel format.",
                hint="--video-size 640x480 --pix-fmt rgb24 (and --fps)",
            )
        found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", video_size)
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(size):
            raise OptionError(
                f"--video-size is WIDTHxHEIGHT in pixels; found {video_size!r}.", hint="640x480"
            )
        return cls(size, _known_format(pix_fmt))

    def options(self) -> dict[str, str]:
        """Options of FFmpeg's demuxer `rawvideo`."""
        return {"video_size": "{}x{}".format(*self.size), "pixel_format": self.pix_fmt}


def _known_format(name: str) -> str:
    if not has_pyav():
        raise MissingExtra("Decoding raw video", "video")
    import av

    try:
        return str(av.VideoFormat(name).name)
    except ValueError:
        raise OptionError(
            f"FFmpeg knows no pixel format {name!r}.",
            hint="rgb24, bgr24, gray, yuv420p, nv12 ...; `ffmpeg -pix_fmts` lists them",
        ) from None
