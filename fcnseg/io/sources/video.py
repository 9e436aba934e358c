"""Video files: every frame in order, at its time, none left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, OptionError
from fcnseg.files import safe_path, utf8_name
from fcnseg.io.opencv import cv2
from fcnseg.io.sources.base import Frame, Kind, Selection, Source
from fcnseg.io.sources.files import Skip, nothing
from fcnseg.io.sources.rates import USUAL_RATE, header_rate, is_elementary, read_start, usable_rate
from fcnseg.io.sources.streamed import StreamReader
from fcnseg.progress import Callback, Message, no_callback

_BROKEN_PACKETS = 300
"""So many broken frames in a row are passed over; more are the end."""


class VideoReader:
    """The frames of a video file, upright, in order, with their times.

    fps: frames a second, as a fraction (30000/1001 for 29.97); measured when the file's own
        figure can't be.
    has_times: False for a raw stream (.h264, .hevc, .m2v, .mjpeg): its frames have none.
    states_rate: whether fps comes from the file; for a raw stream its header says it to PyAV.
    count: how many frames the file says it has (an estimate), or None.
    read: how many have been decoded so far; index: the last one's number in the file, which
        counts those that are broken.
    MediaError when the file can't be opened or has no frame.
    """

    def __init__(self, path: str | Path) -> None:
        # The absolute path: FFmpeg takes "a:b.mp4" for a protocol. An address stays as it is.
        self._address = str(path) if "://" in str(path) else str(Path(path).absolute())
        self.path = path
        if "://" not in self._address and not Path(path).is_file():
            raise MediaError(f"There is no file {path}.", hint="check the path")
        self._capture = self._open()
        start = b"" if "://" in self._address else read_start(path)
        self.has_times = not is_elementary(start)
        stated = None if self.has_times else self._header_rate()
        self.states_rate = self.has_times or stated is not None
        self.fps = stated or usable_rate(self._capture.get(cv2.CAP_PROP_FPS)) or self._measure_fps()
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = round(count) if 0 < count < 2**40 else None
        self.read = 0
        self.index = -1
        # Asking on past the end of a file costs nothing; a dead server makes each try wait.
        self._tries = 0 if "://" in self._address else _BROKEN_PACKETS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """(uint8 (H, W, 3) RGB, seconds since the first frame)."""
        while (time := self.grab()) is not None:
            image = self.retrieve()
            if image is not None:
                yield image, time

    def grab(self) -> float | None:
        """Step to the next frame: its time in seconds; None at the end."""
        failed = 0
        while not self._capture.grab():  # at the end, or at a packet that is broken
            failed += 1
            if failed > self._tries:
                return None
        self.index += 1 + failed
        self.read += 1
        if not self.has_times:
            return float(self.index / self.fps)
        time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return time if time > 0 or self.index == 0 else float(self.index / self.fps)

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The frame stepped to, uint8 (H, W, 3) RGB; None when it can't be decoded."""
        done, pixels = self._capture.retrieve()
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8) if done else None

    def lost(self) -> int:
        """After the last frame: how many were broken, or promised by the file and not there.

        One frame more or less is the rounding of formats that only store a duration.
        """
        broken = self.index + 1 - self.read
        missing = (self.count or 0) - self.read
        return missing if missing > 1 else broken

    def _open(self) -> cv2.VideoCapture:
        with self._readable_name() as name:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise MediaError(
                f"{self.path} is not a video that can be read.",
                hint="the file may be cut short, or of a kind FFmpeg does not know",
            )
        return capture

    def _readable_name(self) -> AbstractContextManager[str]:
        """What FFmpeg can open; an open file needs its name no more."""
        if "://" in self._address:
            return nullcontext(self._address)
        return utf8_name(Path(self._address))

    def _header_rate(self) -> Fraction | None:
        with self._readable_name() as name:
            return header_rate(name)

    def _measure_fps(self) -> Fraction:
        """From the times of the first frames; the usual 25 when they have none."""
        times: list[float] = []
        while len(times) < 25 and self._capture.grab():
            times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        self._capture.release()
        self._capture = self._open()
        elapsed = times[-1] - times[0] if times else 0.0
        return usable_rate((len(times) - 1) / elapsed) or USUAL_RATE if elapsed > 0 else USUAL_RATE


def count_packets(path: Path) -> int:
    """How many frames a video holds, counted in its container; needs PyAV."""
    import av

    with utf8_name(path) as name, av.open(name) as file:
        return sum(packet.size > 0 for packet in file.demux(video=0))


def count_by_decoding(path: Path) -> int:
    """How many frames of a video can be decoded."""
    with VideoReader(path) as reader:
        while reader.grab() is not None:
            pass
        return reader.read


_BROKEN_SHARE = 0.1
"""A video that lacks more of its frames than this has failed; below, it is worth a note."""


class VideoFile(Source):
    """The frames of a video file, in order, none left out.

    Of several processes each reads from the start, so that frame k is the same for all of them
    whatever the file says of its times: it decodes what is before its piece without a look.
    name: what outputs are called, "/" between folders. several: one of several videos, which
    is noted in `failures` when it can't be read.
    """

    kind: Kind = "video"

    def __init__(
        self,
        path: str | Path,
        selection: Selection,
        callback: Callback = no_callback,
        name: str = "",
        skip: Skip = nothing,
        *,
        reader: VideoReader | StreamReader | None = None,
        several: bool = False,
    ) -> None:
        super().__init__()
        self.path, self._several = path, several
        self.sound = self.file = None if "://" in str(path) else Path(path)
        self.name = name or Path(path).stem
        self._reader = reader or VideoReader(path)
        self._selection, self._callback, self._skip = selection, callback, skip
        self.fps = self._reader.fps / selection.every
        self._whole = self._estimate()
        self.count = None if self._whole is None else selection.share(self._whole)

    def assume_rate(self, fps: Fraction) -> None:
        """Count the time by `fps`; OptionError for a file that has times."""
        if self._reader.has_times:
            raise OptionError(
                f"--fps is for what states no rate; {self.path} has its own, "
                f"{float(self._reader.fps):g} frames/s.",
                hint="leave --fps away",
            )
        self._reader.fps, self._reader.states_rate = fps, True
        self.fps = fps / self._selection.every

    def __iter__(self) -> Iterator[Frame]:
        try:
            yield from self._frames()
        except MediaError as error:
            if not self._several:
                raise
            self.failures.append((str(self.path), error.message))

    def _frames(self) -> Iterator[Frame]:
        selection = self._selection
        if not self._reader.states_rate:
            said = f"{float(self._reader.fps):g} frames/s are assumed (--fps changes that)"
            self._callback(Message(f"{self.path} states no rate; {said}"))
        with self._reader as reader:
            for position, time in enumerate(self._wanted()):
                owner = selection.owner(position, self._whole)
                if owner > selection.rank and self._whole is not None:
                    return  # the pieces after this one are others'
                if owner != selection.rank:
                    continue
                name = f"{safe_path(self.name)}_{reader.index:06d}"
                if self.file is not None and self._skip(name, self.file):
                    self.skipped += 1
                    continue
                image = reader.retrieve()
                if image is not None:
                    self.taken += 1
                    yield Frame(image, reader.index, time, name)

    def _wanted(self) -> Iterator[float]:
        """Step to each frame that is wanted, whoever takes it: its time in seconds."""
        selection, reached = self._selection, 0
        while not self._over and not selection.is_full(selection.of(reached)):
            time = self._reader.grab()
            if time is None:
                self._account(reached)
                return
            if selection.end is not None and time >= selection.end:
                return
            if time < selection.start:
                continue
            reached += 1
            if (reached - 1) % selection.every == 0:
                yield time

    def _estimate(self) -> int | None:
        count, fps = self._reader.count, float(self._reader.fps)
        if count is None:
            return None
        last = count if self._selection.end is None else math.ceil(self._selection.end * fps)
        first = math.ceil(self._selection.start * fps)
        return self._selection.of(max(0, min(count, last) - first))

    def _account(self, reached: int) -> None:
        """At the end of the file: was all there that it promised?

        reached: frames from the start that was asked for on.
        """
        reader = self._reader
        if not reader.read:
            raise MediaError(f"{self.path} has no frame that can be decoded.")
        if not reached and self._selection.start:
            length = float(reader.read / reader.fps)
            raise MediaError(
                f"{self.path} is {length:.1f} s long; nothing is left from "
                f"{self._selection.start:g} s on."
            )
        lost = reader.lost()
        said = f"{lost} of {reader.count} frames are missing or broken"
        if lost > _BROKEN_SHARE * (reader.count or 0):
            self.failures.append((str(self.path), f"{said}; the file may be cut short"))
        elif lost:
            self._callback(Message(f"{self.path}: {said}", "warning"))
