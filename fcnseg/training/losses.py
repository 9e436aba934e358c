"""Loss functions, by name and in combination.

    ce                  cross entropy
    ohem                cross entropy of each image's hardest pixels only
    focal               cross entropy with easy pixels down-weighted
    dice, lovasz        overlap, per image, of the classes that occur in it
    ce+0.5*dice         a weighted sum
    ce+lovasz@0.5       a term that is added after this fraction of the training

Every term is a sum over pixels or images, divided by a number that depends on the labels only.
Therefore gradient accumulation and distributed training give exactly the gradient of the full
batch.
Sources: OHEM after Shrivastava et al. (CVPR 2016) with the threshold of Yu et al. (BiSeNet);
focal: Lin et al. (ICCV 2017); Lovász-softmax: Berman et al. (CVPR 2018), algorithm 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
"""OHEM: at least this fraction of an image's labelled pixels is kept."""

DIVERGED = 10.0
"""A training has diverged if its loss is this many times that of equal probabilities."""

WEIGHTED = frozenset({"ce", "ohem", "focal"})
"""Losses that use class weights."""


@dataclass(frozen=True)
class Term:
    """One term of a loss: its name, its factor, and the fraction of training at which it starts."""

    name: str
    factor: float = 1.0
    start: float = 0.0


def parse_loss(text: str) -> tuple[Term, ...]:
    """Parse a loss, e.g. "ce+0.5*lovasz@0.6"; OptionError for invalid syntax or unknown names."""
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
            hint="combine them like ce+0.5*dice, or ce+lovasz@0.5 to add a term at half time",
        )
    term = Term(found[2], float(found[1] or 1), float(found[3] or 0))
    if term.factor <= 0 or term.start >= 1:
        raise OptionError(f"Loss {text!r}: factors are above 0, starts below 1.")
    return term


class Criterion:
    """A sum of losses over labelled pixels.

    terms: of the sum.
    class_weights: float32 (K,), the weight of a pixel of each class (ce, ohem, focal).
    smoothing: the label-smoothing factor (ce).
    """

    def __init__(
        self, terms: Sequence[Term], class_weights: Tensor, *, smoothing: float = 0.0
    ) -> None:
        self.terms = tuple(terms)
        self.class_weights = class_weights
        self.smoothing = smoothing

    def divergence(self, losses: Sequence[float]) -> str:
        """A warning if the last of the epochs' losses is the first of a training that diverged."""
        factors = sum(term.factor for term in self.terms)
        guess = factors * max(1.0, math.log(len(self.class_weights)))
        if max(losses[:-1], default=0.0) > DIVERGED * guess or losses[-1] <= DIVERGED * guess:
            return ""
        return (
            f"The loss is {losses[-1]:.3g}, where equal probabilities for all classes give about "
            f"{guess:.2g}: the training has diverged. Start a new run with --lr below"
        )

    def normalizers(self, labels: Tensor) -> Tensor:
        """The divisors of a batch's sums, (2,): [weighted pixels, images].

        labels: int64 (N, H, W), 255 = ignore. Those of parts of a batch can be added up. float64,
        or float32 on MPS, which has no float64.
        """
        kind = torch.float32 if labels.device.type == "mps" else torch.float64
        counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1).to(kind)
        pixels = counts[: len(self.class_weights)] @ self.class_weights.to(kind)
        images = (labels != IGNORE).flatten(1).any(1).sum().to(kind)
        return torch.stack([pixels, images])

    def __call__(
        self, logits: Tensor, labels: Tensor, normalizers: Tensor, *, done: float = 0.0
    ) -> Tensor:
        """The contribution of these images to a batch's loss, a scalar.

        logits: (N, K, H, W), any precision; labels: int64 (N, H, W).
        normalizers: of the full batch; done: the completed fraction of the training.
        """
        log_probabilities = logits.float().log_softmax(1)  # (N, K, H, W), shared by all terms
        divisors = normalizers.clamp_min(1e-12).to(log_probabilities.dtype)
        loss = _zero(log_probabilities)
        for term in self.terms:
            if done >= term.start:
                total, divisor = LOSSES[term.name]
                weighted = term.factor * total(self, log_probabilities, labels)
                loss = loss + weighted / divisors[divisor]
        return loss


def _cross_entropy(criterion: Criterion, log_probabilities: Tensor, labels: Tensor) -> Tensor:
    pixels, classes = _flatten_on_gpu(log_probabilities, labels)
    how: Any = {"weight": criterion.class_weights, "ignore_index": IGNORE, "reduction": "sum"}
    if criterion.smoothing:  # log_softmax does not change log probabilities
        return F.cross_entropy(pixels, classes, **how, label_smoothing=criterion.smoothing)
    return F.nll_loss(pixels, classes, **how)  # twice as fast: log_softmax is done already


def _flatten_on_gpu(log_probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten maps to (pixels, K) on a GPU, where torch's 2-d loss is not deterministic.

    On a CPU both are, and the flat form takes ten times as long.
    """
    if not log_probabilities.is_cuda:
        return log_probabilities, labels
    return log_probabilities.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()


def _focal(criterion: Criterion, log_probabilities: Tensor, labels: Tensor) -> Tensor:
    nll = F.nll_loss(log_probabilities, labels, ignore_index=IGNORE, reduction="none")
    weights = _pixel_weights(criterion.class_weights, labels)
    return ((1 - (-nll).exp()) ** FOCUS * nll * weights).sum()


def _hardest(criterion: Criterion, log_probabilities: Tensor, labels: Tensor) -> Tensor:
    nll = F.nll_loss(log_probabilities, labels, ignore_index=IGNORE, reduction="none")
    weights = _pixel_weights(criterion.class_weights, labels)
    total = _zero(log_probabilities)
    for one, counts in zip(nll.flatten(1), weights.flatten(1), strict=True):
        labelled = counts > 0
        if labelled.any():
            losses = one.detach()[labelled]
            least = max(1, round(len(losses) * KEEP))
            limit = losses.topk(least).values[-1].clamp_max(-math.log(HARD))
            kept = counts * (one.detach() >= limit)
            total = total + (kept * one).sum() / kept.sum()
    return total


def _dice(_criterion: Criterion, log_probabilities: Tensor, labels: Tensor) -> Tensor:
    areas: tuple[Tensor, ...] = _Areas.apply(log_probabilities, labels)  # type: ignore[no-untyped-call]
    area, overlap, found = areas
    occurs = area > 0
    covered = 2 * overlap / (area + found).where(occurs, 1.0)
    missed = ((1 - covered) * occurs).sum(1) / occurs.sum(1).clamp_min(1)
    return missed.sum()


class _Areas(torch.autograd.Function):
    """Per image and class: labelled area, intersection, and predicted area.

    Log probabilities (N, K, H, W), labels (N, H, W) -> three times float32 (N, K). A custom
    autograd function, because torch's would save five maps of all classes and read each twice.
    """

    @staticmethod
    def forward(
        ctx: Any, log_probabilities: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = log_probabilities.flatten(2).exp()  # (N, K, P)
        one = labels.flatten(1)  # (N, P)
        labelled = (one != IGNORE).to(probabilities.dtype)
        true = one.where(one != IGNORE, 0)
        hits = probabilities.gather(1, true[:, None])[:, 0] * labelled  # (N, P)
        ctx.save_for_backward(probabilities, labelled, true, hits)
        ctx.shape = log_probabilities.shape
        count = probabilities.shape[1]
        area = _by_class(labelled, true, count)
        overlap = _by_class(hits, true, count)
        found = torch.bmm(probabilities, labelled[:, :, None])[:, :, 0]
        ctx.mark_non_differentiable(area)
        return area, overlap, found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        _, of_overlap, of_found = gradients
        probabilities, labelled, true, hits = ctx.saved_tensors
        gradient = (probabilities * labelled[:, None]).mul_(of_found[:, :, None])
        of_hits = hits * of_overlap.gather(1, true)
        gradient.scatter_add_(1, true[:, None], of_hits[:, None])  # no duplicate indices
        return gradient.view(ctx.shape), None


def _by_class(values: Tensor, true: Tensor, count: int) -> Tensor:
    """Sums (N, K) of values (N, P) over the pixels of each class; true: (N, P), their classes."""
    if values.device.type != "cpu":  # bincount with weights is not deterministic on a GPU
        return torch.stack([values.where(true == k, 0.0).sum(1) for k in range(count)], 1)
    images = torch.arange(len(values), device=values.device)[:, None]
    cells = (images * count + true).flatten()
    sums = torch.bincount(cells, values.flatten().double(), minlength=len(values) * count)
    return sums.view(-1, count).to(values.dtype)


def _lovasz(_criterion: Criterion, log_probabilities: Tensor, labels: Tensor) -> Tensor:
    total = _zero(log_probabilities)
    images = zip(log_probabilities.exp().flatten(2), labels.flatten(1), strict=True)
    for probabilities, one in images:
        labelled = one != IGNORE
        if labelled.any():
            found, true = probabilities[:, labelled], one[labelled]
            losses = [_lovasz_of_class(found[k], true == k) for k in true.unique().tolist()]
            total = total + torch.stack(losses).mean()
    return total


def _lovasz_of_class(found: Tensor, true: Tensor) -> Tensor:
    """The Lovász extension of 1 - IoU of one class.

    found: (P,), the class's probability; true: bool (P,).
    """
    errors, order = (true.to(found.dtype) - found).abs().sort(descending=True)
    hits = true[order].to(found.dtype)
    remaining = hits.sum() - hits.cumsum(0)
    union = hits.sum() + (1 - hits).cumsum(0)
    jaccard = 1 - remaining / union  # the loss when the first i pixels are wrong
    return errors @ jaccard.diff(prepend=jaccard.new_zeros(1))


def _zero(logits: Tensor) -> Tensor:
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
"""The losses by name: the sum, and the index of its normalizer."""


def class_weights(pixels: Sequence[int], how: str) -> Tensor:
    """Class weights float32 (K,), with mean 1 over the pixels.

    pixels: labelled pixels of each class; how: none, sqrt or inverse (of the frequency).
    Classes that never occur have weight 1; no weight is more than 50 times another.
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
