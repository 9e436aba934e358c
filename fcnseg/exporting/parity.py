"""Parity of two implementations of one network, on a user's images or synthetic ones."""

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
"""Of the report that lies beside an exported file."""

SIZES = ((33, 47), (64, 96), (97, 131), (240, 320))
"""Heights and widths at which outputs are compared: odd, even, multiples of the stride, not."""

SCALES = (1.0, 0.75, 0.5)
"""Sizes at which a user's images are compared, of their own."""

MOST_PIXELS = 1_500_000
"""Larger images are compared at a smaller size: logits of every class are held twice."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ.

    labels: the least proportion of equal labels. logits: the largest difference, of the largest
    logit. miou: the most that may be lost.
    """

    labels: float = 0.999
    logits: float = 1e-3
    miou: float = 0.001


TOLERANCES = {"f32": Tolerance(), "f16": Tolerance(0.995, 0.05, 0.005)}
"""By the precision of a file; int8 has its own measure (inference.quantized)."""

RESIZED = 0.02
"""What logits may differ by, of the largest, where a file resizes: of a million pixels it rounds a
few to the other side of a half, and each moves the logits around it."""


def tolerance_of(precision: str, *, resizes: bool) -> Tolerance:
    """What may differ in a file of this precision."""
    tolerance = TOLERANCES[precision]
    return replace(tolerance, logits=max(tolerance.logits, RESIZED)) if resizes else tolerance


@dataclass(frozen=True, kw_only=True)
class Trial:
    """On what two implementations are compared.

    images: uint8 (H, W, C), a user's; none: synthetic ones of `sizes`. labels: theirs, uint8
    (H, W), or none. classes: what those mean. size: the only (height, width) that is possible.
    """

    images: Sequence[Images] = ()
    labels: Sequence[Labels] = ()
    classes: ClassMap | None = None
    sizes: Sequence[tuple[int, int]] = SIZES
    size: tuple[int, int] | None = None
    bands: Bands | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)

    def batches(self) -> Iterator[tuple[Images, Labels | None]]:
        """Images uint8 (N, H, W, C) of one size and, where they are known, labels (N, H, W)."""
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
        fits = min(1.0, (MOST_PIXELS / (height * width)) ** 0.5)
        scaled = [
            (max(1, round(height * fits * scale)), max(1, round(width * fits * scale)))
            for scale in SCALES
        ]
        return list(dict.fromkeys(scaled))


@dataclass(frozen=True)
class Parity:
    """The differences between two implementations of one network.

    max_abs_diff: largest difference of a logit; largest_logit: what it compares with.
    label_agreement: proportion of pixels with the same label, 0..1.
    sizes: (height, width) of the images; batches: how many went in together.
    pixels: how many were compared. images: of the user's, 0 for synthetic ones.
    miou_before, miou: of the original and of the other, where labels are known.
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
        """Whether one may stand in for the other."""
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
        """The differences and what is allowed, in a sentence."""
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
    """Run both on the same images: every size with every batch.

    labels: the other's, where it has a way to them that does not lead over its logits.
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
    """Synthetic images with large shapes, edges and fine grain. uint8 (N, H, W, 3).

    bands: in their range and type instead, (N, H, W, carried).
    """
    if bands is not None:
        return np.concatenate(
            [_sample_band(shape, seed, bands, at) for at in range(bands.carried)], axis=3
        )
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


def example(size: tuple[int, int] | None, bands: Bands | None, layout: str = "NHWC") -> Tensor:
    """Images that a graph is traced with: no size divides by a stride, none is 1; or one image."""
    shape = (2, 97, 131) if size is None else (1, *size)
    images = torch.from_numpy(sample_images(shape, seed=0, bands=bands))
    return images.permute(0, 3, 1, 2).contiguous() if layout == "NCHW" else images


def _sample_band(shape: tuple[int, int, int], seed: int, bands: Bands, at: int) -> Images:
    """(N, H, W, 1): one band of synthetic images, from its black to its white."""
    grey = sample_images(shape, seed=seed + 1000 * (at + 1))[..., :1].astype(np.float64) / 255
    values = bands.low[at] + grey * (bands.high[at] - bands.low[at])
    if bands.dtype != "float32":
        values = np.round(values)
    return np.asarray(values.astype(bands.dtype))
