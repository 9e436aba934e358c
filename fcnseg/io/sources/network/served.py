"""Images, files and live streams on servers."""

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
"""Maximum size of an image; a longer response is a stream labeled as an image."""

_MIXED = "multipart/x-mixed-replace"


@dataclass(frozen=True)
class Served:
    """A server's response.

    kind: content type ("image/png"; "" if not stated). image: the bytes of an image, else None.
    ends: whether the content length is stated.
    """

    kind: str
    image: bytes | None
    ends: bool

    @property
    def is_text(self) -> bool:
        """Whether it is HTML or JSON, which can't be decoded."""
        return self.kind in ("text/html", "application/json", "application/xhtml+xml")

    @property
    def is_file(self) -> bool:
        """Whether it is a file and not a playlist."""
        return self.ends and not (self.kind.endswith("mpegurl") or self.kind.startswith("text/"))


def probe(address: str) -> Served | None:
    """Request an http(s) URL; None if only FFmpeg can (another authentication method).

    An image is read completely, other content only at the start. MediaError on failure.
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
    except (http.client.HTTPException, ValueError):  # not an HTTP server, as some cameras
        return None
    except (OSError, EOFError, zlib.error):
        raise MediaError(f"The connection broke off while {shown} was read.") from None


class ServedImage(Source):
    """An image that was downloaded from a server."""

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
    if "gzip" in response.headers.get("content-encoding", "").lower():  # without a request for it
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
"""How a stream ended: connection lost; end marker received; connection closed by the server, which
may be the end of a file of unknown length."""

_REMEMBERED = 20_000  # frames that are recognized when a new connection repeats them
_LONGEST_PAUSE = 10.0  # seconds between two frames; a longer one means the clock was reset


class StreamCapture:
    """A stream by PyAV, with the part of cv2.VideoCapture's interface that LiveSource uses.

    comes_in_pieces: whether frames arrive in segments (HLS), to be returned at the frame rate.
    may_repeat: whether a new connection may repeat earlier frames.
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
        """Whether the stream is open."""
        return self._reader is not None

    def read(self) -> tuple[bool, NDArray[np.generic] | None]:
        """Whether there is a frame, and the frame: uint8 (H, W, 3) BGR."""
        while self._reader is not None and self._reader.grab() is not None:
            image = self._reader.retrieve()
            if image is not None:
                return True, np.ascontiguousarray(image[:, :, ::-1])
        return False, None

    def get(self, propId: int, /) -> float:  # noqa: N803
        """The frame rate or count, by OpenCV's property numbers; 0 if not stated."""
        reader = self._reader
        if reader is None:
            return 0.0
        if propId == cv2.CAP_PROP_FRAME_COUNT:
            return float(reader.count or 0)
        return float(reader.fps) if propId == cv2.CAP_PROP_FPS and reader.states_rate else 0.0

    def release(self) -> None:
        """Close the connection."""
        if self._reader is not None:
            self._reader.close()

    @property
    def stamp(self) -> float | None:
        """The timestamp in seconds of the last frame."""
        return None if self._reader is None else self._reader.stamp

    def end(self) -> End:
        """How the stream ended, after the last frame."""
        if self._reader is None or self._reader.was_cut or not self.may_repeat:
            return "lost"
        if self.comes_in_pieces:  # FFmpeg also reports the end for a playlist that has disappeared
            return "over" if playlist_ends(self._address) else "lost"
        return "unclear"


class SeenFrames:
    """Remembers a stream's frames, to recognize those that a new connection repeats."""

    def __init__(self) -> None:
        self._order: deque[tuple[float | None, int]] = deque()
        self._known: set[tuple[float | None, int]] = set()

    def has(self, stamp: float | None, pixels: NDArray[np.generic]) -> bool:
        """Whether this frame was seen before; remembers it."""
        key = stamp, zlib.crc32(pixels[::8, ::8].tobytes())
        if key in self._known:
            return True
        self._known.add(key)
        self._order.append(key)
        if len(self._order) > _REMEMBERED:
            self._known.discard(self._order.popleft())
        return False


class Pace:
    """Paces frames that arrive together by their timestamps."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def wait(self, stamp: float | None, now: float) -> float:
        """Seconds from `now` until the frame with this timestamp is due; 0 if it is late."""
        if stamp is None:
            return 0.0
        ahead = 0.0 if self._offset is None else stamp + self._offset - now
        if self._offset is None or not 0 < ahead <= _LONGEST_PAUSE:
            self._offset = now - stamp
            return 0.0
        return ahead
