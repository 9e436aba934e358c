"""Which run is resumed or repeated, and what may differ then."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcnseg.config import TrainConfig
from fcnseg.errors import OptionError
from fcnseg.training.run_folder import RUNS, RunFolder, load_state
from fcnseg.training.run_folder.several import several_in

CHANGEABLE = frozenset((
    "calibrate", "device", "patience", "pictures", "report", "save_every", "tensorboard", "workers",
))  # fmt: skip
"""Options that may differ when a run is resumed; of the rest only epochs or minutes may rise."""

RISING = ("epochs", "minutes")


def find_run(config: TrainConfig, runs: Path = RUNS) -> RunFolder:
    """The run that `--resume` means: DATA or --out if it is one, else the newest that fits.

    A dataset folder means the newest run on it; nothing means the newest unfinished run.
    """
    for named in (config.data, config.out):
        if named is not None and (RunFolder(named).state.is_file() or several_in(named)):
            return RunFolder(named)
    if config.out is not None:
        raise OptionError(
            f"{config.out} contains no run to resume (no state.pt).",
            hint="without --resume, a new one starts",
        )
    states = [*runs.glob("*/state.pt"), *runs.glob("*/*/state.pt")]
    found = sorted(states, key=lambda path: path.stat().st_mtime_ns)
    for state in reversed(found):
        run = _of_several(state) or RunFolder(state.parent)
        stored = TrainConfig.load(run.config)
        if config.data is None and not is_finished(run, stored):
            return run
        if config.data is not None and stored.data == config.data.resolve():
            return run
    what = "unfinished run" if config.data is None else f"run on {config.data}"
    raise OptionError(
        f"No {what} in {runs}{os.sep}.",
        hint="name the run folder: fcnseg train RUN --resume"
        if config.data is None
        else "if the dataset was moved since, name the run folder, too: "
        f"fcnseg train {config.data} --out RUN --resume; without --resume, a new one starts",
    )


def _of_several(state: Path) -> RunFolder | None:
    """The folder of the several runs of which this is the state of one."""
    folder = state.parent.parent
    return RunFolder(folder) if several_in(folder) else None


def options_like(run: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, and for the rest the options of another run; OptionError without one.

    Nothing of what says where that run lies is taken over.
    """
    if given.get("resume"):
        raise OptionError(
            "--like starts a new run, --resume continues one: both were given.", hint="omit one"
        )
    if not RunFolder(run).config.is_file():
        raise OptionError(
            f"{run} is no run folder: it contains no config.toml.",
            hint="name a folder that fcnseg train has written, such as runs/train1",
        )
    stored = TrainConfig.load(RunFolder(run).config).as_dict()
    if {"epochs", "minutes"} & given.keys():
        stored = {**stored, "epochs": 0, "minutes": None}
    return {**stored, "out": None, "resume": False, **given, "like": None}


def is_finished(run: RunFolder, stored: TrainConfig) -> bool:
    """Whether a run has had its epochs or its minutes; of several, all of them."""
    several = several_in(run.folder)
    if several is not None:
        return not set(several.names) - several.reported().keys()
    if stored.minutes is None:
        return run.epochs_done() >= stored.epochs
    return load_state(run.state)[0].ended_at >= 60 * stored.minutes


def find_unfinished(config: TrainConfig, runs: Path = RUNS) -> RunFolder | None:
    """The run that find_run means if it has epochs to go, None otherwise."""
    try:
        run = find_run(config, runs)
    except OptionError:
        return None
    return None if is_finished(run, TrainConfig.load(run.config)) else run


def continued(stored: TrainConfig, given: Mapping[str, Any], run: RunFolder) -> TrainConfig:
    """A stored run's options with those that may change; OptionError for a contradiction.

    given: the options that were asked for, by name.
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
            raise OptionError(
                f"{run.folder} was started with --{flag} {_text(ours)}; "
                f"it can't be resumed with {_text(theirs)}.",
                hint=f"{name} can only be raised"
                if name in RISING
                else f"leave --{flag} out, or start a new run without --resume",
            )
    data = given.get("data")
    if data is not None and not (RunFolder(data).state.is_file() or several_in(data)):
        changes["data"] = data.resolve()
    return dataclasses.replace(stored, **changes)


def _text(value: Any) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
