"""Which single files `infer` has written (--out FILE, --shares): others of that name are kept.

Images and videos do not say what made them. A record in the cache folder does: path, size, time of
change. A file that was changed since is somebody's own; without the record every file is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fcnseg.errors import OptionError
from fcnseg.files import NonLocalPath, atomic_write, cache_folder, is_special, is_stdout

_MOST = 1 << 20  # bytes of the record; the older half goes when there are more


def remember(path: Path, files: Sequence[Path] = ()) -> None:
    """Record a file that was written. files: those that a pattern stands for (frame_%04d.png)."""
    record = cache_folder() / "written.jsonl"
    with suppress(OSError):  # a file that can't be recorded is not replaced later on
        line = _line(path, files or [path])
        record.parent.mkdir(parents=True, exist_ok=True)
        if record.is_file() and record.stat().st_size > _MOST:
            newer = record.read_bytes()[-_MOST // 2 :].partition(b"\n")[2]
            with atomic_write(record) as file:
                file.write(newer)
        with record.open("a", encoding="utf-8") as out:
            out.write(line)


def refuse_unknown(what: str, path: Path, files: Sequence[Path] = ()) -> None:
    """OptionError where a file is there that infer has not written, or that was changed since.

    Empty files, devices and pipes are let through. files: as in `remember`.
    """
    if is_stdout(path) or is_special(path):
        return
    there = [file for file in files or [path] if file.is_file() and file.stat().st_size]
    if not there:
        return
    with suppress(OSError):
        record = (cache_folder() / "written.jsonl").read_text(encoding="utf-8", errors="replace")
        if _line(path, there) in record:
            return
    raise OptionError(
        f"{what} {there[0]} already exists and was not written by fcnseg infer, or was changed "
        "since.",
        hint="name another file, or remove this one",
    )


def _line(path: Path, files: Sequence[Path]) -> str:
    found = [file.stat() for file in files]
    named = str(path) if isinstance(path, NonLocalPath) else os.path.realpath(path)
    size, changed = sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)
    return json.dumps([named, len(found), size, changed]) + "\n"
