"""Threads between stages: read ahead, map in order, write behind."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, Self, TypeVar

from fcnseg.progress import defer_interrupts

Item = TypeVar("Item")

Result = TypeVar("Result")

MOST_BYTES = 256 << 20
"""Maximum size of a queue; a single item may be larger."""

BATCH_TIMEOUT = 0.1
"""Seconds to wait for the next item before an incomplete batch is processed."""

_GRACE = 2.0
"""Seconds for which `take` still waits for an item after `finish`."""

_TICK = 0.2
"""Maximum seconds of one wait, so that Ctrl-C works on Windows, too."""


def _weightless(item: object) -> int:
    del item
    return 0


def _never() -> bool:
    return False


def _ignore() -> None:
    pass


def usable_cores() -> int:
    """Number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """Number of physical cores this process may use, or OMP_NUM_THREADS if that is less."""
    if (wanted := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() and int(wanted):
        return min(usable_cores(), int(wanted))
    try:
        folder = Path("/sys/devices/system/cpu")
        numbers = os.sched_getaffinity(0)
        shared = [folder / f"cpu{one}/topology/thread_siblings_list" for one in numbers]
        return len({path.read_text() for path in shared})
    except (OSError, AttributeError):
        return usable_cores()


def groups(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """Items in lists of `count`; the last one may be shorter."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


class Batches(Generic[Item]):
    """Items of a `Prefetcher` in lists of `count`; fewer at the end, or when the source pauses.

    Files give full batches. A live source that has no item for `BATCH_TIMEOUT` seconds gives an
    incomplete batch, so that no item waits for one that may never come.
    """

    def __init__(self, prefetcher: Prefetcher[Item], count: int) -> None:
        self._prefetcher, self._count = prefetcher, count

    def __iter__(self) -> Iterator[list[Item]]:
        while group := self.take():
            yield group

    def take(self, until: Callable[[], bool] = _never) -> list[Item]:
        """The next list; empty at the end, or when `until` is true before an item arrives."""
        group = self._prefetcher.take(until=until)
        while group and len(group) < self._count:
            more = self._prefetcher.take(seconds=BATCH_TIMEOUT)
            if not more:
                break
            group += more
        return group

    def wake(self) -> None:
        """Make a waiting `take` check its `until` again; for other threads."""
        self._prefetcher.wake()


def map_ordered(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    num_parallel: int,
    *,
    weigh: Callable[[Item], int] = _weightless,
) -> Generator[tuple[Item, Result]]:
    """Yield each item with `work(item)`, in order; `num_parallel` calls run at the same time.

    weigh: an item's bytes; submitted items stay within MOST_BYTES, or are a single one. One more
    is queued for a free thread, and another taken from `items`. An error is raised when its
    item's turn comes; calls that have not started are cancelled. With `Batches`, each result is
    yielded as soon as it is ready, without waiting for the next item.
    """
    if num_parallel == 1:
        for only in items:
            yield only, work(only)
        return
    begun: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(num_parallel, thread_name_prefix="fcnseg-map")
    wake = items.wake if isinstance(items, Batches) else _ignore
    held = 0
    try:
        for item in _next_or_none(items, lambda: bool(begun) and begun[0][1].done()):
            while begun and (
                item is None or len(begun) > num_parallel or held + weigh(item) > MOST_BYTES
            ):
                first, result = begun.popleft()
                yield first, result.result()
                held -= weigh(first)
                if item is None:
                    break
            if item is not None:
                future = pool.submit(work, item)
                begun.append((item, future))
                held += weigh(item)
                future.add_done_callback(lambda _: wake())
        while begun:
            first, result = begun.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _next_or_none(items: Iterable[Item], ready: Callable[[], bool]) -> Iterator[Item | None]:
    """Yield the items; None when `ready` is true before `Batches` has the next one."""
    if not isinstance(items, Batches):
        yield from items
        return
    while (group := items.take(ready)) or ready():
        yield group or None


class BoundedQueue(Generic[Item]):
    """A queue between two threads: at most `depth` items, and MOST_BYTES by `weigh`."""

    def __init__(self, depth: int, weigh: Callable[[Item], int] = _weightless) -> None:
        self._depth, self._weigh = depth, weigh
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._ended = False

    def put(self, item: Item) -> bool:
        """Add an item once there is room; False if the queue is closed."""
        weight = self._weigh(item)
        with self._changed:
            while not self._closed and self._is_full(weight):
                self._changed.wait(_TICK)
            if self._closed:
                return False
            self._items.append((item, weight))
            self._bytes += weight
            self._changed.notify_all()
            return True

    def end(self) -> None:
        """Mark the end: no more items will be put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse further items."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield items as they arrive, until the end."""
        while taken := self.take():
            yield from taken

    def take(self, *, until: Callable[[], bool] = _never, seconds: float = math.inf) -> list[Item]:
        """The next item, alone; nothing at the end, after `seconds`, or when `until` is true."""
        latest = time.monotonic() + seconds
        with self._changed:
            while not self._items and not (self._ended or until()):
                if (left := latest - time.monotonic()) <= 0:
                    return []
                self._changed.wait(min(left, _TICK))
            if not self._items:
                return []
            item, weight = self._items.popleft()
            self._bytes -= weight
            self._changed.notify_all()
        return [item]

    def is_over(self) -> bool:
        """Whether the end was marked and every item taken."""
        with self._changed:
            return self._ended and not self._items

    def wake(self) -> None:
        """Make waiting threads check their conditions again."""
        with self._changed:
            self._changed.notify_all()

    def _is_full(self, weight: int) -> bool:
        too_heavy = bool(self._items) and self._bytes + weight > MOST_BYTES
        return len(self._items) >= self._depth or too_heavy


class Prefetcher(Generic[Item]):
    """Run an iterable in its own thread, at most `depth` items ahead.

    weigh: an item's bytes. Leaving the context stops the thread; `stop` is called to interrupt an
    iterable that is waiting. An error of the iterable is raised by the iteration.
    """

    def __init__(
        self,
        items: Iterable[Item],
        depth: int = 4,
        *,
        weigh: Callable[[Item], int] = _weightless,
        stop: Callable[[], None] | None = None,
    ) -> None:
        self._items, self._on_stop = items, stop
        self._queue = BoundedQueue(depth, weigh)
        self._error: BaseException | None = None
        self._finished = math.inf
        self._thread = threading.Thread(target=self._run, name="fcnseg-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.close()
        if self._on_stop is not None:
            self._on_stop()
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while taken := self.take():
            yield from taken

    def take(self, *, until: Callable[[], bool] = _never, seconds: float = math.inf) -> list[Item]:
        """The next item, alone; nothing at the end, after `seconds`, or when `until` is true."""
        taken = self._queue.take(until=lambda: self._given_up() or until(), seconds=seconds)
        if not taken and self._error is not None and self._queue.is_over():
            raise self._error
        return taken

    def wake(self) -> None:
        """Have a waiting `take` look at its `until` again; for other threads."""
        self._queue.wake()

    def finish(self) -> None:
        """End after the items that have been read, even if the iterable never returns.

        The caller stops the iterable as well. Safe in a signal handler: it takes no lock.
        """
        self._finished = time.monotonic()

    def _given_up(self) -> bool:
        return time.monotonic() - self._finished > _GRACE

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._queue.put(item):
                    return
        except BaseException as caught:  # noqa: BLE001 (raised where the items are used)
            self._error = caught
        finally:
            self._queue.end()


class BackgroundWriter(Generic[Item]):
    """Call a function in its own thread for each item put, in order; at most `depth` items wait.

    weigh: an item's bytes. An error is raised by the next `put` or by the end of the context;
    items put after it are dropped. Leaving the context waits until all items are processed.
    """

    def __init__(
        self,
        work: Callable[[Item], None],
        depth: int = 4,
        *,
        weigh: Callable[[Item], int] = _weightless,
    ) -> None:
        self._work = work
        self._queue = BoundedQueue(depth, weigh)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fcnseg-behind", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._queue.end()
        with (
            defer_interrupts()
        ):  # else an interrupt would close the output while the thread writes to it
            self._thread.join()
        if kind is None:
            self._raise()

    def put(self, item: Item) -> None:
        """Add an item; waits while the queue is full."""
        self._raise()
        self._queue.put(item)

    def _run(self) -> None:
        for item in self._queue:
            try:
                self._work(item)
            except BaseException as caught:  # noqa: BLE001 (raised by the next put)
                self._error = caught
                self._queue.close()
                return

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
