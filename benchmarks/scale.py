"""Throughput of a job with many images, by the latency of storage; and with Ray.

    python -m benchmarks.scale [MODEL] [COUNT]

Storage is simulated (benchmarks/listing.py): it waits 0, 1, 10 and 100 ms before each image; labels
are written to a local folder. If Ray is installed, one worker with one thread is compared with two,
in three rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch

import benchmarks.listing as simulated
from fcnseg.commands.infer import infer
from fcnseg.io.images import encode_image, resize_image, write_bytes

ROUNDS = 3  # of one and two Ray workers


def photo() -> bytes:
    """A JPEG of 512x384 pixels with smooth noise, similar to a photo."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return encode_image(np.asarray(resize_image(noise, (384, 512)), np.uint8), ".jpg")


def rate(source: str, model: str, count: int, **options: Any) -> tuple[float, int]:
    """Images per second, and the bytes of the labels."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        began = time.perf_counter()
        done = infer(source, model=model, out=out, save=("labels",), tile="off", **options)
        seconds = done.seconds or time.perf_counter() - began
        assert done.frames_out == count
        return count / seconds, sum(file.stat().st_size for file in out.rglob("*.png"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="nuclei")
    parser.add_argument("count", type=int, nargs="?", default=200)
    chosen = parser.parse_args()
    model, count = chosen.model, chosen.count
    torch.set_num_threads(1)
    simulated.IMAGE = photo()
    simulated.MadeUp.count = count
    fsspec.register_implementation("madeup", simulated.MadeUp)
    found: dict[str, Any] = {"images": count, "bytes read an image": len(simulated.IMAGE)}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            write_bytes(Path(folder) / f"image_{number}.jpg", simulated.IMAGE)
        speed, written = rate(folder, model, count, engine="torch")
        found |= {"bytes written an image": written // count, "images/s local": round(speed, 1)}
        for milliseconds in (0, 1, 10, 100):
            simulated.MadeUp.seconds = milliseconds / 1000
            speed, _ = rate("madeup://bucket/photos", model, count, engine="torch")
            found[f"images/s at {milliseconds} ms"] = round(speed, 1)
        if importlib.util.find_spec("ray"):
            found |= with_ray(folder, model, count)
    print(json.dumps(found, indent=1))


def with_ray(folder: str, model: str, count: int) -> dict[str, list[float]]:
    """Images per second of one and of two workers, without startup, alternating."""
    import ray

    speeds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for workers in (1, 2):
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
            speed, _ = rate(folder, model, count, engine="torch", ray="local")
            speeds.setdefault(f"images/s of {workers} Ray workers", []).append(round(speed, 1))
            ray.shutdown()
    one, two = speeds.values()
    return speeds | {"ratio": [round(b / a, 2) for a, b in zip(one, two, strict=True)]}


if __name__ == "__main__":
    main()
