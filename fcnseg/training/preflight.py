"""Checks before the first step: options without effect, and whether the network can learn.

--sanity works on copies of the network, so that training is not affected: it overfits a small
batch, tries learning rates from tiny to huge, and measures the time and memory of a full step.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import BatchNorm2d

from fcnseg.config import TrainConfig
from fcnseg.config.options import options_of, spelled
from fcnseg.datasets.loader import Batch
from fcnseg.errors import OptionError, TrainingError
from fcnseg.models.fcn import FCN
from fcnseg.progress import Callback, Message
from fcnseg.training.losses import WEIGHTED, parse_loss
from fcnseg.training.step import TrainStep

MakeStep = Callable[[FCN, TrainConfig], TrainStep]

SECONDS = 4.0
"""Of each of the two trials; a slow machine runs fewer steps."""

STEPS = 30
SIDE = 128
"""Side of the crops for the trials, in pixels."""

LOWEST, HIGHEST = 1e-6, 1.0
"""The range of learning rates."""

LEARNED = 0.7
"""A batch is overfitted if its loss falls to this fraction or less."""


def refuse_contradictions(config: TrainConfig) -> None:
    """OptionError for values that can't be meant together, before the dataset is read."""
    if config.epochs and config.minutes:
        raise OptionError("--epochs and --minutes both say how long to train.", hint="omit one")
    low, high = config.scale
    if low > high:
        raise OptionError(
            f"--scale: expected MIN MAX; found {low:g} {high:g}.", hint=f"--scale {high:g} {low:g}"
        )


_AS_RESOLVED = {("class_weights", "none")}
"""Values in a run's config.toml of options without effect."""


def refuse_unused(config: TrainConfig, network: FCN, *, images: int) -> None:
    """OptionError for an option that was given but has no effect in this training.

    Default values are accepted, because a run's config.toml contains all options.
    images: of a step, per process.
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
            (config.freeze or 0) >= len(network.backbone.stages),
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
            hint=f"use --accumulate {images} or less, or a larger --batch",
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
    """Run the sanity checks and report them; TrainingError when the first loss is not finite.

    batch: the first one of the training.
    """
    plain = dataclasses.replace(config, warmup=0.0, ema=0.0, accumulate=1)
    trial = functools.partial(_trial, network, plain, _small(batch), make_step, clock)
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
    """The first two images of a batch (or one), cropped to SIDE at the center."""
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
    clock: Callable[[], float],
    rates: list[float],
) -> Trial:
    """The losses of steps at these rates; stops early when the loss diverges.

    If time is short, fewer rates are used, spread over the same range.
    """
    train_step = make_step(copy.deepcopy(network), config)
    began = clock()
    losses = [float(train_step(batch, 0, 10**9, lr_scale=rates[0] / config.lr).sum())]
    each = max(1e-9, clock() - began)
    affordable = max(3, min(len(rates), int(SECONDS / each)))
    chosen = [rates[round(i * (len(rates) - 1) / (affordable - 1))] for i in range(affordable)]
    for number, rate in enumerate(chosen[1:], start=1):
        # A step's loss is computed before its update: it shows the effect of the previous rate.
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
    """Report the rate at which the loss fell fastest, and the one at which it diverged."""
    falls = [
        (before - after, used)
        for before, after, used in zip(trial.losses, trial.losses[1:], trial.rates, strict=False)
    ]
    best = max(falls)[1]
    diverged = next((used for fall, used in falls if fall < -0.5 * trial.losses[0]), None)
    text = f"Sanity check: the loss falls fastest at learning rates around {best:.1g}"
    text += f" and diverges at {diverged:.1g}" if diverged else ""
    too_high = diverged is not None and rate >= diverged
    text += f"; --lr is {rate:g}" + (", which is too high." if too_high else ".")
    return Message(text, "warning" if too_high else "info")


def _on_cost(device: torch.device, images: int, seconds: float) -> Message:
    text = f"Sanity check: a step of {images} images takes {seconds:.2g} s"
    if device.type == "cuda":
        text += f" and {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    return Message(f"{text}.")
