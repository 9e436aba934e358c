"""The HTTP server of `fcnseg serve`: how it listens, and how it refuses requests.

Needs the extra `serve` (Starlette, Uvicorn).
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from fcnseg.errors import OptionError
from fcnseg.progress import handled_by, stop_signals

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _Uvicorn(uvicorn.Server):
    """Ends without raising the signal that ended it: SIGTERM is how a service is stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            del frame
            self.force_exit = self.should_exit and number == signal.SIGINT
            self.should_exit = True

        with handled_by(stop, stop_signals()):
            yield


def run(
    app: ASGIApp,
    host: str,
    port: int,
    on_start: Callable[[str], None],
    *,
    connections: int,
    seconds: int,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; accepted requests are completed first.

    on_start: is called with the address, once it is open. port: 0 takes a free one. connections:
    that may be open at the same time. seconds: for what was accepted, at the end. OptionError
    where the address can't be opened.
    """
    bound = _bind(host, port)
    options = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=seconds,
        lifespan="off",
    )
    shown = f"[{host}]" if ":" in host else host
    on_start(f"http://{shown}:{bound.getsockname()[1]}")
    _Uvicorn(options).run(sockets=[bound])


def _bind(host: str, port: int) -> socket.socket:
    bound: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(1024)
    except (OSError, UnicodeError) as error:
        if bound is not None:
            bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"Can't listen on {host}:{port}: {reason}.",
            hint="choose another: --port N, or --port 0 for a free one",
        ) from None
    return bound


class HttpError(Exception):
    """A request that is refused: its status, and what to say."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def refusal(error: HttpError) -> JSONResponse:
    """An error as JSON, with the headers that say when to come again."""
    headers = dict(SECURITY_HEADERS)
    if error.status == 429:
        headers["Retry-After"] = "1"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = {"error": error.message} | ({"hint": error.hint} if error.hint else {})
    return JSONResponse(content, status_code=error.status, headers=headers)


def busy() -> HttpError:
    """A request that finds no room."""
    return HttpError(429, "Too many requests are waiting.", "try again in a second")


def check_content(headers: Headers) -> None:
    """HttpError (415) for a body that holds the image in something else: a form, or compressed."""
    if headers.get("content-type", "").lower().startswith("multipart/"):
        raise HttpError(
            415,
            "The body is a form; the image file itself is expected.",
            "curl --data-binary @photo.jpg, or requests.post(url, data=file)",
        )
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise HttpError(
            415, f"The body is compressed ({encoding[:20]}).", "send the image file as it is"
        )


async def unknown_address(request: Request, error: Exception) -> Response:
    """The response to an address or a method that is not served."""
    assert isinstance(error, HTTPException)
    known = "GET /models lists the models, GET /openapi.json describes the interface"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        refused = HttpError(405, f"{request.method} is not possible here; {allowed} is.", known)
    else:
        refused = HttpError(error.status_code, f"{error.detail}.", known)
    response = refusal(refused)
    response.headers.update(error.headers or {})
    return response
