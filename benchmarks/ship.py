"""Makes the small file of a trained network that is committed: half precision, nothing else lost.

    python benchmarks/ship.py runs/train1 fcnseg/models/zoo/nuclei.safetensors --data FOLDER

With --adjust the class logits are shifted first, as `fcnseg train --adjust` does. Tells the size
of the file and on how many pixels of the validation images it agrees with the original.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import scan
from fcnseg.inference.loading import load
from fcnseg.io.images import read_image
from fcnseg.models.checkpoint import Checkpoint, find_model
from fcnseg.progress import Event, Message
from fcnseg.training.validation import LabelledLogits, calibrate


def main() -> None:
    """Write, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("target", type=Path)
    parser.add_argument("--data", required=True, help="a dataset folder; its val images are used")
    parser.add_argument("--adjust", action="store_true", help="as `fcnseg train --adjust`")
    chosen = parser.parse_args()
    path = find_model(chosen.model)
    checkpoint = Checkpoint.load(path)
    if chosen.adjust:
        exact = load(path, engine="torch", precision="f32")
        sample = LabelledLogits.of(exact.logits, SegmentationDataset(chosen.data, "val"))
        checkpoint = calibrate(checkpoint, sample, tell, adjust=True, scale=True)
    checkpoint.half().save(chosen.target)
    before, after = (load(file, engine="torch") for file in (path, chosen.target))
    pairs = [pair for pair in scan(chosen.data).description.pairs if pair.split == "val"]
    equal = total = 0
    for pair in pairs:
        image = read_image(pair.image)
        old, new = (segmenter.predict([image])[0].labels for segmenter in (before, after))
        equal, total = equal + int(np.sum(old == new)), total + old.size
    print(f"{chosen.target}: {chosen.target.stat().st_size / 1e6:.2f} MB")
    print(f"labels as the original's on {100 * equal / total:.4f} % of pixels, {len(pairs)} images")


def tell(event: Event) -> None:
    """Print what was chosen."""
    if isinstance(event, Message):
        print(event.text)


if __name__ == "__main__":
    main()
