"""Ten seconds before hours are spent: can this network learn these images at all?

On copies of the network, of which training sees nothing: a small batch is learned by
heart, learning rates are tried from tiny to huge, and a whole step is timed and weighed.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fcnseg.config import TrainConfig
from fcnseg.data.dataset import Batch
from fcnseg.errors import TrainingError
from fcnseg.events import Listener, Note
from fcnseg.models.fcn import FCN
from fcnseg.training.step import Stepper

MakeStepper = Callable[[FCN, TrainConfig], Stepper]

SECONDS = 4.0
"""For each of the two trials; a slow machine does fewer steps."""

STEPS = 30
SIDE = 128
"""The trials' pictures are cut to this many pixels a side, two of them."""

LOWEST, HIGHEST = 1e-6, 1.0
"""The learning rates that are tried."""

LEARNED = 0.7
"""What is left of the loss of a batch that has been learned, at most."""


@dataclass(frozen=True)
class Trial:
    """Learning rates and the losses of the steps made with them."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]


def look_before(
    network: FCN,
    config: TrainConfig,
    batch: Batch,
    make_stepper: MakeStepper,
    listener: Listener,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Tell what is to be expected of a training; TrainingError when it can't even begin.

    batch: the first one of the training.
    """
    steady = dataclasses.replace(config, warmup=0.0, ema=0.0, accumulate=1)
    small = _small(batch)

    def trial(rates: list[float]) -> Trial:
        return _trial(network, steady, small, make_stepper, rates, clock)

    learned = trial([config.lr] * STEPS)
    if not math.isfinite(learned.losses[0]):
        raise TrainingError(
            "The loss of the very first step is not a number.",
            hint="try --precision f32; are the --backbone-weights damaged?",
        )
    listener(_on_learning(learned, config.lr))
    listener(_on_rates(trial(_rising_rates()), config.lr))
    began = clock()
    stepper = make_stepper(copy.deepcopy(network), steady)
    float(stepper(batch, 0, 1))
    listener(_on_cost(stepper.ranks.device, len(batch.images), clock() - began))


def _small(batch: Batch) -> Batch:
    """Two pictures of a batch (or one), cut to SIDE around the middle."""
    images, labels = batch.images[:2], batch.labels[:2]
    y, x = (max(0, extent - SIDE) // 2 for extent in labels.shape[1:])
    return Batch(
        images[:, y : y + SIDE, x : x + SIDE].contiguous(),
        labels[:, y : y + SIDE, x : x + SIDE].contiguous(),
        batch.names[:2],
    )


def _rising_rates() -> list[float]:
    grow = (HIGHEST / LOWEST) ** (1 / (STEPS - 1))
    return [LOWEST * grow**step for step in range(STEPS)]


def _trial(
    network: FCN,
    config: TrainConfig,
    batch: Batch,
    make_stepper: MakeStepper,
    rates: list[float],
    clock: Callable[[], float],
) -> Trial:
    """The losses of steps at these rates; fewer steps when time is over or the loss explodes.

    When time is short the rates are thinned out, not cut off.
    """
    stepper = make_stepper(copy.deepcopy(network), config)
    began = clock()
    losses = [float(stepper(batch, 0, 10**9, calm=rates[0] / config.lr))]
    each = max(1e-9, clock() - began)
    affordable = max(3, min(len(rates), int(SECONDS / each)))
    chosen = [rates[round(i * (len(rates) - 1) / (affordable - 1))] for i in range(affordable)]
    for number, rate in enumerate(chosen[1:], start=1):
        # A step's loss is the one before it moves: the last loss tells of the rate before.
        losses.append(float(stepper(batch, number, 10**9, calm=rate / config.lr)))
        if not math.isfinite(losses[-1]) or losses[-1] > 10 * losses[0] + 1:
            break
    return Trial(tuple(chosen[: len(losses)]), tuple(losses))


def _on_learning(trial: Trial, rate: float) -> Note:
    first, last = trial.losses[0], min(trial.losses[1:], default=trial.losses[0])
    told = f"in {len(trial.losses) - 1} steps at {rate:g}: loss {first:.3f} to {last:.3f}"
    if last <= LEARNED * first:
        return Note(f"Sanity: two images are learned {told}.")
    return Note(
        f"Sanity: two images are hardly learned {told}. Do the labels lie on the things "
        "(fcnseg check)? Is --lr too small or too large?",
        "warning",
    )


def _on_rates(trial: Trial, rate: float) -> Note:
    """Where the loss fell fastest, and where it broke."""
    falls = [
        (before - after, used)
        for before, after, used in zip(trial.losses, trial.losses[1:], trial.rates, strict=False)
    ]
    best = max(falls)[1]
    broke = next((used for fall, used in falls if fall < -0.5 * trial.losses[0]), None)
    text = f"Sanity: the loss falls fastest at learning rates around {best:.1g}"
    text += f" and breaks at {broke:.1g}" if broke else ""
    too_high = broke is not None and rate >= broke
    text += f"; --lr is {rate:g}" + (", which is too high." if too_high else ".")
    return Note(text, "warning" if too_high else "info")


def _on_cost(device: torch.device, images: int, seconds: float) -> Note:
    text = f"Sanity: a step of {images} images takes {seconds:.2g} s"
    if device.type == "cuda":
        text += f" and {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    return Note(f"{text}.")
