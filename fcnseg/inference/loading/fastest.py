"""Find the fastest engine for a network on this machine: measured once, then recorded."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import time
from pathlib import Path
from typing import get_args

from fcnseg.config.options import EngineName
from fcnseg.engines import open_exported
from fcnseg.engines.base import Engine, Images
from fcnseg.errors import PARSE_ERRORS, MediaError
from fcnseg.exporting.parity import Trial, compare, sample_images
from fcnseg.io.bands import Bands
from fcnseg.io.images import write_bytes

OTHERS: tuple[EngineName, ...] = ("onnxruntime", "openvino")
"""The engines that may be faster than torch; each needs the package of its name."""

WORTH_MEASURING = 100
"""Minimum number of frames for timing the engines of a file, which takes seconds (once)."""

SIZE = (360, 480)

SECONDS = 1.0
"""Duration of a measurement; at least three frames are run."""

_PARITY_SIZES = ((97, 131), (240, 320))


def can_compare_engines() -> bool:
    """Whether another engine than torch and the packages for converting to it are installed."""
    return bool(_installed()) and all(
        importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript")
    )


def recorded_fastest(record: Path) -> EngineName | None:
    """The recorded fastest engine; None if other engines or versions are installed now."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        name: EngineName = found["fastest"]
        return name if found["installed"] == _installed() and name in get_args(EngineName) else None
    except (OSError, *PARSE_ERRORS):
        return None


def fastest_engine(
    in_torch: Engine, converted: Path, record: Path, bands: Bands | None = None
) -> EngineName:
    """Time torch and the other installed engines whose outputs match on an image; record the
    fastest.

    bands: of the network's images; None: RGB.
    """
    fps: dict[EngineName, float] = {"torch": _frames_per_second(in_torch, bands)}
    for name in _installed():
        engine, _ = open_exported(converted, name, device="cpu")
        parity = compare(
            in_torch.logits,
            engine.logits,
            labels=engine.just_labels,
            trial=Trial(sizes=_PARITY_SIZES, bands=bands),
        )
        if parity.holds:
            fps[name] = _frames_per_second(engine, bands)
    return _recorded(fps, record)


def fastest_for_file(
    file: Path, record: Path, frames: int, bands: Bands | None = None
) -> EngineName:
    """The fastest engine for an int8 file: as recorded or, for many frames, measured now.

    It depends on the network and the CPU (benchmarks/export_precisions.py). Without a measurement,
    ONNX Runtime if it is installed, because `fcnseg export` timed the file in it.
    """
    installed: list[EngineName] = list(_installed()) or ["opencv"]
    if len(installed) == 1:
        return installed[0]
    name = recorded_fastest(record)
    if name is None and frames >= WORTH_MEASURING:
        opened = {one: open_exported(file, one, device="cpu")[0] for one in installed}
        return _recorded({one: _frames_per_second(opened[one], bands) for one in opened}, record)
    return name if name in installed else installed[0]


def _recorded(fps: dict[EngineName, float], record: Path) -> EngineName:
    fastest = max(fps, key=lambda name: fps[name])
    found = {"fastest": fastest, "fps": fps, "installed": _installed()}
    with contextlib.suppress(MediaError):  # without a record it is measured again
        write_bytes(record, json.dumps(found).encode())
    return fastest


def _installed() -> dict[EngineName, str]:
    """The installed engines other than torch, with their versions."""
    return {name: _version(name) for name in OTHERS if importlib.util.find_spec(name) is not None}


def _version(module: str) -> str:
    """A package's version; "" if the package has another name than its module."""
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _frames_per_second(engine: Engine, bands: Bands | None) -> float:
    images = sample_images((1, *(getattr(engine, "fixed_size", None) or SIZE)), seed=0, bands=bands)
    return 1 / least_seconds(engine, images, within=SECONDS)


def least_seconds(engine: Engine, images: Images, *, within: float = 0.0) -> float:
    """Return the shortest time for the labels of images; at least three runs, `within` seconds."""
    engine.labels(images)
    laps, began = list[float](), time.perf_counter()
    while len(laps) < 3 or time.perf_counter() - began < within:
        start = time.perf_counter()
        engine.labels(images)
        laps.append(time.perf_counter() - start)
    return min(laps)
