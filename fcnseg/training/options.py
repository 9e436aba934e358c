"""Options of a training that contradict each other, or that change nothing in it."""

from __future__ import annotations

from torch.nn import BatchNorm2d

from fcnseg.config import TrainConfig
from fcnseg.config.options import options_of, spelled
from fcnseg.errors import OptionError
from fcnseg.models.fcn import FCN
from fcnseg.training.losses import WEIGHTED, parse_loss


def is_several(config: TrainConfig) -> bool:
    """Whether options mean several runs; OptionError where they contradict each other."""
    if config.seeds and config.folds:
        raise OptionError(
            "--seeds and --folds both say what several trainings differ in.",
            hint="give one; each of the folds has the same seed",
        )
    if config.fold is not None and (config.folds or 0) <= config.fold:
        raise OptionError(
            f"--fold {config.fold} is one of the folds that --folds makes, from 0 on; "
            + (f"there are {config.folds}." if config.folds else "--folds was not given."),
            hint="for example --folds 5 --fold 0; without --fold, all are trained",
        )
    return bool(config.seeds) or (bool(config.folds) and config.fold is None)


def refuse_both(config: TrainConfig) -> None:
    """OptionError for two options that both say how long to train."""
    if config.epochs and config.minutes:
        raise OptionError("--epochs and --minutes both say how long to train.", hint="omit one")


def refuse_unused(config: TrainConfig, network: FCN) -> None:
    """OptionError for an option that was given, but changes nothing in this training.

    One that only repeats the default is none: a run's config.toml has all of them.
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
        "backbone_weights": (
            config.finetune is not None and config.backbone is None,
            "--finetune's checkpoint has the backbone's weights",
        ),
    }
    for name, value in config.chosen().items():
        found, why = unused.get(name, (False, ""))
        if found and value not in (options_of(TrainConfig)[name].fallback, "none"):
            flag = spelled(name)
            raise OptionError(f"{flag} has no effect here: {why}.", hint=f"omit {flag}")
