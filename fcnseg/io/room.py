"""The room that a file has on its disk, looked at before it is written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows, where files have no largest size
    resource = None  # type: ignore[assignment]


class Room:
    """The room for a video file that is being written, with some to spare for its index.

    A file of MP4 whose index does not fit on the disk can't be played at all.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._packets, self._bytes = path, 0, 0

    def fill(self, packets: Iterable[Any], mux: Callable[[Any], object]) -> None:
        """Write packets while there is room; OSError before the first that has none.

        After an error of FFmpeg's own, no file can be finished.
        """
        for packet in packets:
            self._packets, self._bytes = self._packets + 1, self._bytes + packet.size
            if (error := self.error()) is not None:
                self._bytes -= packet.size
                raise error
            mux(packet)

    def error(self) -> OSError | None:
        """What the system would say soon."""
        spare = 2**16 + 64 * self._packets
        disk = shutil.disk_usage(self._path.parent)
        on_disk = self._path.stat().st_size if self._path.exists() else 0
        waiting = max(0, self._bytes - on_disk)
        if disk.total and disk.free < waiting + spare:  # some network drives do not know
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if resource is not None:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            if most not in (-1, resource.RLIM_INFINITY) and self._bytes + spare > most:
                return OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return None
