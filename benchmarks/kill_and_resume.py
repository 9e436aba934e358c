"""A training run killed at random moments and resumed each time, and an uninterrupted one.

SIGKILL leaves a process no time for anything: what counts is what is on the disk at that
moment. At the end the weights of both trainings must be the same, bit for bit, and so must
the rows of results.csv. Run it as

    python benchmarks/kill_and_resume.py [--kills 50] [--seed 0]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.models.checkpoint import Checkpoint

TRAIN = """
import sys, time, torch
torch.set_num_threads(1)
from fcnseg.config import TrainConfig
from fcnseg.commands.train import train
print("ready", flush=True)
train(TrainConfig.make({
    "data": sys.argv[1], "out": sys.argv[2], "resume": sys.argv[3] == "resume",
    "epochs": int(sys.argv[4]), "save_every": 0.2, "batch": 4, "crop": (96, 96), "lr": 4e-3,
    "backbone": "tiny", "backbone_weights": "none", "width": 16, "device": "cpu",
}))
"""

CLOCKED = ("seconds", "images_per_second")


def begin(data: Path, run: Path, epochs: int) -> subprocess.Popen[str]:
    """A training process, resumed if there is a run; returns when it is loaded."""
    how = "resume" if (run / "state.pt").exists() else "new"
    command = [sys.executable, "-c", TRAIN, str(data), str(run), how, str(epochs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def differences(run: Path, other: Path) -> list[str]:
    """What is not the same in two finished runs."""
    found = [] if rows(run) == rows(other) else ["results.csv"]
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = Checkpoint.load(run / name).weights, Checkpoint.load(other / name).weights
        found += [f"{name}: {key}" for key in theirs if not torch.equal(ours[key], theirs[key])]
    return found


def rows(run: Path) -> list[dict[str, str]]:
    """results.csv without what a clock decides."""
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKED} for row in csv.DictReader(file)]


def main() -> None:
    """Kill, resume, compare; exit 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=0, help="0: as many as the kills need")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    epochs = chosen.epochs or max(3, 2 * chosen.kills)
    dice = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        data, lr_scale, killed = (Path(folder) / name for name in ("data", "calm", "killed"))
        write_dataset(data, train=24, val=6)
        began = time.perf_counter()
        assert begin(data, lr_scale, epochs).wait() == 0
        length = time.perf_counter() - began
        kills = 0
        while True:
            process = begin(data, killed, epochs)
            try:
                if kills == chosen.kills:
                    process.wait()
                else:
                    # Half of the time at most, so that the run does not end before the last kill.
                    process.wait(timeout=dice.uniform(0, length / chosen.kills))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"killed {kills} times, {len(list(rows_or_none(killed)))} epochs done")
        wrong = differences(killed, lr_scale)
        print(json.dumps({"kills": kills, "epochs": epochs, "different": wrong}))
        sys.exit(1 if wrong else 0)


def rows_or_none(run: Path) -> list[dict[str, str]]:
    """The rows so far; none before the first."""
    return rows(run) if (run / "results.csv").exists() else []


if __name__ == "__main__":
    main()
