"""Train on photos of 12 megapixels, resized as `fcnseg train` chooses, and at their own size.

    python benchmarks/large_photos.py --data DATA/bag [--images 60] [--epochs 6] [--out OUT]

DATA/bag has the folders images and masks (0 and above). The images are enlarged to 4032x3024, with
some noise, and saved as JPEG and PNG. Each training is a command of its own, so that its time and
its peak memory are those of the whole command. mIoU is the best on the validation images, in full
resolution.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 4032, 3024
"""Width and height of the photos."""

OPTIONS = {"as chosen by `train`": [], "--short-side 0": ["--short-side", "0"]}


def enlarge(data: Path, folder: Path, images: int) -> None:
    """Write enlarged images and masks, turned to landscape format."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, path in enumerate(sorted((data / "images").iterdir())[:images]):
        mask = Image.open(next((data / "masks").glob(f"{path.stem}.*"))).convert("L")
        image = Image.open(path).convert("RGB")
        if image.height > image.width:
            image, mask = (each.transpose(Image.Transpose.ROTATE_90) for each in (image, mask))
        pixels = np.asarray(image.resize(SIZE, Image.Resampling.BICUBIC), np.int16)
        noise = np.random.default_rng(number).integers(-6, 7, pixels.shape, dtype=np.int16)
        photo = Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
        photo.save(folder / "images" / f"{number:04}.jpg", quality=92)
        labels = np.asarray(mask.resize(SIZE, Image.Resampling.NEAREST)) > 127
        Image.fromarray(labels.astype(np.uint8) * 255).save(folder / "masks" / f"{number:04}.png")


def main() -> None:
    """Print a table row for each training."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of bag")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, help="folder for photos and runs (default: temporary)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = chosen.out or Path(temporary)
        if not (out / "photos").exists():
            enlarge(chosen.data, out / "photos", chosen.images)
        print("| options | mIoU | seconds | peak memory, GB |\n|---|---|---|---|", flush=True)
        for number, (name, options) in enumerate(OPTIONS.items()):
            run = out / f"run{number}"
            command = [sys.executable, "-m", "fcnseg", "train", str(out / "photos"), "--json"]
            command += ["--out", str(run), "--epochs", str(chosen.epochs), "--device", "cpu"]
            command += ["--workers", "0", "--precision", "f32", "--no-report", *options]
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            seconds, peak = time.perf_counter() - began, used.ru_maxrss / 1e6
            miou = 100 * json.loads(printed)["miou"] if status == 0 else float("nan")
            print(f"| {name} | {miou:.1f} | {seconds:.0f} | {peak:.1f} |", flush=True)


if __name__ == "__main__":
    main()
