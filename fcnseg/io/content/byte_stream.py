"""A buffered byte stream with lookahead."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable

from fcnseg.concurrency import BoundedQueue

MOST_AHEAD = 1 << 31
"""Maximum lookahead in bytes, and so the largest image."""


class ByteStream:
    """A byte stream with lookahead, read by a thread so that waiting for a pipe can be interrupted.

    chunks: the bytes, in pieces. over: the stream counts as ended when this returns True.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = bytearray()
        self._queue: BoundedQueue[bytes] = BoundedQueue(16)
        self.over: Callable[[], bool] = lambda: False
        threading.Thread(target=self._feed, name="fcnseg-stdin", daemon=True).start()

    def close(self) -> None:
        """Stop reading."""
        self._queue.close()

    def resume_with(self, seconds: float) -> bool:
        """Whether more bytes are available, or may follow after a pause of this many seconds."""
        return bool(self._held) or self._fill(seconds) or not self._queue.is_over()

    def has_some(self) -> bool:
        """Whether bytes are buffered; does not wait."""
        return bool(self._held)

    def read_some(self, count: int) -> bytes:
        """Take available bytes, at least one and at most `count`; b"" at the end."""
        if not self._held:
            self._fill()
        return self.read(min(count, len(self._held)))

    def peek(self, count: int) -> bytes:
        """The next bytes without taking them; fewer only at the end."""
        while len(self._held) < count and self._fill():
            pass
        return bytes(self._held[:count])

    def at(self, position: int) -> int | None:
        """The byte at an offset; None beyond the end or MOST_AHEAD."""
        if position >= MOST_AHEAD:
            return None
        while len(self._held) <= position and self._fill():
            pass
        return self._held[position] if position < len(self._held) else None

    def ahead(self, position: int, count: int) -> bytes:
        """Bytes from an offset on, without taking them; fewer only at the end."""
        self.at(position + count - 1)
        return bytes(self._held[position : position + count])

    def search(self, pattern: re.Pattern[bytes], start: int) -> int | None:
        """The offset of a pattern (at most 40 bytes long); None if not found."""
        while (found := pattern.search(self._held, start)) is None:
            start = max(start, len(self._held) - 40)
            if not self._fill():
                return None
        return found.start()

    def give_back(self, data: bytes) -> None:
        """Put taken bytes back at the beginning."""
        self._held[:0] = data

    def find(self, byte: int, start: int) -> int:
        """The offset of a byte, searched from `start` on; -1 if not found."""
        while (position := self._held.find(byte, start)) < 0:
            start = len(self._held)
            if not self._fill():
                return -1
        return position

    def read(self, count: int | None = None) -> bytes:
        """Take the next `count` bytes, or all remaining; fewer only at the end."""
        if count is None:
            while self._fill():
                pass
            count = len(self._held)
        taken = self.peek(count)
        del self._held[:count]
        return taken

    def _fill(self, seconds: float = math.inf) -> bool:
        chunks = self._queue.take(until=lambda: self.over(), seconds=seconds)
        for chunk in chunks:
            self._held += chunk
        return bool(chunks)

    def _feed(self) -> None:
        try:
            while (chunk := next(self._chunks, b"")) and self._queue.put(chunk):
                pass
        except (OSError, ValueError):  # the other end was closed, or this one
            pass
        finally:
            self._queue.end()
