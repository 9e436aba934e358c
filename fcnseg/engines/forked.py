"""Networks in processes that were forked from one that computed: its threads are missing there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fcnseg.errors import OptionError

_computed_in = 0
"""The process in which torch was first asked to compute, which may have started its threads."""

_alone = False
"""Whether this process was forked from one that may have started torch's threads."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in the calling thread, and starts no others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def computing(home: Home | None = None) -> None:
    """Called before torch computes; from now on in one thread, where its others may be missing.

    That is in a child of a process that has computed, or that opened `home`.
    """
    global _computed_in, _alone
    _computed_in = _computed_in or os.getpid()
    _alone = _alone or _computed_in != os.getpid() or (home is not None and home.left())
    if _alone and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


class Home:
    """The process in which something was opened."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def left(self) -> bool:
        """Whether this is another process, forked since."""
        return os.getpid() != self._process

    def check_device(self, device: str) -> None:
        """OptionError where a GPU was opened before a fork: the child can't use it."""
        if self.left() and device != "cpu":
            raise OptionError(
                f"The model was loaded on {device} before this process was forked, and a GPU can't "
                "be used in both.",
                hint="load the model in each worker, or start the workers with multiprocessing's "
                '"spawn"',
            )


def abandon(thing: object) -> None:
    """Never let go of it: its end would wait for threads that are in another process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
