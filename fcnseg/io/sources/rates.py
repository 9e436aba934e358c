"""Frame rates: what a stream states, and what is assumed where it states none."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

from fcnseg.io.encoders import has_pyav

_FASTEST = 480  # frames/s; what a file claims beyond that is a time base, not a rate


USUAL_RATE = Fraction(25)


def read_start(path: str | Path) -> bytes:
    """A file's first bytes."""
    with Path(path).open("rb") as file:
        return file.read(16)


def is_elementary(start: bytes) -> bool:
    """Whether what begins so is a coded stream without a container, which has no times.

    MPEG-2, MPEG-4, H.264 and H.265 begin with a start code (a program stream, a container, with
    that of a pack), MJPEG with an image, AV1 with a temporal delimiter.
    """
    code = start.startswith((b"\0\0\1", b"\0\0\0\1")) and not start.startswith(b"\0\0\1\xba")
    return code or start.startswith((b"\xff\xd8\xff", b"\x12\0\x0a"))


def header_rate(path: str) -> Fraction | None:
    """The rate in a coded stream's own header; None where it says none, or without PyAV."""
    if not has_pyav():
        return None
    import av

    try:
        with av.open(path) as file:
            rate = file.streams.video[0].codec_context.framerate
    except (av.FFmpegError, IndexError):
        return None
    return usable_rate(float(rate)) if rate else None


def usable_rate(fps: float) -> Fraction | None:
    """A rate as a fraction with the denominators in use (1, 2, 1001 ...); None if it can't be."""
    if not math.isfinite(fps) or not 0 < fps <= _FASTEST:
        return None
    rate = Fraction(fps).limit_denominator(1001)
    return rate if rate > 0 else Fraction(fps).limit_denominator(10**6)
