"""Mutation testing of single files: do the tests detect changes of the code?

    python benchmarks/mutants.py --state mutants.jsonl --tests tests/metrics fcnseg/metrics/*.py

Each mutant is one small change (see `variants`): another operator or comparison, another number, a
negated condition, a removed statement, None returned, two arguments swapped. Strings, annotations
and decorators are not changed. A first run records which tests execute which lines. A mutant then
runs in a fork of the process that has collected them, against the tests that execute its line, the
fastest first, until one fails. Code that runs on import (constants, defaults) is imported again.

--sample N tries N mutants per file, drawn with --seed. The state file stores the results: the same
command continues from it, prints the mutants that no test detected, and the table.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pytest

PRELOAD = (
    "cv2", "numpy", "onnxruntime", "PIL.Image", "rich", "safetensors.torch", "scipy",
    "skimage", "torch.utils.data", "typer",
)  # fmt: skip
"""Imported once, before all forks."""

MEMORY = 4 << 30  # bytes; limit of a mutant beyond its initial memory

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.And: ast.Or,
    ast.Or: ast.And, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}  # fmt: skip

REVERSED = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt}


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the number of the node, and the index of its variant.

    span: lines of its statement. inside: first line of the outermost function around it, 0 for
    code that runs on import.
    """

    file: str
    key: str
    span: range
    inside: int
    number: int
    index: int

    @property
    def path(self) -> str:
        """The file as in co_filename."""
        return str(Path(self.file).resolve())

    def code(self) -> types.CodeType:
        """The complete module with the change, compiled, with the same line numbers."""
        tree = ast.parse(Path(self.file).read_text(encoding="utf-8"))
        node, _, _, put = next(islice(places(tree), self.number, None))
        put(ast.copy_location([*variants(node)][self.index][1](node), node))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


def mutants_of(file: str) -> list[Mutant]:
    """All mutants of a file, in order."""
    return [
        Mutant(file, f"{file}:{span[0]}:{where(node)} {what}", span, inside, number, index)
        for number, (node, span, inside, _) in enumerate(places(ast.parse(Path(file).read_bytes())))
        for index, (what, _) in enumerate(variants(node))
    ]


def where(node: Any) -> str:
    """The columns of a node."""
    return f"{getattr(node, 'col_offset', 0)}-{getattr(node, 'end_col_offset', 0)}"


def is_for_types(node: ast.AST) -> bool:
    """Whether a node is `if TYPE_CHECKING`, which never runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


Place = tuple[ast.AST, range, int, Callable[[ast.AST], None]]
"""A node, its statement's lines, the function around it, how to put another in its place."""


def places(node: ast.AST, span: range = range(1), inside: int = 0) -> Iterator[Place]:
    """All nodes below one, except for annotations, decorators and code for mypy."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        below = inside
        if isinstance(node, ast.FunctionDef) and name == "body":
            below = inside or min([node.lineno, *(one.lineno for one in node.decorator_list)])
        for place, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or is_for_types(child):
                continue
            lines = span
            if isinstance(child, ast.stmt):
                body = getattr(child, "body", None)
                end = body[0].lineno if body else child.end_lineno or child.lineno
                lines = range(child.lineno, end + 1)
            in_list = isinstance(value, list)
            put = partial(value.__setitem__, place) if in_list else partial(setattr, node, name)
            yield child, lines, below, put
            yield from places(child, lines, below)


def variants(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], ast.AST]]]:
    """The variants of a node: (description, function that changes it)."""
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in SWAPS:
            yield f"operator {type(node.op).__name__}", _with(op=SWAPS[type(node.op)]())
        case ast.Compare(ops=[op]):
            for table in (SWAPS, REVERSED):
                if other := table.get(type(op)):
                    yield f"{type(op).__name__} to {other.__name__}", _with(ops=[other()])
        case ast.Constant(value=bool()):
            yield f"{node.value} to {not node.value}", _with(value=not node.value)
        case ast.Constant(value=int() | float()):
            yield f"{node.value} to {node.value + 1}", _with(value=node.value + 1)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield f"without {type(node.op).__name__}", lambda it: it.operand
        case ast.Call(args=[ast.expr() as one, ast.expr() as other, *_]) if not any(
            isinstance(each, ast.Starred) for each in (one, other)
        ):
            yield "arguments swapped", _with(args=[other, one, *node.args[2:]])
        case ast.Return(value=ast.expr() as value) if getattr(value, "value", value) is not None:
            yield "return None", _with(value=ast.Constant(None))
        case ast.Break():
            yield "break to continue", lambda _: ast.Continue()
        case ast.Continue():
            yield "continue to break", lambda _: ast.Break()
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
            yield "left out", lambda _: ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "left out", lambda _: ast.Pass()
    if isinstance(node, ast.AugAssign):
        yield "left out", lambda _: ast.Pass()
    plain = (ast.Name, ast.Attribute, ast.Call, ast.Subscript)
    if isinstance(node, ast.If | ast.IfExp | ast.While) and isinstance(node.test, plain):
        yield "condition reversed", _with(test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.comprehension) and node.ifs:
        yield "without its if", _with(ifs=[])


def _with(**fields: Any) -> Callable[[Any], ast.AST]:
    def change(node: Any) -> ast.AST:
        vars(node).update(fields)
        return node  # type: ignore[no-any-return]

    return change


class Campaign:
    """A pytest plugin that tries mutants instead of running the collected tests.

    tests: afterwards, the tests that execute each file. record: is called with each result.
    """

    def __init__(self, wanted: list[Mutant], limit: float, record: Callable[..., None]) -> None:
        self.wanted, self.limit, self.record = wanted, limit, record
        self.tests: dict[str, list[str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """One fork to record which test executes which lines, then one for each mutant."""
        paths = {one.path for one in self.wanted}
        found = in_fork(3600, Trace(paths).run, session.items)
        tests = [
            (session.items[place], {(path, line) for path, line in seen})
            for seconds, place, seen in sorted(found)
            if seconds < self.limit
        ]
        functions = defaultdict(list)
        for each in gc.get_objects():
            if type(each) is types.FunctionType and each.__code__.co_filename in paths:
                functions[each.__code__.co_filename, each.__code__.co_firstlineno].append(each)
        gc.freeze()  # otherwise the collector makes each fork copy memory
        kills: Counter[str] = Counter()  # tests that failed often are run first
        for one in self.wanted:
            all_of = [item for item, seen in tests if any(path == one.path for path, _ in seen)]
            self.tests[one.file] = [item.nodeid for item in all_of]
            if one.inside:
                lines = {(one.path, line) for line in one.span}
                items = [item for item, seen in tests if not lines.isdisjoint(seen)]
                items.sort(key=lambda item: -kills[item.nodeid])
                came = in_fork(60, swapped, functions[one.path, one.inside], one, items)
                kills[came.removeprefix("killed by ")] += 1
                if came != "import":
                    self.record(one, came)
        return True


def run(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, bool]]:
    """Each test, and whether it passed (or was skipped)."""
    for item, following in zip_longest(items, items[1:]):
        before = item.session.testsfailed
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        yield item, item.session.testsfailed == before


def swapped(functions: Sequence[types.FunctionType], one: Mutant, items: list[pytest.Item]) -> str:
    """Run tests with the mutant's code in the existing function objects; return the result."""
    codes, left = {}, [one.code()]
    while left:
        code = left.pop()
        codes[code.co_firstlineno, code.co_qualname] = code
        left += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    try:
        for each in functions:
            each.__code__ = codes[one.inside, each.__code__.co_qualname]
    except (KeyError, ValueError):  # its closure has other variables
        return "import"
    failed = (f"killed by {item.nodeid}" for item, passed in run(items) if not passed)
    return next(failed, "survived" if items else "no test")


def imported(one: Mutant, flags: Sequence[str], tests: Sequence[str]) -> str:
    """Run tests with the mutant imported instead of its file; return the result."""
    code, original = one.code(), SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str) -> Any:
        return code if loader.path == one.path else original(loader, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    if not tests:
        return "no test"
    return "killed on import" if pytest.main([*flags, "-x", *tests]) else "survived"


class Trace:
    """Records which lines of some files each test executes."""

    def __init__(self, paths: set[str]) -> None:
        self.paths, self.seen = paths, set[tuple[str, int]]()
        self.fixtures: dict[str, set[tuple[str, int]]] = defaultdict(set)

    def run(self, items: Sequence[pytest.Item]) -> list[tuple[float, int, list[tuple[str, int]]]]:
        """(seconds, index of the item, (path, line)...) of the tests that pass."""
        items[0].config.pluginmanager.register(self)
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        found, began = [], time.perf_counter()
        for place, (item, passed) in enumerate(run(items)):
            for name in getattr(
                item, "fixturenames", ()
            ):  # may have been set up for an earlier test
                self.seen |= self.fixtures[name]
            if self.seen and passed:
                found.append((time.perf_counter() - began, place, sorted(self.seen)))
            self.seen, began = set(), time.perf_counter()
            sys.settrace(self._enter)  # some tests turn it off
        return found

    def _enter(self, frame: types.FrameType, _event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename in self.paths else None

    def _line(self, frame: types.FrameType, _event: str, _: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Record the lines that a fixture executes."""
        before, self.seen = self.seen, set()
        try:
            return (yield)
        finally:
            self.fixtures[fixturedef.argname] |= self.seen
            self.seen |= before


def in_fork(seconds: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in its own process; return its result, "timeout" or "died".

    seconds: limit of CPU time, which does not depend on other load.
    """
    with tempfile.TemporaryFile("w+") as reply:
        pid = os.fork()
        if not pid:
            os.setsid()
            for number in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, resource.RLIM_INFINITY))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001 - a mutant may raise anything
                result = f"died of {error!r}"
            json.dump(result, reply)
            reply.flush()
            os._exit(0)
        end = time.monotonic() + 20 * seconds  # it may wait for something
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if not ended[0]:
            os.waitpid(pid, 0)
        if not ended[0] or os.waitstatus_to_exitcode(ended[1]) == -signal.SIGXCPU:
            return "timeout"
        reply.seek(0)
        text = reply.read()
        return json.loads(text) if text else "died"


def main() -> None:
    """Try mutants without a result in the state file, then print the table."""
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("files", nargs="+", help="files of the package")
    parser.add_argument("--tests", nargs="+", required=True, help="files or folders of tests")
    parser.add_argument("--state", required=True, type=Path)
    parser.add_argument("--sample", type=int, default=1 << 30, help="mutants a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds of a test that is run")
    args = parser.parse_args()
    rng, drawn = random.Random(args.seed), {}
    for file in args.files:
        every = mutants_of(file)
        drawn[file] = len(every), rng.sample(every, min(args.sample, len(every)))
    args.state.touch()

    def done() -> dict[str, str]:
        return dict(json.loads(line) for line in args.state.read_text().splitlines())

    def record(one: Mutant, came: str) -> None:
        with args.state.open("a") as file:
            file.write(json.dumps([one.key, came]) + "\n")

    def left() -> list[Mutant]:
        there = done()
        return [one for _, some in drawn.values() for one in some if one.key not in there]

    if left():
        for name in PRELOAD:
            with suppress(ImportError):
                importlib.import_module(name)
        with tempfile.TemporaryDirectory() as scratch:
            flags = ["-q", "-p", "no:cacheprovider", f"--basetemp={scratch}/tests"]

            def functions() -> dict[str, list[str]]:
                campaign = Campaign(left(), args.limit, record)
                pytest.main([*flags, *args.tests], plugins=[campaign])
                return campaign.tests

            tests = in_fork(1 << 20, functions)
            for one in left():
                record(one, in_fork(120, imported, one, flags, tests[one.file]))
    came = done()
    unseen = ("survived", "no test")
    print(*(f"{key} - {what}" for key, what in came.items() if what in unseen), sep="\n")
    print("\n| file | mutants | tried | killed | |\n|---|---|---|---|---|")
    for file, (total, some) in drawn.items():
        killed = sum(came[one.key] not in unseen for one in some)
        print(f"| {file} | {total} | {len(some)} | {killed} | {killed / max(1, len(some)):.1%} |")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # threads and forks don't mix
    main()
