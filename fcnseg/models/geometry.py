"""Where the elements of a feature map lie on the image, and upsampling that respects it.

Element i of a map of stride s lies at pixel s * i + offset (pixel centres are integers):

    centre   (s - 1) / 2   2x2 pooling, patches (VGG, ConvNeXt)
    corner   0             odd kernels, symmetric padding (ResNet, MobileNet)
    same     s - 1         TensorFlow's SAME padding on even sizes (EfficientNet-Lite)

A map is upsampled by a factor onto a finer one, on which its element i lies at output
factor * i + shift. An output lies at a fraction between two elements; beyond the outermost ones
the nearest one's value holds, as in `interpolate(align_corners=False)`, which the centred case
equals everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Alignment = Literal["centre", "corner", "same"]


def offset(alignment: Alignment, stride: int) -> float:
    """The pixel that element 0 of a map of this stride lies at."""
    return {"centre": (stride - 1) / 2, "corner": 0.0, "same": stride - 1.0}[alignment]


def offsets(alignment: Alignment, strides: Iterable[int]) -> dict[int, float]:
    """stride -> the pixel that element 0 lies at."""
    return {stride: offset(alignment, stride) for stride in strides}


def shift_between(offsets: Mapping[int, float], coarse: int, fine: int) -> float:
    """Where element 0 of the map at stride `coarse` lies on the one at stride `fine`."""
    return (offsets[coarse] - offsets[fine]) / fine


def upsample(maps: Tensor, factor: int, shift: float, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), bilinear; size is (factor * h, factor * w).

    shift: where element 0 lies on the output. The size is passed rather than computed so that a
    traced graph knows that it equals the size of the map this is added to.
    """
    if factor == 1:
        return maps
    if shift == (factor - 1) / 2:
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)
    if shift not in (0, factor - 1):
        return _between(_between(maps, factor, shift, size[0], 2), factor, shift, size[1], 3)
    # The n elements and one more beyond the border span factor * n steps exactly:
    # align_corners=True puts output j at element j / factor.
    before = int(shift > 0)  # the spare element comes first, and its output is cut off
    wider = F.pad(maps, (before, 1 - before, before, 1 - before), mode="replicate")
    spare = (size[0] + 1, size[1] + 1)
    grown = F.interpolate(wider, spare, mode="bilinear", align_corners=True)
    return grown.narrow(2, before, size[0]).narrow(3, before, size[1])


def _between(maps: Tensor, factor: int, shift: float, length: int, axis: int) -> Tensor:
    """Linear interpolation along one axis at any shift."""
    last = maps.shape[axis] - 1
    outputs = torch.arange(length, device=maps.device, dtype=torch.float32)
    places = ((outputs - shift) / factor).clamp(0, last)
    low = places.floor().long()
    weight = (places - low).to(maps.dtype).view(-1, *[1] * (3 - axis))
    high = (low + 1).clamp(max=last)
    return maps.index_select(axis, low) * (1 - weight) + maps.index_select(axis, high) * weight
