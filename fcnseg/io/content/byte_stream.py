"""Bytes that come some at a time, with a look ahead."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable

from fcnseg.concurrency import BoundedQueue

MOST_AHEAD = 1 << 31
"""Bytes that an image may claim to take; more are not waited for."""


class ByteStream:
    """Bytes as they come, with a look ahead.

    chunks: some bytes at a time. A thread of its own asks for them, so that nobody who waits for
    a pipe is deaf. over: when it is true, the stream counts as ended.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = bytearray()
        self._line: BoundedQueue[bytes] = BoundedQueue(16)
        self.over: Callable[[], bool] = lambda: False
        threading.Thread(target=self._feed, name="fcnseg-stdin", daemon=True).start()

    def close(self) -> None:
        """Read no more."""
        self._line.close()

    def resume_with(self, seconds: float) -> bool:
        """Whether there is more, or may be: nothing has come for so many seconds."""
        return bool(self._held) or self._fill(seconds) or not self._line.is_over()

    def has_some(self) -> bool:
        """Whether bytes are here, without waiting for them."""
        return bool(self._held)

    def read_some(self, count: int) -> bytes:
        """Take what is there, at most `count` bytes; waits for one. b"" at the end."""
        if not self._held:
            self._fill()
        return self.read(min(count, len(self._held)))

    def peek(self, count: int) -> bytes:
        """The next bytes without taking them; fewer only at the end."""
        while len(self._held) < count and self._fill():
            pass
        return bytes(self._held[:count])

    def at(self, position: int) -> int | None:
        """The byte so far ahead; None where it ends before, or beyond MOST_AHEAD."""
        if position >= MOST_AHEAD:
            return None
        while len(self._held) <= position and self._fill():
            pass
        return self._held[position] if position < len(self._held) else None

    def ahead(self, position: int, count: int) -> bytes:
        """Bytes from so far ahead on without taking them; fewer only at the end."""
        self.at(position + count - 1)
        return bytes(self._held[position : position + count])

    def search(self, pattern: re.Pattern[bytes], start: int) -> int | None:
        """How far ahead a pattern (of 40 bytes at most) is; None when it does not come."""
        while (found := pattern.search(self._held, start)) is None:
            start = max(start, len(self._held) - 40)
            if not self._fill():
                return None
        return found.start()

    def give_back(self, data: bytes) -> None:
        """Put bytes that were taken before the next ones."""
        self._held[:0] = data

    def find(self, byte: int, start: int) -> int:
        """How far ahead a byte is, from `start` on; -1 when it does not come."""
        while (position := self._held.find(byte, start)) < 0:
            start = len(self._held)
            if not self._fill():
                return -1
        return position

    def read(self, count: int | None = None) -> bytes:
        """Take the next bytes, or all that are left; fewer only at the end."""
        if count is None:
            while self._fill():
                pass
            count = len(self._held)
        taken = self.peek(count)
        del self._held[:count]
        return taken

    def _fill(self, seconds: float = math.inf) -> bool:
        chunks = self._line.take(until=lambda: self.over(), seconds=seconds)
        for chunk in chunks:
            self._held += chunk
        return bool(chunks)

    def _feed(self) -> None:
        try:
            while (chunk := next(self._chunks, b"")) and self._line.put(chunk):
                pass
        except (OSError, ValueError):  # the other end is gone; closed here
            pass
        finally:
            self._line.end()
