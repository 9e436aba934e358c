"""The training loop: steps, validation, checkpoints, roll-backs, and stopping without loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import NoReturn, TypeVar

import torch

from fcnseg.config import TrainConfig
from fcnseg.datasets.loader import Batch, Pace
from fcnseg.errors import Interrupted, TrainingError, counted, is_out_of_memory, quoted
from fcnseg.metrics import Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Callback, EpochEnd, Event, Message, Progress, StopSignal
from fcnseg.training.run_folder import RunFolder
from fcnseg.training.run_folder.state import TrainState, load_state, save_state
from fcnseg.training.schedule import EpochSchedule
from fcnseg.training.step import TrainStep
from fcnseg.training.unlabeled import HARMFUL, Feed, harms

T = TypeVar("T")

Validate = Callable[[int, Callback], Report]

READ_EVERY = 10
"""Steps between reading the losses from a GPU, which synchronises with it."""

ANNOUNCED_AFTER, ANNOUNCED_SECONDS = 10, 5.0
"""Steps, or seconds of them, after which the duration of a training can be estimated."""

ROLLBACKS = 3
"""How often training returns to the last good state before it gives up."""

ABOUT = ("classes", "preprocess")
"""Fields of the checkpoint that are saved in the state."""

SAVING_FRACTION = 0.03
"""Maximum fraction of the time that is spent on saving between epochs."""


class _NotFiniteError(Exception):
    """What is not finite, as the start of a sentence; raised and caught within this module."""


class Trainer:
    """Runs a training from its state to the end.

    run: the output folder. schedule: the length. state: the progress, which is updated.
    feed(step): the batches from a step on. validate(epoch, callback): scores the averaged weights.
    checkpoint: the template, without weights and report.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        schedule: EpochSchedule,
        state: TrainState,
        *,
        train_step: TrainStep,
        feed: Feed,
        validate: Validate,
        checkpoint: Checkpoint,
        callback: Callback,
    ) -> None:
        self.run, self.config, self.schedule, self.state = run, config, schedule, state
        self.train_step, self.feed, self.validate = train_step, feed, validate
        self.checkpoint, self.callback = checkpoint, callback
        self.sampler, self.ranks = schedule.sampler, train_step.ranks
        self._batches: Generator[Batch, None, None] | None = None
        self._losses: list[torch.Tensor] = []
        self._pace = Pace()
        self._saved_at = time.monotonic()
        self._saving = 0.0
        self._validation_seconds = 0.0
        self._announced, self._of = False, schedule.steps(state)

    def fit(self) -> None:
        """Train to the end; Interrupted after a signal, TrainingError when it can't continue."""
        with StopSignal() as stop:
            if self.state.step == 0:
                self._save()  # for roll-backs in the first epoch
            try:
                while not self.is_over():
                    self._epoch(stop)
                if self.ranks.any(stop.requested):  # during validation of the last epoch
                    self._interrupt()
            finally:
                self._close_feed()

    def is_over(self) -> bool:
        """Whether all epochs are done, or patience is exhausted."""
        return self._agreed(self.schedule.is_over(self.state)) or self._is_patience_over()

    def _epoch(self, stop: StopSignal) -> None:
        """Run the rest of the current epoch and its validation."""
        try:
            while not self._ends_epoch():
                self._step()
                if self._must_stop(stop):
                    self._verify()
                    self._interrupt()
            self._verify()
        except _NotFiniteError as error:
            self._roll_back(str(error))
            return
        self._finish_epoch(stop)

    def _step(self) -> None:
        state, began = self.state, time.perf_counter()
        if self._batches is None:
            self._batches = self.feed(state.step)
        batch = next(self._batches)
        if state.unlabeled_off:
            batch = replace(batch, unlabeled=None)
        self._of = self._agreed(self.schedule.steps(state))
        loss = self._run_step(batch)
        self._losses.append(loss)
        state.step += 1
        if len(self._losses) >= self._read_every():
            self._read_losses()
        seconds = time.perf_counter() - began
        state.seconds += seconds
        state.epoch_seconds += seconds
        self._pace.add(self.sampler.step_images(state.step - 1), seconds)
        self._announce()
        self._report_step()
        pause = self.config.save_every  # huge networks are saved less often than requested
        pause = pause and max(pause, self._saving / SAVING_FRACTION)
        if time.monotonic() - self._saved_at >= pause:
            # Clocks differ between processes: several verify together, at the end of the epoch.
            self._verify() if self.ranks.size == 1 else self._read_losses()
            self._save()

    def _announce(self) -> None:
        """Report once how long it will take, or how much fits into the time."""
        pace = self._pace
        known = pace.steps > 1 and pace.steps * pace.seconds_a_step >= ANNOUNCED_SECONDS
        if self._announced or not (known or pace.steps >= ANNOUNCED_AFTER):
            return
        self._announced = True
        if text := self.schedule.announcement(self.state, pace):
            self.callback(Message(text))

    def _ends_epoch(self) -> bool:
        """Whether the epoch is over and has to be scored."""
        pace, seconds = self._pace.seconds_a_step, self._validation_seconds
        started = self.state.epoch_seconds > 0 or self.state.loss_steps > 0
        return self._agreed(started and self.schedule.ends_epoch(self.state, pace, seconds))

    def _agreed(self, value: T) -> T:
        """With --minutes, the main process's value, because clocks differ between processes."""
        return self.ranks.broadcast(value) if self.config.minutes else value

    @property
    def _epoch_number(self) -> int:
        """The epoch of the last step, from 1."""
        return max(1, -(-self.state.step // self.sampler.epoch_steps))

    def _must_stop(self, stop: StopSignal) -> bool:
        """Whether any rank has to stop; not checked at every step on GPUs: that synchronises."""
        if self.ranks.size > 1 and self.state.step % self._read_every():
            return False
        return self.ranks.any(stop.requested)

    def _read_every(self) -> int:
        return 1 if self.ranks.device.type == "cpu" else READ_EVERY

    def _run_step(self, batch: Batch) -> torch.Tensor:
        """Run a step; if memory runs out, double the number of micro-batches and repeat it."""
        state = self.state
        while True:
            try:
                step, of, lr_scale = state.step, self._of, state.lr_scale
                micro_batches = state.micro_batches
                return self.train_step(
                    batch, step, of, micro_batches=micro_batches, lr_scale=lr_scale
                )
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(batch.images))

    def _halve(self, images: int) -> None:
        state = self.state
        if state.micro_batches >= images or self.ranks.size > 1:
            raise TrainingError(
                f"Memory ran out at step {state.step + 1} with {images} images in "
                f"{state.micro_batches} micro-batches.",
                hint="use a smaller --crop, --batch or network; "
                f"{self.run.folder} keeps the last good state",
            )
        state.micro_batches = min(images, state.micro_batches * 2)
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"Memory ran out: each step is now computed in {state.micro_batches} micro-batches."
        self.callback(Message(text, "warning"))

    def _read_losses(self) -> None:
        """Read the losses of the last steps from the device; raise if one is not finite."""
        for losses in torch.stack(self._losses).tolist() if self._losses else []:
            if not math.isfinite(sum(losses)):
                raise _NotFiniteError("The loss is not a number")
            self.state.add(*losses)
        self._losses.clear()

    def _verify(self) -> None:
        """Read the losses before weights are saved or scored; raise, too, if those overflowed."""
        self._read_losses()
        if not self.train_step.is_finite():
            raise _NotFiniteError("Weights are not finite numbers")

    def _roll_back(self, why: str) -> None:
        """Return to the last saved state with half the learning rate; give up after ROLLBACKS."""
        before = self.state
        lr_scale, rollbacks, step = before.lr_scale / 2, before.rollbacks + 1, before.step
        self._losses.clear()
        self._close_feed()
        if rollbacks > ROLLBACKS:
            raise TrainingError(
                f"{why} at step {step}, again after {ROLLBACKS} returns to a good state; "
                f"{self.run.folder} keeps the last one.",
                hint="start a new run with a lower --lr, a --clip, or --precision f32",
            )
        self.ranks.barrier()
        self.state, tensors = load_state(self.run.state)
        self.state.lr_scale, self.state.rollbacks = lr_scale, rollbacks
        self.train_step.restore(tensors)
        self._save()
        text = f"{why} at step {step}: back to step {self.state.step}, with {lr_scale:g} times "
        self.callback(Message(f"{text}the learning rate.", "warning"))

    def _finish_epoch(self, stop: StopSignal) -> None:
        """Validate the averaged weights; write the checkpoints, the row and the state, in order.

        Being killed in between loses nothing: by the state the epoch is not scored yet.
        """
        state, began = self.state, time.perf_counter()
        report = self.validate(self._epoch_number, self._stopping(stop))
        self._validation_seconds = time.perf_counter() - began
        state.seconds += self._validation_seconds
        row = self._row(report)
        best = row["miou"] > state.best or not self.run.best.exists()
        state.best = max(state.best, row["miou"])
        if self.ranks.main:
            self._write_checkpoints(report, best=best)
        state.rows.append({**row, **{f"iou {name}": iou for name, iou in report.class_iou.items()}})
        state.end_epoch()
        if self.config.unlabeled and not state.unlabeled_off and harms(state.rows):
            state.unlabeled_off = True
            self.callback(Message(HARMFUL, "warning"))
        self._save()
        if self.ranks.main:
            self.run.write_results(state.rows)
        self.callback(EpochEnd(self._epoch_number, self.config.epochs, row, report.class_iou, best))
        if text := self.train_step.criterion.divergence([one["loss"] or 0.0 for one in state.rows]):
            self.callback(Message(f"{text} {self.config.lr:g}.", "warning"))
        if self._is_patience_over():
            waited = counted(self.config.patience, "epoch")
            self.callback(Message(f"No better mIoU for {waited}: training ends early."))

    def _row(self, report: Report) -> dict[str, float | int]:
        state = self.state
        scored = state.scored_step or len(state.rows) * self.sampler.epoch_steps
        epoch_images = sum(map(self.sampler.step_images, range(scored, state.step)))
        return {
            "epoch": self._epoch_number,
            "loss": state.loss_sum / max(1, state.loss_steps),
            "miou": 0.0 if math.isnan(report.miou) else report.miou,
            "pixel_accuracy": report.pixel_accuracy,
            "mean_accuracy": report.mean_accuracy,
            "fw_iou": report.fw_iou,
            "lr": self._rate(),
            "images_per_second": epoch_images / max(1e-9, state.epoch_seconds),
            "seconds": state.epoch_seconds + self._validation_seconds,
            "aux_loss": state.aux_sum / max(1, state.loss_steps),
            **state.unlabeled_row(),
        }

    def _write_checkpoints(self, report: Report, *, best: bool) -> None:
        network = self.train_step.average.network
        scores = {**report.as_dict(), "epoch": self._epoch_number}
        checkpoint = replace(self.checkpoint, weights=network.state_dict(), report=scores)
        checkpoint.save(self.run.last)
        if best:
            checkpoint.save(self.run.best)

    def _is_patience_over(self) -> bool:
        return self.state.is_patience_over(self.config.patience)

    def _stopping(self, stop: StopSignal) -> Callback:
        """A callback that interrupts the validation when a stop is requested."""

        def check(event: Event) -> None:
            self.callback(event)
            if stop.requested and self.ranks.size == 1:
                self._interrupt()

        return check

    def _interrupt(self) -> NoReturn:
        self._save()
        number = self._epoch_number
        inside = self.state.step - (number - 1) * self.sampler.epoch_steps
        raise Interrupted(
            f"Stopped in epoch {number}{self.schedule.length()}, after {inside} of its "
            f"{self.sampler.epoch_steps} steps; everything is saved in {self.run.folder}.",
            hint=f"resume with: fcnseg train {quoted(self.run.folder)} --resume",
        )

    def _save(self) -> None:
        began = time.monotonic()
        self.schedule.note(self.state)
        if self.ranks.main:
            about = {name: getattr(self.checkpoint, name).as_dict() for name in ABOUT}
            about["options"] = self.config.as_dict()
            save_state(self.run.state, self.state, {**about, **self.train_step.tensors()})
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - began

    def _rate(self) -> float:
        """The last step's learning rate."""
        return self.train_step.rate(self.state.step - 1, self._of, self.state.lr_scale)

    def _close_feed(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _report_step(self) -> None:
        state, sampler = self.state, self.sampler
        number = self._epoch_number
        inside = state.step - (number - 1) * sampler.epoch_steps
        images = min(inside * sampler.batch, sampler.images)
        values: dict[str, float | int | str] = {}
        if state.loss_steps:
            values["loss"] = state.loss_sum / state.loss_steps
        values |= {
            "lr": self._rate(),
            "images/s": self._pace.images_a_second,
            "left": self.schedule.seconds_left(state, self._pace, self._validation_seconds),
        }
        task = f"epoch {number}" + (f"/{sampler.epochs}" if self.config.epochs else "")
        self.callback(Progress(task, images, sampler.images, "images", values))
