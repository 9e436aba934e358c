"""Several processes that share one job: what one says, all hear; where one fails, all end.

Messages go through the store that the processes met at, not through collective operations:
those break off after minutes, and a share may take hours longer than another.
"""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fcnseg.errors import FailedElsewhere
from fcnseg.runtime.ranks import Ranks, join_ranks, launched, meeting_place

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

_PAUSE = 0.1
_LOOK = 0.5
"""Seconds between two looks at whether another process has failed."""

_jobs = itertools.count()


class Together:
    """This process among those of a job; a single one is the common case.

    Every process calls the same methods in the same order.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._round = 0
        self._looked = 0.0
        self._store: Store | None = None
        if ranks.size > 1:
            self._store = meeting_place(f"fcnseg/job{next(_jobs)}")

    @classmethod
    def meet(cls, device: str) -> Together:
        """The processes that torchrun has started, each on a device of its own; or this one."""
        return cls(join_ranks(device) if launched() else Ranks.alone())

    @classmethod
    def alone(cls) -> Together:
        """One process."""
        return cls(Ranks.alone())

    @property
    def rank(self) -> int:
        """This process's number."""
        return self._ranks.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self._ranks.size

    @property
    def main(self) -> bool:
        """Whether this is the process that talks and joins."""
        return self._ranks.main

    def device(self, wanted: str) -> str:
        """The device of this process."""
        return wanted if self.size == 1 else str(self._ranks.device)

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives in the main process, a plain value, for everyone."""
        return cast(T, self._do(work if self.main else None)[0])

    def all(self, work: Callable[[], T]) -> list[T]:
        """What `work` gives in each process, plain values, by rank.

        When it fails in one, the main process raises that error when all have stopped, and
        the others raise FailedElsewhere.
        """
        return cast(list[T], self._do(work))

    def heed(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until another process fails: FailedElsewhere."""
        for item in items:
            if self._store is not None and time.monotonic() - self._looked > _LOOK:
                self._looked = time.monotonic()
                if self._store.check(["failed"]):
                    raise FailedElsewhere("Another process of this job has failed.")
            yield item

    def _do(self, work: Callable[[], T] | None) -> list[T | None]:
        if self._store is None:
            return [work() if work is not None else None]
        value, own = None, None
        try:
            value = work() if work is not None else None
        except BaseException as error:  # noqa: BLE001 (raised below, when all have heard of it)
            own = error
            self._store.set("failed", "yes")
        answers = self._gather((value, None if own is None else _portable(own, self.rank)))
        errors = [error for _, error in answers if error is not None]
        if not errors:
            return [value for value, _ in answers]
        if not self.main:
            raise FailedElsewhere("The main process of this job says what went wrong.")
        causes = (error for error in errors if not isinstance(error, FailedElsewhere))
        raise own if own is not None and not isinstance(own, FailedElsewhere) else next(causes)

    def _gather(self, value: tuple[T | None, BaseException | None]) -> list[Any]:
        """Every process's value; waits as long as it takes."""
        assert self._store is not None, "a single process has nobody to wait for"
        self._round += 1
        self._store.set(f"{self._round}/{self.rank}", pickle.dumps(value))  # type: ignore[arg-type]
        keys = [f"{self._round}/{rank}" for rank in range(self.size)]
        while not self._store.check(keys):
            time.sleep(_PAUSE)
        return [pickle.loads(self._store.get(key)) for key in keys]


def _portable(error: BaseException, rank: int) -> BaseException:
    """An error as it can be told to another process."""
    try:
        copy: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (whatever an error of some library does when it is copied)
        return RuntimeError(f"{type(error).__name__} in process {rank}: {error}")
    return copy
