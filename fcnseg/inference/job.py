"""Plan an inference job before it starts: its inputs, its outputs and all checks (`make_plan`)."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

from fcnseg.config import InferConfig
from fcnseg.config.options import EngineName
from fcnseg.datasets.pairing.by_content import without_labels
from fcnseg.distributed import Distributed
from fcnseg.engines.averaging import check_is_video
from fcnseg.errors import MediaError, OptionError, quoted
from fcnseg.files import as_path, is_stdout, stamp
from fcnseg.inference.loading import load
from fcnseg.inference.outputs import SUFFIXES, Renderer
from fcnseg.inference.outputs.manifest import Manifest, next_free, remove_unused
from fcnseg.inference.parts import (
    Part,
    Target,
    only_shown,
    refuse_rate,
    refuse_unused,
    single_files,
    split,
    target_of,
    written,
)
from fcnseg.inference.prediction import Predictor
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import bands_of
from fcnseg.io.bands.georeference import TIFF_SUFFIXES, not_copied
from fcnseg.io.sources import open_source, refuse_sources
from fcnseg.io.sources.base import Kind, Source
from fcnseg.io.sources.files import is_sequence
from fcnseg.io.sources.listing import Collected, Named, collect, is_glob
from fcnseg.io.sources.live import Connect
from fcnseg.io.sources.reader import RawVideo
from fcnseg.io.sources.sequence import files_of_sequence
from fcnseg.models.checkpoint import find_models, model_files
from fcnseg.overwriting import is_below, refuse_files_of_others, refuse_folder_of_others
from fcnseg.progress import Callback, Event, Message, skipped_files


@dataclass(frozen=True, eq=False)
class Job:
    """The request and the resources shared by all steps.

    stack: closes what is opened. predictor: replaces the model that `config` names. connect:
    opens cameras and streams. events: from other threads, reported by the main thread.
    """

    config: InferConfig
    callback: Callback
    distributed: Distributed
    stack: ExitStack
    predictor: Predictor | None = None
    connect: Connect | None = None
    events: SimpleQueue[Event] = field(default_factory=SimpleQueue)

    def open(
        self, spec: str | tuple[Named, ...], name: str, distributed: Distributed | None = None
    ) -> Source:
        """Open a source with the options that select its frames.

        distributed: the shard to read; None: this process's.
        """
        config, shared = self.config, distributed or self.distributed
        raw = (config.video_size, config.pix_fmt)
        source = open_source(
            spec,
            name=name,
            every=config.every,
            limit=config.limit,
            start=config.start,
            end=config.end,
            fps=config.fps,
            raw=None if raw == (None, None) else RawVideo.of(*raw),
            page=config.page,
            watch=config.watch,
            exclude=config.out,
            rank=shared.rank,
            size=shared.size,
            connect=self.connect,
            callback=self.events.put,
        )
        return self.stack.enter_context(source)


@dataclass(frozen=True)
class Decided:
    """Decisions of the main process for all processes: the output folder and the engine."""

    out: Path
    engine: EngineName


@dataclass(frozen=True, eq=False)
class InferPlan:
    """Everything one process needs to run the job."""

    job: Job
    decided: Decided
    parts: tuple[Part, ...]
    predictor: Predictor
    renderer: Renderer

    @property
    def resume_with(self) -> str:
        """The options that resume the job; "" if it can't be resumed."""
        config, parts = self.job.config, self.parts
        in_one = any(part.combined.save for part in parts) or config.shares is not None
        later = any(part.kept is not None for part in parts)
        once = config.smooth or "-" in config.source or any(part.live for part in parts)
        if once or (in_one and not later and len(parts) == 1):
            return ""
        return "--skip-done" if config.out else f"-o {quoted(self.decided.out)} --skip-done"


def make_plan(job: Job, decided: Decided | None = None) -> InferPlan:
    """Find the sources and the model and decide what is written; all options are checked here.

    decided: the main process's decisions; None in the main process itself.
    """
    config, predictor = job.config, job.predictor
    _refuse(config, job.distributed.size)
    models = [] if predictor is not None else find_models(config.model)
    decided = decided or Decided(config.out or next_free(Path("runs"), "infer"), config.engine)
    if config.out is None or not decided.out.exists():
        job.stack.callback(remove_unused, decided.out)
    found = _collect(config, job.callback)
    opened = None if found.single is None else job.open(found.single, "")
    if opened is not None:
        _refuse_live(config, opened, job.distributed.size)
    parts = _parts(job, found, opened, decided.out, models)
    if predictor is None:
        frames = len(found.images) if opened is None else opened.count or 0
        predictor = _load(job, models, decided.engine, parts, frames)
        # Other processes use the chosen engine as well, if all models have the same.
        if "+" not in (engine := predictor.engine.name):
            decided = replace(decided, engine=cast(EngineName, engine))
    if config.smooth and not isinstance(predictor, Segmenter):
        raise OptionError("smooth averages the logits of a Segmenter, which this is not.")
    if opened is not None:
        opened.bands = bands_of(predictor)
    _refuse_overwriting(config, parts, models)
    refuse_unused(config, parts)
    refuse_rate(config, parts)
    renderer = Renderer.of(config, predictor.classes)
    if any(part.each.shape == "folder" for part in parts) and not only_shown(config):
        parts[0].done.begin()  # before other processes write there
    return InferPlan(job, decided, parts, predictor, renderer)


def _collect(config: InferConfig, callback: Callback) -> Collected:
    """Collect the sources; report files that are not images or videos."""
    if config.watch:
        if len(config.source) > 1:
            raise OptionError("--watch is for one folder.")
        found = Collected(single=config.source[0])
    else:
        found = collect(config.source, without_labels, exclude=config.out, callback=callback)
    arrays = [path for path in found.skipped if path.suffix.lower() == ".npy"]
    if others := [path for path in found.skipped if path not in arrays]:
        callback(skipped_files(others, "not an image or a video"))
    if arrays:
        why = "arrays are read from folders without images; name these files to segment them"
        callback(skipped_files(arrays, why))
    tiff = next(filter(None, (_first_tiff(Path(source)) for source in config.source)), None)
    if tiff is not None and (note := not_copied(tiff)):
        callback(Message(note))
    return found


def _first_tiff(source: Path) -> Path | None:
    """The source if it is a TIFF file, or the first one in a folder."""
    files = sorted(source.glob("*.tif*"))[:1] if source.is_dir() else [source]
    found = (file for file in files if file.suffix.lower() in TIFF_SUFFIXES and file.is_file())
    return next(found, None)


def _parts(
    job: Job, found: Collected, opened: Source | None, out: Path, models: Sequence[Path]
) -> tuple[Part, ...]:
    """For each source, what is written and what an earlier run of the same job has written."""
    config, depends = job.config, _dependencies(job.config, models)

    @functools.cache  # thousands of videos share one manifest; read it once
    def manifest(target: Target, of: str) -> Manifest:
        resume, rank = config.skip_done, job.distributed.rank
        return Manifest(target.path, target.save, depends[of], resume=resume, rank=rank)

    def part(spec: str | tuple[Named, ...], name: str) -> Part:
        kind: Kind = "video" if name else "folder" if opened is None else opened.kind
        if config.smooth:
            check_is_video(kind)
        target = target_of(config, kind, out, alone=found.count == 1)
        each, combined = split(target, kind)
        video = None
        alone = combined.save and not (config.shares or config.show)
        if alone and kind == "video" and target.shape == "folder":
            video = manifest(combined, "video")
        finished = 0 if video is None else video.finished(as_path(str(spec)))
        in_one = bool(combined.save) or config.shares is not None
        later = in_one and (job.distributed.size > 1 or config.skip_done) and not finished
        if later and config.watch:
            raise OptionError("--skip-done can't add what comes into a folder to one file.")
        labels = Target("folder", target.kept_folder(name), ("labels",))
        kept = manifest(labels, "kept") if later else None
        done = manifest(each, "each")
        return Part(spec, name, kind, opened, each, combined, labels, done, kept, video, finished)

    return tuple(part(*spec) for spec in found.specs)


def _dependencies(config: InferConfig, models: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What outputs depend on besides their source: per frame, for kept labels, for a video."""
    stamps = [[model.resolve(), *stamp(model)] for model in models]
    by: dict[str, Any] = {
        "tile": config.tile,
        "model": stamps if len(stamps) > 1 else stamps[0] if stamps else None,
        **({"tta": True} if config.tta else {}),
        "drawn": [config.alpha, config.conf, sorted(config.classes), config.show_bands],
        "looks": [config.palette, config.legend, config.simplify],
        "smooth": config.smooth,
        "short_side": config.short_side,
        "page": config.page,
    }
    chosen = [config.every, config.limit, config.start, config.end, config.fps]
    return {
        "each": by,
        "kept": {**by, "drawn": [config.conf, sorted(config.classes)], "looks": None},
        "video": {**by, "frames": chosen},
    }


def _refuse_overwriting(config: InferConfig, parts: Sequence[Part], models: Sequence[Path]) -> None:
    """OptionError when an output would overwrite a source or the model."""
    outputs: list[tuple[str, Path]] = []
    if not only_shown(config):
        for part in parts:
            name = part.name or ("images" if part.opened is None else part.opened.name)
            target = replace(part.each, save=(*part.each.save, *part.combined.save))
            outputs += written(target, name)
            if target.shape == "sequence":
                refuse_files_of_others(target.path.parent, files_of_sequence(target.path))
            refuse_folder_of_others(target.path, single_files(target, name))
    if config.shares is not None and not is_stdout(config.shares):
        kinds = [path for _, path in outputs if path.name in SUFFIXES and path.parent == config.out]
        if within := next((kind for kind in kinds if is_below(config.shares, kind)), None):
            raise OptionError(
                f"--shares {config.shares} is in {within}, which is for the files of --save.",
                hint=f"--shares {quoted(within.parent / config.shares.name)}",
            )
        outputs.append(("--shares", config.shares))
    refuse_sources(outputs, config.source, kept=model_files(models))


def _load(
    job: Job, models: Sequence[Path], engine: EngineName, parts: Sequence[Part], frames: int
) -> Segmenter:
    """Load the model, or several averaged; frames: their expected number (0: unknown)."""
    config, distributed = job.config, job.distributed
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
        callback=job.callback,
    )
    if config.model is None:
        job.callback(Message(f"The model is {loaded.title}"))
    return loaded


def _refuse(config: InferConfig, size: int) -> None:
    """OptionError for jobs that can't be distributed or resumed."""
    piped = "-" in config.source
    words = [one for one in config.source if one != "-" and one.startswith("-")]
    if missing := [one for one in words if not (is_glob(one) or os.path.lexists(one))]:
        hint = "after -- all words are files; options stand before it"
        raise MediaError(f"There is no file {missing[0]}.", hint=hint)
    if config.skip_done and config.out is None:
        raise OptionError("--skip-done needs --out: the folder of the earlier run.")
    if config.skip_done and is_stdout(config.out):
        raise OptionError(
            "--skip-done needs a folder or a file; standard output can't be read again."
        )
    if is_stdout(config.out):
        _refuse_stdout(config)
    if config.skip_done and piped:
        raise OptionError(
            "--skip-done needs files to read again; piped input can be read only once."
        )
    if config.skip_done and config.smooth:
        raise OptionError("--skip-done can't resume --smooth: each frame needs those before.")
    if size == 1:
        return
    alone = {
        "--show": config.show,
        "--watch": config.watch,
        "--smooth": config.smooth > 0,
        "SOURCE -": piped,
        "--out -": is_stdout(config.out),
        "--out %d": config.out is not None and is_sequence(config.out.name),
    }
    for name in (name for name, given in alone.items() if given):
        raise OptionError(
            f"{name} is for one process, but torchrun has started {size}.",
            hint="run it without torchrun",
        )


def _refuse_stdout(config: InferConfig) -> None:
    """OptionError when standard output has another use or is a terminal."""
    if is_stdout(config.shares):
        raise OptionError("--out - and --shares - both write to standard output.")
    if sys.stdout.isatty():
        raise OptionError(
            "--out - writes a video to standard output, which is a terminal.",
            hint="fcnseg infer SOURCE -o - | ffplay -",
        )


def _refuse_live(config: InferConfig, source: Source, size: int) -> None:
    """OptionError for options of a camera or stream that need frames to be read again."""
    if source.live and size > 1:
        raise OptionError(
            f"A {source.kind} is for one process, but torchrun has started {size}.",
            hint="run it without torchrun, which is for folders of images and video files",
        )
    if source.live and config.skip_done:
        raise OptionError(f"--skip-done is for files; this is a {source.kind}.")
