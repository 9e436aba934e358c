"""Parity check of two implementations of a network, on a user's images or synthetic ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.classes import ClassMap
from fcnseg.engines.base import Images, Labels
from fcnseg.errors import percent
from fcnseg.io.bands import Bands
from fcnseg.io.images import resize_image, resize_labels
from fcnseg.metrics import Confusion, Report

Logits = NDArray[np.float32]

LogitsFunction = Callable[[Images], Logits]
"""Images uint8 (N, H, W, C) -> logits float32 (N, K, H, W)."""

LabelsOf = Callable[[Images], Labels]
"""Images uint8 (N, H, W, C) -> labels uint8 (N, H, W)."""

REPORT_SUFFIX = ".parity.json"
"""Of the report beside an exported file."""

SIZES = ((33, 47), (64, 96), (97, 131), (240, 320))
"""Heights and widths of synthetic images: odd, even, multiples of the stride and others."""

SCALES = (1.0, 0.75, 0.5)
"""Scales at which a user's images are compared."""

MAX_PIXELS = 1_500_000
"""Larger images are scaled down: the logits of all classes are in memory twice."""


@dataclass(frozen=True)
class Tolerance:
    """Limits of the parity check.

    labels: minimum proportion of equal labels. logits: maximum difference, relative to the largest
    logit. miou: maximum loss.
    """

    labels: float = 0.999
    logits: float = 1e-3
    miou: float = 0.001


TOLERANCES = {"f32": Tolerance(), "f16": Tolerance(0.995, 0.05, 0.005)}
"""By the precision of a file; for int8 see inference.quantized."""

RESIZED = 0.02
"""Tolerance of logits if a file resizes images: of a million pixels a few are rounded differently,
and each changes the logits around it."""


def tolerance_of(precision: str, *, resizes: bool) -> Tolerance:
    """The tolerance for a file of this precision."""
    tolerance = TOLERANCES[precision]
    return replace(tolerance, logits=max(tolerance.logits, RESIZED)) if resizes else tolerance


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The inputs of a parity check.

    images: uint8 (H, W, C), a user's; empty: synthetic ones of `sizes`. labels: theirs, uint8
    (H, W), or empty. classes: of the labels. size: the fixed (height, width) of a file, if any.
    """

    images: Sequence[Images] = ()
    labels: Sequence[Labels] = ()
    classes: ClassMap | None = None
    sizes: Sequence[tuple[int, int]] = SIZES
    size: tuple[int, int] | None = None
    bands: Bands | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)

    def batches(self) -> Iterator[tuple[Images, Labels | None]]:
        """Yield batches of images uint8 (N, H, W, C), with labels (N, H, W) if known."""
        if not self.images:
            sizes = [self.size] if self.size else self.sizes
            for index, size in enumerate(sizes):
                for count in (1, 3):
                    shape = (count, *size)
                    yield sample_images(shape, seed=index, bands=self.bands), None
        for index, image in enumerate(self.images):
            labels = self.labels[index] if self.labels else None
            for size in self._sizes_of(image):
                scaled = resize_image(image, size)[None]
                yield scaled, None if labels is None else resize_labels(labels, size)[None]

    def _sizes_of(self, image: Images) -> list[tuple[int, int]]:
        if self.size:
            return [self.size]
        height, width = image.shape[:2]
        fits = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
        scaled = [
            (max(1, round(height * fits * scale)), max(1, round(width * fits * scale)))
            for scale in SCALES
        ]
        return list(dict.fromkeys(scaled))


@dataclass(frozen=True)
class Parity:
    """The differences between two implementations of a network.

    max_abs_diff: maximum difference of a logit; largest_logit: its reference.
    label_agreement: proportion of pixels with the same label, 0..1.
    sizes: (height, width) of the images; batches: the batch sizes.
    pixels: how many were compared. images: number of the user's images, 0 for synthetic ones.
    miou_before, miou: of the original and of the other, if labels are known.
    """

    max_abs_diff: float
    largest_logit: float
    label_agreement: float
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    pixels: int
    images: int = 0
    miou_before: float | None = None
    miou: float | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)

    @property
    def holds(self) -> bool:
        """Whether the differences are within the tolerance."""
        lost = 0.0
        if self.miou is not None and self.miou_before is not None:
            lost = self.miou_before - self.miou
        return (
            self.label_agreement >= self.tolerance.labels
            and self.max_abs_diff <= self.tolerance.logits * max(1.0, self.largest_logit)
            and lost <= self.tolerance.miou
        )

    @property
    def summary(self) -> str:
        """The differences and the tolerance, as a sentence."""
        allowed = self.tolerance
        text = (
            f"logits differ by up to {self.max_abs_diff:.3g} ("
            f"{allowed.logits * max(1.0, self.largest_logit):.3g} is allowed), labels agree on "
            f"{percent(self.label_agreement)} of pixels ({percent(allowed.labels)} are required)"
        )
        if self.miou is None or self.miou_before is None:
            return f"{text}."
        return f"{text}, mIoU {percent(self.miou)}, before {percent(self.miou_before)}."

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json and the report beside the file."""
        sizes, batches = [list(size) for size in self.sizes], list(self.batches)
        return {"holds": self.holds, **asdict(self), "sizes": sizes, "batches": batches}


def compare(
    original: LogitsFunction,
    other: LogitsFunction,
    *,
    labels: LabelsOf | None = None,
    trial: Trial | None = None,
) -> Parity:
    """Run both on the same images, with every size and batch size.

    labels: of the other, if it computes them without its logits.
    """
    trial = trial or Trial()
    difference = largest = 0.0
    same = pixels = 0
    sizes, batches = [], []
    confusions = [] if trial.classes is None else [Confusion(len(trial.classes)) for _ in range(2)]
    for images, truth in trial.batches():
        expected, found = original(images), other(images)
        sizes.append((images.shape[1], images.shape[2]))
        batches.append(len(images))
        if found.shape != expected.shape or not np.isfinite(found).all():
            difference = float("inf")
            break
        difference = max(difference, float(np.abs(expected - found).max()))
        largest = max(largest, float(np.abs(expected).max()))
        wanted = expected.argmax(axis=1).astype(np.uint8)
        predicted = found.argmax(axis=1).astype(np.uint8) if labels is None else labels(images)
        same += int((wanted == predicted).sum())
        pixels += wanted.size
        if truth is not None and confusions:
            for confusion, one in zip(confusions, (wanted, predicted), strict=True):
                confusion.add(truth[0], one[0])
    before = miou = None
    if trial.classes is not None and trial.labels:
        count = len(trial.labels)
        before, miou = (Report.of(one.matrix, trial.classes, count).miou for one in confusions)
    return Parity(
        difference,
        largest,
        same / pixels if pixels else 0.0,
        tuple(dict.fromkeys(sizes)),
        tuple(dict.fromkeys(batches)),
        pixels,
        len(trial.images),
        before,
        miou,
        trial.tolerance,
    )


def sample_images(shape: tuple[int, int, int], *, seed: int, bands: Bands | None = None) -> Images:
    """Synthetic images with large shapes, edges and noise, uint8 (N, H, W, 3).

    bands: use their ranges and dtype instead, (N, H, W, carried).
    """
    if bands is not None:
        return np.concatenate(
            [_sample_band(shape, seed, bands, at) for at in range(bands.carried)], axis=3
        )
    count, height, width = shape
    random = torch.Generator().manual_seed(seed)
    image = torch.zeros(count, 3, height, width)
    for side in (2, 5, 13, 40):  # octaves: coarser noise is stronger
        noise = torch.randn(count, 3, side, side, generator=random) * (30 + 60 / side)
        mode = "nearest" if side == 5 else "bilinear"  # hard edges in one octave
        image += F.interpolate(noise, (height, width), mode=mode)
    grain = torch.randn(count, 3, height, width, generator=random) * 8
    pixels = (128 + image + grain).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def example_images(
    size: tuple[int, int] | None, bands: Bands | None, layout: str = "NHWC"
) -> Tensor:
    """Example images for tracing: no size is divisible by a stride or 1; with `size`, one image."""
    shape = (2, 97, 131) if size is None else (1, *size)
    images = torch.from_numpy(sample_images(shape, seed=0, bands=bands))
    return images.permute(0, 3, 1, 2).contiguous() if layout == "NCHW" else images


def _sample_band(shape: tuple[int, int, int], seed: int, bands: Bands, at: int) -> Images:
    """(N, H, W, 1): one band of synthetic images, over its full range."""
    grey = sample_images(shape, seed=seed + 1000 * (at + 1))[..., :1].astype(np.float64) / 255
    values = bands.low[at] + grey * (bands.high[at] - bands.low[at])
    if bands.dtype != "float32":
        values = np.round(values)
    return np.asarray(values.astype(bands.dtype))
