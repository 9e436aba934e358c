"""Distributed jobs: the processes that torchrun started, and their communication."""

from __future__ import annotations

import atexit
import itertools
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fcnseg.device import resolve_device
from fcnseg.errors import FailedElsewhere, OptionError, reason

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch._C._distributed_c10d import Store


T = TypeVar("T")

_POLL_SECONDS = 0.1

_CHECK_SECONDS = 0.5
"""Seconds between two checks of whether another process has failed."""

_jobs = itertools.count()


@dataclass
class Distributed:
    """This process and its rank in a job; a job of one process is the common case.

    Every process must call the same methods in the same order.

    place: the device of this process. rank, size: its rank and the number of processes.
    restarts: how often torchrun has restarted the job.
    """

    place: str
    rank: int = 0
    size: int = 1
    restarts: int = 0
    _store: Store | None = field(default=None, init=False, repr=False, compare=False)
    _round: int = field(default=0, init=False, repr=False, compare=False)
    _checked: float = field(default=0.0, init=False, repr=False, compare=False)

    @classmethod
    def single(cls) -> Distributed:
        """One process on the CPU."""
        return cls("cpu")

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        import torch

        return torch.device(self.place)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def sum_array(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of integers over all processes, exactly."""
        if self.size == 1:
            return counts
        import torch

        total: NDArray[np.int64] = self.sum(torch.tensor(counts, device=self.device)).cpu().numpy()
        return total

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        if self.size == 1:
            return value
        import torch

        return bool(self.sum(torch.tensor(float(value), device=self.device)) > 0)

    def broadcast(self, value: T) -> T:
        """Return the main process's value, which must be picklable, in every process."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        received: T = box[0]
        return received

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Replace a module's buffers (normalization statistics) with the main process's."""
        if self.size > 1:
            import torch.distributed as dist

            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        """Wait until all processes have called it."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def run_on_main(self, function: Callable[[], T]) -> T:
        """Call a function in the main process; return its picklable result in every process."""
        return cast(T, self._run(function if self.main else None)[0])

    def gather(self, function: Callable[[], T]) -> list[T]:
        """Call a function in each process; return all results, which must be picklable, by rank.

        If it fails in any of them, the main process raises that error once all have stopped, and
        the others raise FailedElsewhere.
        """
        return cast(list[T], self._run(function))

    def check_peers(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; raise FailedElsewhere when another process has failed."""
        for item in items:
            if self._store is not None and time.monotonic() - self._checked > _CHECK_SECONDS:
                self._checked = time.monotonic()
                if self._store.check(["failed"]):
                    raise FailedElsewhere("Another process of this job has failed.")
            yield item

    def _run(self, function: Callable[[], T] | None) -> list[T | None]:
        if self.size == 1:
            return [function() if function is not None else None]
        self._store = self._store or shared_store(f"fcnseg/job{next(_jobs)}")
        value, own = None, None
        try:
            value = function() if function is not None else None
        except BaseException as error:  # noqa: BLE001 (raised below, when all have received it)
            own = error
            self._store.set("failed", "yes")
        results = self._exchange((value, None if own is None else _portable(own, self.rank)))
        errors = [error for _, error in results if error is not None]
        if not errors:
            return [value for value, _ in results]
        if not self.main:
            raise FailedElsewhere("The main process of this job reports the error.")
        causes = (error for error in errors if not isinstance(error, FailedElsewhere))
        raise own if own is not None and not isinstance(own, FailedElsewhere) else next(causes)

    def _exchange(self, value: tuple[T | None, BaseException | None]) -> list[Any]:
        """Gather every process's value; waits without a timeout."""
        assert self._store is not None, "a single process has nothing to exchange"
        self._round += 1
        self._store.set(f"{self._round}/{self.rank}", pickle.dumps(value))  # type: ignore[arg-type]
        keys = [f"{self._round}/{rank}" for rank in range(self.size)]
        while not self._store.check(keys):
            time.sleep(_POLL_SECONDS)
        return [pickle.loads(self._store.get(key)) for key in keys]


def launched() -> bool:
    """Whether torchrun started several processes, or the process group exists already."""
    size = _whole_number("WORLD_SIZE", 1) if os.environ.get("RANK") else 1
    dist: Any = sys.modules.get("torch.distributed")
    return size > 1 or (dist is not None and dist.is_available() and dist.is_initialized())


_ALONE = "start the processes with torchrun; for a single one, unset RANK and WORLD_SIZE"


def _whole_number(name: str, default: int) -> int:
    """The value of one of torchrun's environment variables; OptionError if it is not a number."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise OptionError(
            f"The environment variable {name}: expected a whole number; found {text!r}.",
            hint=_ALONE,
        )
    return int(text or default)


def init_distributed(device: str = "auto") -> Distributed:
    """Join the job described by torchrun's environment variables; without them, a single process.

    The process group stays until the process ends, so that several commands can use it.
    """
    if not launched():
        return Distributed(str(resolve_device(device)))
    import torch.distributed as dist

    chosen = _device_of_rank(device)
    restarts = _whole_number("TORCHELASTIC_RESTART_COUNT", 0)
    if not dist.is_initialized():
        _init_process_group(chosen, restarts)
    return Distributed(str(chosen), dist.get_rank(), dist.get_world_size(), restarts)


def _init_process_group(device: torch.device, restarts: int) -> None:
    """Initialize torch's process group; it is destroyed when this process ends.

    OptionError if the environment variables are incomplete or the processes can't connect.
    """
    import torch
    import torch.distributed as dist

    # Imported here: not every build of torch has it.
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # torchrun reuses the store after a restart (torch 2.13), so it still holds the addresses of
    # the processes that died. A prefix per restart avoids connecting to those.
    try:
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore(f"fcnseg/{restarts}", store),
            rank=rank,
            world_size=size,
        )
    except (ValueError, RuntimeError) as error:
        raise OptionError(
            f"The processes of this job can't be connected: {reason(error)}.", hint=_ALONE
        ) from error
    atexit.register(dist.destroy_process_group)


def shared_store(name: str) -> Store:
    """The process group's store, with this prefix for its keys."""
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.distributed_c10d import _get_default_store

    # The group's own store: a new one would need a free port on the first machine.
    return PrefixStore(name, _get_default_store())


def _device_of_rank(name: str) -> torch.device:
    """cuda:N for the N-th process of a machine, unless the CPU or MPS is requested."""
    device = resolve_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise OptionError(
            f"Device {name!r} is one GPU, but torchrun has started several processes.",
            hint="use --device auto: each process takes a GPU of its own",
        )
    return resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


def _portable(error: BaseException, rank: int) -> BaseException:
    """The error, or a RuntimeError with its text if it can't be pickled."""
    try:
        copy: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (a library's own pickling may raise anything)
        return RuntimeError(f"{type(error).__name__} in process {rank}: {error}")
    return copy
