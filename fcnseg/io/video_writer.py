"""Video files: frames with their times in, a verified file out.

OpenCV reads (it turns rotated videos upright). A video is written under a temporary name,
read back, verified and only then given its name. Streams and cameras are in
`fcnseg.io.sources.live`.
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
"""The suffixes that can be written, with the best codec OpenCV's wheels can encode for each."""


def writable_codecs() -> dict[str, str]:
    """What a video can be encoded with here, best first: codec -> the suffixes to ask for."""
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
    """What a video has beside images and sound that no output gets: "subtitles and chapters"."""
    try:
        import av

        with utf8_name(path) as name, av.open(name, metadata_errors="replace") as file:
            found = {"subtitles": len(file.streams.subtitles), "chapters": len(file.chapters())}
            tags = [*file.metadata, *(tag for stream in file.streams for tag in stream.metadata)]
            found["timecode"] = "timecode" in map(str.lower, tags)
    except Exception:  # noqa: BLE001 - without PyAV, or of what it can't open, nothing is known
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
    """The best encoder there is for the path's suffix.

    size: even (height, width). audio: a file whose sound is copied from `start` seconds on,
    when the encoder can, with whole_audio to its end; clock: see FrameReader. aspect: width of a
    pixel over its height. live: frames may be late. MediaError when none opens.
    """
    if has_pyav() and path.suffix.lower() != ".avi":  # AVI knows no times and no B-frames
        of = functools.partial(Sound.of, start=start, clock=clock, whole=whole_audio)
        sound = functools.partial(of, audio) if audio else None
        return PyavEncoder(path, fps, size, sound=sound, aspect=aspect)
    return OpencvEncoder(path, fps, size, repeat=live)


class OpencvEncoder:
    """cv2.VideoWriter, which raises nothing by itself.

    repeat: a frame is shown again where the next one comes late (cameras skip frames).
    """

    keeps_time = False
    sound_warning = ""  # nobody expects it here; that there is none is said at the start

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
        """Write what is left and close the file."""
        del complete  # of sound, which there is none
        self._file.release()


_SQUARE = frozenset({".webm", ".avi"})
"""The suffixes of files whose pixels are square: no encoder for them states another aspect."""


def _squared(size: tuple[int, int], aspect: Fraction) -> tuple[int, int]:
    """The (height, width) with square pixels of an image whose pixels have an aspect."""
    height, width = size
    return (height, round(width * aspect)) if aspect > 1 else (round(height / aspect), width)


_SPARE, _FRAMES_OF_SPARE = 2**18, 4096
"""Bytes for the index of so many frames, and for what encoders and containers hold back."""


class VideoWriter:
    """A video file that is complete and verified, or not there.

        with VideoWriter(Path("out.mp4"), Fraction(25, 2), (432, 768)) as writer:
            writer.write(image)

    fps: frames a second. size: (height, width); odd sizes gain a line or column (encoders
    need even ones), frames of another size are fitted in. audio: a video whose sound is
    copied from `audio_start` seconds on, where PyAV is there, to the end of the frames or, with
    whole_audio, to its own; clock: see FrameReader. aspect: width of a pixel over its height; files
    that can't state it get square pixels. live: frames may come late. encoder: what the frames are
    written by.

    Leaving the block by an exception (the disk is full, Ctrl-C) keeps what was written so far, as
    `out.partial.mp4` when there is an `out.mp4` already. MediaError when it can't be written.
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
                # Under a name that FFmpeg can open, as long as it writes.
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
            self._keep_room()
        except MediaError:
            self.close(complete=False)  # leaves no hidden file
            raise

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
            self._keep_room()

    def close(self, *, complete: bool = True) -> Path | None:
        """Finish, verify and name the file; its path, or None when no frame was written.

        complete: False says that frames are missing: an existing file is then kept, and this
        one is named `.partial`. Ctrl-C is heard when a complete one has its name.
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

    def _keep_room(self) -> None:
        """Hold bytes on the disk that the file's end will need, should others fill it."""
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
    """How many frames can be read back; 0 for none. written: how many there should be.

    They are counted in the container; the first one is decoded.
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
