"""How an engine shares the cores: one picture on all of them, or several side by side.

A network's threads wait for each other at every layer. For one picture that is the price of a
quick answer; where many wait, as in a file, one core for each picture does more a second.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

from fcnseg.media.stages import usable_cores
from fcnseg.runtime.forking import computing

MOST = 4
"""Pictures side by side; each needs the memory of a whole forward pass."""

_here = threading.local()


@dataclass(frozen=True)
class Lanes:
    """count: pictures (or batches) at the same time. threads: for each; 0: the runtime's choice."""

    count: int = 1
    threads: int = 0

    def enter(self) -> None:
        """Keep the calling thread to its share of the cores, in torch."""
        if self.count > 1 and getattr(_here, "entered", None) != self:
            torch.set_num_threads(self.threads)
            _here.entered = self
        computing()


ONE = Lanes()


def side_by_side(device: str) -> Lanes:
    """For many pictures on a device: a processor's cores are dealt out, anything else is one."""
    if device != "cpu":
        return ONE
    cores = min(usable_cores(), torch.get_num_threads())  # OMP_NUM_THREADS may ask for fewer
    count = min(cores, MOST)
    return Lanes(count, cores // count) if count > 1 else ONE
