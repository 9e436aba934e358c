"""Addresses that are never asked: link-local ones, where clouds give out a machine's secrets."""

from __future__ import annotations

import http.client
import ipaddress
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
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
    hosts = []
    with suppress(OSError, ValueError):  # whoever opens it says what is wrong with it
        hosts.append(urlsplit(address).hostname or "")
        found = socket.getaddrinfo(hosts[0], None, type=socket.SOCK_STREAM) if hosts[0] else []
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
        return _told(self.do_open, _Checked, request, {})


class _Https(HTTPSHandler):
    def https_open(self, request: Request) -> Any:
        return _told(self.do_open, _CheckedTls, request, {"context": self._context})  # type: ignore[attr-defined]


def _told(open_it: Any, kind: type, request: Request, more: Mapping[str, Any]) -> Any:
    """What `do_open` gives; a refusal, which it takes for a failing network, is told as it is."""
    try:
        return open_it(kind, request, **more)
    except OSError as error:
        reason = getattr(error, "reason", None)
        if isinstance(reason, MediaError):
            raise reason from None
        raise
