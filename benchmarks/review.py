"""Measure how many corrupted labels `fcnseg review` ranks first. `python benchmarks/review.py`

Corrupts one object in 5 % of the label files of a dataset (erased, given another class, or moved;
with a single class, invented), and reviews the dataset. Found are those among the first 10 % of the
images, ranked by their first region. The dataset is synthetic, with a network trained on the
corrupted labels; or it is a copy of --data FOLDER (images/, labels/ with class indices), with
--model.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

import fcnseg
from fcnseg.classes import ClassMap
from fcnseg.commands.analysis.review import review
from fcnseg.commands.demo.scenes import CLASSES, write_dataset
from fcnseg.commands.train import train
from fcnseg.config import ReviewConfig
from fcnseg.io.images import write_labels
from fcnseg.io.labels import connected_regions, read_raw_labels

KINDS = ("erased", "another class", "moved")
CORRUPTED, LOOKED_AT = 0.05, 0.10
SMALLEST = 150  # minimum area of a corrupted object, in pixels


def corrupt(labels: np.ndarray, kind: str, rng: np.random.Generator, classes: ClassMap) -> bool:
    """Change one object of uint8 (H, W) labels, in place; False if there is none."""
    regions, areas = connected_regions(labels)
    things = [n for n in np.flatnonzero(areas >= SMALLEST) if labels[regions == n][0] != 0]
    if not things:
        return False
    inside = regions == rng.choice(things)
    value = int(labels[inside][0])
    if kind == "another class":
        others = [k for k in range(1, len(classes)) if k != value]
        if others:
            labels[inside] = rng.choice(others)
        else:  # an object where there is none
            half = np.array(labels.shape) // 2
            labels[np.roll(inside, half, axis=(0, 1)) & (labels == 0)] = value
        return True
    labels[inside] = 0
    if kind == "moved":
        moved = np.roll(inside, rng.choice([-14, 14], 2), axis=(0, 1))
        labels[moved & (labels == 0)] = value
    return True


def trained(folder: Path, out: Path, given: argparse.Namespace, seed: int) -> Path:
    """Train a network on the dataset; return its checkpoint."""
    return train(folder, out=out, epochs=given.epochs, seed=seed, report=False).best


def trial(given: argparse.Namespace, seed: int) -> float:
    """Make a dataset, corrupt it, train without --model, review; the fraction that was found."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        val = given.images // 6
        if given.data is None:
            write_dataset(folder, train=given.images - val, val=val)
        else:
            shutil.copytree(given.data, folder)
        classes = CLASSES if given.data is None else fcnseg.load(given.model).classes
        files = sorted((folder / "labels").rglob("*.png"))
        wanted = round(CORRUPTED * len(files))
        changed: dict[str, str] = {}
        for number in rng.permutation(len(files)).tolist():
            if len(changed) == wanted:
                break
            kind = KINDS[len(changed) % len(KINDS)]
            labels = read_raw_labels(files[number]).values.astype(np.uint8)
            if corrupt(labels, kind, rng, classes):
                write_labels(files[number], labels, classes.palette())
                name = files[number].relative_to(folder / "labels").with_suffix("").as_posix()
                changed[name] = kind
        model = given.model or str(trained(folder, Path(place) / "run", given, seed))
        found = review(
            ReviewConfig.make({"data": folder, "model": model, "out": Path(place) / "out"})
        )
    ranked = list(dict.fromkeys(one.name for one in found.suspects))
    first = set(ranked[: round(LOOKED_AT * found.images)])
    print(f"seed {seed}: {found.images} images, {len(changed)} corrupted; found", end="")
    for kind in KINDS:
        names = [name for name, how in changed.items() if how == kind]
        print(f"  {kind} {len(first & set(names))} of {len(names)}", end="")
    print(
        "  ranks", sorted(ranked.index(n) + 1 if n in ranked else -1 for n in changed), flush=True
    )
    return len(first & set(changed)) / len(changed)


def main() -> None:
    """Run a trial per seed, and print the mean."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=240)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--data", help="a dataset that is copied, instead of drawn images")
    options.add_argument("--model", help="a model of its classes, instead of one trained here")
    options.add_argument("--seeds", type=int, default=1)
    given = options.parse_args()
    found = [trial(given, seed) for seed in range(given.seeds)]
    print(
        f"{np.mean(found):.0%} of the corrupted in the first {LOOKED_AT:.0%} of the images "
        f"({min(found):.0%} to {max(found):.0%})"
    )


if __name__ == "__main__":
    main()
