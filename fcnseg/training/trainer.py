"""Epochs of steps: watched, validated, saved, and stopped without losing anything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import NoReturn

import torch

from fcnseg.config import TrainConfig
from fcnseg.datasets.loader import Batch, BatchSampler, Pace
from fcnseg.errors import Interrupted, TrainingError
from fcnseg.metrics import Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import Callback, EpochEnd, Event, Message, Progress, StopSignal
from fcnseg.training.run_folder import RunFolder, TrainState, load_state, save_state
from fcnseg.training.step import TrainStep

Feed = Callable[[int], Generator[Batch, None, None]]
"""The batches from a step to the end."""

Validate = Callable[[int, Callback], Report]

LOOK_EVERY = 10
"""Steps between looks at the loss on a GPU: looking waits for it."""

ANNOUNCED_AFTER = 10
"""Steps after which the time that a training will take is known well enough."""

LONG_MINUTES = 10
"""A training that takes longer says so."""

ROLLBACKS = 3
"""How often training goes back to the last good state before it gives up."""

ABOUT = ("classes", "preprocess")
"""What the state says of the network besides its weights."""

SAVING_FRACTION = 0.03
"""Of the time, at most this much is spent on saving between epochs."""


class _NotFiniteError(Exception):
    """The loss is not a number; raised and caught within this module."""


class Trainer:
    """Runs a training from where its state is to its end.

    run: where everything is kept. state: how far it has come (it is moved on).
    feed(step): the batches from a step on. validate(epoch, callback): scores
        the average.
    checkpoint: a checkpoint in which only weights and report are to be replaced.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        sampler: BatchSampler,
        state: TrainState,
        *,
        train_step: TrainStep,
        feed: Feed,
        validate: Validate,
        checkpoint: Checkpoint,
        callback: Callback,
    ) -> None:
        self.run, self.config, self.sampler, self.state = run, config, sampler, state
        self.train_step, self.feed, self.validate = train_step, feed, validate
        self.checkpoint, self.callback = checkpoint, callback
        self.ranks = train_step.ranks
        self._batches: Generator[Batch, None, None] | None = None
        self._losses: list[torch.Tensor] = []
        self._pace = Pace()
        self._saved_at = time.monotonic()
        self._saving = 0.0
        self._validation_seconds = 0.0

    def fit(self) -> None:
        """Train to the end; Interrupted after a signal, TrainingError when it can't go on."""
        with StopSignal() as stop:
            if self.state.step == 0:
                self._save()  # there is a good state from the first step on
            try:
                while not self.is_over():
                    self._epoch(stop)
            finally:
                self._close_feed()

    def is_over(self) -> bool:
        """Whether all epochs are done, or patience is."""
        return len(self.state.rows) >= self.config.epochs or self._is_patience_over()

    def _epoch(self, stop: StopSignal) -> None:
        """The rest of the epoch under way, and its validation."""
        end = (len(self.state.rows) + 1) * self.sampler.epoch_steps
        try:
            while self.state.step < end:
                self._step()
                if self._must_stop(stop):
                    self._look()
                    self._interrupt()
            self._look()
        except _NotFiniteError:
            self._roll_back()
            return
        self._finish_epoch(stop)

    def _step(self) -> None:
        state, began = self.state, time.perf_counter()
        if self._batches is None:
            self._batches = self.feed(state.step)
        batch = next(self._batches)
        loss = self._with_less_memory(batch)
        self._losses.append(loss)
        state.step += 1
        if len(self._losses) >= self._look_every():
            self._look()
        seconds = time.perf_counter() - began
        state.seconds += seconds
        state.epoch_seconds += seconds
        self._pace.add(self.sampler.step_images(state.step - 1), seconds)
        if self._pace.steps == ANNOUNCED_AFTER:
            self._announce()
        self._tell_step()
        if time.monotonic() - self._saved_at >= self._save_pause():
            self._look()
            self._save()

    def _announce(self) -> None:
        """Say how long it will take, where that is long."""
        steps = self.sampler.steps - self.state.step
        minutes = steps * self._pace.seconds_a_step / 60
        if minutes >= LONG_MINUTES:
            text = (
                f"This takes about {minutes:.0f} minutes: {steps} more steps, in "
                f"{self.config.epochs} epochs. Fewer --epochs take less; Ctrl-C saves everything."
            )
            self.callback(Message(text))

    def _must_stop(self, stop: StopSignal) -> bool:
        """Whether some rank wants to stop; on GPUs asked now and then, asking waits for them."""
        if self.ranks.size > 1 and self.state.step % self._look_every():
            return False
        return self.ranks.any(stop.requested)

    def _look_every(self) -> int:
        return 1 if self.ranks.device.type == "cpu" else LOOK_EVERY

    def _with_less_memory(self, batch: Batch) -> torch.Tensor:
        """A step; where memory runs out, the same in twice as many micro-batches, from then on."""
        state = self.state
        while True:
            try:
                step, of, lr_scale = state.step, self.sampler.steps, state.lr_scale
                micro_batches = state.micro_batches
                return self.train_step(
                    batch, step, of, micro_batches=micro_batches, lr_scale=lr_scale
                )
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(len(batch.images))

    def _halve(self, images: int) -> None:
        state = self.state
        if state.micro_batches >= images or self.ranks.size > 1:
            raise TrainingError(
                f"Memory ran out at step {state.step + 1} with {images} images in "
                f"{state.micro_batches} micro-batches.",
                hint="take a smaller --crop, --batch or network; "
                f"{self.run.folder} keeps the last good state",
            )
        state.micro_batches = min(images, state.micro_batches * 2)
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"Memory ran out: each step is now computed in {state.micro_batches} micro-batches."
        self.callback(Message(text, "warning"))

    def _look(self) -> None:
        """Read the losses of the last steps; raise if one is not a number."""
        for loss, aux in torch.stack(self._losses).tolist() if self._losses else []:
            if not math.isfinite(loss + aux):
                raise _NotFiniteError
            self.state.loss_sum += loss
            self.state.aux_sum += aux
            self.state.loss_steps += 1
        self._losses.clear()

    def _roll_back(self) -> None:
        """Continue from the last saved state with half the learning rate; in the end, give up."""
        lr_scale, rollbacks, step = (
            self.state.lr_scale / 2,
            self.state.rollbacks + 1,
            self.state.step,
        )
        self._losses.clear()
        self._close_feed()
        if rollbacks > ROLLBACKS:
            raise TrainingError(
                f"The loss is not a number at step {step}, again after {ROLLBACKS} returns to a "
                f"good state; {self.run.folder} keeps the last one.",
                hint="start anew with a lower --lr, a --clip, or --precision f32",
            )
        self.ranks.barrier()
        self.state, tensors = load_state(self.run.state)
        self.state.lr_scale, self.state.rollbacks = lr_scale, rollbacks
        self.train_step.restore(tensors)
        self._save()
        self.callback(
            Message(
                f"The loss is not a number at step {step}: back to step {self.state.step}, "
                f"with {lr_scale:g} times the learning rate.",
                "warning",
            )
        )

    def _finish_epoch(self, stop: StopSignal) -> None:
        """Score the average, write the checkpoints, the row and the state, in this order.

        A kill in between loses nothing: the state still says that the epoch is unscored.
        """
        state, began = self.state, time.perf_counter()
        report = self.validate(len(state.rows) + 1, self._stopping(stop))
        self._validation_seconds = time.perf_counter() - began
        state.seconds += self._validation_seconds
        miou = 0.0 if math.isnan(report.miou) else report.miou
        best = miou > state.best
        state.best = max(state.best, miou)
        row = self._row(report)
        if self.ranks.main:
            self._write_checkpoints(report, best=best)
        state.rows.append({**row, **{f"iou {name}": iou for name, iou in report.class_iou.items()}})
        state.loss_sum = state.aux_sum = state.epoch_seconds = 0.0
        state.loss_steps = 0
        self._save()
        if self.ranks.main:
            self.run.write_results(state.rows)
        self.callback(EpochEnd(len(state.rows), self.config.epochs, row, report.class_iou, best))
        if self._is_patience_over():
            text = f"No better mIoU for {self.config.patience} epochs: training ends early."
            self.callback(Message(text))

    def _row(self, report: Report) -> dict[str, float | int]:
        state = self.state
        epoch_images = sum(map(self.sampler.step_images, range(self.sampler.epoch_steps)))
        return {
            "epoch": len(state.rows) + 1,
            "loss": state.loss_sum / max(1, state.loss_steps),
            "miou": 0.0 if math.isnan(report.miou) else report.miou,
            "pixel_accuracy": report.pixel_accuracy,
            "mean_accuracy": report.mean_accuracy,
            "fw_iou": report.fw_iou,
            "lr": self._rate(),
            "images_per_second": epoch_images / max(1e-9, state.epoch_seconds),
            "seconds": state.epoch_seconds + self._validation_seconds,
            "aux_loss": state.aux_sum / max(1, state.loss_steps),
        }

    def _write_checkpoints(self, report: Report, *, best: bool) -> None:
        network = self.train_step.average.network
        scores = {**report.as_dict(), "epoch": len(self.state.rows) + 1}
        checkpoint = replace(self.checkpoint, weights=network.state_dict(), report=scores)
        checkpoint.save(self.run.last)
        if best:
            checkpoint.save(self.run.best)

    def _is_patience_over(self) -> bool:
        scores = [row["miou"] or 0.0 for row in self.state.rows] or [0.0]
        waited = len(scores) - 1 - scores.index(max(scores))
        return 0 < self.config.patience <= waited

    def _stopping(self, stop: StopSignal) -> Callback:
        """A callback that interrupts the validation when the user wants to stop."""

        def listen(event: Event) -> None:
            self.callback(event)
            if stop.requested and self.ranks.size == 1:
                self._interrupt()

        return listen

    def _interrupt(self) -> NoReturn:
        self._save()
        done, state = len(self.state.rows), self.state
        inside = state.step - done * self.sampler.epoch_steps
        raise Interrupted(
            f"Stopped in epoch {done + 1} of {self.config.epochs}, after {inside} of its "
            f"{self.sampler.epoch_steps} steps; everything is saved in {self.run.folder}.",
            hint=f"resume with: fcnseg train {self.run.folder} --resume",
        )

    def _save(self) -> None:
        began = time.monotonic()
        if self.ranks.main:
            about = {name: getattr(self.checkpoint, name).as_dict() for name in ABOUT}
            save_state(self.run.state, self.state, {**about, **self.train_step.tensors()})
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - began

    def _save_pause(self) -> float:
        """Seconds between saves; a huge network is saved less often than it was asked for."""
        wanted = self.config.save_every
        return wanted if wanted == 0 else max(wanted, self._saving / SAVING_FRACTION)

    def _rate(self) -> float:
        """The last step's learning rate."""
        return self.train_step.rate(self.state.step - 1, self.sampler.steps, self.state.lr_scale)

    def _close_feed(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _tell_step(self) -> None:
        state, sampler = self.state, self.sampler
        inside = state.step - len(state.rows) * sampler.epoch_steps
        images = min(inside * sampler.batch, sampler.images)
        epochs_left = self.config.epochs - len(state.rows)
        left = (sampler.steps - state.step) * self._pace.seconds_a_step
        values: dict[str, float | int | str] = {}
        if state.loss_steps:
            values["loss"] = state.loss_sum / state.loss_steps
        values |= {
            "lr": self._rate(),
            "images/s": self._pace.images_a_second,
            "left": left + epochs_left * self._validation_seconds,
        }
        task = f"epoch {len(state.rows) + 1}/{self.config.epochs}"
        self.callback(Progress(task, images, sampler.images, "images", values))


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or in the machine (which torch tells as RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )
