"""List remote files in chunks, walk them as a tree, and copy folders to this machine."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fcnseg.errors import MediaError, OptionError, counted
from fcnseg.files import as_path, cache_folder, stamp, temporary_beside
from fcnseg.progress import Callback, Message, Progress, no_callback
from fcnseg.remote import RemotePath

CHUNK = 10_000
"""Number of files that are listed before the first one is read."""

_COPIES = 16
"""Number of concurrent downloads."""

_OUTPUTS = frozenset({"overlay", "labels", "color", "side", "probabilities"})
"""Subfolders of an output folder, beside its manifest."""


def is_large(path: Path) -> bool:
    """Whether a path is a remote folder of more than CHUNK files."""
    if not isinstance(path, RemotePath):
        return False
    return next(itertools.islice(path.files_below(), CHUNK, None), None) is not None


def chunks(folder: RemotePath) -> Iterator[list[RemotePath]]:
    """Yield the files below a folder, CHUNK at a time; equal names with other suffixes together."""
    chunk: list[RemotePath] = []
    for path in folder.files_below():
        if len(chunk) >= CHUNK and not str(path).startswith(f"{chunk[-1].with_suffix('')}."):
            yield chunk
            chunk = []
        chunk.append(path)
    if chunk:
        yield chunk


def walk(
    files: Iterable[Path], root: Path, mark: str
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk for a list of files below a folder; removed folder names are not entered.

    mark: a file name added beside folders named like those of outputs, as the manifest may be in
    another chunk.
    """
    folders: dict[Path, dict[str, None]] = {}
    names: dict[Path, list[str]] = {}
    for file in files:
        names.setdefault(file.parent, []).append(file.name)
        place = file.parent
        while place != root and place.name not in folders.setdefault(place.parent, {}):
            folders[place.parent][place.name] = None
            place = place.parent
    waiting = [root]
    while waiting:
        place = waiting.pop()
        inside, there = list(folders.get(place, ())), names.get(place, [])
        if not _OUTPUTS.isdisjoint(inside) and mark not in there:
            there = [*there, mark]
        yield place, inside, there
        waiting += [place / name for name in reversed(inside)]


def too_many(path: Path) -> OptionError:
    """The OptionError for a large folder among several sources."""
    return OptionError(
        f"{path} has more than {CHUNK:,} files, which are listed while they are read; it can't be "
        "one of several sources.",
        hint="give it alone",
    )


def missing(path: Path) -> MediaError:
    """The MediaError for a missing remote path."""
    hint = "an image, a video, or a folder of them"
    if any(character in path.name for character in "*?["):
        hint = "patterns are for files of this machine; give the folder"
    return MediaError(f"There is no file or folder {path}.", hint=hint)


def copied(path: Path, callback: Callback = no_callback) -> Path:
    """Mirror a remote folder in the cache and return its local path; local paths are unchanged.

    New and changed files are copied, and deleted ones removed. The callback gets a message with the
    path. Raises MediaError as RemotePath does.
    """
    root = as_path(path)
    if not isinstance(root, RemotePath):
        return path
    if not root.is_dir():
        raise MediaError(
            f"There is no folder {root}.",
            hint="a data set in remote storage is a folder, which is copied to this machine",
        )
    mark = hashlib.blake2b(str(root).encode(), digest_size=6).hexdigest()
    local = cache_folder() / "remote" / mark / (root.name or mark)
    files = {file: local.joinpath(*file.relative_to(root).parts) for file in root.files_below()}
    wanted = {file: copy for file, copy in files.items() if stamp(copy) != stamp(file)}
    with ThreadPoolExecutor(_COPIES, thread_name_prefix="fcnseg-remote") as pool:
        for number, _ in enumerate(pool.map(_copy, wanted.keys(), wanted.values()), start=1):
            callback(Progress("copy", number, len(wanted), "files"))
    kept = set(files.values())
    for old in [file for file in local.rglob("*") if file.is_file() and file not in kept]:
        old.unlink()
    callback(
        Message(f"{root}: {counted(len(files), 'file')}, {len(wanted)} copied now, in {local}")
    )
    return local


def _copy(file: RemotePath, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(copy) as temporary:
        file.download(temporary)
        temporary.replace(copy)
