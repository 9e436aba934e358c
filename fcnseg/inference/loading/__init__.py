"""Model files -> Segmenters: which engine runs one, by its format and precision, or the fastest.

Several files, or several views of an image, become one Segmenter that averages probabilities.
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
from fcnseg.errors import CheckpointError, MediaError, OptionError, typed
from fcnseg.files import cache_folder
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.bands import with_shown
from fcnseg.models.checkpoint import Checkpoint, find_models, resizes_itself
from fcnseg.models.spec import Preprocess
from fcnseg.progress import Callback, Message, no_callback

if TYPE_CHECKING:
    from fcnseg.engines.pytorch import TorchEngine

CONVERSION = 3
"""Raised when converted files change, so that old ones in the cache are not used."""

MOST_KEPT = 30
"""Conversions in the cache; each is as large as its checkpoint."""

_ONLY: dict[str, EngineName] = {".xml": "openvino", ".tflite": "litert", ".pte": "executorch"}
"""The engines that run files of which no other one does."""

WORTH_CONVERTING = 1500
"""Frames from which on a faster engine makes up for its conversion (10 to 40 s, once)."""


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
    """A segmenter from a model file, or from several whose probabilities are averaged.

    model: a pretrained model's name ("nuclei"; docs/infer.md lists them), a .safetensors
        checkpoint, an exported .onnx, .xml, .tflite or .pte, or the folder of a run or of
        save_pretrained (its best); None or "best": of the newest run.
        A list of them averages models of the same classes, in whatever order; each sees an
        image at its own short side.
    device: "auto", "cpu", "cuda", "cuda:1", "mps", a torch.device, or the number of a CUDA device.
    engine: "auto" is torch, or what runs faster on this machine if it is installed and the
        conversion is there already or worth its time.
    frames: how many frames will come, if known: it decides whether a conversion is.
    parallel: for many images: on a CPU several are computed in parallel, which takes longer for
        one and less for all, and more memory.
    short_side: resize the short side to so many pixels, 0 for no resizing; without it, what the
        model was trained with.
    show_bands: of a model of other bands than RGB, which of them images show: "4,3,2".
    tta: test-time augmentation: probabilities are averaged over four scales, each also mirrored.

        model = fcnseg.load("nuclei")
        careful = fcnseg.load(["nuclei"], tta=True)

    A process that is forked afterwards can use the model, too; it computes in one thread. On a GPU
    it has to load the model itself (OptionError).

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


OF_A_CONFIG = ("model", "engine", "device", "precision", "short_side", "show_bands", "tta")
"""The options that say which model is loaded and how."""


def load_as(config: Options, callback: Callback, **others: Any) -> Segmenter:
    """`load` as a command's options say, for many images; others: in place of these."""
    chosen = {name: getattr(config, name) for name in OF_A_CONFIG if hasattr(config, name)}
    return load(**{**chosen, "parallel": True, **others}, callback=callback)


def _load_one(
    path: Path,
    options: EngineOptions,
    short_side: int | None,
    show_bands: str | None,
    callback: Callback,
) -> Segmenter:
    runner, header = open_engine(path, options, callback)
    preprocess = preprocess_outside(header, path, short_side)
    if show_bands is not None:
        preprocess = replace(preprocess, bands=with_shown(preprocess.bands, show_bands))
    reopen = partial(_engine_of, path)
    return Segmenter(runner, header.classes, preprocess, path, header.extra, options, reopen)


def _engine_of(path: Path, options: EngineOptions) -> Engine:
    return open_engine(path, options, no_callback)[0]


def averaged(models: Sequence[Segmenter], *, tta: bool = False) -> Segmenter:
    """A segmenter whose probabilities are the mean of those of several, or of several views.

    tta: each sees an image at four scales, each also mirrored. Classes are matched by name and
    are in the first one's order. OptionError where they differ, where images are read in other
    bands, and with `tta` for a file that resizes images itself.
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
        None if any(one.reopen is None for one in models) else partial(_moved, models, tta),
        tuple(models),
    )


def _averaging(models: Sequence[Segmenter], tta: bool) -> AveragingEngine:
    names, members = models[0].classes.names, []
    for one in models:
        own = one.classes.names
        order = None if own == names else tuple(own.index(name) for name in names)
        members.append(Member(one.engine, one.preprocess, order))
    return AveragingEngine(members, scales=SCALES if tta else (1.0,), mirrored=tta)


def _moved(models: Sequence[Segmenter], tta: bool, options: EngineOptions) -> Engine:
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
    """An engine for a model file, and the file's header (a Checkpoint without weights)."""
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
            hint=f"fcnseg export {typed(path)} --precision int8 --data FOLDER writes one",
        )
    checkpoint = Checkpoint.load(path)
    if options.engine == "torch":
        return _open_torch(checkpoint, options), checkpoint
    if options.engine == "auto":
        return _open_fastest(checkpoint, path, options, callback), checkpoint
    engine, _ = _open_exported(_converted(checkpoint, path, _kept(path), callback), options)
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

    record = _kept(path).with_suffix(".json")
    fastest = fastest_for_file(path, record, options.frames, header.preprocess.bands)
    return (
        (engine, header)
        if fastest == name
        else _open_exported(path, replace(options, engine=fastest))
    )


def _open_fastest(
    checkpoint: Checkpoint, path: Path, options: EngineOptions, callback: Callback
) -> Engine:
    """What runs fastest on this processor, where finding out is worth its time; else torch."""
    in_torch = _open_torch(checkpoint, options)
    if in_torch.device != "cpu" or in_torch.precision != "f32":
        return in_torch
    few = options.frames < WORTH_CONVERTING
    if few and not (cache_folder() / "engines").is_dir():
        return in_torch
    kept = _kept(path)
    record = kept.with_suffix(".json")
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
            converted = _converted(checkpoint, path, kept, callback)
            name = fastest_engine(in_torch, converted, record, checkpoint.preprocess.bands)
            callback(Message(f"The fastest engine for {path.name} on this machine is {name}."))
        if name is None or name == "torch":
            return in_torch
        options = replace(options, engine=name, device="auto", precision="auto")
        return _open_exported(_converted(checkpoint, path, kept, callback), options)[0]
    except (CheckpointError, MediaError) as error:  # not what was asked for: torch runs it, too
        callback(Message(f"{path.name} runs in torch, not in a faster engine. {error.message}"))
        return in_torch


def _kept(path: Path) -> Path:
    """Where the conversion of a checkpoint is kept, whether it is there or not."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_folder() / "engines" / f"{digest[:32]}-{CONVERSION}.onnx"


def _converted(checkpoint: Checkpoint, path: Path, kept: Path, callback: Callback) -> Path:
    """The checkpoint as ONNX, from the cache or made now; verified before it is kept."""
    if not kept.is_file():
        text = f"Converting {path.name}, which takes up to a minute (once; kept in {kept.parent})"
        callback(Message(text))
        from fcnseg.exporting import convert
        from fcnseg.exporting.graph import GraphOptions

        before_computing()
        convert(checkpoint, kept, "onnx", options=GraphOptions(resizes=False))
        _forget_oldest(kept.parent)
    return kept


def _forget_oldest(folder: Path) -> None:
    """Keep the newest conversions only."""
    found = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime_ns)
    for path in found[:-MOST_KEPT]:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
