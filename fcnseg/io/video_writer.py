"""Write video files: under a temporary name, verified by reading back, then renamed.

Frames come with their timestamps. Encoders are in `fcnseg.io.encoders`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError, OptionError, cannot_write
from fcnseg.files import partial, temporary_beside, utf8_name
from fcnseg.io import cv2, has_pyav
from fcnseg.io.draw import fit_image
from fcnseg.io.encoders import Encoder, PyavEncoder, even_sized
from fcnseg.io.images import resize_image
from fcnseg.io.sound import Sound
from fcnseg.io.sources.video import count_by_decoding, count_packets, open_video
from fcnseg.progress import defer_interrupts, without_native_messages

FOURCC = {
    ".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "XVID", ".mkv": "XVID", ".webm": "VP80",
}  # fmt: skip
"""Suffixes of videos, with the best codec that OpenCV's wheels can encode for each."""


def writable_codecs() -> dict[str, str]:
    """Codecs available here, best first -> the suffixes that use them."""
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in FOURCC:
            path = Path(folder) / f"try{suffix}"
            try:
                encoder = open_encoder(path, Fraction(25), (64, 64))
                encoder.write(np.zeros((64, 64, 3), np.uint8), 0.0)
                encoder.close()
            except MediaError:
                continue
            found.setdefault(encoder.codec, []).append(suffix)
    return {codec: " ".join(suffixes) for codec, suffixes in found.items()}


def left_out_of(path: Path) -> str:
    """Content of a video that outputs do not keep: "subtitles and chapters"; "" for none."""
    try:
        import av

        with utf8_name(path) as name, av.open(name, metadata_errors="replace") as file:
            found = {"subtitles": len(file.streams.subtitles), "chapters": len(file.chapters())}
            tags = [*file.metadata, *(tag for stream in file.streams for tag in stream.metadata)]
            found["timecode"] = "timecode" in map(str.lower, tags)
    except Exception:  # noqa: BLE001 - without PyAV, or if it can't open it, nothing is known
        return ""
    return " and ".join(what for what, count in found.items() if count)


def open_encoder(
    path: Path,
    fps: Fraction,
    size: tuple[int, int],
    *,
    audio: Path | None = None,
    start: float = 0.0,
    whole_audio: bool = False,
    aspect: Fraction = Fraction(1),
    live: bool = False,
    clock: Sequence[float] = (),
) -> Encoder:
    """The best available encoder for the path's suffix.

    size: even (height, width). audio: a file whose sound is copied from `start` seconds on, if the
    encoder supports it; whole_audio: to its end; clock: see FrameReader. aspect: pixel aspect
    ratio, width over height. live: frames may be late. MediaError if no encoder opens.
    """
    if has_pyav() and path.suffix.lower() != ".avi":  # AVI has no timestamps and no B-frames
        of = functools.partial(Sound.of, start=start, clock=clock, whole=whole_audio)
        sound = functools.partial(of, audio) if audio else None
        return PyavEncoder(path, fps, size, sound=sound, aspect=aspect)
    return OpencvEncoder(path, fps, size, repeat=live)


class OpencvEncoder:
    """An encoder by cv2.VideoWriter, which itself reports no errors.

    repeat: repeat a frame while the next one is late (cameras skip frames).
    """

    keeps_time = False
    sound_warning = ""  # that there is no sound was reported at the start

    def __init__(
        self, path: Path, fps: Fraction, size: tuple[int, int], *, repeat: bool = False
    ) -> None:
        self.written = 0
        self._fps, self._repeat = fps, repeat
        self._last: NDArray[np.uint8] | None = None
        self.codec = FOURCC[path.suffix.lower()]
        fourcc = cv2.VideoWriter.fourcc(*self.codec)
        with without_native_messages():  # a line about codec tags
            self._file = cv2.VideoWriter(
                str(path), cv2.CAP_FFMPEG, fourcc, float(fps), (size[1], size[0])
            )
        if not self._file.isOpened():
            raise MediaError(
                f"OpenCV can't write {self.codec} video to {path.parent}.",
                hint="is there space and may you write there? else: pip install av",
            )

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Append a frame."""
        bgr = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
        while self._repeat and self._last is not None and self.written < int(time * self._fps):
            self._append(self._last)
        self._append(bgr)
        self._last = bgr

    def _append(self, bgr: NDArray[np.uint8]) -> None:
        self._file.write(bgr)
        self.written += 1

    def close(self, *, complete: bool = True) -> None:
        """Flush and close the file."""
        del complete  # only for sound
        self._file.release()


_SQUARE = frozenset({".webm", ".avi"})
"""Suffixes whose encoders support only square pixels."""


def _squared(size: tuple[int, int], aspect: Fraction) -> tuple[int, int]:
    """The (height, width) in square pixels of an image with a pixel aspect ratio."""
    height, width = size
    return (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)


_SPARE, _FRAMES_OF_SPARE = 2**18, 4096
"""Bytes reserved for the index of this many frames and for buffers of encoders and containers."""


class VideoWriter:
    """Writes a video file that appears only when it is complete and verified.

        with VideoWriter(Path("out.mp4"), Fraction(25, 2), (432, 768)) as writer:
            writer.write(image)

    fps: frames per second. size: (height, width); odd sizes are padded (encoders need even ones),
    frames of another size are scaled to fit. audio: a video whose sound is copied from
    `audio_start` seconds on (with PyAV), to the end of the frames or, with whole_audio, to its own;
    clock: see FrameReader. aspect: pixel aspect ratio, width over height; formats without it get
    square pixels. live: frames may be late. encoder: the Encoder in use.

    Leaving the block by an exception (disk full, Ctrl-C) keeps the frames written so far, as
    `out.partial.mp4` if `out.mp4` exists. MediaError when it can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        fps: Fraction,
        size: tuple[int, int],
        *,
        audio: Path | None = None,
        audio_start: float = 0.0,
        whole_audio: bool = False,
        aspect: Fraction = Fraction(1),
        live: bool = False,
        clock: Sequence[float] = (),
    ) -> None:
        self.path = path if isinstance(path, Path) else Path(path)
        if self.path.suffix.lower() not in FOURCC:
            raise OptionError(
                f"Can't write a video as {self.path.name!r}; known: {', '.join(sorted(FOURCC))}."
            )
        self.fps, self.size, self.frames = fps, (size[0], size[1]), 0
        self._stack = contextlib.ExitStack()
        self._temporary = self._make_temporary()
        self._shape = self.size
        if self.path.suffix.lower() in _SQUARE or not has_pyav():
            self._shape, aspect = _squared(self.size, aspect), Fraction(1)
        even = (self._shape[0] + self._shape[0] % 2, self._shape[1] + self._shape[1] % 2)
        with contextlib.ExitStack() as on_error:
            on_error.push(self._stack)
            self.encoder: Encoder = open_encoder(
                # FFmpeg opens only names in UTF-8.
                Path(self._stack.enter_context(utf8_name(self._temporary))),
                fps,
                even,
                audio=audio,
                start=audio_start,
                whole_audio=whole_audio,
                aspect=aspect,
                live=live,
                clock=clock,
            )
            on_error.pop_all()
        self._closed = False
        self._spare: BinaryIO | None = None
        try:
            self._reserve_space()
        except MediaError:
            self.close(complete=False)  # removes the temporary file
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(MediaError):  # the first error is reported
            self.close(complete=False)

    def write(self, image: NDArray[np.uint8], time: float | None = None) -> None:
        """Append uint8 (H, W, 3) RGB.

        time: seconds since the first frame; None for a constant rate.
        """
        if image.shape[:2] != self.size:
            image = fit_image(image, self.size)
        image = resize_image(image, self._shape)
        if time is None:
            time = float(self.frames / self.fps)
        try:
            self.encoder.write(even_sized(image), time)
        except MediaError:  # an OSError, too
            raise
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.frames += 1
        if self.frames % _FRAMES_OF_SPARE == 0:
            self._reserve_space()

    def close(self, *, complete: bool = True) -> Path | None:
        """Finish, verify and rename the file; return its path, or None if no frame was written.

        complete: False if frames are missing: an existing file is kept, and this one is named
        `.partial`. For a complete file, Ctrl-C takes effect after it is renamed.
        """
        if self._closed:
            return None
        self._closed = True
        with defer_interrupts() if complete else contextlib.nullcontext(), self._stack:
            if self._spare is not None:
                self._spare.truncate(0)
            with contextlib.nullcontext() if complete else contextlib.suppress(MediaError):
                self.encoder.close(complete=complete)
            if not self.frames:
                return None
            written = self.encoder.written
            found = _readable_frames(self._temporary, written)
            target = self.path
            if (not complete or found != written) and target.exists():
                target = partial(target)
            if found:
                self._temporary.replace(target)
            if complete and found != written:
                kept = f", and are in {target}" if found else ""
                raise MediaError(
                    f"{self.path} was not written whole: {found} of {written} frames can be read "
                    f"back{kept}.",
                    hint="is there space on the disk?",
                )
            return target if found else None

    def _reserve_space(self) -> None:
        """Reserve disk space for the end of the file, in case other programs fill the disk."""
        try:
            if self._spare is None:
                hidden = self._stack.enter_context(temporary_beside(self.path))
                self._spare = self._stack.enter_context(hidden.open("wb", buffering=0))
            self._spare.write(os.urandom(_SPARE))  # random: some file systems compress
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def _make_temporary(self) -> Path:
        try:
            return self._stack.enter_context(temporary_beside(self.path))
        except OSError as error:
            raise cannot_write(self.path, error) from None


def _readable_frames(path: Path, written: int) -> int:
    """Number of frames that can be read back, counted in the container; the first one is decoded.

    written: the expected number.
    """
    try:
        with open_video(path) as reader:
            found = reader.count
            if found != written and has_pyav():
                found = count_packets(path)
            elif found != written:
                found = count_by_decoding(path)
            readable = next(iter(reader), None) is not None
    except MediaError:
        return 0
    return (found or 0) if readable else 0
