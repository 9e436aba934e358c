"""The state of a training (state.pt), its environment (environment.json) and its lock.

The environment is compared when a run is resumed. The lock ensures that only one process trains in
a folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from fcnseg.datasets import Description, files_of, sizes
from fcnseg.errors import PARSE_ERRORS, CheckpointError, Interrupted, OptionError, quoted, to_bytes
from fcnseg.models.weights import why_unreadable
from fcnseg.progress import Callback, Message
from fcnseg.training.run_folder import RunFolder, write_atomically

FORMAT = 1

STORED = {"micro_batches": "parts", "lr_scale": "calm"}
"""Fields of TrainState with another name in the file, for compatibility with earlier versions."""


@dataclass
class TrainState:
    """The progress of a training; everything that changes except tensors.

    step: steps done. loss_sum, loss_steps: of the current epoch. seconds: spent so far,
    epoch_seconds: on the steps of the current epoch.
    rows: the finished epochs, as in results.csv. best: the best mIoU so far.
    aux_sum: like loss_sum, of the auxiliary losses. micro_batches: the gradient accumulation
    steps. lr_scale: factor of the learning rate after `rollbacks` roll-backs.
    images: number of training images. scored_step: steps when the last row was written.
    For --minutes: spent, seconds since the training was first started, without interruptions;
    ended_at, the time limit in seconds that was reached when the last step was scored.
    For --unlabeled: number of images, whether it was switched off, and sums over the
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
        """Add a step's losses; confident: below 0 if no unlabeled images were used."""
        self.loss_sum += loss
        self.aux_sum += aux
        self.loss_steps += 1
        if confident >= 0:
            self.unlabeled_sum += unlabeled
            self.confident_sum += confident
            self.unlabeled_steps += 1

    def unlabeled_row(self) -> dict[str, float | int]:
        """Means over the current epoch, for its row; {} if no unlabeled images were used."""
        steps = self.unlabeled_steps
        means = {"unlabeled_loss": self.unlabeled_sum, "confident": self.confident_sum}
        return {name: total / steps for name, total in means.items()} if steps else {}

    def is_patience_over(self, patience: int) -> bool:
        """Whether at least `patience` epochs came after the best one; 0 = never."""
        scores = [row["miou"] or 0.0 for row in self.rows] or [0.0]
        return 0 < patience <= len(scores) - 1 - scores.index(max(scores))

    def end_epoch(self) -> None:
        """Reset the sums: the next step is the first of a new epoch."""
        self.loss_sum = self.aux_sum = self.epoch_seconds = 0.0
        self.unlabeled_sum = self.confident_sum = 0.0
        self.loss_steps = self.unlabeled_steps = 0
        self.scored_step = self.step


def save_state(path: Path, state: TrainState, tensors: Mapping[str, Any]) -> None:
    """Write a training's state atomically. tensors: state dicts by name."""
    track = {STORED.get(name, name): value for name, value in dataclasses.asdict(state).items()}
    content = {"format": FORMAT, "track": track, **tensors}
    write_atomically(path, lambda file: _save(content, file))


def _save(content: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch hides the OSError behind that of closing its archive
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load_state(path: Path) -> tuple[TrainState, dict[str, Any]]:
    """Load a state written by save_state, on the CPU; CheckpointError for other files.

    Nothing in the file is executed (weights_only).
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        _check_crc(path)
    except FileNotFoundError:
        raise CheckpointError(f"There is no {path} to resume from.") from None
    except Exception as error:  # damaged pickles can raise anything
        beside = [path.with_name(f"{name}.safetensors") for name in ("last", "best")]
        hint = "start a new run"
        if weights := next((file for file in beside if file.is_file()), None):
            hint += f" from its weights: fcnseg train DATA --finetune {quoted(weights)}"
        raise CheckpointError(
            f"{path} is damaged or not a training state: {why_unreadable(path, error)}.", hint=hint
        ) from error
    try:
        if content.get("format") == FORMAT:
            names = {stored: name for name, stored in STORED.items()}
            values = {names.get(name, name): one for name, one in content.pop("track").items()}
            return TrainState(**values), content
    except PARSE_ERRORS:  # other fields
        pass
    raise CheckpointError(
        f"{path} is not a training state of this version of fcnseg.",
        hint="resume with the version it was started with, or --finetune from last.safetensors",
    )


def _check_crc(path: Path) -> None:
    """BadZipFile when a checksum differs: torch reads tensors without checking them."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the zip archive's checksum of {damaged} differs")


PACKAGES = ("fcnseg", "torch", "torchvision", "numpy", "opencv-python", "pillow")

_HASHED = 1 << 16
"""Bytes at the start of a file that are hashed; most label files are smaller."""


def environment(description: Description, device: torch.device) -> dict[str, Any]:
    """Versions, machine, a digest of the data, and fcnseg's commit if it runs from a checkout."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "data": {**sizes(description.pairs), "digest": digest_of(description)},
    }


def digest_of(description: Description) -> str:
    """Digest of the classes, and of names, splits, sizes and first 64 KiB of all images and labels.

    It does not depend on the location of the folder.
    """
    digest = hashlib.sha256(to_bytes(repr(description.classes.names)))
    seen: set[Path] = set()
    for pair in description.pairs:
        digest.update(to_bytes(f"\n{pair.name}\n{pair.split}"))
        for path in (pair.image, *files_of(pair)):
            if path not in seen:  # one file may have the labels of all images
                seen.add(path)
                digest.update(_start_of(path))
    return digest.hexdigest()


def note_environment(
    run: RunFolder, now: Mapping[str, Any], before: RunFolder | None, callback: Callback
) -> None:
    """Report differences from an earlier run, and write environment.json if there is none.

    InputError when it can't be written.
    """
    for sentence in differences(before, now) if before else ():
        callback(Message(f"{sentence} The weights will differ from its own.", "warning"))
    if not run.environment.exists():
        text = json.dumps(now, indent=2) + "\n"
        write_atomically(run.environment, lambda file: file.write(to_bytes(text)))


def differences(run: RunFolder, now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each difference from a run's environment; none for old runs."""
    with suppress(OSError, *PARSE_ERRORS):
        before = json.loads(run.environment.read_bytes())
        for name in [name for name in now if name in before and before[name] != now[name]]:
            if name == "data":
                yield f"The dataset has changed since {run.folder} began: {_changed(before, now)}."
            else:
                yield f"{run.folder} was trained with {name} {before[name]}; now it is {now[name]}."


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    had, has = ({k: v for k, v in one["data"].items() if k != "digest"} for one in (before, now))
    return "files have other contents" if had == has else f"it had {_parts(had)}, now {_parts(has)}"


def _parts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def _start_of(path: Path) -> bytes:
    with suppress(OSError), path.open("rb") as file:
        return f"\n{path.stat().st_size}\n".encode() + file.read(_HASHED)
    return b"\ngone"


def _version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of fcnseg's checkout, with "-dirty" if files differ; None if it is installed."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    return None


try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

_locks: set[int] = set()


def _release_locks() -> None:
    while _locks:
        os.close(_locks.pop())


if hasattr(os, "register_at_fork"):  # a data loading process may outlive the training
    os.register_at_fork(after_in_child=_release_locks)


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Lock a run folder; OptionError when another process is training in it.

    The lock ends with this process. Without effect on Windows and file systems without locks.
    """
    number = None
    with suppress(OSError):
        number = os.open(run.folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if number is not None:
            _locks.add(number)
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _unlock(number)
        raise OptionError(
            f"{run.folder} is being trained by another process.",
            hint="wait until it ends, or stop it; another training needs another --out",
        ) from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        _unlock(number)


def _unlock(number: int | None) -> None:
    if number in _locks:
        _locks.remove(number)
        os.close(number)


@contextmanager
def completing(run: RunFolder) -> Iterator[None]:
    """Turn Ctrl-C after the last epoch, during calibration and report, into Interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "Stopped after the last epoch, while the model was calibrated and the report written; "
            f"everything else is saved in {run.folder}.",
            hint=f"complete it with: fcnseg train {quoted(run.folder)} --resume",
        ) from None
