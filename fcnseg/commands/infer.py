"""The command `infer`: segment the frames of any source; write files, a video or to a window.

Three steps: `make_plan` determines the inputs, the outputs and what is done already, and refuses
invalid combinations; `run_shard` runs the network on this process's frames and writes the files
of single frames; `join` writes the files that combine all frames (a video, COCO, class
proportions) from saved labels, if several processes or an earlier run have written parts. The
result of a divided or resumed job is the same as that of one process.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.config import InferConfig
from fcnseg.distributed import Distributed, init_distributed, launched
from fcnseg.errors import MediaError, OptionError, counted, with_name
from fcnseg.files import NonLocalPath, as_path, safe_path, shortened
from fcnseg.inference.job import Decided, InferPlan, Job, make_plan
from fcnseg.inference.outputs import COMBINED, SUFFIXES, TOOLS
from fcnseg.inference.outputs.manifest import Manifest
from fcnseg.inference.outputs.sinks import (
    AnnotationSink,
    FileSink,
    FolderSink,
    PipeSink,
    SequenceSink,
    Sink,
    VideoSink,
)
from fcnseg.inference.parts import VIDEO_KINDS, Part, Target
from fcnseg.inference.pipeline import InferResult, Pipeline
from fcnseg.inference.prediction import PredictedArrays, Predictor, ProportionsSink
from fcnseg.inference.tiling import FramePredictor, bands_of, parse_tile
from fcnseg.io.labels import read_raw_labels
from fcnseg.io.sources.base import MOVING, Frame, Source
from fcnseg.io.sources.live import Connect
from fcnseg.progress import Callback, Event, Message, no_callback, skipped_files

UNREADABLE = "could not be read before, and not changed since"
"""Why --skip-done skips a file on which an earlier run failed."""


def infer(
    sources: InferConfig | Path | str | Sequence[Path | str],
    callback: Callback = no_callback,
    *,
    segmenter: Predictor | None = None,
    connect: Connect | None = None,
    **options: Any,
) -> InferResult:
    """Segment images, folders, videos or a camera.

    sources: a file, folder, glob or address, several of them, or an InferConfig. options: those of
    InferConfig, by name. segmenter: used instead of the options' model; connect: opens cameras
    and streams.
    Under torchrun the processes divide the frames, and all return the result of the job.
    Raises MediaError, OptionError, CheckpointError; Interrupted on Ctrl-C, with the files written
    until then complete and playable.

        done = fcnseg.infer("photos/images/val", model="nuclei", out="segmented")
        print(done.frames_out, done.outputs)
    """
    config = InferConfig.of(sources, options).mapped(as_path, "out", "shares")
    parse_tile(config.tile)
    if config.ray is not None:
        if segmenter is not None or connect is not None:
            raise OptionError("--ray loads the model in each worker: it takes a path, no object.")
        from fcnseg.commands.cluster import run_on_ray

        return run_on_ray(config, callback, run_shard, join)
    distributed = init_distributed(config.device) if launched() else Distributed.single()
    warnings: list[Message] = []
    report = callback if distributed.main else functools.partial(_keep_warning, warnings)
    with ExitStack() as stack:
        job = Job(config, report, distributed, stack, segmenter, connect)
        made: list[InferPlan] = []

        def prepare(decided: Decided | None = None) -> Decided:
            made.append(make_plan(job, decided))
            return made[0].decided

        decided = distributed.run_on_main(prepare)
        distributed.gather(lambda: None if distributed.main else prepare(decided))
        results = distributed.gather(lambda: (run_shard(made[0]), warnings))
        return distributed.run_on_main(lambda: join(made[0], results))


def run_shard(plan: InferPlan) -> list[InferResult]:
    """Run the network on this process's frames of each part; return the result of each."""
    if done := sum(part.finished > 0 for part in plan.parts):
        plan.job.callback(_done_already(done, "video"))
    return [_run_part(plan, part, index) for index, part in enumerate(plan.parts)]


def join(plan: InferPlan, shards: Sequence[tuple[list[InferResult], list[Message]]]) -> InferResult:
    """Combine the results of all processes; write the files that combine all frames."""
    for message in (message for _, messages in shards for message in messages):
        plan.job.callback(message)
    by_part = list(zip(*(results for results, _ in shards), strict=True))
    done = [InferResult.of_processes(each) if len(each) > 1 else each[0] for each in by_part]
    result = InferResult.of_parts(done)
    several = len(plan.parts) > 1 or plan.parts[0].kind == "folder"
    if several and result.failed and not (result.frames_out or result.skipped):
        raise _all_failed(result)
    for part in plan.parts:
        if part.has_folder:
            part.done.join()
    later = [index for index, part in enumerate(plan.parts) if part.kept is not None]
    for index in later:
        complete = done[index] = _with_combined(plan, index, done[index])
        plan.parts[index].note_finished(complete.outputs, complete.frames_out + complete.skipped)
    return InferResult.of_parts(done) if later else result


def _run_part(plan: InferPlan, part: Part, index: int) -> InferResult:
    """Run the network on this process's frames of one part."""
    job, empty = plan.job, InferResult(0, 0, (), (), 0.0, 0.0)
    if part.finished and not part.each.save:
        return replace(empty, skipped=part.finished if job.distributed.main else 0)
    if isinstance(part.spec, str) and part.has_failed(as_path(part.spec)):
        job.callback(skipped_files([as_path(part.spec)], UNREADABLE))
        return replace(empty, skipped=1)
    try:
        source = _opened(plan, part)
    except MediaError as error:
        if len(plan.parts) == 1:
            raise
        failed = ((str(part.spec), error.message),)
        part.note_failures(failed)
        return replace(empty, frames_in=1, failed=failed)
    try:
        result = _predicted(plan, part, index, source)
    finally:
        source.close()
        if source.kind == "folder":
            part.note_failures(source.failures)
        part.flush()
    if part.kept is None:
        part.note_finished(result.outputs, result.frames_out)
    return result


def _opened(plan: InferPlan, part: Part) -> Source:
    """Open the source of a part, without frames that are done already."""
    job = plan.job
    source = part.opened or job.open(part.spec, part.name)
    source.bands = bands_of(plan.predictor)
    if job.config.skip_done:
        source.skip(part.is_done)
    done = source.skipped - len(part.skipped)
    if done > 0:
        job.callback(_done_already(done, "image"))
    if part.skipped:
        job.callback(skipped_files(part.skipped, UNREADABLE))
    return source


def _done_already(count: int, what: str) -> Message:
    return Message(f"{count} {what}{' is' if count == 1 else 's are'} done already")


def _predicted(plan: InferPlan, part: Part, index: int, source: Source) -> InferResult:
    """Run the network on a source's frames and write the part's outputs."""
    job, config = plan.job, plan.job.config
    predict = FramePredictor(
        plan.predictor,
        config.tile if job.predictor is None else "off",
        job.callback,
        smooth=config.smooth,
        conf=config.conf,
        classes=plan.renderer.only,
        probabilities="probabilities" in part.each.save,
    )
    run = Pipeline(
        source,
        predict,
        job.callback,
        job.events,
        distributed=job.distributed,
        batch=config.batch,
        num_parallel=predict.num_parallel,
        resume_with=plan.resume_with,
    )
    sinks = [functools.partial(_sinks, plan, part.each, source, part.done)]
    if part.kept is not None:
        sinks.append(functools.partial(_sinks, plan, part.labels, source, part.kept))
    elif not part.finished:
        sinks.append(functools.partial(_combined_sinks, plan, index, source))
    result = run.result(sinks, plan.renderer if config.show else None)
    flicker = predict.flicker()
    if flicker is None:
        return result
    return replace(result, flicker=flicker.smoothed, flicker_raw=flicker.raw)


def _with_combined(plan: InferPlan, index: int, result: InferResult) -> InferResult:
    """Write the files that combine all frames, from the saved labels."""
    part, job = plan.parts[index], plan.job
    folder, alone = part.labels.path, Distributed.single()
    source = job.open(part.spec, part.name, alone)
    source.bands = bands_of(plan.predictor)
    with source:
        run = Pipeline(
            source,
            functools.partial(_saved_labels, folder / "labels"),
            job.callback,
            job.events,
            distributed=alone,
            task="join",
            resume_with="--skip-done",
        )
        combined = run.result([functools.partial(_combined_sinks, plan, index, source)])
    folder.remove_tree() if isinstance(folder, NonLocalPath) else shutil.rmtree(folder)
    for parent in folder.parents:  # remove parents that are empty now
        if not parent.is_relative_to(part.combined.path.parent):
            break
        with contextlib.suppress(OSError):
            parent.rmdir()
    outputs = tuple(path for path in result.outputs if path.parent != folder)
    return replace(result, outputs=outputs).and_then(combined)


def _saved_labels(folder: Path, frames: Sequence[Frame]) -> list[PredictedArrays]:
    """Read saved labels, FOLDER/NAME.png; MediaError if a file is missing."""
    files = (folder / shortened(frame.name, ".png") for frame in frames)
    return [PredictedArrays(read_raw_labels(file).values.astype(np.uint8)) for file in files]


def _sinks(plan: InferPlan, target: Target, source: Source, manifest: Manifest) -> list[Sink]:
    """The sinks for a target's outputs."""
    renderer = plan.renderer
    if target.shape == "pipe":
        container = plan.job.config.format or "yuv4mpegpipe"
        return [PipeSink(kind, renderer, source, container) for kind in target.save]
    if target.shape in ("file", "sequence"):
        made = FileSink if target.shape == "file" else SequenceSink
        return [made(target.path, kind, renderer) for kind in target.save]
    sinks: list[Sink] = []
    name = safe_path(source.name)
    moving = source.kind in MOVING
    video_kinds = VIDEO_KINDS if moving or target.shape == "video" else ()
    for kind in (kind for kind in target.save if kind in video_kinds):
        inside = target.path / f"{name}_{kind}.mp4"
        path = target.path if target.shape == "video" else inside
        sinks.append(
            VideoSink(
                path,
                kind,
                renderer,
                fps=source.fps,
                timed=source.has_times,
                sound=source.sound,
                whole_sound=plan.job.config.end is None and not plan.job.config.limit,
                clock=source.clock,
                is_mute=source.has_sound and source.sound is None,
                aspect=source.aspect,
                live=source.live,
                callback=plan.job.events.put,
            )
        )
    each = [kind for kind in target.save if kind in SUFFIXES and kind not in video_kinds]
    if each:
        done = functools.partial(manifest.add, file=source.file)
        sinks.append(FolderSink(target.path, each, renderer, done=done))
    for kind in (kind for kind in target.save if kind in COMBINED):
        file = f"{name}_{COMBINED[kind]}" if moving and not target.alone else COMBINED[kind]
        annotations = TOOLS[kind](renderer.classes, renderer.drawn, renderer.simplify)
        sinks.append(AnnotationSink(target.path / file, annotations))
    return sinks


def _combined_sinks(plan: InferPlan, index: int, source: Source) -> list[Sink]:
    """The sinks for files that combine all frames."""
    part, path = plan.parts[index], plan.job.config.shares
    sinks = _sinks(plan, part.combined, source, part.done)
    if path is None:
        return sinks
    return [*sinks, ProportionsSink(path, plan.renderer.classes, append=index > 0)]


def _keep_warning(warnings: list[Message], event: Event) -> None:
    """Collect warnings in a process other than the main one, which prints them."""
    if isinstance(event, Message) and event.level == "warning":
        warnings.append(event)


def _all_failed(result: InferResult) -> MediaError:
    files, first = counted(len(result.failed), "file"), with_name(*result.failed[0])
    return MediaError(
        f"None of {files} could be read: {first}",
        hint="check that these are image or video files; a list names one on each line",
    )
