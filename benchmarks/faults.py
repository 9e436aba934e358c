"""Fuzz fcnseg's inputs: damaged files must raise no errors other than fcnseg's own.

    python benchmarks/faults.py --minutes 60 --state campaign.json [--kinds "COCO polygons,via"]

Every kind of input (images, annotations, models, videos, requests ...) is damaged at random and
read as by the commands, in one process per kind, kinds in turn. Allowed results are success or an
FcnsegError, within 30 seconds and 8 GB. The state file stores the results: the same command
continues from it, and prints the table. Number n of a kind is the same damage in every run:
`--repeat KIND:N` shows its result. `--peers` gives the damaged images and COCO files to other
programs as well, as separate kinds ("png image, Pillow"): Pillow and OpenCV, and if installed
Ultralytics and, by pycocotools, torchvision.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.faults.kinds import Kind, Tried, kinds  # noqa: E402 - it is found where this file is
from tests.faults.peers import peers  # noqa: E402

MEMORY = 8 << 30  # bytes; limit of a process beyond its memory after imports

SECONDS = 30.0  # time limit of an input

TURN = 200  # inputs of a kind in a row

Row = dict[str, Any]
"""Results of a kind so far; `next` is the number of the next input."""


def worker(name: str, first: int, last: int) -> None:
    """Try numbers first..last-1 of a kind; print a line of JSON before and after each."""
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders print
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        os.environ["FCNSEG_CACHE"] = str(Path(folder) / "cache")
        (place := Path(folder) / "it").mkdir()
        tried = Tried(kind_of(name), place)
        if tried.use() != "read":
            raise SystemExit(f"{name}: the sound files are not read")
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY,) * 2)
        for number in range(first, last):
            replies.write(json.dumps({"begun": number}) + "\n")
            began = time.perf_counter()
            try:
                came = tried.attempt(seed_of(name, number))
            except BaseException as error:  # noqa: BLE001 - to be reported
                came = f"{type(error).__name__}: {error}"[:200] + f" ({place_of(error)})"
            seconds = time.perf_counter() - began
            memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - taken
            said = {"number": number, "came": came, "seconds": seconds, "memory": memory}
            replies.write(json.dumps(said) + "\n")


def kind_of(name: str) -> Kind:
    """Find a kind of fcnseg's or of the peers'."""
    return {**kinds(), **peers()}[name]


def seed_of(name: str, number: int) -> str:
    """The seed of number n of a kind; a peer ("png image, Pillow") gets the same damage."""
    return f"{name.partition(',')[0]} {number}"


def place_of(error: BaseException) -> str:
    """The innermost line of fcnseg in an error's traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}fcnseg{os.sep}" in frame.filename]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "not in fcnseg"


def scratch() -> str | None:
    """A folder in memory for temporary files; None for the default one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108, RUF100


def take_turn(name: str, row: Row, count: int) -> None:
    """Try the next inputs of a kind and add the results to its row."""
    last = row["next"] + count
    while row["next"] < last:
        command = [sys.executable, __file__, "--worker", name, "--numbers", f"{row['next']}:{last}"]
        with tempfile.TemporaryFile(
            "w+", errors="replace"
        ) as errors:  # decoders' warnings would fill a pipe
            child = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
            )
            hung, begun = _follow(child, row)
            errors.seek(0)
            printed = errors.read()[-2000:]
        if child.returncode and begun < row["next"]:
            raise SystemExit(f"{name} can't be tried:\n{printed}")
        if child.returncode:
            why = (
                f"no end after {SECONDS:g} s" if hung else f"the process ended: {child.returncode}"
            )
            row["escaped"][str(begun)] = why
            row["next"] = begun + 1


def _follow(child: subprocess.Popen[str], row: Row) -> tuple[bool, int]:
    """Count a worker's results until it ends; whether it had to be killed, and its last number."""
    hung, begun = threading.Event(), row["next"] - 1

    def end() -> None:
        hung.set()
        child.kill()

    assert child.stdout is not None
    timer = threading.Timer(10 * SECONDS, end)  # undamaged files are written first
    timer.start()
    for line in child.stdout:
        said = json.loads(line)
        timer.cancel()
        timer = threading.Timer(SECONDS + 1, end)
        timer.start()
        begun = said.get("begun", begun)
        if "number" in said:
            row["next"] = begun + 1
            row["slowest"] = max(row["slowest"], [round(said["seconds"], 2), begun])
            row["memory"] = max(row["memory"], said["memory"])
            if said["came"] in row:
                row[said["came"]] += 1
            else:
                row["escaped"][str(begun)] = said["came"]
    timer.cancel()
    child.wait()
    return hung.is_set(), begun


def table(rows: dict[str, Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| kind | inputs | read | refused | another error | slowest, s (number) | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        seconds, number = row["slowest"]
        lines.append(
            f"| {name} | {row['next']} | {row['read']} | {row['refused']} | {len(row['escaped'])} "
            f"| {seconds} ({number}) | {row['memory'] >> 20} |"
        )
    return "\n".join(lines)


def repeat(name: str, number: int) -> None:
    """Try one input again, with its traceback."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        try:
            print(Tried(kind_of(name), Path(folder)).attempt(seed_of(name, number)))
        except BaseException:  # noqa: BLE001 - printed
            traceback.print_exc()


def main() -> None:
    """Try kinds in turn until the time is over; exit 1 after other errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--most", type=int, default=10_000, help="inputs of each kind")
    parser.add_argument("--kinds", help="comma between them (default: all)")
    parser.add_argument(
        "--peers", action="store_true", help="damaged images and COCO to other programs too"
    )
    parser.add_argument("--state", type=Path, default=Path("campaign.json"))
    parser.add_argument("--turn", type=int, default=TURN, help="inputs of a kind in a row")
    parser.add_argument("--repeat", help="KIND:NUMBER")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--numbers", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(chosen.worker, *map(int, chosen.numbers.split(":")))
    elif chosen.repeat:
        name, _, number = chosen.repeat.rpartition(":")
        repeat(name, int(number))
    else:
        campaign(chosen)


def campaign(chosen: argparse.Namespace) -> None:
    """Try every kind in turn; exit status 1 after other errors."""
    empty = {"next": 0, "read": 0, "refused": 0, "escaped": {}, "slowest": [0.0, 0], "memory": 0}

    def turn(name: str, row: Row) -> None:
        take_turn(name, row, min(chosen.turn, chosen.most - row["next"]))

    names = names_of(chosen, kinds())
    if chosen.peers:
        names += [name for name in peers() if name.partition(",")[0] in names]
    rows = by_turns(names, chosen, empty, turn)
    print(table(rows))
    print_failures({name: row for name, row in rows.items() if "," not in name}, "escaped")


def names_of(chosen: argparse.Namespace, known: Iterable[str]) -> list[str]:
    """The kinds of --kinds; all of them without it."""
    return chosen.kinds.split(",") if chosen.kinds else list(known)


def by_turns(
    names: Sequence[str],
    chosen: argparse.Namespace,
    empty: Row,
    turn: Callable[[str, Row], None],
) -> dict[str, Row]:
    """Run the least tried kind until the time is over or all are done.

    Rows are loaded from the state file at first, and saved after every turn.
    """
    rows: dict[str, Row] = json.loads(chosen.state.read_text()) if chosen.state.exists() else {}
    for name in names:
        rows.setdefault(name, copy.deepcopy(empty))
    end = time.monotonic() + 60 * chosen.minutes
    while time.monotonic() < end:
        name = min(names, key=lambda name: rows[name]["next"])
        if rows[name]["next"] >= chosen.most:
            break
        turn(name, rows[name])
        chosen.state.write_text(json.dumps(rows))
    return rows


def print_failures(rows: dict[str, Row], key: str) -> NoReturn:
    """Print every failure as KIND:NUMBER, for --repeat; exit 1 if there are any."""
    for name, row in rows.items():
        for number, came in row[key].items():
            print(f"{name}:{number}: {came}")
    sys.exit(any(row[key] for row in rows.values()))


if __name__ == "__main__":
    main()
