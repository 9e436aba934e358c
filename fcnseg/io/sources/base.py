"""What every source is: a context that gives frames, and an account of what came of it."""

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
    index: its number in the source, from 0, counting frames that were skipped or lost.
    time: seconds since the source began (0.0 for single images).
    name: a relative path without suffix, unique in the source: what outputs are called.
    path: the image file it came from; None for frames of a video or a camera.
    stamp: the file's size in bytes and its time of change in ns when it was read; None: as it is.
    stored: what the network takes where that is not `image`: stored values (H, W, bands).

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
        """What the network takes."""
        return self.image if self.stored is None else self.stored

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.image.nbytes + (0 if self.stored is None else self.stored.nbytes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def georeference(self) -> Georeference | None:
        """Where it lies on the Earth; None but for a GeoTIFF with rasterio installed."""
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
    """The frame of an image file's bytes, in a model's bands.

    shown: its name in the MediaError. The others are the frame's.
    """
    if bands is None:
        return Frame(decode_image(data, name=shown), index, time, name, path, stamp)
    pixels = bands.take(decode_bands(data, shown), shown)
    shown_as, taken = bands.to_rgb(pixels), bands.carry(pixels)
    return Frame(shown_as, index, time, name, path, stamp, taken)


Kind = Literal["image", "folder", "video", "camera", "stream"]

MOVING: tuple[Kind, ...] = ("video", "camera", "stream")
"""Kinds of sources whose frames follow each other."""

Skip = Callable[[str, Path], bool]
"""Whether an image or a frame of a video, by its name and file, is to be skipped."""


def nothing(name: str, path: Path) -> bool:
    """Skip nothing."""
    del name, path
    return False


@dataclass(frozen=True)
class Selection:
    """Which frames of a source are wanted.

    every: each N-th frame, the first included. limit: at most so many; 0: all.
    start, end: seconds of a video; end None: to its end.
    rank, size: of these, what the rank-th of `size` processes takes, from 0 on.
    page: of files of several pages or frames: a number from 1 on, "all", or "" for the first.
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
        """How many of `count` frames it takes."""
        taken = -(-count // self.every)
        return min(taken, self.limit) if self.limit else taken

    def is_full(self, taken: int) -> bool:
        """Whether `taken` frames are all that is wanted."""
        return bool(self.limit) and taken >= self.limit

    def count_here(self, count: int) -> int:
        """How many of `count` wanted frames this process takes."""
        first, last = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return last - first

    def owner(self, position: int, count: int | None) -> int:
        """The process that takes the frame at a position of the about `count` that are wanted.

        Each takes a piece without gaps; every `size`-th frame where the count is unknown.
        """
        if count is None:
            return position % self.size
        return min(position * self.size // max(count, 1), self.size - 1)


class Source(ABC):
    """Where frames come from: `with open_source("clip.mp4") as source: for frame in source`.

    kind: "image" (one), "folder" (several), "video", "camera" or "stream".
    name: what outputs that are about all of it are called.
    live: frames not taken in time are gone; only the newest is given.
    fps: frames a second that are given, or None when it has no rate.
    count: how many frames will be given, an estimate, or None when it is unknown.
    taken: how many frames were requested so far, those that failed included.
    dropped: frames of a live source that were skipped for lack of time.
    failures: inputs that could not be read: (name, why).
    stopped: whether `stop` was called.
    skipped: images skipped because they were done before.
    sound: the file whose sound goes with the frames, or None.
    clock: see FrameReader. has_sound: whether there is some, of which `sound` may be no file.
    file: the file that all frames are in, if it can be read again; else None.
    aspect: width of a pixel over its height.
    has_times: whether frames are shown at their own times: those of what moves, of an animation.
    bands: how image files are read; None: as 8-bit RGB. Set before frames are taken.
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
        """The frames, once, in order."""

    @property
    def has_times(self) -> bool:
        """See above."""
        return self.kind in MOVING

    def skip(self, done: Skip) -> None:
        """Skip the images of files, or the frames of a video file, for which `done` is true.

        Called before frames are taken.
        """
        self._skip = done

    def stop(self) -> None:
        """End an iteration under way at the next frame. A signal handler may call it: no lock."""
        self.stopped = True

    def close(self) -> None:
        """Let go of files and devices; an iteration under way ends. May be called twice."""
        self._closed.set()

    def assume_rate(self, fps: Fraction) -> None:
        """Take it that `fps` frames a second are there; OptionError for what has its own times."""
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
    """Images, which have no times but those that a rate gives them."""

    _selection: Selection

    def assume_rate(self, fps: Fraction) -> None:
        """The index-th image stands at index / fps seconds; OptionError for a single one."""
        if self.kind == "image":
            super().assume_rate(fps)
        self.fps = fps / self._selection.every

    def _time(self, index: int) -> float:
        """Seconds at which an image stands; 0.0 without a rate."""
        return 0.0 if self.fps is None else float(index / (self.fps * self._selection.every))
