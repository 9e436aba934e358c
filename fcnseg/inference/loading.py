"""Model files -> Segmenters: which engine runs one, by its format and precision, or the fastest."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from fcnseg.config.options import EngineName
from fcnseg.device import resolve_device, resolve_precision
from fcnseg.engines import ENGINES, RUNNABLE, EngineOptions, open_exported
from fcnseg.engines.base import Engine, computing, one_thread
from fcnseg.engines.fuse import fuse_for_inference
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.export import FORMATS, convert
from fcnseg.export.graph import GraphOptions
from fcnseg.export.parity import Trial, compare, sample_images
from fcnseg.files import cache_folder
from fcnseg.inference.segmenter import Segmenter, resizes_itself
from fcnseg.io.bands import Bands, with_shown
from fcnseg.io.images import write_bytes
from fcnseg.models.checkpoint import Checkpoint, find_model
from fcnseg.models.spec import Preprocess
from fcnseg.progress import Callback, Message, no_callback

CONVERSION = 3
"""Raised when converted files change, so that old ones in the cache are not used."""

MOST_KEPT = 30
"""Conversions in the cache; each is as large as its checkpoint."""

WORTH_CONVERTING = 1500
"""Frames from which on a faster engine makes up for its conversion (10 to 40 s, once)."""


def load(
    model: str | Path | None = None,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: str = "auto",
    frames: int = 0,
    parallel: bool = False,
    short_side: int | None = None,
    show_bands: str | None = None,
    callback: Callback = no_callback,
) -> Segmenter:
    """A segmenter from a model file, ready to run.

    model: a name ("nuclei"), a .safetensors checkpoint, an exported .onnx or .xml, or a folder of
        a run or of save_pretrained (its best); None or "best": the best of the newest run.
    engine: "auto" is torch, or what runs faster on this machine if it is installed and the
        conversion is there already or worth its time.
    frames: how many frames will come, if known: it decides whether a conversion is.
    parallel: for many images: on a CPU several are computed in parallel, which takes longer for
        one and less for all, and more memory.
    short_side: resize the short side to so many pixels, 0 for no resizing; without it, what the
        model was trained with.
    show_bands: of a model of other bands than RGB, which of them images show: "4,3,2".

        model = fcnseg.load("nuclei")

    A process that is forked afterwards can use the model, too; it computes in one thread. On a GPU
    it has to load the model itself (OptionError).

    Raises CheckpointError, OptionError, MissingExtra.
    """
    path = find_model(None if model is None else str(model), callback=callback)
    options = EngineOptions(engine, device, precision, frames, parallel)
    runner, header = open_engine(path, options, callback)
    preprocess = preprocess_outside(header, path, short_side)
    if show_bands is not None:
        preprocess = replace(preprocess, bands=with_shown(preprocess.bands, show_bands))
    reopen = partial(_engine_of, path)
    return Segmenter(runner, header.classes, preprocess, path, header.extra, options, reopen)


def _engine_of(path: Path, options: EngineOptions) -> Engine:
    return open_engine(path, options, no_callback)[0]


def open_engine(
    path: Path, options: EngineOptions, callback: Callback
) -> tuple[Engine, Checkpoint]:
    """An engine for a model file, and the file's header (a Checkpoint without weights)."""
    known = ("auto", "torch", *ENGINES)
    if options.engine not in known:
        raise OptionError(f"No engine {options.engine!r}; known: {', '.join(known)}.")
    kind = path.suffix.lower()
    if kind in RUNNABLE:
        return _open_exported(path, options)
    if kind in {format.suffix for format in FORMATS.values()}:
        raise CheckpointError(
            f"{path} is for other programs: such files can hold code, which fcnseg does not run.",
            hint="give the checkpoint it was exported from, or export that to ONNX",
        )
    if options.precision == "int8":
        raise OptionError(
            f"{path} is not in int8: int8 needs images for calibration.",
            hint=f"fcnseg export {path} --precision int8 --data FOLDER writes a file that is",
        )
    checkpoint = Checkpoint.load(path)
    if options.engine == "torch":
        return _open_torch(checkpoint, options), checkpoint
    if options.engine == "auto":
        return _open_fastest(checkpoint, path, options, callback), checkpoint
    engine, _ = _open_exported(_converted(checkpoint, path, callback), options)
    return engine, checkpoint


def preprocess_outside(header: Checkpoint, path: Path, short_side: int | None) -> Preprocess:
    """How images are prepared for a file, with another short side where one is requested.

    OptionError where the file resizes them itself, to another one.
    """
    preprocess = header.preprocess.at(short_side)
    if not resizes_itself(header.extra):
        return preprocess
    if preprocess != header.preprocess:
        raise OptionError(
            f"{path} resizes images itself, to a short side of {header.preprocess.short_side} "
            f"pixels; {short_side} was requested.",
            hint="omit --short-side, or give the checkpoint it was exported from",
        )
    return preprocess.at(0)


def _open_torch(checkpoint: Checkpoint, options: EngineOptions) -> TorchEngine:
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    with one_thread():
        network = fuse_for_inference(
            checkpoint.build().to(device), device=device, precision=precision
        )
    return TorchEngine(
        network,
        checkpoint.preprocess,
        device=device,
        precision=precision,
        parallel=options.parallel,
    )


def _open_exported(path: Path, options: EngineOptions) -> tuple[Engine, Checkpoint]:
    name = _made_for(path) if options.engine == "auto" else options.engine
    engine, header = open_exported(
        path,
        name,
        device=options.device,
        precision=options.precision,
        parallel=options.parallel,
    )
    automatic = options.engine == "auto" and name != "openvino" and engine.device == "cpu"
    if engine.precision == "int8" and automatic and find_spec("openvino") is not None:
        return _open_exported(path, replace(options, engine="openvino"))  # the fastest in int8
    return engine, header


def _made_for(path: Path) -> EngineName:
    """The default engine for an exported file."""
    if path.suffix.lower() == ".xml":
        return "openvino"
    return "opencv" if find_spec("onnxruntime") is None else "onnxruntime"


def _open_fastest(
    checkpoint: Checkpoint, path: Path, options: EngineOptions, callback: Callback
) -> Engine:
    """What runs fastest on this processor, where finding out is worth its time; else torch."""
    in_torch = _open_torch(checkpoint, options)
    if in_torch.device != "cpu" or in_torch.precision != "f32" or not can_compare_engines():
        return in_torch
    record = _kept(path).with_suffix(".json")
    name = recorded_fastest(record)
    if name is None and options.frames >= WORTH_CONVERTING:
        converted = _converted(checkpoint, path, callback)
        name = fastest_engine(in_torch, converted, record, checkpoint.preprocess.bands)
        callback(Message(f"The fastest engine for {path.name} on this machine is {name}."))
    if name is None or name == "torch":
        return in_torch
    options = replace(options, engine=name, device="auto", precision="auto")
    engine, _ = _open_exported(_converted(checkpoint, path, callback), options)
    return engine


def _kept(path: Path) -> Path:
    """Where the conversion of a checkpoint is kept, whether it is there or not."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_folder() / "engines" / f"{digest[:32]}-{CONVERSION}.onnx"


def _converted(checkpoint: Checkpoint, path: Path, callback: Callback) -> Path:
    """The checkpoint as ONNX, from the cache or made now; verified before it is kept."""
    kept = _kept(path)
    if not kept.is_file():
        callback(Message(f"Converting {path.name} (once; kept in {kept.parent})"))
        computing()
        convert(checkpoint, kept, "onnx", options=GraphOptions(resizes=False))
        _forget_oldest(kept.parent)
    return kept


def _forget_oldest(folder: Path) -> None:
    """Keep the newest conversions only."""
    found = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime_ns)
    for path in found[:-MOST_KEPT]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


OTHERS: tuple[EngineName, ...] = ("onnxruntime", "openvino")
"""The engines that may be faster than torch; each needs the package of its name."""

SIZE = (360, 480)

SECONDS = 1.0
"""How long an engine runs, at least three frames."""

_PARITY_SIZES = ((97, 131), (240, 320))


def can_compare_engines() -> bool:
    """Whether there is another engine than torch, and what it takes to convert for it."""
    return bool(_installed()) and all(
        importlib.util.find_spec(name) is not None for name in ("onnx", "onnxscript")
    )


def recorded_fastest(record: Path) -> EngineName | None:
    """The fastest engine, if it was measured with the engines that are installed now."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        name: EngineName = found["fastest"]
        return name if found["installed"] == _installed() and name in get_args(EngineName) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fastest_engine(
    in_torch: Engine, converted: Path, record: Path, bands: Bands | None = None
) -> EngineName:
    """Time torch and every other installed engine on an image; record the fastest.

    bands: of the network's images; None: RGB.
    """
    fps: dict[EngineName, float] = {"torch": _frames_a_second(in_torch, bands)}
    for name in _installed():
        engine, _ = open_exported(converted, name, device="cpu")
        parity = compare(
            in_torch.logits,
            engine.logits,
            labels=engine.just_labels,
            trial=Trial(sizes=_PARITY_SIZES, bands=bands),
        )
        if parity.holds:
            fps[name] = _frames_a_second(engine, bands)
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


def _frames_a_second(engine: Engine, bands: Bands | None) -> float:
    images = sample_images((1, *SIZE), seed=0, bands=bands)
    engine.labels(images)
    best, begun, rounds = float("inf"), time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        engine.labels(images)
        best = min(best, time.perf_counter() - start)
        rounds += 1
    return 1 / best
