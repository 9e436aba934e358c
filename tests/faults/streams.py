"""Videos as files and in pipes, and requests to the server."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np

from fcnseg.inference.loading import load
from fcnseg.io.sources import open_source
from fcnseg.io.sources.reader import RawVideo
from tests.faults.images import RGB, by_pillow
from tests.faults.kinds import Kind
from tests.faults.models import write_checkpoint

FRAMES = 4

VIDEOS = {  # suffix -> codec
    ".mp4": "mpeg4", ".avi": "mjpeg", ".mkv": "libx264", ".webm": "libvpx", ".ts": "mpeg2video",
    ".mov": "h264", ".flv": "flv", ".y4m": "rawvideo", ".nut": "ffv1",
}  # fmt: skip


def write_video(path: Path) -> None:
    """Four frames of 56x40."""
    container = {".y4m": "yuv4mpegpipe", ".ts": "mpegts", ".mkv": "matroska"}.get(path.suffix)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(VIDEOS[path.suffix], rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 56, 40, _pixels(path.suffix)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(RGB, number, 1).copy(), format="rgb24")
            for packet in stream.encode(frame.reformat(format=stream.pix_fmt)):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def _pixels(suffix: str) -> str:
    return "yuvj420p" if suffix == ".avi" else "yuv420p"


def _pieces(folder: Path) -> None:
    """Images that follow one another."""
    data = b"".join(by_pillow(form, RGB) for form in ("PNG", "JPEG", "PNG"))
    (folder / "clip.images").write_bytes(data)


def _raw(folder: Path) -> None:
    (folder / "clip.rgb").write_bytes(RGB.tobytes() * FRAMES)


class _Stdin(io.StringIO):
    """Standard input of known bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.buffer = io.BytesIO(data)


def _look(source: Any) -> None:
    with source:
        for count, _ in enumerate(source):
            if count > 5 * FRAMES:
                break


def use_file(folder: Path) -> None:
    """Decode it as `infer FILE` does."""
    _look(open_source(next(folder.glob("clip*"), folder / "gone")))


def use_pipe(folder: Path, raw: RawVideo | None = None) -> None:
    """Decode it as `infer -` does."""
    data = next(folder.glob("clip*")).read_bytes()
    with patch.object(sys, "stdin", _Stdin(data)):
        _look(open_source("-", raw=raw))


class Asked:
    """The server's application, asked without a socket."""

    def __init__(self) -> None:
        self.app: Any = None

    def use(self, folder: Path) -> None:
        """Send the file's bytes as they are: a head of lines, an empty line, a body."""
        if self.app is None:
            self.app = self._serve(folder)
        head, _, body = (folder / "request.http").read_bytes().partition(b"\n\n")
        lines = head.split(b"\n")
        method, path, query = [*lines[0].split(b" ", 2), b"", b"", b""][:3]
        headers = [tuple(line.lower().partition(b": ")[::2]) for line in lines[1:]]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
            "method": method.decode("latin-1"), "path": path.decode("utf-8", "replace"),
            "raw_path": path, "query_string": query, "root_path": "", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        status = asyncio.run(self._status(scope, body))
        if status >= 500:
            raise AssertionError(f"status {status}")

    async def _status(self, scope: Any, body: bytes) -> int:
        sent: list[dict[str, Any]] = []
        parts = [body[: len(body) // 2], body[len(body) // 2 :]]
        inbox = [
            {"type": "http.request", "body": part, "more_body": part is parts[0]} for part in parts
        ]

        async def receive() -> dict[str, Any]:
            return inbox.pop(0) if inbox else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return int(sent[0]["status"])

    def _serve(self, folder: Path) -> Any:
        from fcnseg.serving.app import Server
        from fcnseg.serving.outputs import Limits

        model = load(folder / "model.safetensors", engine="torch", device="cpu")
        self.server = Server({"net": model}, Limits(pixels=2**20))
        return self.server.app


def _requests(folder: Path) -> None:
    write_checkpoint(folder)
    head = b"POST /models/net/overlay class=leaf&stride=0&alpha=0.5\nhost: localhost"
    head += b"\ncontent-type: image/png\naccept: */*\n\n"
    (folder / "request.http").write_bytes(head + by_pillow("PNG", RGB))


def kinds() -> Mapping[str, Kind]:
    """Those whose packages are here."""
    found = {}
    for suffix in VIDEOS:
        write = partial(_video, suffix=suffix)
        found[f"{suffix[1:]} video"] = Kind(write, use_file, (suffix,), text=False)
        found[f"{suffix[1:]} in a pipe"] = Kind(write, use_pipe, (suffix,), text=False)
    found["images in a pipe"] = Kind(_pieces, use_pipe, (".images",), text=False)
    use_raw = partial(use_pipe, raw=RawVideo((56, 40), "rgb24"))
    found["raw video in a pipe"] = Kind(_raw, use_raw, (".rgb",), text=False)
    if find_spec("starlette") and find_spec("prometheus_client"):
        found["requests"] = Kind(_requests, Asked().use, (".http",), text=False, rename=False)
    return found


def _video(folder: Path, suffix: str) -> None:
    write_video(folder / f"clip{suffix}")
