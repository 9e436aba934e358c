"""The HTTP server, driven over a socket as its clients drive it."""

from __future__ import annotations

import concurrent.futures
import http.client
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fcnseg
from fcnseg.cli.app import app

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


class Running:
    """A server in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fcnseg", "serve", *arguments, "--port", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line + self.process.stderr.read()
        self.port = int(found[1])

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(
            method, path, body, {name.title(): each for name, each in headers.items()}
        )
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content, response.headers

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def server(random_model: Path) -> Iterator[Running]:
    running = Running(
        f"net={random_model}", "--max-mb", "1", "--max-megapixels", "1", "--timeout", "2",
        "--device", "cpu", "--precision", "f32", "--engine", "torch",
    )  # fmt: skip
    yield running
    if running.process.poll() is None:
        running.stop()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def drawn(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bomb(side: int = 30_000) -> bytes:
    """A PNG of one color: few bytes, many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * 1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def model(random_model: Path) -> fcnseg.Segmenter:
    return fcnseg.load(random_model, device="cpu", precision="f32", engine="torch")


def test_labels_are_those_of_infer(server: Running, model: fcnseg.Segmenter) -> None:
    for seed, size in enumerate([(48, 64), (33, 47), (64, 64)]):
        pixels = drawn(seed, *size)
        status, body, headers = server.ask("POST", "/models/net/labels", png(pixels))
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert np.array_equal(np.array(Image.open(io.BytesIO(body))), model(pixels).labels)


def test_outputs(server: Running, model: fcnseg.Segmenter) -> None:
    pixels = drawn(5)
    prediction = model(pixels)
    name = model.classes.names[1]
    query = urllib.parse.urlencode({"class": name})
    _, body, _ = server.ask("POST", f"/models/net/heatmap?{query}", png(pixels))
    seen = np.array(Image.open(io.BytesIO(body))) / 255
    assert np.abs(seen - prediction.heatmap(name)).max() < 0.01
    _, body, _ = server.ask("POST", f"/models/net/probabilities?{query}", png(pixels))
    stored = np.load(io.BytesIO(body))
    assert stored["classes"].tolist() == [name]
    assert np.abs(stored["probabilities"][0] - prediction.heatmap(name)).max() < 1e-3
    _, body, _ = server.ask("POST", "/models/net/geojson", png(pixels))
    assert json.loads(body)["type"] == "FeatureCollection"
    _, body, _ = server.ask("POST", "/models/net/overlay?alpha=0.5", png(pixels))
    assert (
        np.abs(np.array(Image.open(io.BytesIO(body))).astype(int) - prediction.overlay()).max() < 2
    )


def test_the_skips_sum_to_the_logits(server: Running, model: fcnseg.Segmenter) -> None:
    pixels = drawn(6)
    (described,) = json.loads(server.ask("GET", "/models")[1])["models"]
    total = np.zeros(pixels.shape[:2])
    coarse = 0.0
    for stride in described["strides"]:
        path = f"/models/net/skip?class=0&stride={stride}"
        status, body, headers = server.ask("POST", path, png(pixels))
        assert status == 200
        most = float(headers["X-Range"])
        total += (np.array(Image.open(io.BytesIO(body))).astype(float) - 128) / 127 * most
        coarse += most / 127
    assert np.abs(total - model.logits(pixels)[0]).max() < coarse


def test_the_contract_names_what_is_there(server: Running) -> None:
    document = json.loads(server.ask("GET", "/openapi.json")[1])
    assert document["openapi"].startswith("3.")
    for path, methods in document["paths"].items():
        for method in methods:
            wanted = path.format(name="net", output="labels")
            status, _, _ = server.ask(
                method.upper(), wanted, png(drawn(0)) if method == "post" else None
            )
            assert status == 200, path
    outputs = document["paths"]["/models/{name}/{output}"]["post"]["parameters"][1]["schema"][
        "enum"
    ]
    for output in outputs:
        path = f"/models/net/{output}?class=0&stride=32"
        assert server.ask("POST", path, png(drawn(0)))[0] == 200, output


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/models/other/labels", b"", 404),
        ("/models/net/nothing", b"", 404),
        ("/models/net/heatmap", b"", 400),
        ("/models/net/heatmap?class=nothing", b"", 400),
        ("/models/net/overlay?alpha=2", b"", 400),
        ("/models/net/overlay?alpha=nan", b"", 400),
        ("/models/net/skip?class=0&stride=3", b"", 400),
        ("/models/net/labels?unknown=1", b"", 400),
        ("/models/net/labels", b"", 422),
        ("/models/net/labels", b"no image", 422),
        ("/models/net/labels", png(drawn(0))[:200], 422),
        ("/models/net/labels", bomb(), 413),
        ("/models/net/labels", bytes(2 * 2**20), 413),
    ],
)  # fmt: skip
def test_what_is_refused(server: Running, path: str, body: bytes, status: int) -> None:
    found, content, _ = server.ask("POST", path, body)
    assert found == status, content
    assert json.loads(content)["error"]
    assert b"Traceback" not in content
    assert b"net" not in content or status == 404


def test_a_refusal_does_not_wait_for_a_body_that_does_not_come(random_model: Path) -> None:
    running = Running(f"net={random_model}", "--max-mb", "1", "--timeout", "30", "--device", "cpu")
    head = b"POST /models/net/labels HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n"
    try:
        for more in (b"\r\nabc", b"Expect: 100-continue\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", running.port), timeout=15) as connection:
                connection.sendall(head + more)
                assert connection.recv(100).startswith(b"HTTP/1.1 413"), more
    finally:
        running.stop()


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("elsewhere.example", 400)])
def test_an_absolute_address_is_served(server: Running, host: str, status: int) -> None:
    assert server.ask("GET", f"http://{host}:{server.port}/health")[0] == status
    assert server.ask("GET", f"http://{host}")[0] == status


def test_a_small_version_does_not_hide_how_large_a_page_is() -> None:
    from fcnseg.serving.outputs import Request, TooManyPixels, decode

    file, is_smaller = io.BytesIO(), struct.pack("<HHII", 254, 4, 1, 1)
    pages = [Image.new("L", (64, 64))]
    Image.new("L", (2, 2)).save(file, "TIFF", save_all=True, append_images=pages, tiffinfo={254: 1})
    before, _, after = file.getvalue().rpartition(is_smaller)
    data = before + struct.pack("<HHII", 254, 4, 1, 0) + after
    with pytest.raises(TooManyPixels, match="64x64"):
        decode(Request(data, "labels", max_pixels=1000))


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "says"),
    [
        ("POST", "labels", {"content-type": "multipart/form-data; boundary=x"}, 415, "is a form"),
        ("POST", "labels", {"content-encoding": "gzip"}, 415, "is compressed (gzip)"),
        ("GET", "labels", {}, 405, "GET is not possible here; expected POST"),
        ("GET", "labels/more", {}, 404, "Not Found"),
    ],
)
def test_what_is_asked_in_another_way_is_told(
    server: Running, method: str, path: str, headers: dict[str, str], status: int, says: str
) -> None:
    found, content, _ = server.ask(method, f"/models/net/{path}", png(drawn(0)), **headers)
    assert found == status
    assert says in json.loads(content)["error"]
    assert json.loads(content)["hint"]


def test_a_slow_sender_is_cut_off(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(30)
        connection.sendall(
            b"POST /models/net/labels HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"
        )
        assert b" 408 " in connection.recv(100)


def test_other_hosts_names_are_refused(server: Running) -> None:
    """A web page whose name was made to point here can't use the server (DNS rebinding)."""
    status, body, _ = server.ask("GET", "/models", host="example.com")
    assert (status, json.loads(body)["error"]) == (
        400, "Host is 'example.com'; this server is reached as: localhost, 127.0.0.1, [::1].",
    )  # fmt: skip
    assert server.ask("GET", "/models", host="LOCALHOST:80")[0] == 200
    assert server.ask("GET", "/models", host="[::1]")[0] == 200


def test_the_page_loads_nothing_from_elsewhere(server: Running) -> None:
    for path in ("/", "/page.js", "/page.css"):
        status, body, headers = server.ask("GET", path)
        assert status == 200
        assert b"http" not in body.replace(b"HTTP ", b"")
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers


def test_many_at_once(server: Running, model: fcnseg.Segmenter) -> None:
    images = [drawn(seed) for seed in range(40)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(server.ask, "POST", "/models/net/labels", png(one)) for one in images]
        garbage = [
            pool.submit(server.ask, "POST", "/models/net/labels", b"x" * n) for n in range(9)
        ]
    for image, future in zip(images, asked, strict=True):
        status, body, _ = future.result()
        assert status == 200
        assert np.array_equal(np.array(Image.open(io.BytesIO(body))), model(image).labels)
    assert {future.result()[0] for future in garbage} == {422}


def test_sigterm_answers_what_was_accepted(random_model: Path) -> None:
    running = Running(f"net={random_model}", "--max-megapixels", "4")
    body = png(drawn(1, 1024, 1024))
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(running.ask, "POST", "/models/net/labels", body) for _ in range(6)]
        deadline = time.monotonic() + 30
        while b"fcnseg_pending 6.0" not in running.ask("GET", "/metrics")[1]:
            if any(future.done() for future in asked):
                break
            assert time.monotonic() < deadline
        status, out, err = running.stop()
        assert [future.result()[0] for future in asked] == [200] * 6
    assert status == 0, err
    assert json.loads(out) == {"requests": {"200": 6}}


def test_a_token_is_needed_where_one_is_set(random_model: Path) -> None:
    running = Running(f"net={random_model}", "--token", "secret", "--queue", "1")
    try:
        for path in ("/models", "/metrics", "/openapi.json"):
            assert running.ask("GET", path)[0] == 401
            assert running.ask("GET", path, authorization="Bearer secreT")[0] == 401
            assert running.ask("GET", path, authorization="Bearer secret")[0] == 200
        assert running.ask("POST", "/models/net/labels", png(drawn(0)))[0] == 401
        big = png(drawn(0, 1500, 1500))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [
                pool.submit(
                    running.ask, "POST", "/models/net/labels", big, authorization="Bearer secret"
                )
                for _ in range(8)
            ]
        found = sorted(future.result()[0] for future in asked)
        assert found[0] == 200
        assert found[-1] == 429
        assert set(found) == {200, 429}
    finally:
        running.stop(signal.SIGINT)


def refused(*arguments: str) -> str:
    """What the command says, in this process: it ends before it serves."""
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("options", [["--host", "0.0.0.0"], ["--host", "::"], ["--port", "70000"]])
def test_an_open_address_wants_a_token(random_model: Path, options: list[str]) -> None:
    said = refused(str(random_model), *options)
    assert ("port" if "--port" in options else "--token") in said


def test_an_address_of_another_machine_is_told(random_model: Path) -> None:
    said = refused(str(random_model), "--host", "203.0.113.1", "--port", "0", "--token", "t" * 32)
    assert "Can't listen on 203.0.113.1:0" in said
    assert "is --host this machine's?" in said


def test_a_used_port_is_told(random_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "--port 0" in refused(str(random_model), "--port", str(taken.getsockname()[1]))
