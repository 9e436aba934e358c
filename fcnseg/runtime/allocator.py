"""How the C library keeps memory: large arrays that come and go, page by page or not at all."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # <malloc.h>
_MOST = (1 << 31) - 1
"""Bytes; the largest that the C library takes."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of handing it back; whether it will.

    glibc returns large blocks to the system as soon as they are free, and every page of the next
    one has to be fetched and cleared anew: 10,000 pages for each forward pass of a small network
    on 768x432, which is a tenth of its time and more beside other threads. All three settings are
    needed: no block of its own for each large array, no giving back, and one arena, as those of
    further threads can't hold large arrays.

    Only on Linux with glibc, and not where the user has set MALLOC_... or GLIBC_TUNABLES.
    """
    if sys.platform != "linux" or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    settings = {_TRIM_THRESHOLD: _MOST, _MMAP_THRESHOLD: _MOST, _ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
