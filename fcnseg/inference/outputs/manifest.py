"""The manifest of finished frames: a JSON line for each, in the folder of the outputs."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fcnseg.errors import PARSE_ERRORS, OptionError, cannot_write
from fcnseg.files import numbered, shortened, stamp
from fcnseg.inference.outputs import SUFFIXES
from fcnseg.io.images import write_bytes
from fcnseg.io.sources.base import Frame
from fcnseg.overwriting import MANIFEST as NAME
from fcnseg.overwriting import mark, refuse_folder_of_others
from fcnseg.remote import RemotePath

_FLUSH_SECONDS = 5.0
"""Work that has to be repeated at most when a job that writes to remote storage is killed."""


_EDITED = 60.0
"""Seconds between the end of a run and a change of its outputs by somebody."""


class Manifest:
    """A file in an output folder with a JSON line for each frame whose outputs are all there.

    Files that can't be read have a line as well, with the reason under "failed"; videos for which
    one file of all frames is written have one with "files".

    kinds: the outputs of a frame. job: everything else they depend on (model, options). Ignored are
    lines of other jobs, of inputs that have changed since, and outputs that another job has
    overwritten. resume: read the lines of earlier runs. rank: of this process; each process writes
    its own file (appending to one is not safe on network drives) until `join`.
    """

    def __init__(
        self,
        folder: Path,
        kinds: Sequence[str],
        job: Mapping[str, Any],
        *,
        resume: bool,
        rank: int = 0,
    ) -> None:
        self._folder, self._kinds = folder, [kind for kind in kinds if kind in SUFFIXES]
        self._path = folder / (f"manifest-{rank}.jsonl" if rank else NAME)
        text = json.dumps({**job, "kinds": sorted(kinds)}, sort_keys=True, default=str)
        self._job = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._before = "\n" if self._path.exists() else ""  # the last line may be cut
        self._done: dict[str, Any] = {}
        self._failed: dict[str, Any] = {}
        self._videos: dict[str, Any] = {}
        self._rank, self._waiting, self._flushed = rank, list[str](), time.monotonic()
        self._there: set[str] | None = None
        if resume:
            self._read()

    def begin(self) -> None:
        """Mark the folder as ours; OptionError when it contains other files, or edited ones."""
        if self._path.name == NAME:
            refuse_folder_of_others(self._folder, self._kinds)
            if not self._done:  # else they are skipped
                refuse_edited(self._folder, self._kinds)
            mark(self._folder)

    def has(self, name: str, path: Path) -> bool:
        """Whether a frame's outputs exist, made from the current version of its file."""
        if self._done.get(name) != stamp(path):
            return False
        return all(
            self._is_there(self._folder / kind / shortened(name, SUFFIXES[kind]))
            for kind in self._kinds
        )

    def add(self, frame: Frame, file: Path | None = None) -> None:
        """Record that a frame's outputs are written. file: its container, if not a file itself."""
        path = frame.path or file
        if path is None:
            return
        seen = list(frame.stamp or stamp(path))
        line = {"name": frame.name, "job": self._job, "stamp": seen, "kinds": self._kinds}
        self._append(line)
        if frame.name in self._done:
            self._done[frame.name] = seen  # a watched file that has changed

    def fail(self, path: Path, why: str) -> None:
        """Record that the current version of a file can't be read."""
        name = str(path.absolute())
        line = {"name": name, "job": self._job, "stamp": stamp(path), "failed": why}
        if self._failed.get(name) != line["stamp"]:
            self._append(line)

    def has_failed(self, path: Path) -> bool:
        """Whether an earlier run could not read a file that has not changed since."""
        return self._failed.get(str(path.absolute())) == stamp(path)

    def finish(self, path: Path, files: Sequence[Path], frames: int) -> None:
        """Record that the files of all frames of a video are written."""
        made = [str(file.relative_to(self._folder)) for file in files]
        line = {"name": str(path.absolute()), "job": self._job, "stamp": stamp(path)}
        self._append({**line, "files": made, "frames": frames})

    def finished(self, path: Path) -> int:
        """The frames in a video's files; 0 if they are missing or the video has changed."""
        line = self._videos.get(str(path.absolute()))
        if line is None or line["stamp"] != stamp(path):
            return 0
        return int(line["frames"]) * all((self._folder / file).exists() for file in line["files"])

    def join(self) -> None:
        """Merge the files of all processes into one after they have ended.

        Lines are appended, because another run may write to the file, or join, at the same time.
        """
        self.flush()
        others, lines = [path for path in self._paths() if path.name != NAME], list[bytes]()
        for path in others:
            with contextlib.suppress(FileNotFoundError):
                lines += filter(None, path.read_bytes().splitlines())
        if lines:
            try:
                before = [] if _ends_line(self._folder / NAME) else [b""]
                with (self._folder / NAME).open("ab") as out:
                    out.write(b"\n".join([*before, *lines, b""]))
            except OSError as error:
                raise cannot_write(self._folder / NAME, error) from None
        for path in others:
            path.unlink(missing_ok=True)

    def recorded(self, rank: int) -> int:
        """How many frames another process has recorded as done, before `join`."""
        own = f"manifest-{rank}.jsonl" if rank else NAME
        paths = [self._folder / own, *self._folder.glob(f"manifest-{rank}-*.jsonl")]
        lines = [line for path in paths if path.exists() for line in path.read_bytes().splitlines()]
        no_frame = (b'"failed"', b'"files"')
        return sum(
            b'"stamp"' in line and not any(key in line for key in no_frame) for line in lines
        )

    def flush(self) -> None:
        """Write pending lines to a new file: remote storage does not support appending."""
        if self._waiting:
            path = self._folder / f"manifest-{self._rank}-{time.time_ns()}.jsonl"
            write_bytes(path, "".join(self._waiting).encode())
            self._waiting.clear()
        self._flushed = time.monotonic()
        if not isinstance(self._folder, RemotePath):
            with contextlib.suppress(OSError):  # cameras have no lines: see refuse_edited
                os.utime(self._folder / NAME)

    def _is_there(self, path: Path) -> bool:
        """Whether an output exists; a remote folder is listed only once."""
        if not isinstance(self._folder, RemotePath):
            with contextlib.suppress(OSError):
                # A crash may leave empty files; YOLO's are empty when there are no objects.
                return path.stat().st_size > 0 or path.suffix == ".txt"
            return False
        if self._there is None:
            folders = [cast(RemotePath, self._folder / kind) for kind in self._kinds]
            self._there = {str(file) for folder in folders for file in folder.files_below()}
        return str(path) in self._there

    def _append(self, line: Mapping[str, Any]) -> None:
        if isinstance(self._folder, RemotePath):
            self._waiting.append(json.dumps(line) + "\n")
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self.flush()
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as out:
                out.write(self._before + json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self._path, error) from None
        self._before = ""

    def _read(self) -> None:
        for path in self._paths():
            for text in path.read_bytes().splitlines():
                with contextlib.suppress(*PARSE_ERRORS):  # a line truncated by a crash: not done
                    line = json.loads(text)
                    if line["job"] != self._job:
                        self._forget(line)
                        continue
                    if "files" in line:
                        self._videos[line["name"]] = line
                        continue
                    known = self._failed if "failed" in line else self._done
                    known[line["name"]] = line["stamp"]

    def _forget(self, line: Mapping[str, Any]) -> None:
        """Drop the outputs that another job has overwritten according to its line."""
        if "files" in line:
            ours = self._videos.get(line["name"], {"files": []})
            if set(ours["files"]) & set(line["files"]):
                del self._videos[line["name"]]
        elif "failed" not in line and set(self._kinds) & set(line.get("kinds", self._kinds)):
            self._done.pop(line["name"], None)

    def _paths(self) -> list[Path]:
        """The existing files, oldest first: the joined one, then those of processes."""
        found = self._folder.glob("manifest*.jsonl")
        return sorted(found, key=lambda path: (path.name != NAME, path.name))


def refuse_edited(folder: Path, kinds: Sequence[str]) -> None:
    """OptionError if files in these subfolders were changed after a run had written its last one.

    By their times: a minute or more after the newest file of the folder itself, its manifest.
    """
    if isinstance(folder, RemotePath) or not folder.is_dir():
        return
    written = max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0)
    for kind in kinds if written else ():
        for place, _, files in os.walk(folder / kind):
            edited = (Path(place) / name for name in files if not name.startswith("."))
            if found := next((p for p in edited if p.stat().st_mtime > written + _EDITED), None):
                raise OptionError(
                    f"{found} was changed after fcnseg wrote it: it would be written over.",
                    hint="name another folder for the outputs, or remove this file",
                )


def next_free(parent: Path, name: str) -> Path:
    """Create and return parent/name1, or with the next unused number.

    The folder is created at once, so that commands started at the same time get different ones. It
    is removed when the process exits without having written to it.
    """
    paths = (path for path in numbered(parent, name) if not path.exists())
    path = next(path for path in paths if _is_made(path))
    atexit.register(_remove_unused_run, path.absolute())
    return path


def _is_made(path: Path) -> bool:
    """Try to create a folder; False if it exists. Other errors are reported on the first write."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True


def _remove_unused_run(folder: Path) -> None:
    remove_unused(folder)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


@contextlib.contextmanager
def unused_removed(folder: Path | None) -> Iterator[None]:
    """Remove a folder that is new, with `remove_unused`, at the end of the block."""
    new = folder is not None and not folder.exists()
    try:
        yield
    finally:
        if folder is not None and new:
            remove_unused(folder)


def remove_unused(folder: Path) -> None:
    """Remove the empty folders in an output folder, and itself if only its manifest is left."""
    mark = folder / NAME
    if isinstance(folder, RemotePath):
        return
    for place, _, files in os.walk(folder, topdown=False):
        if not files and Path(place) != folder:
            with contextlib.suppress(OSError):  # not empty
                Path(place).rmdir()
    with contextlib.suppress(OSError):
        if any(path != mark for path in folder.iterdir()):
            return
        lines = mark.read_bytes().splitlines() if mark.exists() else []
        if not all(b'"fcnseg"' in line or b'"failed"' in line for line in lines):
            return  # it lists outputs
        mark.unlink(missing_ok=True)
        folder.rmdir()


def _ends_line(path: Path) -> bool:
    """Whether a file is missing, is empty, or ends with a complete line."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return True
