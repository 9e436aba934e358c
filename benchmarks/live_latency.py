"""Latency of predictions for a camera that is faster than the network.

    python benchmarks/live_latency.py [--seconds 120] [--step 0.2]

`infer` segments an IP camera (MJPEG over HTTP on this machine, 30 frames/s, each frame shows its
number), then a simulated cv2.VideoCapture, with a network that takes `step` seconds. Measured is
the time from sending a frame to its prediction; the stream is interrupted half-way and reconnects.
"""

from __future__ import annotations

import argparse
import http.server
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io.images import encode_image
from fcnseg.progress import Event, Message

PERIOD = 1 / 30
BITS, SIDE = 16, 32
"""A frame's number is drawn as 16 black or white squares of 32 pixels, 8 per row."""
SIZE = (480, 640)


def draw(number: int) -> NDArray[np.uint8]:
    """A grey image uint8 (H, W, 3) that shows its number."""
    image = np.full((*SIZE, 3), 128, np.uint8)
    for bit in range(BITS):
        y, x = SIDE * (bit // 8), SIDE * (bit % 8)
        image[y : y + SIDE, x : x + SIDE] = 255 * (number >> bit & 1)
    return image


def read(image: NDArray[np.uint8]) -> int:
    """Read the number that an image shows, also after JPEG compression."""
    centres = [(SIDE * (b // 8) + SIDE // 2, SIDE * (b % 8) + SIDE // 2) for b in range(BITS)]
    return sum(int(image[y, x, 1] > 127) << bit for bit, (y, x) in enumerate(centres))


class Sender:
    """Generates frames and records when each was sent."""

    def __init__(self) -> None:
        self.sent: dict[int, float] = {}

    def next(self) -> NDArray[np.uint8]:
        """A new frame, sent now."""
        number = len(self.sent)
        image = draw(number)
        self.sent[number] = time.monotonic()
        return image


class Camera:
    """A fake cv2.VideoCapture."""

    def __init__(self, sender: Sender) -> None:
        self._sender, self._due = sender, time.monotonic()

    def isOpened(self) -> bool:  # noqa: N802
        """Always."""
        return True

    def read(self) -> tuple[bool, NDArray[np.uint8]]:
        """The next frame when it is due; unread frames are dropped, as by a camera."""
        now = time.monotonic()
        self._due = max(self._due + PERIOD, now - PERIOD)
        time.sleep(max(0.0, self._due - now))
        return True, self._sender.next()

    def get(self, _property: int) -> float:
        """The frame rate, the only property that is read."""
        return 1 / PERIOD

    def release(self) -> None:
        """Nothing to release."""


def serve(sender: Sender, dies_at: float) -> http.server.ThreadingHTTPServer:
    """Serve an IP camera whose connection fails once, at a time of the monotonic clock."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            began = due = time.monotonic()
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                while not began < dies_at <= time.monotonic():
                    data = encode_image(sender.next(), ".jpg")
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}"
                    self.wfile.write(head.encode() + b"\r\n\r\n" + data + b"\r\n")
                    due += PERIOD
                    time.sleep(max(0.0, due - time.monotonic()))
            except OSError:
                return  # the reader has disconnected

        def log_message(self, *args: object) -> None:
            """Nothing is logged."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Slow:
    """A slow network that records the latency of each prediction."""

    classes = ClassMap.of(["dark", "bright"])
    num_parallel = 1

    def __init__(self, sender: Sender, step: float) -> None:
        self._sender, self._step = sender, step
        self.ages: list[float] = []

    def predict(
        self, images: Sequence[NDArray[np.uint8]], **_wanted: bool
    ) -> list[PredictedArrays]:
        """Bright and dark pixels, after `step` seconds."""
        time.sleep(self._step * len(images))
        predictions = [PredictedArrays((image[..., 1] > 127).astype(np.uint8)) for image in images]
        now = time.monotonic()
        self.ages += [now - self._sender.sent[read(image)] for image in images]
        return predictions


def measure(
    source: str, sender: Sender, chosen: argparse.Namespace, connect: Callable[..., Any] | None
) -> dict[str, Any]:
    """Run `infer` for --seconds, writing labels: the latencies, and its messages."""
    network, notes = Slow(sender, chosen.step), []

    def callback(event: Event) -> None:
        if isinstance(event, Message):
            notes.append(event.text)

    with tempfile.TemporaryDirectory() as folder:
        config = InferConfig(
            source=(source,),
            out=Path(folder) / "out",
            save=("labels",),
            limit=round(chosen.seconds / chosen.step),
        )
        result = infer(config, callback, segmenter=network, connect=connect)
    steps = sorted(age / chosen.step for age in network.ages)
    return {
        "sent": len(sender.sent),
        "answered": result.frames_out,
        "dropped": result.dropped,
        "seconds": result.seconds,
        "age_in_steps": {
            "median": round(statistics.median(steps), 3),
            "p99": round(steps[int(0.99 * len(steps))], 3),
            "most": round(steps[-1], 3),
        },
        "share_under_two_steps": round(sum(s < 2 for s in steps) / len(steps), 4),
        "notes": notes,
    }


def main() -> None:
    """Measure the stream, then the camera."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--step", type=float, default=0.2, help="seconds the network takes")
    chosen = parser.parse_args()
    sender = Sender()
    server = serve(sender, dies_at=time.monotonic() + chosen.seconds / 2)
    address = f"http://127.0.0.1:{server.server_port}/video"
    print(json.dumps({"stream": measure(address, sender, chosen, None)}, indent=1))
    server.shutdown()
    sender = Sender()
    found = measure("0", sender, chosen, lambda _address: Camera(sender))
    print(json.dumps({"camera": found}, indent=1))


if __name__ == "__main__":
    main()
