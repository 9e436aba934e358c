"""Length of a training, learning rate schedule, optimizer, weight averaging, freezing.

A training lasts a number of epochs, or a time (--minutes) that includes everything. With a time,
the learning rate follows the clock instead of a planned number of steps, so that the training ends
on time at any speed.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fcnseg.config import TrainConfig
from fcnseg.datasets.loader import BatchSampler, Pace
from fcnseg.errors import OptionError, counted
from fcnseg.models.fcn import FCN
from fcnseg.training.run_folder.state import TrainState

POWER = 0.9
"""The exponent of the poly schedule (Chen et al., DeepLab)."""


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Create AdamW or SGD for all parameters that are not frozen.

    Each group's "lr_scale" is the factor of its learning rate: the backbone's is --backbone-lr.
    No weight decay for norms, biases and upsampling.
    """
    groups = _groups(network, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    kinds = {parameter.device.type for parameter in network.parameters() if parameter.requires_grad}
    return torch.optim.AdamW(groups, lr=config.lr, fused=kinds <= {"cpu", "cuda"})


def _groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            lr_scale = config.backbone_lr if ".backbone." in f".{name}" else 1.0
            # Decay would shrink upsampling kernels to zero instead of bilinear interpolation.
            decays = parameter.ndim > 1 and ".upsamples." not in name
            decay = config.weight_decay if decays else 0.0
            groups.setdefault((lr_scale, decay), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": lr_scale, "weight_decay": decay}
        for (lr_scale, decay), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, scaled by each group's lr_scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def rate_factor(step: int, steps: float, *, warmup: float, schedule: str) -> float:
    """The learning rate of a step (from 0), as a factor of the peak.

    It rises linearly over the first `warmup` fraction of the steps, then falls to 0 as
    (1 - t) ** 0.9 ("poly") or (1 + cos(pi t)) / 2 ("cosine").
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1, steps - rising)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return float((1 - done) ** POWER)


N = TypeVar("N", bound=nn.Module)


class Average(Generic[N]):
    """Exponential moving average (EMA) of a network's weights.

    network: a copy in eval mode with the averaged weights and normalisation statistics.
    decay: of the EMA; lower in the first steps, to forget the random initialisation:
        min(decay, (1 + step) / (10 + step)). With 0 the copy equals the network.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average with the network's weights after a step (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        ours, theirs = _tensors(self.network), _tensors(network)
        moving = [index for index, tensor in enumerate(ours) if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [ours[index] for index in moving], [theirs[index] for index in moving], 1 - keep
        )
        for mine, other in zip(ours, theirs, strict=True):
            if not mine.is_floating_point():
                mine.copy_(other)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def freeze(network: FCN, config: TrainConfig) -> None:
    """Freeze the first stages of the backbone (--freeze), and statistics (--freeze-norm).

    OptionError when the backbone has fewer stages.
    """
    stages = list(network.backbone.stages.values())
    frozen = config.freeze or 0
    if frozen > len(stages):
        raise OptionError(
            f"--freeze {frozen}: the backbone {network.spec.backbone} has {len(stages)} stages."
        )
    for stage in stages[:frozen]:
        stage.requires_grad_(False).eval()
    if config.freeze_norm:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


ENDLESS = 10**6
"""More epochs than a training with --minutes can reach."""

VALIDATE_AFTER = 4.0
"""Epochs are scored when steps have taken at least this many times as long as a validation."""

MAX_RESERVED = 0.5
"""Maximum fraction of the time that is reserved for the tasks after the last step."""

CALIBRATION, REPORT = 0.5, 3.0
"""Their duration, as a multiple of a validation's."""

SAVING, OPENING_REPORT = 2.0, 6.0
"""Their duration in seconds, which does not depend on the images."""


@dataclass
class EpochSchedule:
    """A training of a number of epochs (--epochs)."""

    sampler: BatchSampler

    def steps(self, state: TrainState) -> float:
        """The total number of steps, for the learning rate."""
        del state
        return self.sampler.steps

    def seconds_left(self, state: TrainState, pace: Pace, validation: float) -> float:
        """Estimate the remaining time. validation: duration of one, in seconds."""
        steps = (self.sampler.steps - state.step) * pace.seconds_a_step
        return steps + (self.sampler.epochs - len(state.rows)) * validation

    def ends_epoch(self, state: TrainState, seconds_a_step: float, validation: float) -> bool:
        """Whether to score the network now. validation: duration of the last one, in seconds."""
        del seconds_a_step, validation
        return state.step >= (len(state.rows) + 1) * self.sampler.epoch_steps

    def is_over(self, state: TrainState) -> bool:
        """Whether the last step has been scored."""
        return len(state.rows) >= self.sampler.epochs

    def note(self, state: TrainState) -> None:
        """Record in the state what a resuming process needs."""

    def length(self) -> str:
        """The number of epochs, for messages: "epoch 3 of 10"."""
        return f" of {self.sampler.epochs}"

    def announcement(self, state: TrainState, pace: Pace) -> str:
        """The message after the first steps; "" for a short training."""
        left = self.sampler.steps - state.step
        minutes = left * pace.seconds_a_step / 60
        if minutes < LONG_MINUTES:
            return ""
        steps, epochs = counted(left, "more step"), counted(self.sampler.epochs, "epoch")
        return (
            f"This takes about {minutes:.0f} minutes: {steps}, in {epochs}. Fewer --epochs take "
            "less; Ctrl-C saves everything."
        )


LONG_MINUTES = 10
"""The duration of longer trainings is announced."""


class TimeSchedule(EpochSchedule):
    """A training of a number of seconds (--minutes), from the start of the command to its end.

    validation_steps: estimated duration of the first validation, in steps.
    began: start of this process, by time.monotonic(). before: seconds spent by earlier processes
    that this one resumes.
    """

    def __init__(
        self,
        sampler: BatchSampler,
        seconds: float,
        *,
        validation_steps: float,
        calibrates: bool,
        reports: bool,
        began: float,
        before: float = 0.0,
    ) -> None:
        super().__init__(sampler)
        self.seconds, self._began, self._before = seconds, began, before
        self._validation_steps = validation_steps
        self._after = 1 + CALIBRATION * calibrates + REPORT * reports
        self._fixed = SAVING + OPENING_REPORT * reports
        self._reserved, self._ending = self._fixed, False
        self._scored_at = self.spent()

    def spent(self) -> float:
        """Seconds since the training was first started, without interruptions."""
        return self._before + time.monotonic() - self._began

    def _left(self) -> float:
        """Seconds until the last step."""
        return self.seconds - self._reserved - self.spent()

    def steps(self, state: TrainState) -> float:
        """The total number of steps such that the next step's progress is that of the clock."""
        spent = self.spent()
        passed = spent / max(self.seconds - self._reserved, 1e-9)
        return (state.step + 1) / min(1.0, max(passed, 1e-6))

    def seconds_left(self, state: TrainState, pace: Pace, validation: float) -> float:
        """The remaining time, by the clock."""
        del state, pace, validation
        return max(0.0, self.seconds - self.spent())

    def ends_epoch(self, state: TrainState, seconds_a_step: float, validation: float) -> bool:
        """At the end of the time, and after full epochs unless that is too often."""
        seconds = validation or self._validation_steps * seconds_a_step
        self._reserved = min(self._fixed + self._after * seconds, MAX_RESERVED * self.seconds)
        self._ending = self._left() <= seconds_a_step / 2
        full = state.step % self.sampler.epoch_steps == 0
        due = self.spent() - self._scored_at >= VALIDATE_AFTER * seconds
        return self._ending or (full and due and self._left() > seconds + seconds_a_step)

    def note(self, state: TrainState) -> None:
        """Record the time spent, and after the last epoch was scored, that the time is over."""
        state.spent = self.spent()
        if state.epoch_seconds == 0:
            self._scored_at = state.spent
            if self._ending:
                state.ended_at = self.seconds

    def is_over(self, state: TrainState) -> bool:
        """Whether the last step was scored at the end of this time, or of a longer one."""
        return state.ended_at >= self.seconds

    def length(self) -> str:
        """Empty: the number of epochs is not known in advance."""
        return ""

    def announcement(self, state: TrainState, pace: Pace) -> str:
        """The message after the first steps: how much fits into the time."""
        seconds = pace.seconds_a_step
        left = max(0.0, self._left() / max(seconds, 1e-9))
        text = (
            f"--minutes {self.seconds / 60:g}: about {left:.0f} more steps of {seconds:.2g} s "
            f"fit, {(state.step + left) / self.sampler.epoch_steps:.1f} epochs, and "
            f"{self._reserved:.0f} s for what follows them. The learning rate follows the clock."
        )
        if state.step + left < FEW_STEPS:
            text += " That is little: a smaller --crop, --backbone or --batch gives more steps."
        return text


FEW_STEPS = 200
"""With fewer, the weights hardly change from ImageNet's."""


def make_schedule(
    config: TrainConfig,
    sampler: BatchSampler,
    state: TrainState,
    *,
    validation_steps: float,
    began: float,
) -> EpochSchedule:
    """The schedule of --epochs or --minutes; the last two arguments as in TimeSchedule."""
    if not config.minutes:
        return EpochSchedule(sampler)
    return TimeSchedule(
        sampler,
        60 * config.minutes,
        validation_steps=validation_steps,
        calibrates=config.calibrate or config.adjust,
        reports=config.report,
        began=began,
        before=state.spent,
    )
