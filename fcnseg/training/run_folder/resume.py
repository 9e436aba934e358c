"""Create a run folder, find the run to resume or repeat, and check which options may differ.

Runs are reproducible: the same options, data, versions and CPU give the same weights.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fcnseg.config import TrainConfig
from fcnseg.config.options import options_of
from fcnseg.errors import InputError, OptionError, quoted
from fcnseg.files import numbered
from fcnseg.training.run_folder import RUNS, RunFolder, multi_run_in, refuse_run
from fcnseg.training.run_folder.state import load_state, locked

CHANGEABLE = frozenset((
    "adjust", "calibrate", "device", "patience", "pictures", "report", "save_every", "tensorboard",
    "workers",
))  # fmt: skip
"""Options that may differ when a run is resumed; epochs or minutes may be raised as well."""

RISING = ("epochs", "minutes")

MOVABLE = frozenset(("backbone_weights", "data", "finetune", "out", "unlabeled"))
"""Options that name files, which may have been moved."""


def new_run(out: Path | None, runs: Path = RUNS) -> RunFolder:
    """Create a folder: `out`, or the next free runs/trainN. OptionError if `out` has a run."""
    if out is not None:
        refuse_taken(out)
        return RunFolder(out, new=_make(out))
    return RunFolder(next(path for path in numbered(runs, "train") if _make(path)), new=True)


def refuse_taken(out: Path | None) -> None:
    """OptionError when `out` contains a file of a run: runs are never overwritten."""
    if out is None:
        return
    run = RunFolder(out)
    files = (run.state, run.best, run.last, run.config, run.results, run.report, run.dataset)
    taken = next((path for path in files if path.exists()), None)
    if taken is not None:
        with locked(run):  # OptionError if another process trains there
            pass
        raise OptionError(
            f"{out} already contains a run ({taken.name}).",
            hint="use another --out, resume it with --resume, or delete the folder"
            if run.state.exists()
            else "it has no state to resume from; use another --out, or delete the folder",
        )


def _make(folder: Path) -> bool:
    """Create a folder; False if it exists already. InputError if it can't be created."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():
            return False
        text = f"Can't make the folder {folder}: {error.strerror}."
        raise InputError(text, hint="name a place where you may write: --out FOLDER") from error
    return True


def find_run(config: TrainConfig, runs: Path = RUNS) -> RunFolder:
    """Find the run for `--resume`: DATA or --out if it is a run.

    Otherwise the newest run on the dataset DATA, or without DATA the newest unfinished run.
    """
    _refuse_two(config.data, config.out)
    for named in (config.data, config.out):
        if named is not None and (RunFolder(named).state.is_file() or multi_run_in(named)):
            return RunFolder(named)
        if named is not None:
            refuse_run(named)
            _refuse_stateless(RunFolder(named))
    if config.out is not None:
        raise OptionError(
            f"{config.out} contains no run to resume (no state.pt).",
            hint="without --resume, a new one starts",
        )
    states = [*runs.glob("*/state.pt"), *runs.glob("*/*/state.pt")]
    found = sorted(states, key=lambda path: path.stat().st_mtime_ns)
    for state in reversed(found):
        several = multi_run_in(state.parent.parent)
        run = RunFolder(several.folder if several else state.parent)
        stored = stored_options(run)
        if config.data is None and not is_finished(run, stored):
            return run
        if config.data is not None and stored.data == config.data.resolve():
            return run
    if config.data is None:
        hint = "name the run folder: fcnseg train RUN --resume"
        raise OptionError(f"No unfinished run in {runs}{os.sep}.", hint=hint)
    missing = "" if config.data.exists() else f"; {config.data} does not exist"
    raise OptionError(
        f"No run in {runs}{os.sep} was trained on {config.data}{missing}.",
        hint="if the dataset was moved since, name the run folder, too: "
        f"fcnseg train {quoted(config.data)} --out RUN --resume; without it, a new run starts",
    )


def _refuse_two(data: Path | None, out: Path | None) -> None:
    """OptionError when DATA and --out are two different runs."""
    if data is None or out is None or data.resolve() == out.resolve():
        return
    if RunFolder(data).state.is_file() or multi_run_in(data):
        raise OptionError(
            f"DATA {data} is a run to resume, and --out names {out}.", hint="omit --out"
        )


def _refuse_stateless(run: RunFolder) -> None:
    """OptionError for a run folder with options but no state."""
    try:
        data = TrainConfig.load(run.config).data
    except OptionError:  # no run folder, or another program's
        return
    text = f"{run.folder} has no state to resume from ({run.state.name}): "
    if weights := next((path for path in (run.last, run.best) if path.is_file()), None):
        again = f"fcnseg train {quoted(data or 'DATA')} --finetune {quoted(weights)}"
        hint = f"start a new run from them: {again}"
        raise OptionError(f"{text}only weights are there.", hint=hint)
    again = f"fcnseg train --like {quoted(run.folder)} --out NEW_RUN"
    hint = f"start it again: {again}; what is in {run.folder} stays as it is"
    raise OptionError(f"{text}its training ended before the first was saved.", hint=hint)


def options_like(run: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options, and for the rest those of another run; OptionError without one.

    Its output folder is not copied.
    """
    if given.get("resume"):
        raise OptionError(
            "--like starts a new run, --resume continues one: both were given.", hint="omit one"
        )
    if not RunFolder(run).config.is_file():
        raise OptionError(
            f"{run} is not a run folder: it contains no config.toml.",
            hint="name a folder that fcnseg train has written, such as runs/train1",
        )
    stored = TrainConfig.load(RunFolder(run).config).as_dict()
    if {"epochs", "minutes"} & given.keys():
        stored = {**stored, "epochs": 0, "minutes": None}
    return {**stored, "out": None, "resume": False, **given, "like": None}


def stored_options(run: RunFolder) -> TrainConfig:
    """The options that a run was started with; OptionError when config.toml lacks some.

    If config.toml is missing, they are read from the state. For a folder of several runs, the
    common options.
    """
    several = multi_run_in(run.folder)
    if several is not None:
        return several.config
    begun = None if run.config.exists() else load_state(run.state)[1].get("options")
    config = TrainConfig.make(begun) if begun else TrainConfig.load(run.config)
    known = options_of(TrainConfig).items()
    decided = [name for name, entry in known if entry.fallback is not None]
    names = ("crop", "batch", *decided, "class_weights")
    undecided = [name for name in names if getattr(config, name) in (None, "auto")]
    if bool(config.epochs) == bool(config.minutes):
        undecided.append("epochs or minutes")
    if undecided:
        raise OptionError(
            f"{run.config} was changed since the run began: it no longer sets "
            f"{', '.join(undecided)}.",
            hint="restore the file; or start a new run from the weights of this one: "
            f"fcnseg train DATA --finetune {quoted(run.folder)}",
        )
    return config


def refuse_edited(run: RunFolder, stored: TrainConfig, begun: Mapping[str, Any] | None) -> None:
    """OptionError when config.toml differs from the options that the run was trained with.

    begun: the options in its state; None in states of earlier versions.
    """
    if not isinstance(begun, Mapping):
        return
    was, now = TrainConfig.make(begun).as_dict(), stored.as_dict()
    edited = [
        f"{name} was {_text(was.get(name, 'not set'))} and is now {_text(now.get(name, 'not set'))}"
        for name in options_of(TrainConfig).keys() - CHANGEABLE - MOVABLE
        if was.get(name) != now.get(name)
        and not (name in RISING and 0 < was.get(name, 0) < now.get(name, 0))
    ]
    if edited:
        raise OptionError(
            f"{run.config} was changed since the run began: {', '.join(sorted(edited))}.",
            hint="restore the values; or start a new run with the changed ones: "
            f"fcnseg train --like {quoted(run.folder)}",
        )


def is_finished(run: RunFolder, stored: TrainConfig) -> bool:
    """Whether a run has used up its epochs, minutes or patience; for several runs, all of them."""
    several = multi_run_in(run.folder)
    if several is not None:
        return not set(several.names) - several.reported().keys()
    if stored.minutes is None and run.epochs_done() >= stored.epochs:
        return True
    if stored.minutes is None and not stored.patience:
        return False
    state = load_state(run.state)[0]
    over = stored.minutes is not None and state.ended_at >= 60 * stored.minutes
    return over or state.is_patience_over(stored.patience)


def find_unfinished(config: TrainConfig, runs: Path = RUNS) -> RunFolder | None:
    """Find the run to resume as find_run does; None if there is none or it is finished.

    For restarted jobs: if a killed process wrote to --out before its first state, its files are
    removed, so that the training can start there again.
    """
    try:
        run = find_run(config, runs)
    except OptionError:
        if config.out is not None:
            _discard_stateless(RunFolder(config.out))
        return None
    return None if is_finished(run, stored_options(run)) else run


def _discard_stateless(run: RunFolder) -> None:
    """Remove the files of a training that was killed before its first epoch."""
    if not run.state.exists() and not run.epochs_done():
        with suppress(OptionError):
            TrainConfig.load(run.config)  # raises for another program's file, which is kept
            run.discard()


def continued(stored: TrainConfig, given: Mapping[str, Any], run: RunFolder) -> TrainConfig:
    """A stored run's options with the given changes; OptionError for those that can't change.

    given: the given options, by name.
    """
    changes: dict[str, Any] = {"resume": False}
    for name in sorted(given.keys() - {"data", "out", "resume"}):
        ours, theirs = getattr(stored, name), given[name]
        if theirs is None or ours == theirs:
            continue
        other = "minutes" if name == "epochs" else "epochs"
        if name in RISING and theirs and not ours and (value := getattr(stored, other)):
            raise OptionError(
                f"{run.folder} was started with --{other} {value:g}; --{name} says how long, too.",
                hint=f"give a higher --{other}, or start a new run without --resume",
            )
        if name in CHANGEABLE or (name in RISING and theirs > (ours or 0)):
            changes[name] = theirs
        else:
            flag = name.replace("_", "-")
            began = f"without --{flag}" if ours is None else f"with --{flag} {_text(ours)}"
            raise OptionError(
                f"{run.folder} was started {began}; it can't be resumed with {_text(theirs)}.",
                hint=f"{name} can only be raised"
                if name in RISING
                else f"leave --{flag} out, or start a new run without --resume",
            )
    data = given.get("data")
    if data is not None and not (RunFolder(data).state.is_file() or multi_run_in(data)):
        changes["data"] = data.resolve()
    return dataclasses.replace(stored, **changes)


def _text(value: Any) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)
