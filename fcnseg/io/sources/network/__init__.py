"""Addresses: what may be shown of them, how they are requested, what a playlist there says.

Link-local ones, where clouds give out a machine's secrets, are never requested.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import itertools
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from fcnseg.errors import MediaError

_METADATA = frozenset(map(ipaddress.ip_address, (
    "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16",
)))  # fmt: skip
"""Where clouds do the same outside 169.254.0.0/16 and fe80::/10."""


def is_refused(host: str) -> bool:
    """Whether an IP address in text is link-local or a cloud's metadata service."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    address = mapped or address
    return address.is_link_local or address in _METADATA


def refuse_link_local(address: str) -> None:
    """MediaError where an address, or one that its host's name stands for, is refused."""
    try:
        host = urlsplit(address).hostname or ""
    except ValueError as error:
        raise MediaError(f"The address is malformed: {error}.", hint="check it") from None
    hosts = [host]
    with suppress(OSError, ValueError):  # whoever opens it says what is wrong with it
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
        hosts += [str(entry[4][0]) for entry in found]
    _refuse(hosts)


def open_address(request: Request, timeout: float) -> Any:
    """What `urlopen` gives; MediaError where it leads to a refused address, by a redirect too."""
    refuse_link_local(request.full_url)  # a proxy would be asked, not the address itself
    return build_opener(_Http, _Https).open(request, timeout=timeout)


def _refuse(hosts: list[str]) -> None:
    wrong = next(filter(is_refused, hosts), None)
    if wrong is not None:
        raise MediaError(
            f"{wrong} is a link-local or metadata address, which is never opened as a source.",
            hint="cameras are in private networks (192.168.0.0/16, 10.0.0.0/8) or have a name",
        )


class _Checked(http.client.HTTPConnection):
    """A connection that sends nothing to a refused address, whatever name led there."""

    def connect(self) -> None:
        super().connect()
        try:
            _refuse([str(self.sock.getpeername()[0])])
        except MediaError:
            self.close()
            raise


class _CheckedTls(http.client.HTTPSConnection, _Checked):
    """The same with TLS."""


class _Http(HTTPHandler):
    def http_open(self, request: Request) -> Any:
        return _with_reason(self.do_open, _Checked, request, {})


class _Https(HTTPSHandler):
    def https_open(self, request: Request) -> Any:
        return _with_reason(self.do_open, _CheckedTls, request, {"context": self._context})  # type: ignore[attr-defined]


def _with_reason(open_it: Any, kind: type, request: Request, more: Mapping[str, Any]) -> Any:
    """What `do_open` gives; a refusal, which it takes for a failing network, is told as it is."""
    try:
        return open_it(kind, request, **more)
    except OSError as error:
        reason = getattr(error, "reason", None)
        if isinstance(reason, MediaError):
            raise reason from None
        raise


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
        f"Nothing comes from {without_password(address)}.",
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


_PLAIN = "!$%&'()*+,/:;=?@[]~"  # stands in addresses as it is


def request_of(address: str) -> Request:
    """A request; a user name and password in the address are sent as they are meant."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    path, query = quote(parts.path, _PLAIN), quote(parts.query, _PLAIN)
    request = Request(urlunsplit((parts.scheme, host, path, query, "")))
    request.add_header("User-Agent", "fcnseg")
    if user:
        word = base64.b64encode(unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    return request
