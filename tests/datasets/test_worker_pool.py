"""Threads and processes do the same, in order, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from fcnseg.datasets.many_files import WorkerPool

HERE = os.getpid()


def where(number: int) -> tuple[int, int]:
    return number, os.getpid()


def fatal(place: int, number: int) -> int:
    if number == 3 and os.getpid() != place:
        os._exit(1)
    return number * number


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@pytest.mark.parametrize("started", [False, True])
def test_results_come_in_order(started: bool) -> None:
    with WorkerPool(2) as pool:
        if started:
            pool.start_processes()
            pool.start_processes()
            assert len(pool.workers) == 2
        found = list(pool.map(where, range(20)))
    assert [number for number, _ in found] == list(range(20))
    assert (HERE in {place for _, place in found}) is not started


def test_a_process_that_dies_is_made_up_for() -> None:
    with WorkerPool(2) as pool:
        pool.start_processes()
        assert list(pool.map(partial(fatal, HERE), range(8))) == [n * n for n in range(8)]
        for worker in pool.workers:
            worker.kill()
            worker.wait()
        assert [place for _, place in pool.map(where, range(3))] == [HERE] * 3


def test_an_error_is_what_it_is_without_processes() -> None:
    with WorkerPool(1) as pool:
        pool.start_processes()
        with pytest.raises(ZeroDivisionError):
            list(pool.map(partial(divmod, 1), [0]))


@pytest.mark.parametrize("executable", ["", "/nowhere/python"])
def test_without_an_interpreter_threads_do_it(
    executable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with WorkerPool(2) as pool:
        pool.start_processes()
        assert pool.workers == []
        assert [place for _, place in pool.map(where, range(3))] == [HERE] * 3


def test_leaving_does_not_wait_for_the_work() -> None:
    began = time.monotonic()
    with WorkerPool(1) as pool:
        pool.start_processes()
        waiting = pool.map(slow, [0.0, 60.0, 60.0])
        assert next(waiting) == 0
    assert time.monotonic() - began < 30
    assert pool.workers[0].returncode is not None


def test_processes_load_neither_torch_nor_the_command_line() -> None:
    with WorkerPool(1) as pool:
        pool.start_processes()
        assert list(pool.map(loaded, [["torch", "typer", "rich"]])) == [[]]


def loaded(names: list[str]) -> list[str]:
    import fcnseg.datasets.scan

    assert fcnseg.datasets.scan
    return [name for name in names if name in sys.modules]


SCRIPT = """
from pathlib import Path
import signal, sys
from fcnseg.datasets.many_files import WorkerPool
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from tests.datasets.test_worker_pool import slow
print("run", flush=True)
with WorkerPool(2) as pool:
    pool.start_processes()
    results = pool.map(slow, [0.0] * 8 + [float(sys.argv[1])])
    print(sum(next(results) for _ in range(8)), flush=True)
    try:
        print(next(results))
    except KeyboardInterrupt:
        print("interrupted", *(worker.pid for worker in pool.workers))
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    done = start_script(tmp_path, "0")
    assert done.communicate(timeout=60) == ("run\n0.0\n0.0\n", "")


@pytest.mark.skipif(os.name == "nt", reason="sends an interrupt to a process group")
def test_an_interrupt_ends_all_without_a_word(tmp_path: Path) -> None:
    script = start_script(tmp_path, "60")
    assert script.stdout is not None
    assert [script.stdout.readline(), script.stdout.readline()] == ["run\n", "0.0\n"]
    time.sleep(0.2)
    os.killpg(script.pid, signal.SIGINT)
    out, complaints = script.communicate(timeout=30)
    assert complaints == ""
    assert out.startswith("interrupted ")
    for pid in out.split()[1:]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def start_script(folder: Path, *words: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parent.parent.parent
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
    )
