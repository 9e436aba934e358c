"""Robustness test: commands that are killed, stopped, out of disk space or started twice.

    python benchmarks/bad_days.py --minutes 20 --state bad_days.json [--kinds "train killed,..."]

One trial ("bad day") runs a command of fcnseg in its own process (forked, Linux only), disturbs it
at a random moment (the number of the day is the seed), and runs the command again. The result must
equal that of an undisturbed run: the same weights bit for bit and the same rows in results.csv, or
the same bytes in every output, and no partial files. No traceback may be printed, and no process
may take more than 60 s. The state file stores the results: the same command continues from it.
`--repeat KIND:N` repeats one day. Kinds that mount a small disk need root.
"""

from __future__ import annotations

import argparse
import builtins
import csv
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - it is found where this file is

import fcnseg.commands.infer  # noqa: E402
import fcnseg.commands.train  # noqa: E402, F401 - imported once, for all that are forked
from benchmarks.faults import Row, by_turns, names_of, print_failures  # noqa: E402
from fcnseg.__main__ import main as fcnseg_main  # noqa: E402
from fcnseg.commands.demo.scenes import write_dataset  # noqa: E402
from fcnseg.models.checkpoint import Checkpoint  # noqa: E402

SECONDS = 60.0  # time limit of a process

TRAIN = [
    "--epochs", "4", "--save-every", "0.1", "--backbone", "tiny", "--backbone-weights", "none",
    "--width", "8", "--workers", "0", "--device", "cpu", "--precision", "f32", "--no-report",
    "--crop", "32", "32", "--batch", "2",
]  # fmt: skip

INFER = ["--save", "labels", "--save", "overlay", "--device", "cpu"]

UNSTARTED = ("config.toml", "results.csv", "environment.json")
"""What a run folder may contain before its first state."""

CLOCKED = ("seconds", "images_per_second")

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Broken(Exception):
    """A requirement was violated."""


class Running:
    """A command of fcnseg in a forked process; `text` is its output after it has ended.

    killed: number of processes ended by SIGKILL.
    """

    killed = 0

    def __init__(
        self, *words: object, folder: Path, before: Callable[[], None] = lambda: None
    ) -> None:
        self.words, self.folder = words, folder
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has ended
        self.text = ""
        self.code: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _be_command(list(map(str, words)), folder, self.log.fileno(), before)

    def wait(self, seconds: float = SECONDS) -> bool:
        """Whether it ended in time; its code is negative if a signal ended it."""
        end = time.monotonic() + seconds
        while self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
                Running.killed += self.code == -signal.SIGKILL
                self.log.seek(0)
                self.text = self.log.read().decode("utf-8", "replace")
                self.log.close()
                _no_traceback(self.text)
            elif time.monotonic() >= end:
                return False
            else:
                time.sleep(0.002)
        return True

    def again(self) -> Running:
        """Run the same command again."""
        return Running(*self.words, folder=self.folder)

    def send(self, what: signal.Signals) -> None:
        """Send a signal if it is still running."""
        if self.code is None:
            os.kill(self.pid, what)

    def end(self) -> Running:
        """Wait for it; Broken when it takes too long."""
        if not self.wait():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
            raise Broken(f"no end after {SECONDS:g} s: {self.text[-300:]}")
        return self

    def must(self) -> None:
        """Wait for it; Broken unless it succeeds."""
        if self.end().code:
            raise Broken(f"exit {self.code}: {self.text[-400:]}")


def _be_command(words: list[str], folder: Path, log: int, before: Callable[[], None]) -> None:
    code = 99
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        sys.argv = ["fcnseg", *words]
        before()
        fcnseg_main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - detected in the output
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _no_traceback(text: str) -> None:
    if re.search(r"Traceback \(most recent|A bug in fcnseg", text):
        raise Broken(f"a traceback: {text[-400:]}")


def dying_at(step: int, *, after: bool) -> Callable[[], None]:
    """Make a process kill itself (SIGKILL) at its n-th file operation: write, rename, removal."""
    count = 0

    def counted(own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            nonlocal count
            mode = str(named.get("mode", values[1] if len(values) > 1 else "r"))
            counts = own is not io_open or bool({*mode} & {*"wax+"})
            count += counts
            if counts and count == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = own(*values, **named)
            if counts and count == step and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    io_open = io.open

    def patch() -> None:
        for name in ("replace", "rename", "fsync", "mkdir", "unlink", "link", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        io.open = builtins.open = counted(io_open)

    return patch


@dataclass(frozen=True)
class Place:
    """The fixtures of all days: data, a model, undisturbed outputs, and how long they took."""

    root: Path
    train_seconds: float
    infer_seconds: float

    @property
    def undisturbed(self) -> Path:
        """The undisturbed run."""
        return self.root / "undisturbed"

    @classmethod
    def make(cls, root: Path) -> Place:
        """Write the data, train and infer once."""
        write_dataset(root / "data", train=8, val=3)
        images = root / "images"
        write_dataset(root / "more", train=12, val=1)
        shutil.copytree(root / "more/images/train", images)
        place, times = cls(root, 0.0, 0.0), []
        for begin, out in ((train, root / "undisturbed"), (infer, root / "outputs")):
            begin(place, out).must()  # a warm-up run
            shutil.rmtree(out)
            began = time.monotonic()
            begin(place, out).must()
            times.append(time.monotonic() - began)
        return cls(root, *times)


def train(place: Place, out: Path, before: Callable[[], None] = lambda: None) -> Running:
    """Train into a folder: resume if there is a state, else start."""
    if (out / "state.pt").exists():
        return Running("train", "-o", out, "--resume", folder=place.root, before=before)
    if out.exists() and not (out / "last.safetensors").exists():
        _delete_unstarted(out)
    return Running(
        "train", place.root / "data", "-o", out, *TRAIN, folder=place.root, before=before
    )


def _delete_unstarted(out: Path) -> None:
    """Delete a run that was killed before its first state; Broken if it has other files."""
    left = [path.name for path in out.iterdir() if path.name not in UNSTARTED]
    visible = [name for name in left if not name.startswith(".")]
    if visible:
        raise Broken(f"no state.pt, but {', '.join(visible)}")
    shutil.rmtree(out)


def infer(place: Place, out: Path, before: Callable[[], None] = lambda: None) -> Running:
    """Segment all images; finished ones are skipped."""
    words = (
        "infer",
        place.root / "images",
        "-m",
        place.undisturbed,
        "-o",
        out,
        "--skip-done",
        *INFER,
    )
    return Running(*words, folder=place.root, before=before)


def same_run(place: Place, out: Path) -> None:
    """Broken unless a finished run equals the undisturbed one."""
    if _rows(out) != _rows(place.undisturbed):
        raise Broken("results.csv differs")
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = (Checkpoint.load(run / name).weights for run in (out, place.undisturbed))
        wrong = [key for key in theirs if not torch.equal(ours[key], theirs[key])]
        if wrong:
            raise Broken(f"{name} differs in {len(wrong)} tensors")
    _nothing_hidden(out)


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKED} for row in csv.DictReader(file)]


def _nothing_hidden(folder: Path) -> None:
    hidden = [path.name for path in folder.rglob(".*")]
    if hidden:
        raise Broken(f"left behind: {', '.join(hidden[:4])}")


def same_outputs(place: Place, out: Path) -> None:
    """Broken unless all outputs equal the undisturbed ones."""
    found, expected = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.png")}
        for root in (out, place.root / "outputs")
    )
    if found.keys() != expected.keys():
        raise Broken(f"files: {sorted(map(str, found.keys() ^ expected.keys()))[:4]}")
    wrong = [str(name) for name in expected if found[name] != expected[name]]
    if wrong:
        raise Broken(f"other bytes: {wrong[:4]}")
    _nothing_hidden(out)


def complete_outputs(place: Place, out: Path) -> None:
    """Broken when a file under its final name is incomplete."""
    for path in out.rglob("[!.]*.png"):
        expected = (place.root / "outputs" / path.relative_to(out)).read_bytes()
        if path.read_bytes() != expected:
            raise Broken(f"half-written: {path.name}")


Begin = Callable[..., Running]
Same = Callable[[Place, Path], None]


def killed(begin: Begin, same: Same, chance: random.Random, place: Place, out: Path) -> None:
    """SIGKILL at one to four random moments."""
    for _ in range(chance.randint(1, 4)):
        running = begin(place, out)
        running.wait(chance.uniform(0, _length(begin, place)))
        running.send(signal.SIGKILL)
        running.end()
        complete_outputs(place, out)
    begin(place, out).must()
    same(place, out)


def killed_after_a_state(
    begin: Begin, same: Same, chance: random.Random, place: Place, out: Path
) -> None:
    """SIGKILL four times, each at a random moment after a state was saved."""
    state, before = out / "state.pt", 0
    for _ in range(4):
        running = begin(place, out)
        while not running.wait(0.002) and _changed(state) <= before:
            pass
        running.wait(chance.uniform(0, _length(begin, place) / 10))
        running.send(signal.SIGKILL)
        running.end()
        before = _changed(state)
    begin(place, out).must()
    same(place, out)


def _changed(path: Path) -> int:
    """When a file was written; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def killed_at_a_write(
    begin: Begin, same: Same, chance: random.Random, place: Place, out: Path
) -> None:
    """SIGKILL just before or after the n-th file operation."""
    for _ in range(chance.randint(1, 3)):
        dying = dying_at(chance.randint(1, 60), after=chance.random() < 0.5)
        begin(place, out, dying).end()
        complete_outputs(place, out)
    begin(place, out).must()
    same(place, out)


def stopped(begin: Begin, same: Same, chance: random.Random, place: Place, out: Path) -> None:
    """SIGINT, SIGTERM or SIGHUP, once or twice."""
    for _ in range(chance.randint(1, 3)):
        running = begin(place, out)
        running.wait(chance.uniform(0, _length(begin, place)))
        what = chance.choice(STOPS)
        running.send(what)
        if chance.random() < 0.5 and not running.wait(chance.uniform(0, 0.2)):
            running.send(what)
        running.end()
        if running.code not in (0, 130, -what, 128 + what, 1):
            raise Broken(f"exit {running.code}: {running.text[-300:]}")
        complete_outputs(place, out)
    begin(place, out).must()
    same(place, out)


def disk_full(begin: Begin, same: Same, chance: random.Random, place: Place, out: Path) -> None:
    """A disk of a few pages; then a larger one."""
    with small_disk(out.parent / "disk", 4096 * int(2 ** chance.uniform(0, 9))) as disk:
        running = begin(place, disk / "out").end()
        if running.code and "space" not in running.text:
            raise Broken(f"not said to be full: {running.text[-300:]}")
        _works_again(begin, same, place, disk, "remount,size=64m")


def read_only(begin: Begin, same: Same, chance: random.Random, place: Place, out: Path) -> None:
    """The disk becomes read-only at a random moment; then it can be written again."""
    with small_disk(out.parent / "disk", 64 << 20) as disk:
        running = begin(place, disk / "out")
        running.wait(chance.uniform(0, _length(begin, place)))
        while _mount("remount,ro", disk) and not running.wait(0.005):
            pass  # a file is open for writing
        running.end()
        if running.code and not re.search("Read-only|may not be written", running.text):
            raise Broken(f"not said to be read-only: {running.text[-300:]}")
        _works_again(begin, same, place, disk, "remount,rw")


def _works_again(begin: Begin, same: Same, place: Place, disk: Path, remount: str) -> None:
    """No file is incomplete, and after the disk is remounted, the command completes."""
    complete_outputs(place, disk / "out")
    _mount(remount, disk)
    begin(place, disk / "out").must()
    same(place, disk / "out")


def removed(begin: Begin, same: Same, chance: random.Random, place: Place, out: Path) -> None:
    """The folder is removed while it is written; the command may fail, but works again later."""
    running = begin(place, out)
    running.wait(chance.uniform(0, _length(begin, place)))
    shutil.rmtree(out, ignore_errors=True)
    running.end()
    shutil.rmtree(out, ignore_errors=True)
    begin(place, out).must()
    same(place, out)


def at_once(begin: Begin, same: Same, chance: random.Random, place: Place, out: Path) -> None:
    """The same command twice, the second a little later."""
    first = begin(place, out)
    first.wait(chance.uniform(0, _length(begin, place)))
    second = first.again()
    first.end()
    second.end()
    if 0 not in (first.code, second.code):
        raise Broken(f"both fail: {first.text[-200:]} {second.text[-200:]}")
    same(place, out)


def moved(chance: random.Random, place: Place, out: Path) -> None:
    """A run folder that is moved before it is resumed."""
    running = train(place, out)
    running.wait(chance.uniform(0, place.train_seconds))
    running.send(signal.SIGKILL)
    running.end()
    if (out / "state.pt").exists():
        elsewhere = out.with_name("elsewhere")
        out.rename(elsewhere)
        out = elsewhere
    train(place, out).must()
    same_run(place, out)


def data_changed(chance: random.Random, place: Place, out: Path) -> None:
    """An image or labels removed, changed or added between stop and resume: it is reported."""
    data = out.with_name("data")
    shutil.copytree(place.root / "data", data)
    running = Running("train", data, "-o", out, *TRAIN, folder=place.root)
    while running.code is None and not (out / "state.pt").exists():
        running.wait(0.01)
    running.send(signal.SIGKILL)
    if running.end().code == 0:
        return
    images = sorted(data.rglob("images/*/*.*"))
    labels = sorted(path for path in data.rglob("*.png") if path not in images)
    path = chance.choice([*images, *labels])
    how = chance.choice(["removed", "changed", "added"])
    if how == "removed":
        path.unlink()
    elif how == "changed":
        path.write_bytes(chance.choice(images if path in images else labels).read_bytes())
    else:
        for path in (images[0], labels[0]):
            shutil.copy(path, path.with_stem("added"))
    again = Running("train", "-o", out, "--resume", folder=place.root).end()
    if not re.search(
        r"(?i)changed|missing|no longer|other (images|data)|not the|added", again.text
    ):
        raise Broken(f"{path.name} {how}, not said: exit {again.code}, {again.text[:300]}")


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A disk in memory (tmpfs) of a size in bytes."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def _mount(options: str, path: Path) -> bool:
    """Remount a disk; True if it fails."""
    done = subprocess.run(["mount", "-o", options, path], capture_output=True)
    return bool(done.returncode)


def _length(begin: Begin, place: Place) -> float:
    return place.train_seconds if begin is train else place.infer_seconds


def kinds() -> dict[str, Callable[[random.Random, Place, Path], None]]:
    """All kinds by name."""
    found: dict[str, Callable[[random.Random, Place, Path], None]] = {}
    days = [killed, killed_at_a_write, stopped, removed, at_once]
    if os.geteuid() == 0:
        days += [disk_full, read_only]
    for day in days:
        for begin, same in ((train, same_run), (infer, same_outputs)):
            name = f"{begin.__name__} {day.__name__.replace('_', ' ')}"
            found[name] = partial(day, begin, same)
    found["train killed after a state"] = partial(killed_after_a_state, train, same_run)
    return {**found, "run folder moved": moved, "data changed": data_changed}


def play(name: str, number: int, place: Place) -> tuple[str, int, float]:
    """The violated requirement (or ""), the number of killed processes, and the seconds."""
    began, killed, broken = time.monotonic(), Running.killed, ""
    with tempfile.TemporaryDirectory(dir=place.root) as folder:
        try:
            kinds()[name](random.Random(f"{name} {number}"), place, Path(folder) / "out")
        except Broken as error:
            broken = str(error)
        except Exception as error:  # noqa: BLE001 - a file that can't be read, for example
            broken = f"{type(error).__name__}: {error}"
    return broken, Running.killed - killed, time.monotonic() - began


def table(rows: dict[str, Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| bad day | tried | held | processes killed | slowest, s |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        held = row["next"] - len(row["broken"])
        lines.append(
            f"| {name} | {row['next']} | {held} | {row['killed']} | {row['slowest']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Kinds in turn until the time is over; exit 1 when something broke."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--most", type=int, default=500, help="days of each kind")
    parser.add_argument("--kinds", help="comma between them (default: all)")
    parser.add_argument("--state", type=Path, default=Path("bad_days.json"))
    parser.add_argument("--repeat", help="KIND:NUMBER")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FCNSEG_CACHE"] = str(Path(folder) / "cache")
        place = Place.make(Path(folder))
        if chosen.repeat:
            name, _, number = chosen.repeat.rpartition(":")
            print(*play(name, int(number), place))
            return
        empty: Row = {"next": 0, "broken": {}, "killed": 0, "slowest": 0.0}
        rows = by_turns(names_of(chosen, kinds()), chosen, empty, partial(take_turn, place))
    print(table(rows))
    print_failures(rows, "broken")


def take_turn(place: Place, name: str, row: Row) -> None:
    """The next day of a kind, added to its row."""
    broken, killed, seconds = play(name, row["next"], place)
    if broken:
        row["broken"][str(row["next"])] = broken
    row["next"] += 1
    row["killed"] += killed
    row["slowest"] = max(row["slowest"], seconds)


if __name__ == "__main__":
    main()
