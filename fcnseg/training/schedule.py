"""How long a training is: a number of epochs, or a time that everything about it fits into.

Of a time (--minutes) no number of steps is planned that a busy machine could overrun. The clock
says how much of it has passed; the learning rate follows that, so it ends on time at any speed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from fcnseg.config import TrainConfig
from fcnseg.datasets.loader import BatchSampler, Pace
from fcnseg.training.run_folder import TrainState

ENDLESS = 10**6
"""Epochs that a training by the clock never gets through."""

VALIDATE_AFTER = 4.0
"""Epochs are scored as soon as steps have taken so many times the time of a validation."""

MOST_AFTER = 0.5
"""Of the time, at most this much is kept free for what follows the last step."""

CALIBRATION, REPORT = 0.5, 3.0
"""How long they take: as so many validations."""

SAVING, OPENING_REPORT = 2.0, 6.0
"""Seconds that do not depend on the images."""


@dataclass
class EpochSchedule:
    """So many epochs. Its state is how far the training has come."""

    sampler: BatchSampler

    def steps(self, state: TrainState) -> float:
        """Of how many steps the next one is, for the learning rate."""
        del state
        return self.sampler.steps

    def seconds_left(self, state: TrainState, pace: Pace, validation: float) -> float:
        """How long the rest takes, with validations of so many seconds."""
        steps = (self.sampler.steps - state.step) * pace.seconds_a_step
        return steps + (self.sampler.epochs - len(state.rows)) * validation

    def ends_epoch(self, state: TrainState, seconds_a_step: float, validation: float) -> bool:
        """Whether the network is scored now. validation: how long that took before, in seconds."""
        del seconds_a_step, validation
        return state.step >= (len(state.rows) + 1) * self.sampler.epoch_steps

    def is_over(self, state: TrainState) -> bool:
        """Whether the last step has been scored."""
        return len(state.rows) >= self.sampler.epochs

    def note(self, state: TrainState) -> None:
        """Write into the state what a later process has to know."""

    def length(self) -> str:
        """The number of epochs, after "epoch 3"."""
        return f" of {self.sampler.epochs}"

    def announcement(self, state: TrainState, pace: Pace) -> str:
        """What is said after the first steps; "" for a short training."""
        left = self.sampler.steps - state.step
        minutes = left * pace.seconds_a_step / 60
        if minutes < LONG_MINUTES:
            return ""
        return (
            f"This takes about {minutes:.0f} minutes: {left} more steps, in "
            f"{self.sampler.epochs} epochs. Fewer --epochs take less; Ctrl-C saves everything."
        )


LONG_MINUTES = 10
"""A training that takes longer says so."""


class TimeSchedule(EpochSchedule):
    """So many seconds, from the start of the command to its end, over all resumed parts.

    validation_steps: about how many steps' time a validation takes, before the first one.
    began: when this process began, by time.monotonic(). before: seconds spent by earlier ones.
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
        self._kept_free, self._ending = self._fixed, False
        self._scored_at = self.spent()

    def spent(self) -> float:
        """Seconds since the training was first started, without those between two parts."""
        return self._before + time.monotonic() - self._began

    def _left(self) -> float:
        """Seconds until the last step."""
        return self.seconds - self._kept_free - self.spent()

    def _validation(self, seconds_a_step: float, measured: float) -> float:
        return measured or self._validation_steps * seconds_a_step

    def steps(self, state: TrainState) -> float:
        """The step is as far along as the time is."""
        spent = self.spent()
        passed = spent / max(self.seconds - self._kept_free, 1e-9)
        return (state.step + 1) / min(1.0, max(passed, 1e-6))

    def seconds_left(self, state: TrainState, pace: Pace, validation: float) -> float:
        """By the clock."""
        del state, pace, validation
        return max(0.0, self.seconds - self.spent())

    def ends_epoch(self, state: TrainState, seconds_a_step: float, validation: float) -> bool:
        """At the end of the time, and after a full epoch where that is not too often."""
        seconds = self._validation(seconds_a_step, validation)
        self._kept_free = min(self._fixed + self._after * seconds, MOST_AFTER * self.seconds)
        self._ending = self._left() <= seconds_a_step / 2
        full = state.step % self.sampler.epoch_steps == 0
        due = self.spent() - self._scored_at >= VALIDATE_AFTER * seconds
        return self._ending or (full and due and self._left() > seconds + seconds_a_step)

    def note(self, state: TrainState) -> None:
        """How much time is spent; after an epoch was scored, whether it was the last one."""
        state.spent = self.spent()
        if state.epoch_seconds == 0:
            self._scored_at = state.spent
            if self._ending:
                state.ended_at = self.seconds

    def is_over(self, state: TrainState) -> bool:
        """Whether the last step was scored when this time, or a longer one, was over."""
        return state.ended_at >= self.seconds

    def length(self) -> str:
        """Nothing: how many epochs fit is known at the end."""
        return ""

    def announcement(self, state: TrainState, pace: Pace) -> str:
        """How much fits into the time, by the first steps."""
        seconds = pace.seconds_a_step
        left = max(0.0, self._left() / max(seconds, 1e-9))
        text = (
            f"--minutes {self.seconds / 60:g}: about {left:.0f} more steps of {seconds:.2g} s "
            f"fit, {(state.step + left) / self.sampler.epoch_steps:.1f} epochs, and "
            f"{self._kept_free:.0f} s for what follows them. The learning rate follows the clock."
        )
        if state.step + left < FEW_STEPS:
            text += " That is little: a smaller --crop, --backbone or --batch gives more steps."
        return text


FEW_STEPS = 200
"""Fewer do not get far from ImageNet's weights."""


def make_schedule(
    config: TrainConfig,
    sampler: BatchSampler,
    state: TrainState,
    *,
    validation_steps: float,
    began: float,
) -> EpochSchedule:
    """What --epochs or --minutes say; the last two as TimeSchedule has them."""
    if not config.minutes:
        return EpochSchedule(sampler)
    return TimeSchedule(
        sampler,
        60 * config.minutes,
        validation_steps=validation_steps,
        calibrates=config.calibrate,
        reports=config.report,
        began=began,
        before=state.spent,
    )
