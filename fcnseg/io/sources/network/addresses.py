"""Addresses: what may be shown of them, how they are asked for, what a playlist there says."""

from __future__ import annotations

import base64
import http.client
import itertools
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import Request

from fcnseg.errors import MediaError
from fcnseg.io.sources.network.refused import open_address

SECONDS = 10.0
"""How long a server may be silent."""

_MOST_TEXT = 4 << 20
_VARIANTS = 8  # playlists of a list of playlists that are looked at


def without_password(address: str) -> str:
    """A stream's address without the user name and password in it."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def unreachable(address: str) -> MediaError:
    """The MediaError for an address from which nothing comes."""
    return MediaError(
        f"No video comes from {without_password(address)}.",
        hint="check the address, user name and password, and that the network lets it through",
    )


def playlist_ends(address: str) -> bool:
    """Whether an HLS playlist, or one of those that it lists, says that nothing follows."""
    lines = _text_at(address).splitlines()
    if any(line.startswith("#EXT-X-ENDLIST") for line in lines):
        return True
    pairs = itertools.pairwise(lines)
    variants = [after for line, after in pairs if line.startswith("#EXT-X-STREAM-INF")]
    texts = (_text_at(urljoin(address, variant)) for variant in variants[:_VARIANTS])
    return any("\n#EXT-X-ENDLIST" in text for text in texts)


def _text_at(address: str) -> str:
    """A text of a server; "" where it can't be had."""
    try:
        with open_address(request_of(address), SECONDS) as response:
            return str(response.read(_MOST_TEXT).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException):
        return ""


def request_of(address: str) -> Request:
    """A request; a user name and password in the address are sent as they are meant."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host, fragment="").geturl())
    request.add_header("User-Agent", "fcnseg")
    if user:
        word = base64.b64encode(unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    return request
