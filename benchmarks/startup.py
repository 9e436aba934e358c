"""Time of one image from the command line, compared with `import torch`.

    python benchmarks/startup.py [REPEATS]

Alternating: `python -c "import torch"` and `fcnseg infer IMAGE -m nuclei` of a synthetic 256x256
image, each in its own process, after a warm-up of each. Prints the medians and their ratio, of wall
time and of CPU time (user and system), which depends less on other load; the target is 1.6.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main(repeats: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.png"
        noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).save(image)
        infer = ["-m", "fcnseg", "infer", str(image), "-m", "nuclei", "-o"]
        bare, ours = [], []
        for turn in range(repeats + 1):
            bare.append(seconds(["-c", "import torch"]))
            ours.append(seconds([*infer, str(Path(folder) / f"out{turn}")]))
    for at, kind in enumerate(("clock", "processor")):
        torch, infer_one = (statistics.median(one[at] for one in all_[1:]) for all_ in (bare, ours))
        print(f"{kind:9}  import torch {torch:.2f} s, infer one image {infer_one:.2f} s: ", end="")
        print(f"{infer_one / torch:.2f}")


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall time and CPU time of one process of this Python."""
    begin, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system
    return (
        time.perf_counter() - begin,
        used - before.children_user - before.children_system,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repeats", type=int, nargs="?", default=5)
    main(parser.parse_args().repeats)
