"""Devices, numeric precision, and the process-wide settings of torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fcnseg.errors import OptionError
from fcnseg.progress import environment

PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
"""The arithmetic by its name on the command line."""

AUTO_PRECISION = "FCNSEG_AUTO_PRECISION"
"""The environment variable that says what "auto" is: f32, bf16 or f16."""


def resolve_device(name: str = "auto") -> torch.device:
    """The device called auto, cpu, cuda, cuda:N or mps; OptionError when it is not here."""
    if name == "auto":
        return torch.device(_best_kind())
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdecimal()):
        raise OptionError(f"No device {name!r}; known: auto, cpu, cuda, cuda:N, mps.")
    if kind == "cuda":
        _require_cuda(name, int(number or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("MPS (Apple's GPU) is not available here.", hint="take --device auto")
    return torch.device(name)


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _require_cuda(name: str, number: int) -> None:
    if not torch.cuda.is_available():
        why = (
            "no NVIDIA GPU (or no driver) was found"
            if torch.version.cuda or torch.version.hip
            else f"this PyTorch ({torch.__version__}) was built without CUDA"
        )
        raise OptionError(
            f"Device {name!r} can't be used: {why}.",
            hint="take --device cpu, or see `fcnseg doctor`",
        )
    count = torch.cuda.device_count()
    if number >= count:
        known = ", ".join(f"cuda:{index}" for index in range(count))
        raise OptionError(f"Device {name!r} is not here; known: {known}.")


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic for auto, f32, bf16 or f16 on a device.

    OptionError when the name is unknown or the device can't do it.
    """
    if name == "auto":
        name = os.environ.get(AUTO_PRECISION) or "auto"
    if name == "auto":
        return _fastest_safe(device)
    if name not in PRECISIONS:
        raise OptionError(f"No precision {name!r}; known: auto, {', '.join(PRECISIONS)}.")
    if name == "f16" and device.type == "cpu":
        raise OptionError(
            "Precision f16 is for GPUs; on a CPU it is slow and overflows.",
            hint="take --precision auto, bf16 or f32",
        )
    return PRECISIONS[name]


def _fastest_safe(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and _cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def _cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 multiplication in hardware (private names: torch 2.6+)."""
    cpu = torch.cpu
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(cpu, name)()) for name in questions if hasattr(cpu, name))


@contextmanager
def process_settings(device: torch.device) -> Iterator[None]:
    """Repeatable computing in the block; what it and torch change is restored after it.

    That is the random state, cuDNN's flag and the environment.
    """
    before = torch.backends.cudnn.deterministic
    devices = [device] if device.type == "cuda" else []
    with environment(), torch.random.fork_rng(devices=devices):
        torch.backends.cudnn.deterministic = True  # a resumed run must not differ
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = before


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """A context in which heavy operations run in that precision; nothing changes for f32."""
    if precision == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=precision)


def precision_name(precision: torch.dtype) -> str:
    """The name of an arithmetic on the command line."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)
