"""Checks before the first step: options without effect, and whether the network can learn.

--sanity works on copies of the network, so that training is not affected: it overfits a small
batch, tries learning rates from tiny to huge, and measures the time and memory of a full step.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import BatchNorm2d

from fcnseg.config import Precision, TrainConfig
from fcnseg.config.options import options_of, spelled
from fcnseg.datasets.loader import Batch
from fcnseg.device import AUTO_PRECISION, autocast, cpu_multiplies_bf16, resolve_precision
from fcnseg.distributed import Distributed
from fcnseg.errors import OptionError, TrainingError
from fcnseg.models.fcn import FCN
from fcnseg.progress import Callback, Message
from fcnseg.training.losses import WEIGHTED, parse_loss
from fcnseg.training.schedule import freeze
from fcnseg.training.step import NetWithAuxHeads, TrainStep

MakeStep = Callable[[FCN, TrainConfig], TrainStep]

SECONDS = 4.0
"""For each of the two trials; a slow machine does fewer steps."""

STEPS = 30
SIDE = 128
"""The trials' images are cut to this many pixels a side, two of them."""

LOWEST, HIGHEST = 1e-6, 1.0
"""The learning rates that are tried."""

LEARNED = 0.7
"""What is left of the loss of a batch that has been learned, at most."""


def refuse_both(config: TrainConfig) -> None:
    """OptionError for two options that both say how long to train."""
    if config.epochs and config.minutes:
        raise OptionError("--epochs and --minutes both say how long to train.", hint="omit one")


_AS_RESOLVED = {("class_weights", "none")}
"""What a run's config.toml has where the option has no effect."""


def refuse_unused(config: TrainConfig, network: FCN, *, images: int) -> None:
    """OptionError for an option that was given, but changes nothing in this training.

    One that only repeats the default is none: a run's config.toml has all of them.
    images: those of a step, for each process.
    """
    shape, losses = network.spec, {term.name for term in parse_loss(config.loss)}
    norms = any(isinstance(module, BatchNorm2d) for module in network.modules())
    unused = {
        "unlabeled_weight": (config.unlabeled is None, "--unlabeled was not given"),
        "confident": (config.unlabeled is None, "--unlabeled was not given"),
        "mix": (config.mix_share == 0, "--mix-share is 0"),
        "mix_share": (config.mix == "none", "--mix is none"),
        "label_smoothing": ("ce" not in losses, f"it is for ce, and --loss is {config.loss}"),
        "class_weights": (not losses & WEIGHTED, f"--loss {config.loss} counts no pixels"),
        "width": (shape.fuse == "score", "it is for --fuse feature or concat"),
        "skips": (shape.fuse != "score", "it is for --fuse score"),
        "aux": (shape.decoder == "fcn32s", "fcn32s has no coarser skips"),
        "freeze_norm": (not norms, f"{shape.backbone} has no batch norms"),
        "backbone_lr": (
            config.freeze >= len(network.backbone.stages),
            f"--freeze {config.freeze} freezes all of the backbone",
        ),
        "accumulate": (images == 1, "a step is of one image"),
        "backbone_weights": (
            config.finetune is not None and config.backbone is None,
            "--finetune's checkpoint has the backbone's weights",
        ),
    }
    for name, value in config.chosen().items():
        found, why = unused.get(name, (False, ""))
        option = options_of(TrainConfig)[name]
        repeated = value == option.fallback or (name, value) in _AS_RESOLVED
        if found and not repeated:
            flag = spelled(name, option)
            raise OptionError(f"{flag} has no effect here: {why}.", hint=f"omit {flag}")
    if config.accumulate > images > 1:
        raise OptionError(
            f"--accumulate {config.accumulate}: a step is of {images} images for each process.",
            hint=f"take --accumulate {images} or less, or a larger --batch",
        )


@dataclass(frozen=True)
class Trial:
    """Learning rates and the losses of the steps made with them."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]


def preflight(
    network: FCN,
    config: TrainConfig,
    batch: Batch,
    make_step: MakeStep,
    callback: Callback,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Tell what is to be expected of a training; TrainingError when it can't even begin.

    batch: the first one of the training.
    """
    plain = dataclasses.replace(config, warmup=0.0, ema=0.0, accumulate=1)
    small = _small(batch)

    def trial(rates: list[float]) -> Trial:
        return _trial(network, plain, small, make_step, rates, clock)

    learned = trial([config.lr] * STEPS)
    if not math.isfinite(learned.losses[0]):
        raise TrainingError(
            "The loss of the very first step is not a number.",
            hint="try --precision f32; are the --backbone-weights damaged?",
        )
    callback(_on_learning(learned, config.lr))
    callback(_on_rates(trial(np.geomspace(LOWEST, HIGHEST, STEPS).tolist()), config.lr))
    began = clock()
    train_step = make_step(copy.deepcopy(network), plain)
    float(train_step(batch, 0, 1).sum())
    callback(_on_cost(train_step.ranks.device, len(batch.images), clock() - began))


def _small(batch: Batch) -> Batch:
    """Two images of a batch (or one), cut to SIDE around the middle."""
    images, labels = batch.images[:2], batch.labels[:2]
    y, x = (max(0, extent - SIDE) // 2 for extent in labels.shape[1:])
    return Batch(
        images[:, y : y + SIDE, x : x + SIDE].contiguous(),
        labels[:, y : y + SIDE, x : x + SIDE].contiguous(),
        batch.names[:2],
    )


def _trial(
    network: FCN,
    config: TrainConfig,
    batch: Batch,
    make_step: MakeStep,
    rates: list[float],
    clock: Callable[[], float],
) -> Trial:
    """The losses of steps at these rates; fewer steps when time is over or the loss explodes.

    When time is short the rates are thinned out, not cut off.
    """
    train_step = make_step(copy.deepcopy(network), config)
    began = clock()
    losses = [float(train_step(batch, 0, 10**9, lr_scale=rates[0] / config.lr).sum())]
    each = max(1e-9, clock() - began)
    affordable = max(3, min(len(rates), int(SECONDS / each)))
    chosen = [rates[round(i * (len(rates) - 1) / (affordable - 1))] for i in range(affordable)]
    for number, rate in enumerate(chosen[1:], start=1):
        # A step's loss is the one before it moves: the last loss tells of the rate before.
        losses.append(float(train_step(batch, number, 10**9, lr_scale=rate / config.lr).sum()))
        if not math.isfinite(losses[-1]) or losses[-1] > 10 * losses[0] + 1:
            break
    return Trial(tuple(chosen[: len(losses)]), tuple(losses))


def _on_learning(trial: Trial, rate: float) -> Message:
    first, last = trial.losses[0], min(trial.losses[1:], default=trial.losses[0])
    told = f"in {len(trial.losses) - 1} steps at {rate:g}: loss {first:.3f} to {last:.3f}"
    if last <= LEARNED * first:
        return Message(f"Sanity check: two images are overfitted {told}.")
    return Message(
        f"Sanity check: two images are hardly overfitted {told}. Do the labels line up "
        "with the objects (fcnseg check)? Is --lr too small or too large?",
        "warning",
    )


def _on_rates(trial: Trial, rate: float) -> Message:
    """Where the loss fell fastest, and where it broke."""
    falls = [
        (before - after, used)
        for before, after, used in zip(trial.losses, trial.losses[1:], trial.rates, strict=False)
    ]
    best = max(falls)[1]
    broke = next((used for fall, used in falls if fall < -0.5 * trial.losses[0]), None)
    text = f"Sanity check: the loss falls fastest at learning rates around {best:.1g}"
    text += f" and diverges at {broke:.1g}" if broke else ""
    too_high = broke is not None and rate >= broke
    text += f"; --lr is {rate:g}" + (", which is too high." if too_high else ".")
    return Message(text, "warning" if too_high else "info")


def _on_cost(device: torch.device, images: int, seconds: float) -> Message:
    text = f"Sanity check: a step of {images} images takes {seconds:.2g} s"
    if device.type == "cuda":
        text += f" and {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    return Message(f"{text}.")


FRACTION = 0.8
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
    learner: NetWithAuxHeads, crop: tuple[int, int], device: torch.device, precision: torch.dtype
) -> PeakBytes:
    """Measures forward and backward on a GPU; the network is as it was afterwards."""

    def measure(images: int) -> int:
        before = copy.deepcopy(learner.state_dict())
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            bands = learner.network.spec.in_channels
            outputs = learner(torch.zeros(images, bands, *crop, device=device))
        sum(logits.float().logsumexp(1).mean() for logits in outputs).backward()
        peak = torch.cuda.max_memory_allocated(device) - start
        learner.zero_grad(set_to_none=True)
        learner.load_state_dict(before)
        return peak

    return measure


def choose_batch(
    network: FCN, config: TrainConfig, *, images: int, suggested: int, ranks: Distributed
) -> int:
    """The batch for `--batch auto`, over all ranks: what fits on a GPU; elsewhere `suggested`.

    images: how many there are; an epoch keeps several steps.
    """
    if ranks.device.type != "cuda":
        return max(suggested, ranks.size)
    assert config.crop is not None
    learner = NetWithAuxHeads(network, aux=config.aux > 0).train()
    learner.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = resolve_precision(config.precision, ranks.device)
    peak = gpu_peak(learner, config.crop, ranks.device, precision)
    most = min(MOST, max(2, images // (4 * ranks.size)))
    return fitting_batch(peak, free_gpu_bytes(ranks.device), most=most) * ranks.size


def free_gpu_bytes(device: torch.device) -> int:
    """Free memory of a GPU, in bytes."""
    return torch.cuda.mem_get_info(device)[0]


MEASURED_SECONDS, MEASURED_ROUNDS = 1.0, 3
"""So long in all, and at least so often after a first time, which is slower."""

SIDES = (64, 256)
"""The smallest and the largest side of the image it is tried on, in pixels."""

FASTER = 1.1
"""So many times as fast as f32 bf16 has to be: it is less exact."""


def choose_precision(
    network: FCN,
    config: TrainConfig,
    ranks: Distributed,
    callback: Callback,
    clock: Callable[[], float] = time.perf_counter,
) -> Precision:
    """The option `precision`, where it is auto on a CPU with bf16: what a measurement finds faster.

    Forward and backward of a copy of the network: depthwise convolutions gain nothing from bf16,
    plain ones a factor of three. Elsewhere "auto" stays: it is the same on each such machine.
    """
    forced = config.precision != "auto" or os.environ.get(AUTO_PRECISION)
    if forced or ranks.device.type != "cpu" or not cpu_multiplies_bf16():
        return config.precision
    assert config.crop is not None
    learner = NetWithAuxHeads(copy.deepcopy(network), aux=config.aux > 0)
    freeze(learner.train().network, config)
    learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = [min(max(side, SIDES[0]), SIDES[1]) for side in config.crop]
    image = torch.zeros(1, network.spec.in_channels, *size)
    laps: dict[str, list[float]] = {"f32": [], "bf16": []}
    while len(laps["bf16"]) <= MEASURED_ROUNDS or sum(map(sum, laps.values())) < MEASURED_SECONDS:
        for name, seconds in laps.items():
            start = clock()
            with autocast(ranks.device, resolve_precision(name, ranks.device)):
                outputs = learner(image)
            sum(logits.float().logsumexp(1).mean() for logits in outputs).backward()
            seconds.append(clock() - start)
    f32, bf16 = (min(seconds[1:]) for seconds in laps.values())
    chosen: Precision = ranks.broadcast("bf16" if bf16 * FASTER < f32 else "f32")
    text = f"an image takes {bf16:.2g} s in bf16 and {f32:.2g} s in f32"
    callback(Message(f"--precision {chosen}: {text}."))
    return chosen
