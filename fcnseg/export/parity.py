"""Parity of two implementations of one network, on synthetic images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

Images = NDArray[np.uint8]


Logits = NDArray[np.float32]


Labels = NDArray[np.uint8]


LogitsFunction = Callable[[Images], Logits]
"""Images uint8 (N, H, W, 3) -> logits float32 (N, K, H, W)."""


LabelsOf = Callable[[Images], Labels]
"""Images uint8 (N, H, W, 3) -> labels uint8 (N, H, W)."""

SIZES = ((33, 47), (64, 96), (97, 131), (240, 320))
"""Heights and widths at which outputs are compared: odd, even, multiples of the stride, not."""


@dataclass(frozen=True)
class Parity:
    """The differences between two implementations of one network.

    max_abs_diff: largest difference of a logit; largest_logit: what it compares with.
    label_agreement: proportion of pixels with the same label, 0..1.
    sizes: (height, width) of the images; batches: how many went in together.
    pixels: how many were compared.
    """

    max_abs_diff: float
    largest_logit: float
    label_agreement: float
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    pixels: int

    @property
    def holds(self) -> bool:
        """Whether one may stand in for the other."""
        return self.label_agreement >= 0.999 and self.max_abs_diff <= 1e-3 * max(
            1.0, self.largest_logit
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "max_abs_diff": self.max_abs_diff,
            "largest_logit": self.largest_logit,
            "label_agreement": self.label_agreement,
            "sizes": [list(size) for size in self.sizes],
            "batches": list(self.batches),
            "pixels": self.pixels,
        }


def compare(
    original: LogitsFunction,
    other: LogitsFunction,
    *,
    labels: LabelsOf | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
    batches: Sequence[int] = (1, 3),
) -> Parity:
    """Run both on the same images: every size with every batch.

    labels: the other's, where it has a way to them that does not lead over its logits.
    """
    difference = largest = 0.0
    same = pixels = 0
    for index, size in enumerate(sizes):
        for batch in batches:
            images = sample_images((batch, *size), seed=index)
            expected, found = original(images), other(images)
            if found.shape != expected.shape or not np.isfinite(found).all():
                return Parity(float("inf"), largest, 0.0, tuple(sizes), tuple(batches), pixels)
            difference = max(difference, float(np.abs(expected - found).max()))
            largest = max(largest, float(np.abs(expected).max()))
            predicted = found.argmax(axis=1) if labels is None else labels(images)
            same += int((expected.argmax(axis=1) == predicted).sum())
            pixels += batch * size[0] * size[1]
    return Parity(difference, largest, same / pixels, tuple(sizes), tuple(batches), pixels)


def sample_images(shape: tuple[int, int, int], *, seed: int) -> Images:
    """Synthetic images with large shapes, edges and fine grain. uint8 (N, H, W, 3)."""
    count, height, width = shape
    random = torch.Generator().manual_seed(seed)
    image = torch.zeros(count, 3, height, width)
    for side in (2, 5, 13, 40):  # octaves: the coarser, the stronger
        noise = torch.randn(count, 3, side, side, generator=random) * (30 + 60 / side)
        mode = "nearest" if side == 5 else "bilinear"  # hard edges from one of them
        image += F.interpolate(noise, (height, width), mode=mode)
    grain = torch.randn(count, 3, height, width, generator=random) * 8
    pixels = (128 + image + grain).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
