"""The result of a training; several trainings by one command (--seeds, --folds)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fcnseg import notebook
from fcnseg.config import TrainConfig
from fcnseg.datasets.dataset_toml import read_declared
from fcnseg.errors import Interrupted, MediaError, percent, quoted, to_bytes
from fcnseg.io.images import write_bytes
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.overwriting import refuse_overwriting
from fcnseg.progress import Callback, Message
from fcnseg.report import multi_run_page
from fcnseg.report.tables import has_charts, line_chart
from fcnseg.training.run_folder import MultiRun, Row, RunFolder, scores_of
from fcnseg.training.run_folder.resume import CHANGEABLE, RISING, continued, new_run
from fcnseg.training.run_folder.state import TrainState, load_state


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    run: its folder. best, last: the checkpoints. miou: the best on the validation images.
    epochs: number of epochs trained. seconds: training time, including that before --resume.
    history: a row for each epoch, as in results.csv.
    """

    run: Path
    best: Path
    last: Path
    miou: float
    epochs: int
    seconds: float
    history: tuple[Row, ...] = ()

    @classmethod
    def of(cls, run: RunFolder, state: TrainState) -> TrainResult:
        """The result of a run from its folder and training state."""
        return cls(
            run=run.folder,
            best=run.best,
            last=run.last,
            miou=state.best,
            epochs=int(state.rows[-1]["epoch"] or 0) if state.rows else 0,
            seconds=state.seconds,
            history=tuple(state.rows),
        )

    @property
    def report(self) -> dict[str, Any]:
        """The scores of the best checkpoint, in the form of `fcnseg eval --json`."""
        return dict(Checkpoint.load(self.best).report)

    def _repr_html_(self) -> str:
        """For notebooks: the best mIoU, the checkpoints, and the curve of the mIoU."""
        html = notebook.facts(
            "Training",
            {
                "best mIoU": percent(self.miou),
                "epochs": self.epochs,
                "training time": f"{self.seconds:.0f} s",
                "best checkpoint": self.best,
                "last checkpoint": self.last,
            },
        )
        rows = [row for row in self.history if row.get("miou") is not None]
        if not rows or not has_charts():
            return html
        epochs, miou = ([float(row[name] or 0) for row in rows] for name in ("epoch", "miou"))
        percents = [100 * value for value in miou]
        return html + line_chart(
            {"mIoU": percents}, x=epochs, x_name="epoch", name="mIoU, %, validation images"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data without the history, which is in results.csv."""
        values = ((name, value) for name, value in vars(self).items() if name != "history")
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}


@dataclass(frozen=True)
class MultiRunResult(TrainResult):
    """Several finished trainings.

    run: the folder that contains their run folders. runs: their results. miou: the mean. best,
    last, epochs: of the run with the highest mIoU. seconds: total. summary: as in report.json.
    """

    runs: tuple[TrainResult, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> dict[str, Any]:
        """Mean and spread of the scores, and the scores of each run."""
        return dict(self.summary)

    def as_dict(self) -> dict[str, Any]:
        """The data of report.json, with the folder and the training time."""
        return {**self.summary, "run": str(self.run), "seconds": self.seconds}


TrainOne = Callable[..., TrainResult]
"""The function `train`: starts a run from a config, or resumes the run in a folder."""


def train_runs(
    several: MultiRun, again: Mapping[str, Any], train_one: TrainOne, callback: Callback
) -> MultiRunResult:
    """Train all runs of a folder that are not finished yet.

    again: options changed since the runs started, where --resume allows it. Interrupted names
    the command that resumes all.
    """
    longer = bool(again.keys() & set(RISING))
    scores = {} if longer else several.reported()
    results: list[TrainResult] = []
    names, minutes = several.names, several.config.minutes
    text = f"{several.folder}: {len(names)} trainings, {names[0]} to {names[-1]}"
    text += f", {minutes / len(names):.3g} minutes each" if minutes else ""
    callback(Message(text))
    with _resumable(several):
        for number, name in enumerate(names, start=1):
            run = RunFolder(several.folder / name)
            if name in scores:
                results.append(TrainResult.of(run, load_state(run.state)[0]))
                continue
            callback(Message(f"{run.folder}: {number} of {len(names)}"))
            options = several.options(name)
            if run.state.is_file():
                changed = {key: getattr(options, key) for key in again}
                result = train_one(run.folder, callback, resume=True, **changed)
            else:
                result = train_one(options, callback)
            results.append(result)
            scores[name] = scores_of(name, run.folder, result.report)
            if run.dataset.is_file():  # a fold of --folds
                validated = read_declared(run.dataset).splits.get("val", ())
                scores[name]["validated_on"] = list(validated)
            several.write_report([scores[each] for each in names if each in scores])
        summary = several.write_report([scores[name] for name in names])
        if several.config.report and has_charts():
            _write_page(several, summary, callback)
    best = max(results, key=lambda each: each.miou)
    return MultiRunResult(
        several.folder,
        best.best,
        best.last,
        summary["miou"]["mean"] or 0.0,
        best.epochs,
        sum(each.seconds for each in results),
        runs=tuple(results),
        summary=summary,
    )


def _write_page(several: MultiRun, summary: Mapping[str, Any], callback: Callback) -> None:
    """Write report.html; only warn if that fails."""
    try:
        page = multi_run_page(str(several.folder), summary)
        write_bytes(RunFolder(several.folder).report, to_bytes(page))
    except MediaError as error:
        callback(Message(f"No report was written: {error.message}", "warning"))


def open_runs(config: TrainConfig) -> MultiRun:
    """Create the folder for several runs; OptionError if it overlaps the data."""
    data = config.data
    if config.out is not None:
        folders = (("the dataset", data), ("--unlabeled", config.unlabeled))
        inputs = [(role, path) for role, path in folders if path is not None and path.is_dir()]
        refuse_overwriting([("--out", config.out)], inputs)
    resolved: dict[str, Any] = {"data": data and data.resolve(), "resume": False, "like": None}
    resolved |= {"unlabeled": config.unlabeled and config.unlabeled.resolve()}
    for name in ("finetune", "backbone_weights"):  # a path or a name
        path = Path(getattr(config, name) or "")
        resolved |= {name: str(path.resolve())} if path.name and path.exists() else {}
    run = new_run(config.out)
    config = replace(config, out=run.folder, **resolved)
    run.write_config(config)
    return MultiRun(run.folder, config, made=run)


def resumed_runs(several: MultiRun, asked: Mapping[str, Any]) -> tuple[MultiRun, dict[str, Any]]:
    """The runs with changed options, and these; OptionError for options that can't change."""
    run = RunFolder(several.folder)
    config = continued(several.config, asked, run)
    run.write_config(config)
    again = {name: value for name, value in asked.items() if name in {*CHANGEABLE, *RISING}}
    return MultiRun(several.folder, config), again


@contextlib.contextmanager
def _resumable(several: MultiRun) -> Iterator[None]:
    """Make Interrupted name the command that resumes all; remove the folder if no run has begun."""
    try:
        yield
    except BaseException as error:
        begun = any(RunFolder(several.folder / name).state.is_file() for name in several.names)
        if several.made is not None and not begun:
            several.made.discard()
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            message = error.message if isinstance(error, Interrupted) else "Interrupted."
            hint = f"resume all with: fcnseg train {quoted(several.folder)} --resume"
            raise Interrupted(message, hint=hint) from None
        raise
