"""Video files: frames with their times in, a verified file out.

OpenCV reads (it turns rotated videos upright). A video is written under a temporary name,
read back, verified and only then given its name. Streams and cameras are in
`fcnseg.media.live`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, OptionError
from fcnseg.files import partial, temporary_beside
from fcnseg.media._opencv import cv2
from fcnseg.media.encoders import FOURCC, Encoder, has_pyav, open_encoder
from fcnseg.media.images import cannot_write, resize_image
from fcnseg.signals import held_back

_FASTEST = 480  # frames/s; what a file claims beyond that is a time base, not a rate
USUAL_RATE = Fraction(25)
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
        stated = None if self.has_times else header_rate(self._address)
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
        capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise MediaError(
                f"{self.path} is not a video that can be read.",
                hint="the file may be cut short, or of a kind FFmpeg does not know",
            )
        return capture

    def _measure_fps(self) -> Fraction:
        """From the times of the first frames; the usual 25 when they have none."""
        times: list[float] = []
        while len(times) < 25 and self._capture.grab():
            times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        self._capture.release()
        self._capture = self._open()
        elapsed = times[-1] - times[0] if times else 0.0
        return usable_rate((len(times) - 1) / elapsed) or USUAL_RATE if elapsed > 0 else USUAL_RATE


class VideoWriter:
    """A video file that is complete and verified, or not there.

        with VideoWriter(Path("out.mp4"), Fraction(25, 2), (432, 768)) as writer:
            writer.write(image)

    fps: frames a second. size: (height, width); odd sizes gain a line or column (encoders
    need even ones), frames of another size are fitted in. audio: a video whose sound is
    copied from `audio_start` seconds on, where PyAV is there. live: frames may come late.

    Leaving the block by an exception keeps what was written so far, as `out.partial.mp4` when
    there is an `out.mp4` already. MediaError when it can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction,
        size: tuple[int, int],
        *,
        audio: Path | None = None,
        audio_start: float = 0.0,
        live: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in FOURCC:
            raise OptionError(
                f"Can't write a video as {self.path.name!r}; known: {', '.join(sorted(FOURCC))}."
            )
        self.fps, self.size, self.frames = fps, (size[0], size[1]), 0
        self._stack = contextlib.ExitStack()
        self._temporary = self._make_temporary()
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        with contextlib.ExitStack() as on_error:
            on_error.push(self._stack)
            self._encoder: Encoder = open_encoder(
                self._temporary, fps, even, audio=audio, start=audio_start, live=live
            )
            on_error.pop_all()
        self._closed = False

    @property
    def codec(self) -> str:
        """What the frames are encoded with."""
        return self._encoder.codec

    @property
    def keeps_time(self) -> bool:
        """Whether frames keep their own times, and sound is copied: PyAV writes the file."""
        return self._encoder.keeps_time

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(MediaError):  # the first error is the one to hear of
            self.close(complete=False)

    def write(self, image: NDArray[np.uint8], time: float | None = None) -> None:
        """Append uint8 (H, W, 3) RGB.

        time: seconds since the first frame; None puts it where a constant rate has it.
        """
        if image.shape[:2] != self.size:
            image = _fit(image, self.size)
        height, width = self.size
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._encoder.write(image, float(self.frames / self.fps) if time is None else time)
        self.frames += 1

    def close(self, *, complete: bool = True) -> Path | None:
        """Finish, verify and name the file; its path, or None when no frame was written.

        complete: False says that frames are missing: an existing file is then kept, and this
        one is named `.partial`. Ctrl-C is heard when a complete one has its name.
        """
        if self._closed:
            return None
        self._closed = True
        with held_back() if complete else contextlib.nullcontext(), self._stack:
            self._encoder.close()
            if not self.frames:
                return None
            _verify(self._temporary, self._encoder.written)
            target = self.path
            if not complete and target.exists():
                target = partial(target)
            self._temporary.replace(target)
            return target

    def _make_temporary(self) -> Path:
        try:
            return self._stack.enter_context(temporary_beside(self.path))
        except OSError as error:
            raise cannot_write(self.path, error) from None


def _verify(path: Path, frames: int) -> None:
    """MediaError unless the file can be read and has that many frames.

    The frames are counted in the container; the first one is decoded.
    """
    try:
        with VideoReader(path) as reader:
            found = reader.count
            if found != frames and has_pyav():
                found = _count_packets(path)
            elif found != frames:
                found = _count_by_decoding(path)
            readable = next(iter(reader), None) is not None
    except MediaError:
        found, readable = 0, False
    if found != frames or not readable:
        raise MediaError(
            f"The video was not written whole: {found} of {frames} frames can be read back.",
            hint="is there space on the disk?",
        )


def _count_packets(path: Path) -> int:
    import av

    with av.open(str(path)) as file:
        return sum(packet.size > 0 for packet in file.demux(video=0))


def _count_by_decoding(path: Path) -> int:
    with VideoReader(path) as reader:
        while reader.grab() is not None:
            pass
        return reader.read


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


def _fit(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGB image scaled into (height, width), its shape kept, black around it."""
    factor = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, min(size[i], round(image.shape[i] * factor))) for i in (0, 1))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[top : top + height, left : left + width] = resize_image(image, (height, width))
    return canvas
