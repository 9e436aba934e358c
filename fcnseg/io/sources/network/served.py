"""What a server gives: an image, a file, a playlist, or a stream as frames and how it ended."""

from __future__ import annotations

import gzip
import http.client
import socket
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import MediaError
from fcnseg.files import safe_filename
from fcnseg.io import cv2
from fcnseg.io.content import is_image
from fcnseg.io.sources.base import Frame, Kind, Source, frame_of
from fcnseg.io.sources.network import (
    SECONDS,
    open_address,
    playlist_ends,
    request_of,
    unreachable,
    without_password,
)
from fcnseg.io.sources.pyav import PyavReader

MOST_BYTES = 512 << 20
"""An image is smaller; what is longer than that is a stream that calls itself one."""

_MIXED = "multipart/x-mixed-replace"


@dataclass(frozen=True)
class Served:
    """What is at an address.

    kind: what the server calls it ("image/png"; "" when it does not say). image: its bytes, where
    it is one. ends: whether the server says how long it is.
    """

    kind: str
    image: bytes | None
    ends: bool

    @property
    def is_text(self) -> bool:
        """A page for people, an error in JSON: nothing that could be decoded."""
        return self.kind in ("text/html", "application/json", "application/xhtml+xml")

    @property
    def is_file(self) -> bool:
        """A file, and no playlist of a stream."""
        return self.ends and not (self.kind.endswith("mpegurl") or self.kind.startswith("text/"))


def look_at(address: str) -> Served | None:
    """What an http(s) address gives; None where only a player can ask (a password of another sort).

    An image is read to its end; of anything else only the start. MediaError when there is none.
    """
    shown = without_password(address)
    try:
        with open_address(request_of(address), SECONDS) as response:
            return _response_of(response, shown)
    except MediaError:  # an OSError, too
        raise
    except HTTPError as error:
        error.close()
        if error.code == http.client.UNAUTHORIZED:
            return None
        raise MediaError(
            f"The server answers {error.code} {' '.join(str(error.reason).split())} for {shown}.",
            hint="check the address",
        ) from None
    except TimeoutError:
        raise _silent(shown) from None
    except URLError as error:
        if isinstance(error.reason, socket.timeout):
            raise _silent(shown) from None
        raise unreachable(address) from None
    except (http.client.HTTPException, ValueError):  # no server of this kind: a camera's own ways
        return None
    except (OSError, EOFError, zlib.error):
        raise MediaError(f"The connection broke off while {shown} was read.") from None


class ServedImage(Source):
    """One image from a server, already here."""

    kind: Kind = "image"
    count = 1

    def __init__(self, address: str, data: bytes) -> None:
        super().__init__()
        self._data, self._shown = data, without_password(address)
        self.name = safe_filename(PurePosixPath(unquote(urlsplit(address).path)).stem)

    def __iter__(self) -> Iterator[Frame]:
        self.taken += 1
        yield frame_of(self._data, self._shown, self.bands, 0, 0.0, self.name)


def _response_of(response: Any, shown: str) -> Served:
    kind = response.headers.get_content_type() if "content-type" in response.headers else ""
    length = response.headers.get("content-length")
    if kind == _MIXED:
        return Served(kind, None, ends=False)
    ends = bool(length and length.isdecimal())
    if "gzip" in response.headers.get("content-encoding", "").lower():  # which nobody asked for
        response, length = gzip.GzipFile(fileobj=response), None
    start = response.read(64)
    if not (is_image(start) and (ends or kind.startswith("image/"))):
        if kind.startswith("image/"):
            raise MediaError(f"{shown} is called {kind}, but its content is no image.")
        return Served(kind, None, ends)
    data = start + response.read(MOST_BYTES)
    if length and len(data) < min(int(length), MOST_BYTES):
        raise MediaError(f"{shown} broke off after {len(data)} of {length} bytes.")
    return Served(kind, data if len(data) < MOST_BYTES else None, ends)


def _silent(shown: str) -> MediaError:
    return MediaError(
        f"{shown}: the server has said nothing for {SECONDS:g} s.", hint="try it again later"
    )


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
