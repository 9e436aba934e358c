"""What a training is put together from, once the folder and the network are known."""

from __future__ import annotations

from dataclasses import replace

from fcnseg.config import TrainConfig
from fcnseg.data.augment import Augment
from fcnseg.data.check import CheckResult
from fcnseg.data.dataset import SegmentationDataset, collate
from fcnseg.data.loading import choose_workers, load
from fcnseg.evaluation import labels_of, score
from fcnseg.events import Listener, Note
from fcnseg.fcn.checkpoint import Checkpoint
from fcnseg.fcn.ladder import FCN
from fcnseg.metrics import Report
from fcnseg.runtime.device import precision_name, resolve_precision
from fcnseg.runtime.engines import TorchEngine
from fcnseg.runtime.ranks import Ranks
from fcnseg.runtime.segmenter import Segmenter
from fcnseg.training.board import with_board
from fcnseg.training.calibrate import best_temperature, cooled
from fcnseg.training.loop import Feed, Loop, Validate
from fcnseg.training.losses import Criterion, class_weights, parse_loss
from fcnseg.training.plan import Plan
from fcnseg.training.runs import Run
from fcnseg.training.sanity import look_before
from fcnseg.training.start import Start
from fcnseg.training.state import Track
from fcnseg.training.step import Stepper


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
        )

    def plan(self) -> Plan:
        """Which images each step takes."""
        config, ranks = self.config, self.ranks
        assert config.batch != "auto", "it is decided by now"
        return Plan(
            images=len(self.pictures),
            batch=config.batch,
            epochs=config.epochs,
            seed=config.seed,
            rank=ranks.rank,
            ranks=ranks.size,
        )

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

    def validation(self, stepper: Stepper) -> Validate:
        """Scores the averaged network on the validation images, at their own resolution."""
        network, ranks = stepper.average.network, self.ranks

        def validate(listener: Listener) -> Report:
            ranks.share_buffers(network)
            engine = TorchEngine(
                network, self.start.preprocess, device=ranks.device, precision=self.precision
            )
            segmenter = Segmenter(engine, self.classes, self.start.preprocess)
            return score(
                labels_of(segmenter),
                self.held_out,
                listener,
                workers=self.workers,
                ranks=ranks,
                task="validation",
            )

        return validate

    def loop(self, run: Run, plan: Plan, track: Track, stepper: Stepper) -> Loop:
        """The loop from where the track is; the run folder gets its config and table."""
        config, start = self.config, self.start
        if self.ranks.main:
            run.write_config(config)
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
            validate=self.validation(stepper),
            checkpoint=Checkpoint(start.network.spec, start.preprocess, self.classes, weights={}),
            listener=listener,
        )

    def calibrate(self, run: Run) -> None:
        """Make the best checkpoint as sure as it is right, once."""
        best = Checkpoint.load(run.best)
        if "temperature" in best.extra:
            return
        engine = TorchEngine(best.build(), best.preprocess, device=self.ranks.device)
        segmenter = Segmenter(engine, best.classes, best.preprocess)
        temperature = best_temperature(segmenter.logits, self.held_out)
        cooled(best, temperature).save(run.best)
        self.listener(
            Note(
                f"Probabilities calibrated on the validation images: temperature {temperature:.2f}"
            )
        )

    def summary(self, run: Run) -> str:
        """One line on what is trained, and on what."""
        config, spec = self.config, self.start.network.spec
        assert config.crop is not None
        weights = sum(parameter.numel() for parameter in self.start.network.parameters())
        return (
            f"{run.folder}: {spec.decoder} on {spec.backbone}, {weights / 1e6:.1f} M weights; "
            f"{len(self.pictures)} images in crops of {config.crop[0]}x{config.crop[1]} "
            f"(height x width), {len(self.held_out)} to validate; "
            f"{self.ranks.device}, {precision_name(self.precision)}"
        )
