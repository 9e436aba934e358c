from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fcnseg.models.fcn import LearnedUpsample, Upsample, bilinear_kernel

FACTORS = (2, 4, 8, 16, 32)


def random_map(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def make(channels: int, factor: int, shift: float, *, learned: bool) -> nn.Module:
    return (LearnedUpsample if learned else Upsample)(channels, factor, shift)


def by_numpy(maps: torch.Tensor, factor: int, shift: float) -> torch.Tensor:
    """Along one axis, then the other; np.interp holds the end values beyond the ends."""

    def line(values: np.ndarray) -> np.ndarray:
        places = np.arange(len(values)) * factor + shift
        return np.interp(np.arange(len(values) * factor), places, values)

    found = np.apply_along_axis(line, -1, maps.double().numpy())
    return torch.from_numpy(np.apply_along_axis(line, -2, found))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FACTORS), st.integers(1, 13), st.integers(1, 17), st.booleans())
def test_centred_is_interpolate(factor: int, height: int, width: int, learned: bool) -> None:
    maps = random_map(2, 3, height, width)
    size = (factor * height, factor * width)
    module = make(3, factor, (factor - 1) / 2, learned=learned)
    expected = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    assert isinstance(module, LearnedUpsample) == learned
    torch.testing.assert_close(module(maps, size), expected, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FACTORS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["centre", "corner", "same", "between"]),
    st.booleans(),
)
def test_every_shift(factor: int, height: int, width: int, where: str, learned: bool) -> None:
    shift = {"centre": (factor - 1) / 2, "corner": 0, "same": factor - 1, "between": factor / 3}[
        where
    ]
    maps = random_map(1, 2, height, width)
    module = make(2, factor, shift, learned=learned)
    found = module(maps, (factor * height, factor * width))
    torch.testing.assert_close(found.double(), by_numpy(maps, factor, shift), rtol=0, atol=2e-5)


def test_without_the_spare_cells_the_border_fades() -> None:
    """The trap the replicated border is for: a plain transposed convolution is not enough."""
    ones = torch.ones(1, 1, 4, 4)
    module = LearnedUpsample(1, 4, 1.5)
    plain = F.conv_transpose2d(ones, module.weight, stride=4, padding=2)
    assert plain[0, 0, 0, 0] < 0.5
    assert module(ones, (16, 16)).min() > 0.999


def test_learned_starts_on_the_diagonal_and_learns() -> None:
    module = LearnedUpsample(3, 2, 0.5)
    off = ~torch.eye(3, dtype=torch.bool)
    assert module.weight[off].abs().max() == 0
    module(random_map(1, 3, 4, 4), (8, 8)).square().sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad[off].abs().max() > 0


@pytest.mark.parametrize(
    ("factor", "shift", "taps"),
    [(2, 0.5, [0.25, 0.75, 0.75, 0.25]), (2, 0.0, [0.5, 1.0, 0.5]), (2, 1.0, [0.5, 1.0, 0.5])],
)
def test_kernel_width(factor: int, shift: float, taps: list[float]) -> None:
    """2 s wide where cells sit in the centre, 2 s - 1 elsewhere."""
    line, first = bilinear_kernel(factor, shift)
    assert line.tolist() == taps
    assert first == -1 + int(shift)


def test_factor_one_changes_nothing() -> None:
    maps = random_map(1, 2, 3, 3)
    assert Upsample(2, 1, 0.0)(maps, (3, 3)) is maps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_numbers(dtype: torch.dtype) -> None:
    maps = random_map(1, 2, 3, 4).to(dtype)
    for shift in (0.5, 0.0, 1.0, 0.3):
        assert Upsample(2, 2, shift)(maps, (6, 8)).dtype == dtype
