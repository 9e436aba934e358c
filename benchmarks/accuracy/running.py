"""Run the training of a table row; the result is a line of results.jsonl."""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import IMAGENET, RANDOM, Peer, train_peer
from subsets import data_of
from torch import nn
from trainings import Training

import fcnseg
from fcnseg.classes import IGNORE
from fcnseg.commands.train import train
from fcnseg.config import TrainConfig
from fcnseg.datasets import split_pairs, split_sizes
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.datasets.loader import BatchSampler
from fcnseg.device import precision_name, resolve_device, resolve_precision
from fcnseg.engines.fuse import fuse_for_inference
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import TrainingError
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import labels_of
from fcnseg.metrics.regions import matches_within
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import find_backbone
from fcnseg.progress import Callback, EpochEnd, Event, Message, no_callback
from fcnseg.training.run_folder import RunFolder

SCORES = ("miou", "pixel_accuracy", "mean_accuracy", "fw_iou")
IOU = "iou "
"""Prefix of the columns of classes in results.csv."""

NEAR = 2
"""Tolerance of near_f1, in pixels."""

Record = dict[str, Any]


RENAMED = {"ladder": "skips"}
"""Former names of parts -> their current names."""


class Book:
    """The results so far, a JSON object per line; truncated lines are skipped."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, [*_read(path)]

    def has(self, training: Training, seed: int, budget: str, options: Mapping[str, Any]) -> bool:
        """Whether this training is done."""
        key = (training.part, training.name, seed, budget, _as_json(options))
        return any(_key(row) == key for row in self.rows)

    def epochs_of(self, training: Training, budget: str, options: Mapping[str, Any]) -> int | None:
        """The number of epochs of this training with another seed; None if it is the first."""
        key = (training.part, training.name, budget, _as_json(options))
        same = [row for row in self.rows if (*_key(row)[:2], *_key(row)[3:]) == key]
        return next((row["epochs_done"] for row in same if "epochs_done" in row), None)

    def add(self, row: Record) -> None:
        """Append a result and sync it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell() and not _ends_line(self.path):
                file.write(b"\n")
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)


def run_training(
    training: Training,
    seed: int,
    chosen: argparse.Namespace,
    options: Mapping[str, Any],
    *,
    label: str,
    epochs: int | None = None,
) -> Record:
    """Run a training, or resume it, and return its result; weights are deleted without --keep.

    epochs: the number that fits into --minutes, if known from another seed.
    """
    name = f"{training.name} seed {seed}"
    log(f"{label} {name}")
    digest = hashlib.sha256(_as_json(options).encode()).hexdigest()[:8]
    work: Path = chosen.work or chosen.out / "work"
    place = training.name.replace("*", "x")  # some file systems do not allow stars
    budget = budget_of(chosen)
    run = RunFolder(work / training.part / place / f"{budget.replace(' ', '-')}-{seed}-{digest}")
    data, unlabeled = data_of(training, seed, chosen.data, work)
    values = {"calibrate": False, **options, **training.options, "data": data, "out": run.folder}
    if "unlabeled" in training.options:
        values["unlabeled"] = unlabeled
    values |= {"epochs": chosen.epochs, "seed": seed, "device": chosen.device}
    row: Record = {"part": training.part, "cell": training.name, "seed": seed, "budget": budget}
    row |= {"options": dict(options), "changed": dict(training.options)}
    begun = run.state.is_file()
    began = time.monotonic()
    try:
        if training.part == "minutes":
            values |= {"epochs": 0, "minutes": chosen.minutes}
        elif chosen.minutes:
            values["epochs"] = epochs or _epochs_in(60 * chosen.minutes, training, values, run)
        row |= _trained(training, values, run, progress(f"{label} {name}"))
    except TrainingError as error:
        log(f"{label} {name} failed: {error.message}")
        row |= {"failed": error.message}
    else:
        log(f"{label} {name}: mIoU {100 * row['miou']:.2f} in {row['seconds']:.0f} s")
        row["took"] = None if begun else time.monotonic() - began
    row |= circumstances(chosen)
    if not chosen.keep:
        for file in (run.state, run.best, run.last):
            file.unlink(missing_ok=True)
    return row


def budget_of(chosen: argparse.Namespace) -> str:
    """The budget of each training of a table, as text."""
    return f"{chosen.minutes:g} minutes" if chosen.minutes else f"{chosen.epochs} epochs"


def _epochs_in(seconds: float, training: Training, values: Record, run: RunFolder) -> int:
    """The number of epochs that fit, from the second epoch of a trial; or that of a started run.

    The first epoch also reads the images, which is much slower if there are few.
    """
    if run.state.is_file():
        return TrainConfig.load(run.config).epochs
    with tempfile.TemporaryDirectory() as folder:
        trial = RunFolder(Path(folder) / "run")
        _train(training, {**values, "epochs": 2, "out": trial.folder}, no_callback)
        with trial.results.open(newline="", encoding="utf-8") as file:
            _, row = csv.DictReader(file)
    return max(1, round(seconds / float(row["seconds"])))


def _train(training: Training, values: Record, callback: Callback) -> tuple[Peer | None, str]:
    """Train by `fcnseg train`, or another network with the same run folder.

    Returns the other network, if it is one, and the backbone's initial weights.
    """
    if training.peer is None:
        state = RunFolder(values["out"]).state
        config = TrainConfig.make({**values, "resume": state.is_file()})
        train(config, callback)
        return None, backbone_start(config)
    peer = train_peer(training.peer, TrainConfig.make(values), callback)
    return peer, peer.start


def _trained(training: Training, values: Record, run: RunFolder, callback: Callback) -> Record:
    """Train; return the results of the averaged weights and of the run."""
    peer, start = _train(training, values, callback)
    averaged = Checkpoint.load(run.last)
    if peer is not None:
        peer.load_state_dict(averaged.weights)
    network = averaged.build() if peer is None else peer
    parameters = sum(parameter.numel() for parameter in network.parameters())
    near = (
        near_f1(network, averaged, TrainConfig.load(run.config))
        if training.part == "others"
        else {}
    )
    return {"start": start, "parameters": parameters, "near_f1": near, **_found(run)}


def near_f1(
    network: nn.Module, averaged: Checkpoint, config: TrainConfig
) -> dict[str, float | None]:
    """F1 of each class's pixels on the validation images, with a tolerance of NEAR pixels.

    A predicted pixel is correct when the labels have its class within the tolerance (Euclidean), a
    labelled one is found when the prediction has its class there: the usual score of thin cracks.
    None if the labels lack a class.
    """
    assert config.data is not None
    description = describe(config.data)
    split = "val" if "val" in split_sizes(description) else "train"
    images = SegmentationDataset(description, split, preprocess=averaged.preprocess)
    device, exact = resolve_device(config.device), torch.float32
    fused = fuse_for_inference(network.eval(), device=device, precision=exact)
    engine = TorchEngine(fused, averaged.preprocess, device=device, precision=exact)
    predict = labels_of(Segmenter(engine, averaged.classes, averaged.preprocess))
    count = len(averaged.classes)
    sums = np.zeros((4, count), np.int64)
    for sample in map(images.__getitem__, range(len(images))):
        predicted = np.where(sample.labels == IGNORE, IGNORE, predict([sample.image])[0])
        both = ((sample.labels, predicted), (predicted, sample.labels))
        for row, (one, other) in enumerate(both):
            counted = one[one != IGNORE]
            near = one[matches_within(one, other, NEAR) & (one != IGNORE)]
            sums[2 * row] += np.bincount(near, minlength=count)
            sums[2 * row + 1] += np.bincount(counted, minlength=count)
    found, labelled, right, predicted_ones = sums
    return {
        name: _f1(found[k] / labelled[k], right[k] / max(1, predicted_ones[k]))
        if labelled[k]
        else None
        for k, name in enumerate(averaged.classes.names)
    }


def _f1(recall: float, precision: float) -> float:
    both = float(recall + precision)
    return 2 * float(recall * precision) / both if both else 0.0


def backbone_start(config: TrainConfig) -> str:
    """The initial weights of fcnseg's backbone."""
    if config.backbone_weights == "none":
        return RANDOM
    backbone = str(config.with_fallbacks().backbone)
    timm = backbone.startswith("timm:")
    return IMAGENET if timm or find_backbone(backbone).official is not None else RANDOM


def _found(run: RunFolder) -> Record:
    """The results of a finished run: the last epoch's scores, and its conditions."""
    config = TrainConfig.load(run.config)
    assert config.data is not None
    assert config.batch != "auto"
    with run.results.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    description = describe(config.data)
    plan = BatchSampler(split_sizes(description)["train"], config.batch, config.epochs, config.seed)
    held_out = split_pairs(description, "val" if "val" in split_sizes(description) else "train")
    names = "\n".join(pair.name for pair in held_out)
    device = resolve_device(config.device)
    return {
        **{name: float(last[name]) for name in SCORES},
        "class_iou": {
            name.removeprefix(IOU): float(value) if value else None
            for name, value in last.items()
            if name.startswith(IOU)
        },
        "best": max(float(row["miou"]) for row in rows),
        "epochs_done": len(rows),
        "seconds": round(
            sum(float(row["seconds"]) for row in rows), 1
        ),  # before and after --resume
        "images": plan.images,
        "images_seen": len(rows) * sum(map(plan.step_images, range(plan.epoch_steps))),
        "held_out": len(held_out),
        "split": hashlib.sha256(names.encode()).hexdigest()[:8],
        "batch": config.batch,
        "crop": list(config.crop or ()),
        "precision": precision_name(resolve_precision(config.precision, device)),
        "images_per_second": round(float(last["images_per_second"]), 2),
    }


def circumstances(chosen: argparse.Namespace) -> Record:
    """The conditions of a result: command, machine, versions, date."""
    places = {str(chosen.data): "DATA", str(chosen.out): "OUT", str(chosen.work): "WORK"}
    words = [places.get(word, word) for word in sys.argv[1:]]
    return {
        "command": shlex.join(["python", "benchmarks/accuracy", *words]),
        "machine": machine(chosen.device),
        "torch": torch.__version__,
        "fcnseg": fcnseg.__version__,
        "date": datetime.date.today().isoformat(),
    }


def machine(device: str) -> str:
    """The name of the GPU, if one is used, and of the CPU."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    here = f"{os.cpu_count()} cores of {cpu}"
    resolved = resolve_device(device)
    if resolved.type == "cpu":
        return f"{here}, no GPU"
    gpu = torch.cuda.get_device_name(resolved) if resolved.type == "cuda" else resolved.type
    return f"{gpu}, {here}"


def progress(label: str) -> Callback:
    """A callback that prints messages, and a line per epoch."""

    def show(event: Event) -> None:
        if isinstance(event, Message):
            log(f"{label}: {event.text}")
        elif isinstance(event, EpochEnd):
            values = event.values
            log(
                f"{label} epoch {event.epoch}/{event.epochs}: loss {values['loss']:.3f}, "
                f"mIoU {100 * values['miou']:.2f}, {values['images_per_second']:.1f} images/s, "
                f"{values['seconds']:.0f} s"
            )

    return show


def log(text: str) -> None:
    """Print a line to stderr, because stdout is for the table."""
    print(text, file=sys.stderr, flush=True)


def _read(path: Path) -> list[Record]:
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                rows.append({**row, "part": RENAMED.get(row["part"], row["part"])})
            except json.JSONDecodeError:
                log(f"{path}: an incomplete line is skipped")
    return rows


def _ends_line(path: Path) -> bool:
    return path.read_bytes()[-1:] == b"\n"


def _key(row: Record) -> tuple[str, str, int, str, str]:
    return row["part"], row["cell"], row["seed"], row["budget"], _as_json(row["options"])


def _as_json(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)
