"""Many remote files: listed in chunks, seen as a tree, copied to this machine."""

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
"""Files of a folder that are listed before the first one is read."""

_COPIES = 16
"""Files that are copied at the same time."""

_OUTPUTS = frozenset({"overlay", "labels", "color", "side", "probabilities"})
"""Folders that lie beside the mark of a folder of outputs."""


def is_large(path: Path) -> bool:
    """Whether a path is a remote folder of more files than are listed at once."""
    if not isinstance(path, RemotePath):
        return False
    return next(itertools.islice(path.files_below(), CHUNK, None), None) is not None


def chunks(folder: RemotePath) -> Iterator[list[RemotePath]]:
    """The files below a folder, CHUNK at a time; those that differ in suffix only stay together."""
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
    """Files below a folder as os.walk gives them; names that are taken out are not entered.

    mark: a file's name that is added beside folders called as those of outputs are: it may be in
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
    """The MediaError for an address where nothing is."""
    hint = "an image, a video, or a folder of them"
    if any(character in path.name for character in "*?["):
        hint = "patterns are for files of this machine; give the folder"
    return MediaError(f"There is no file or folder {path}.", hint=hint)


def copied(path: Path, callback: Callback = no_callback) -> Path:
    """A folder of this machine with what a remote one has; a local path is itself.

    It lies in the cache and is kept: files are copied when they are new or changed, and those
    that are gone are removed. The callback receives where it lies. MediaError as RemotePath.
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
