"""Base classes of sources: context managers that yield frames and record failures."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import InputError, OptionError
from fcnseg.io.bands import Bands
from fcnseg.io.bands.files import decode_bands
from fcnseg.io.bands.georeference import TIFF_SUFFIXES, Georeference, georeference_of
from fcnseg.io.images import decode_image


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a source.

    image: uint8 (H, W, 3), RGB, upright.
    index: its number in the source, from 0, including skipped and lost frames.
    time: seconds since the start of the source (0.0 for single images).
    name: a relative path without suffix, unique in the source; outputs are named after it.
    path: its image file; None for frames of a video or a camera.
    stamp: the file's size in bytes and modification time in ns when it was read; None: unchanged.
    stored: the network's input, if it is not `image`: stored values (H, W, bands).

        frame = fcnseg.load("nuclei")("cells.png").frame
        frame.image.shape, frame.path
    """

    image: NDArray[np.uint8]
    index: int = 0
    time: float = 0.0
    name: str = "image"
    path: Path | None = None
    stamp: tuple[int, int] | None = None
    stored: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        image = self.image
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"A frame is a uint8 RGB array (H, W, 3); found {type(image).__name__}.",
                hint="a model takes images of every kind: model(image)",
            )
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise InputError(
                f"A frame is a uint8 RGB array (H, W, 3); found {image.dtype} {image.shape}."
            )

    @property
    def pixels(self) -> NDArray[Any]:
        """The network's input."""
        return self.image if self.stored is None else self.stored

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.image.nbytes + (0 if self.stored is None else self.stored.nbytes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def georeference(self) -> Georeference | None:
        """The georeference of a GeoTIFF, if rasterio is installed; else None."""
        if self.path is None or self.path.suffix.lower() not in TIFF_SUFFIXES:
            return None
        return georeference_of(self.path)


def frame_of(
    data: bytes,
    shown: str,
    bands: Bands | None,
    index: int = 0,
    time: float = 0.0,
    name: str = "image",
    path: Path | None = None,
    stamp: tuple[int, int] | None = None,
) -> Frame:
    """Decode an image file's bytes to a frame with a model's bands.

    shown: its name in the MediaError. The other arguments are the frame's.
    """
    if bands is None:
        return Frame(decode_image(data, name=shown), index, time, name, path, stamp)
    pixels = bands.take(decode_bands(data, shown), shown)
    shown_as, taken = bands.to_rgb(pixels), bands.carry(pixels)
    return Frame(shown_as, index, time, name, path, stamp, taken)


Kind = Literal["image", "folder", "video", "camera", "stream"]

MOVING: tuple[Kind, ...] = ("video", "camera", "stream")
"""Kinds of sources whose frames are consecutive."""

Skip = Callable[[str, Path], bool]
"""Whether to skip an image or video frame, by its name and file."""


def nothing(name: str, path: Path) -> bool:
    """Skip nothing."""
    del name, path
    return False


@dataclass(frozen=True)
class Selection:
    """Which frames of a source to read.

    every: every N-th frame, starting with the first. limit: maximum number; 0 for no limit.
    start, end: seconds of a video; end None: to its end.
    rank, size: take the shard of process `rank` among `size`.
    page: of files with several pages or frames: a number from 1 on, "all", or "" for the first.
    """

    every: int = 1
    limit: int = 0
    start: float = 0.0
    end: float | None = None
    rank: int = 0
    size: int = 1
    page: str = ""

    def __post_init__(self) -> None:
        if self.page not in ("", "all") and not (self.page.isdecimal() and int(self.page)):
            raise OptionError(f"--page takes a number from 1 on, or all; found {self.page!r}.")
        if self.every < 1 or self.limit < 0 or self.start < 0:
            raise OptionError(
                "every is at least 1, limit and start at least 0; "
                f"found {self.every}, {self.limit}, {self.start}."
            )
        if self.end is not None and self.end <= self.start:
            raise OptionError(
                f"The end ({self.end:g} s) has to come after the start ({self.start:g} s)."
            )

    def of(self, count: int) -> int:
        """Number of selected frames among `count`, by all processes."""
        taken = -(-count // self.every)
        return min(taken, self.limit) if self.limit else taken

    def is_full(self, taken: int) -> bool:
        """Whether `taken` frames reach the limit."""
        return bool(self.limit) and taken >= self.limit

    def count_here(self, count: int) -> int:
        """Number of `count` selected frames in this process's shard."""
        first, last = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return last - first

    def owner(self, position: int, count: int | None) -> int:
        """The rank that takes the selected frame at a position; count: their estimated number.

        Shards are contiguous; if the count is unknown, frames are distributed in turn.
        """
        if count is None:
            return position % self.size
        return min(position * self.size // max(count, 1), self.size - 1)


class Source(ABC):
    """A source of frames: `with open_source("clip.mp4") as source: for frame in source`.

    kind: "image" (one), "folder" (several), "video", "camera" or "stream".
    name: name of outputs for the whole source.
    live: whether frames that are not taken in time are dropped, so that only the newest is read.
    fps: frame rate of the yielded frames, or None if it has none.
    count: estimated number of frames, or None if unknown.
    taken: number of frames requested so far, including failed ones.
    dropped: number of frames of a live source that were dropped.
    failures: inputs that could not be read: (name, reason).
    stopped: whether `stop` was called.
    skipped: number of images skipped because they were done before.
    sound: the file with the sound for the frames, or None.
    clock: see FrameReader. has_sound: whether there is sound, even if `sound` is None.
    file: the file that contains all frames, if it can be read again; else None.
    aspect: pixel aspect ratio, width over height.
    has_times: whether frames have timestamps, as in videos and animations.
    bands: how to read image files; None for 8-bit RGB. Set before the iteration.
    """

    kind: Kind
    name: str = "images"
    live = False
    fps: Fraction | None = None
    count: int | None = None
    sound: Path | None = None
    clock: Sequence[float] = ()
    has_sound = False
    file: Path | None = None
    aspect = Fraction(1)
    bands: Bands | None = None

    def __init__(self) -> None:
        self.taken = 0
        self.dropped = 0
        self.skipped = 0
        self.failures: list[tuple[str, str]] = []
        self._closed = threading.Event()
        self._skip: Skip = nothing
        self.stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once, in order."""

    @property
    def has_times(self) -> bool:
        """See above."""
        return self.kind in MOVING

    def skip(self, done: Skip) -> None:
        """Skip image files, or frames of a video file, for which `done` is true.

        Called before the iteration.
        """
        self._skip = done

    def stop(self) -> None:
        """End the iteration at the next frame. Safe in a signal handler: it takes no lock."""
        self.stopped = True

    def close(self) -> None:
        """Release files and devices; ends the iteration. May be called twice."""
        self._closed.set()

    def assume_rate(self, fps: Fraction) -> None:
        """Set the frame rate; OptionError for a source that has its own."""
        del fps
        found = "one image has no rate" if self.kind == "image" else f"a {self.kind} has its own"
        raise OptionError(f"--fps is for images and raw streams, which state no rate; {found}.")

    @property
    def _over(self) -> bool:
        """Whether no more frames are wanted."""
        return self.stopped or self._closed.is_set()

    def age(self, frame: Frame) -> float | None:
        """Seconds since a live frame was captured; None for sources that are not live."""
        del frame
        return None


class ImageSource(Source):
    """A source of images, whose times follow from an assumed frame rate."""

    _selection: Selection

    def assume_rate(self, fps: Fraction) -> None:
        """Set the time of image number `index` to index / fps; OptionError for a single image."""
        if self.kind == "image":
            super().assume_rate(fps)
        self.fps = fps / self._selection.every

    def _time(self, index: int) -> float:
        """The time of an image in seconds; 0.0 without a rate."""
        return 0.0 if self.fps is None else float(index / (self.fps * self._selection.every))
