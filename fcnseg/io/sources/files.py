"""Images as sources: files, a folder that is watched, and what a web server gives.

In a watched folder an image counts as there when two looks find the same file: one that is still
being written grows. It is done again when its content is another, whether it was written over or
replaced.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from fcnseg.errors import MediaError, OptionError
from fcnseg.files import free_name, safe_filename
from fcnseg.io.bands.files import page_of
from fcnseg.io.content import is_image
from fcnseg.io.content.pages import count_pages
from fcnseg.io.images import read_bytes
from fcnseg.io.sources import listing
from fcnseg.io.sources.base import Frame, ImageSource, Kind, Selection, Source
from fcnseg.io.sources.live import unreachable, without_password
from fcnseg.progress import Callback, Event, Message, no_callback

Skip = Callable[[str, Path], bool]
"""Whether an image or a frame of a video, by its name and file, is to be passed over."""


def nothing(name: str, path: Path) -> bool:
    """Pass over nothing."""
    del name, path
    return False


class ImageFiles(ImageSource):
    """One image file or several, each read when its turn comes.

    A single image that can't be read raises; of several, it is noted in `failures`. within: those
    that are asked for.
    """

    def __init__(
        self,
        files: list[listing.Named],
        kind: Kind,
        selection: Selection,
        skip: Skip = nothing,
        callback: Callback = no_callback,
        within: slice = slice(None),
    ) -> None:
        super().__init__()
        self.kind, self._selection, self._callback, self._skip = kind, selection, callback, skip
        wanted = [(at, *named) for at, named in enumerate(files)][within][:: selection.every]
        fresh = [item for item in wanted if not skip(*item[1:])]
        self._chosen = fresh[: selection.limit or None][selection.rank :: selection.size]
        self.skipped = 0 if selection.rank else len(wanted) - len(fresh)  # counted once
        self.count = None if selection.page == "all" else len(self._chosen)

    def __iter__(self) -> Iterator[Frame]:
        given = extra = 0  # frames; those beyond one for each file
        for index, name, path in self._chosen:
            if self._over:
                return
            self.taken += 1
            try:
                for number, (page, called) in enumerate(self._pages(read_bytes(path), name, path)):
                    if self._over or self._selection.is_full(given):
                        return
                    given += 1
                    extra += number > 0
                    self.taken += number > 0
                    about = (index + extra, self._time(index + extra), called, path)
                    yield listing.frame_of(page, str(path), self.bands, *about)
            except MediaError as error:
                if self.kind == "image":
                    raise
                self.failures.append((str(path), error.message))

    def _pages(self, data: bytes, name: str, path: Path) -> Iterator[tuple[bytes, str]]:
        """The pages of a file that are wanted, each as a file's bytes, with their names."""
        wanted, count = self._selection.page, count_pages(data)
        if wanted == "all" and count > 1:
            digits = len(str(count))
            for page in range(count):
                called = f"{name}_page{page + 1:0{digits}}"
                if not self._skip(called, path):
                    yield page_of(data, page, str(path)), called
            return
        if wanted.isdecimal() and int(wanted) > count:
            raise MediaError(f"{path} has {count} pages or frames; page {wanted} is not there.")
        if count > 1 and not wanted:
            said = f"{path} has {count} pages or frames; only the first is used"
            self._callback(Message(f"{said} (--page all, or --page N, chooses others).", "warning"))
        yield (page_of(data, int(wanted) - 1, str(path)) if wanted.isdecimal() else data), name


_Look = tuple[int, int, int, int]  # size, times of change, number: of a file and its content


@dataclass
class _Watched:
    """One path: its place among all that came, the name of its outputs, what is known of it.

    look: what the last look found; read: what it was when it was read. digest: of that content.
    """

    index: int
    name: str
    look: _Look | None = None
    read: _Look | None = None
    digest: bytes = b""


class WatchedFolder(ImageSource):
    """The images of a folder and those that come or change later, until it is closed.

    pause: seconds between two looks. The callback hears of images that can't be read; they are
    read again when they change.
    """

    kind: Kind = "folder"

    def __init__(
        self,
        folder: Path,
        selection: Selection,
        *,
        exclude: Path | None = None,
        skip: Skip = nothing,
        pause: float = 0.5,
        callback: Callback = no_callback,
    ) -> None:
        super().__init__()
        if not folder.is_dir():
            raise MediaError(f"{folder} is not a folder that could be watched.")
        self._folder, self._selection = folder, selection
        self._exclude, self._skip, self._pause = exclude, skip, pause
        self._callback = callback
        self._files: dict[Path, _Watched] = {}
        self._names: set[str] = set()
        self._told: set[str] = set()

    def __iter__(self) -> Iterator[Frame]:
        while not self._over:
            for path in self._settled():
                frame = self._read(path, self._files[path])
                if frame is not None:
                    self.taken += 1
                    yield frame
                if self._over or self._selection.is_full(self.taken):
                    return
            self._closed.wait(self._pause)

    def _settled(self) -> Iterator[Path]:
        """The files that are new or changed, and that are what they were at the last look."""
        try:
            found = listing.in_folder(self._folder, exclude=self._exclude, callback=self._tell_once)
        except MediaError:  # none yet
            return
        for _, path in found:
            look, file = _look(path), self._files.get(path) or self._add(path)
            if look is not None and look[0] > 0 and look == file.look != file.read:
                yield path
            file.look = look

    def _tell_once(self, event: Event) -> None:
        """Every look finds the same again."""
        if isinstance(event, Message) and event.text not in self._told:
            self._told.add(event.text)
            self._callback(event)

    def _add(self, path: Path) -> _Watched:
        stem = path.relative_to(self._folder).with_suffix("").as_posix()
        name = free_name(stem, self._names)
        file = self._files[path] = _Watched(len(self._files), name)
        return file

    def _read(self, path: Path, file: _Watched) -> Frame | None:
        """The image; None when it is not wanted, is what it was before, or can't be read."""
        look = file.look
        assert look is not None, "it is there"
        if file.index % self._selection.every or self._skip(file.name, path):
            self.skipped += not file.index % self._selection.every
            file.read = look
            return None
        try:
            data = read_bytes(path)
            if _look(path) != look:  # written to meanwhile: it has to settle again
                return None
            file.read, before = look, file.digest
            file.digest = hashlib.blake2b(data, digest_size=16).digest()
            if file.digest == before:
                return None
            about = (file.index, self._time(file.index), file.name, path, look[:2])
            frame = listing.frame_of(data, str(path), self.bands, *about)
        except MediaError as error:
            self._note_failure(path, error.message)
            return None
        self._forget_failure(path)
        return frame

    def _note_failure(self, path: Path, why: str) -> None:
        self._forget_failure(path)
        if _look(path) is not None:  # else it was taken away again
            self.failures.append((str(path), why))
            self._callback(Message(f"{why} It is tried again when it changes.", "warning"))

    def _forget_failure(self, path: Path) -> None:
        self.failures = [failure for failure in self.failures if failure[0] != str(path)]


def check_watch(spec: str) -> None:
    """OptionError for what can't be watched: a pipe or an address."""
    if spec == "-" or "://" in spec:
        raise OptionError(
            f"--watch stays with a folder; {spec} is none.",
            hint="without --watch: a pipe or a stream is followed to its end anyway",
        )


def _look(path: Path) -> _Look | None:
    """A file as it is now; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


MOST_BYTES = 512 << 20
"""An image is smaller; what is longer than that is a stream that calls itself one."""

_SECONDS = 10.0
"""How long a server may be silent."""

_MIXED = "multipart/x-mixed-replace"


@dataclass(frozen=True)
class Served:
    """What is at an address.

    kind: what the server calls it ("image/png"; "" when it does not say). image: its bytes, where
    it is one. ends: whether the server says how long it is.
    """

    kind: str
    image: bytes | None
    ends: bool

    @property
    def is_text(self) -> bool:
        """A page for people, an error in JSON: nothing that could be decoded."""
        return self.kind in ("text/html", "application/json", "application/xhtml+xml")

    @property
    def is_file(self) -> bool:
        """A file, and no playlist of a stream."""
        return self.ends and not (self.kind.endswith("mpegurl") or self.kind.startswith("text/"))


def look_at(address: str) -> Served | None:
    """What an http(s) address gives; None where only a player can ask (a password of another sort).

    An image is read to its end; of anything else only the start. MediaError when there is none.
    """
    shown = without_password(address)
    try:
        with urlopen(_request(address), timeout=_SECONDS) as response:
            return _answer_of(response, shown)
    except MediaError:  # an OSError, too
        raise
    except HTTPError as error:
        error.close()
        if error.code == http.client.UNAUTHORIZED:
            return None
        raise MediaError(
            f"The server answers {error.code} {error.reason} for {shown}.",
            hint="check the address",
        ) from None
    except TimeoutError:
        raise _silent(shown) from None
    except URLError as error:
        if isinstance(error.reason, socket.timeout):
            raise _silent(shown) from None
        raise unreachable(address) from None
    except http.client.HTTPException:  # no server of this kind: a camera's own ways
        return None
    except OSError:
        raise MediaError(f"The connection broke off while {shown} was read.") from None


class ServedImage(Source):
    """One image from a server, already here."""

    kind: Kind = "image"
    count = 1

    def __init__(self, address: str, data: bytes, selection: Selection) -> None:
        super().__init__()
        del selection  # the first frame of one is always wanted
        self._data, self._shown = data, without_password(address)
        self.name = safe_filename(PurePosixPath(unquote(urlsplit(address).path)).stem)

    def __iter__(self) -> Iterator[Frame]:
        self.taken += 1
        yield listing.frame_of(self._data, self._shown, self.bands, 0, 0.0, self.name)


def _request(address: str) -> Request:
    """A request; a user name and password in the address are sent as they are meant."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host, fragment="").geturl())
    request.add_header("User-Agent", "fcnseg")
    if user:
        word = base64.b64encode(unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    return request


def _answer_of(response: Any, shown: str) -> Served:
    kind = response.headers.get_content_type() if "content-type" in response.headers else ""
    length = response.headers.get("content-length")
    if kind == _MIXED:
        return Served(kind, None, ends=False)
    start = response.read(64)
    ends = bool(length and length.isdecimal())
    if not (is_image(start) and (ends or kind.startswith("image/"))):
        if kind.startswith("image/"):
            raise MediaError(f"{shown} is called {kind}, but its content is no image.")
        return Served(kind, None, ends)
    data = start + response.read(MOST_BYTES)
    if length and len(data) < min(int(length), MOST_BYTES):
        raise MediaError(f"{shown} broke off after {len(data)} of {length} bytes.")
    return Served(kind, data if len(data) < MOST_BYTES else None, ends)


def _silent(shown: str) -> MediaError:
    return MediaError(
        f"{shown}: the server has said nothing for {_SECONDS:g} s.", hint="try it again later"
    )
