"""A crew of threads, and of processes when there is much to do, for work on many files.

Decoders let go of Python's lock, the rest of the work on a file does not: with small files
threads wait for each other a quarter of the time. Processes do not, but take a third of a
second to start. They are not multiprocessing's, which runs the user's script again in each
and breaks one without an `if __name__ == "__main__"`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from fcnseg.io.opencv import one_thread_each, use_one_thread

Task = TypeVar("Task")


Result = TypeVar("Result")


_Worker = subprocess.Popen[bytes]

# The path goes along, because fcnseg may be there for this process alone (a checkout). An
# interrupt is the parent's to answer: it ends its workers.
_START = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.argv[1]); from fcnseg.datasets.worker_pool import serve; serve()"
)


class Crew:
    """As many hands as there are cores. A context manager; within it OpenCV uses one thread each.

    A hand is a thread of this process; `hire` gives each a process that works in its place.
    When a process ends before its time (the system was short of memory), its thread does the
    work itself from there on: the results are the same.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.workers: list[_Worker] = []
        self._threads = ThreadPoolExecutor(count)
        self._free: SimpleQueue[_Worker | None] = SimpleQueue()  # None: a hand without process
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
            _take_leave(worker)
        self._quiet.__exit__(kind, error, trace)

    def hire(self) -> None:
        """Start a process for each thread, where that is possible; once."""
        if self.workers or not sys.executable or getattr(sys, "frozen", False):
            return  # a frozen program's executable is the program, not Python
        with contextlib.suppress(OSError):
            for _ in range(self.count):
                self.workers.append(_start())
        for worker in self.workers:
            self._free.get()
            self._free.put(worker)

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """`function` of each task, in order; all are begun at once.

        Function, tasks and results are pickled: the function is one of a module's, or a partial
        of one.
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
            raise InterruptedError("the crew has ended")
        return function(task)


def _start() -> _Worker:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _START, json.dumps([str(place) for place in sys.path])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what goes wrong there goes wrong here again, and is told
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        process_group=0,  # out of the terminal's reach also while it starts
    )


def _ask(worker: _Worker, function: Callable[[Task], Result], task: Task) -> Result:
    assert worker.stdin is not None
    assert worker.stdout is not None
    pickle.dump((function, task), worker.stdin)
    worker.stdin.flush()
    result: Result = pickle.load(worker.stdout)
    return result


def _take_leave(worker: _Worker) -> None:
    """Close what connects us with an ended process."""
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not sent any more
                pipe.close()
    worker.wait()


def serve() -> None:
    """A process's work: do what comes on stdin, answer on stdout, end when stdin does."""
    use_one_thread()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a decoder that prints must not spoil the answers
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, task = pickle.load(sys.stdin.buffer)
            answer: Any = function(task)
            pickle.dump(answer, answers)
            answers.flush()
