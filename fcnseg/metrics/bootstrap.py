"""Whether one model is better than another on the same images: a paired bootstrap of the mIoU.

Images are drawn with replacement, the same for both models; their confusion matrices are summed,
and the mIoU computed from the sum. The interval is that of Hesterberg (The American Statistician
2015): percentiles slightly wider than the level, by Student's t with n - 1 degrees of freedom,
because intervals of few images would be too narrow. Images are assumed to be independent; for
related ones (frames of one video) the interval is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
"""Number of bootstrap samples."""

_AT_ONCE = 500


@dataclass(frozen=True)
class Difference:
    """The mIoU of one model minus another's, on the same images.

    low, high: confidence interval at `level`; NaN with fewer than two images. better: proportion
    of the draws in which the first is better, 0..1.
    """

    value: float
    low: float
    high: float
    better: float
    level: float = 0.95

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_difference(
    first: Sequence[NDArray[np.int64]],
    second: Sequence[NDArray[np.int64]],
    *,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two models by their confusion matrices int64 (K, K) per image, in the same order."""
    assert len(first) == len(second), "one matrix per image of each model"
    one, other = _sums(first), _sums(second)
    count = len(first)
    value = float((_miou(one.sum(0)[None]) - _miou(other.sum(0)[None]))[0])
    if count < 2:
        return Difference(value, math.nan, math.nan, math.nan, level)
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, _AT_ONCE):
        times = rng.multinomial(count, np.full(count, 1 / count), min(_AT_ONCE, draws - start))
        weights = times.astype(np.float64)
        found.append(_miou(_drawn(weights, one)) - _miou(_drawn(weights, other)))
    values = np.concatenate(found)
    values = values[~np.isnan(values)]
    tail = _tail(count, level)
    low, high = np.quantile(values, [tail, 1 - tail])
    better = float((values > 0).mean() + 0.5 * (values == 0).mean())
    return Difference(value, float(low), float(high), better, level)


def _sums(matrices: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """float64 (N, 3, K): correct, true and predicted pixels of each image and class."""
    return np.stack([np.stack([np.diag(one), one.sum(1), one.sum(0)]) for one in matrices]).astype(
        np.float64
    )


def _drawn(weights: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums (R, 3, K) of R bootstrap samples: weights (R, N), sums (N, 3, K)."""
    return np.tensordot(weights, sums, axes=1)


def _miou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """mIoU float64 (R,) of sums (R, 3, K), over the labelled classes; NaN without any."""
    right, true, found = sums[:, 0], sums[:, 1], sums[:, 2]
    here = true > 0
    iou = np.where(here, right / np.maximum(true + found - right, 1), 0)
    count = here.sum(1)
    return np.where(count > 0, iou.sum(1) / np.maximum(count, 1), np.nan)


def _tail(count: int, level: float) -> float:
    """The lower quantile, 0..0.5, of the interval for a number of images."""
    normal = NormalDist()
    quantile = _student(normal.inv_cdf((1 + level) / 2), count - 1)
    return normal.cdf(-math.sqrt(count / (count - 1)) * quantile)


def _student(z: float, degrees: int) -> float:
    """Student's quantile from the normal one (an expansion; Abramowitz and Stegun 26.7.5)."""
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(degrees ** (1 + power)) for power, term in enumerate(terms))
