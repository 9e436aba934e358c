from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fcnseg.progress import keep_freed_memory

PROGRAM = """
import resource, threading
from fcnseg.progress import keep_freed_memory

def work():
    for _ in range(8):
        b"x" * BLOCK

def faults():
    thread = threading.Thread(target=work)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

BLOCK = 80 << 20
print(int(keep_freed_memory()), faults() * resource.getpagesize() / BLOCK)
"""


def run() -> tuple[bool, float]:
    """Whether memory is kept, and how many times the block was fetched from the system."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    kept.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=kept,
        check=True,
        capture_output=True,
        text=True,
    )
    answer, blocks = done.stdout.split()
    return bool(int(answer)), float(blocks)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_thread_uses_its_memory_again() -> None:
    kept, blocks = run()
    if not kept:
        pytest.skip("the C library has no mallopt")
    assert blocks < 2


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_users_settings_come_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
