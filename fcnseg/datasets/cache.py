"""What was seen in files, kept between runs; a changed file is looked at again.

One SQLite file for each dataset folder, in the user's cache folder (FCNSEG_CACHE names
another). It only saves time: when it can't be written or read, work continues without it. When
something new was written, the records of files that are gone are dropped at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from fcnseg.files import cache_folder
from fcnseg.text import to_bytes

FORMAT = 3
"""Raised when what is recorded changes, so that old records are not taken for new ones."""

_ASKED = 500  # SQLite's limit on the parameters of one query is 999 in old versions


def stamp(paths: Sequence[Path]) -> str:
    """Sizes and times of change of files; "" when one can't be asked."""
    try:
        states = [path.stat() for path in paths]
    except OSError:
        return ""
    return ",".join(f"{state.st_size}:{state.st_mtime_ns}" for state in states)


class ScanCache:
    """Records by key, valid while the files' stamp is the same. A context manager.

    A key begins with the path of the file that it stands or falls with, and a NUL. On the disk
    it is bytes: a path need not be UTF-8.
    """

    def __init__(self, root: Path) -> None:
        name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
        self.path = cache_folder() / "scans" / f"{name}-{FORMAT}.sqlite"
        self._database: sqlite3.Connection | None = None
        self._written = 0

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=5)
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, stamp TEXT, record TEXT)"
            )
        except (OSError, sqlite3.Error):
            self._forget()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._drop_gone()
        self._forget()

    def get(self, stamps: Mapping[str, str]) -> dict[str, str]:
        """The records of those keys whose stamp is still the same."""
        found: dict[str, str] = {}
        if self._database is None:
            return found
        keys = {to_bytes(key): key for key in stamps}
        asked = list(keys)
        try:
            for start in range(0, len(asked), _ASKED):
                some = asked[start : start + _ASKED]
                marks = ",".join("?" * len(some))
                rows = self._database.execute(
                    f"SELECT key, stamp, record FROM records WHERE key IN ({marks})", some
                )
                valid = ((keys[k], record) for k, seen, record in rows if seen == stamps[keys[k]])
                found |= {key: record for key, record in valid if stamps[key]}
        except sqlite3.Error:
            self._forget()
        return found

    def put(self, records: Mapping[str, tuple[str, str]]) -> None:
        """Keep (stamp, record) by key."""
        if self._database is None or not records:
            return
        rows = [(to_bytes(key), seen, record) for key, (seen, record) in records.items() if seen]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)
            self._written += len(rows)
        except sqlite3.Error:
            self._forget()

    def _drop_gone(self) -> None:
        """Drop what is about files that are gone; only asked when it has grown."""
        if self._database is None or not self._written:
            return
        try:
            with self._database:
                (count,) = self._database.execute("SELECT count(*) FROM records").fetchone()
                if count == self._written:  # the first time: all of them were just seen
                    return
                keys = [key for (key,) in self._database.execute("SELECT key FROM records")]
                gone = [(key,) for key in keys if not os.path.lexists(key.partition(b"\0")[0])]
                self._database.executemany("DELETE FROM records WHERE key = ?", gone)
        except sqlite3.Error:
            self._forget()

    def _forget(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
        self._database = None
