"""The HTTP server of `fcnseg serve`: listening, error responses, and batching of requests in a
bounded queue that is processed by threads.

These threads decode, run the network and encode, so that the number of images in memory is limited
by the number of threads, however many requests are waiting.

Needs the extra `serve` (Starlette, Uvicorn).
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import FrameType

import uvicorn
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fcnseg.concurrency import usable_cores
from fcnseg.errors import FcnsegError, OptionError
from fcnseg.inference.segmenter import Segmenter
from fcnseg.progress import handled_by, stop_signals
from fcnseg.serving.outputs import Reply, Request, respond

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _Uvicorn(uvicorn.Server):
    """A server that does not re-raise the signal that stopped it: SIGTERM is a regular stop."""

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
    """Serve until SIGINT, SIGTERM or SIGHUP, then complete accepted requests.

    on_start: is called with the URL when it is open. port: 0 for a free one. connections: maximum
    number of open ones. seconds: timeout of the graceful shutdown. OptionError when the address
    can't be opened.
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
            hint="is --host this machine's? another port: --port N, or --port 0 for a free one",
        ) from None
    return bound


class HttpError(Exception):
    """An error response: HTTP status and message."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


def refusal(error: HttpError) -> JSONResponse:
    """The error as a JSON response, with Retry-After or WWW-Authenticate."""
    headers = dict(SECURITY_HEADERS)
    if error.status == 429:
        headers["Retry-After"] = "1"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = {"error": error.message} | ({"hint": error.hint} if error.hint else {})
    return JSONResponse(content, status_code=error.status, headers=headers)


class KnownHosts:
    """Middleware that refuses requests for other host names than `hosts` (empty: any).

    For an absolute URL (GET http://host/path, as for a proxy), the host in it counts.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or refuse it."""
        host = Headers(scope=scope).get("host", "")
        if absolute := re.fullmatch(
            "https?://([^/]*)(.*)", scope["path"], re.IGNORECASE | re.DOTALL
        ):
            host = absolute[1]
            scope = {**scope, "path": absolute[2] or "/"}
        served: ASGIApp = self._app
        checked = self._hosts and scope["type"] == "http"
        if checked and re.sub(r":\d*$", "", host).lower() not in self._hosts:
            known = ", ".join(self._hosts)
            text = f"Host is {host[:100]!r}; this server is reached as: {known}."
            served = refusal(HttpError(400, text, "a proxy in front of it has to send such a Host"))
        await served(scope, receive, send)


def busy() -> HttpError:
    """The error for a request when the queue is full."""
    return HttpError(429, "Too many requests are waiting.", "try again in a second")


def check_content(headers: Headers) -> None:
    """HttpError (415) for a body that is a form or compressed, not the image itself."""
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


async def unknown_address(request: HttpRequest, error: Exception) -> Response:
    """The response to an unknown path or method."""
    assert isinstance(error, HTTPException)
    known = "GET /models lists the models, GET /openapi.json describes the interface"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        can = f"{request.method} is not possible here; expected {allowed.replace(', ', ' or ')}."
        refused = HttpError(405, can, known)
    else:
        refused = HttpError(error.status_code, f"{error.detail}.", known)
    response = refusal(refused)
    response.headers.update(error.headers or {})
    return response


class QueueFull(FcnsegError):
    """The maximum number of requests is pending."""


@dataclass(eq=False)
class _Job:
    request: Request
    future: Future[Reply] = field(default_factory=Future)


class Batcher:
    """Processes requests with one model; `submit` may be called from any thread.

    batch: maximum batch size. limit: maximum number of requests that wait or are being computed.
    on_batch: is called with the size of each batch.
    """

    def __init__(
        self,
        model: Segmenter,
        *,
        batch: int = 1,
        limit: int = 256,
        on_batch: Callable[[int], object] = int,
    ) -> None:
        self.model, self.batch, self.limit, self._on_batch = model, batch, limit, on_batch
        self._waiting: deque[_Job] = deque()
        self._busy = 0
        self._closed = False
        self._change = threading.Condition()
        self._network = threading.Semaphore(model.num_parallel)
        # While some threads run the network, others decode and encode.
        count = model.num_parallel + min(2, usable_cores())
        self._threads = [
            threading.Thread(target=self._work, name=f"serve-{index}", daemon=True)
            for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Requests that wait or are being computed."""
        return len(self._waiting) + self._busy

    def submit(self, request: Request) -> Future[Reply]:
        """Return a future of the reply; cancelling it drops a request that is still waiting.

        Raises QueueFull when `limit` requests are pending. The future raises FcnsegError for errors
        of the client (an image that can't be decoded, an unknown class).
        """
        job = _Job(request)
        with self._change:
            if self._closed or self.pending >= self.limit:
                raise QueueFull(f"{self.limit} requests are waiting.", hint="try again later")
            self._waiting.append(job)
            self._change.notify()
        return job.future

    def close(self) -> None:
        """Complete waiting requests, then end the threads."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self) -> list[_Job]:
        """Take the next requests that need the same of the network; empty when closed."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            taken: list[_Job] = []
            while self._waiting and len(taken) < self.batch:
                if taken and self._waiting[0].request.needs != taken[0].request.needs:
                    break
                job = self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():
                    taken.append(job)
                    self._busy += 1
            return taken

    def _work(self) -> None:
        while True:
            jobs = self._take()
            if jobs:
                self._respond(jobs)
                with self._change:
                    self._busy -= len(jobs)
            elif self._closed:
                return

    def _respond(self, jobs: Sequence[_Job]) -> None:
        self._on_batch(len(jobs))
        replies = respond(self.model, [job.request for job in jobs], self._network)
        for job, reply in zip(jobs, replies, strict=True):
            if isinstance(reply, BaseException):
                job.future.set_exception(reply)
            else:
                job.future.set_result(reply)
