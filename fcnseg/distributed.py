"""Several processes of one job: started by torchrun, they share work and results."""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.device import resolve_device
from fcnseg.errors import FailedElsewhere, OptionError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


@dataclass(frozen=True)
class ProcessGroup:
    """This process's number among how many, and the device it computes on.

    restarts: how often torchrun has started the job anew.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    restarts: int = 0

    @classmethod
    def alone(cls) -> ProcessGroup:
        """One process on the CPU."""
        return cls(torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_array(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of whole numbers over all processes, exactly."""
        if self.size == 1:
            return counts
        total: NDArray[np.int64] = self.sum(torch.tensor(counts, device=self.device)).cpu().numpy()
        return total

    def tell(self, value: T) -> T:
        """The main process's plain value, for everyone."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        told: T = box[0]
        return told

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        if self.size == 1:
            return value
        return bool(self.sum(torch.tensor(float(value), device=self.device)) > 0)

    def share_buffers(self, module: nn.Module) -> None:
        """Give everyone the main process's buffers (normalisation statistics) of a module."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def launched() -> bool:
    """Whether torchrun has started several processes, or they have met already."""
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    return size > 1 or (dist.is_available() and dist.is_initialized())


def init_distributed(device: str = "auto") -> ProcessGroup:
    """The processes of this job: those torchrun tells of in the environment, else one.

    The group stays until the process ends, so that one verb can follow another.
    """
    if not launched():
        return ProcessGroup(resolve_device(device))
    chosen = _device_of_rank(device)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not dist.is_initialized():
        _join(chosen, restarts)
    return ProcessGroup(chosen, dist.get_rank(), dist.get_world_size(), restarts)


def _join(device: torch.device, restarts: int) -> None:
    """Meet the other processes; left again when this one ends."""
    # Not every build of torch can do this; those that can't have no use for it either.
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # torchrun gives restarted processes the store of those that died (torch 2.13), with the
    # addresses of these in it: without a prefix of its own a start may call the dead.
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"fcnseg/{restarts}", store),
        rank=rank,
        world_size=size,
    )
    atexit.register(dist.destroy_process_group)


def shared_store(name: str) -> Store:
    """A part, of its own name, of the store where the processes of this job have met."""
    from torch._C._distributed_c10d import PrefixStore

    # The group's own store: another one would need a free port on the first machine.
    return PrefixStore(name, dist.distributed_c10d._get_default_store())


def _device_of_rank(name: str) -> torch.device:
    """cuda:N for the N-th process of a machine, unless another device is asked for."""
    device = resolve_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise OptionError(
            f"Device {name!r} is one GPU, but torchrun has started several processes.",
            hint="take --device auto: each process takes a GPU of its own",
        )
    return resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


T = TypeVar("T")

_PAUSE = 0.1


_LOOK = 0.5
"""Seconds between two looks at whether another process has failed."""

_jobs = itertools.count()


class Distributed:
    """This process among those of a job; a single one is the common case.

    Every process calls the same methods in the same order.
    """

    def __init__(self, ranks: ProcessGroup) -> None:
        self._ranks = ranks
        self._round = 0
        self._looked = 0.0
        self._store: Store | None = None
        if ranks.size > 1:
            self._store = shared_store(f"fcnseg/job{next(_jobs)}")

    @classmethod
    def meet(cls, device: str) -> Distributed:
        """The processes that torchrun has started, each on a device of its own; or this one."""
        return cls(init_distributed(device) if launched() else ProcessGroup.alone())

    @classmethod
    def alone(cls) -> Distributed:
        """One process."""
        return cls(ProcessGroup.alone())

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
