"""The verb `bench`: how fast a model is here, and how near that is to what the machine can do.

Every part is measured alone, then the whole as `infer` runs it.
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

from fcnseg.commands.timing import Clock, Timing, most_memory, time_each
from fcnseg.concurrency import groups, usable_cores
from fcnseg.config import BenchConfig
from fcnseg.distributed import Distributed
from fcnseg.engines.argmax import argmax_labels
from fcnseg.engines.base import Images
from fcnseg.errors import Interrupted, OptionError
from fcnseg.export.parity import sample_images
from fcnseg.inference.pipeline import Network, Pipeline
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.inference.segmenter import Segmenter, load
from fcnseg.inference.sinks import Renderer, VideoSink
from fcnseg.io.encoders import open_encoder
from fcnseg.io.sources import open_source
from fcnseg.io.sources.base import Frame, Source
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Callback, Progress, no_callback

WARM_UP = 3
"""Calls before the clock starts: the first ones allocate memory and choose kernels."""

TURNS = 2
"""How often the whole is timed, each time between two timings of the bare network."""

FPS = Fraction(25)
"""Of the clip that is drawn when no source is given; it does not pace anything."""


@dataclass(frozen=True)
class BenchResult:
    """How fast it is.

    size: (height, width) of the frames; frames: how many were timed.
    batch: frames of a call; lanes: calls at the same time (see fcnseg.engines.base).
    model_fps: the bare engine on frames already prepared, logits of every pixel being its answer;
        latency: its percentiles in ms.
    end_to_end_fps: video file in, video file out.
    limit_fps: what the machine could do at best. On a GPU the slowest of engine, decoder and
        encoder alone; on a CPU, where they share the cores, the cores divided by the
        core-seconds a frame costs in the three. ratio: end_to_end_fps / limit_fps.
    stages: each part alone; whole: all together. "scores" is what `infer` asks an engine for
        where labels need no more (fcnseg.engines.argmax), and "decide" goes on from there.
    memory_bytes: the most this process has held so far, by place.
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
    whole: Timing
    memory_bytes: dict[str, int]

    @property
    def ratio(self) -> float:
        """How much of what the machine can do is done."""
        return self.end_to_end_fps / self.limit_fps

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device,
            "model": None if self.model is None else str(self.model),
            "size": list(self.size),
            "batch": self.batch,
            "lanes": self.num_parallel,
            "frames": self.frames,
            "model_fps": round(self.model_fps, 2),
            "end_to_end_fps": round(self.end_to_end_fps, 2),
            "limit_fps": round(self.limit_fps, 2),
            "ratio": round(self.ratio, 4),
            "latency_ms": {name: round(value, 3) for name, value in self.latency.items()},
            "stages": {
                name: {
                    "ms": round(1000 * timing.seconds, 3),
                    "core_ms": round(1000 * timing.core_seconds, 3),
                }
                for name, timing in [*self.stages.items(), ("whole", self.whole)]
            },
            "memory_bytes": self.memory_bytes,
        }


def bench(config: BenchConfig, callback: Callback = no_callback) -> BenchResult:
    """Time a model, each stage around it, and all of them together.

    OptionError when the source is not a video file; Interrupted on Ctrl-C.
    """
    try:
        return _timed(config, callback)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("Stopped before everything was timed; there are no figures.") from None


def _timed(config: BenchConfig, callback: Callback) -> BenchResult:
    """Everything is in a temporary folder, which is removed."""
    if config.source is not None and "size" in config.chosen():
        raise OptionError(
            f"--size is that of a clip that is drawn; {config.source} has its own.",
            hint="omit --size, or SOURCE",
        )
    segmenter = load(
        config.model,
        engine=config.engine,
        device=config.device,
        precision=config.precision,
        short_side=config.short_side,
        parallel=True,
        callback=callback,
    )
    with TemporaryDirectory(prefix="fcnseg-bench-") as folder:
        clip = config.source or _draw_clip(Path(folder) / "clip.mp4", config)
        bench = _Bench(segmenter, str(clip), Path(folder) / "out.mp4", config)
        return bench.run(callback)


class _Bench:
    """One segmenter on one clip."""

    def __init__(self, segmenter: Segmenter, clip: str, out: Path, config: BenchConfig) -> None:
        self._segmenter, self._clip, self._out, self._config = segmenter, clip, out, config
        self._painter = Renderer(segmenter.classes)
        self._size = (0, 0)  # of the clip's frames, once they are decoded

    def run(self, callback: Callback) -> BenchResult:
        """Measure part after part; network and whole by turns, as machines' speeds drift."""
        steps = iter(range(4 + 2 * TURNS))

        def tell() -> None:
            callback(Progress("bench", next(steps), 3 + 2 * TURNS, "measurements"))

        tell()
        frames, decode = self._decode()
        self._size = frames[0].size
        batches = list(groups(frames, self._config.batch))
        prepared = [self._segmenter.prepare([frame.image for frame in batch]) for batch in batches]
        stages = {"decode": decode, **self._around(batches, prepared)}
        tell()
        stages["encode"] = self._encode(frames)
        tell()
        turns = [self._networks(prepared)]
        tell()
        wholes: list[Timing] = []
        for _ in range(TURNS):
            wholes.append(self._whole())
            tell()
            turns.append(self._networks(prepared))
            tell()
        for name in turns[0]:
            stages[name] = functools.reduce(Timing.and_then, [turn[name] for turn in turns])
        return self._result(frames, stages, functools.reduce(Timing.and_then, wholes))

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
                f"A model is timed on a video file; {self._clip} is one {source.kind}.",
                hint="leave SOURCE away: a clip is drawn then",
            )
        return source

    def _networks(self, prepared: Sequence[Images]) -> dict[str, Timing]:
        """The bare engine, and what `infer` asks it for where that is less."""
        engine = self._segmenter.engine
        timings = {"network": self._network(engine.forward, prepared)}
        if self._stops_at_scores(prepared[0]):
            timings["scores"] = self._network(engine.scores, prepared)
        return timings

    def _network(self, answer: Callable[[Images], object], prepared: Sequence[Images]) -> Timing:
        engine = self._segmenter.engine

        def forward(batch: Images) -> None:
            engine.parallelism.enter()
            answer(batch)
            engine.synchronize()

        num_parallel = engine.parallelism.count
        warm_up = itertools.islice(itertools.cycle(prepared), WARM_UP * num_parallel)
        time_each(forward, warm_up, len(prepared[0]), num_parallel)
        return time_each(forward, prepared, len(prepared[0]), num_parallel)

    def _around(
        self, batches: Sequence[list[Frame]], prepared: Sequence[Images]
    ) -> dict[str, Timing]:
        """What is done to a frame before and after the network."""
        segmenter, batch = self._segmenter, len(prepared[0])
        labels, _ = segmenter.engine.labels(prepared[0], size=batches[0][0].size)
        frame, answer = batches[0][0], PredictedArrays(labels[0])
        deciding = self._deciding(prepared[0])
        return {
            "prepare": time_each(lambda g: segmenter.prepare([f.image for f in g]), batches, batch),
            "decide": time_each(lambda _: deciding(), batches, batch),
            "draw": time_each(lambda _: self._painter.overlay(frame, answer), batches, 1),
        }

    def _deciding(self, images: Images) -> Callable[[], object]:
        """What turns the engine's answer for these pictures into labels."""
        engine = self._segmenter.engine
        if not self._stops_at_scores(images):
            logits = engine.forward(images)
            return lambda: argmax_labels(logits)
        cells, scores = engine.score_grid, engine.scores(images)
        assert cells is not None
        size = images.shape[1], images.shape[2]
        return lambda: [cells.labels(one, size) for one in scores]

    def _stops_at_scores(self, images: Images) -> bool:
        """Whether `infer` needs no logits of frames that are prepared so."""
        prepared = (images.shape[1], images.shape[2])
        return self._segmenter.engine.score_grid is not None and prepared == self._size

    def _encode(self, frames: Sequence[Frame]) -> Timing:
        """The bare encoder: nothing is read back."""
        height, width = frames[0].size
        even = ((0, height % 2), (0, width % 2), (0, 0))
        pictures = [np.pad(frame.image, even, mode="edge") for frame in frames]
        begun = Clock()
        size = (height + height % 2, width + width % 2)
        encoder = open_encoder(self._out, FPS, size)
        for index, picture in enumerate(pictures):
            encoder.write(picture, index / float(FPS))
        encoder.close()
        begun.lap()
        return begun.timing(len(pictures))

    def _whole(self) -> Timing:
        """What `infer` does."""
        segmenter = self._segmenter
        begun = Clock()
        with self._open() as source:
            sink = VideoSink(self._out, "overlay", self._painter, fps=source.fps)
            run = Pipeline(
                source,
                Network(segmenter),
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
        self, frames: Sequence[Frame], stages: dict[str, Timing], whole: Timing
    ) -> BenchResult:
        engine = self._segmenter.engine
        order = ("decode", "prepare", "network", "scores", "decide", "draw", "encode")
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
            end_to_end_fps=1 / whole.seconds,
            limit_fps=limit,
            latency=stages["network"].percentiles(),
            stages={name: stages[name] for name in order if name in stages},
            whole=whole,
            memory_bytes=most_memory(engine.device),
        )


def _draw_clip(path: Path, config: BenchConfig) -> Path:
    """A clip of the size asked for, in which something moves."""
    height, width = config.size
    wide = sample_images((1, height, 2 * width), seed=0)[0]
    with VideoWriter(path, FPS, config.size) as writer:
        for index in range(config.frames):
            left = index * 4 % width
            writer.write(np.ascontiguousarray(wide[:, left : left + width]))
    return path
