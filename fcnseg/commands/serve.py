"""The command `serve`: models as an HTTP service, with a page to try them."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnseg.config import ServeConfig
from fcnseg.errors import MissingExtra, OptionError
from fcnseg.inference.loading import load_as
from fcnseg.inference.segmenter import Segmenter
from fcnseg.progress import Callback, Message, no_callback

if TYPE_CHECKING:
    from fcnseg.serving.app import Server

TOKEN = "FCNSEG_TOKEN"
LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]"]


@dataclass(frozen=True)
class ServeResult:
    """Number of responses that a server sent, by HTTP status."""

    requests: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {"requests": self.requests}


def serve(config: ServeConfig, callback: Callback = no_callback) -> ServeResult:
    """Serve models over HTTP until interrupted; accepted requests are completed first.

    Raises OptionError for an address that others can reach without a token, CheckpointError,
    MissingExtra.
    """
    token = config.token or os.environ.get(TOKEN) or None
    _check_access(config, token)
    try:
        from fcnseg.serving import run
        from fcnseg.serving.app import Server
        from fcnseg.serving.outputs import Limits
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fcnseg"):
            raise
        raise MissingExtra("serve", "serve") from None
    limits = Limits(
        queue=config.queue,
        bytes=int(config.max_mb * 2**20),
        pixels=int(config.max_megapixels * 1e6),
        seconds=config.timeout,
        batch=config.batch,
    )
    server = Server(
        load_models(config, callback),
        limits,
        token=token,
        hosts=LOCAL_HOSTS if _is_local(config.host) else None,
        report=lambda text: callback(Message(text, "warning")),
    )
    names = ", ".join(server.served)
    try:
        run(
            server.app,
            config.host,
            config.port,
            lambda url: callback(Message(f"{names} at {url}")),
            connections=1024 + limits.queue,
            seconds=int(2 * limits.seconds) + 1,
        )
    finally:
        server.close()
    return ServeResult(_counts(server))


def load_models(config: ServeConfig, callback: Callback) -> dict[str, Segmenter]:
    """The models by name: of NAME=MODEL, else of its file or folder."""
    found: dict[str, Segmenter] = {}
    for given in config.model or ("",):
        name, model = _named(given)
        loaded = load_as(config, callback, model=model or None)
        name = name or _name_of(model, loaded.path)
        if name in found:
            raise OptionError(
                f"Two models are called {name!r}.", hint=f"name them: {name}2={model}"
            )
        found[name] = loaded
    return found


def _named(given: str) -> tuple[str, str]:
    """Split NAME=MODEL; an existing path that contains "=" is a path."""
    name, separator, model = given.partition("=")
    if separator and re.fullmatch(r"[\w.-]+", name) and not Path(given).exists():
        return name, model
    return "", given


def _name_of(model: str, path: Path | None) -> str:
    """A model's name in URLs: the folder of a run, the stem of another file."""
    if path is None:
        return "model"
    named = Path(model).name if model and Path(model).is_dir() else path.stem
    if named in ("best", "last"):
        named = path.parent.name
    return re.sub(r"[^\w.-]+", "-", named).strip("-") or "model"


def _check_access(config: ServeConfig, token: str | None) -> None:
    if token is None and not config.public and not _is_local(config.host):
        raise OptionError(
            f"Anyone who can reach {config.host} could use the models.",
            hint=f"give a token (--token, or the variable {TOKEN}), or --public to allow it",
        )


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _counts(server: Server) -> dict[str, int]:
    counts: dict[str, int] = {}
    for family in server.metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "fcnseg_requests_total":
                status = sample.labels["status"]
                counts[status] = counts.get(status, 0) + int(sample.value)
    return counts
