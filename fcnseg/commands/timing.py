"""How long something takes, by the clock and in core-seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from fcnseg.concurrency import map_ordered

Item = TypeVar("Item")


@dataclass(frozen=True)
class Timing:
    """One part of the work, done again and again.

    laps: seconds of each call, by the clock. total: core-seconds of all calls together.
    frames: how many a call was for. lanes: how many calls went on at the same time.
    """

    laps: tuple[float, ...]
    total: float
    frames: int
    num_parallel: int = 1

    @property
    def seconds(self) -> float:
        """By the clock, per frame: the median."""
        return float(np.median(self.laps)) / (self.frames * self.num_parallel)

    @property
    def core_seconds(self) -> float:
        """Of all cores together, per frame: the mean."""
        return self.total / (len(self.laps) * self.frames)

    def and_then(self, later: Timing) -> Timing:
        """Both as one."""
        return replace(self, laps=self.laps + later.laps, total=self.total + later.total)

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


def time_each(
    work: Callable[[Item], object], items: Iterable[Item], frames: int, num_parallel: int = 1
) -> Timing:
    """Call `work` with each item, `num_parallel` at the same time; a call is for so many frames."""

    def timed(item: Item) -> float:
        start = time.perf_counter()
        work(item)
        return time.perf_counter() - start

    began = time.process_time()
    laps = tuple(lap for _, lap in map_ordered(timed, items, num_parallel))
    return Timing(laps, time.process_time() - began, frames, num_parallel)


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


def limit_remarks(
    network_fps: float,
    limit_fps: float,
    end_to_end_fps: float,
    stages: Mapping[str, Timing],
    *,
    shared_cores: int,
) -> tuple[str, ...]:
    """Why a limit is above or below what it seems to limit, a sentence each.

    shared_cores: those that decoding, network and encoding share; 0 where they share none.
    """
    found, network = [], stages["network"]
    if shared_cores and limit_fps < network_fps:
        text = "decoding and encoding take a part of the same cores"
        found.append(f"The limit is below the network alone: {text}.")
    if shared_cores and limit_fps > network_fps:
        busy = network.core_seconds / network.seconds
        text = f"alone it keeps {busy:.1f} of {shared_cores} cores busy"
        found.append(f"The limit is above the network alone: {text}.")
    if end_to_end_fps > limit_fps:
        text = "the machine was busier while the stages were measured, one after the other"
        if "scores" in stages and stages["scores"].core_seconds < network.core_seconds:
            text = "labels need only the network's scores at a coarse grid, which cost less"
        found.append(f"End to end is above the limit: {text}.")
    return tuple(found)
