"""Compare the installation without PyTorch with the complete one: size on disk, and startup time.

    python benchmarks/small_install.py [--small FOLDER] [--repeats 7]

FOLDER is a virtual environment of examples/without_torch/requirements.txt, created if necessary.
The complete one is that of this Python. Sizes are those of the files of fcnseg's direct and
indirect dependencies, and of onnxruntime in both. Then `fcnseg infer` of one synthetic 256x256
image with the exported model `nuclei` is timed, alternating, each in its own process, after a
warm-up of each; also with the checkpoint in PyTorch. The labels are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
from PIL import Image

import fcnseg

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "examples/without_torch/requirements.txt"

SIZES = """
import json, re, sys
from importlib.metadata import PackageNotFoundError, distribution
sizes, left = {}, json.loads(sys.argv[1])
while left:
    requirement = left.pop()
    name = re.sub(r"[-_.]+", "-", re.match(r"[\\w.-]+", requirement)[0]).lower()
    if name in sizes or "extra ==" in requirement:
        continue
    try:
        found = distribution(name)
    except PackageNotFoundError:  # for another platform or Python
        continue
    files = {file.locate().resolve() for file in found.files or []}
    sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    left += found.requires or []
print(json.dumps(sizes))
"""


def main() -> None:
    """Build, measure alternately, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = str(built(chosen.small or folder / "small"))
        sizes = {"small": megabytes(small, requirements()), "complete": complete_size()}
        model = fcnseg.export("nuclei", out=folder / "nuclei.onnx").path
        noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "image.png")
        ways = {
            "small": [small, str(model)],
            "complete": [sys.executable, str(model)],
            "complete, checkpoint in PyTorch": [sys.executable, "nuclei"],
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(chosen.repeats + 1):
            for name, (python, file) in ways.items():
                times[name].append(seconds(python, file, folder, name))
        labels = [np.asarray(Image.open(folder / f"{name}.png")) for name in ways]
    for name in sizes:
        print(f"{name:9} {sum(sizes[name].values()):7.0f} MB: {largest(sizes[name])}")
    ratio = sum(sizes["small"].values()) / sum(sizes["complete"].values())
    print(f"ratio     {ratio:7.3f}")
    for name, turns in times.items():
        ratios = [one / base for one, base in zip(turns[1:], times["complete"][1:], strict=True)]
        print(
            f"{name:32} {statistics.median(turns[1:]):.2f} s ({min(turns[1:]):.2f} to "
            f"{max(turns[1:]):.2f}), times the complete one's: {statistics.median(ratios):.2f}"
        )
    for name, found in zip(ways, labels, strict=True):
        print(f"labels of {name}: {100 * np.mean(found == labels[1]):.3f} % as the complete one's")


def requirements() -> list[str]:
    """The packages of the small installation, except fcnseg."""
    return REQUIREMENTS.read_text().split()


def built(folder: Path) -> Path:
    """The Python of the small environment, which is created if necessary."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True)
    return python


def complete_size() -> dict[str, float]:
    """Sizes of fcnseg's default dependencies in this environment, and onnxruntime."""
    return megabytes(sys.executable, ["fcnseg", "onnxruntime"])


def megabytes(python: str, roots: list[str]) -> dict[str, float]:
    """Packages, including dependencies, and the size of their files in MB."""
    command = [python, "-c", SIZES, json.dumps(roots)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    sizes: dict[str, float] = json.loads(done.stdout)
    return sizes


def seconds(python: str, model: str, folder: Path, name: str) -> float:
    """Wall time of `fcnseg infer` of this checkout, as a process."""
    (out := folder / f"{name}.png").unlink(missing_ok=True)
    command = ["infer", "image.png", "-m", model, "-o", str(out), "--save", "labels"]
    begin = time.perf_counter()
    subprocess.run(
        [python, "-m", "fcnseg", *command],
        check=True,
        capture_output=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    return time.perf_counter() - begin


def largest(sizes: dict[str, float]) -> str:
    """The four largest packages."""
    first = sorted(sizes.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} {size:.0f}" for name, size in first)


if __name__ == "__main__":
    main()
