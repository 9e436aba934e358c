"""Compare the speed of `fcnseg train` with that of the bare training step.

Two loops alternate in one process, a block of steps each:

    loop   fcnseg train: reading and decoding files, augmentation, normalisation, loss, clipping,
           weight averaging, progress, saving (without validation)
    bare   forward, the same loss, backward, optimizer step of the same network on tensors in memory

The blocks alternate, so that other load affects both. The first epoch, which decodes every file, is
not timed without --first; in later ones images are cached.

    python benchmarks/train_throughput.py [--data FOLDER] [--backbone NAME] ...
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import fcnseg  # noqa: F401  # isort: skip  (before torch: it says how torch's threads wait)
import torch

from fcnseg.classes import ClassMap
from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.commands.train import train
from fcnseg.config import TrainConfig
from fcnseg.device import autocast, precision_name, resolve_device, resolve_precision
from fcnseg.progress import EpochEnd, Event, Message, Progress, no_callback
from fcnseg.training.initial_weights import from_pretrained
from fcnseg.training.losses import Criterion, parse_loss
from fcnseg.training.step import NetWithAuxHeads


class EnoughError(Exception):
    """Raised when all blocks are timed."""


@dataclass(frozen=True)
class Cost:
    """Wall time, and CPU time of all cores, which depends less on other load, in seconds."""

    wall: float
    cores: float

    @classmethod
    def now(cls) -> Cost:
        """Both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def each(self, steps: int) -> Cost:
        """The mean cost of a step since these clocks were read."""
        now = Cost.now()
        return Cost((now.wall - self.wall) / steps, (now.cores - self.cores) / steps)


class Bare:
    """The bare training step, the upper limit of speed."""

    def __init__(self, config: TrainConfig, classes: int) -> None:
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        network = from_pretrained(config, ClassMap.numbered(classes), no_callback).network
        self.model = NetWithAuxHeads(network, aux=config.aux > 0).train()
        self.model.to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        assert config.crop is not None
        shape = (config.batch, 3, *config.crop)
        self.images = torch.randn(shape, device=self.device).to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, classes, (config.batch, *config.crop), device=self.device)
        self.criterion = Criterion(parse_loss(config.loss), torch.ones(classes, device=self.device))
        self.sparse = self.model.on_grid(self.labels)
        both = self.labels, self.sparse
        self.normalizers, self.sparse_normalizers = map(self.criterion.normalizers, both)
        self.aux = config.aux

    def step(self) -> None:
        """Forward, loss, backward, optimiser step."""
        with autocast(self.device, self.precision):
            logits, *coarse = self.model(self.images)
        loss = self.criterion(logits, self.labels, self.normalizers)
        for scores in coarse:
            loss = loss + self.aux * self.criterion(scores, self.sparse, self.sparse_normalizers)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def cost(self, steps: int) -> Cost:
        """The mean over a block."""
        self.wait()
        began = Cost.now()
        for _ in range(steps):
            self.step()
        self.wait()
        return began.each(steps)

    def wait(self) -> None:
        """Synchronise with the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Turns:
    """A callback of the training that runs the bare step between blocks."""

    def __init__(self, bare: Bare, *, steps: int, rounds: int, first: bool) -> None:
        self.bare, self.steps, self.rounds = bare, steps, rounds
        self._timing = first
        self.loop: list[Cost] = []
        self.alone: list[Cost] = []
        self._inside = -2  # two steps to warm up
        self._began = Cost.now()

    def __call__(self, event: Event) -> None:
        """Count the training's steps."""
        if isinstance(event, Message):
            print(event.text)
        if isinstance(event, EpochEnd):
            self._timing = True
            if self._inside >= 0:
                self._inside, self._began = 0, Cost.now()  # validation is not the loop
        if not self._timing:
            return
        if not isinstance(event, Progress) or not event.task.startswith("epoch"):
            return
        self._inside += 1
        if self._inside == 0:
            self.bare.cost(2)
        elif self._inside < self.steps:
            return
        else:
            self.bare.wait()
            self.loop.append(self._began.each(self.steps))
            self.alone.append(self.bare.cost(self.steps))
            self._tell()
        if len(self.loop) == self.rounds:
            raise EnoughError
        self._inside = 0
        self._began = Cost.now()

    def _tell(self) -> None:
        loop, bare = self.loop[-1], self.alone[-1]
        print(
            f"loop {1000 * loop.wall:8.1f} ms  bare {1000 * bare.wall:8.1f} ms  "
            f"ratio {bare.wall / loop.wall:.3f}  by core time {bare.cores / loop.cores:.3f}"
        )


def main() -> None:
    """Time it and print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a dataset folder; without it one is drawn")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--decoder", default="fcn8s")
    parser.add_argument("--upsample", default="fixed")
    parser.add_argument("--crop", type=int, nargs=2, default=(320, 416), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--loss", default=TrainConfig.make({}).loss)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--steps", type=int, default=3, help="steps of a block, no more than an epoch"
    )
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each kind")
    parser.add_argument("--first", action="store_true", help="time the first epoch, too")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = chosen.data
        if data is None:
            data = Path(folder) / "data"
            write_dataset(data, train=64, val=2)
        print(json.dumps(measure(chosen, data, Path(folder) / "run")))


def measure(chosen: argparse.Namespace, data: Path, out: Path) -> dict[str, object]:
    """Milliseconds of both, medians over the rounds, and the median ratio."""
    names = ("backbone", "decoder", "upsample", "batch", "workers", "device", "loss")
    options = {name: getattr(chosen, name) for name in names}
    config = TrainConfig.make(
        {
            **options,
            "crop": tuple(chosen.crop),
            "data": data,
            "out": out,
            "epochs": 1000,
            "backbone_weights": "none",
        }
    )
    turns = Turns(Bare(config, 11), steps=chosen.steps, rounds=chosen.rounds, first=chosen.first)
    with contextlib.suppress(EnoughError):
        train(config, turns)
    rounds = list(zip(turns.alone, turns.loop, strict=True))
    loop = statistics.median(cost.wall for cost in turns.loop)
    bare = statistics.median(cost.wall for cost in turns.alone)
    return {
        **options,
        "crop": list(chosen.crop),
        "precision": precision_name(turns.bare.precision),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "loop_ms": round(1000 * loop, 1),
        "bare_ms": round(1000 * bare, 1),
        "loop_images_per_second": round(chosen.batch / loop, 3),
        "bare_images_per_second": round(chosen.batch / bare, 3),
        "ratio": round(statistics.median(b.wall / a.wall for b, a in rounds), 3),
        "ratio_by_core_time": round(statistics.median(b.cores / a.cores for b, a in rounds), 3),
    }


if __name__ == "__main__":
    main()
