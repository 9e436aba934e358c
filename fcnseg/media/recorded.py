"""Frames that are already there: image files and video files, none left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

from fcnseg.errors import MediaError, OptionError
from fcnseg.events import Listener, Note, nobody
from fcnseg.frames import Frame
from fcnseg.media import listing
from fcnseg.media._source import ImageSource, Kind, Selection, Source
from fcnseg.media.images import read_image
from fcnseg.media.piped import ByteStream
from fcnseg.media.streamed import StreamReader
from fcnseg.media.video import VideoReader

Skip = Callable[[str, Path], bool]
"""Whether an image or a frame of a video, by its name and file, is to be passed over."""

_BROKEN_SHARE = 0.1
"""A video that lacks more of its frames than this has failed; below, it is worth a note."""


def nothing(name: str, path: Path) -> bool:
    """Pass over nothing."""
    del name, path
    return False


class ImageFiles(ImageSource):
    """One image file or several, each read when its turn comes.

    A single image that can't be read raises; of several, it is noted in `failures`.
    """

    def __init__(
        self,
        files: list[listing.Named],
        kind: Kind,
        selection: Selection,
        skip: Skip = nothing,
    ) -> None:
        super().__init__()
        self.kind, self._selection = kind, selection
        wanted = [(index, *named) for index, named in enumerate(files)][:: selection.every]
        fresh = [item for item in wanted if not skip(item[1], item[2])]
        self._chosen = fresh[: selection.limit or None][selection.rank :: selection.size]
        self.skipped = 0 if selection.rank else len(wanted) - len(fresh)  # counted once
        self.count = len(self._chosen)

    def __iter__(self) -> Iterator[Frame]:
        for index, name, path in self._chosen:
            if self._over:
                return
            self.taken += 1
            try:
                image = read_image(path)
            except MediaError as error:
                if self.kind == "image":
                    raise
                self.failures.append((str(path), error.message))
                continue
            yield Frame(image, index, self._time(index), name, path)


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
        listener: Listener = nobody,
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
        self._selection, self._listener, self._skip = selection, listener, skip
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
            self._listener(Note(f"{self.path} states no rate; {said}"))
        with self._reader as reader:
            for position, time in enumerate(self._wanted()):
                owner = selection.owner(position, self._whole)
                if owner > selection.rank and self._whole is not None:
                    return  # the pieces after this one are others'
                if owner != selection.rank:
                    continue
                name = f"{listing.safe_path(self.name)}_{reader.index:06d}"
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
            self._listener(Note(f"{self.path}: {said}", "warning"))


class PipedVideo(VideoFile):
    """A video from a pipe, decoded as it comes."""

    def __init__(self, stream: ByteStream, selection: Selection, listener: Listener) -> None:
        self._stream = stream
        reader = StreamReader(stream, "What is piped in")
        super().__init__("stdin", selection, listener, name="stdin", reader=reader)
        stream.over = lambda: self._over
        self.sound = self.file = None

    def close(self) -> None:
        """Read no more."""
        super().close()
        self._stream.close()
