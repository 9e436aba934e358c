"""Validation images beyond scores: drawings, TensorBoard's log, calibration, logit adjustment.

During training the same few images are drawn, at the end the worst. After training, a temperature
and an offset for each class are fitted to them.

Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017): logits are
divided by the number that maximises the likelihood of the labels. It changes no label, only
confidence.

Offsets (logit adjustment; Menon et al., ICLR 2021): a number added to each class's logit. In the
paper they follow from class frequencies; here they maximise the mean IoU, which weights classes
equally, while the loss weights pixels equally.

Both are folded into the weights of the score layers, so that they work in every engine and
exported file at no cost.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.classes import IGNORE
from fcnseg.datasets.loader import LabelledImages, Sample
from fcnseg.errors import MissingExtra, percent, printable
from fcnseg.inference.prediction import PredictLabels
from fcnseg.io.draw import caption, overlay, side_by_side
from fcnseg.io.images import write_image
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Callback, EpochEnd, Event, Message
from fcnseg.training.initial_weights import class_axes

SHOWN = 4
"""Validation images that are drawn repeatedly."""

WORST, ALPHA = 6, 0.6


def draw_same(
    predict: PredictLabels, dataset: LabelledImages, folder: Path, *, epoch: int
) -> list[Path]:
    """Draw image, labels and prediction of a few images spread over the dataset, a file each."""
    written = []
    for index in range(0, len(dataset), max(1, len(dataset) // SHOWN))[:SHOWN]:
        sample = dataset[index]
        path = folder / f"{_flat(sample.name)}_epoch{epoch:03}.png"
        write_image(path, _beside(sample, predict([sample.image])[0], dataset, f"epoch {epoch}"))
        written.append(path)
    return written


def load_best(path: Path, callback: Callback) -> Checkpoint:
    """The best checkpoint of a training; a warning names classes that it finds in no image."""
    best = Checkpoint.load(path)
    classes = best.report.get("classes", ())
    if lost := [printable(one["name"]) for one in classes if one["iou"] == 0]:
        text = "more --epochs may help, if the labels are right: see fcnseg check"
        callback(Message(f"Not found in any image scored: {', '.join(lost)}; {text}", "warning"))
    return best


def draw_worst(predict: PredictLabels, dataset: LabelledImages, folder: Path) -> list[Path]:
    """Draw the images with the lowest pixel accuracy, the worst first."""
    samples = (dataset[index] for index in range(len(dataset)))
    accuracies = [_pixel_accuracy(one, predict([one.image])[0]) for one in samples]
    written = []
    for rank, index in enumerate(np.argsort(accuracies, kind="stable")[:WORST], start=1):
        sample = dataset[int(index)]
        text = f"{percent(accuracies[index], 1)} right: {sample.name}"
        path = folder / f"worst{rank}_{_flat(sample.name)}.png"
        write_image(path, _beside(sample, predict([sample.image])[0], dataset, text))
        written.append(path)
    return written


def _pixel_accuracy(sample: Sample, predicted: NDArray[np.uint8]) -> float:
    """Pixel accuracy of one image; 1 if nothing is labelled."""
    labelled = sample.labels != IGNORE
    return float((predicted == sample.labels)[labelled].mean()) if labelled.any() else 1.0


def _beside(
    sample: Sample, predicted: NDArray[np.uint8], dataset: LabelledImages, text: str
) -> NDArray[np.uint8]:
    """Image, labels, prediction and wrong pixels side by side, with captions."""
    image = dataset.to_rgb(sample.image)
    wrong = np.where((sample.labels != IGNORE) & (predicted != sample.labels), 255, 0)
    panels: Sequence[tuple[NDArray[np.uint8], str]] = (
        (image, text),
        (overlay(image, sample.labels, dataset.classes, alpha=ALPHA), "labels"),
        (overlay(image, predicted, dataset.classes, alpha=ALPHA), "prediction"),
        (np.repeat(wrong[..., None], 3, axis=2).astype(np.uint8), "wrong pixels"),
    )
    return side_by_side([caption(panel, title) for panel, title in panels])


def _flat(name: str) -> str:
    """A sample's name without path separators, for a file name."""
    return name.replace("/", "_").replace("\\", "_")


def with_tensorboard(callback: Callback, folder: Path, *, epochs_done: int = 0) -> Callback:
    """A callback that also writes each epoch's row and class IoUs as scalars into a folder.

    epochs_done: epochs logged already; those that a killed run logged after them are purged.
    MissingExtra without the extra "log".
    """
    try:
        tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise MissingExtra("--tensorboard", "log") from None
    writer = tensorboard.SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def log(event: Event) -> None:
        if isinstance(event, EpochEnd):
            for name, value in event.values.items():
                if name != "epoch":
                    writer.add_scalar(name, value, event.epoch)
            for name, iou in event.class_iou.items():
                if iou is not None:
                    writer.add_scalar(f"iou/{printable(name)}", iou, event.epoch)
            writer.flush()
        callback(event)

    return log


IMAGES, PIXELS = 64, 4000
"""Number of images in the sample, and of pixels of each."""

LIMIT = 10.0
"""Temperatures are between 1 / LIMIT and LIMIT."""

STEPS = torch.arange(-8, 9, dtype=torch.float64) / 5
"""Candidate changes of a class's offset: -1.6 to 1.6."""

SWEEPS = 3
"""Maximum number of passes over the classes."""

SHRINKAGE = 0.75
"""Factor of the best offsets: keeps nearly all of the gain and overfits the sample less."""

Logits = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""An image uint8 (H, W, 3) -> float32 (K, H, W)."""


@dataclass(frozen=True)
class LabelledLogits:
    """A sample of pixels, evenly spaced in evenly spaced images of a dataset.

    logits: float64 (P, K). labels: int64 (P,). images: int64 (P,), the index of each pixel's image.
    """

    logits: Tensor
    labels: Tensor
    images: Tensor

    @classmethod
    def of(cls, logits_of: Logits, dataset: LabelledImages) -> LabelledLogits:
        """Sample about PIXELS labelled pixels of each of about IMAGES images."""
        logits = [torch.empty(0, len(dataset.classes))]
        labels = [torch.empty(0, dtype=torch.long)]
        images = [torch.empty(0, dtype=torch.long)]
        for index in range(0, len(dataset), max(1, len(dataset) // IMAGES)):
            sample = dataset[index]
            counted = np.flatnonzero(sample.labels.ravel() != IGNORE)
            chosen = counted[:: max(1, len(counted) // PIXELS)]
            scores = logits_of(sample.image).reshape(len(dataset.classes), -1)[:, chosen]
            logits.append(torch.from_numpy(scores.T.copy()))
            labels.append(torch.from_numpy(sample.labels.ravel()[chosen].astype(np.int64)))
            images.append(torch.full((len(chosen),), index))
        return cls(torch.cat(logits).double(), torch.cat(labels), torch.cat(images))

    def __add__(self, offsets: Tensor) -> LabelledLogits:
        """A copy with offsets (K,) added to the logits."""
        return replace(self, logits=self.logits + offsets)

    def part(self, chosen: Tensor) -> LabelledLogits:
        """The pixels selected by a boolean (P,)."""
        return LabelledLogits(self.logits[chosen], self.labels[chosen], self.images[chosen])

    def miou(self) -> float:
        """Mean IoU over the classes that are labelled, as in metrics.Report."""
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.logits.argmax(1)
        return _miou(torch.bincount(pairs, minlength=classes**2).view(classes, classes))


def best_temperature(sample: LabelledLogits) -> float:
    """The temperature that maximises the likelihood of the labels; 1.0 without pixels."""
    if not len(sample.labels):
        return 1.0

    def nll(log_scale: float) -> float:
        return float(F.cross_entropy(sample.logits * math.exp(log_scale), sample.labels))

    # Convex in the scale, so a golden section finds the minimum.
    return math.exp(-_golden_section(nll, -math.log(LIMIT), math.log(LIMIT)))


def _golden_section(
    function: Callable[[float], float], low: float, high: float, *, width: float = 1e-4
) -> float:
    """Return where a unimodal function has its minimum."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > width:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def with_temperature(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    """Divide a checkpoint's logits by a temperature, which is recorded in `extra`."""
    # Scores are linear in these tensors, and what follows them is linear in the scores.
    scores = [name for name in class_axes(checkpoint.spec) if ".upsamples." not in name]
    weights = dict(checkpoint.weights)
    for name in scores:
        weights[name] = weights[name] / temperature
    before = float(checkpoint.extra.get("temperature", 1.0))
    extra = {**checkpoint.extra, "temperature": before * temperature}
    return replace(checkpoint, weights=weights, extra=extra)


@dataclass(frozen=True)
class Offsets:
    """values: float64 (K,), to add to the logits. gains: of mean IoU, on each half of the images
    with the offsets fitted to the other half (2-fold cross-validation)."""

    values: Tensor
    gains: tuple[float, float]


def best_offsets(sample: LabelledLogits) -> Offsets | None:
    """The offsets that maximise the mean IoU; None unless both halves of the images gain.

    The halves are the first and the last images, because neighbours may be similar.
    """
    if len(sample.labels) == 0:
        return None
    first = sample.images < float(np.median(np.unique(sample.images)))
    halves = [sample.part(first), sample.part(~first)]
    if any(len(half.labels) == 0 for half in halves):
        return None
    gains = [
        (other + SHRINKAGE * _seek(half)).miou() - other.miou()
        for half, other in (halves, reversed(halves))
    ]
    if min(gains) <= 0:
        return None
    return Offsets(SHRINKAGE * _seek(sample), (gains[0], gains[1]))


def _seek(sample: LabelledLogits) -> Tensor:
    """Coordinate ascent: shift one class after the other to the highest mean IoU."""
    classes = sample.logits.shape[1]
    offsets = torch.zeros(classes, dtype=torch.float64)
    for _ in range(SWEEPS):
        before = offsets.clone()
        for index in range(classes):
            offsets[index] += _best_step(sample.logits + offsets, sample.labels, index)
        if bool((offsets == before).all()):
            break
    return offsets - offsets.mean()


def _best_step(logits: Tensor, labels: Tensor, index: int) -> float:
    """The one of STEPS for a class's logit that gives the highest mean IoU."""
    classes = logits.shape[1]
    own = logits[:, index].clone()
    logits[:, index] = -math.inf
    highest, second = logits.max(1)
    margin = highest - own  # the class is predicted if its step is larger than this
    lines = labels * classes
    scores = []
    for step in STEPS:
        predicted = torch.where(margin < step, index, second)
        counts = torch.bincount(lines + predicted, minlength=classes**2)
        scores.append(_miou(counts.view(classes, classes)))
    none = len(STEPS) // 2
    best = max(range(len(STEPS)), key=lambda step: (scores[step], -abs(step - none)))
    return float(STEPS[best])


def _miou(counts: Tensor) -> float:
    """Counts of (labelled, predicted) (K, K) -> mean IoU of the classes that are labelled."""
    hits, labelled = counts.diagonal(), counts.sum(1)
    union = counts.sum(0) + labelled - hits
    return float((hits / union)[labelled > 0].mean())


def with_offsets(checkpoint: Checkpoint, offsets: Sequence[float]) -> Checkpoint | None:
    """Add offsets to a checkpoint's logits; they are recorded in `extra`.

    offsets: K numbers. None if no bias can add them, as with learned upsampling, which does not
    preserve constants.
    """
    layers = ("decoder.entry.", "decoder.rungs.", "decoder.head.")
    names = [name for name in class_axes(checkpoint.spec) if name.startswith(layers)]
    biases = [name for name in names if name.endswith(".bias")]
    if not biases or checkpoint.spec.upsample == "learned":
        return None
    name = biases[-1]  # of the head, or of the finest skip
    bias = checkpoint.weights[name]
    shifted = (bias.double() + torch.tensor(offsets, dtype=torch.float64)).to(bias.dtype)
    extra = {**checkpoint.extra, "class_offsets": [round(float(value), 4) for value in offsets]}
    return replace(checkpoint, weights={**checkpoint.weights, name: shifted}, extra=extra)


def calibrate(
    checkpoint: Checkpoint, sample: LabelledLogits, callback: Callback, *, adjust: bool, scale: bool
) -> Checkpoint:
    """Fold offsets (adjust) and a temperature (scale) into a checkpoint; report both.

    sample: of the checkpoint's own logits.
    """
    if adjust:
        offsets = best_offsets(sample)
        shifted = with_offsets(checkpoint, offsets.values.tolist()) if offsets else None
        if offsets is None or shifted is None:
            why = "a learned upsampling" if offsets else "the validation images would not gain"
            callback(Message(f"Class logits not adjusted: {why}"))
        else:
            gains = " and ".join(f"{100 * gain:+.1f}" for gain in offsets.gains)
            text = f"{gains} points of mIoU on the two halves of the validation images"
            callback(Message(f"Class logits adjusted: {text}, each by offsets of the other"))
            checkpoint, sample = shifted, sample + offsets.values
    if scale:
        temperature = best_temperature(sample)
        checkpoint = with_temperature(checkpoint, temperature)
        text = f"Probabilities calibrated on the validation images: temperature {temperature:.2f}"
        callback(Message(text))
    return checkpoint
