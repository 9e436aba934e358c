"""Several processes at one job, as torchrun starts them; a single one is the common case."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.errors import OptionError
from fcnseg.runtime.device import resolve_device

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's number among how many, and the device it computes on.

    restarts: how often torchrun has started the job anew.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    restarts: int = 0

    @classmethod
    def alone(cls) -> Ranks:
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


def join_ranks(device: str = "auto") -> Ranks:
    """The processes of this job: those torchrun tells of in the environment, else one.

    The group stays until the process ends, so that one verb can follow another.
    """
    if not launched():
        return Ranks(resolve_device(device))
    chosen = _device_of_rank(device)
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if not dist.is_initialized():
        _join(chosen, restarts)
    return Ranks(chosen, dist.get_rank(), dist.get_world_size(), restarts)


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


def meeting_place(name: str) -> Store:
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
