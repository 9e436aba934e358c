"""Time `fcnseg check` on a large folder, compared with a plain loop.

Generates PAIRS pairs (JPEG images, PNG labels, 320x240) and measures, alternating for ROUNDS rounds
and each in its own process:

    floor   a loop that opens and decodes every image and label file with Pillow
    first   fcnseg check's examination, with an empty cache
    cached  the same again

Prints medians with minimum and maximum in parentheses. Memory is the sum of the peaks of the
process and its workers; the difference from an examination of 100 pairs is the cost of the folder's
size. The first scan should take no more than 1.3 x floor / cores. Core-seconds are printed as well,
because they are comparable on a machine with other load.

    python benchmarks/check_speed.py [--pairs 20000] [--rounds 3] [--folder WHERE]

The pairs are kept in --folder, and generated only if it does not exist.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image

SIZE = (240, 320)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def draw(folder: Path, pairs: int) -> None:
    """Write pairs of a noise image and labels with three classes of discs; deterministic."""
    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True, exist_ok=True)
    for number in range(pairs):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (15, 20, 3)).astype(np.uint8)
        image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 20, (64, 64, 3)).astype(np.uint8)
        image = cv2.add(image, np.tile(noise, (4, 5, 1))[: SIZE[0], : SIZE[1]])
        labels = np.zeros(SIZE, np.uint8)
        for value in (1, 2, 3):
            centre = tuple(int(v) for v in rng.integers(20, 220, 2))
            cv2.circle(labels, centre, int(rng.integers(10, 50)), value, -1)
        cv2.imwrite(str(folder / "images" / f"{number:06}.jpg"), image)
        cv2.imwrite(str(folder / "masks" / f"{number:06}.png"), labels)


def floor(folder: Path) -> None:
    """Open and decode every file."""
    for role in ("images", "masks"):
        for path in sorted((folder / role).iterdir()):
            with Image.open(path) as image:
                image.load()


def examined(folder: Path) -> None:
    """Run fcnseg check, except for the images it writes."""
    from fcnseg.datasets.check import examine

    result = examine(folder)
    assert not result.failed, result.findings


def measure(what: str, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of one of the above, in its own process."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Generate pairs, measure, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", choices=["floor", "examined"])
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured_here(options.measure, options.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "pairs"
        if not folder.exists():
            draw(folder, options.pairs)
        draw(Path(temporary) / "few", 100)
        measure("floor", folder)  # fills the system's file cache
        rounds = [
            measure_all(folder, Path(temporary) / "few", Path(temporary) / f"cache{number}")
            for number in range(options.rounds)
        ]
        report(rounds, len(list((folder / "images").iterdir())))


def measured_here(what: str, folder: Path) -> dict[str, float]:
    """Seconds and peak memory in this process, including its workers."""
    began = time.perf_counter()
    {"floor": floor, "examined": examined}[what](folder)
    seconds = time.perf_counter() - began
    own, workers = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    each = workers.ru_maxrss / 1024  # the largest of them
    return {
        "seconds": seconds,
        "core_seconds": own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime,
        "megabytes": own.ru_maxrss / 1024 + CORES * each,
        "worker_megabytes": each,
    }


def measure_all(folder: Path, few: Path, cache: Path) -> dict[str, dict[str, float]]:
    """One round, with its own cache."""
    os.environ["FCNSEG_CACHE"] = str(cache)
    return {
        "floor": measure("floor", folder),
        "few": measure("examined", few),
        "first": measure("examined", folder),
        "cached": measure("examined", folder),
    }


def report(rounds: list[dict[str, dict[str, float]]], pairs: int) -> None:
    """Print the table and the ratio."""
    names = {"floor": "Pillow, one core", "first": "first scan", "cached": "cached scan"}
    print(f"{pairs} pairs, {CORES} cores, {len(rounds)} rounds")
    for key, name in names.items():
        print(
            f"{name:18} {spread([one[key]['seconds'] for one in rounds])} s  "
            f"{spread([one[key]['core_seconds'] for one in rounds])} core-s  "
            f"{median([one[key]['megabytes'] for one in rounds]):6.0f} MB"
        )
    ratios = [one["first"]["seconds"] * CORES / one["floor"]["seconds"] for one in rounds]
    work = [one["first"]["core_seconds"] / one["floor"]["core_seconds"] for one in rounds]
    grown = [own_megabytes(one["first"]) - own_megabytes(one["few"]) for one in rounds]
    print(f"first scan x cores / floor: {spread(ratios)}")
    print(f"in core-seconds, start included: {spread(work)}")
    print(f"memory: {1024 * median(grown) / pairs:.2f} KB a pair")
    print(json.dumps({"pairs": pairs, "cores": CORES, "ratios": ratios, "rounds": rounds}))


def own_megabytes(found: dict[str, float]) -> float:
    """The process's peak without its workers, whose number does not depend on the files."""
    return found["megabytes"] - CORES * found["worker_megabytes"]


def spread(values: list[float]) -> str:
    """The median, minimum and maximum."""
    return f"{median(values):8.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
