"""What labels at full size cost with many classes: only those that can win somewhere are upsampled.

    python benchmarks/many_classes.py [--size 480 640] [--rounds 5]

Scores of a stride of 8 as networks give them (neighbours are alike), of 2 to 150 classes, by turns:
fcnseg's way, every class upsampled in each square with several, and all logits with argmax. Prints
processor milliseconds, the least of the rounds, and whether the labels are the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from fcnseg.engines import argmax
from fcnseg.engines.argmax import ScoreGrid, argmax_labels
from fcnseg.models.backbones import upsample

FACTOR, SHIFT = 8, 3.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    size = (chosen.size[0], chosen.size[1])
    print("| classes | fcnseg | every class in mixed squares | all logits | same labels |")
    print("|---|---|---|---|---|")
    for classes in (2, 11, 21, 60, 150):
        make = torch.Generator().manual_seed(classes)
        coarse = torch.randn(1, classes, 12, 16, generator=make) * 4
        scores = F.interpolate(coarse, (size[0] // FACTOR, size[1] // FACTOR), mode="bicubic")
        runs = [[timed(way, scores, size) for way in WAYS] for _ in range(chosen.rounds)]
        times = np.array([[seconds for seconds, _ in run] for run in runs])
        labels = [found for _, found in runs[0]]
        least = " | ".join(f"{1000 * one:.1f}" for one in times.min(axis=0))
        same = (
            f"{np.array_equal(labels[0], labels[1])}, {100 * (labels[0] == labels[2]).mean():.3f}"
        )
        print(f"| {classes} | {least} | {same} % of all logits' |")


Size = tuple[int, int]


def with_few(few: int, scores: torch.Tensor, size: Size) -> np.ndarray:
    """Labels (H, W), every class upsampled where there are at most `few`."""
    before, argmax._FEW = argmax._FEW, few
    try:
        return ScoreGrid(FACTOR, SHIFT).labels(scores[0].numpy(), size)
    finally:
        argmax._FEW = before


WAYS: tuple[Callable[[torch.Tensor, Size], np.ndarray], ...] = (
    lambda scores, size: with_few(argmax._FEW, scores, size),
    lambda scores, size: with_few(255, scores, size),
    lambda scores, size: argmax_labels(upsample(scores, FACTOR, SHIFT, size))[0][0],
)


def timed(
    way: Callable[[torch.Tensor, Size], np.ndarray], scores: torch.Tensor, size: Size
) -> tuple[float, np.ndarray]:
    """Processor seconds, and labels."""
    begin = time.process_time()
    labels = way(scores, size)
    return time.process_time() - begin, labels


if __name__ == "__main__":
    main()
