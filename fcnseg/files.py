"""Files: atomic writes, and names."""

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
"""Bytes of an upload that are kept in memory; more go to a temporary file."""


class NonLocalPath(ABC, type(Path())):  # type: ignore[misc] # a PosixPath or a WindowsPath
    """A path of files that are not this machine's: copied here to be read, sent when complete."""

    @abstractmethod
    def upload(self, file: IO[bytes]) -> None:
        """Make a file's bytes its own, all at once; OSError when it can't be written."""

    @abstractmethod
    def download(self, path: Path) -> None:
        """Copy it to a local file; OSError when it can't be read."""

    @abstractmethod
    def remove_tree(self) -> None:
        """Delete every file below it."""


SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):(?:/+|$)")


def as_path(text: str | os.PathLike[str]) -> Path:
    """A RemotePath for an address of remote storage, "s3://bucket/key"; else a Path."""
    if isinstance(text, NonLocalPath):
        return text
    found = SCHEME.match(os.fspath(text))
    if found is None:
        return Path(text)
    from fcnseg.remote import RemotePath, is_remote

    return RemotePath(text) if is_remote(found[1].lower()) else Path(text)


def given_path(text: str | os.PathLike[str]) -> Path:
    """The same of a source as it is given: a leading `~` is the home folder."""
    path = as_path(text)
    return path if isinstance(path, NonLocalPath) else user_path(path)


class StagedPath(type(Path())):  # type: ignore[misc]
    """A local file that is to become one elsewhere: `replace` uploads it."""

    def replace(self, target: Any) -> Any:
        """Upload it, and remove it here."""
        if not isinstance(target, NonLocalPath):
            return super().replace(target)
        with self.open("rb") as file:
            target.upload(file)
        self.unlink()
        return target


def cache_folder() -> Path:
    """Where fcnseg keeps what it can make again: FCNSEG_CACHE, else the system's place."""
    if named := os.environ.get("FCNSEG_CACHE"):
        return Path(named)
    if not (home := user_path("~")).is_absolute():  # a container's user without a name
        home = Path(tempfile.gettempdir())
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home) / "fcnseg" / "cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "fcnseg"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fcnseg"


def stamp(path: Path) -> list[int]:
    """What changes when a file does; empty when there is none."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


_ROOM = 55
"""Bytes that are left for what is added to a part of a name: numbers, `_overlay.partial.mp4`."""


def numbered(parent: Path, name: str) -> Iterator[Path]:
    """parent/name1, parent/name2 ..., from the first number on that is above all taken."""
    taken = (path.name.removeprefix(name) for path in parent.glob(f"{name}*"))
    first = max((int(rest) for rest in taken if rest.isdecimal()), default=0) + 1
    return (parent / f"{name}{number}" for number in itertools.count(first))


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with the first number that makes it differ from `taken`, which it joins."""
    name, number = wanted, 2
    while (key := name_key(name)) in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(key)
    return name


def name_key(name: str) -> str:
    """The same for names that some file systems take for one: A and a, accents composed or not."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A sorting key by which frame_9 comes before frame_10."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def safe_filename(text: str) -> str:
    """Text as a part of a file name, which leaves room for more."""
    return fitting(re.sub(r"[^\w.-]+", "_", text).strip("_.") or "frame", room=_ROOM)


def safe_path(text: str) -> str:
    """A path with "/" between folders whose parts are each a part of a file name."""
    return "/".join(safe_filename(part) for part in text.split("/"))


try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and nothing left behind is removed
    fcntl = None  # type: ignore[assignment]

# Another machine's locks can't be seen on every network drive: its files are left alone.
_MARK = f".fcnseg-{hashlib.sha256(platform.node().encode()).hexdigest()[:6]}-"

_LONGEST = 60
"""Bytes of a name that its temporary one keeps."""

_looked_through: set[Path] = set()


def is_special(path: Path) -> bool:
    """Whether a path is a device or a pipe (/dev/stdout, >(...)): written to, never replaced."""
    with suppress(OSError):
        return stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
    return False


def kind_of(path: Path) -> str:
    """What is there where a folder is needed, for messages."""
    return "a device or a pipe" if is_special(path) else "a file"


def is_stdout(path: object) -> bool:
    """Whether a path is that of standard output: -."""
    return path == Path("-")


@contextmanager
def atomic_write(path: Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write bytes to, which gets its name when the block ends without an error.

    Until then a file of that name stays as it is. sync: it is on the disk before it gets its
    name. Makes the folder; OSError as the system raises it. A remote file is uploaded at the end.
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
    """A new, empty, hidden file beside `path`, with its suffix; removed at the end if still there.

    For what can't be written through a file object; whoever writes it renames it. For a remote
    file it lies in a temporary folder, and renaming uploads it.
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
    """The same as a folder, with whatever is left in it."""
    with _beside(path, Path.mkdir) as temporary:
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A name of a file for libraries that take no other than UTF-8: its own where it is.

    Else that of a link to it, with its suffix, as long as the block lasts; files that differ
    from it in their suffix only are linked beside it. A remote file is copied there.
    """
    if isinstance(path, NonLocalPath):
        with tempfile.TemporaryDirectory(prefix="fcnseg-") as folder:
            path.download(copy := Path(folder) / f"file{path.suffix}")
            yield str(copy)
        return
    path = path.absolute()  # else what stands before a colon is a protocol to FFmpeg
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


def fitting(name: str, suffix: str = "", *, room: int = 0) -> str:
    """A file's name with its suffix, shortened where that is more than file systems allow.

    What is cut off leaves a hash of the full name, so that names that differ still do. room:
    bytes to leave free. Folders before the name ("/" between them) stay as they are.
    """
    folder, slash, last = name.rpartition("/")
    most = LONGEST_NAME - len(os.fsencode(suffix)) - room
    if len(os.fsencode(last)) > most:
        mark = f"~{hashlib.sha256(os.fsencode(last)).hexdigest()[:10]}"
        last = _cut(last, most - len(mark)) + mark
    return f"{folder}{slash}{last}{suffix}"


def _cut(name: str, most: int) -> str:
    """As much of the beginning as so many bytes hold."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def partial(path: Path) -> Path:
    """What an incomplete file is called where there is a complete one: out.partial.mp4."""
    return path.with_name(fitting(path.stem, f".partial{path.suffix}"))


def _create_file(path: Path) -> None:
    # The kernel takes the umask off; to ask for it, a process would have to change it for all
    # of its threads.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


@contextmanager
def _beside(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A new name beside `path`, created and held."""
    if is_special(path):
        raise OptionError(f"{path} is a device or a pipe; expected a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_behind(path.parent)
    stem = _cut(path.stem, _LONGEST)
    suffix = path.suffix if len(path.suffix) < 16 else ""
    held = None
    while held is None:
        temporary = path.with_name(f".{stem}{_MARK}{secrets.token_hex(4)}{suffix}")
        with suppress(FileExistsError):
            create(temporary)
            held = _hold(temporary)
    try:
        yield temporary
    finally:
        if held >= 0:
            os.close(held)


def _hold(path: Path) -> int | None:
    """Lock what was just created, until the number is closed; -1 where that can't be done.

    None when it was taken for something left behind, and removed, before it was locked.
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


def _remove_left_behind(folder: Path) -> None:
    """Remove what processes of this machine that are gone have left in a folder; looks once."""
    if fcntl is None or folder in _looked_through:
        return
    _looked_through.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(".")]:
            if _MARK in entry.name:
                with suppress(OSError):
                    _remove_unless_held(Path(entry.path))


def _remove_unless_held(path: Path) -> None:
    """OSError when it is locked, or that is unknown."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(number)
