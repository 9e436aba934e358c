"""File systems of remote storage: what they list, and what they raise, in words of ours."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from fcnseg.errors import FcnsegError, MediaError, MissingExtra, OptionError

_EXTRA = ("s3", "s3a")
"""Schemes whose package is in the extra `remote`; others name their own."""


def file_system(path: Path) -> Any:
    """The fsspec file system that has it; MissingExtra or OptionError without its package."""
    import fsspec

    scheme = str(path).partition(":")[0].lower()
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise _no_package(path, scheme, error) from None


def files_below(system: Any, key: str) -> Iterator[dict[str, Any]]:
    """fsspec's descriptions of the files below a key, as a stream.

    S3 is asked for pages of 1,000 keys, in their order; others for a folder at a time.
    """
    if hasattr(system, "call_s3"):
        return _s3_files(system, key)
    folders = system.walk(key, detail=True)
    return (files[name] for _, _, files in folders for name in sorted(files))


def _s3_files(system: Any, key: str) -> Iterator[dict[str, Any]]:
    """Pages of at most 1,000 keys below one, as fsspec's descriptions."""
    bucket, _, prefix = key.partition("/")
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


def changed(info: dict[str, Any]) -> int:
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
def said(path: Path) -> Iterator[None]:
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
            f"{path} {'is not open to you' if denied else 'could not be reached'}: {text}",
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
