"""Options that depend on the machine: batch size by memory, precision by speed, crop by time.

They are measured on a copy of the network, so that training is not affected.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from fcnseg.config import Precision, TrainConfig
from fcnseg.datasets.check.suggestions import GRAIN
from fcnseg.device import AUTO_PRECISION, autocast, cpu_multiplies_bf16, resolve_precision
from fcnseg.distributed import Distributed
from fcnseg.errors import TrainingError
from fcnseg.models.fcn import FCN
from fcnseg.models.networks import find_backbone
from fcnseg.progress import Callback, Message
from fcnseg.training.schedule import freeze
from fcnseg.training.step import NetWithAuxHeads

FRACTION = 0.8
"""Of the free memory that a step may use; the rest is for fragmentation and the optimizer."""

MAX_BATCH = 64
"""Larger batches rarely help, and need another learning rate."""

PeakBytes = Callable[[int], int]
"""Batch size -> the peak memory of a step, in bytes."""


def fitting_batch(peak_bytes: PeakBytes, free: int, *, most: int = MAX_BATCH) -> int:
    """The largest power of two that fits, at most `most`; TrainingError if not even 1 does.

    Memory grows linearly with the batch size: two measurements give the slope.
    """
    one, two = peak_bytes(1), peak_bytes(2)
    slope = max(1, two - one)
    room = FRACTION * free - (one - slope)
    images = int(room // slope)
    if images < 1:
        raise TrainingError(
            f"A batch size of 1 does not fit: a step takes {one / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free.",
            hint="use a smaller --crop, a smaller --backbone or --width",
        )
    batch = 1
    while 2 * batch <= min(images, most):
        batch *= 2
    return batch


def gpu_peak(
    model: NetWithAuxHeads, crop: tuple[int, int], device: torch.device, precision: torch.dtype
) -> PeakBytes:
    """Return a function that measures a forward and backward pass; the network is restored."""

    def measure(images: int) -> int:
        before = copy.deepcopy(model.state_dict())
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        batch = torch.zeros(images, model.network.spec.in_channels, *crop, device=device)
        _forward_backward(model, batch, precision)
        peak = torch.cuda.max_memory_allocated(device) - start
        model.zero_grad(set_to_none=True)
        model.load_state_dict(before)
        return peak

    return measure


def _forward_backward(
    model: NetWithAuxHeads, images: torch.Tensor, precision: torch.dtype
) -> torch.Tensor:
    """Run a forward and backward pass with a loss that needs no labels; return the loss."""
    with autocast(images.device, precision):
        outputs = model(images)
    loss = torch.stack([logits.float().logsumexp(1).mean() for logits in outputs]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def choose_batch(
    network: FCN, config: TrainConfig, *, images: int, suggested: int, ranks: Distributed
) -> int:
    """The batch size for `--batch auto`, over all ranks: what fits on a GPU; else `suggested`.

    images: the number of training images; an epoch has at least several steps.
    """
    if ranks.device.type != "cuda":
        return max(suggested, ranks.size)
    assert config.crop is not None
    model = NetWithAuxHeads(network, aux=config.aux > 0).train()
    model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = resolve_precision(config.precision, ranks.device)
    peak = gpu_peak(model, config.crop, ranks.device, precision)
    most = min(MAX_BATCH, max(2, images // (4 * ranks.size)))
    return fitting_batch(peak, free_gpu_bytes(ranks.device), most=most) * ranks.size


def free_gpu_bytes(device: torch.device) -> int:
    """Free memory of a GPU, in bytes."""
    return torch.cuda.mem_get_info(device)[0]


MEASURED_SECONDS, MEASURED_ROUNDS = 1.0, 2
"""Minimum duration of a measurement, and of repetitions after the first, which is slower."""

SIDES = (64, 512)
"""The smallest and largest side of the images for timing, in pixels."""

Clock = Callable[[], float]


def seconds_per_image(
    network: FCN,
    config: TrainConfig,
    ranks: Distributed,
    precisions: Sequence[torch.dtype],
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Time of a forward and backward pass per image in each precision, the minimum of several.

    Measured on a batch, or as much of it as takes about MEASURED_SECONDS, because time per image
    decreases with the batch size, in bf16 more than in f32. The time of a large crop is
    extrapolated from a smaller one by area.
    """
    assert config.crop is not None
    assert config.batch != "auto"
    model = NetWithAuxHeads(copy.deepcopy(network), aux=config.aux > 0)
    freeze(model.train().network, config)
    model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = [min(max(side, SIDES[0]), SIDES[1]) for side in config.crop]
    images = torch.zeros(1, network.spec.in_channels, *size, device=ranks.device)

    def lap(precision: torch.dtype) -> float:
        start = clock()
        float(_forward_backward(model, images, precision))  # waits for a GPU
        return clock() - start

    one = min(lap(precisions[0]) for _ in range(MEASURED_ROUNDS))
    most = -(-config.batch // ranks.size)
    images = images.repeat(min(most, max(1, int(MEASURED_SECONDS / one))), 1, 1, 1)
    laps: dict[torch.dtype, list[float]] = {precision: [] for precision in precisions}
    while (
        len(laps[precisions[-1]]) <= MEASURED_ROUNDS
        or sum(map(sum, laps.values())) < MEASURED_SECONDS
    ):
        for precision, seconds in laps.items():
            seconds.append(lap(precision))
    part = math.prod(config.crop) / math.prod(size) / len(images)
    return [part * min(seconds[1:]) for seconds in laps.values()]


FASTER = 1.1
"""Minimum speed-up for choosing bf16, which is less accurate than f32."""


def choose_precision(
    network: FCN,
    config: TrainConfig,
    ranks: Distributed,
    callback: Callback,
    clock: Clock = time.perf_counter,
) -> Precision:
    """Resolve `--precision auto` on a CPU with bf16 to the faster precision.

    Depthwise convolutions gain little from bf16, plain ones a factor of three. On other devices
    "auto" is unchanged, because it does not depend on a measurement.
    """
    precisions = _precisions(config, ranks)
    if len(precisions) == 1:
        return config.precision
    f32, bf16 = seconds_per_image(network, config, ranks, precisions, clock)
    chosen: Precision = ranks.broadcast("bf16" if bf16 * FASTER < f32 else "f32")
    text = f"an image takes {bf16:.2g} s in bf16 and {f32:.2g} s in f32"
    callback(Message(f"--precision {chosen}: {text}."))
    return chosen


def _precisions(config: TrainConfig, ranks: Distributed) -> list[torch.dtype]:
    """The precision of the training, or f32 and bf16 if they have to be measured."""
    given = config.precision != "auto" or os.environ.get(AUTO_PRECISION)
    if given or ranks.device.type != "cpu" or not cpu_multiplies_bf16():
        return [resolve_precision(config.precision, ranks.device)]
    return [torch.float32, torch.bfloat16]


ENOUGH_STEPS = 600
"""With fewer steps, smaller crops give better results."""

SMALLEST_CROP = 160
"""Pixels: a smaller side has too little context around an object."""

FROZEN = 2
"""Stages of a pretrained backbone that a short training freezes."""

STEPS_TIME = 0.75
"""Fraction of --minutes for steps; validation, saving and the report take the rest."""


def options_for_minutes(
    network: FCN,
    config: TrainConfig,
    ranks: Distributed,
    callback: Callback,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Options for --minutes if few steps fit: freeze pretrained stages and use smaller crops.

    Crops are reduced until ENOUGH_STEPS fit. On a GPU they fit into a minute anyway. A given
    --freeze is not changed.
    """
    assert config.crop is not None
    if ranks.device.type == "cuda":
        return {}
    steps = _steps(network, config, ranks, clock)
    if steps >= ENOUGH_STEPS:
        return {}
    official = find_backbone(network.spec.backbone).official
    pretrained = config.finetune or (config.backbone_weights != "none" and official)
    given = config.freeze or 0
    frozen = FROZEN if config.freeze is None and pretrained else given
    if frozen != given:
        steps = _steps(network, replace(config, freeze=frozen), ranks, clock)
    scale = math.sqrt(steps / ENOUGH_STEPS)
    height, width = (
        min(side, max(SMALLEST_CROP, int(scale * side // GRAIN) * GRAIN)) for side in config.crop
    )
    sizes = [f"{height}x{width}", "{}x{}".format(*config.crop)]
    text = f"crops of {sizes[0]}, usually {sizes[1]} (height x width)"
    text += f", and {frozen} frozen stages" if frozen != given else ""
    callback(Message(f"--minutes {config.minutes:g}: {text}, so that more steps fit."))
    return {"crop": (height, width), "freeze": frozen}


def _steps(network: FCN, config: TrainConfig, ranks: Distributed, clock: Clock) -> float:
    """How many steps fit into --minutes, as measured by the main process."""
    assert config.minutes is not None
    assert config.batch != "auto"
    seconds = min(seconds_per_image(network, config, ranks, _precisions(config, ranks), clock))
    batch = -(-config.batch // ranks.size)
    steps: float = ranks.broadcast(STEPS_TIME * 60 * config.minutes / (batch * seconds))
    return steps
