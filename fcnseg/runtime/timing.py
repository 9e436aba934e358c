"""How long something takes, by the clock and in core-seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Item = TypeVar("Item")


@dataclass(frozen=True)
class Timing:
    """One part of the work, done again and again.

    laps: seconds of each call, by the clock. total: core-seconds of all calls together.
    frames: how many a call was for.
    """

    laps: tuple[float, ...]
    total: float
    frames: int

    @property
    def seconds(self) -> float:
        """By the clock, per frame: the median."""
        return float(np.median(self.laps)) / self.frames

    @property
    def core_seconds(self) -> float:
        """Of all cores together, per frame: the mean."""
        return self.total / (len(self.laps) * self.frames)

    def and_then(self, later: Timing) -> Timing:
        """Both as one."""
        return Timing(self.laps + later.laps, self.total + later.total, self.frames)

    def percentiles(self) -> dict[str, float]:
        """Milliseconds a call that so many per cent of the calls stayed within."""
        return {
            f"p{share}": float(np.percentile(self.laps, share)) * 1000 for share in (50, 90, 99)
        }


class Clock:
    """Laps by the clock and in core-seconds, from when it is made."""

    def __init__(self) -> None:
        self._laps: list[float] = []
        self._began = time.process_time()
        self._last = time.perf_counter()

    def lap(self) -> None:
        """One call is over."""
        now = time.perf_counter()
        self._laps.append(now - self._last)
        self._last = now

    def timing(self, frames: int) -> Timing:
        """All laps so far; each of `frames` frames."""
        return Timing(tuple(self._laps), time.process_time() - self._began, frames)


def time_each(work: Callable[[Item], object], items: Sequence[Item], frames: int) -> Timing:
    """Call `work` with each item; a call is for so many frames."""
    clock = Clock()
    for item in items:
        work(item)
        clock.lap()
    return clock.timing(frames)


def usable_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most_memory(device: str) -> dict[str, int]:
    """The most that was held at a time, in bytes; only what the system tells."""
    held = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held["host"] = peak if sys.platform == "darwin" else peak * 1024
    if device.startswith("cuda"):
        held["device"] = torch.cuda.max_memory_allocated(device)
    return held
