"""Whether memory grows with the length of a video: memory at frame 500 and at the end.

    python benchmarks/long_video.py [--frames 20000] [--engine torch]

`infer` segments a synthetic clip with a small random network, and writes an overlay video and class
proportions.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from fractions import Fraction
from pathlib import Path

import torch

from fcnseg.commands.demo.scenes import CLASSES, draw, make_scene
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.io.video_writer import VideoWriter
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.progress import Event, Progress

FIRST = 500


def resident() -> int:
    """Resident memory of this process in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Draw a clip, run `infer`, print memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("H", "W"))
    parser.add_argument("--engine", default="torch")
    chosen = parser.parse_args()
    held: dict[int, int] = {}

    def callback(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "infer":
            due = FIRST if not held else max(held) + 1000
            if event.done >= due:
                gc.collect()
                held[event.done] = resident()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        spec = ModelSpec(backbone="tiny", num_classes=len(CLASSES), decoder="fcn8s", width=16)
        network = build(spec)
        model = Checkpoint(spec, network.backbone.preprocess, CLASSES, network.state_dict())
        model.save(folder / "model.safetensors")
        clip = folder / "clip.mp4"
        with VideoWriter(clip, Fraction(25), tuple(chosen.size)) as writer:
            images = [draw(make_scene(0, tuple(chosen.size)), n / 25)[0] for n in range(50)]
            for number in range(chosen.frames):
                writer.write(images[number % len(images)])
        config = InferConfig(
            source=(str(clip),),
            model=(str(folder / "model.safetensors"),),
            out=folder / "out.mp4",
            engine=chosen.engine,
            shares=folder / "shares.jsonl",
        )
        result = infer(config, callback)
    first, last = held[min(held)], held[max(held)]
    print(
        json.dumps(
            {
                "frames_in": result.frames_in,
                "frames_out": result.frames_out,
                "mb_at": {frame: round(size / 1e6, 1) for frame, size in held.items()},
                "growth": round(last / first - 1, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
