"""URLs: requests, passwords, and HLS playlists.

Link-local addresses, where clouds serve a machine's credentials, are never requested.
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
"""Metadata services of clouds outside 169.254.0.0/16 and fe80::/10."""


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
    """MediaError if a URL's host is, or resolves to, a refused IP address."""
    try:
        host = urlsplit(address).hostname or ""
    except ValueError as error:
        raise MediaError(f"The address is malformed: {error}.", hint="check it") from None
    hosts = [host]
    with suppress(OSError, ValueError):  # reported when it is opened
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
        hosts += [str(entry[4][0]) for entry in found]
    _refuse(hosts)


def open_address(request: Request, timeout: float) -> Any:
    """`urlopen` with MediaError for refused addresses, also after redirects."""
    refuse_link_local(request.full_url)  # a proxy would hide the address
    return build_opener(_Http, _Https).open(request, timeout=timeout)


def _refuse(hosts: list[str]) -> None:
    wrong = next(filter(is_refused, hosts), None)
    if wrong is not None:
        raise MediaError(
            f"{wrong} is a link-local or metadata address, which is never opened as a source.",
            hint="cameras are in private networks (192.168.0.0/16, 10.0.0.0/8) or have a name",
        )


class _Checked(http.client.HTTPConnection):
    """A connection that refuses by the peer's IP address before sending a request."""

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
    """Call `do_open`; a refusal, which it wraps in URLError, is raised as the MediaError."""
    try:
        return open_it(kind, request, **more)
    except OSError as error:
        reason = getattr(error, "reason", None)
        if isinstance(reason, MediaError):
            raise reason from None
        raise


SECONDS = 10.0
"""Timeout for servers."""

_MOST_TEXT = 4 << 20
_VARIANTS = 8  # variants of a master playlist that are checked


def without_password(address: str) -> str:
    """A URL without its user name and password."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def unreachable(address: str) -> MediaError:
    """The MediaError for a URL that can't be opened."""
    return MediaError(
        f"Nothing comes from {without_password(address)}.",
        hint="check the address, user name and password, and that the network lets it through",
    )


def playlist_ends(address: str) -> bool:
    """Whether an HLS playlist, or one of its variants, has an end marker."""
    lines = _text_at(address).splitlines()
    if any(line.startswith("#EXT-X-ENDLIST") for line in lines):
        return True
    pairs = itertools.pairwise(lines)
    variants = [after for line, after in pairs if line.startswith("#EXT-X-STREAM-INF")]
    texts = (_text_at(urljoin(address, variant)) for variant in variants[:_VARIANTS])
    return any("\n#EXT-X-ENDLIST" in text for text in texts)


def _text_at(address: str) -> str:
    """A text file from a server; "" on errors."""
    try:
        with open_address(request_of(address), SECONDS) as response:
            return str(response.read(_MOST_TEXT).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException):
        return ""


_PLAIN = "!$%&'()*+,/:;=?@[]~"  # characters that are not quoted in URLs


def request_of(address: str) -> Request:
    """A request for a URL; a user name and password in it are sent by basic authentication."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    path, query = quote(parts.path, _PLAIN), quote(parts.query, _PLAIN)
    request = Request(urlunsplit((parts.scheme, host, path, query, "")))
    request.add_header("User-Agent", "fcnseg")
    if user:
        word = base64.b64encode(unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    return request
