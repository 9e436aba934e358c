"""Epochs of steps: watched, validated, saved, and stopped without losing anything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import NoReturn

import torch

from fcnseg.config import TrainConfig
from fcnseg.data.dataset import Batch
from fcnseg.errors import Interrupted, TrainingError
from fcnseg.events import EpochDone, Event, Listener, Note, Progress
from fcnseg.metrics import Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.training.plan import Plan
from fcnseg.training.runs import Run
from fcnseg.training.signals import StopWish
from fcnseg.training.state import Track, load_state, save_state
from fcnseg.training.step import Stepper

Feed = Callable[[int], Generator[Batch, None, None]]
"""The batches from a step to the end."""

Validate = Callable[[int, Listener], Report]

LOOK_EVERY = 10
"""Steps between looks at the loss on a GPU: looking waits for it."""

ROLLBACKS = 3
"""How often training goes back to the last good state before it gives up."""

ABOUT = ("classes", "preprocess")
"""What the state says of the network besides its weights."""

SAVING_SHARE = 0.03
"""Of the time, at most this much is spent on saving between epochs."""


class _NotFiniteError(Exception):
    """The loss is not a number; raised and caught within this module."""


class Loop:
    """Runs a training from where its track is to its end.

    run: where everything is kept. track: how far it has come (it is moved on).
    feed(step): the batches from a step on. validate(epoch, listener): scores
        the average.
    checkpoint: a checkpoint in which only weights and report are to be replaced.
    """

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        plan: Plan,
        track: Track,
        *,
        stepper: Stepper,
        feed: Feed,
        validate: Validate,
        checkpoint: Checkpoint,
        listener: Listener,
    ) -> None:
        self.run, self.config, self.plan, self.track = run, config, plan, track
        self.stepper, self.feed, self.validate = stepper, feed, validate
        self.checkpoint, self.listener = checkpoint, listener
        self.ranks = stepper.ranks
        self._batches: Generator[Batch, None, None] | None = None
        self._losses: list[torch.Tensor] = []
        self._pace = Pace()
        self._saved_at = time.monotonic()
        self._saving = 0.0
        self._validation_seconds = 0.0

    def go(self) -> None:
        """Train to the end; Interrupted after a signal, TrainingError when it can't go on."""
        with StopWish() as stop:
            if self.track.step == 0:
                self._save()  # there is a good state from the first step on
            try:
                while not self.is_over():
                    self._epoch(stop)
            finally:
                self._close_feed()

    def is_over(self) -> bool:
        """Whether all epochs are done, or patience is."""
        return len(self.track.rows) >= self.config.epochs or self._is_patience_over()

    def _epoch(self, stop: StopWish) -> None:
        """The rest of the epoch under way, and its validation."""
        end = (len(self.track.rows) + 1) * self.plan.epoch_steps
        try:
            while self.track.step < end:
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
        track, began = self.track, time.perf_counter()
        if self._batches is None:
            self._batches = self.feed(track.step)
        batch = next(self._batches)
        loss = self._with_less_memory(batch)
        self._losses.append(loss)
        track.step += 1
        if len(self._losses) >= self._look_every():
            self._look()
        seconds = time.perf_counter() - began
        track.seconds += seconds
        track.epoch_seconds += seconds
        self._pace.add(self.plan.step_images(track.step - 1), seconds)
        self._tell_step()
        if time.monotonic() - self._saved_at >= self._save_pause():
            self._look()
            self._save()

    def _must_stop(self, stop: StopWish) -> bool:
        """Whether some rank wants to stop; on GPUs asked now and then, asking waits for them."""
        if self.ranks.size > 1 and self.track.step % self._look_every():
            return False
        return self.ranks.any(stop.wished)

    def _look_every(self) -> int:
        return 1 if self.ranks.device.type == "cpu" else LOOK_EVERY

    def _with_less_memory(self, batch: Batch) -> torch.Tensor:
        """A step; where memory runs out, the same step in twice as many parts, from then on."""
        track = self.track
        while True:
            try:
                return self.stepper(
                    batch, track.step, self.plan.steps, parts=track.parts, calm=track.calm
                )
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(len(batch.images))

    def _halve(self, images: int) -> None:
        track = self.track
        if track.parts >= images or self.ranks.size > 1:
            raise TrainingError(
                f"Memory ran out at step {track.step + 1} with {images} images in "
                f"{track.parts} parts.",
                hint="take a smaller --crop, --batch or network; "
                f"{self.run.folder} keeps the last good state",
            )
        track.parts = min(images, track.parts * 2)
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"Memory ran out: each step is now computed in {track.parts} parts."
        self.listener(Note(text, "warning"))

    def _look(self) -> None:
        """Read the losses of the last steps; raise if one is not a number."""
        for loss in torch.stack(self._losses).tolist() if self._losses else []:
            if not math.isfinite(loss):
                raise _NotFiniteError
            self.track.loss_sum += loss
            self.track.loss_steps += 1
        self._losses.clear()

    def _roll_back(self) -> None:
        """Go on from the last saved state with half the learning rate; in the end, give up."""
        calm, rollbacks, step = self.track.calm / 2, self.track.rollbacks + 1, self.track.step
        self._losses.clear()
        self._close_feed()
        if rollbacks > ROLLBACKS:
            raise TrainingError(
                f"The loss is not a number at step {step}, again after {ROLLBACKS} returns to a "
                f"good state; {self.run.folder} keeps the last one.",
                hint="start anew with a lower --lr, a --clip, or --precision f32",
            )
        self.ranks.wait()
        self.track, tensors = load_state(self.run.state)
        self.track.calm, self.track.rollbacks = calm, rollbacks
        self.stepper.restore(tensors)
        self._save()
        self.listener(
            Note(
                f"The loss is not a number at step {step}: back to step {self.track.step}, "
                f"with {calm:g} times the learning rate.",
                "warning",
            )
        )

    def _finish_epoch(self, stop: StopWish) -> None:
        """Score the average, write the checkpoints, the row and the state, in this order.

        A kill in between loses nothing: the state still says that the epoch is unscored.
        """
        track, began = self.track, time.perf_counter()
        report = self.validate(len(track.rows) + 1, self._stopping(stop))
        self._validation_seconds = time.perf_counter() - began
        track.seconds += self._validation_seconds
        miou = 0.0 if math.isnan(report.miou) else report.miou
        best = miou > track.best
        track.best = max(track.best, miou)
        row = self._row(report)
        if self.ranks.main:
            self._write_checkpoints(report, best=best)
        track.rows.append({**row, **{f"iou {name}": iou for name, iou in report.class_iou.items()}})
        track.loss_sum, track.loss_steps, track.epoch_seconds = 0.0, 0, 0.0
        self._save()
        if self.ranks.main:
            self.run.write_results(track.rows)
        self.listener(EpochDone(len(track.rows), self.config.epochs, row, report.class_iou, best))
        if self._is_patience_over():
            text = f"No better mIoU for {self.config.patience} epochs: training ends early."
            self.listener(Note(text))

    def _row(self, report: Report) -> dict[str, float | int]:
        track = self.track
        epoch_images = sum(map(self.plan.step_images, range(self.plan.epoch_steps)))
        return {
            "epoch": len(track.rows) + 1,
            "loss": track.loss_sum / max(1, track.loss_steps),
            "miou": 0.0 if math.isnan(report.miou) else report.miou,
            "pixel_accuracy": report.pixel_accuracy,
            "mean_accuracy": report.mean_accuracy,
            "fw_iou": report.fw_iou,
            "lr": self._rate(),
            "images_per_second": epoch_images / max(1e-9, track.epoch_seconds),
            "seconds": track.epoch_seconds + self._validation_seconds,
        }

    def _write_checkpoints(self, report: Report, *, best: bool) -> None:
        network = self.stepper.average.network
        scores = {**report.as_dict(), "epoch": len(self.track.rows) + 1}
        checkpoint = replace(self.checkpoint, weights=network.state_dict(), report=scores)
        checkpoint.save(self.run.last)
        if best:
            checkpoint.save(self.run.best)

    def _is_patience_over(self) -> bool:
        scores = [row["miou"] or 0.0 for row in self.track.rows] or [0.0]
        waited = len(scores) - 1 - scores.index(max(scores))
        return 0 < self.config.patience <= waited

    def _stopping(self, stop: StopWish) -> Listener:
        """A listener that interrupts the validation when the user wants to stop."""

        def listen(event: Event) -> None:
            self.listener(event)
            if stop.wished and self.ranks.size == 1:
                self._interrupt()

        return listen

    def _interrupt(self) -> NoReturn:
        self._save()
        done, track = len(self.track.rows), self.track
        inside = track.step - done * self.plan.epoch_steps
        raise Interrupted(
            f"Stopped in epoch {done + 1} of {self.config.epochs}, after {inside} of its "
            f"{self.plan.epoch_steps} steps; everything is saved in {self.run.folder}.",
            hint=f"go on with: fcnseg train {self.run.folder} --resume",
        )

    def _save(self) -> None:
        began = time.monotonic()
        if self.ranks.main:
            about = {name: getattr(self.checkpoint, name).as_dict() for name in ABOUT}
            save_state(self.run.state, self.track, {**about, **self.stepper.tensors()})
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - began

    def _save_pause(self) -> float:
        """Seconds between saves; a huge network is saved less often than it was asked for."""
        wanted = self.config.save_every
        return wanted if wanted == 0 else max(wanted, self._saving / SAVING_SHARE)

    def _rate(self) -> float:
        """The last step's learning rate."""
        return self.stepper.rate(self.track.step - 1, self.plan.steps, self.track.calm)

    def _close_feed(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _tell_step(self) -> None:
        track, plan = self.track, self.plan
        inside = track.step - len(track.rows) * plan.epoch_steps
        images = min(inside * plan.batch, plan.images)
        epochs_left = self.config.epochs - len(track.rows)
        left = (plan.steps - track.step) * self._pace.seconds_a_step
        values: dict[str, float | int | str] = {}
        if track.loss_steps:
            values["loss"] = track.loss_sum / track.loss_steps
        values |= {
            "lr": self._rate(),
            "images/s": self._pace.images_a_second,
            "left": left + epochs_left * self._validation_seconds,
        }
        task = f"epoch {len(track.rows) + 1}/{self.config.epochs}"
        self.listener(Progress(task, images, plan.images, "images", values))


class Pace:
    """How fast steps go, the last ones counting most."""

    KEEP = 0.9

    def __init__(self) -> None:
        self._images = self._seconds = self._weight = 0.0

    def add(self, images: int, seconds: float) -> None:
        """Take note of a step."""
        self._images = self.KEEP * self._images + images
        self._seconds = self.KEEP * self._seconds + seconds
        self._weight = self.KEEP * self._weight + 1

    @property
    def images_a_second(self) -> float:
        """Over the last steps."""
        return self._images / max(1e-9, self._seconds)

    @property
    def seconds_a_step(self) -> float:
        """Over the last steps."""
        return self._seconds / max(1e-9, self._weight)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or in the machine (which torch tells as RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )
