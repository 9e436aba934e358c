"""Image files and watched folders as sources.

In a watched folder, an image is read once two scans find it unchanged, as a file that is still
being written grows. It is read again when its content changes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from fcnseg.errors import MediaError, OptionError, counted, user_path
from fcnseg.files import as_path, free_name, is_special
from fcnseg.io.bands.files import page_of
from fcnseg.io.content import is_tiff, open_with_pillow, page_offsets
from fcnseg.io.images import read_bytes
from fcnseg.io.sources import listing
from fcnseg.io.sources.base import Frame, ImageSource, Kind, Selection, Skip, frame_of, nothing
from fcnseg.io.sources.reader import rate_of
from fcnseg.progress import Callback, Event, Message, no_callback
from fcnseg.remote import RemotePath

_READ_AHEAD = 32
"""Number of concurrent reads: with a latency of 100 ms each, 300 files per second."""

SEQUENCE_NUMBER = re.compile(r"%(?:0(\d))?d")
"""The number in a sequence's file names, as in FFmpeg and printf."""


def is_sequence(name: str) -> bool:
    """Whether a file's name is a sequence pattern: frame_%04d.png."""
    return len(SEQUENCE_NUMBER.findall(name)) == 1 and name.count("%") == 1


def stands_for_sequence(text: str) -> bool:
    """Whether a source is a sequence pattern, and not an existing file or a URL."""
    path = user_path(text)
    return is_sequence(path.name) and "://" not in text and not path.exists()


def _read_file(path: Path) -> bytes:
    """A file's bytes; MediaError also for pipes and devices, which may never end."""
    if not isinstance(path, RemotePath) and is_special(path):
        raise MediaError(f"{path} is a pipe or a device, not an image file.")
    return read_bytes(path)


class ImageFiles(ImageSource):
    """One or several image files, read on demand.

    If the only file can't be read, an error is raised; one of several is added to `failures`.
    within: the slice of files to read. times: start times in seconds of an animation's frames.
    """

    def __init__(
        self,
        files: list[listing.Named],
        kind: Kind,
        selection: Selection,
        callback: Callback = no_callback,
        within: slice = slice(None),
        times: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.kind, self._selection, self._callback = kind, selection, callback
        # For a single file, `every` selects pages.
        self._is_one = len(files) == 1
        step = 1 if self._is_one else selection.every
        self._wanted = [(at, *named) for at, named in enumerate(files)][within][::step]
        self._times = times
        self.fps = rate_of(list(times)) / selection.every if times else None
        self.skip(nothing)

    def skip(self, done: Skip) -> None:
        """Skip the images for which `done` is true."""
        super().skip(done)
        selection, wanted = self._selection, self._wanted
        fresh = [(at, item) for at, item in enumerate(wanted) if not done(*item[1:])]
        self.skipped = 0 if selection.rank else len(wanted) - len(fresh)  # counted by one process
        if selection.limit:  # otherwise an image's shard does not depend on what is done
            fresh = list(enumerate(item for _, item in fresh[: selection.limit]))
        chosen = [item for at, item in fresh if at % selection.size == selection.rank]
        self._chosen: Iterable[tuple[int, str, Path]] = chosen
        self.count = None if selection.page == "all" else len(chosen)

    def __iter__(self) -> Iterator[Frame]:
        given = extra = 0  # frames yielded; frames beyond the first of each file
        take = read_bytes if self.kind == "image" else _read_file
        for (index, name, path), read in read_ahead(self._chosen, take):
            if self._over:
                return
            self.taken += 1
            try:
                for count, (number, page, called) in enumerate(self._pages(read(), name, path)):
                    if self._over or self._selection.is_full(given):
                        return
                    given, extra = given + 1, extra + (count > 0)
                    self.taken += count > 0
                    at = number if self._is_one else index + extra
                    about = (at, self._time(at), called, path)
                    yield frame_of(page, str(path), self.bands, *about)
            except MediaError as error:
                if self.kind == "image":
                    raise
                self.failures.append((str(path), error.message))

    @property
    def has_times(self) -> bool:
        """Whether frames have timestamps: those of an animation or a sequence."""
        return bool(self._times) or super().has_times

    def assume_rate(self, fps: Fraction) -> None:
        """Set the frame rate, also for an animation, which has its own times."""
        super().assume_rate(fps)
        self._times = ()

    def _time(self, index: int) -> float:
        return self._times[index] if self._times else super()._time(index)

    def _pages(self, data: bytes, name: str, path: Path) -> Iterator[tuple[int, bytes, str]]:
        """Yield a file's selected pages: number, from 0 on, content as a file, and name."""
        wanted, count = self._selection.page, count_pages(data)
        if wanted == "all" and count > 1:
            digits = len(str(count))
            for page in range(0, count, self._selection.every if self._is_one else 1):
                called = f"{name}_page{page + 1:0{digits}}"
                if not self._skip(called, path):
                    yield page, page_of(data, page, str(path)), called
            return
        if wanted.isdecimal() and int(wanted) > count:
            raise MediaError(f"{path} has {counted(count, 'page')}; page {wanted} is not there.")
        if count > 1 and not wanted:
            note = f"{path} has {count} pages or frames; only the first is used"
            self._callback(Message(f"{note} (--page all, or --page N, chooses others).", "warning"))
        yield 0, (page_of(data, int(wanted) - 1, str(path)) if wanted.isdecimal() else data), name


_FileState = tuple[int, int, int, int]  # size, mtime (ns), ctime (ns), inode


@dataclass
class _Watched:
    """A file in a watched folder: its number and the name of its outputs.

    state: at the last scan; read: when it was last read. digest: of the content read.
    """

    index: int
    name: str
    state: _FileState | None = None
    read: _FileState | None = None
    digest: bytes = b""


class WatchedFolder(ImageSource):
    """The images of a folder, and those added or changed later, until it is closed.

    pause: seconds between two scans. The callback gets a warning for images that can't be read;
    they are read again when they change.
    """

    kind: Kind = "folder"

    def __init__(
        self,
        folder: Path,
        selection: Selection,
        *,
        exclude: Path | None = None,
        pause: float = 0.5,
        callback: Callback = no_callback,
    ) -> None:
        super().__init__()
        if not folder.is_dir():
            raise MediaError(f"{folder} is not a folder that could be watched.")
        self._folder, self._selection = folder, selection
        self._exclude, self._pause = exclude, pause
        self._callback = callback
        self._files: dict[Path, _Watched] = {}
        self._names: set[str] = set()
        self._told: set[str] = set()

    def __iter__(self) -> Iterator[Frame]:
        while not self._over:
            for path in self._stable():
                frame = self._read(path, self._files[path])
                if frame is not None:
                    self.taken += 1
                    yield frame
                if self._over or self._selection.is_full(self.taken):
                    return
            self._closed.wait(self._pause)

    def _stable(self) -> Iterator[Path]:
        """Yield new or changed files that have not changed since the last scan."""
        try:
            found = listing.in_folder(
                self._folder, exclude=self._exclude, callback=self._report_once
            )
        except MediaError:  # none yet
            return
        for _, path in found:
            state, file = _state(path), self._files.get(path) or self._add(path)
            if state is not None and state[0] > 0 and state == file.state != file.read:
                yield path
            file.state = state

    def _report_once(self, event: Event) -> None:
        """Pass on a message once, as every scan repeats it."""
        if isinstance(event, Message) and event.text not in self._told:
            self._told.add(event.text)
            self._callback(event)

    def _add(self, path: Path) -> _Watched:
        stem = path.relative_to(self._folder).with_suffix("").as_posix()
        name = free_name(stem, self._names)
        file = self._files[path] = _Watched(len(self._files), name)
        return file

    def _read(self, path: Path, file: _Watched) -> Frame | None:
        """The image; None if it is not selected, its content is unchanged, or it can't be read."""
        state = file.state
        assert state is not None, "it exists"
        if file.index % self._selection.every or self._skip(file.name, path):
            self.skipped += not file.index % self._selection.every
            file.read = state
            return None
        try:
            data = read_bytes(path)
            if _state(path) != state:  # changed meanwhile
                return None
            file.read, before = state, file.digest
            file.digest = hashlib.blake2b(data, digest_size=16).digest()
            if file.digest == before:
                return None
            about = (file.index, self._time(file.index), file.name, path, state[:2])
            frame = frame_of(data, str(path), self.bands, *about)
        except MediaError as error:
            self._note_failure(path, error.message)
            return None
        self._forget_failure(path)
        return frame

    def _note_failure(self, path: Path, why: str) -> None:
        self._forget_failure(path)
        if _state(path) is not None:  # else it was removed
            self.failures.append((str(path), why))
            self._callback(Message(f"{why} It is tried again when it changes.", "warning"))

    def _forget_failure(self, path: Path) -> None:
        self.failures = [failure for failure in self.failures if failure[0] != str(path)]


def check_watch(spec: str) -> None:
    """OptionError for sources that can't be watched: a pipe or a URL."""
    if spec == "-" or "://" in spec:
        raise OptionError(
            f"--watch needs a folder; {spec} is not one.",
            hint="without --watch: a pipe or a stream is followed to its end anyway",
        )


def _state(path: Path) -> _FileState | None:
    """The current state of a file; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def refuse_page(spec: str | Path | Sequence[listing.Named]) -> None:
    """OptionError for --page with a pipe or a URL."""
    text = spec if isinstance(spec, str) else ""
    local = text.startswith("file://") or isinstance(as_path(text), RemotePath)
    if text == "-" or (listing.is_address(text) and not local):
        raise OptionError(
            f"--page is for image files; {text} is none.", hint="save it as a file, or omit --page"
        )


def warn_unused_pages(data: bytes, name: str, callback: Callback) -> None:
    """Warn of unused pages of an image from a pipe or a URL."""
    if (count := count_pages(data)) > 1:
        note = f"{name} has {count} pages or frames; only the first is used"
        callback(Message(f"{note} (--page chooses another one of a file).", "warning"))


def count_pages(data: bytes) -> int:
    """Number of images in a TIFF, GIF, PNG or WebP, without thumbnails; 1 for other formats."""
    if data[:4] == b"\x89PNG" and b"acTL" not in data[:4096]:
        return 1
    if is_tiff(data):
        return max(1, sum(1 for _ in page_offsets(data)))
    if data[:4] not in (b"GIF8", b"RIFF", b"\x89PNG"):
        return 1
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - the decoder reports broken files
        return 1


def read_ahead(
    items: Iterable[tuple[int, str, Path]], read: Callable[[Path], bytes]
) -> Iterator[tuple[tuple[int, str, Path], Callable[[], bytes]]]:
    """Yield each item with a function that returns its file's bytes, or raises.

    Remote files are prefetched concurrently, to hide the latency of the storage.
    """
    waiting: deque[tuple[tuple[int, str, Path], Callable[[], bytes]]] = deque()
    with contextlib.ExitStack() as stack:
        pool: ThreadPoolExecutor | None = None
        for item in items:
            if not isinstance(item[2], RemotePath):
                yield item, functools.partial(read, item[2])
                continue
            if pool is None:
                pool = ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="fcnseg-remote")
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            waiting.append((item, pool.submit(read, item[2]).result))
            if len(waiting) == _READ_AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
