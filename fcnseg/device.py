"""Devices, numeric precision, process-wide settings of torch; timing in seconds and core-seconds.

Also handles forked processes, which lack the threads that torch started in the parent.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from fcnseg.concurrency import map_ordered
from fcnseg.errors import OptionError
from fcnseg.progress import environment

if TYPE_CHECKING:
    import torch

PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
"""Name of a precision on the command line -> torch's name of the dtype."""

AUTO_PRECISION = "FCNSEG_AUTO_PRECISION"
"""The environment variable that overrides the choice of "auto": f32, bf16 or f16."""


Device: TypeAlias = "str | int | torch.device"
"""Accepted types of a device; an int is the index of a CUDA device."""

_computed_in = 0
"""The id of the process that first computed with torch and so may have started its threads."""

_forked = False
"""Whether this process was forked from one that may have started torch's threads."""


def device_name(device: Device) -> str:
    """The name of a device; OptionError for another type."""
    if isinstance(device, int) and not isinstance(device, bool):
        return f"cuda:{device}"
    if isinstance(device, str) or type(device).__module__ == "torch":
        return str(device)
    raise OptionError(f"A device is a name, a number or a torch.device; found {device!r}.")


def resolve_device(name: str = "auto") -> torch.device:
    """The device named auto, cpu, cuda, cuda:N or mps; OptionError when it is not available."""
    import torch

    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else mps)
    if not re.fullmatch(r"(cpu|cuda|mps)(:(0|[1-9][0-9]*))?", name, re.ASCII):
        raise OptionError(f"No device {name!r}; known: auto, cpu, cuda, cuda:N, mps.")
    kind, _, number = name.partition(":")
    if kind == "cuda":
        _require_cuda(name, int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("MPS (Apple's GPU) is not available here.", hint="use --device auto")
    return torch.device(name)


def _require_cuda(name: str, number: int) -> None:
    import torch

    if not torch.cuda.is_available():
        why = (
            "no NVIDIA GPU (or no driver) was found"
            if torch.version.cuda or torch.version.hip
            else f"this PyTorch ({torch.__version__}) was built without CUDA"
        )
        raise OptionError(
            f"Device {name!r} can't be used: {why}.",
            hint="use --device cpu, or see `fcnseg doctor`",
        )
    count = torch.cuda.device_count()
    if number >= count:
        known = ", ".join(f"cuda:{index}" for index in range(count))
        raise OptionError(f"Device {name!r} is not here; known: {known}.")


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype for auto, f32, bf16 or f16 on a device.

    OptionError when the name is unknown or the device does not support it.
    """
    import torch

    asked = name
    if name == "auto":
        name = os.environ.get(AUTO_PRECISION) or "auto"
    if name == "auto":
        return _fastest_safe(device)
    if name not in PRECISIONS:
        where = f"{AUTO_PRECISION}: no" if asked == "auto" else "No"
        raise OptionError(f"{where} precision {name!r}; known: auto, {', '.join(PRECISIONS)}.")
    if name == "f16" and device.type == "cpu":
        raise OptionError(
            "Precision f16 is for GPUs; on a CPU it is slow and overflows.",
            hint="use --precision auto, bf16 or f32",
        )
    precision: torch.dtype = getattr(torch, PRECISIONS[name])
    return precision


def _fastest_safe(device: torch.device) -> torch.dtype:
    import torch

    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (private functions of torch 2.6+)."""
    import torch

    cpu = torch.cpu
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(cpu, name)()) for name in checks if hasattr(cpu, name))


_setting_threads = threading.Lock()


def set_threads_here(count: int) -> None:
    """Set torch's number of threads for the calling thread only.

    torch.set_num_threads also sets the default of threads that have not used torch yet; a helper
    thread restores that default.
    """
    import torch

    with _setting_threads:
        before = torch.get_num_threads()  # also gives this thread a number of its own
        torch.set_num_threads(count)
        another = threading.Thread(target=torch.set_num_threads, args=(before,))
        another.start()
        another.join()


@contextmanager
def process_settings(device: torch.device) -> Iterator[None]:
    """Compute deterministically in the block; restore the random state, cuDNN's flag and the
    environment after it."""
    import torch

    before = torch.backends.cudnn.deterministic
    devices = [device] if device.type == "cuda" else []
    with environment(), torch.random.fork_rng(devices=devices):
        torch.backends.cudnn.deterministic = True  # a resumed run must not differ
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = before


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """torch.autocast in that precision; disabled for f32."""
    import torch

    if precision == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=precision)


def precision_name(precision: torch.dtype) -> str:
    """The name of a dtype on the command line."""
    called = str(precision).removeprefix("torch.")
    return next(name for name, dtype in PRECISIONS.items() if dtype == called)


Item = TypeVar("Item")


@dataclass(frozen=True)
class Timing:
    """Measured times of one stage that was called repeatedly.

    laps: wall-clock seconds of each call. total: core-seconds of all calls together.
    frames: number of frames per call. num_parallel: number of concurrent calls.
    """

    laps: tuple[float, ...]
    total: float
    frames: int
    num_parallel: int = 1

    @property
    def seconds(self) -> float:
        """Median wall-clock seconds per frame."""
        return float(np.median(self.laps)) / (self.frames * self.num_parallel)

    @property
    def core_seconds(self) -> float:
        """Mean core-seconds per frame, of all cores together."""
        return self.total / (len(self.laps) * self.frames)

    def and_then(self, later: Timing) -> Timing:
        """The laps of both together."""
        return replace(self, laps=self.laps + later.laps, total=self.total + later.total)

    def percentiles(self) -> dict[str, float]:
        """Percentiles of the milliseconds per call."""
        return {
            f"p{percentile}": float(np.percentile(self.laps, percentile)) * 1000
            for percentile in (50, 90, 99)
        }


class Clock:
    """A stopwatch for laps in wall-clock seconds and core-seconds; starts when created."""

    def __init__(self) -> None:
        self._laps: list[float] = []
        self._began = time.process_time()
        self._last = time.perf_counter()

    def lap(self) -> None:
        """Record the end of a call."""
        now = time.perf_counter()
        self._laps.append(now - self._last)
        self._last = now

    def timing(self, frames: int) -> Timing:
        """All laps so far, each of `frames` frames."""
        return Timing(tuple(self._laps), time.process_time() - self._began, frames)


def time_each(
    work: Callable[[Item], object], items: Iterable[Item], frames: int, num_parallel: int = 1
) -> Timing:
    """Time `work(item)` for each item, `num_parallel` at a time; `frames` frames per call."""

    def timed(item: Item) -> float:
        start = time.perf_counter()
        work(item)
        return time.perf_counter() - start

    began = time.process_time()
    laps = tuple(lap for _, lap in map_ordered(timed, items, num_parallel))
    return Timing(laps, time.process_time() - began, frames, num_parallel)


def peak_memory(device: str) -> dict[str, int]:
    """Peak memory in bytes, of the "host" and the "device", where the system reports it."""
    held = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held["host"] = peak if sys.platform == "darwin" else peak * 1024
    if device.startswith("cuda"):
        import torch

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
    """Sentences that explain a limit below the network alone, above it, or below end to end.

    shared_cores: number of cores that decoding, network and encoding share; 0 for none.
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Make torch compute in the calling thread only."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def before_computing(opened_in: OpenedIn | None = None) -> None:
    """Set torch to one thread in a forked process; call it before torch computes.

    That is a child of a process that has computed, or in which `opened_in` was created: torch's
    other threads are missing there.
    """
    global _computed_in, _forked
    _computed_in = _computed_in or os.getpid()
    forked = opened_in is not None and opened_in.forked_since()
    _forked = _forked or forked or _computed_in != os.getpid()
    torch = sys.modules.get("torch")  # exported files run without it
    if _forked and torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


class OpenedIn:
    """Remembers the process in which an object was created, to detect a fork."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def forked_since(self) -> bool:
        """Whether this process was forked from it."""
        return os.getpid() != self._process

    def check_device(self, device: str) -> None:
        """Raise OptionError if a GPU was opened before a fork: the child can't use it."""
        if self.forked_since() and device != "cpu":
            raise OptionError(
                f"The model was loaded on {device} before this process was forked, and a GPU can't "
                "be used in both.",
                hint="load the model in each worker, or start the workers with multiprocessing's "
                '"spawn"',
            )


def keep_alive(thing: object) -> None:
    """Keep an object alive forever: its destructor would wait for threads of another process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
