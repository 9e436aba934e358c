"""Folders of several runs: the same training with other seeds, or on each fold of the data.

runs/train1/
  seed0/ seed1/ ...  (or fold0/ fold1/ ...) a run folder each
  config.toml        the options of all
  report.json        mean and spread of the scores; of those that are finished
  report.html        the same as a page
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fcnseg.config import TrainConfig
from fcnseg.errors import STRANGE, OptionError, from_bytes, to_bytes
from fcnseg.training.run_folder import RunFolder, write_atomically


@dataclass(frozen=True)
class Several:
    """A folder of several runs.

    config: the options of all of them. made: the folder, where this command has made it.
    """

    folder: Path
    config: TrainConfig
    made: RunFolder | None = field(default=None, compare=False)

    @property
    def kind(self) -> str:
        """What differs: "seed" or "fold"."""
        return "seed" if self.config.seeds else "fold"

    @property
    def names(self) -> tuple[str, ...]:
        """The folders of the runs, in their order."""
        if self.config.seeds:
            first = self.config.seed
            return tuple(f"seed{number}" for number in range(first, first + self.config.seeds))
        return tuple(f"fold{number}" for number in range(self.config.folds or 0))

    def options(self, name: str) -> TrainConfig:
        """Those of one run; --minutes is divided among all."""
        number = int(name.removeprefix(self.kind))
        own = {"seeds": None, "seed": number} if self.kind == "seed" else {"fold": number}
        minutes = self.config.minutes
        return replace(
            self.config,
            out=self.folder / name,
            resume=False,
            minutes=minutes and minutes / len(self.names),
            **own,
        )

    @property
    def report(self) -> Path:
        """Mean and spread, as data."""
        return self.folder / "report.json"

    def reported(self) -> dict[str, dict[str, Any]]:
        """The scores of the runs that are finished, by name, as report.json has them."""
        try:
            found = json.loads(from_bytes(self.report.read_bytes()))
            return {run["name"]: run for run in found["runs"]}
        except (OSError, *STRANGE):
            return {}

    def write_report(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Write and return what runs reached: their scores, and each score's mean and spread."""
        found = {"kind": f"{self.kind}s", "unfinished": len(self.names) - len(runs)}
        report = {**found, **summarize(runs), "runs": list(runs)}
        text = json.dumps(report, indent=1)
        write_atomically(self.report, lambda file: file.write(to_bytes(text + "\n")))
        return report


def several_in(folder: Path) -> Several | None:
    """The runs of a folder, where it is one of several."""
    run = RunFolder(folder)
    if run.state.is_file() or not run.config.is_file():
        return None
    try:
        config = TrainConfig.load(run.config)
        return Several(folder, config) if is_several(config) else None
    except OptionError:  # another program's
        return None


def scores_of(name: str, run: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """What report.json says of a run. report: of its best checkpoint."""
    return {
        "name": name,
        "run": str(run),
        "epoch": report.get("epoch"),
        "miou": report["miou"],
        "pixel_accuracy": report["pixel_accuracy"],
        "iou": {one["name"]: one["iou"] for one in report["classes"]},
    }


def summarize(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over runs: of "miou", "pixel_accuracy" and, by class, "iou"."""
    classes = dict.fromkeys(name for run in runs for name in run["iou"])
    return {
        **{key: _spread([run[key] for run in runs]) for key in ("miou", "pixel_accuracy")},
        "iou": {name: _spread([run["iou"].get(name) for run in runs]) for name in classes},
    }


def _spread(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Of the runs that have a value: their mean, sample standard deviation, least and most."""
    here = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(here) if here else None,
        "std": statistics.stdev(here) if len(here) > 1 else None,
        "min": min(here, default=None),
        "max": max(here, default=None),
        "runs": len(here),
    }


def is_several(config: TrainConfig) -> bool:
    """Whether options mean several runs; OptionError where they contradict each other."""
    if config.seeds and config.folds:
        raise OptionError(
            "--seeds and --folds can't be combined.",
            hint="give one; each of the folds has the same seed",
        )
    if config.fold is not None and (config.folds or 0) <= config.fold:
        raise OptionError(
            f"--fold {config.fold} is one of the folds that --folds makes, from 0 on; "
            + (f"there are {config.folds}." if config.folds else "--folds was not given."),
            hint="for example --folds 5 --fold 0; without --fold, all are trained",
        )
    return bool(config.seeds) or (bool(config.folds) and config.fold is None)
