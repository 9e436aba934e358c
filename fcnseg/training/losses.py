"""What training makes small: cross entropy and its relatives, by name and in combination.

    ce                  cross entropy
    ohem                cross entropy of each image's hardest pixels only
    focal               cross entropy, easy pixels turned down
    dice, lovasz        overlap, image by image, of the classes that occur in it
    ce+0.5*dice         a weighted sum
    ce+lovasz@0.5       a term that joins after this share of the training

Every term is a sum over something countable (pixels or images) divided by a number that
is known from the labels alone. That is what lets a batch be computed in parts, or on
several machines, with exactly the gradient of the whole.
Sources: OHEM after Shrivastava et al. (CVPR 2016) with the threshold of Yu et al. (BiSeNet);
focal: Lin et al. (ICCV 2017); Lovász-softmax: Berman et al. (CVPR 2018), algorithm 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fcnseg.classes import IGNORE
from fcnseg.errors import OptionError

FOCUS = 2.0
"""Focal loss: the exponent of (1 - p)."""

HARD = 0.7
"""OHEM: pixels whose class has less probability than this are hard."""

KEEP = 1 / 16
"""OHEM: at least this share of an image's labelled pixels is kept."""


@dataclass(frozen=True)
class Term:
    """One loss of a sum: its name, its factor, and the share of training it starts at."""

    name: str
    factor: float = 1.0
    start: float = 0.0


def parse_loss(text: str) -> tuple[Term, ...]:
    """The terms of e.g. "ce+0.5*lovasz@0.6"; OptionError says what is not understood."""
    terms = tuple(_parse_term(part.strip(), text) for part in text.split("+"))
    if all(term.start > 0 for term in terms):
        raise OptionError(
            f"Loss {text!r} has no term at the start.", hint="write e.g. ce+lovasz@0.5"
        )
    return terms


def _parse_term(part: str, text: str) -> Term:
    found = re.fullmatch(r"(?:(\d*\.?\d+)\*)?([a-z]+)(?:@(\d*\.?\d+))?", part)
    if found is None or found[2] not in LOSSES:
        raise OptionError(
            f"Loss {text!r} is not understood at {part!r}; known: {', '.join(LOSSES)}.",
            hint="combine them like ce+0.5*dice, or ce+lovasz@0.5 to let one join at half time",
        )
    term = Term(found[2], float(found[1] or 1), float(found[3] or 0))
    if term.factor <= 0 or term.start >= 1:
        raise OptionError(f"Loss {text!r}: factors are above 0, starts below 1.")
    return term


class Criterion:
    """A sum of losses over labelled pixels.

    terms: what is summed.
    class_weights: float32 (K,), how much a pixel of each class counts (ce, ohem, focal).
    smoothing: the share of the wanted probability spread over all classes (ce).
    """

    def __init__(
        self, terms: Sequence[Term], class_weights: Tensor, *, smoothing: float = 0.0
    ) -> None:
        self.terms = tuple(terms)
        self.class_weights = class_weights
        self.smoothing = smoothing

    def shares(self, labels: Tensor) -> Tensor:
        """(2,): what the batch's sums are divided by, [weighted pixels, images].

        labels: int64 (N, H, W), 255 = ignore. Shares of parts of a batch add up; they are
        float64, or float32 on MPS, which knows no other.
        """
        kind = torch.float32 if labels.device.type == "mps" else torch.float64
        counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1).to(kind)
        pixels = counts[: len(self.class_weights)] @ self.class_weights.to(kind)
        images = (labels != IGNORE).flatten(1).any(1).sum().to(kind)
        return torch.stack([pixels, images])

    def __call__(
        self, logits: Tensor, labels: Tensor, shares: Tensor, *, done: float = 0.0
    ) -> Tensor:
        """The part of a batch's loss that belongs to these images, a scalar.

        logits: (N, K, H, W), any precision; labels: int64 (N, H, W).
        shares: of the whole batch; done: the share of the training behind us.
        """
        logits = logits.float()
        divisors = shares.clamp_min(1e-12).to(logits.dtype)
        loss = _nothing(logits)
        for term in self.terms:
            if done >= term.start:
                total, divisor = LOSSES[term.name]
                loss = loss + term.factor * total(self, logits, labels) / divisors[divisor]
        return loss


def _cross_entropy(criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    if logits.is_cuda:
        # As a list of pixels, which is deterministic on a GPU; torch's loss over maps is not. On a
        # processor both are, and the list costs ten times as much.
        logits, labels = logits.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()
    return F.cross_entropy(
        logits,
        labels,
        criterion.class_weights,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=criterion.smoothing,
    )


def _focal(criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    surprise = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    weights = _pixel_weights(criterion.class_weights, labels)
    return ((1 - (-surprise).exp()) ** FOCUS * surprise * weights).sum()


def _hardest(criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    surprise = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    weights = _pixel_weights(criterion.class_weights, labels)
    total = _nothing(logits)
    for one, counts in zip(surprise.flatten(1), weights.flatten(1), strict=True):
        labelled = counts > 0
        if labelled.any():
            limit = _hard_limit(one.detach()[labelled])
            kept = counts * (one.detach() >= limit)
            total = total + (kept * one).sum() / kept.sum()
    return total


def _hard_limit(surprise: Tensor) -> Tensor:
    """The loss above which a pixel is kept, given the losses of an image's labelled pixels."""
    least = max(1, round(len(surprise) * KEEP))
    enough = surprise.topk(least, sorted=True).values[-1]
    return enough.clamp_max(-math.log(HARD))


def _dice(_criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    shares, one = logits.softmax(1).flatten(2), labels.flatten(1)[:, None]  # (N, K, P), (N, 1, P)
    true = one == torch.arange(logits.shape[1], device=one.device)[:, None]
    area = true.sum(2)  # (N, K)
    occurs = area > 0
    extent = area + (shares * (one != IGNORE)).sum(2)
    overlap = 2 * (shares * true).sum(2) / extent.where(occurs, 1.0)
    missed = ((1 - overlap) * occurs).sum(1) / occurs.sum(1).clamp_min(1)
    return missed.sum()


def _lovasz(_criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    total = _nothing(logits)
    for shares, one in zip(logits.softmax(1).flatten(2), labels.flatten(1), strict=True):
        labelled = one != IGNORE
        if labelled.any():
            found, true = shares[:, labelled], one[labelled]
            losses = [_lovasz_of_class(found[k], true == k) for k in true.unique().tolist()]
            total = total + torch.stack(losses).mean()
    return total


def _lovasz_of_class(found: Tensor, true: Tensor) -> Tensor:
    """The Lovász extension of 1 - IoU of one class, at its pixels' errors.

    found: (P,), the class's probability; true: bool (P,).
    """
    errors, order = (true.to(found.dtype) - found).abs().sort(descending=True)
    hits = true[order].to(found.dtype)
    remaining = hits.sum() - hits.cumsum(0)
    union = hits.sum() + (1 - hits).cumsum(0)
    jaccard = 1 - remaining / union  # the loss when the first i pixels are wrong
    return errors @ jaccard.diff(prepend=jaccard.new_zeros(1))


def _nothing(logits: Tensor) -> Tensor:
    """Zero, with a gradient of zero."""
    return logits.flatten()[:0].sum()


def _pixel_weights(class_weights: Tensor, labels: Tensor) -> Tensor:
    """float32 (N, H, W): the weight of each pixel's class; 0 for 255."""
    table = class_weights.new_zeros(IGNORE + 1)
    table[: len(class_weights)] = class_weights
    return table[labels]


_Total = Callable[[Criterion, Tensor, Tensor], Tensor]
_PIXELS, _IMAGES = 0, 1

LOSSES: dict[str, tuple[_Total, int]] = {
    "ce": (_cross_entropy, _PIXELS),
    "ohem": (_hardest, _IMAGES),
    "focal": (_focal, _PIXELS),
    "dice": (_dice, _IMAGES),
    "lovasz": (_lovasz, _IMAGES),
}
"""The losses by name: the sum, and which share divides it."""


def class_weights(pixels: Sequence[int], how: str) -> Tensor:
    """float32 (K,): how much a pixel of each class counts, 1 on average over the pixels.

    pixels: labelled pixels of each class; how: none, sqrt or inverse (of the frequency).
    Classes that never occur weigh 1; no class weighs more than 50 times another.
    """
    counts = torch.tensor(pixels, dtype=torch.float64)
    power = {"none": 0.0, "sqrt": 0.5, "inverse": 1.0}[how]
    here = counts > 0
    weights = torch.ones_like(counts)
    if here.any():
        raw = (counts[here].sum() / counts[here]) ** power
        raw = raw.clamp_max(50 * raw.min())
        weights[here] = raw * counts[here].sum() / (raw @ counts[here])
    return weights.float()
