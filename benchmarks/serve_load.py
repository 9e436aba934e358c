"""Load test of `fcnseg serve`, with many concurrent requests, some of them invalid.

    python benchmarks/serve_load.py [MODEL] [--requests 600] [--concurrency 200] [--size H W]

Starts `fcnseg serve` and sends good images, garbage, truncated images, bodies of 50 MB, a
decompression bomb and slow senders, mixed, with this concurrency. The response to a good image must
equal the labels of `fcnseg.load(MODEL)(image)`; all others have a specified status. Prints latency
percentiles, the memory after the first third and at the end, and the throughput compared with the
bare engine of `fcnseg bench`: alternating, medians and range.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import re
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import fcnseg

EXPECTED = {
    "good": {200},
    "garbage": {422},
    "cut": {422},
    "huge": {413},
    "bomb": {413},
    "slow": {408},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="nuclei")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320))
    parser.add_argument("--rounds", type=int, default=3, help="of throughput and bare engine")
    options = parser.parse_args()
    images = [drawn(seed, *options.size) for seed in range(8)]
    model = fcnseg.load(options.model)
    labels = [model(image).labels for image in images]
    bodies = [png(image) for image in images]
    server, port = start(options.model)
    try:
        rates = [
            (throughput(port, bodies, options.requests // 4), bare_engine(options))
            for _ in range(options.rounds)
        ]
        found, memory = load(port, server.pid, bodies, labels, options)
    finally:
        server.terminate()
        server.wait(60)
    wrong = [(kind, status) for kind, status, _ in found if status not in EXPECTED[kind]]
    good = sorted(seconds for kind, _, seconds in found if kind == "good")
    print(f"requests {len(found)}, concurrent {options.concurrency}, wrong responses {len(wrong)}")
    p99 = good[int(0.99 * len(good))]
    print(f"latency of good ones: median {statistics.median(good):.2f} s, p99 {p99:.2f} s")
    print(f"memory of the server: {memory[0]} MB after a third, {memory[1]} MB at the end")
    for name, values in zip(("server", "bare engine"), zip(*rates, strict=True), strict=True):
        print(f"images/s of the {name}: {spread(values)}")
    print(f"ratio: {spread([server / bare for server, bare in rates])}")
    if wrong:
        sys.exit(f"wrong: {wrong[:10]}")


def bare_engine(options: argparse.Namespace) -> float:
    """Images per second of the bare network, measured by `fcnseg bench`."""
    command = ["-m", "fcnseg", "bench", options.model, "--size", *map(str, options.size), "--json"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["model_fps"])


def spread(values: Sequence[float]) -> str:
    """The median, minimum and maximum."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def start(model: str) -> tuple[subprocess.Popen[str], int]:
    """Start a server with short timeouts; return it and its port."""
    command = ["-m", "fcnseg", "serve", f"net={model}", "--port", "0", "--timeout", "60"]
    server = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    found = re.search(r":(\d+)\s*$", server.stderr.readline())
    assert found
    threading.Thread(target=server.stderr.read, daemon=True).start()
    return server, int(found[1])


def load(port, pid, bodies, labels, options):  # type: ignore[no-untyped-def]
    """Send all requests; (kind, status, seconds) of each, and the memory at two times."""
    kinds = ["good"] * 10 + ["garbage", "cut", "huge", "bomb", "slow"]
    chosen = random.Random(0).choices(kinds, k=options.requests)
    memory: list[int] = []
    with ThreadPoolExecutor(options.concurrency) as pool:
        futures = [
            pool.submit(send, port, kind, index, bodies, labels)
            for index, kind in enumerate(chosen)
        ]
        found = []
        for count, future in enumerate(futures):
            found.append(future.result())
            if count in (len(futures) // 3, len(futures) - 1):
                memory.append(resident(pid))
    return found, memory


def send(port, kind, index, bodies, labels):  # type: ignore[no-untyped-def]
    """Send a request of a kind; the status is 0 for a good one with wrong labels."""
    number = index % len(bodies)
    body = {
        "good": bodies[number],
        "garbage": np.random.default_rng(index).bytes(5000),
        "cut": bodies[number][: len(bodies[number]) // 2],
        "huge": bytes(50 * 2**20) if kind == "huge" else b"",
        "bomb": bomb() if kind == "bomb" else b"",
        "slow": b"",
    }[kind]
    began = time.perf_counter()
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
        if kind == "slow":
            connection.putrequest("POST", "/models/net/labels")
            connection.putheader("Content-Length", "1000")
            connection.endheaders(b"x")
        else:
            connection.request("POST", "/models/net/labels", body)
        response = connection.getresponse()
        status, content = response.status, response.read()
        connection.close()
        if status != 429:
            break
        time.sleep(float(response.headers["Retry-After"]))
    if kind == "good" and status == 200:
        predicted = np.array(Image.open(io.BytesIO(content)))
        status = 200 if np.array_equal(predicted, labels[number]) else 0
    return kind, status, time.perf_counter() - began


def throughput(port: int, bodies: list[bytes], count: int) -> float:
    """Good images per second with eight senders."""
    requests = [(port, "good", index, bodies, None) for index in range(count)]

    def one(arguments):  # type: ignore[no-untyped-def]
        port, _, index, bodies, _ = arguments
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=200)
        connection.request("POST", "/models/net/labels", bodies[index % len(bodies)])
        assert len(connection.getresponse().read()) > 0
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, requests[: count // 4]))  # warm-up
        began = time.perf_counter()
        list(pool.map(one, requests))
        return count / (time.perf_counter() - began)


def resident(pid: int) -> int:
    """A process's memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 // 2**20


def drawn(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth noise, which is more similar to photos than white noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def png(image: np.ndarray) -> bytes:
    """The bytes of a PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A small PNG file with 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


if __name__ == "__main__":
    main()
