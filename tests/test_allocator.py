from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcnseg.progress import keep_freed_memory, release_freed_memory

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


SIZES = """
import sys
import numpy as np
import fcnseg

def held():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024

model = fcnseg.load(sys.argv[1], engine="torch", device="cpu")
image = np.zeros((64, 64, 3), np.uint8)
model(image)
blocks = [b"x" * (1 << 16) for _ in range(2000)]
del blocks[::2]  # gaps of 62 MB altogether
before = held()
model(image)
same = held()
model(image[:40])
print(before - same, before - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_images_of_many_sizes_leave_no_gaps(random_model: Path) -> None:
    """Freed memory goes back to the system when the size is new, and is kept when it is not."""
    if not release_freed_memory((0,)):
        pytest.skip("the C library has no malloc_trim")
    done = subprocess.run(
        [sys.executable, "-c", SIZES, str(random_model)],
        check=True,
        capture_output=True,
        text=True,
    )
    same, new = (float(megabytes) for megabytes in done.stdout.split())
    assert same < 30
    assert new > 50
