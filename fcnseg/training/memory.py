"""How many images fit: found out by two small steps, not by running out of memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from fcnseg.config import TrainConfig
from fcnseg.errors import TrainingError
from fcnseg.models.fcn import FCN
from fcnseg.runtime.device import resolve_precision
from fcnseg.runtime.ranks import Ranks
from fcnseg.training.step import Learner

SHARE = 0.8
"""Of the free memory that a step may take: fragments and the optimiser want some, too."""

MOST = 64
"""More images a step rarely help, and change what a learning rate means."""

PeakBytes = Callable[[int], int]
"""Images a step -> the most memory it takes, in bytes."""


def fitting_batch(peak_bytes: PeakBytes, free: int, *, most: int = MOST) -> int:
    """The largest power of two that fits, at most `most`; TrainingError if not even one does.

    Memory grows in a line with the images: two measurements give its slope.
    """
    one, two = peak_bytes(1), peak_bytes(2)
    slope = max(1, two - one)
    room = SHARE * free - (one - slope)
    images = int(room // slope)
    if images < 1:
        raise TrainingError(
            f"Not even one image a step fits: it takes {one / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free.",
            hint="take a smaller --crop, a smaller --backbone or --width",
        )
    batch = 1
    while 2 * batch <= min(images, most):
        batch *= 2
    return batch


def gpu_peak(
    learner: Learner, crop: tuple[int, int], device: torch.device, precision: torch.dtype
) -> PeakBytes:
    """Measures forward and backward on a GPU; the network is as it was afterwards."""

    def measure(images: int) -> int:
        before = copy.deepcopy(learner.state_dict())
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            answers = learner(torch.zeros(images, 3, *crop, device=device))
        sum(answer.float().logsumexp(1).mean() for answer in answers).backward()
        peak = torch.cuda.max_memory_allocated(device) - start
        learner.zero_grad(set_to_none=True)
        learner.load_state_dict(before)
        return peak

    return measure


def choose_batch(
    network: FCN, config: TrainConfig, *, images: int, suggested: int, ranks: Ranks
) -> int:
    """The batch for `--batch auto`, over all ranks: what fits on a GPU; elsewhere `suggested`.

    images: how many there are; an epoch keeps several steps.
    """
    if ranks.device.type != "cuda":
        return max(suggested, ranks.size)
    assert config.crop is not None
    learner = Learner(network, aux=config.aux > 0).train()
    learner.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = resolve_precision(config.precision, ranks.device)
    peak = gpu_peak(learner, config.crop, ranks.device, precision)
    most = min(MOST, max(2, images // (4 * ranks.size)))
    return fitting_batch(peak, free_gpu_bytes(ranks.device), most=most) * ranks.size


def free_gpu_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody uses, in bytes."""
    return torch.cuda.mem_get_info(device)[0]
