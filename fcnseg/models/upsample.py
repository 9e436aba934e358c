"""Bilinear upsampling that knows where the cells of a score map sit.

A map is upsampled by a factor onto a finer grid, on which its cell i sits at output
factor * i + shift (fcnseg.models.alignment). An output lies at a fraction between two cells;
beyond the outermost cells the nearest one's value holds, as in
`interpolate(align_corners=False)`, which the centred case equals everywhere.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def upsample(maps: Tensor, factor: int, shift: float, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), bilinear; size is (factor * h, factor * w).

    The size is passed rather than computed so that a traced graph knows that it equals the
    size of the map this is added to.
    """
    if factor == 1:
        return maps
    if shift == (factor - 1) / 2:
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)
    if shift not in (0, factor - 1):
        return _between(_between(maps, factor, shift, size[0], 2), factor, shift, size[1], 3)
    # The n cells and one more beyond the border span factor * n steps exactly:
    # align_corners=True puts output j at cell j / factor.
    before = int(shift > 0)  # the spare cell comes first, and its output is cut off
    wider = F.pad(maps, (before, 1 - before, before, 1 - before), mode="replicate")
    spare = (size[0] + 1, size[1] + 1)
    grown = F.interpolate(wider, spare, mode="bilinear", align_corners=True)
    return grown.narrow(2, before, size[0]).narrow(3, before, size[1])


def _between(maps: Tensor, factor: int, shift: float, length: int, axis: int) -> Tensor:
    """Linear interpolation along one axis at any shift."""
    last = maps.shape[axis] - 1
    outputs = torch.arange(length, device=maps.device, dtype=torch.float32)
    cells = ((outputs - shift) / factor).clamp(0, last)
    low = cells.floor().long()
    share = (cells - low).to(maps.dtype).view(-1, *[1] * (3 - axis))
    high = (low + 1).clamp(max=last)
    return maps.index_select(axis, low) * (1 - share) + maps.index_select(axis, high) * share


class Upsample(nn.Module):
    """Fixed bilinear upsampling."""

    def __init__(self, factor: int, shift: float) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, h, w) -> (N, C, *size)."""
        return upsample(maps, self.factor, self.shift, size)

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"factor={self.factor}, shift={self.shift}"


class LearnedUpsample(nn.Module):
    """A transposed convolution that starts as the fixed bilinear one, borders included.

    weight: (C, C, k, k); k is 2 * factor where cells sit in the centre, else 2 * factor - 1.
        At the start it is the bilinear kernel on the diagonal and zero elsewhere: no
        channel leaks into another.
    """

    def __init__(self, channels: int, factor: int, shift: float) -> None:
        super().__init__()
        self.factor = factor
        line, self.first = bilinear_kernel(factor, shift)
        weight = torch.zeros(channels, channels, len(line), len(line))
        weight.diagonal().copy_((line[:, None] * line[None, :]).unsqueeze(-1))  # (k, k, C)
        self.weight = nn.Parameter(weight)

    def forward(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, C, h, w) -> (N, C, *size)."""
        # One more cell on every side, or the border fades; then its output is cut off.
        wider = F.pad(maps, (1, 1, 1, 1), mode="replicate")
        grown = F.conv_transpose2d(wider, self.weight, stride=self.factor)
        start = self.factor - self.first
        return grown.narrow(2, start, size[0]).narrow(3, start, size[1])

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"factor={self.factor}, weight={tuple(self.weight.shape)}"


def bilinear_kernel(factor: int, shift: float) -> tuple[Tensor, int]:
    """The taps of 1-d bilinear upsampling, and where the first one lies.

    Cell i adds tap[m] of its value to output factor * i + first + m.
    """
    first = math.floor(shift - factor) + 1
    positions = torch.arange(first, math.ceil(shift + factor), dtype=torch.float64)
    return (1 - (positions - shift).abs() / factor).float(), first


def make_upsample(
    channels: int, factor: int, shift: float, *, learned: bool
) -> Upsample | LearnedUpsample:
    """The fixed or the learned kind."""
    if learned and factor > 1:
        return LearnedUpsample(channels, factor, shift)
    return Upsample(factor, shift)
