"""Write the half-precision file of a trained network for the repository.

    python benchmarks/ship.py runs/train1 fcnseg/models/zoo/nuclei.safetensors --data FOLDER

With --short-side the network's input size is changed, and probabilities are calibrated again; with
--adjust the class logits are adjusted first, as by `fcnseg train --adjust`. Prints the size of the
file and the proportion of validation pixels with the same label as in full precision.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import scan
from fcnseg.inference.loading import load
from fcnseg.io.images import read_image
from fcnseg.models.checkpoint import Checkpoint, find_model
from fcnseg.progress import Event, Message
from fcnseg.training.validation import LabelledLogits, calibrate

F32: dict[str, Any] = {"engine": "torch", "precision": "f32"}


def main() -> None:
    """Write the file and compare it with full precision."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("target", type=Path)
    parser.add_argument("--data", required=True, help="a dataset folder; its val images are used")
    parser.add_argument("--short-side", type=int, help="of the images that the network sees")
    parser.add_argument("--adjust", action="store_true", help="as `fcnseg train --adjust`")
    chosen = parser.parse_args()
    checkpoint = Checkpoint.load(find_model(chosen.model))
    if chosen.short_side:
        preprocess = checkpoint.preprocess.at(chosen.short_side)
        checkpoint = replace(checkpoint, preprocess=preprocess)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.short_side or chosen.adjust:
            exact = load(checkpoint.save(Path(folder) / "given.safetensors"), **F32)
            sample = LabelledLogits.of(exact.logits, SegmentationDataset(chosen.data, "val"))
            checkpoint = calibrate(
                checkpoint, sample, print_message, adjust=chosen.adjust, scale=True
            )
        checkpoint.half().save(chosen.target)
        full = checkpoint.save(Path(folder) / "full.safetensors")
        before, after = (load(file, **F32) for file in (full, chosen.target))
    pairs = [pair for pair in scan(chosen.data).description.pairs if pair.split == "val"]
    equal = total = 0
    for pair in pairs:
        image = read_image(pair.image)
        old, new = (segmenter.predict([image])[0].labels for segmenter in (before, after))
        equal, total = equal + int(np.sum(old == new)), total + old.size
    print(f"{chosen.target}: {chosen.target.stat().st_size / 1e6:.2f} MB")
    print(
        f"labels as in full precision on {100 * equal / total:.4f} % of pixels, {len(pairs)} images"
    )


def print_message(event: Event) -> None:
    """Print the messages of the calibration."""
    if isinstance(event, Message):
        print(event.text)


if __name__ == "__main__":
    main()
