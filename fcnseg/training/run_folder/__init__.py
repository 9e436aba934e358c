"""Run folders: where a training keeps what it makes.

runs/train1/
  best.safetensors   the averaged weights at the best mIoU so far
  last.safetensors   the averaged weights after the last epoch
  config.toml        every option, as resolved
  environment.json   what it was made with: versions, machine, a digest of the data
  results.csv        a row per epoch
  report.html        the scores of the best checkpoint, with curves and images
  dataset.toml       of a fold: which images validated
  state.pt           everything needed to resume, bit for bit
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from fcnseg.config import TrainConfig
from fcnseg.errors import (
    STRANGE,
    CheckpointError,
    InputError,
    OptionError,
    from_bytes,
    to_bytes,
    typed,
)
from fcnseg.files import atomic_write, sync_folder
from fcnseg.models.weights import why_unreadable

RUNS = Path("runs")

Row = Mapping[str, float | int | None]


@dataclass(frozen=True)
class RunFolder:
    """A run folder and the names in it.

    new: whether this training has made the folder itself.
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
        """What the run was made with."""
        return self.folder / "environment.json"

    @property
    def results(self) -> Path:
        """The table of epochs."""
        return self.folder / "results.csv"

    @property
    def report(self) -> Path:
        """The page on the best checkpoint."""
        return self.folder / "report.html"

    @property
    def state(self) -> Path:
        """The state that --resume loads."""
        return self.folder / "state.pt"

    @property
    def dataset(self) -> Path:
        """Of a fold: the dataset with the images that validated in val."""
        return self.folder / "dataset.toml"

    @property
    def sample_images(self) -> Path:
        """The folder of validation images, drawn during training."""
        return self.folder / "pictures"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.folder / "tensorboard"

    def write_config(self, config: TrainConfig, reasons: Mapping[str, str] | None = None) -> None:
        """Write config.toml, with reasons by option."""
        text = config.as_toml(reasons)
        write_atomically(self.config, lambda file: file.write(to_bytes(text)))

    def write_results(self, rows: Sequence[Row]) -> None:
        """Write results.csv anew: exactly these rows."""
        table = io.StringIO()
        # A run that an earlier version began has fewer columns in its first rows.
        columns = dict.fromkeys(name for row in rows for name in row) or {"epoch": None}
        writer = csv.DictWriter(table, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.results, lambda file: file.write(to_bytes(table.getvalue())))

    def discard(self) -> None:
        """Remove what a training that could not start has written, and its folder if it is empty.

        What others have put there stays, and so do weights.
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
        """Rows of results.csv; 0 when there is none that can be read."""
        with contextlib.suppress(OSError, *STRANGE):
            table = io.StringIO(from_bytes(self.results.read_bytes()), newline="")
            return max(0, sum(1 for _ in csv.reader(table)) - 1)  # a class's name may have lines
        return 0


def new_run(out: Path | None, runs: Path = RUNS) -> RunFolder:
    """A new folder: `out`, or the next free runs/trainN. OptionError when `out` is taken."""
    if out is not None:
        refuse_taken(out)
        return RunFolder(out, new=_make(out))
    number = 1
    while not _make(runs / f"train{number}"):
        number += 1
    return RunFolder(runs / f"train{number}", new=True)


def refuse_taken(out: Path | None) -> None:
    """OptionError when `out` holds a file of a run's: nothing is ever written over."""
    if out is None:
        return
    run = RunFolder(out)
    files = (run.state, run.best, run.last, run.config, run.results, run.report, run.dataset)
    taken = next((path for path in files if path.exists()), None)
    if taken is not None:
        raise OptionError(
            f"{out} already contains a run ({taken.name}).",
            hint="use another --out, resume it with --resume, or delete the folder"
            if run.state.exists()
            else "it has no state to resume from; use another --out, or delete the folder",
        )


def _make(folder: Path) -> bool:
    """Whether the folder was made; False where it is there already. InputError where neither."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        if isinstance(error, FileExistsError) and folder.is_dir():
            return False
        raise InputError(f"Can't make the folder {folder}: {error.strerror}.") from error
    return True


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside, flush to disk, rename: whoever reads sees the old file or the new one.

    InputError when the disk does not take it; the old file is then still there.
    """
    try:
        with atomic_write(path, sync=True) as file:
            write(file)
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"Can't write {path}: {error.strerror}.", hint="is the disk full or read-only?"
        ) from error


FORMAT = 1

STORED = {"micro_batches": "parts", "lr_scale": "calm"}
"""Fields of TrainState that are called otherwise in the file: runs of before are resumed."""


@dataclass
class TrainState:
    """How far a training has come; the only thing about it that changes beside tensors.

    step: steps done. loss_sum, loss_steps: of the epoch under way. seconds: spent so far,
    epoch_seconds: on the steps of the epoch under way.
    rows: the finished epochs, as in results.csv. best: the best mIoU so far.
    aux_sum: like loss_sum, of the auxiliary losses. micro_batches: the gradient accumulation
    steps. lr_scale: what the learning rate is multiplied by after `rollbacks` roll-backs.
    images: how many training images there are. scored_step: steps when the last row was written.
    Of --minutes: spent, seconds since the training was first started, without those in between;
    ended_at, the seconds that were over when the last step was scored.
    Of --unlabeled: how many images there are, whether it was switched off, and sums over the
    unlabeled_steps of the epoch that used them.
    """

    step: int = 0
    loss_sum: float = 0.0
    aux_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    rows: list[dict[str, float | int | None]] = field(default_factory=list)
    best: float = -1.0
    micro_batches: int = 1
    lr_scale: float = 1.0
    rollbacks: int = 0
    images: int = 0
    scored_step: int = 0
    spent: float = 0.0
    ended_at: float = 0.0
    unlabeled_images: int = 0
    unlabeled_off: bool = False
    unlabeled_sum: float = 0.0
    confident_sum: float = 0.0
    unlabeled_steps: int = 0

    def add(self, loss: float, aux: float, unlabeled: float = 0.0, confident: float = -1.0) -> None:
        """Take note of what a step's losses were; confident: below 0 where nothing was used."""
        self.loss_sum += loss
        self.aux_sum += aux
        self.loss_steps += 1
        if confident >= 0:
            self.unlabeled_sum += unlabeled
            self.confident_sum += confident
            self.unlabeled_steps += 1

    def unlabeled_row(self) -> dict[str, float | int]:
        """Of the epoch under way, for its row; {} where no unlabeled image was used."""
        steps = self.unlabeled_steps
        if not steps:
            return {}
        return {
            "unlabeled_loss": self.unlabeled_sum / steps,
            "confident": self.confident_sum / steps,
        }

    def end_epoch(self) -> None:
        """The next step is the first of another epoch."""
        self.loss_sum = self.aux_sum = self.epoch_seconds = 0.0
        self.unlabeled_sum = self.confident_sum = 0.0
        self.loss_steps = self.unlabeled_steps = 0
        self.scored_step = self.step


def save_state(path: Path, state: TrainState, tensors: Mapping[str, Any]) -> None:
    """Write a training's state: complete or not at all.

    tensors: what else belongs to it: state dicts by name.
    """
    values = dataclasses.asdict(state)
    stored = {STORED.get(name, name): value for name, value in values.items()}
    content = {"format": FORMAT, "track": stored, **tensors}
    write_atomically(path, lambda file: _save(content, file))


def _save(content: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch closes its archive and finds less than it wrote
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load_state(path: Path) -> tuple[TrainState, dict[str, Any]]:
    """Read what save_state wrote, on the CPU; CheckpointError when it is something else.

    Nothing in the file is executed (weights_only).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_other_bytes(path)
    except FileNotFoundError:
        raise CheckpointError(f"There is no {path} to resume from.") from None
    except Exception as error:  # the unpickler raises whatever the bytes make it raise
        beside = [path.with_name(f"{name}.safetensors") for name in ("last", "best")]
        weights = next((file for file in beside if file.is_file()), None)
        raise CheckpointError(
            f"{path} is damaged or not a training state: {why_unreadable(path, error)}.",
            hint="start a new run"
            + (
                f" from its weights: fcnseg train DATA --finetune {typed(weights)}"
                if weights
                else ""
            ),
        ) from error
    try:
        if content.get("format") == FORMAT:
            names = {stored: name for name, stored in STORED.items()}
            values = {names.get(name, name): one for name, one in content.pop("track").items()}
            return TrainState(**values), content
    except STRANGE:  # other fields than ours
        pass
    raise CheckpointError(
        f"{path} is not a training state of this version of fcnseg.",
        hint="resume with the version it was started with, or --finetune from last.safetensors",
    )


def _refuse_other_bytes(path: Path) -> None:
    """BadZipFile where a byte is not what was written: torch reads numbers without their sums."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the zip archive's checksum of {damaged} differs")
