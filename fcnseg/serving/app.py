"""The HTTP interface: routes, limits, access, metrics.

    GET  /                          a page to try it
    GET  /models                    each model's classes, colors and outputs
    POST /models/{name}/{output}    body: an image file; response: a PNG, JSON or .npz
    GET  /openapi.json  /health  /ready  /metrics

A request's body is kept in memory; neither it nor names in it are written to disk or logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fcnseg.errors import FcnsegError, OptionError
from fcnseg.inference.segmenter import Segmenter
from fcnseg.serving import (
    SECURITY_HEADERS,
    Batcher,
    HttpError,
    KnownHosts,
    QueueFull,
    busy,
    check_content,
    refusal,
    unknown_address,
)
from fcnseg.serving.outputs import (
    Limits,
    Reply,
    Request,
    TooManyPixels,
    check_request,
    describe_api,
    outputs_of,
    strides_of,
)

HERE = Path(__file__).parent
PAUSE = 1.0
"""Seconds without a byte of a refused body after which the refusal is sent."""
MAX_BODIES = 16
"""Maximum memory of all bodies, as a multiple of the maximum size of one."""


@dataclass(frozen=True)
class Served:
    """A model with its Batcher and the strides of its skips."""

    model: Segmenter
    batcher: Batcher
    strides: list[int]

    def as_dict(self, name: str) -> dict[str, Any]:
        """The model's entry in GET /models."""
        classes = self.model.classes
        return {
            "name": name,
            "classes": [
                {"name": each, "color": f"#{bytes(color.tolist()).hex()}"}
                for each, color in zip(classes.names, classes.colors, strict=True)
            ],
            "ignore_value": 255,
            "outputs": outputs_of(self.strides),
            "strides": self.strides,
        }


@dataclass
class Metrics:
    """The metrics of GET /metrics, in Prometheus format."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        labels = ("model", "output", "status")
        self.requests = Counter("fcnseg_requests", "Responses", labels, registry=self.registry)
        self.seconds = Histogram(
            "fcnseg_request_seconds", "From the first byte to the response", registry=self.registry
        )
        self.batches = Histogram(
            "fcnseg_batch_size",
            "Images that went through the network together",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.pending = Gauge("fcnseg_pending", "Requests that wait", registry=self.registry)


class Server:
    """The models and the state of the service; `app` is the ASGI application."""

    def __init__(
        self,
        models: Mapping[str, Segmenter],
        limits: Limits | None = None,
        *,
        token: str | None = None,
        hosts: list[str] | None = None,
        report: Callable[[str], object] = str,
    ) -> None:
        """hosts: accepted host names; None: any. report: is called with internal errors."""
        self.limits = limits or Limits()
        self.token, self.report, self.metrics = token, report, Metrics()
        self.served = {
            name: Served(model, self._batcher(model), strides_of(model))
            for name, model in models.items()
        }
        self.held = 0  # bytes of bodies in memory
        self.metrics.pending.set_function(
            lambda: sum(served.batcher.pending for served in self.served.values())
        )
        hosted = [Middleware(KnownHosts, hosts=hosts or ())]
        self.app = Starlette(
            routes=self._routes(),
            middleware=hosted,
            exception_handlers={HTTPException: unknown_address},
        )

    def close(self) -> None:
        """Complete waiting requests and end the threads."""
        for served in self.served.values():
            served.batcher.close()

    def _batcher(self, model: Segmenter) -> Batcher:
        limits = self.limits
        return Batcher(
            model, batch=limits.batch, limit=limits.queue, on_batch=self.metrics.batches.observe
        )

    def _routes(self) -> list[Route]:
        files = {"/": "text/html", "/page.js": "text/javascript", "/page.css": "text/css"}
        return [
            *(Route(path, _constant(_page(path), media)) for path, media in files.items()),
            Route("/health", _constant(b"alive\n", "text/plain")),
            Route("/ready", _constant(b"ready\n", "text/plain")),
            Route("/metrics", self._guarded(self._metrics)),
            Route("/openapi.json", self._guarded(self._openapi)),
            Route("/models", self._guarded(self._models)),
            Route("/models/{name}/{output}", self._guarded(self._predict), methods=["POST"]),
        ]

    def _guarded(self, endpoint: Callable[[HttpRequest], Awaitable[Response]]) -> Any:
        """Wrap an endpoint: check the token, and return errors as JSON."""

        async def run(request: HttpRequest) -> Response:
            try:
                self._authorize(request)
                return await endpoint(request)
            except HttpError as error:
                if error.status != 408:  # after a timeout, do not wait again
                    await self._drain(request)
                return refusal(error)

        return run

    async def _drain(self, http: HttpRequest) -> None:
        """Take the rest of a refused body and drop it.

        Closing a connection while the client is sending resets it, and the response is lost. Not
        necessary for a client that waits (Expect: 100-continue) or has paused.
        """
        if http.headers.get("expect", "").lower() == "100-continue":
            return
        taken, end = 0, asyncio.get_running_loop().time() + self.limits.seconds
        with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
            async with asyncio.timeout(PAUSE) as pause:
                async for part in http.stream():
                    taken += len(part)
                    if taken > MAX_BODIES * self.limits.bytes:
                        return
                    pause.reschedule(min(end, asyncio.get_running_loop().time() + PAUSE))

    def _authorize(self, request: HttpRequest) -> None:
        if self.token is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise HttpError(401, "A token is needed.", "send 'Authorization: Bearer TOKEN'")

    async def _metrics(self, _: HttpRequest) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type="text/plain")

    async def _openapi(self, _: HttpRequest) -> Response:
        return JSONResponse(describe_api(list(self.served), self.limits, token=bool(self.token)))

    async def _models(self, _: HttpRequest) -> Response:
        return JSONResponse(
            {"models": [served.as_dict(name) for name, served in self.served.items()]}
        )

    async def _predict(self, http: HttpRequest) -> Response:
        began = time.perf_counter()
        name, output = http.path_params["name"], http.path_params["output"]
        served = self.served.get(name)
        if served is None:
            raise HttpError(404, f"No such model; here are: {', '.join(self.served)}.")
        if output not in outputs_of(served.strides):
            known = ", ".join(outputs_of(served.strides))
            raise HttpError(404, f"No such output of this model; it has: {known}.")
        status = 500
        try:
            reply = await self._respond(http, served, output)
            status = 200
        except HttpError as error:
            status = error.status
            raise
        finally:
            self.metrics.requests.labels(name, output, status).inc()
            self.metrics.seconds.observe(time.perf_counter() - began)
        headers = {**SECURITY_HEADERS, **reply.headers}
        return Response(reply.body, media_type=reply.media_type, headers=headers)

    async def _respond(self, http: HttpRequest, served: Served, output: str) -> Reply:
        try:
            parsed = _parse(http.query_params, output, self.limits)
            check_request(served.model, parsed, served.strides)
        except FcnsegError as error:
            raise HttpError(400, error.message, error.hint) from None
        if served.batcher.pending >= self.limits.queue:
            raise busy()
        data = await self._body(http)
        try:
            return await self._compute(served, Request(**{**vars(parsed), "data": data}))
        finally:
            self.held -= len(data)

    async def _body(self, http: HttpRequest) -> bytes:
        """Read the request's body; its size is added to `held` until the caller subtracts it."""
        check_content(http.headers)
        stated = http.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self.limits.bytes:
            raise self._too_large()
        parts: list[bytes] = []
        taken = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in http.stream():
                    taken += len(part)
                    self.held += len(part)
                    if taken > self.limits.bytes:
                        raise self._too_large()
                    if self.held > MAX_BODIES * self.limits.bytes:
                        raise busy()
                    parts.append(part)
        except BaseException as error:
            self.held -= taken
            if isinstance(error, TimeoutError):
                message = f"The body did not come within {self.limits.seconds:g} seconds."
                raise HttpError(408, message) from None
            if isinstance(error, ClientDisconnect):
                raise HttpError(400, "The connection was closed.") from None
            raise
        return b"".join(parts)

    def _too_large(self) -> HttpError:
        most = self.limits.bytes / 2**20
        return HttpError(413, f"The body is larger than {most:g} MB.", "scale the image down")

    async def _compute(self, served: Served, request: Request) -> Reply:
        try:
            future = served.batcher.submit(request)
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.wrap_future(future)
        except QueueFull:
            raise busy() from None
        except TimeoutError:
            raise HttpError(504, f"No response within {self.limits.seconds:g} seconds.") from None
        except TooManyPixels as error:
            raise HttpError(413, error.message, error.hint) from None
        except FcnsegError as error:
            raise HttpError(422, error.message, error.hint) from None
        except Exception as error:  # noqa: BLE001 - clients get no traceback
            self.report(f"A request failed: {type(error).__name__}.")
            raise HttpError(500, "The image could not be processed.") from None


def _parse(query: QueryParams, output: str, limits: Limits) -> Request:
    """Parse a query into a request without its image; OptionError for invalid parameters."""
    unknown = sorted(set(query) - {"class", "stride", "alpha"})
    if unknown:
        raise OptionError("Known parameters: class, stride, alpha.")
    try:
        stride, alpha = int(query.get("stride", "0")), float(query.get("alpha", "0.5"))
    except ValueError:
        raise OptionError("stride is a whole number and alpha a number from 0 to 1.") from None
    if not 0 <= alpha <= 1:
        raise OptionError("alpha is a number from 0 to 1.")
    classes = tuple(query.getlist("class"))
    return Request(b"", output, classes, stride, alpha, limits.pixels)


def _page(path: str) -> bytes:
    """Read a file of the web page."""
    return (HERE / "page" / (path.strip("/") or "index.html")).read_bytes()


def _constant(content: bytes, media_type: str) -> Callable[[HttpRequest], Awaitable[Response]]:
    async def get(_: HttpRequest) -> Response:
        return Response(content, media_type=media_type, headers=SECURITY_HEADERS)

    return get
