"""Set up a training: resolve its options and build its parts.

`resolve` turns options and a checked dataset into a TrainSetup without open options; the make_*
functions build the parts of a training from it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch

from fcnseg.classes import ClassMap
from fcnseg.config import TrainConfig
from fcnseg.config.options import Upsampling
from fcnseg.datasets.augment import Augment
from fcnseg.datasets.check import CheckResult
from fcnseg.datasets.check.suggestions import VALIDATING, Suggestion, suggest_crop, suggest_epochs
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.loader import BatchSampler, choose_workers, collate, load
from fcnseg.datasets.pairing.by_content import without_labels
from fcnseg.datasets.splits import Provenance
from fcnseg.device import precision_name, resolve_precision
from fcnseg.distributed import Distributed
from fcnseg.engines.fuse import fuse_for_inference
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import OptionError, counted
from fcnseg.inference.evaluation import confusion_report
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import labels_of
from fcnseg.metrics import Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.fcn import FCN
from fcnseg.models.spec import Preprocess
from fcnseg.progress import Callback, Message
from fcnseg.training import validation
from fcnseg.training.initial_weights import InitialModel, from_pretrained, measured_input
from fcnseg.training.losses import WEIGHTED, Criterion, class_weights, parse_loss
from fcnseg.training.machine import choose_batch, choose_precision, options_for_minutes
from fcnseg.training.run_folder import RunFolder
from fcnseg.training.run_folder.state import TrainState
from fcnseg.training.schedule import ENDLESS, make_schedule
from fcnseg.training.step import TrainStep
from fcnseg.training.trainer import Trainer, Validate
from fcnseg.training.unlabeled import Feed, open_unlabeled, with_images

COARSEST = 32  # the stride at which a feature map is smallest


@dataclass(frozen=True, eq=False)
class TrainSetup:
    """A training before its first step, with every option resolved.

    config: the options, as in config.toml. network: with its initial weights.
    crop: (height, width). batch: batch size over all processes.
    """

    config: TrainConfig
    network: FCN
    preprocess: Preprocess
    checked: CheckResult
    ranks: Distributed
    crop: tuple[int, int]
    batch: int
    precision: torch.dtype
    workers: int

    @classmethod
    def of(cls, model: InitialModel, checked: CheckResult, ranks: Distributed) -> TrainSetup:
        """Create it from a model whose options have numbers for crop and batch."""
        config = model.config
        assert config.crop is not None
        assert config.batch != "auto"
        return cls(
            config,
            model.network,
            model.preprocess,
            checked,
            ranks,
            crop=config.crop,
            batch=config.batch,
            precision=resolve_precision(config.precision, ranks.device),
            workers=choose_workers(config.workers, ranks.device.type),
        )

    @property
    def classes(self) -> ClassMap:
        """The dataset's classes."""
        return self.checked.description.classes


def resolve(
    config: TrainConfig, checked: CheckResult, ranks: Distributed, callback: Callback
) -> TrainSetup:
    """Resolve all options by the data, the machine and --finetune's checkpoint."""
    suggested = checked.suggestion
    assert config.data is not None
    assert suggested is not None, "there is one for readable training images"
    images = checked.splits.get("train", 1)
    steps_batch = suggested.batch if config.batch == "auto" else config.batch
    config = replace(
        config,
        data=config.data.resolve(),
        unlabeled=config.unlabeled and config.unlabeled.resolve(),
        epochs=0 if config.minutes else config.epochs or suggest_epochs(images, steps_batch)[0],
        upsample=_upsample(config, suggested),
        short_side=_short_side(config, suggested),
    )
    if config.class_weights == "auto":
        weighted = any(term.name in WEIGHTED for term in parse_loss(config.loss))
        config = replace(config, class_weights=suggested.class_weights if weighted else "none")
    pairs = checked.description.pairs
    seen = measured_input(config, checked.layout, pairs, callback) if ranks.main else None
    model = from_pretrained(config, checked.description.classes, callback, ranks.broadcast(seen))
    if (crop := config.crop) is None:
        sizes = [model.preprocess.network_size(size) for size in checked.train_sizes]
        model = _with(model, crop=suggest_crop(sizes)[0])
    if config.batch == "auto":
        batch = choose_batch(
            model.network, model.config, images=images, suggested=suggested.batch, ranks=ranks
        )
        model = _with(model, batch=ranks.broadcast(batch))
    if config.minutes and crop is None:
        model = _with(model, **options_for_minutes(model.network, model.config, ranks, callback))
    model = _with(model, precision=choose_precision(model.network, model.config, ranks, callback))
    return TrainSetup.of(_with(model, freeze=model.config.freeze or 0), checked, ranks)


def _short_side(config: TrainConfig, suggested: Suggestion) -> int | None:
    """Resolve --short-side; None to use that of --finetune's checkpoint, or no resizing.

    A given --crop is of the images' own size.
    """
    if config.short_side is not None or config.finetune or config.crop is not None:
        return config.short_side
    return suggested.short_side or None


def _upsample(config: TrainConfig, suggested: Suggestion) -> Upsampling | None:
    """Resolve --upsample; None to use that of --finetune's checkpoint."""
    chosen = config.upsample or (None if config.finetune else "auto")
    if chosen != "auto":
        return chosen
    return suggested.upsample if config.fuse != "score" else "fixed"


def _with(model: InitialModel, **options: Any) -> InitialModel:
    return replace(model, config=replace(model.config, **options))


def make_train_data(setup: TrainSetup) -> SegmentationDataset:
    """The training images, with augmentation."""
    config = setup.config
    rarity = class_weights(setup.checked.train_pixels, "sqrt").tolist()
    augment = Augment(
        setup.crop,
        scale=config.scale,
        flip=config.flip,
        color=config.color,
        rare=config.rare_crops,
        rarity=tuple(rarity),
        rotate=config.rotate,
        mix=config.mix,
        mix_share=config.mix_share,
    )
    return _dataset(setup, "train", augment)


def make_validation_data(setup: TrainSetup) -> SegmentationDataset:
    """The validation images; the training images if there are none."""
    return _dataset(setup, "val" if setup.checked.splits.get("val") else "train")


def _dataset(setup: TrainSetup, split: str, augment: Augment | None = None) -> SegmentationDataset:
    return SegmentationDataset(
        setup.checked.description,
        split,
        augment=augment,
        preprocess=setup.preprocess,
        seed=setup.config.seed,
    )


def make_sampler(setup: TrainSetup, images: int) -> BatchSampler:
    """Make the sampler for a number of images; OptionError if batch norm has no variance."""
    config, ranks = setup.config, setup.ranks
    sampler = BatchSampler(
        images=images,
        batch=setup.batch,
        epochs=config.epochs or ENDLESS,
        seed=config.seed,
        rank=ranks.rank,
        ranks=ranks.size,
    )
    smallest = min(map(sampler.step_images, range(sampler.epoch_steps)))
    alone = smallest // config.accumulate <= ranks.size
    if alone and max(setup.crop) <= COARSEST and not config.freeze_norm:
        raise OptionError(
            f"With a crop of {_text(setup.crop)} and one image at a time, batch norm has a single "
            "value and no variance.",
            hint="use a larger --crop, a --batch of two or more, or --freeze-norm",
        )
    return sampler


def make_step(
    setup: TrainSetup, network: FCN | None = None, config: TrainConfig | None = None
) -> TrainStep:
    """Make the training step; network, config: instead of the setup's."""
    config = config or setup.config
    weights = class_weights(setup.checked.train_pixels, config.class_weights)
    return TrainStep(
        network or setup.network,
        config,
        criterion=Criterion(
            parse_loss(config.loss),
            weights.to(setup.ranks.device),
            smoothing=config.label_smoothing,
        ),
        preprocess=setup.preprocess,
        ranks=setup.ranks,
        precision=setup.precision,
    )


def _feed(setup: TrainSetup, data: SegmentationDataset, sampler: BatchSampler) -> Feed:
    """Make the function that loads batches from a step to the end, in advance."""
    pin = setup.ranks.device.type == "cuda"
    return lambda step: load(data, sampler.keys(step), collate, workers=setup.workers, pin=pin)


def _validate(
    setup: TrainSetup, data: SegmentationDataset, network: FCN, run: RunFolder
) -> Validate:
    """Make the function that scores the network on validation images at their own resolution."""
    ranks, every = setup.ranks, setup.config.pictures

    def validate(epoch: int, callback: Callback) -> Report:
        ranks.broadcast_buffers(network)
        predict = labels_of(make_segmenter(setup, network, setup.precision))
        report = confusion_report(
            predict, data, callback, workers=setup.workers, ranks=ranks, task="validation"
        )
        if every and ranks.main and epoch % every == 0:
            validation.draw_same(predict, data, run.sample_images, epoch=epoch)
        return report

    return validate


def make_segmenter(setup: TrainSetup, network: FCN, precision: torch.dtype) -> Segmenter:
    """Make a segmenter from a copy of the network, which may be trained further."""
    device = setup.ranks.device
    copy = fuse_for_inference(deepcopy(network), device=device, precision=precision)
    engine = TorchEngine(copy, setup.preprocess, device=device, precision=precision)
    return Segmenter(engine, setup.classes, setup.preprocess)


def make_trainer(
    setup: TrainSetup,
    run: RunFolder,
    state: TrainState,
    step: TrainStep,
    data: SegmentationDataset,
    sampler: BatchSampler,
    callback: Callback,
    began: float,
) -> Trainer:
    """Make the trainer, which continues from the state; write config.toml and results.csv.

    began: start of the command, by time.monotonic().
    """
    config, main, val_data = setup.config, setup.ranks.main, make_validation_data(setup)
    if not setup.checked.splits.get("val"):
        text = "There are no validation images: scores are of the training images themselves."
        callback(Message(text, "warning"))
    if main:
        suggested = setup.checked.suggestion
        reasons = suggested.reasons_for(config.as_dict(), len(data)) if suggested else {}
        run.write_config(config, reasons)
        run.write_results(state.rows)
    callback(Message(_summary(setup, run, images=len(data), validation_images=len(val_data))))
    feed = _feed(setup, data, sampler)
    if config.unlabeled:
        seen = (setup.preprocess, setup.checked.description, setup.ranks.size, without_labels)
        feed = with_images(feed, open_unlabeled(config, *seen, state, callback), setup.workers)
    validating = VALIDATING * len(val_data) / setup.batch
    if config.tensorboard and main:
        callback = validation.with_tensorboard(
            callback, run.tensorboard, epochs_done=len(state.rows)
        )
    return Trainer(
        run,
        config,
        make_schedule(config, sampler, state, validation_steps=validating, began=began),
        state,
        train_step=step,
        feed=feed,
        validate=_validate(setup, val_data, step.average.network, run),
        checkpoint=_checkpoint(setup),
        callback=callback,
    )


def _checkpoint(setup: TrainSetup) -> Checkpoint:
    """A checkpoint without weights and report, as a template."""
    return Checkpoint(
        setup.network.spec,
        setup.preprocess,
        setup.classes,
        weights={},
        extra={
            "encoding": setup.checked.description.encoding.as_dict(),
            "trained_on": vars(Provenance.of(setup.checked.description)),
            **({"folds": setup.config.folds} if setup.config.folds else {}),
        },
    )


def finish(setup: TrainSetup, run: RunFolder, callback: Callback) -> None:
    """Calibrate the best checkpoint, unless it is already, and draw the worst validation images."""
    data = make_validation_data(setup)
    best = validation.load_best(run.best, callback)
    adjust = setup.config.adjust and "class_offsets" not in best.extra
    scale = setup.config.calibrate and "temperature" not in best.extra
    if adjust or scale:
        exact = make_segmenter(setup, best.build(), torch.float32)
        sample = validation.LabelledLogits.of(exact.logits, data)
        best = validation.calibrate(best, sample, callback, adjust=adjust, scale=scale)
        best.save(run.best)
    if setup.config.pictures:
        predict = labels_of(make_segmenter(setup, best.build(), setup.precision))
        validation.draw_worst(predict, data, run.sample_images)


def _summary(setup: TrainSetup, run: RunFolder, *, images: int, validation_images: int) -> str:
    """A line on the network, the data and the device."""
    spec = setup.network.spec
    weights = sum(parameter.numel() for parameter in setup.network.parameters())
    return (
        f"{run.folder}: {spec.decoder} on {spec.backbone}, {weights / 1e6:.1f} M weights; "
        f"{counted(images, 'image')} in crops of {_text(setup.crop)}, "
        f"{validation_images} to validate; {setup.ranks.device}, {precision_name(setup.precision)}"
    )


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size)) + " (height x width)"
