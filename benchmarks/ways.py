"""Count the files of the package that a command executes, and the calls between files.

    python benchmarks/ways.py [--list] [COMMAND ...]

A measure of what a reader has to follow: all calls of fcnseg's functions on tiny data, recorded by
`sys.setprofile` in every thread, except during imports. A change of file is a call from a function
in one file of the package to a function in another. The exit status is 1 if a command executes more
files than LIMITS. --list: the files, those with the fewest executed functions first, with these
functions, their number of calls and the files of their callers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.commands.export import export
from fcnseg.commands.infer import infer
from fcnseg.commands.train import train
from fcnseg.commands.viz import view
from fcnseg.config import ExportConfig, InferConfig, TrainConfig, VizConfig

PACKAGE = str(Path(__file__).resolve().parent.parent / "fcnseg") + os.sep
GOALS = {"train": 70, "infer": 32, "viz": 24, "export": 18}
LIMITS = {"train": 79, "infer": 37, "viz": 32, "export": 24}
"""Files executed in the last measurement, with the extra `report`."""


class Way:
    """The executed functions of fcnseg, and the calls between files."""

    def __init__(self) -> None:
        self.functions: Counter[CodeType] = Counter()
        self.callers: dict[CodeType, set[str]] = defaultdict(set)
        self.changes = 0

    def __enter__(self) -> Way:
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    @property
    def files(self) -> set[str]:
        """Executed files, relative to the package."""
        return {_file(code) for code in self.functions}

    def listed(self) -> Iterator[str]:
        """A line for each file, and one for each executed function in it."""
        inside: dict[str, list[CodeType]] = defaultdict(list)
        for code in self.functions:
            inside[_file(code)].append(code)
        for file, some in sorted(inside.items(), key=lambda item: len(item[1])):
            yield f"{file}: {len(some)}"
            for code in sorted(some, key=lambda code: code.co_qualname):
                callers = ", ".join(sorted(self.callers[code]))
                yield f"    {code.co_qualname} {self.functions[code]}" + f" < {callers}" * bool(
                    callers
                )

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name == "<module>" or _is_imported(frame):
            return
        self.functions[code] += 1
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != code.co_filename:
            self.changes += 1
            self.callers[code].add(_file(caller.f_code))


def _file(code: CodeType) -> str:
    """The file of a function, relative to the package."""
    return code.co_filename.removeprefix(PACKAGE)


def _is_imported(frame: FrameType) -> bool:
    """Whether a call is made during the import of a module."""
    at: FrameType | None = frame
    while at is not None:
        if at.f_code.co_name == "<module>" and at.f_code.co_filename.startswith(PACKAGE):
            return True
        at = at.f_back
    return False


def ways(folder: Path) -> dict[str, Callable[[], Any]]:
    """Functions that run each command on tiny data: 8 images, 12 frames, an image, a checkpoint."""
    data, model, device = folder / "data", str(folder / "run"), "cpu"
    write_dataset(data, seed=0, size=(64, 64), train=8, val=4)
    images = sorted((data / "images").rglob("*.png"))[:12]
    listed = folder / "frames.txt"
    listed.write_text("\n".join(map(str, images)))
    options: dict[str, Any] = {"epochs": 1, "batch": 4, "crop": (64, 64), "backbone": "tiny"}
    return {
        "train": lambda: train(
            TrainConfig(data=data, out=Path(model), device=device, workers=0, **options)
        ),
        "infer": lambda: infer(
            InferConfig(source=(str(listed),), model=(model,), out=folder / "labels", device=device)
        ),
        "viz": lambda: view(
            VizConfig(source=(str(images[0]),), model=(model,), out=folder / "pages", device=device)
        ),
        "export": lambda: export(ExportConfig(model=model, format="onnx", out=folder / "x.onnx")),
    }


def main() -> None:
    """Print a table row for each requested command; all of them are run, in order."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(GOALS))
    parser.add_argument("--list", action="store_true", help="list files and functions, too")
    chosen = parser.parse_args()
    wanted = chosen.commands or list(GOALS)
    print("| command | files | goal | functions | changes of file |\n|---|---|---|---|---|")
    exceeded = False
    with tempfile.TemporaryDirectory() as folder:
        for name, run in ways(Path(folder)).items():
            with Way() as way:
                run()
            exceeded = exceeded or len(way.files) > LIMITS[name]
            if name in wanted:
                counts = f"{len(way.files)} | {GOALS[name]} | {len(way.functions)} | {way.changes}"
                print(f"| {name} | {counts} |", flush=True)
                if chosen.list:
                    print("\n".join(way.listed()))
    sys.exit(exceeded)


if __name__ == "__main__":
    main()
