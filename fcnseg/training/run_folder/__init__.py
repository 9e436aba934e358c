"""Run folders: the output of a training.

runs/train1/
  best.safetensors   the averaged weights at the best mIoU so far
  last.safetensors   the averaged weights after the last epoch
  config.toml        every option, as resolved
  environment.json   versions, machine, a digest of the data
  results.csv        a row per epoch
  report.html        the scores of the best checkpoint, with curves and images
  dataset.toml       of a fold: the dataset with its validation images
  state.pt           everything needed to resume bit for bit

And folders of several runs, the same training with other seeds or on each fold of the data:

runs/train1/
  seed0/ seed1/ ...  (or fold0/ fold1/ ...) a run folder each
  config.toml        their common options
  report.json        mean and spread of the scores of the finished runs
  report.html        the same as a page
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from fcnseg.config import TrainConfig
from fcnseg.errors import PARSE_ERRORS, InputError, OptionError, from_bytes, quoted, to_bytes
from fcnseg.files import atomic_write

RUNS = Path("runs")

Row = Mapping[str, float | int | None]


@dataclass(frozen=True)
class RunFolder:
    """A run folder and the paths in it.

    new: whether this training has created the folder.
    """

    folder: Path
    new: bool = field(default=False, compare=False)

    @property
    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.folder / "best.safetensors"

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.folder / "last.safetensors"

    @property
    def config(self) -> Path:
        """The resolved options."""
        return self.folder / "config.toml"

    @property
    def environment(self) -> Path:
        """Versions, machine and a digest of the data."""
        return self.folder / "environment.json"

    @property
    def results(self) -> Path:
        """The table of epochs."""
        return self.folder / "results.csv"

    @property
    def report(self) -> Path:
        """The report on the best checkpoint."""
        return self.folder / "report.html"

    @property
    def state(self) -> Path:
        """The state that --resume loads."""
        return self.folder / "state.pt"

    @property
    def dataset(self) -> Path:
        """Of a fold: the dataset with its validation images in val."""
        return self.folder / "dataset.toml"

    @property
    def sample_images(self) -> Path:
        """The folder of validation images drawn during training."""
        return self.folder / "pictures"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.folder / "tensorboard"

    def write_config(self, config: TrainConfig, reasons: Mapping[str, str] | None = None) -> None:
        """Write config.toml. reasons: option -> a comment."""
        text = config.as_toml(reasons)
        write_atomically(self.config, lambda file: file.write(to_bytes(text)))

    def write_results(self, rows: Sequence[Row]) -> None:
        """Overwrite results.csv with these rows."""
        table = io.StringIO()
        # The first rows of runs started with an earlier version have fewer columns.
        columns = dict.fromkeys(name for row in rows for name in row) or {"epoch": None}
        writer = csv.DictWriter(table, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.results, lambda file: file.write(to_bytes(table.getvalue())))

    def discard(self) -> None:
        """Remove the files of a training that could not start, and its folder if it is empty.

        Other files are kept; nothing is removed if there are weights.
        """
        if self.best.exists() or self.last.exists():
            return
        for path in (self.config, self.results, self.environment, self.dataset, self.state):
            with contextlib.suppress(OSError):
                path.unlink()
        if self.new:
            for folder in (self.sample_images, self.tensorboard):
                shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def epochs_done(self) -> int:
        """Number of rows of results.csv; 0 when it is missing or unreadable."""
        with contextlib.suppress(OSError, *PARSE_ERRORS):
            table = io.StringIO(from_bytes(self.results.read_bytes()), newline="")
            return max(0, sum(1 for _ in csv.reader(table)) - 1)  # class names may have newlines
        return 0


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file, sync and rename it: readers see the old or the new file.

    InputError when it can't be written; the old file is kept.
    """
    try:
        with atomic_write(path, sync=True) as file:
            write(file)
        _sync_folder(path.parent)
    except OSError as error:
        hint = "is the disk full or read-only?"
        if RunFolder(path.parent).state.exists():
            hint += f" When that is mended: fcnseg train {quoted(path.parent)} --resume"
        raise InputError(f"Can't write {path}: {error.strerror}.", hint=hint) from error


@dataclass(frozen=True)
class MultiRun:
    """A folder of several runs.

    config: their common options. made: the folder, if this command has created it.
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
        """The names of the runs' folders, in order."""
        if self.config.seeds:
            first = self.config.seed
            return tuple(f"seed{number}" for number in range(first, first + self.config.seeds))
        return tuple(f"fold{number}" for number in range(self.config.folds or 0))

    def options(self, name: str) -> TrainConfig:
        """The options of one run; --minutes is divided among all."""
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
        """The scores of the finished runs in report.json, by name."""
        try:
            found = json.loads(from_bytes(self.report.read_bytes()))
            return {run["name"]: run for run in found["runs"]}
        except (OSError, *PARSE_ERRORS):
            return {}

    def write_report(self, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Write and return report.json: scores of the finished runs, their mean and spread."""
        found = {"kind": f"{self.kind}s", "unfinished": len(self.names) - len(runs)}
        report = {**found, **summarize(runs), "runs": list(runs)}
        text = json.dumps(report, indent=1)
        write_atomically(self.report, lambda file: file.write(to_bytes(text + "\n")))
        return report


def multi_run_in(folder: Path) -> MultiRun | None:
    """The runs in a folder of several runs; None for other folders."""
    run = RunFolder(folder)
    if run.state.is_file() or not run.config.is_file():
        return None
    try:
        config = TrainConfig.load(run.config)
        return MultiRun(folder, config) if is_multi_run(config) else None
    except OptionError:  # another program's
        return None


def scores_of(name: str, run: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """A run's entry in report.json. report: of its best checkpoint."""
    return {
        "name": name,
        "run": str(run),
        "epoch": report.get("epoch"),
        "miou": report["miou"],
        "pixel_accuracy": report["pixel_accuracy"],
        "iou": {one["name"]: one["iou"] for one in report["classes"]},
    }


def summarize(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread over runs: of "miou", "pixel_accuracy" and, per class, "iou"."""
    classes = dict.fromkeys(name for run in runs for name in run["iou"])
    return {
        **{key: _spread([run[key] for run in runs]) for key in ("miou", "pixel_accuracy")},
        "iou": {name: _spread([run["iou"].get(name) for run in runs]) for name in classes},
    }


def _spread(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Mean, sample standard deviation, minimum and maximum of the values that are not None."""
    here = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(here) if here else None,
        "std": statistics.stdev(here) if len(here) > 1 else None,
        "min": min(here, default=None),
        "max": max(here, default=None),
        "runs": len(here),
    }


def is_multi_run(config: TrainConfig) -> bool:
    """Whether options mean several runs; OptionError when they contradict each other."""
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


def _sync_folder(folder: Path) -> None:
    """Sync a rename to disk; Windows can't open folders and does not need it."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def refuse_run(data: Path) -> None:
    """OptionError when DATA is a run folder, or weights or the state in one."""
    folder = data.parent if data.suffix in (".safetensors", ".pt") else data
    run = RunFolder(folder)
    if (run.state.is_file() and run.config.is_file()) or multi_run_in(folder):
        raise OptionError(
            f"{data} is {'a run' if data == folder else 'a file of a run'}, not a dataset.",
            hint=f"resume it: fcnseg train {quoted(folder)} --resume; "
            f"or start from its weights: fcnseg train DATA --finetune {quoted(folder)}",
        )
