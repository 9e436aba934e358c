"""The verb `train`: a folder in, a run folder out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcnseg.config import TrainConfig
from fcnseg.data.check import CheckResult, examine
from fcnseg.data.suggest import suggest_crop, suggest_epochs
from fcnseg.errors import DatasetError, OptionError
from fcnseg.events import Listener, Note, nobody
from fcnseg.overwriting import refuse_overwriting
from fcnseg.runtime.ranks import Ranks, join_ranks
from fcnseg.training.loop import Loop
from fcnseg.training.losses import parse_loss
from fcnseg.training.memory import choose_batch
from fcnseg.training.parts import Parts
from fcnseg.training.plan import Plan
from fcnseg.training.runs import (
    Run,
    continued,
    find_run,
    find_unfinished,
    new_run,
    refuse_taken,
)
from fcnseg.training.start import make_start, start_again
from fcnseg.training.state import Track, load_state


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    run: its folder. best, last: the checkpoints. miou: the best on the validation images.
    epochs: how many were trained. seconds: what they took, all sittings together.
    """

    run: Path
    best: Path
    last: Path
    miou: float
    epochs: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        values = vars(self).items()
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}


def train(
    config: TrainConfig, listener: Listener = nobody, *, given: frozenset[str] | None = None
) -> TrainResult:
    """Train on a dataset folder, or go on with an interrupted run (resume=True).

    The folder is checked first: errors stop, warnings are told. Ctrl-C or SIGTERM finish
    the step, save everything and raise Interrupted. Under torchrun several processes share
    each batch; a job that torchrun starts again goes on by itself.

    given: the options that someone asked for, which a resumed run must agree with; without
    it, those that differ from their defaults.
    """
    ranks = join_ranks(config.device)
    listener = listener if ranks.main else nobody
    parse_loss(config.loss)  # a typo is told before the folder is read
    run = _run_to_continue(config, ranks)
    if run is None:
        parts, loop = _begin(config, ranks, listener)
    else:
        asked = {name: getattr(config, name) for name in given or config.chosen()}
        parts, loop = _go_on(asked, run, ranks, listener)
    loop.go()
    if ranks.main:
        parts.finish(loop.run)
    return _result(loop)


def _run_to_continue(config: TrainConfig, ranks: Ranks) -> Run | None:
    """The run that is gone on with, the same for all ranks; None for a new one."""
    run = None
    if ranks.main and config.resume:
        run = find_run(config)
    elif ranks.main and ranks.restarts:
        run = find_unfinished(config)
    return ranks.tell(run)


def _begin(config: TrainConfig, ranks: Ranks, listener: Listener) -> tuple[Parts, Loop]:
    """Everything up to the first step of a new run."""
    if config.data is None:
        raise OptionError(
            "Which dataset folder? None was given.",
            hint="fcnseg train FOLDER; to go on with an interrupted run: fcnseg train --resume",
        )
    refuse_taken(config.out)
    checked = _checked(config.data, listener)
    _refuse_inputs(config, config.data, checked)
    suggested = checked.suggestion
    assert suggested is not None, "a folder with readable training images has one"
    images = checked.splits.get("train", 1)
    batch = suggested.batch if config.batch == "auto" else config.batch
    config = replace(
        config,
        data=config.data.resolve(),
        upsample=config.upsample or (None if config.finetune else "auto"),
        epochs=config.epochs or suggest_epochs(images, batch)[0],
    )
    if config.class_weights == "auto":
        config = replace(config, class_weights=suggested.class_weights)
    if config.upsample == "auto":
        upsample = suggested.upsample if config.fuse != "score" else "fixed"
        config = replace(config, upsample=upsample)
    start = make_start(config, checked.description.classes, listener)
    if config.crop is None:
        seen = [start.preprocess.network_size(size) for size in checked.train_sizes]
        crop, _ = suggest_crop(seen)
        start = replace(start, config=replace(start.config, crop=crop))
    if config.batch == "auto":
        batch = choose_batch(
            start.network, start.config, images=images, suggested=suggested.batch, ranks=ranks
        )
        start = replace(start, config=replace(start.config, batch=ranks.tell(batch)))
    parts = Parts(start, checked, ranks, listener)
    plan = parts.plan()
    if config.sanity and ranks.main:
        parts.look_before(plan)
    stepper = parts.stepper()
    run = ranks.tell(new_run(config.out) if ranks.main else None)  # nothing can be wrong any more
    assert run is not None, "the main process has made one"
    track = Track(images=plan.images, parts=config.accumulate)
    return parts, parts.loop(run, plan, track, stepper)


def _go_on(
    asked: Mapping[str, Any], run: Run, ranks: Ranks, listener: Listener
) -> tuple[Parts, Loop]:
    """Everything up to the next step of a run."""
    config = continued(TrainConfig.load(run.config), asked, run)
    assert config.data is not None, "every run's config.toml names its folder"
    if not config.data.exists():
        raise DatasetError(
            f"The dataset of {run.folder} is not there any more: {config.data}.",
            hint=f"if it was moved: fcnseg train NEW_FOLDER --out {run.folder} --resume",
        )
    track, tensors = load_state(run.state)
    checked = _checked(config.data, listener)
    start = start_again(config, checked.description.classes, tensors)
    parts = Parts(start, checked, ranks, listener)
    plan = parts.plan()
    if track.images != plan.images:
        raise DatasetError(
            f"The run in {run.folder} began with {track.images} training images; now there are "
            f"{plan.images}.",
            hint="a changed dataset needs a new run; --finetune starts it from this one's weights",
        )
    listener(Note(_where(run, track, plan)))
    stepper = parts.stepper()
    stepper.restore(tensors)
    return parts, parts.loop(run, plan, track, stepper)


def _refuse_inputs(config: TrainConfig, data: Path, checked: CheckResult) -> None:
    """OptionError where the run would lie over what it reads."""
    if config.out is None:
        return
    inputs = [("the dataset", data)] if data.is_dir() else []
    kept = [("--finetune", config.finetune), ("--backbone-weights", config.backbone_weights)]
    refuse_overwriting(
        [("--out", config.out)],
        [*inputs, *checked.description.inputs()],
        kept=[("the dataset", data), *((role, Path(path)) for role, path in kept if path)],
    )


def _checked(data: Path, listener: Listener) -> CheckResult:
    """The folder, looked at: DatasetError for what makes a training useless."""
    checked = examine(data, listener)
    for finding in checked.findings:
        if finding.severity == "warning":
            listener(Note(finding.sentence, "warning"))
    checked.raise_errors()
    return checked


def _where(run: Run, track: Track, plan: Plan) -> str:
    if len(track.rows) >= plan.epochs:
        return f"{run.folder} is finished: {plan.epochs} epochs. A higher --epochs goes on."
    inside = track.step - len(track.rows) * plan.epoch_steps
    return (
        f"Going on with {run.folder}: epoch {len(track.rows) + 1} of {plan.epochs}, "
        f"{inside} of {plan.epoch_steps} steps done."
    )


def _result(loop: Loop) -> TrainResult:
    run, track = loop.run, loop.track
    return TrainResult(
        run=run.folder,
        best=run.best,
        last=run.last,
        miou=track.best,
        epochs=len(track.rows),
        seconds=track.seconds,
    )
