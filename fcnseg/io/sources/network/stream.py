"""A stream's frames as a live source takes them, by PyAV, and how the stream came to its end."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.io import cv2
from fcnseg.io.sources.network import playlist_ends, without_password
from fcnseg.io.sources.pyav import PyavReader

End = Literal["lost", "over", "unclear"]
"""How a stream stopped: the connection broke; it said that nothing follows; a server closed the
connection as at the end of a file whose length it did not tell."""

_REMEMBERED = 20_000  # frames; a playlist that repeats more at a new connection is not known
_LONGEST_PAUSE = 10.0  # seconds between two frames; more is a clock that was set


class StreamCapture:
    """The part of cv2.VideoCapture that a live source uses, for an address.

    comes_in_pieces: whether many frames come at once (HLS), to be given at their own pace.
    may_repeat: whether a new connection begins with what was given before.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        scheme = address.partition("://")[0].lower()
        options = {"rtsp_flags": "prefer_tcp"} if scheme.startswith("rtsp") else {}
        self._reader: PyavReader | None = None
        try:
            self._reader = PyavReader(
                address, without_password(address), options=options, is_live=True
            )
        except MediaError:
            return
        container = self._reader.container_name
        self.comes_in_pieces = container.startswith(("hls", "dash"))
        self.may_repeat = scheme in ("http", "https") and container != "mpjpeg"

    def isOpened(self) -> bool:  # noqa: N802
        """Whether frames can be expected."""
        return self._reader is not None

    def read(self) -> tuple[bool, NDArray[np.generic] | None]:
        """Whether there is a frame, and it: uint8 (H, W, 3) BGR."""
        while self._reader is not None and self._reader.grab() is not None:
            image = self._reader.retrieve()
            if image is not None:
                return True, np.ascontiguousarray(image[:, :, ::-1])
        return False, None

    def get(self, propId: int, /) -> float:  # noqa: N803
        """The rate and the number of frames by OpenCV's numbers; 0 where they are not stated."""
        reader = self._reader
        if reader is None:
            return 0.0
        if propId == cv2.CAP_PROP_FRAME_COUNT:
            return float(reader.count or 0)
        return float(reader.fps) if propId == cv2.CAP_PROP_FPS and reader.states_rate else 0.0

    def release(self) -> None:
        """Let go of the connection."""
        if self._reader is not None:
            self._reader.close()

    @property
    def stamp(self) -> float | None:
        """Seconds on the stream's own clock at the frame that was read last."""
        return None if self._reader is None else self._reader.stamp

    def end(self) -> End:
        """After the last frame: how it ended."""
        if self._reader is None or self._reader.was_cut or not self.may_repeat:
            return "lost"
        if self.comes_in_pieces:  # FFmpeg calls a playlist that has gone the end, too
            return "over" if playlist_ends(self._address) else "lost"
        return "unclear"


class Given:
    """Which frames a stream gave, so that a new connection does not give them again."""

    def __init__(self) -> None:
        self._order: deque[tuple[float | None, int]] = deque()
        self._known: set[tuple[float | None, int]] = set()

    def has(self, stamp: float | None, pixels: NDArray[np.generic]) -> bool:
        """Whether this frame was given before; it is remembered."""
        key = stamp, zlib.crc32(pixels[::8, ::8].tobytes())
        if key in self._known:
            return True
        self._known.add(key)
        self._order.append(key)
        if len(self._order) > _REMEMBERED:
            self._known.discard(self._order.popleft())
        return False


class Pace:
    """When frames that came together are to be given: as far apart as their stamps are."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def wait(self, stamp: float | None, now: float) -> float:
        """Seconds from `now` until the frame with this stamp; 0 for one that is late."""
        if stamp is None:
            return 0.0
        ahead = 0.0 if self._offset is None else stamp + self._offset - now
        if self._offset is None or not 0 < ahead <= _LONGEST_PAUSE:
            self._offset = now - stamp
            return 0.0
        return ahead
