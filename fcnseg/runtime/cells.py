"""Labels of every pixel from the scores of coarse cells, without most of the pixels' logits.

Logits are scores upsampled bilinearly: between four cells each is a weighted mean of theirs.
Where one class wins all four it wins everywhere between them, so that only what lies between
cells with different winners, a tenth of a picture or so, has to be worked out. The answer is
that of the logits, but for pixels where two classes are equal to the last bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fcnseg.runtime.deciding import winners

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]

_BLOCK = 1 << 12
"""Squares worked out together: their logits stay in the cache."""


@dataclass(frozen=True)
class Cells:
    """Where cells lie on the pixels: cell i at factor * i + shift (fcnseg.models.geometry)."""

    factor: int
    shift: float

    def labels(self, scores: Floats, size: tuple[int, int]) -> Labels:
        """Labels uint8 (H, W) of scores float32 (K, h, w); size is (H, W), at most factor * (h, w).

        The first of several equal classes wins.
        """
        before = int(self.shift > 0)  # pixels before cell 0 lie between it and its copy
        cells = np.pad(scores, ((0, 0), (before, 1), (before, 1)), mode="edge")
        best = winners(cells)[0]  # (h + before + 1, w + before + 1)
        corner = best[:-1, :-1]
        mixed = (corner != best[1:, :-1]) | (corner != best[:-1, 1:]) | (corner != best[1:, 1:])
        rows, columns = np.nonzero(mixed)
        factor = self.factor
        squares = np.empty((len(corner), factor, corner.shape[1], factor), np.uint8)
        squares[:] = corner[:, None, :, None]
        for start in range(0, len(rows), _BLOCK):
            some = slice(start, start + _BLOCK)
            squares[rows[some], :, columns[some]] = self._between(cells, rows[some], columns[some])
        whole = squares.reshape(len(corner) * factor, -1)
        cut = before * (factor - self._first)
        return np.ascontiguousarray(whole[cut : cut + size[0], cut : cut + size[1]])

    def _between(self, cells: Floats, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Labels:
        """Labels uint8 (M, factor, factor) of the squares whose first corners these cells are."""
        classes, _, width = cells.shape
        flat, first = cells.reshape(classes, -1), rows * width + columns
        corners = (flat[:, None, first + step] for step in (0, 1, width, width + 1))  # (K, 1, M)
        # Products and sums: a product of matrices wakes BLAS's threads, which then spin.
        far = self._far[:, None]
        above, below = (next(corners) * (1 - far) + next(corners) * far for _ in range(2))
        labels = np.empty((len(rows), self.factor, self.factor), np.uint8)
        for row, share in enumerate(self._far):
            logits = above * (1 - share) + below * share  # (K, factor, M)
            labels[:, row] = winners(logits)[0].T
        return labels

    @property
    def _first(self) -> int:
        """The first pixel at or after cell 0."""
        return math.ceil(self.shift)

    @cached_property
    def _far(self) -> Floats:
        """(factor,): how far each pixel of a square is from its first corner, as a share."""
        pixels = self._first - self.shift + np.arange(self.factor)
        return np.asarray(pixels / self.factor, np.float32)
