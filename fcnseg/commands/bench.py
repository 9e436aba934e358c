"""The command `bench`: a model's speed on this machine, compared with the machine's limit.

Each stage is timed alone, then the full pipeline as `infer` runs it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fcnseg.concurrency import groups, usable_cores
from fcnseg.config import BenchConfig
from fcnseg.device import Clock, Timing, limit_remarks, peak_memory, time_each
from fcnseg.distributed import Distributed
from fcnseg.engines.base import Images, argmax_labels
from fcnseg.errors import Interrupted, OptionError
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load_as
from fcnseg.inference.outputs import Renderer
from fcnseg.inference.outputs.sinks import VideoSink
from fcnseg.inference.pipeline import Pipeline
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import FramePredictor
from fcnseg.io.sources import open_source
from fcnseg.io.sources.base import Frame, Source
from fcnseg.io.video_writer import VideoWriter, open_encoder
from fcnseg.progress import Callback, Progress, no_callback

WARM_UP = 3
"""Untimed calls: the first ones allocate memory and choose kernels."""

TURNS = 2
"""How often the full pipeline is timed, each time between two timings of the network alone."""

FPS = Fraction(25)
"""Frame rate stored in the synthetic clip and the encoded video; it does not limit the speed."""


@dataclass(frozen=True)
class BenchResult:
    """Measured speeds.

    size: (height, width) of the frames; frames: number of timed frames.
    batch: frames per call; num_parallel: concurrent calls (see fcnseg.engines.base).
    model_fps: the engine alone, from prepared frames to the logits of every pixel;
        latency: its percentiles in ms.
    end_to_end_fps: video file in, video file out.
    limit_fps: the limit set by decoding, network and encoding: on a GPU the slowest of the three
        alone; on a CPU, whose cores they share, the number of cores divided by the core-seconds
        per frame of the three. ratio: end_to_end_fps / limit_fps.
    stages: each stage alone; full: the full pipeline. "scores" is the engine's output that `infer`
        uses when it is enough for labels (fcnseg.engines.base); "argmax" then starts from it.
    memory_bytes: peak memory of this process so far, by place.
    cores: number of cores the process may use.
    """

    engine: str
    precision: str
    device: str
    model: Path | None
    size: tuple[int, int]
    batch: int
    num_parallel: int
    frames: int
    model_fps: float
    end_to_end_fps: float
    limit_fps: float
    latency: dict[str, float]
    stages: dict[str, Timing]
    full: Timing
    memory_bytes: dict[str, int]
    cores: int

    @property
    def ratio(self) -> float:
        """End-to-end speed as a fraction of the limit."""
        return self.end_to_end_fps / self.limit_fps

    @property
    def definitions(self) -> dict[str, str]:
        """What each speed measures."""
        limit = "the slowest of decoding, network and encoding, each measured alone"
        if self.device == "cpu":
            cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
            limit = f"{cores} / core-seconds of decoding, network and encoding a frame"
        return {
            "model_fps": "prepared images in, logits of every pixel out",
            "end_to_end_fps": "video file in, overlay video file out, as infer does",
            "limit_fps": limit,
        }

    @property
    def remarks(self) -> tuple[str, ...]:
        """Explanations where the limit is below the network's speed, above it, or exceeded."""
        shared = self.cores if self.device == "cpu" else 0
        speeds = (self.model_fps, self.limit_fps, self.end_to_end_fps)
        return limit_remarks(*speeds, self.stages, shared_cores=shared)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device,
            "model": None if self.model is None else str(self.model),
            "size": list(self.size),
            "batch": self.batch,
            "num_parallel": self.num_parallel,
            "frames": self.frames,
            "model_fps": round(self.model_fps, 2),
            "end_to_end_fps": round(self.end_to_end_fps, 2),
            "limit_fps": round(self.limit_fps, 2),
            "ratio": round(self.ratio, 4),
            "definitions": self.definitions,
            "remarks": list(self.remarks),
            "latency_ms": {name: round(value, 3) for name, value in self.latency.items()},
            "stages": {
                name: {
                    "ms": round(1000 * timing.seconds, 3),
                    "core_ms": round(1000 * timing.core_seconds, 3),
                }
                for name, timing in [*self.stages.items(), ("total", self.full)]
            },
            "memory_bytes": self.memory_bytes,
        }


def bench(
    model: BenchConfig | Path | str | None = None,
    callback: Callback = no_callback,
    **options: Any,
) -> BenchResult:
    """Time a model, each other stage, and the full pipeline.

    model: what `fcnseg.load` takes, or a BenchConfig. options: those of BenchConfig, by name.

        timed = fcnseg.bench("nuclei", frames=20)

    OptionError when the source is not a video file; Interrupted on Ctrl-C.
    """
    try:
        return _timed(BenchConfig.of(model, options), callback)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("Stopped before everything was timed; there are no figures.") from None


def _timed(config: BenchConfig, callback: Callback) -> BenchResult:
    if config.source is not None and "size" in config.chosen():
        raise OptionError(
            f"--size is that of the synthetic video; {config.source} has its own.",
            hint="omit --size, or SOURCE",
        )
    segmenter = load_as(config, callback)
    with TemporaryDirectory(prefix="fcnseg-bench-") as folder:
        clip = config.source or _draw_clip(Path(folder) / "clip.mp4", config)
        return _Bench(segmenter, str(clip), Path(folder) / "out.mp4", config).run(callback)


class _Bench:
    """Timing of one segmenter on one clip."""

    def __init__(self, segmenter: Segmenter, clip: str, out: Path, config: BenchConfig) -> None:
        self._segmenter, self._clip, self._out, self._config = segmenter, clip, out, config
        self._renderer = Renderer(segmenter.classes)
        self._size = (0, 0)  # of the clip's frames; set after decoding

    def run(self, callback: Callback) -> BenchResult:
        """Time all stages; network and pipeline alternate, as a machine's speed drifts."""
        steps = iter(range(4 + 2 * TURNS))

        def report() -> None:
            callback(Progress("bench", next(steps), 3 + 2 * TURNS, "measurements"))

        report()
        frames, decode = self._decode()
        self._size = frames[0].size
        batches = list(groups(frames, self._config.batch))
        prepared = [self._segmenter.prepare([frame.image for frame in batch]) for batch in batches]
        stages = {"decode": decode, **self._around(batches, prepared)}
        report()
        stages["encode"] = self._encode(frames)
        report()
        turns = [self._networks(prepared)]
        report()
        pipelines: list[Timing] = []
        for _ in range(TURNS):
            pipelines.append(self._full())
            report()
            turns.append(self._networks(prepared))
            report()
        for name in turns[0]:
            stages[name] = functools.reduce(Timing.and_then, [turn[name] for turn in turns])
        return self._result(frames, stages, functools.reduce(Timing.and_then, pipelines))

    def _decode(self) -> tuple[list[Frame], Timing]:
        frames: list[Frame] = []
        with self._open() as source:
            begun = Clock()
            for frame in source:
                begun.lap()
                frames.append(frame)
        if not frames:
            raise OptionError(f"{self._clip} has no frames.")
        return frames, begun.timing(1)

    def _open(self) -> Source:
        source = open_source(self._clip, limit=self._config.frames)
        if source.kind != "video" or source.live:
            source.close()
            raise OptionError(
                f"A model is timed on a video file; {self._clip} is no video file ({source.kind}).",
                hint="omit SOURCE: a synthetic video is timed then",
            )
        return source

    def _networks(self, prepared: Sequence[Images]) -> dict[str, Timing]:
        """Time the engine's logits, and its scores where `infer` needs only those."""
        engine = self._segmenter.engine
        timings = {"network": self._network(engine.forward, prepared)}
        if self._stops_at_scores(prepared[0]):
            timings["scores"] = self._network(engine.scores, prepared)
        return timings

    def _network(self, compute: Callable[[Images], object], prepared: Sequence[Images]) -> Timing:
        engine = self._segmenter.engine

        def forward(batch: Images) -> None:
            engine.parallelism.enter()
            compute(batch)
            engine.synchronize()

        num_parallel = engine.parallelism.count
        warm_up = itertools.islice(itertools.cycle(prepared), WARM_UP * num_parallel)
        time_each(forward, warm_up, len(prepared[0]), num_parallel)
        return time_each(forward, prepared, len(prepared[0]), num_parallel)

    def _around(
        self, batches: Sequence[list[Frame]], prepared: Sequence[Images]
    ) -> dict[str, Timing]:
        """Time the stages before and after the network."""
        model, batch = self._segmenter, len(prepared[0])
        labels, _ = model.engine.labels(prepared[0], size=batches[0][0].size)
        frame, predicted = batches[0][0], PredictedArrays(labels[0])
        argmax = self._argmax(prepared[0])
        return {
            "preprocess": time_each(lambda g: model.prepare([f.image for f in g]), batches, batch),
            "argmax": time_each(lambda _: argmax(), batches, batch),
            "draw": time_each(lambda _: self._renderer.overlay(frame, predicted), batches, 1),
        }

    def _argmax(self, images: Images) -> Callable[[], object]:
        """A function that computes labels from the engine's output for these images."""
        engine = self._segmenter.engine
        if not self._stops_at_scores(images):
            logits = engine.forward(images)
            return lambda: argmax_labels(logits)
        cells, scores = engine.score_grid, engine.scores(images)
        assert cells is not None
        size = images.shape[1], images.shape[2]
        return lambda: [cells.labels(one, size) for one in scores]

    def _stops_at_scores(self, images: Images) -> bool:
        """Whether `infer` uses the engine's scores instead of logits for frames of this size."""
        prepared = (images.shape[1], images.shape[2])
        return self._segmenter.engine.score_grid is not None and prepared == self._size

    def _encode(self, frames: Sequence[Frame]) -> Timing:
        """Time the encoder alone."""
        height, width = frames[0].size
        even = ((0, height % 2), (0, width % 2), (0, 0))
        images = [np.pad(frame.image, even, mode="edge") for frame in frames]
        begun = Clock()
        size = (height + height % 2, width + width % 2)
        encoder = open_encoder(self._out, FPS, size)
        for index, image in enumerate(images):
            encoder.write(image, index / float(FPS))
        encoder.close()
        begun.lap()
        return begun.timing(len(images))

    def _full(self) -> Timing:
        """Time the full pipeline, as `infer` runs it."""
        segmenter = self._segmenter
        begun = Clock()
        with self._open() as source:
            sink = VideoSink(self._out, "overlay", self._renderer, fps=source.fps)
            run = Pipeline(
                source,
                FramePredictor(segmenter),
                no_callback,
                SimpleQueue(),
                distributed=Distributed.single(),
                batch=self._config.batch,
                num_parallel=segmenter.num_parallel,
            )
            done = run.result([lambda: [sink]]).frames_out
        begun.lap()
        return begun.timing(done)

    def _result(
        self, frames: Sequence[Frame], stages: dict[str, Timing], full: Timing
    ) -> BenchResult:
        engine = self._segmenter.engine
        order = ("decode", "preprocess", "network", "scores", "argmax", "draw", "encode")
        bare = [stages[name] for name in ("decode", "network", "encode")]
        if engine.device == "cpu":
            limit = usable_cores() / sum(timing.core_seconds for timing in bare)
        else:
            limit = 1 / max(timing.seconds for timing in bare)
        return BenchResult(
            engine=engine.name,
            precision=engine.precision,
            device=engine.device,
            model=self._segmenter.path,
            size=frames[0].size,
            batch=self._config.batch,
            num_parallel=engine.parallelism.count,
            frames=len(frames),
            model_fps=1 / stages["network"].seconds,
            end_to_end_fps=1 / full.seconds,
            limit_fps=limit,
            latency=stages["network"].percentiles(),
            stages={name: stages[name] for name in order if name in stages},
            full=full,
            memory_bytes=peak_memory(engine.device),
            cores=usable_cores(),
        )


def _draw_clip(path: Path, config: BenchConfig) -> Path:
    """Write a synthetic clip of the requested size, in which the image moves."""
    height, width = config.size
    wide = sample_images((1, height, 2 * width), seed=0)[0]
    with VideoWriter(path, FPS, config.size) as writer:
        for index in range(config.frames):
            writer.write(np.ascontiguousarray(wide[:, (left := index * 4 % width) : left + width]))
    return path
