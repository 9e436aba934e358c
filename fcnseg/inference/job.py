"""What an inference job reads and writes, decided before it starts: `make_plan`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import cast

from fcnseg.config import InferConfig
from fcnseg.config.options import EngineName
from fcnseg.distributed import Distributed
from fcnseg.errors import OptionError
from fcnseg.files import is_stdout, next_free
from fcnseg.inference.loading import load
from fcnseg.inference.outputs import Renderer
from fcnseg.inference.parts import Part, make_parts, only_shown, refuse_rate, refuse_unused
from fcnseg.inference.plan import written
from fcnseg.inference.prediction import Predictor
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import bands_of
from fcnseg.io.bands.georeference import left_out
from fcnseg.io.sources import open_source, refuse_sources
from fcnseg.io.sources.base import Source
from fcnseg.io.sources.files import Skip, nothing
from fcnseg.io.sources.listing import Collected, Named, collect, skipped_files
from fcnseg.io.sources.live import Connect
from fcnseg.io.sources.raw import RawVideo
from fcnseg.io.sources.sequence import is_sequence
from fcnseg.models.find import find_models, model_files
from fcnseg.progress import Callback, Event, Message


@dataclass(frozen=True)
class Decided:
    """What the main process decides for all: where outputs go, and the engine."""

    out: Path
    engine: EngineName


@dataclass(frozen=True, eq=False)
class InferPlan:
    """What one process is to do.

    tiled: whether large images are cut into tiles before `predictor` sees them.
    resume_with: the options that resume the job; "" where that can't be.
    """

    config: InferConfig
    distributed: Distributed
    callback: Callback
    stack: ExitStack
    events: SimpleQueue[Event]  # threads speak through the main thread
    connect: Connect | None
    decided: Decided
    parts: tuple[Part, ...]
    predictor: Predictor
    tiled: bool
    renderer: Renderer
    resume_with: str


def make_plan(
    config: InferConfig,
    callback: Callback,
    decided: Decided | None,
    distributed: Distributed,
    stack: ExitStack,
    *,
    predictor: Predictor | None = None,
    connect: Connect | None = None,
) -> InferPlan:
    """Find the sources and the model and decide what is written; every refusal is here.

    decided: what the main process has decided, in the others. stack: closes what is opened.
    predictor: instead of the model that `config` names.
    """
    _refuse(config, distributed.size)
    models = [] if predictor is not None else find_models(config.model)
    decided = decided or Decided(config.out or next_free(Path("runs"), "infer"), config.engine)
    events: SimpleQueue[Event] = SimpleQueue()
    found = _collect(config, callback)
    if said := left_out(config.source):
        callback(Message(said))
    opened = None
    if found.single is not None:
        opened = open_part(config, found.single, "", distributed, stack, events, connect)
        _refuse_live(config, opened, distributed.size)
    parts = make_parts(config, found, opened, decided.out, models, distributed)
    tiled = predictor is None
    if predictor is None:
        frames = len(found.images) if opened is None else opened.count or 0
        predictor = _load(config, models, decided.engine, parts, frames, distributed, callback)
        decided = replace(decided, engine=_engine_for_all(predictor, decided.engine))
    if config.smooth and not isinstance(predictor, Segmenter):
        raise OptionError("smooth averages the logits of a Segmenter, which this is not.")
    if opened is not None:
        opened.bands = bands_of(predictor)
    _refuse_overwriting(config, parts, models)
    refuse_unused(config, parts)
    refuse_rate(config, parts)
    if any(part.each.shape == "folder" for part in parts) and not only_shown(config):
        parts[0].done.begin()  # before another process writes there
    return InferPlan(
        config=config,
        distributed=distributed,
        callback=callback,
        stack=stack,
        events=events,
        connect=connect,
        decided=decided,
        parts=parts,
        predictor=predictor,
        tiled=tiled,
        renderer=Renderer.of(config, predictor.classes),
        resume_with=_resume_options(config, parts, decided.out),
    )


def _engine_for_all(chosen: Segmenter, asked: EngineName) -> EngineName:
    """The engine that the other processes take, too: the chosen one, where all models have it."""
    return asked if "+" in chosen.engine.name else cast(EngineName, chosen.engine.name)


def _resume_options(config: InferConfig, parts: Sequence[Part], out: Path) -> str:
    """The options that resume the job; "" where that can't be."""
    in_one = any(part.combined.save for part in parts) or config.shares is not None
    later = any(part.kept is not None for part in parts)
    once = config.smooth or "-" in config.source or any(part.live for part in parts)
    if once or (in_one and not later and len(parts) == 1):
        return ""
    return "--skip-done" if config.out else f"-o {out} --skip-done"


def _collect(config: InferConfig, callback: Callback) -> Collected:
    """The sources; files that are none are named."""
    if config.watch:
        if len(config.source) > 1:
            raise OptionError("--watch is for one folder.")
        return Collected(single=config.source[0])
    found = collect(config.source, exclude=config.out, callback=callback)
    if found.skipped:
        callback(skipped_files(found.skipped, "not an image or a video"))
    return found


def open_part(
    config: InferConfig,
    spec: str | tuple[Named, ...],
    name: str,
    distributed: Distributed,
    stack: ExitStack,
    events: SimpleQueue[Event],
    connect: Connect | None,
    skip: Skip = nothing,
) -> Source:
    """The source of one part of a job, with the options that choose its frames."""
    return stack.enter_context(
        open_source(
            spec,
            name=name,
            every=config.every,
            limit=config.limit,
            start=config.start,
            end=config.end,
            fps=config.fps,
            raw=RawVideo.of(config.video_size, config.pix_fmt),
            page=config.page,
            watch=config.watch,
            exclude=config.out,
            skip=skip,
            rank=distributed.rank,
            size=distributed.size,
            connect=connect,
            callback=events.put,
        )
    )


def _refuse_overwriting(config: InferConfig, parts: Sequence[Part], models: Sequence[Path]) -> None:
    """OptionError when anything that is written is one of the sources or the model."""
    outputs: list[tuple[str, Path]] = []
    if not only_shown(config):
        for part in parts:
            name = part.name or ("images" if part.opened is None else part.opened.name)
            target = replace(part.each, save=(*part.each.save, *part.combined.save))
            outputs += written(target, name)
    if config.shares is not None and not is_stdout(config.shares):
        outputs.append(("--shares", config.shares))
    refuse_sources(outputs, config.source, kept=model_files(models))


def _load(
    config: InferConfig,
    models: Sequence[Path],
    engine: EngineName,
    parts: Sequence[Part],
    frames: int,
    distributed: Distributed,
    callback: Callback,
) -> Segmenter:
    """The model, or several averaged, made ready for about so many frames (0: unknown)."""
    one_by_one = any(part.live or part.kind == "image" for part in parts) or config.smooth > 0
    loaded = load(
        models,
        engine=engine,
        device=config.device if distributed.size == 1 else str(distributed.device),
        precision=config.precision,
        short_side=config.short_side,
        show_bands=config.show_bands,
        frames=frames,
        parallel=not one_by_one,
        tta=config.tta,
        callback=callback,
    )
    if config.model is None:
        callback(Message(f"The model is {loaded.title}"))
    return loaded


def _refuse(config: InferConfig, size: int) -> None:
    """OptionError for what can't be distributed or resumed."""
    piped = "-" in config.source
    if config.skip_done and config.out is None:
        raise OptionError("--skip-done needs --out: the folder of the earlier run.")
    if config.skip_done and is_stdout(config.out):
        raise OptionError("--skip-done needs a folder or a file; standard output keeps nothing.")
    if is_stdout(config.out):
        _refuse_stdout(config)
    if config.skip_done and piped:
        raise OptionError("--skip-done needs files to read again; what is piped in comes once.")
    if config.skip_done and config.smooth:
        raise OptionError("--skip-done can't resume --smooth: each frame needs those before.")
    alone = {
        "--show": config.show,
        "--watch": config.watch,
        "--smooth": config.smooth > 0,
        "SOURCE -": piped,
        "--out -": is_stdout(config.out),
        "--out %d": config.out is not None and is_sequence(config.out.name),
    }
    for name in (name for name, given in alone.items() if given and size > 1):
        raise OptionError(
            f"{name} is for one process, but torchrun has started {size}.",
            hint="run it without torchrun",
        )


def _refuse_stdout(config: InferConfig) -> None:
    """OptionError where a video on standard output would meet something else, or nobody."""
    if is_stdout(config.shares):
        raise OptionError("--out - and --shares - both write to standard output.")
    if sys.stdout.isatty():
        raise OptionError(
            "--out - writes a video to standard output, which is a terminal.",
            hint="fcnseg infer SOURCE -o - | ffplay -",
        )


def _refuse_live(config: InferConfig, source: Source, size: int) -> None:
    """OptionError for a camera or stream of which frames would have to come again."""
    if source.live and size > 1:
        raise OptionError(
            f"A {source.kind} is for one process, but torchrun has started {size}.",
            hint="run it without torchrun, which is for folders of images and video files",
        )
    if source.live and config.skip_done:
        raise OptionError(f"--skip-done is for files; this is a {source.kind}.")
