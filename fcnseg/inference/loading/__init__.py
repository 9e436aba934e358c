"""Load model files as Segmenters; choose the engine by format and precision, or the fastest.

Several files, or several views of an image, give one Segmenter that averages probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnseg.config import InferConfig
from fcnseg.config.options import EngineName, Options
from fcnseg.device import Device, before_computing, device_name, one_thread
from fcnseg.engines import ENGINES, RUNNABLE, EngineOptions, open_exported
from fcnseg.engines.averaging import SCALES, AveragingEngine, Member
from fcnseg.engines.base import Engine
from fcnseg.engines.model_files import header_in
from fcnseg.errors import CheckpointError, MediaError, OptionError, quoted
from fcnseg.files import cache_folder
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.bands import with_shown
from fcnseg.models.checkpoint import Checkpoint, find_models, resizes_itself
from fcnseg.models.spec import Preprocess
from fcnseg.progress import Callback, Message, no_callback

if TYPE_CHECKING:
    from fcnseg.engines.pytorch import TorchEngine

CONVERSION = 3
"""Version of converted files, so that older ones in the cache are not used."""

MAX_CACHED = 30
"""Conversions in the cache; each is as large as its checkpoint."""

_ONLY: dict[str, EngineName] = {".xml": "openvino", ".tflite": "litert", ".pte": "executorch"}
"""The formats that only one engine runs."""

WORTH_CONVERTING = 1500
"""Minimum number of frames for which a conversion (10 to 40 s, once) pays off."""


def load(
    model: str | Path | Sequence[str | Path] | None = None,
    *,
    engine: EngineName = "auto",
    device: Device = "auto",
    precision: str = "auto",
    frames: int = 0,
    parallel: bool = False,
    short_side: int | None = None,
    show_bands: str | None = None,
    tta: bool = False,
    callback: Callback = no_callback,
) -> Segmenter:
    """Load a segmenter from a model file, or from several whose probabilities are averaged.

    model: a pretrained model's name ("nuclei"; docs/infer.md lists them), a .safetensors
        checkpoint, an exported .onnx, .xml, .tflite or .pte, or the folder of a run or of
        save_pretrained (its best checkpoint); None or "best": that of the newest run.
        A list averages models with the same classes, in any order; each resizes images to its own
        short side.
    device: "auto", "cpu", "cuda", "cuda:1", "mps", a torch.device, or the number of a CUDA device.
    engine: "auto" is torch, or a faster one on this machine, if it is installed and the model is
        already converted or `frames` are enough to make the conversion worthwhile.
    frames: the expected number of frames, if known.
    parallel: for many images: a CPU computes several in parallel, which increases throughput,
        latency and memory.
    short_side: resize the short side to this many pixels, 0 for no resizing; None: as in training.
    show_bands: for a model of other bands than RGB, those to display: "4,3,2".
    tta: test-time augmentation: probabilities are averaged over four scales, each also mirrored.

        model = fcnseg.load("nuclei")
        with_tta = fcnseg.load(["nuclei"], tta=True)

    A process that is forked later can use the model as well, in one thread. On a GPU it has to
    load the model itself (OptionError).

    Raises CheckpointError, OptionError, MissingExtra.
    """
    options = EngineOptions(engine, device_name(device), precision, frames, parallel)
    short_side = InferConfig.checked("short_side", short_side)
    for name, text in (("engine", engine), ("precision", precision)):
        if not isinstance(text, str):
            raise OptionError(f"{name}: expected a name; found {text!r:.80}.")
    several = list(model) if isinstance(model, list | tuple) else [model]
    for one in several:
        if not isinstance(one, str | Path | None):
            raise OptionError(f"A model is a name or a path; found {type(one).__name__}.")
    paths = find_models([None if one is None else str(one) for one in several], callback=callback)
    loaded = [_load_one(path, options, short_side, show_bands, callback) for path in paths]
    return loaded[0] if len(loaded) == 1 and not tta else averaged(loaded, tta=tta)


LOAD_OPTIONS = ("model", "engine", "device", "precision", "short_side", "show_bands", "tta")
"""The options that select a model and how it is loaded."""


def load_as(config: Options, callback: Callback, **others: Any) -> Segmenter:
    """`load` with a command's options, for many images; others: arguments that override them."""
    chosen = {name: getattr(config, name) for name in LOAD_OPTIONS if hasattr(config, name)}
    return load(**{**chosen, "parallel": True, **others}, callback=callback)


def _load_one(
    path: Path,
    options: EngineOptions,
    short_side: int | None,
    show_bands: str | None,
    callback: Callback,
) -> Segmenter:
    runner, header = open_engine(path, options, callback)
    preprocess = remaining_preprocess(header, path, short_side)
    if show_bands is not None:
        preprocess = replace(preprocess, bands=with_shown(preprocess.bands, show_bands))
    reopen = partial(_engine_of, path)
    return Segmenter(runner, header.classes, preprocess, path, header.extra, options, reopen)


def _engine_of(path: Path, options: EngineOptions) -> Engine:
    return open_engine(path, options, no_callback)[0]


def averaged(models: Sequence[Segmenter], *, tta: bool = False) -> Segmenter:
    """Average the probabilities of several segmenters, or of several views of an image.

    tta: run each at four scales, each also mirrored. Classes are matched by name and are in the
    first model's order. OptionError when classes or bands differ, and with `tta` for a file that
    resizes images itself.
    """
    first = models[0]
    for other in models[1:]:
        _refuse_other_outputs(first, other)
    if tta and any(resizes_itself(one.extra) for one in models):
        raise OptionError(
            "Test-time augmentation needs other sizes; this file resizes images itself.",
            hint="give the checkpoint it was exported from, or omit --tta",
        )
    return Segmenter(
        _averaging(models, tta),
        first.classes,
        first.preprocess.at(0),
        first.path if len(models) == 1 else None,
        first.extra,
        first.options,
        None if any(one.reopen is None for one in models) else partial(_averaging_on, models, tta),
        tuple(models),
    )


def _averaging(models: Sequence[Segmenter], tta: bool) -> AveragingEngine:
    names, members = models[0].classes.names, []
    for one in models:
        own = one.classes.names
        order = None if own == names else tuple(own.index(name) for name in names)
        members.append(Member(one.engine, one.preprocess, order))
    return AveragingEngine(members, scales=SCALES if tta else (1.0,), mirrored=tta)


def _averaging_on(models: Sequence[Segmenter], tta: bool, options: EngineOptions) -> Engine:
    return _averaging([one.to(options.device) for one in models], tta)


def _refuse_other_outputs(first: Segmenter, other: Segmenter) -> None:
    """OptionError for two models whose probabilities can't be averaged."""
    names = [f"{model.path or 'a model in memory'}" for model in (first, other)]
    ours, theirs = first.classes.names, other.classes.names
    if set(ours) != set(theirs):
        raise OptionError(
            f"{names[0]} has the classes {', '.join(ours)}; {names[1]} has {', '.join(theirs)}.",
            hint="only models of the same classes are averaged",
        )
    taken = [model.preprocess.bands for model in (first, other)]
    layouts = [None if one is None else (one.dtype, one.stored, one.carried) for one in taken]
    if layouts[0] != layouts[1]:
        bands = ["8-bit RGB" if one is None else f"{one[1]} bands of {one[0]}" for one in layouts]
        raise OptionError(
            f"{names[0]} takes images of {bands[0]}; {names[1]} takes {bands[1]}.",
            hint="only models that read images alike are averaged",
        )


def open_engine(
    path: Path, options: EngineOptions, callback: Callback
) -> tuple[Engine, Checkpoint]:
    """Open an engine for a model file; return it and the checkpoint.

    For an exported file, the Checkpoint has no weights.
    """
    known = ("auto", "torch", *ENGINES)
    if options.engine not in known:
        raise OptionError(f"No engine {options.engine!r}; known: {', '.join(known)}.")
    kind = path.suffix.lower()
    if kind in RUNNABLE:
        return _open_exported(path, options)
    from fcnseg.exporting import FORMATS

    if kind in {format.suffix for format in FORMATS.values()} and header_in(path) is not None:
        raise CheckpointError(
            f"{path} is for other programs: such files can hold code, which fcnseg does not run.",
            hint="give the checkpoint it was exported from, or export that to ONNX",
        )
    if options.precision == "int8":
        raise OptionError(
            f"{path} is not in int8: int8 needs images for calibration.",
            hint=f"fcnseg export {quoted(path)} --precision int8 --data FOLDER writes one",
        )
    checkpoint = Checkpoint.load(path)
    if options.engine == "torch":
        return _open_torch(checkpoint, options), checkpoint
    if options.engine == "auto":
        return _open_fastest(checkpoint, path, options, callback), checkpoint
    engine, _ = _open_exported(_converted(checkpoint, path, _cached_path(path), callback), options)
    return engine, checkpoint


def remaining_preprocess(header: Checkpoint, path: Path, short_side: int | None) -> Preprocess:
    """The preprocessing to be done outside a file, with the requested short side.

    OptionError when the file resizes images itself, to another short side.
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
    from fcnseg.device import resolve_device, resolve_precision
    from fcnseg.engines.fuse import fuse_for_inference
    from fcnseg.engines.pytorch import TorchEngine

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
    name = options.engine
    if name == "auto" and path.suffix.lower() in _ONLY:
        name = _ONLY[path.suffix.lower()]
    elif name == "auto":
        name = "opencv" if find_spec("onnxruntime") is None else "onnxruntime"
    engine, header = open_exported(
        path, name, device=options.device, precision=options.precision, parallel=options.parallel
    )
    automatic = options.engine == "auto" and name not in _ONLY.values() and engine.device == "cpu"
    if engine.precision != "int8" or not automatic or find_spec("torch") is None:
        return engine, header
    from fcnseg.inference.loading.fastest import fastest_for_file

    record = _cached_path(path).with_suffix(".json")
    fastest = fastest_for_file(path, record, options.frames, header.preprocess.bands)
    return (
        (engine, header)
        if fastest == name
        else _open_exported(path, replace(options, engine=fastest))
    )


def _open_fastest(
    checkpoint: Checkpoint, path: Path, options: EngineOptions, callback: Callback
) -> Engine:
    """Open the fastest engine on this CPU if it is known or worth measuring; otherwise torch."""
    in_torch = _open_torch(checkpoint, options)
    if in_torch.device != "cpu" or in_torch.precision != "f32":
        return in_torch
    few = options.frames < WORTH_CONVERTING
    if few and not (cache_folder() / "engines").is_dir():
        return in_torch
    cached = _cached_path(path)
    record = cached.with_suffix(".json")
    if few and not record.is_file():
        return in_torch
    from fcnseg.inference.loading.fastest import (
        can_compare_engines,
        fastest_engine,
        recorded_fastest,
    )

    if not can_compare_engines():
        return in_torch
    name = recorded_fastest(record)
    try:
        if name is None and not few:
            converted = _converted(checkpoint, path, cached, callback)
            name = fastest_engine(in_torch, converted, record, checkpoint.preprocess.bands)
            callback(Message(f"The fastest engine for {path.name} on this machine is {name}."))
        if name is None or name == "torch":
            return in_torch
        options = replace(options, engine=name, device="auto", precision="auto")
        return _open_exported(_converted(checkpoint, path, cached, callback), options)[0]
    except (CheckpointError, MediaError) as error:  # the engine is optional: torch works as well
        callback(Message(f"{path.name} runs in torch, not in a faster engine. {error.message}"))
        return in_torch


def _cached_path(path: Path) -> Path:
    """The path of a checkpoint's conversion in the cache, which may not exist yet."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_folder() / "engines" / f"{digest[:32]}-{CONVERSION}.onnx"


def _converted(checkpoint: Checkpoint, path: Path, cached: Path, callback: Callback) -> Path:
    """Return the checkpoint as ONNX, from the cache or converted and verified now."""
    if not cached.is_file():
        text = (
            f"Converting {path.name}, which takes up to a minute (once; cached in {cached.parent})"
        )
        callback(Message(text))
        from fcnseg.exporting import convert
        from fcnseg.exporting.graph import GraphOptions

        before_computing()
        convert(checkpoint, cached, "onnx", options=GraphOptions(resizes=False))
        _delete_oldest(cached.parent)
    return cached


def _delete_oldest(folder: Path) -> None:
    """Delete all but the newest conversions."""
    found = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime_ns)
    for path in found[:-MAX_CACHED]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
