"""Which engine is the fastest for one network on this machine: tried once, remembered.

Only an engine whose answers are those of torch may win.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

from fcnseg.config import EngineName
from fcnseg.media.images import write_bytes
from fcnseg.runtime.engines import Engine
from fcnseg.runtime.parity import compare, sample_images

OTHERS: tuple[EngineName, ...] = ("onnxruntime", "openvino")
"""The engines that may be faster than torch; each needs the package of its name."""

SIZE = (360, 480)
SECONDS = 1.0
"""How long an engine runs, at least three frames."""

_PARITY_SIZES = ((97, 131), (240, 320))


def can_race() -> bool:
    """Whether there is another engine than torch, and what it takes to convert for it."""
    return bool(_installed()) and all(
        importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript")
    )


def winner(record: Path) -> EngineName | None:
    """The engine that won, if the race was run with the engines that are installed now."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        name: EngineName = found["fastest"]
        return name if found["installed"] == _installed() and name in get_args(EngineName) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def race(
    in_torch: Engine,
    others: Mapping[EngineName, Callable[[Path], Engine]],
    converted: Path,
    record: Path,
) -> EngineName:
    """Time torch and every other installed engine on a picture; write down who won."""
    fps: dict[EngineName, float] = {"torch": _frames_a_second(in_torch)}
    for name in _installed():
        engine = others[name](converted)
        parity = compare(
            in_torch.logits, engine.logits, labels=engine.just_labels, sizes=_PARITY_SIZES
        )
        if parity.holds:
            fps[name] = _frames_a_second(engine)
    fastest = max(fps, key=lambda name: fps[name])
    found = {"fastest": fastest, "fps": fps, "installed": _installed()}
    write_bytes(record, json.dumps(found).encode())
    return fastest


def _installed() -> dict[EngineName, str]:
    """The other engines that are installed, with their versions."""
    return {name: _version(name) for name in OTHERS if importlib.util.find_spec(name) is not None}


def _version(module: str) -> str:
    """A package's version; "" where the package that brings the module has another name."""
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _frames_a_second(engine: Engine) -> float:
    images = sample_images((1, *SIZE), seed=0)
    engine.labels(images)
    best, begun, rounds = float("inf"), time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        engine.labels(images)
        best = min(best, time.perf_counter() - start)
        rounds += 1
    return 1 / best
