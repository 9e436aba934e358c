"""A camera's stream over RTSP, played by a small server: RFC 2326, RTP in its connection."""

import socketserver
import struct
import threading
import time
from fractions import Fraction
from typing import ClassVar

import av
import numpy as np
import pytest

from fcnseg.io.sources import open_source

FPS = 50

SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 127.0.0.1
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
""".replace("\n", "\r\n")


def units(count: int) -> list[list[bytes]]:
    """The units of H.264 of each frame; frame k is of grey 8 * k + 8."""
    coder = av.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt = 64, 48, "yuv420p"
    coder.time_base, coder.options = (
        Fraction(1, FPS),
        {"g": "1", "tune": "zerolatency", "threads": "1"},
    )
    given = []
    for number in range(count):
        grey = np.full((48, 64, 3), 8 * number + 8, np.uint8)
        for packet in coder.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
            parts = bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
            given.append([part for part in parts if part and part[0] & 31 != 6])
    return given


class Camera(socketserver.BaseRequestHandler):
    """Answers what a client asks, then sends frames; the first connection breaks after `lasts`."""

    frames: ClassVar[list[list[bytes]]] = []
    lasts = 10**6
    requests: ClassVar[list[str]] = []
    sent = 0

    def handle(self):
        file = self.request.makefile("rb")
        while line := file.readline().decode():
            method = line.split()[0]
            fields = dict(
                iter(lambda: file.readline().decode().strip().partition(": ")[::2], ("", ""))
            )
            self.requests.append(method)
            more, body = "", ""
            if method == "OPTIONS":
                more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                more, body = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n", SDP
            elif method == "SETUP":
                more = f"Transport: {fields['Transport']}\r\nSession: 1\r\n"
            head = f"RTSP/1.0 200 OK\r\nCSeq: {fields['CSeq']}\r\n{more}\r\n"
            self.request.sendall(head.encode() + body.encode())
            if method == "PLAY":
                return self.play()
        return None

    def play(self):
        lasts, type(self).lasts = self.lasts, 10**6
        sequence = 0
        for number in range(lasts):
            at = type(self).sent
            type(self).sent += 1
            parts = self.frames[at % len(self.frames)]
            for part in parts:
                last = 0x80 if part is parts[-1] else 0
                head = struct.pack(">BBHII", 0x80, last | 96, sequence, number * 90000 // FPS, 1)
                packet = head + part
                sequence += 1
                try:
                    self.request.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                except OSError:
                    return
            time.sleep(1 / FPS)


@pytest.fixture
def address():
    Camera.frames, Camera.lasts, Camera.requests, Camera.sent = units(25), 10**6, [], 0
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Camera) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"rtsp://user:secret@127.0.0.1:{server.server_address[1]}/live"
        server.shutdown()


def test_frames_come_in_order_and_a_broken_connection_is_taken_up_again(address):
    Camera.lasts = 20
    said: list[str] = []
    with open_source(
        address, limit=24, callback=lambda event: said.append(getattr(event, "text", ""))
    ) as source:
        frames = list(source)
    assert source.kind == "stream"
    levels = [round((float(frame.image.mean()) - 8) / 8) for frame in frames]
    assert len(frames) == 24
    assert set(levels) <= set(range(25))
    back = int((np.diff(levels) <= 0).sum())  # the newest are given, however many are left out,
    assert back <= Camera.sent // len(Camera.frames)  # but in order: the camera's 25 begin again
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert Camera.requests == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"] * 2
    assert any("connecting again" in text for text in said)
    assert not any("secret" in text for text in said)
