"""What every decoder of a video is, and what it has to be told of raw frames."""

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

_FASTEST = 480  # frames/s; what a file claims beyond that is a time base, not a rate

USUAL_RATE = Fraction(25)

BROKEN_PACKETS = 300
"""So many broken frames in a row are skipped; more are the end."""

MISSING_FRACTION = 0.1
"""A count that is only estimated may be wrong by this before frames count as missing."""

_NUMBERS_NAMED = 5

COVER = 0x400  # a stream's disposition, FFmpeg's AV_DISPOSITION_ATTACHED_PIC

_LATE = 0.2  # seconds without a frame at the start, which the order of frames does not explain


class FrameReader(ABC):
    """The frames of a video, upright, in order, with their times: `with open_video(path) as it`.

    path: what messages call it.
    fps: frames a second, as a fraction (30000/1001 for 29.97).
    has_times: False for a raw stream (.h264, .hevc, .m2v, .mjpeg): its frames have none.
    states_rate: whether fps comes from the file.
    count: how many frames the file says it has (an estimate), or None.
    aspect: width of a pixel, seen upright, over its height.
    read: how many have been decoded so far; index: the last one's number in the file, which
        counts those that are broken.
    broken: numbers of the frames that could not be decoded.
    note: what the user should know of what is read: colors, streams; "" for nothing.
    clock: the file's seconds where its frames' are 0, one for each stretch between two jumps of
        its clock; it grows as frames are read.
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
        """(uint8 (H, W, 3) RGB, seconds since the first frame)."""
        while (time := self.grab()) is not None:
            image = self.retrieve()
            if image is not None:
                yield image, time

    @abstractmethod
    def grab(self) -> float | None:
        """Step to the next frame: its time in seconds; None at the end."""

    @abstractmethod
    def retrieve(self) -> NDArray[np.uint8] | None:
        """The frame stepped to, uint8 (H, W, 3) RGB; None when it can't be decoded."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    @abstractmethod
    def missing(self) -> int:
        """After the last frame: how many the file promises that are not in it."""

    def damage(self) -> str:
        """After the last frame: where the file itself is cut or damaged; "" for nothing known."""
        return ""

    def damage_found(self) -> str:
        """After the last frame: what could not be decoded, with its numbers; "" for nothing."""
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
    """What PyAV reads from.

    total: how many bytes it has given so far; framing: what they say of their own length;
    is_over: whether there are no more.
    """

    total: int
    framing: PipedFraming
    is_over: bool

    def read(self, count: int) -> bytes:
        """At least one byte and at most `count`; b"" at the end."""


_REORDERED = 4
"""Frames at the end of a video, of which any may be the one that is coded last."""

_TO_KEY = 4
"""Packets from where a recording's count breaks to the key frame of the next one, joined to it."""

_ONE_FRAME_A_PACKET = {"hevc", "av1", "libdav1d"}


class Losses:
    """What FFmpeg says of parts that are missing, which it skips.

    packet: the number of one before which others are missing; None for nothing known.
    """

    def __init__(self) -> None:
        self.packet: int | None = None
        self._packets = self._frames = 0
        self._concealed = -2 * _REORDERED

    def note_packet(self, packet: Any) -> None:
        """The next packet: it says whether some are missing, as where another recording begins."""
        if packet.is_keyframe and self.packet is not None and self._packets - self.packet < _TO_KEY:
            self.packet = None
        elif packet.is_corrupt and self.packet is None:
            self.packet = self._packets
        self._packets += 1

    def note_frame(self, frame: Any) -> None:
        """The next frame, some of which may be made up."""
        if frame.is_corrupt:
            self._concealed = self._frames
        self._frames += 1

    def is_torn(self, decoder: str) -> bool:
        """After the last: whether its image was incomplete; decoder: of a raw stream."""
        lost = decoder in _ONE_FRAME_A_PACKET and self._packets > self._frames
        return lost or self._concealed >= self._frames - _REORDERED


def notes_on(file: Any, stream: Any, frame: Any, first: float | None) -> str:
    """What the user should know of a file opened by PyAV: other video streams, a start that can't
    be decoded, HDR; "" for nothing. frame: the first one decoded; first: the seconds it states.
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
    """What was given is no video of a known kind."""


def no_video(path: str | Path) -> NoVideoError:
    """The error for what is not a video."""
    return NoVideoError(
        f"{path} is not a video that can be read.",
        hint="the file may be truncated, or of a kind FFmpeg does not know",
    )


def readable_name(address: str) -> AbstractContextManager[str]:
    """What FFmpeg can open; an open file needs its name no more."""
    return nullcontext(address) if "://" in address else utf8_name(Path(address))


def is_elementary(start: bytes) -> bool:
    """Whether what begins so is a coded stream without a container, which has no times.

    MPEG-2, MPEG-4, H.264 and H.265 begin with a start code (a program stream, a container, with
    that of a pack), MJPEG with an image, AV1 with a temporal delimiter.
    """
    code = start.startswith((b"\0\0\1", b"\0\0\0\1")) and not start.startswith(b"\0\0\1\xba")
    return code or start.startswith((b"\xff\xd8\xff", b"\x12\0\x0a"))


def rate_of(times: list[float]) -> Fraction:
    """The mean rate of frames at these seconds; the usual 25 where they tell none."""
    elapsed = times[-1] - times[0] if times else 0.0
    return usable_rate((len(times) - 1) / elapsed) or USUAL_RATE if elapsed > 0 else USUAL_RATE


def usable_rate(fps: float) -> Fraction | None:
    """A rate as a fraction with the denominators in use (1, 2, 1001 ...); None if it can't be."""
    if not math.isfinite(fps) or not 0 < fps <= _FASTEST:
        return None
    rate = Fraction(fps).limit_denominator(1001)
    return rate if rate > 0 else Fraction(fps).limit_denominator(10**6)


@dataclass(frozen=True)
class RawVideo:
    """What raw frames are: their size (width, height) and FFmpeg's name of their pixels' format."""

    size: tuple[int, int]
    pix_fmt: str

    @classmethod
    def of(cls, video_size: str | None, pix_fmt: str | None) -> RawVideo:
        """As the options say; OptionError for what can't be."""
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
        """What FFmpeg's demuxer `rawvideo` takes."""
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
