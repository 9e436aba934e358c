"""Memory of each engine when every image has a new size.

python benchmarks/many_sizes.py [--sizes 1000] [--engines torch onnxruntime openvino]

Each engine runs in its own process. Resident memory (MB) is measured after a tenth of the sizes,
and at the end: it must not grow by more than a tenth. Also measured: the effect of rounding sizes
up to a multiple of 32, on seconds per image and on labels.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np


def resident() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/status", encoding="utf-8") as status:  # noqa: PTH123
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure(engine: str, model_name: str, count: int, grid: int) -> dict[str, float]:
    """Memory and time of one engine over `count` sizes; grid: sizes are rounded up to it."""
    import fcnseg

    model = fcnseg.load(model_name, engine=engine, device="cpu")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    model(noise)
    sizes = rng.permutation(384 * 384)[:count]  # no size twice
    held, seconds, changed = [], 0.0, 0.0
    for number, size in enumerate(sizes):
        height, width = 128 + int(size) // 384, 128 + int(size) % 384
        image = noise[:height, :width]
        if grid > 1:
            down, right = -height % grid, -width % grid
            image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
        began = time.perf_counter()
        labels = model(image).labels[:height, :width]
        seconds += time.perf_counter() - began
        if grid > 1 and number < 20:
            changed += float((labels != model(noise[:height, :width]).labels).mean()) / 20
        held.append(resident())
    return {
        "first": held[max(0, count // 10 - 1)],
        "last": held[-1],
        "seconds": seconds / count,
        "changed": changed,
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=1000)
    parser.add_argument("--engines", nargs="+", default=["torch", "onnxruntime", "openvino"])
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        engine, grid = options.one
        print(json.dumps(measure(engine, options.model, options.sizes, int(grid))))
        return
    print("| engine | sizes | MB after a tenth | MB at the end | growth | s/image | other labels |")
    print("|---|---|---|---|---|---|---|")
    for engine in options.engines:
        for grid, name in ((1, "as they are"), (32, "rounded up to 32")):
            command = [sys.executable, __file__, "--one", engine, str(grid)]
            command += ["--sizes", str(options.sizes), "--model", options.model]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            growth = found["last"] / found["first"] - 1
            print(
                f"| {engine} | {name} | {found['first']:.0f} | {found['last']:.0f} | {growth:+.1%} "
                f"| {found['seconds']:.3f} | {found['changed']:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
