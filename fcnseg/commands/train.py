"""The command `train`: train a network on a dataset folder, write a run folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fcnseg.commands.eval import evaluate_split, write_report
from fcnseg.commands.multi_run import TrainResult, open_runs, resumed_runs, train_runs
from fcnseg.config import EvalConfig, TrainConfig
from fcnseg.datasets import SPLITS
from fcnseg.datasets.check import CheckResult, examine
from fcnseg.datasets.check.suggestions import in_words, training_seconds
from fcnseg.datasets.dataset_toml import write_declared
from fcnseg.datasets.draw_splits import Fold
from fcnseg.datasets.loader import BatchSampler, collate
from fcnseg.device import process_settings
from fcnseg.distributed import Distributed, init_distributed
from fcnseg.errors import DatasetError, FcnsegError, Interrupted, OptionError, counted, quoted
from fcnseg.files import NonLocalPath, as_path
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.overwriting import refuse_file, refuse_overwriting
from fcnseg.progress import Callback, Event, Message, Progress, log_messages, no_callback
from fcnseg.remote.listing import copied
from fcnseg.report.tables import has_charts
from fcnseg.training.initial_weights import from_state
from fcnseg.training.losses import parse_loss
from fcnseg.training.preflight import preflight, refuse_contradictions, refuse_unused
from fcnseg.training.run_folder import MultiRun, RunFolder, is_multi_run, multi_run_in, refuse_run
from fcnseg.training.run_folder.resume import (
    continued,
    find_run,
    find_unfinished,
    new_run,
    options_like,
    refuse_edited,
    refuse_taken,
    stored_options,
)
from fcnseg.training.run_folder.state import (
    TrainState,
    completing,
    environment,
    load_state,
    locked,
    note_environment,
)
from fcnseg.training.setup import (
    TrainSetup,
    finish,
    make_sampler,
    make_segmenter,
    make_step,
    make_train_data,
    make_trainer,
    resolve,
)
from fcnseg.training.trainer import Trainer


def train(
    data: TrainConfig | Path | str | None = None, callback: Callback = no_callback, **options: Any
) -> TrainResult:
    """Train on a dataset folder, or resume an interrupted run (resume=True).

    data: the folder, or a TrainConfig. options: those of TrainConfig, by name.
    callback: called with a Progress at each step and an EpochEnd after each epoch; messages go to
    `logging` ("fcnseg"). With seeds or folds the result is a MultiRunResult.

    The folder is checked first: errors raise DatasetError, warnings are logged. Ctrl-C or SIGTERM
    finish the step, save everything and raise Interrupted. Under torchrun the processes divide
    each batch; a job that torchrun restarts resumes automatically. The random state and torch's
    settings are restored at the end.

        result = fcnseg.train("photos", epochs=40, lr=1e-3)
        print(result.best, result.miou)
    """
    began = time.monotonic()
    if isinstance(data, TrainConfig):
        config = dataclasses.replace(data, **options)
        given = {**config.chosen(), **options}
    else:
        given = {**options} if data is None else {"data": data, **options}
        config = TrainConfig.make(given)
    if (like := config.like) is not None:
        given = options_like(like, given)
        config = TrainConfig.make(given)
    refuse_contradictions(config)
    ranks = init_distributed(config.device)
    callback = log_messages(callback) if ranks.main else no_callback
    if (data := config.data) is not None and isinstance(as_path(data), NonLocalPath):
        config = dataclasses.replace(config, data=ranks.run_on_main(lambda: copied(data, callback)))
    asked = {name: getattr(config, name) for name in given}
    parse_loss(config.loss)  # report a typo before the folder is read
    run = _run_to_resume(config, ranks)
    found = multi_run_in(run.folder) if run else None
    if found or is_multi_run(config):
        return _train_all(config, asked, found, ranks, callback)
    with process_settings(ranks.device), ExitStack() as stack:
        if run is None:
            setup, trainer = _begin(config, ranks, callback, began, stack)
        else:
            setup, trainer = _resume(asked, run, ranks, callback, began, stack)
        with _discarded_unless_begun(trainer.run, ranks, None if run else trainer.state):
            if ranks.main:
                before = run or (RunFolder(like) if like else None)
                made_with = environment(setup.checked.description, ranks.device)
                note_environment(trainer.run, made_with, before, callback)
            trainer.fit()
        if ranks.main:
            with completing(trainer.run):
                finish(setup, trainer.run, callback)
                if setup.config.report and has_charts():
                    _write_report(setup, trainer.run, callback)
    return TrainResult.of(trainer.run, trainer.state)


def _train_all(
    config: TrainConfig,
    asked: Mapping[str, Any],
    found: MultiRun | None,
    ranks: Distributed,
    callback: Callback,
) -> TrainResult:
    """Train several runs, one after the other. found: runs to resume."""
    if ranks.size > 1:
        raise OptionError(
            f"--seeds and --folds are trained one after the other; torchrun started {ranks.size} "
            "processes for one training.",
            hint="train each by itself: --seed N --out RUN/seedN, or --folds 5 --fold N",
        )
    if found is not None:
        found, again = resumed_runs(found, asked)
        return train_runs(found, again, train, callback)
    _refuse_no_data(config)
    return train_runs(open_runs(config), {}, train, callback)


def _write_report(setup: TrainSetup, run: RunFolder, callback: Callback) -> None:
    """Write report.html for the best checkpoint; only warn if that fails."""

    def progress(event: Event) -> None:
        if isinstance(event, Progress):
            callback(event)

    config = setup.config
    try:
        best = Checkpoint.load(run.best)
        model = make_segmenter(setup, best.build(), setup.precision)
        model = dataclasses.replace(model, path=run.best, extra=best.extra)
        split = "val" if setup.checked.splits.get("val") else "train"
        options = EvalConfig.make({"data": config.data, "split": split, "workers": config.workers})
        result, dataset = evaluate_split(options, model, setup.checked, progress)
        write_report(run.report, result, model, dataset, progress)
    except FcnsegError as error:
        callback(Message(f"No report was written: {error.message}", "warning"))


def _run_to_resume(config: TrainConfig, ranks: Distributed) -> RunFolder | None:
    """The run to resume, the same for all ranks; None for a new run."""
    run = None
    if ranks.main and config.resume:
        run = find_run(config)
    elif ranks.main and ranks.restarts:
        run = find_unfinished(config)
    return ranks.broadcast(run)


def _begin(
    config: TrainConfig, ranks: Distributed, callback: Callback, began: float, stack: ExitStack
) -> tuple[TrainSetup, Trainer]:
    """Prepare a new run up to its first step. stack: holds the lock of its folder."""
    _refuse_no_data(config)
    assert config.data is not None
    refuse_taken(config.out)
    checked = _checked(config, config.data, callback)
    _refuse_inputs(config, config.data, checked)
    setup = resolve(config, checked, ranks, callback)
    data = make_train_data(setup)
    sampler = make_sampler(setup, len(data))
    images = -(-sampler.step_images(0) // ranks.size)
    refuse_unused(config, setup.network, images=images)
    _estimate(setup, len(data), callback)
    if config.sanity and ranks.main:
        alone = dataclasses.replace(setup, ranks=dataclasses.replace(ranks, rank=0, size=1))
        first = collate([data[key] for key in next(sampler.keys(0))])
        preflight(setup.network, setup.config, first, partial(make_step, alone), callback)
    step = make_step(setup)
    run = ranks.broadcast(new_run(config.out) if ranks.main else None)  # every check has passed
    assert run is not None, "the main process has created one"
    if ranks.main:
        stack.enter_context(locked(run))
    state = TrainState(images=len(data), micro_batches=config.accumulate)
    with _discarded_unless_begun(run, ranks):
        if config.folds and ranks.main:
            write_declared(checked.description, run.dataset, parts=SPLITS)
        return setup, make_trainer(setup, run, state, step, data, sampler, callback, began)


def _refuse_no_data(config: TrainConfig) -> None:
    if config.data is None:
        raise OptionError(
            "No dataset folder was given.",
            hint="fcnseg train FOLDER; to resume an interrupted run: fcnseg train --resume",
        )
    refuse_run(config.data)


@contextmanager
def _discarded_unless_begun(
    run: RunFolder, ranks: Distributed, state: TrainState | None = None
) -> Iterator[None]:
    """Remove the folder of a run that fails before there is anything to resume.

    state: given for a new run, whose folder is also removed if its first step fails.
    """
    try:
        yield
    except BaseException as error:
        failed_at_once = state and state.step == 0 and not isinstance(error, Interrupted)
        if ranks.main and (failed_at_once or not run.state.exists()):
            run.discard()
        raise


def _estimate(setup: TrainSetup, images: int, callback: Callback) -> None:
    """Report the estimated training time on a CPU, as `check` does."""
    if setup.ranks.device.type == "cpu" and not setup.config.minutes:
        splits = {**setup.checked.splits, "train": images}
        sizes, side = setup.checked.train_sizes, setup.preprocess.short_side or 0
        seconds = training_seconds(setup.crop, setup.config.epochs, splits, sizes, side)
        callback(Message(f"{in_words(seconds)}: {counted(setup.config.epochs, 'epoch')}."))


def _resume(
    asked: Mapping[str, Any],
    run: RunFolder,
    ranks: Distributed,
    callback: Callback,
    began: float,
    stack: ExitStack,
) -> tuple[TrainSetup, Trainer]:
    """Prepare a run to resume, up to its next step. stack: holds the lock of its folder."""
    if ranks.main:
        stack.enter_context(locked(run))
    if asked.get("sanity"):
        raise OptionError(
            "--sanity checks a new run before its first step; this run has begun.", hint="omit it"
        )
    stored = stored_options(run)
    config = continued(stored, asked, run)
    refuse_contradictions(config)
    if config.data is None:
        raise OptionError(
            f"{run.config} names no dataset: it was changed.",
            hint=f"name it: fcnseg train FOLDER --out {quoted(run.folder)} --resume",
        )
    if not config.data.exists():
        raise DatasetError(
            f"The dataset of {run.folder} no longer exists: {config.data}.",
            hint=f"if it was moved: fcnseg train NEW_FOLDER --out {quoted(run.folder)} --resume",
        )
    state, tensors = load_state(run.state)
    refuse_edited(run, stored, tensors.get("options"))
    checked = _checked(config, config.data, callback)
    model = from_state(config, checked.description.classes, tensors)
    setup = TrainSetup.of(model, checked, ranks)
    data = make_train_data(setup)
    sampler = make_sampler(setup, len(data))
    if state.images != len(data):
        raise DatasetError(
            f"The run in {run.folder} began with {state.images} training images; now there are "
            f"{len(data)}.",
            hint="a changed dataset needs a new run; --finetune starts it from this one's weights",
        )
    callback(Message(_resume_message(run, state, sampler, config)))
    step = make_step(setup)
    step.restore(tensors)
    return setup, make_trainer(setup, run, state, step, data, sampler, callback, began)


def _refuse_inputs(config: TrainConfig, data: Path, checked: CheckResult) -> None:
    """OptionError where the run would overwrite its inputs."""
    if config.out is None:
        return
    refuse_file("--out", config.out)
    inputs = [("the dataset", data)] if data.is_dir() else []
    inputs += [("--unlabeled", config.unlabeled)] if config.unlabeled else []
    kept = [("--finetune", config.finetune), ("--backbone-weights", config.backbone_weights)]
    refuse_overwriting(
        [("--out", config.out)],
        [*inputs, *checked.description.inputs()],
        kept=[("the dataset", data), *((role, Path(path)) for role, path in kept if path)],
    )


def _checked(config: TrainConfig, data: Path, callback: Callback) -> CheckResult:
    """Check the dataset folder and log its warnings; DatasetError for its errors.

    Classes without colors in the dataset get those of the palette.
    """
    fold = None
    if config.folds and config.fold is not None:
        fold = Fold(config.fold, config.folds, config.seed)
    checked = examine(data, callback, boxes=config.fill_boxes, fold=fold)
    for finding in checked.findings:
        if finding.severity == "warning":
            callback(Message(finding.sentence, "warning"))
    checked.raise_errors(data)
    classes = checked.description.classes.with_palette(config.palette, given=True)
    description = dataclasses.replace(checked.description, classes=classes)
    return dataclasses.replace(checked, description=description)


def _resume_message(
    run: RunFolder, state: TrainState, sampler: BatchSampler, config: TrainConfig
) -> str:
    if config.minutes:
        if state.ended_at >= 60 * config.minutes:
            return (
                f"{run.folder} is finished: {config.minutes:g} minutes. More --minutes continue it."
            )
        return (
            f"Resuming {run.folder}: {state.spent / 60:.1f} of {config.minutes:g} minutes are "
            f"spent, {state.step} steps done."
        )
    if len(state.rows) >= sampler.epochs:
        done = counted(sampler.epochs, "epoch")
        return f"{run.folder} is finished: {done}. A higher --epochs continues it."
    if state.is_patience_over(config.patience):
        waited = counted(config.patience, "epoch")
        return (
            f"{run.folder} is finished: no better mIoU for {waited}. A higher --patience, or 0 "
            "for none, continues it."
        )
    inside = state.step - len(state.rows) * sampler.epoch_steps
    return (
        f"Resuming {run.folder}: epoch {len(state.rows) + 1} of {sampler.epochs}, "
        f"{inside} of {sampler.epoch_steps} steps done."
    )
