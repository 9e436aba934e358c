"""Video files: all frames in order, with their times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, OptionError
from fcnseg.files import safe_path, utf8_name
from fcnseg.io import cv2, has_pyav
from fcnseg.io.images import first_bytes
from fcnseg.io.sources.base import Frame, Kind, Selection, Source
from fcnseg.io.sources.pyav import PyavReader
from fcnseg.io.sources.reader import (
    BROKEN_PACKETS,
    MISSING_FRACTION,
    FrameReader,
    is_elementary,
    no_video,
    rate_of,
    readable_name,
    usable_rate,
)
from fcnseg.progress import Callback, Message, no_callback
from fcnseg.remote import RemotePath


class OpencvReader(FrameReader):
    """The frames of a video file or URL, by OpenCV.

    address: an absolute path or a URL: FFmpeg takes "a:b.mp4" for a protocol. MediaError when it
    can't be opened.
    """

    def __init__(self, address: str, path: str | Path, *, has_times: bool = True) -> None:
        super().__init__(path)
        self._address, self.has_times = address, has_times
        self._capture = self._open()
        self.states_rate = has_times
        self.fps = usable_rate(self._capture.get(cv2.CAP_PROP_FPS)) or self._measure_fps()
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = round(count) if 0 < count < 2**40 else None
        # Retries at the end of a file are cheap; with a dead server each one waits for a timeout.
        self._tries = 0 if "://" in address else BROKEN_PACKETS

    def grab(self) -> float | None:
        """Advance to the next frame; return its time in seconds, or None at the end."""
        failed = 0
        while not self._capture.grab():  # at the end, or at a broken packet
            failed += 1
            if failed > self._tries:
                return None
        self.broken += range(self.index + 1, self.index + 1 + failed)
        self.index += 1 + failed
        self.read += 1
        if not self.has_times:
            return float(self.index / self.fps)
        time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        return time if time > 0 or self.index == 0 else float(self.index / self.fps)

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The current frame, uint8 (H, W, 3) RGB; None if it can't be decoded."""
        done, pixels = self._capture.retrieve()
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8) if done else None

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def missing(self) -> int:
        """Number of missing frames; 0 if within the error of an estimated count."""
        count = self.count or 0
        gone = count - self.index - 1
        return gone if gone > max(1, MISSING_FRACTION * count) else 0

    def _open(self) -> cv2.VideoCapture:
        with readable_name(self._address) as name:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise no_video(self.path)
        return capture

    def _measure_fps(self) -> Fraction:
        """The frame rate from the times of the first frames; 25 if they have none."""
        times: list[float] = []
        while len(times) < 25 and self._capture.grab():
            times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        self._capture.release()
        self._capture = self._open()
        return rate_of(times)


def open_video(path: str | Path) -> FrameReader:
    """Open a video file or URL with PyAV if installed, else with OpenCV.

    MediaError if the file is missing or not a video.
    """
    # An absolute path, as FFmpeg takes "a:b.mp4" for a protocol.
    is_address = "://" in str(path)
    if not is_address and not Path(path).is_file():
        raise MediaError(f"There is no file {path}.", hint="check the path")
    address = str(path) if is_address else str(Path(path).absolute())
    has_times = is_address or not is_elementary(first_bytes(Path(path)))
    reader = PyavReader if has_pyav() else OpencvReader
    return reader(address, path, has_times=has_times)


def count_packets(path: Path) -> int:
    """Number of frames in a video's container; needs PyAV."""
    import av

    with utf8_name(path) as name, av.open(name) as file:
        return sum(packet.size > 0 for packet in file.demux(video=0))


def count_by_decoding(path: Path) -> int:
    """Number of frames of a video that can be decoded."""
    with open_video(path) as reader:
        while reader.grab() is not None:
            pass
        return reader.read


class VideoFile(Source):
    """The frames of a video file, in order.

    Each of several processes reads from the start, so that frame numbers agree whatever the file's
    timestamps are; frames before its shard are skipped without conversion to RGB.
    name: name of the outputs, "/" between folders. several: whether it is one of several videos; if
    it can't be read, it is added to `failures`.
    """

    kind: Kind = "video"

    def __init__(
        self,
        path: str | Path,
        selection: Selection,
        callback: Callback = no_callback,
        name: str = "",
        *,
        reader: FrameReader | None = None,
        several: bool = False,
    ) -> None:
        super().__init__()
        self.path, self._several = path, several
        self.sound = self.file = None if "://" in str(path) else Path(path)
        self.name = name or Path(path).stem
        self._reader = reader or open_video(path)
        self._selection, self._callback = selection, callback
        self.fps = self._reader.fps / selection.every
        self.aspect = self._reader.aspect
        self.clock, self.has_sound = self._reader.clock, self._reader.has_sound
        self._whole = self._estimate()
        self._has_begun = False
        self.count = None if self._whole is None else selection.count_here(self._whole)

    def assume_rate(self, fps: Fraction) -> None:
        """Set the frame rate; OptionError for a file with timestamps."""
        if self._reader.has_times:
            raise OptionError(
                f"--fps is for what states no rate; {self.path} has its own, "
                f"{float(self._reader.fps):g} frames/s.",
                hint="omit --fps",
            )
        self._reader.fps, self._reader.states_rate = fps, True
        self.fps = fps / self._selection.every

    def close(self) -> None:
        """Close the file, or end the iteration, which then closes it."""
        super().close()
        if not self._has_begun:
            self._reader.close()

    def __iter__(self) -> Iterator[Frame]:
        self._has_begun = True
        try:
            yield from self._frames()
        except MediaError as error:
            if not self._several:
                raise
            self.failures.append((str(self.path), error.message))

    def _frames(self) -> Iterator[Frame]:
        selection = self._selection
        if self._reader.note:
            self._callback(Message(f"{self.path}: {self._reader.note}", "warning"))
        if not self._reader.states_rate:
            note = f"{float(self._reader.fps):g} frames/s are assumed (--fps changes that)"
            self._callback(Message(f"{self.path} states no rate; {note}"))
        with self._reader as reader:
            for position, time in enumerate(self._wanted()):
                owner = selection.owner(position, self._whole)
                if owner > selection.rank and self._whole is not None:
                    return  # the following shards belong to other processes
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
        """Advance to each selected frame of any process; yield its time in seconds."""
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
        """At the end of the file, record missing and broken frames.

        reached: number of frames from the requested start on.
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
        if damage := reader.damage_found():
            self.failures.append((str(self.path), damage))


class RemoteVideo(VideoFile):
    """A video in remote storage, downloaded to a temporary file."""

    def __init__(self, path: Path, *given: Any, **options: Any) -> None:
        self._copied = ExitStack()
        local = Path(self._copied.enter_context(utf8_name(path)))
        try:
            super().__init__(local, *given, **options)
        except MediaError as error:
            self._copied.close()
            raise MediaError(
                error.message.replace(str(local), str(path)), hint=error.hint
            ) from None
        self.path = self.file = path  # the manifest names the remote file
        self.name = path.stem if self.name == local.stem else self.name

    def close(self) -> None:
        """Stop reading and delete the copy."""
        super().close()
        self._copied.close()


def video_file(
    path: Path,
    selection: Selection,
    callback: Callback,
    name: str = "",
    *,
    several: bool = False,
) -> VideoFile:
    """Open a video file, local or in remote storage."""
    made = RemoteVideo if isinstance(path, RemotePath) else VideoFile
    return made(path, selection, callback, name, several=several)
