"""How long `fcnseg check` takes on a large folder, beside a plain loop.

Draws PAIRS pairs (JPEG pictures, PNG labels, 320x240) and measures, each in a process of its
own:

    floor   a loop that opens every picture and every label file with Pillow and decodes it
    first   fcnseg check's examination, nothing known yet
    cached  the same again

Memory is the process's peak; of it the part above an examination of 100 pairs is what the
folder's size costs. The first scan should take no more than 1.3 x floor / cores. Core-seconds
are given as well: they are what can be compared on a machine that others use. Run it as

    python benchmarks/check_speed.py [--pairs 20000] [--folder WHERE]
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

import cv2
import numpy as np
from PIL import Image

SIZE = (240, 320)


def draw(folder: Path, pairs: int) -> None:
    """Pairs of a blotchy picture and three classes of blots; the same every time."""
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
    """What fcnseg check does, without the pictures it writes."""
    from fcnseg.data.check import examine

    result = examine(folder)
    assert not result.failed, result.findings


def measure(what: str, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of one of the above, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", what, "--folder", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Draw, measure, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", choices=["floor", "examined"])
    options = parser.parse_args()
    if options.measure:
        began = time.perf_counter()
        {"floor": floor, "examined": examined}[options.measure](options.folder)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "seconds": seconds,
            "core_seconds": used.ru_utime + used.ru_stime,
            "megabytes": used.ru_maxrss / 1024,
        }
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["FCNSEG_CACHE"] = str(Path(temporary) / "cache")
        folder = options.folder or Path(temporary) / "pairs"
        draw(folder, options.pairs)
        draw(Path(temporary) / "few", 100)
        report(measure_all(folder, Path(temporary) / "few"), options.pairs)


def measure_all(folder: Path, few: Path) -> dict[str, dict[str, float]]:
    """Each measurement; the files are in the system's cache for all of them."""
    measure("floor", folder)
    return {
        "floor": measure("floor", folder),
        "few": measure("examined", few),
        "first": measure("examined", folder),
        "cached": measure("examined", folder),
    }


def report(found: dict[str, dict[str, float]], pairs: int) -> None:
    """The table, and the ratio that counts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = {"floor": "Pillow, one core", "first": "first scan", "cached": "cached scan"}
    print(f"{pairs} pairs, {cores} cores")
    for key, name in names.items():
        row = found[key]
        print(
            f"{name:18} {row['seconds']:8.1f} s  {row['core_seconds']:8.1f} core-s  "
            f"{row['megabytes']:6.0f} MB"
        )
    ratio = found["first"]["seconds"] * (cores or 1) / found["floor"]["seconds"]
    grown = found["first"]["megabytes"] - found["few"]["megabytes"]
    work = found["first"]["core_seconds"] / found["floor"]["core_seconds"]
    print(f"first scan x cores / floor: {ratio:.2f} (in core-seconds, start included: {work:.2f})")
    print(f"memory: {1024 * grown / pairs:.2f} KB a pair")
    print(json.dumps({"pairs": pairs, "cores": cores, "ratio": ratio, "work": work, **found}))


if __name__ == "__main__":
    main()
