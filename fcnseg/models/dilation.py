"""A trunk that stays finer: strides turned into dilation (the "hole" algorithm).

A convolution that would halve the map keeps its size, and all behind it look at every
second cell instead: the same weights, the same view, answers twice as dense.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fcnseg.errors import OptionError


def dilate(row: Sequence[nn.Module], output_stride: int, name: str) -> None:
    """Change a row of modules in place so that it never gets coarser than output_stride.

    Raises OptionError where pooling or even kernels downsample: there it can't be done.
    """
    stride = rate = 1
    for module in row:
        step = _step(module)
        if rate == 1 and stride * step <= output_stride:
            stride *= step
            continue
        rate = _dilated(module, rate, name)


def _step(module: nn.Module) -> int:
    """How much coarser its output is: a block downsamples once, on one or two ways."""
    return max((_stride(part) for part in module.modules()), default=1)


def _stride(module: nn.Module) -> int:
    stride = getattr(module, "stride", 1) if hasattr(module, "kernel_size") else 1
    return int(stride[0] if isinstance(stride, tuple) else stride)


def _dilated(module: nn.Module, rate: int, name: str) -> int:
    """Dilate one module of the row; the rate for what follows."""
    after = rate * _step(module)
    current = rate
    for part in module.modules():
        odd = isinstance(part, nn.Conv2d) and part.kernel_size[0] % 2 == 1
        if _stride(part) > 1 and not odd:
            raise OptionError(
                f"The backbone {name} can't be dilated: {type(part).__name__} makes it coarser.",
                hint="leave --output-stride at 32, or take a ResNet, MobileNet or EfficientNet",
            )
        if not isinstance(part, nn.Conv2d):
            continue
        # What comes before the step, and the step itself, still sees neighbours `rate` apart.
        kernel = part.kernel_size[0]
        part.dilation = (current, current)
        part.padding = (current * (kernel // 2), current * (kernel // 2))
        if _stride(part) > 1:
            part.stride = (1, 1)
            if kernel > 1:  # a 1x1 is a shortcut beside the block, not a step before it
                current = after
    return after
