"""Remote storage: files of fsspec file systems (s3://, gs://, hf://, memory://).

`RemotePath` can be used like any other path; `files.as_path` creates one from a URL. URLs of local
files (file://) and streams (http://, rtsp://) are not remote storage. A file system is configured
by its own environment variables and files, and by those of fsspec (FSSPEC_S3_...).
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

# Schemes of FFmpeg, urllib and local files.
_OTHERS = frozenset({
    "http", "https", "ftp", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms",
    "mmsh", "file", "local", "data",
})  # fmt: skip

_EXTRA = ("s3", "s3a")
"""Schemes whose package is in the extra `remote`; the error for others names their package."""

UPLOADS = 16
"""Number of concurrent uploads of outputs."""


def is_remote(scheme: str) -> bool:
    """Whether a URL scheme is remote storage: known to fsspec, not for streams or local files."""
    if scheme in _OTHERS:
        return False
    try:
        from fsspec.registry import known_implementations, registry
    except ImportError:  # fsspec is installed with torch
        return False
    return scheme in registry or scheme in known_implementations


class RemotePath(NonLocalPath):
    """A file or a folder in remote storage, with the interface of Path.

    Information from a listing (size, modification time) is kept, so that `stat` needs no request.
    Raises FileNotFoundError like local files, MediaError (an OSError) for other failures;
    OptionError or MissingExtra without the package or the credentials.
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
        """Its fsspec file system; MissingExtra or OptionError without its package."""
        import fsspec

        scheme = str(self).partition(":")[0].lower()
        try:
            return fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise _no_package(self, scheme, error) from None

    @property
    def key(self) -> str:
        """Its name in the file system, which may contain what a path can't ("a//b")."""
        if self.known is not None:
            return str(self.known["name"])
        return str(self.file_system._strip_protocol(str(self)))  # there is no public name for it

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size, modification time and a unique inode number; one request unless known."""
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
        """Whether it is a file or a folder."""
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
        self.known = None  # it may have been created or deleted
        try:
            return self.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None

    def resolve(self, strict: bool = False) -> RemotePath:
        """The path itself: there are no links."""
        del strict
        return self

    def absolute(self) -> RemotePath:
        """The path itself."""
        return self

    def expanduser(self) -> RemotePath:
        """The path itself."""
        return self

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: folders exist with their files."""
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
        """Yield the entries of a folder."""
        try:
            with _errors_as_ours(self):
                listed = self.file_system.ls(self.key, detail=True)
        except FileNotFoundError:
            return
        for info in listed:
            yield self._below(info)

    def glob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:
        """Yield the entries of a folder whose names match a pattern."""
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
        """Write a file's content to it, atomically."""
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
        """Copy it to a local file, with its modification time."""
        with _errors_as_ours(self):
            self.file_system.get_file(self.key, str(path))
        when = self.stat().st_mtime_ns
        os.utime(path, ns=(when, when))

    def files_below(self) -> Iterator[RemotePath]:
        """Yield the files below a folder, with at most one page of them in memory.

        S3 returns ordered pages of 1,000 keys; other file systems are listed folder by folder.
        """
        with _errors_as_ours(self):
            for info in self._infos_below():
                if not info["name"].endswith("/"):  # placeholder for an empty folder
                    yield self._below(info)

    def _infos_below(self) -> Iterator[dict[str, Any]]:
        """Yield fsspec's information on the files below it."""
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
        parts = ["_" if part == ".." else part for part in inside.split("/")]  # no path traversal
        path = cast(RemotePath, self.joinpath(*filter(None, parts)))
        path.known = info
        return path


class _Upload(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
    """A writable file that is uploaded to a RemotePath when it is closed."""

    def __init__(self, path: RemotePath, *, append: bool) -> None:
        super().__init__(max_size=IN_MEMORY)
        self._path = path
        if append:
            with contextlib.suppress(FileNotFoundError):
                self.write(path.read_bytes())

    def close(self) -> None:
        """Upload the content."""
        try:
            if not self.closed:
                self._path.upload(cast(IO[bytes], self))
        finally:
            super().close()

    def __exit__(self, kind: object, *rest: object) -> None:
        """Upload the content, unless the block raised an error."""
        self.close() if kind is None else super().close()


def _changed(info: dict[str, Any]) -> int:
    """The modification time in ns; if unknown, a number that depends on the content."""
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
    """Convert a file system's errors to FcnsegErrors, except those that local files raise, too."""
    try:
        yield
    except (FcnsegError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except ImportError as error:
        raise _no_package(path, str(path).partition(":")[0], error) from None
    except Exception as error:  # noqa: BLE001 - each file system has its own errors
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
