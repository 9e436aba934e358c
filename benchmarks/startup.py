"""How long one image takes from the command line, beside `import torch` alone.

    python benchmarks/startup.py [REPEATS]

By turns, in one run: `python -c "import torch"` and `fcnseg infer IMAGE -m nuclei` of a
synthetic image of 256x256, each in a process of its own; after one of each that is not counted.
Prints the medians and their ratio; the goal is 1.6.
"""

from __future__ import annotations

import argparse
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
    torch, whole = statistics.median(bare[1:]), statistics.median(ours[1:])
    print(f"import torch       {torch:.2f} s")
    print(f"infer one image    {whole:.2f} s")
    print(f"ratio              {whole / torch:.2f}")


def seconds(arguments: list[str]) -> float:
    """Of one process of this Python, from start to end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repeats", type=int, nargs="?", default=5)
    main(parser.parse_args().repeats)
