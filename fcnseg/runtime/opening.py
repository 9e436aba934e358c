"""Which engine runs a model file, and how it comes to do so.

A checkpoint runs in torch as it is. For the other engines it is converted once, and the
result kept under its content's hash, so that the second time costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from fcnseg.config import EngineName
from fcnseg.data.cache import cache_folder
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.events import Listener, Note
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.runtime.convert import convert
from fcnseg.runtime.device import resolve_device, resolve_precision
from fcnseg.runtime.engines import Engine, TorchEngine
from fcnseg.runtime.folding import joined
from fcnseg.runtime.forking import computing, one_thread
from fcnseg.runtime.formats import FORMATS, PRECISION
from fcnseg.runtime.onnx_engine import OnnxEngine
from fcnseg.runtime.opencv_engine import OpenCvEngine
from fcnseg.runtime.openvino_engine import OpenVinoEngine
from fcnseg.runtime.race import can_race, race, winner

RUNNABLE = (".onnx", ".xml")
"""Suffixes of exported files that fcnseg itself runs."""

CONVERSION = 3
"""Raised when converted files change, so that old ones in the cache are not used."""

MOST_KEPT = 30
"""Conversions in the cache; each is as large as its checkpoint."""

WORTH_CONVERTING = 1500
"""Frames from which on a faster engine makes up for its conversion (10 to 40 s, once)."""


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    engine, device, precision: as in the options, "auto" where nothing was.
    frames: how many frames will come, 0 when a few or nobody knows.
    parallel: whether several threads may call the engine at the same time, where that is faster.
    """

    engine: EngineName = "auto"
    device: str = "auto"
    precision: str = "auto"
    frames: int = 0
    parallel: bool = False


def open_engine(path: Path, wish: Wish, listener: Listener) -> tuple[Engine, Checkpoint]:
    """An engine for a model file, and the file's header (a Checkpoint without weights)."""
    kind = path.suffix.lower()
    if kind in RUNNABLE:
        return _open_exported(path, wish)
    if kind in {format.suffix for format in FORMATS.values()}:
        raise CheckpointError(
            f"{path} is for other programs: such files can hold code, which fcnseg does not run.",
            hint="give the checkpoint it was exported from, or export that to ONNX",
        )
    if wish.precision == "int8":
        raise OptionError(
            f"{path} is not in int8: that needs pictures to be fitted to.",
            hint=f"fcnseg export {path} --precision int8 --data FOLDER writes a file that is",
        )
    checkpoint = Checkpoint.load(path)
    if wish.engine == "torch":
        return _open_torch(checkpoint, wish), checkpoint
    if wish.engine == "auto":
        return _open_fastest(checkpoint, path, wish, listener), checkpoint
    engine, _ = _open_exported(_converted(checkpoint, path, listener), wish)
    return engine, checkpoint


def _open_torch(checkpoint: Checkpoint, wish: Wish) -> TorchEngine:
    device = resolve_device(wish.device)
    precision = resolve_precision(wish.precision, device)
    with one_thread():
        return TorchEngine(
            joined(checkpoint.build().to(device), device=device, precision=precision),
            checkpoint.preprocess,
            device=device,
            precision=precision,
            parallel=wish.parallel,
        )


def _open_exported(path: Path, wish: Wish) -> tuple[Engine, Checkpoint]:
    name = _made_for(path) if wish.engine == "auto" else wish.engine
    engine: OnnxEngine | OpenVinoEngine | OpenCvEngine
    if name == "openvino":
        precision = "auto" if wish.precision == "int8" else wish.precision
        engine = OpenVinoEngine(
            path, device=wish.device, precision=precision, parallel=wish.parallel
        )
    elif name == "torch" or path.suffix.lower() != ".onnx":
        raise OptionError(
            f"{path} is an exported file, which {name} does not run.",
            hint="leave --engine away, or give the checkpoint it was exported from",
        )
    elif wish.precision not in ("auto", "f32", "int8"):
        raise OptionError(
            f"The engine {name} computes in f32 here; {wish.precision} was asked for.",
            hint="take --engine torch with the checkpoint, or --precision f32",
        )
    elif name == "opencv":
        engine = OpenCvEngine(path, device=wish.device)
    else:
        engine = OnnxEngine(path, device=wish.device, parallel=wish.parallel)
    header = Checkpoint.from_header(engine.header, name=str(path))
    in_int8 = header.extra.get(PRECISION) == "int8"
    if wish.precision != "auto" and in_int8 != (wish.precision == "int8"):
        raise OptionError(
            f"{path} computes in {'int8' if in_int8 else 'f32'}; {wish.precision} was asked for.",
            hint="leave --precision away, or export the checkpoint in the other one",
        )
    if in_int8:
        if wish.engine == "auto" and engine.device == "cpu" and _beside(name, "openvino"):
            return _open_exported(path, replace(wish, engine="openvino"))  # the fastest in 8 bits
        engine.precision = "int8"
    return engine, header


def _beside(name: str, other: str) -> bool:
    """Whether another engine than the one that was taken is installed."""
    return name != other and find_spec(other) is not None


def _made_for(path: Path) -> EngineName:
    """What runs an exported file when nobody says."""
    if path.suffix.lower() == ".xml":
        return "openvino"
    return "opencv" if find_spec("onnxruntime") is None else "onnxruntime"


def _open_fastest(checkpoint: Checkpoint, path: Path, wish: Wish, listener: Listener) -> Engine:
    """What runs fastest on this processor, where finding out is worth its time; else torch."""
    in_torch = _open_torch(checkpoint, wish)
    if in_torch.device != "cpu" or in_torch.precision != "f32" or not can_race():
        return in_torch
    record = _kept(path).with_suffix(".json")
    name = winner(record)
    if name is None and wish.frames >= WORTH_CONVERTING:
        others: dict[EngineName, Callable[[Path], Engine]] = {
            "onnxruntime": OnnxEngine,
            "openvino": OpenVinoEngine,
        }
        name = race(in_torch, others, _converted(checkpoint, path, listener), record)
        listener(Note(f"The fastest engine for {path.name} on this machine is {name}."))
    if name is None or name == "torch":
        return in_torch
    wish = replace(wish, engine=name, device="auto", precision="auto")
    engine, _ = _open_exported(_converted(checkpoint, path, listener), wish)
    return engine


def _kept(path: Path) -> Path:
    """Where the conversion of a checkpoint is kept, whether it is there or not."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_folder() / "engines" / f"{digest[:32]}-{CONVERSION}.onnx"


def _converted(checkpoint: Checkpoint, path: Path, listener: Listener) -> Path:
    """The checkpoint as ONNX, from the cache or made now; proven before it is kept."""
    kept = _kept(path)
    if not kept.is_file():
        listener(Note(f"Converting {path.name} (once; kept in {kept.parent})"))
        computing()
        convert(checkpoint, kept, "onnx")
        _forget_oldest(kept.parent)
    return kept


def _forget_oldest(folder: Path) -> None:
    """Keep the newest conversions only."""
    found = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime_ns)
    for path in found[:-MOST_KEPT]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
