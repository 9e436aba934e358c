"""What a training is put together from, once the folder and the network are known."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from fcnseg.config import TrainConfig
from fcnseg.data.augment import Augment
from fcnseg.data.check import CheckResult
from fcnseg.data.dataset import SegmentationDataset, collate
from fcnseg.data.loading import choose_workers, load
from fcnseg.data.splits import Provenance
from fcnseg.data.suggest import suggest_epochs
from fcnseg.errors import OptionError
from fcnseg.evaluation import labels_of, score
from fcnseg.events import Listener, Note
from fcnseg.metrics import Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.fcn import FCN
from fcnseg.runtime.device import precision_name, resolve_precision
from fcnseg.runtime.engines import TorchEngine
from fcnseg.runtime.folding import joined
from fcnseg.runtime.ranks import Ranks
from fcnseg.runtime.segmenter import Segmenter
from fcnseg.training.board import with_board
from fcnseg.training.calibrate import best_temperature, cooled
from fcnseg.training.loop import Feed, Loop, Validate
from fcnseg.training.losses import Criterion, class_weights, parse_loss
from fcnseg.training.pictures import draw_same, draw_worst
from fcnseg.training.plan import Plan
from fcnseg.training.runs import Run
from fcnseg.training.sanity import look_before
from fcnseg.training.start import Start
from fcnseg.training.state import Track
from fcnseg.training.step import Stepper

COARSEST = 32
"""The stride at which a map is smallest."""


class Parts:
    """Makes each of them for one folder, one network and these ranks.

    pictures, held_out: the images to learn from and those to be scored on.
    """

    def __init__(
        self, start: Start, checked: CheckResult, ranks: Ranks, listener: Listener
    ) -> None:
        self.config, self.start, self.ranks = start.config, start, ranks
        self.checked, self.listener = checked, listener
        self.classes = checked.description.classes
        self.precision = resolve_precision(start.config.precision, ranks.device)
        self.workers = choose_workers(start.config.workers, ranks.device.type)
        self.pictures = self._dataset("train", augment=self._augment())
        has_val = bool(checked.splits.get("val"))
        self.held_out = self._dataset("val" if has_val else "train")
        if not has_val:
            text = "There are no validation images: scores are of the training images themselves."
            listener(Note(text, "warning"))

    def _dataset(self, split: str, augment: Augment | None = None) -> SegmentationDataset:
        return SegmentationDataset(
            self.checked.description,
            split,
            augment=augment,
            preprocess=self.start.preprocess,
            seed=self.config.seed,
        )

    def _augment(self) -> Augment:
        config = self.config
        assert config.crop is not None
        rarity = class_weights(self.checked.train_pixels, "sqrt").tolist()
        return Augment(
            config.crop,
            scale=config.scale,
            flip=config.flip,
            color=config.color,
            rare=config.rare_crops,
            rarity=tuple(rarity),
            rotate=config.rotate,
            mix=config.mix,
            mix_share=config.mix_share,
        )

    def _reasons(self) -> dict[str, str]:
        """Why the data calls for the options that are as suggested."""
        suggested = self.checked.suggestion
        if suggested is None:
            return {}
        ours = self.config.as_dict()
        epochs, why_epochs = suggest_epochs(len(self.pictures), ours["batch"])
        values = {**suggested.as_dict(), "epochs": epochs}
        reasons = {**suggested.reasons, "epochs": why_epochs}
        return {name: why for name, why in reasons.items() if ours[name] == values[name]}

    def plan(self) -> Plan:
        """Which images each step takes."""
        config, ranks = self.config, self.ranks
        assert config.batch != "auto", "it is decided by now"
        plan = Plan(
            images=len(self.pictures),
            batch=config.batch,
            epochs=config.epochs,
            seed=config.seed,
            rank=ranks.rank,
            ranks=ranks.size,
        )
        least = min(map(plan.step_images, range(plan.epoch_steps))) // config.accumulate
        if least <= ranks.size and max(config.crop or (0,)) <= COARSEST and not config.freeze_norm:
            raise OptionError(
                f"A crop of {_text(config.crop)} and one image at a time leave batch norm a single "
                "value to take the variance of.",
                hint="take a larger --crop, a --batch of two or more, or --freeze-norm",
            )
        return plan

    def stepper(self, network: FCN | None = None, config: TrainConfig | None = None) -> Stepper:
        """What a step changes; of another network or with other options on demand."""
        config = config or self.config
        weights = class_weights(self.checked.train_pixels, config.class_weights)
        return Stepper(
            network or self.start.network,
            config,
            criterion=Criterion(
                parse_loss(config.loss),
                weights.to(self.ranks.device),
                smoothing=config.label_smoothing,
            ),
            preprocess=self.start.preprocess,
            ranks=self.ranks,
            precision=self.precision,
        )

    def look_before(self, plan: Plan) -> None:
        """The sanity check, in the main process alone."""
        batch = collate([self.pictures[key] for key in next(plan.keys(0))])
        alone = replace(self.ranks, rank=0, size=1)
        parts = Parts(self.start, self.checked, alone, self.listener)
        look_before(self.start.network, self.config, batch, parts.stepper, self.listener)

    def feed(self, plan: Plan) -> Feed:
        """The batches from a step to the end, made ahead of time."""
        pin = self.ranks.device.type == "cuda"
        return lambda step: load(
            self.pictures, plan.keys(step), collate, workers=self.workers, pin=pin
        )

    def validation(self, stepper: Stepper, run: Run) -> Validate:
        """Scores the averaged network on the validation images, at their own resolution."""
        network, ranks, every = stepper.average.network, self.ranks, self.config.pictures

        def validate(epoch: int, listener: Listener) -> Report:
            ranks.share_buffers(network)
            predict = labels_of(self._segmenter(network, self.precision))
            report = score(
                predict,
                self.held_out,
                listener,
                workers=self.workers,
                ranks=ranks,
                task="validation",
            )
            if every and ranks.main and epoch % every == 0:
                draw_same(predict, self.held_out, run.pictures, epoch=epoch)
            return report

        return validate

    def _segmenter(self, network: FCN, precision: torch.dtype) -> Segmenter:
        """Of the network as it is now: it may go on learning."""
        device, preprocess = self.ranks.device, self.start.preprocess
        copy = joined(deepcopy(network), device=device, precision=precision)
        engine = TorchEngine(copy, preprocess, device=device, precision=precision)
        return Segmenter(engine, self.classes, preprocess)

    def loop(self, run: Run, plan: Plan, track: Track, stepper: Stepper) -> Loop:
        """The loop from where the track is; the run folder gets its config and table."""
        config, start = self.config, self.start
        if self.ranks.main:
            run.write_config(config, self._reasons())
            run.write_results(track.rows)
        self.listener(Note(self.summary(run)))
        listener = self.listener
        if config.tensorboard and self.ranks.main:
            listener = with_board(listener, run.folder / "tensorboard", epochs_done=len(track.rows))
        return Loop(
            run,
            config,
            plan,
            track,
            stepper=stepper,
            feed=self.feed(plan),
            validate=self.validation(stepper, run),
            checkpoint=Checkpoint(
                start.network.spec,
                start.preprocess,
                self.classes,
                weights={},
                extra={
                    "encoding": self.checked.description.encoding.as_dict(),
                    "trained_on": vars(Provenance.of(self.checked.description)),
                },
            ),
            listener=listener,
        )

    def finish(self, run: Run) -> None:
        """What is done with the best checkpoint when training is over; once."""
        best = Checkpoint.load(run.best)
        network = best.build()
        if self.config.calibrate and "temperature" not in best.extra:
            exact = self._segmenter(network, torch.float32)
            temperature = best_temperature(exact.logits, self.held_out)
            cooled(best, temperature).save(run.best)
            text = "Probabilities calibrated on the validation images"
            self.listener(Note(f"{text}: temperature {temperature:.2f}"))
        if self.config.pictures:
            predict = labels_of(self._segmenter(network, self.precision))
            draw_worst(predict, self.held_out, run.pictures)

    def summary(self, run: Run) -> str:
        """One line on what is trained, and on what."""
        config, spec = self.config, self.start.network.spec
        assert config.crop is not None
        weights = sum(parameter.numel() for parameter in self.start.network.parameters())
        return (
            f"{run.folder}: {spec.decoder} on {spec.backbone}, {weights / 1e6:.1f} M weights; "
            f"{len(self.pictures)} images in crops of {_text(config.crop)}, "
            f"{len(self.held_out)} to validate; "
            f"{self.ranks.device}, {precision_name(self.precision)}"
        )


def _text(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ())) + " (height x width)"
