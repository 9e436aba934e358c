"""Process many files on all cores, and cache the results until a file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import sqlite3
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from fcnseg.datasets.encoding.values import ValueCounts
from fcnseg.errors import to_bytes
from fcnseg.files import cache_folder
from fcnseg.io import one_thread_each, use_one_thread


class CountsOfFiles:
    """A sequence of ValueCounts or None, one per label file, stored in flat arrays."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._starts = array("q", [0])
        self._kinds = bytearray()  # 0: none, 1: index, 2: color

    def append(self, one: ValueCounts | None) -> None:
        """Add a file's counts; None for an unreadable file."""
        self._kinds.append(0 if one is None else 1 if one.kind == "index" else 2)
        if one is not None:
            self._numbers.extend((*one.size, one.rest, len(one.values)))
            for part in (one.values, one.pixels, one.border, one.palette):
                self._numbers.extend(part)
        self._starts.append(len(self._numbers))

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, index: int) -> ValueCounts | None:
        kind = self._kinds[index]
        if kind == 0:
            return None
        height, width, rest, count, *numbers = self._numbers[
            self._starts[index] : self._starts[index + 1]
        ]
        parts = [tuple(numbers[n * count : (n + 1) * count]) for n in range(4)]
        name = "index" if kind == 1 else "color"
        return ValueCounts((height, width), name, parts[0], parts[1], parts[2], parts[3], rest)

    def taken(self, order: Iterable[int]) -> CountsOfFiles:
        """The counts of the files with these indices, in this order."""
        taken = CountsOfFiles()
        for index in order:
            taken._kinds.append(self._kinds[index])
            taken._numbers += self._numbers[self._starts[index] : self._starts[index + 1]]
            taken._starts.append(len(taken._numbers))
        return taken

    def __iter__(self) -> Iterator[ValueCounts | None]:
        return (self[index] for index in range(len(self)))

    def good(self) -> Iterator[ValueCounts]:
        """The counts of readable files."""
        return (one for one in self if one is not None)


FORMAT = 7
"""Version of the records' format; incremented when it changes, to invalidate old caches."""

_ASKED = 500  # keys per query; old versions of SQLite allow 999 parameters


def stamp(paths: Sequence[Path]) -> str:
    """Sizes, mtimes and ctimes of files; "" if one can't be read.

    The ctime is needed because archives and `cp -p` give files of equal size the same mtime.
    """
    try:
        states = [path.stat() for path in paths]
    except OSError:
        return ""
    return ",".join(f"{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}" for s in states)


class ScanCache:
    """A cache of records by key, valid while the files' stamp is unchanged. A context manager.

    A key begins with the path of its file and a NUL; the record is deleted with the file. Keys
    are stored as bytes, as paths need not be UTF-8.
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._drop_gone()
        self._forget()

    def get(self, stamps: Mapping[str, str]) -> dict[str, str]:
        """The records of keys whose stamp is unchanged."""
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
        """Store (stamp, record) by key."""
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
        """Delete records of files that no longer exist; only after new ones were added."""
        if self._database is None or not self._written:
            return
        try:
            with self._database:
                (count,) = self._database.execute("SELECT count(*) FROM records").fetchone()
                if count == self._written:  # the first scan: all files exist
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


Task = TypeVar("Task")

Result = TypeVar("Result")

_Worker = subprocess.Popen[bytes]

# sys.path is passed on, as only this process may be able to import fcnseg (a checkout). Interrupts
# are handled by the parent, which ends its workers.
_START = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.argv[1]); from fcnseg.datasets.many_files import serve; serve()"
)


class WorkerPool:
    """A pool of `count` workers. A context manager; within it OpenCV uses one thread per worker.

    A worker is a thread; `start_processes` gives each a process to do its work. If a process ends
    unexpectedly (out of memory), its thread does the work itself, with the same results.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.workers: list[_Worker] = []
        self._threads = ThreadPoolExecutor(count)
        self._free: SimpleQueue[_Worker | None] = SimpleQueue()  # None: a thread without process
        self._ended = False
        self._quiet = one_thread_each()

    def __enter__(self) -> Self:
        self._quiet.__enter__()
        for _ in range(self.count):
            self._free.put(None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        for worker in self.workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self.workers:
            _close_pipes(worker)
        self._quiet.__exit__(kind, error, trace)

    def start_processes(self) -> None:
        """Start a process for each thread, if possible; only once."""
        if self.workers or not sys.executable or getattr(sys, "frozen", False):
            return  # a frozen program's executable is not Python
        with contextlib.suppress(OSError):
            for _ in range(self.count):
                self.workers.append(_start())
        for worker in self.workers:
            self._free.get()
            self._free.put(worker)

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield function(task) for each task, in order; all tasks are submitted at once.

        Function, tasks and results must be picklable: a module-level function, or a partial of
        one.
        """
        return self._threads.map(partial(self._do, function), tasks)

    def _do(self, function: Callable[[Task], Result], task: Task) -> Result:
        worker = self._free.get()
        try:
            if worker is not None:
                return _ask(worker, function, task)
        except (OSError, EOFError, pickle.UnpicklingError):
            worker = None
        finally:
            self._free.put(worker)
        if self._ended:
            raise InterruptedError("the pool has ended")
        return function(task)


def _start() -> _Worker:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _START, json.dumps([str(place) for place in sys.path])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # errors occur again in the thread, and are reported there
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        process_group=0,  # so that the terminal's signals do not reach it, even at startup
    )


def _ask(worker: _Worker, function: Callable[[Task], Result], task: Task) -> Result:
    assert worker.stdin is not None
    assert worker.stdout is not None
    pickle.dump((function, task), worker.stdin)
    worker.stdin.flush()
    result: Result = pickle.load(worker.stdout)
    return result


def _close_pipes(worker: _Worker) -> None:
    """Close the pipes to an ended process and wait for it."""
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # unsent data
                pipe.close()
    worker.wait()


def serve() -> None:
    """Run a worker process: read tasks from stdin, write results to stdout, end with stdin."""
    use_one_thread()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of decoders must not mix with the replies
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, task = pickle.load(sys.stdin.buffer)
            reply: Any = function(task)
            pickle.dump(reply, replies)
            replies.flush()
