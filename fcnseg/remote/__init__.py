"""Remote storage: files that an fsspec file system has (s3://, gs://, hf://, memory://).

`RemotePath` is a path that readers and writers take for any other; `files.as_path` makes one of an
address. An address of this machine (file://) or of a stream (http://, rtsp://) is none. Options of
a file system come from its own environment variables and files, and from fsspec's (FSSPEC_S3_...).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from fcnseg.errors import FcnsegError, MediaError, MissingExtra, OptionError
from fcnseg.files import IN_MEMORY, SCHEME, NonLocalPath

# FFmpeg's streams, what urllib reads, and this machine's own files.
_OTHERS = frozenset({
    "http", "https", "ftp", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms",
    "mmsh", "file", "local", "data",
})  # fmt: skip

_EXTRA = ("s3", "s3a")
"""Schemes whose package is in the extra `remote`; others name their own."""

UPLOADS = 16
"""Outputs that are written at the same time to remote storage."""


def is_remote(scheme: str) -> bool:
    """Whether addresses that begin so are of remote storage: fsspec knows them, and they are no
    stream's and none of this machine."""
    if scheme in _OTHERS:
        return False
    try:
        from fsspec.registry import known_implementations, registry
    except ImportError:  # torch brings it
        return False
    return scheme in registry or scheme in known_implementations


class RemotePath(NonLocalPath):
    """A file or a folder in remote storage, for whatever takes a Path.

    What a listing said of it (size, time of change) is kept, so that `stat` does not ask again.
    FileNotFoundError as for local files, MediaError (an OSError) for all else; OptionError or
    MissingExtra without the package or the credentials.
    """

    known: dict[str, Any] | None = None

    def __str__(self) -> str:
        text = super().__str__().replace(os.sep, "/")
        return SCHEME.sub(r"\1://", text, count=1)

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),), {"known": self.known}

    @property
    def file_system(self) -> Any:
        """The fsspec file system that has it; MissingExtra or OptionError without its package."""
        import fsspec

        scheme = str(self).partition(":")[0].lower()
        try:
            return fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise _no_package(self, scheme, error) from None

    @property
    def key(self) -> str:
        """Its name in the file system; a name there may hold what a path can't ("a//b")."""
        if self.known is not None:
            return str(self.known["name"])
        return str(self.file_system._strip_protocol(str(self)))  # fsspec has no other name for it

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size, time of change, and a number of its own; one request unless a listing said it."""
        del follow_symlinks
        if self.known is None:
            with _errors_as_ours(self):
                self.known = self.file_system.info(self.key)
        info = self.known
        kind = stat.S_IFDIR if info.get("type") == "directory" else stat.S_IFREG
        number = int.from_bytes(hashlib.blake2b(self.key.encode(), digest_size=7).digest())
        size, when = int(info.get("size") or 0), _changed(info)
        sequence = (kind | 0o644, number, 0, 1, 0, 0, size, *(when // 10**9,) * 3)
        return os.stat_result(sequence, {"st_mtime_ns": when})

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is a file, or files below it."""
        del follow_symlinks
        return self._kind() is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is a file."""
        del follow_symlinks
        return (kind := self._kind()) is not None and stat.S_ISREG(kind)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether files are below it."""
        del follow_symlinks
        return (kind := self._kind()) is not None and stat.S_ISDIR(kind)

    def _kind(self) -> int | None:
        self.known = None  # it may have come or gone
        try:
            return self.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    def resolve(self, strict: bool = False) -> RemotePath:
        """Itself: there are no links."""
        del strict
        return self

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def expanduser(self) -> RemotePath:
        """Itself."""
        return self

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders are there when files are."""
        del mode, parents, exist_ok

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        allowed = (FileNotFoundError,) if missing_ok else ()
        with contextlib.suppress(*allowed), _errors_as_ours(self):
            self.file_system.rm_file(self.key)

    def remove_tree(self) -> None:
        """Delete every file below it."""
        for path in list(self.files_below()):
            path.unlink(missing_ok=True)

    def iterdir(self) -> Iterator[RemotePath]:
        """What is directly in a folder."""
        try:
            with _errors_as_ours(self):
                listed = self.file_system.ls(self.key, detail=True)
        except FileNotFoundError:
            return
        for info in listed:
            yield self._below(info)

    def glob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:
        """What is directly in a folder and has a name of a pattern."""
        del options
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_bytes(self) -> bytes:
        """The file's bytes, in one request."""
        with _errors_as_ours(self):
            return bytes(self.file_system.cat_file(self.key))

    def open(  # noqa: D102, PLR0913, RUF100 - as Path.open
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        del buffering
        file: BinaryIO
        if "r" in mode:
            with _errors_as_ours(self):
                file = self.file_system.open(self.key, "rb", block_size=2**20)
        else:
            file = cast(BinaryIO, _Upload(self, append="a" in mode))
        return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)

    def upload(self, file: IO[bytes]) -> None:
        """Make a file's bytes its own, all at once."""
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        with _errors_as_ours(self):
            if length <= IN_MEMORY:
                self.file_system.pipe_file(self.key, file.read())
            else:
                with self.file_system.open(self.key, "wb") as out:
                    shutil.copyfileobj(file, out, 2**22)
        self.known = None

    def download(self, path: Path) -> None:
        """Copy it to a local file, which gets its time of change."""
        with _errors_as_ours(self):
            self.file_system.get_file(self.key, str(path))
        when = self.stat().st_mtime_ns
        os.utime(path, ns=(when, when))

    def files_below(self) -> Iterator[RemotePath]:
        """The files below a folder, as a stream: no more of them in memory than a page.

        S3 is asked for pages of 1,000 keys, in their order; others for a folder at a time.
        """
        with _errors_as_ours(self):
            for info in self._infos_below():
                if not info["name"].endswith("/"):  # what consoles make for an empty folder
                    yield self._below(info)

    def _infos_below(self) -> Iterator[dict[str, Any]]:
        """fsspec's descriptions of the files below it."""
        system = self.file_system
        if not hasattr(system, "call_s3"):
            for _, _, files in system.walk(self.key, detail=True):
                yield from (files[name] for name in sorted(files))
            return
        bucket, _, prefix = self.key.partition("/")
        wanted = {"Bucket": bucket, "Prefix": f"{prefix.rstrip('/')}/" if prefix else ""}
        more: dict[str, str] = {}
        while True:
            page = system.call_s3("list_objects_v2", **wanted, **more)
            for found in page.get("Contents", ()):
                known = {"LastModified": found.get("LastModified"), "ETag": found.get("ETag")}
                yield {"name": f"{bucket}/{found['Key']}", "size": found["Size"], **known}
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _below(self, info: dict[str, Any]) -> RemotePath:
        name = str(info["name"])
        inside = name[len(self.key) :] if name.startswith(self.key) else name
        parts = ["_" if part == ".." else part for part in inside.split("/")]  # never out of it
        path = cast(RemotePath, self.joinpath(*filter(None, parts)))
        path.known = info
        return path


class _Upload(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
    """A file to write to that becomes a RemotePath's content when it is closed."""

    def __init__(self, path: RemotePath, *, append: bool) -> None:
        super().__init__(max_size=IN_MEMORY)
        self._path = path
        if append:
            with contextlib.suppress(FileNotFoundError):
                self.write(path.read_bytes())

    def close(self) -> None:
        """Upload what was written."""
        try:
            if not self.closed:
                self._path.upload(cast(IO[bytes], self))
        finally:
            super().close()

    def __exit__(self, kind: object, *rest: object) -> None:
        """Upload it, unless the block ends with an error."""
        self.close() if kind is None else super().close()


def _changed(info: dict[str, Any]) -> int:
    """A time of change in ns; where none is known, a number that changes with the content."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 10**6) * 1000
        if isinstance(value, int | float):
            return int(value * 10**9)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return int(datetime.fromisoformat(value).timestamp() * 10**6) * 1000
    mark = next(
        (str(info[name]) for name in ("ETag", "etag", "blob_id", "sha256") if info.get(name)), ""
    )
    return int.from_bytes(hashlib.blake2b(mark.encode(), digest_size=6).digest()) if mark else 0


@contextlib.contextmanager
def _errors_as_ours(path: Path) -> Iterator[None]:
    """What a file system raises, as ours; that there is no such file as for local ones."""
    try:
        yield
    except (FcnsegError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except ImportError as error:
        raise _no_package(path, str(path).partition(":")[0], error) from None
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        text = " ".join(str(error).split()) or type(error).__name__
        if "Credential" in type(error).__name__ or "credentials" in text.lower():
            raise OptionError(
                f"{path} needs credentials, and none were found: {text}",
                hint="docs/remote.md says where each storage looks for them",
            ) from None
        denied = isinstance(error, PermissionError)
        raise MediaError(
            f"{path} {'denied access' if denied else 'could not be reached'}: {text}",
            hint="are the credentials and the endpoint right? docs/remote.md says what is read",
        ) from None


def _no_package(path: Path, scheme: str, error: ImportError) -> FcnsegError:
    if scheme in _EXTRA:
        return MissingExtra(f"{path}", "remote")
    text = str(error)
    return OptionError(
        f"{path} needs a package that is not installed: {text}",
        hint=f"pip install the package of fsspec for {scheme}://",
    )
