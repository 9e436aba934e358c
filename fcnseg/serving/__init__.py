"""An HTTP server for models: `fcnseg serve`. Needs the extra `serve` (Starlette, Uvicorn)."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from fcnseg.errors import OptionError
from fcnseg.progress import handled_by, stop_signals


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
