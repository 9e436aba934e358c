"""Atomic writes and file names."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from fcnseg.errors import LONGEST_NAME, OptionError, user_path

IN_MEMORY = 2**25
"""Maximum bytes of an upload held in memory; larger ones use a temporary file."""


class NonLocalPath(ABC, type(Path())):  # type: ignore[misc] # a PosixPath or a WindowsPath
    """A path to remote storage: files are downloaded to read them, and uploaded when complete."""

    @abstractmethod
    def upload(self, file: IO[bytes]) -> None:
        """Write a file's content to it, atomically; OSError when it can't be written."""

    @abstractmethod
    def download(self, path: Path) -> None:
        """Copy it to a local file; OSError when it can't be read."""

    @abstractmethod
    def remove_tree(self) -> None:
        """Delete every file below it."""


SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):(?:/+|$)")


def as_path(text: str | os.PathLike[str]) -> Path:
    """A RemotePath for a URL of remote storage, "s3://bucket/key"; else a Path."""
    if isinstance(text, NonLocalPath):
        return text
    found, local = SCHEME.match(os.fspath(text)), text if isinstance(text, Path) else Path(text)
    if found is None:
        return local
    from fcnseg.remote import RemotePath, is_remote

    return RemotePath(text) if is_remote(found[1].lower()) else local


def given_path(text: str | os.PathLike[str]) -> Path:
    """`as_path` for user input: a leading `~` is the home folder."""
    path = as_path(text)
    return path if isinstance(path, NonLocalPath) else user_path(path)


class StagedPath(type(Path())):  # type: ignore[misc]
    """A temporary local file; `replace` uploads it to a NonLocalPath."""

    def replace(self, target: Any) -> Any:
        """Upload it and remove the local file; to a local path, rename it."""
        if not isinstance(target, NonLocalPath):
            return super().replace(target)
        with self.open("rb") as file:
            target.upload(file)
        self.unlink()
        return target


def cache_folder() -> Path:
    """The cache folder: FCNSEG_CACHE, else the platform's standard one."""
    if named := os.environ.get("FCNSEG_CACHE"):
        return Path(named)
    if not (home := user_path("~")).is_absolute():  # a container's user without a home folder
        home = Path(tempfile.gettempdir())
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "fcnseg" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "fcnseg"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fcnseg"


def stamp(path: Path) -> list[int]:
    """Size and modification time (ns) of a file, to detect changes; empty if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


_ROOM = 55
"""Bytes of a name reserved for what is appended later: numbers, `_overlay.partial.mp4`."""


def numbered(parent: Path, name: str) -> Iterator[Path]:
    """Yield parent/name1, parent/name2 ..., starting after the highest number in use."""
    taken = (path.name.removeprefix(name) for path in parent.glob(f"{name}*"))
    first = max((int(rest) for rest in taken if rest.isdecimal()), default=0) + 1
    return (parent / f"{name}{number}" for number in itertools.count(first))


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or `wanted_2`, `wanted_3` ... if that is taken; the result is added to `taken`."""
    name, number = wanted, 2
    while (key := name_key(name)) in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(key)
    return name


def name_key(name: str) -> str:
    """A key that is equal for names that are the same file on some file systems: A and a, NFC
    and NFD."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """A key for natural sorting: frame_9 before frame_10."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def safe_filename(text: str) -> str:
    """Text as part of a file name, short enough to append to."""
    return shortened(re.sub(r"[^\w.-]+", "_", text).strip("_.") or "frame", room=_ROOM)


def safe_path(text: str) -> str:
    """`safe_filename` for each part of a path with "/" between folders."""
    return "/".join(safe_filename(part) for part in text.split("/"))


try:
    import fcntl
except ImportError:  # Windows: temporary files are not locked, and stale ones not removed
    fcntl = None  # type: ignore[assignment]

# The host name is part of it: not every network drive shows locks of other machines, so only
# this machine's temporary files are removed.
_MARK = f".fcnseg-{hashlib.sha256(platform.node().encode()).hexdigest()[:6]}-"

_LONGEST = 60
"""Maximum bytes of the target's name in a temporary file's name."""

_cleaned: set[Path] = set()


def is_special(path: Path) -> bool:
    """Whether a path is a device or a pipe (/dev/stdout, >(...)), which is never replaced."""
    with suppress(OSError):
        return stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
    return False


def kind_of(path: Path) -> str:
    """What a path that is not a folder is, for messages."""
    return "a device or a pipe" if is_special(path) else "a file"


def is_stdout(path: object) -> bool:
    """Whether a path is "-", standard output."""
    return path == Path("-")


@contextmanager
def atomic_write(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    sync: fsync before it is renamed. Creates the folder; raises OSError unchanged. A remote file
    is uploaded at the end.
    """
    if isinstance(path, NonLocalPath):
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as waiting:
            yield cast(BinaryIO, waiting)
            path.upload(cast(BinaryIO, waiting))
        return
    if is_special(path):
        with path.open("wb") as file:
            yield file
        return
    with temporary_beside(path) as temporary:
        with temporary.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Create an empty hidden file beside `path`, with its suffix; removed at the end if still left.

    For writers that need a path instead of a file object; the caller renames it. For a remote
    file it is in a temporary folder, and renaming uploads it.
    """
    if isinstance(path, NonLocalPath):
        with tempfile.TemporaryDirectory(prefix="fcnseg-") as folder:
            staged = StagedPath(folder) / path.name
            staged.touch()
            yield staged
        return
    with _beside(path, _create_file) as temporary:
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Create a hidden folder beside `path`; removed at the end with its content, if still there."""
    with _beside(path, Path.mkdir) as temporary:
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A file's name for libraries that accept only UTF-8: its own, if it is UTF-8.

    Else the name of a temporary link with its suffix, valid within the block; files that differ
    only in their suffix are linked beside it. A remote file is downloaded instead.
    """
    if isinstance(path, NonLocalPath):
        with tempfile.TemporaryDirectory(prefix="fcnseg-") as folder:
            path.download(copy := Path(folder) / f"file{path.suffix}")
            yield str(copy)
        return
    path = path.absolute()  # else FFmpeg takes what is before a colon for a protocol
    if _is_utf8(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="fcnseg-") as folder:
        link = Path(folder) / "file"
        for file in {path, *path.parent.glob(f"{glob.escape(path.stem)}.*")}:
            if _is_utf8(file.suffix) and file.stem == path.stem:
                link.with_suffix(file.suffix).symlink_to(file)
        yield str(link.with_suffix(path.suffix))


def _is_utf8(text: str) -> bool:
    return os.fsencode(text).decode(errors="replace") == text


def shortened(name: str, suffix: str = "", *, room: int = 0) -> str:
    """A file's name with its suffix, shortened if it is longer than file systems allow.

    A shortened name ends in a hash of the full one, so that names stay distinct. room: bytes to
    leave free. Folders before the name ("/" between them) stay as they are.
    """
    folder, slash, last = name.rpartition("/")
    most = LONGEST_NAME - len(os.fsencode(suffix)) - room
    if len(os.fsencode(last)) > most:
        mark = f"~{hashlib.sha256(os.fsencode(last)).hexdigest()[:10]}"
        last = _cut(last, most - len(mark)) + mark
    return f"{folder}{slash}{last}{suffix}"


def _cut(name: str, most: int) -> str:
    """The longest prefix of at most `most` bytes."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def partial(path: Path) -> Path:
    """The name of an incomplete file beside a complete one: out.partial.mp4."""
    return path.with_name(shortened(path.stem, f".partial{path.suffix}"))


def _create_file(path: Path) -> None:
    # The kernel applies the umask. Python can read it only by changing it, for all threads.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


@contextmanager
def _beside(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Create and lock a temporary file or folder beside `path`."""
    if is_special(path):
        raise OptionError(f"{path} is a device or a pipe; expected a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    stem = _cut(path.stem, _LONGEST)
    suffix = path.suffix if len(path.suffix) < 16 else ""
    lock = None
    while lock is None:
        temporary = path.with_name(f".{stem}{_MARK}{secrets.token_hex(4)}{suffix}")
        with suppress(FileExistsError):
            create(temporary)
            lock = _lock(temporary)
    try:
        yield temporary
    finally:
        if lock >= 0:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a new file or folder; return the file descriptor that holds the lock.

    -1 without support for locks; None if another process removed it as stale before it was locked.
    """
    if fcntl is None:
        return -1
    try:
        number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # a file system without locks
        fcntl.flock(number, fcntl.LOCK_EX)
    if path.exists():
        return number
    os.close(number)
    return None


def _remove_stale(folder: Path) -> None:
    """Remove temporary files of ended processes of this machine; once per folder."""
    if fcntl is None or folder in _cleaned:
        return
    _cleaned.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(".")]:
            if _MARK in entry.name:
                with suppress(OSError):
                    _remove_unless_locked(Path(entry.path))


def _remove_unless_locked(path: Path) -> None:
    """Remove a file or folder; OSError if it is locked or can't be locked."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(number)
