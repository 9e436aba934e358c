"""Measure the gain of `train --adjust` on a recording used neither in training nor for fitting.

    python benchmarks/accuracy drives --data DATA --keep --only camvid-0001TP/defaults ...
    python benchmarks/adjusted.py RUN/last.safetensors DATA/camvid --drive 0001TP

The model was trained on two of CamVid's recordings. The offsets are fitted as in `train --adjust`,
on CamVid's validation images, which are from a training recording; the images of the third
recording are scored without and with them. Up to 4,000 labeled pixels of each image are used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.engines.fuse import fuse_for_inference
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.inference.segmenter import Segmenter
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.training.validation import LabelledLogits, best_offsets

HELD_OUT = "0001TP", "0006R0"
"""Recordings without validation images."""


def main() -> None:
    """Print mIoU and the IoU of each class, without and with offsets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="the folder camvid")
    parser.add_argument("--drive", choices=HELD_OUT, required=True)
    chosen = parser.parse_args()
    checkpoint, device = Checkpoint.load(chosen.model), torch.device("cpu")
    network = fuse_for_inference(checkpoint.build(), device=device, precision=torch.float32)
    engine = TorchEngine(network, checkpoint.preprocess, device=device, precision=torch.float32)
    segmenter = Segmenter(engine, checkpoint.classes, checkpoint.preprocess)

    description = describe(chosen.data)
    unseen = SegmentationDataset(description, "train")
    unseen.pairs = [pair for pair in unseen.pairs if pair.image.name.startswith(chosen.drive)]
    scored = LabelledLogits.of(segmenter.logits, unseen)
    seen = LabelledLogits.of(segmenter.logits, SegmentationDataset(description, "val"))
    found = best_offsets(seen)
    print(f"{chosen.drive}, {len(unseen)} images: mIoU {100 * scored.miou():.2f}")
    if found is None:
        print("no offsets: the validation images would not gain")
        return
    for part in (0.5, 1.0):
        offsets = part * found.values
        gains = [100 * ((one + offsets).miou() - one.miou()) for one in (scored, seen)]
        print(f"{part:g} times the offsets: {gains[0]:+.2f} points, validation {gains[1]:+.2f}")


if __name__ == "__main__":
    main()
