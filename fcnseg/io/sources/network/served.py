"""What a web server gives: an image, a file, a playlist, a stream."""

from __future__ import annotations

import gzip
import http.client
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from fcnseg.errors import MediaError
from fcnseg.files import safe_filename
from fcnseg.io.content import is_image
from fcnseg.io.sources.base import Frame, Kind, Selection, Source, frame_of
from fcnseg.io.sources.network import (
    SECONDS,
    open_address,
    request_of,
    unreachable,
    without_password,
)

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
            return _answer_of(response, shown)
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
    except http.client.HTTPException:  # no server of this kind: a camera's own ways
        return None
    except OSError:
        raise MediaError(f"The connection broke off while {shown} was read.") from None


class ServedImage(Source):
    """One image from a server, already here."""

    kind: Kind = "image"
    count = 1

    def __init__(self, address: str, data: bytes, selection: Selection) -> None:
        super().__init__()
        del selection  # the first frame of one is always wanted
        self._data, self._shown = data, without_password(address)
        self.name = safe_filename(PurePosixPath(unquote(urlsplit(address).path)).stem)

    def __iter__(self) -> Iterator[Frame]:
        self.taken += 1
        yield frame_of(self._data, self._shown, self.bands, 0, 0.0, self.name)


def _answer_of(response: Any, shown: str) -> Served:
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
