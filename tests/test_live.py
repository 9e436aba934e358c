"""Cameras and streams: always the newest frame, and back after a loss."""

import http.server
import threading
import time

import cv2
import numpy as np
import pytest

from fcnseg.errors import MediaError
from fcnseg.io.images import encode_image
from fcnseg.io.sources import open_source
from fcnseg.io.sources.base import Selection
from fcnseg.io.sources.live import LiveSource, camera_number
from fcnseg.io.sources.network import without_password


class FakeCamera:
    """Gives numbered frames every `period` seconds; after `frames` of them, none.

    turns: a semaphore; each frame waits for one to be released.
    """

    def __init__(self, frames=10**6, period=0.005, size=(24, 32), opened=True, turns=None):
        self.left, self.period, self.size, self.number = frames, period, size, 0
        self.opened, self.released, self.turns = opened, False, turns

    def isOpened(self):  # noqa: N802
        return self.opened

    def read(self):
        time.sleep(self.period)
        if self.left <= 0:
            return False, None
        if self.turns is not None:
            self.turns.acquire(timeout=20)
        self.left -= 1
        self.number += 1
        return True, np.full((*self.size, 3), self.number % 256, np.uint8)

    def get(self, prop):
        return 200.0 if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self):
        self.released = True


def live(cameras, *, callback=lambda event: None, **options):
    """A LiveSource that gets one camera after the other."""
    waiting = list(cameras)
    first = waiting.pop(0)

    def connect(address):
        return waiting.pop(0) if waiting else FakeCamera(opened=False)

    options = {"selection": Selection(), "pauses": (0.01, 0.02), "patience": 0.3, **options}
    return LiveSource(
        "rtsp://me:secret@cam/1", first, connect=connect, callback=callback, **options
    )


def in_turns(source, turns):
    """Every frame of a source whose cameras wait for their turn."""
    turns.release()
    for frame in source:
        yield frame
        turns.release()
    turns.release()


def test_a_camera_of_which_no_frame_is_taken_is_let_go():
    camera = FakeCamera()
    with live([camera]):
        pass
    assert camera.released


def test_a_camera_by_its_number():
    asked = []

    def connect(address):
        asked.append(address)
        return FakeCamera()

    with open_source("0", limit=3, connect=connect) as source:
        assert (source.kind, source.live, source.fps, source.count) == ("camera", True, 200, 3)
        frames = list(source)
    assert asked == [0]
    assert len(frames) == 3
    assert frames[0].name == "camera_0_000000"


def test_colours_are_rgb():
    class Red(FakeCamera):
        def read(self):
            return True, np.full((2, 2, 3), (0, 0, 255), np.uint8)

    with open_source("1", limit=1, connect=lambda address: Red()) as source:
        assert next(iter(source)).image[0, 0].tolist() == [255, 0, 0]


def test_a_slow_taker_gets_the_newest_and_the_rest_is_counted():
    camera = FakeCamera(period=0.01)
    with live([camera]) as source:
        behind, indices = [], []
        for frame in source:
            behind.append(camera.number - 1 - frame.index)
            indices.append(frame.index)
            time.sleep(0.1)  # the network
            if len(indices) == 8:
                break
        dropped = source.dropped
    assert np.median(behind) <= 1
    assert np.median(np.diff(indices)) >= 3
    assert dropped >= indices[-1] - len(indices) - 1
    assert source.age(frame) >= 0.1


def test_a_fast_taker_waits_and_gets_each_frame_once():
    turns = threading.Semaphore(0)
    with live([FakeCamera(turns=turns)], selection=Selection(limit=6)) as source:
        indices = [frame.index for frame in in_turns(source, turns)]
    assert indices == list(range(6))


def test_every_nth():
    with live([FakeCamera(period=0.01)], selection=Selection(every=3, limit=3)) as source:
        assert [frame.index % 3 for frame in source] == [0, 0, 0]


def test_a_lost_stream_is_taken_up_again():
    notes, bad, turns = [], FakeCamera(opened=False), threading.Semaphore(0)
    cameras = [FakeCamera(frames=3, turns=turns), bad, FakeCamera(turns=turns)]
    options = {"selection": Selection(limit=6), "patience": 20.0}
    with live(cameras, callback=notes.append, **options) as source:
        frames = list(in_turns(source, turns))
    assert [frame.index for frame in frames] == list(range(6))
    assert [note.level for note in notes] == ["warning", "info"]
    assert "lost after 3 frames" in notes[0].text
    assert "2 attempts" in notes[1].text
    assert "secret" not in notes[0].text + frames[0].name
    assert bad.released
    assert not source.failures


def test_a_stream_that_stays_away_is_given_up():
    with live([FakeCamera(frames=2)], patience=0.1) as source:
        assert len(list(source)) <= 2
    assert "lost after 2 frames" in source.failures[0][1]
    assert "secret" not in source.failures[0][0]


def test_an_error_of_opencv_counts_as_a_loss():
    class Breaking(FakeCamera):
        def read(self):
            raise cv2.error("broken")

    cameras = [Breaking(), FakeCamera()]
    with live(cameras, selection=Selection(limit=2), patience=20.0) as source:
        assert len(list(source)) == 2


def test_a_changed_resolution_is_survived():
    turns = threading.Semaphore(0)
    cameras = [FakeCamera(frames=2, turns=turns), FakeCamera(size=(48, 40), turns=turns)]
    with live(cameras, selection=Selection(limit=4), patience=20.0) as source:
        sizes = [frame.size for frame in in_turns(source, turns)]
    assert sizes == [(24, 32), (24, 32), (48, 40), (48, 40)]


def test_closing_ends_a_wait_and_lets_go_of_the_camera():
    camera = FakeCamera(frames=0)
    source = live([camera], pauses=(30.0,), patience=100.0)
    threading.Timer(0.1, source.close).start()
    began = time.perf_counter()
    assert list(source) == []
    assert time.perf_counter() - began < 10
    assert camera.released


def test_what_cannot_be_reached_is_said():
    def connect(address):
        return FakeCamera(opened=False)

    with pytest.raises(MediaError, match="Camera 7 can't be opened"):
        open_source("7", connect=connect)
    with pytest.raises(MediaError, match="Nothing comes from rtsp://cam:554/live") as caught:
        open_source("rtsp://admin:secret@cam:554/live", connect=connect)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://a:b@h:1/x?y=1", "rtsp://h:1/x?y=1"),
        ("http://h/x", "http://h/x"),
        ("rtsp://a:p@ss@h/x", "rtsp://h/x"),
    ],
)
def test_no_password_is_shown(address, shown):
    assert without_password(address) == shown


def test_a_camera_by_its_name(tmp_path):
    for number, name in [(0, "Integrated Webcam"), (2, "HD Pro C920")]:
        (tmp_path / f"video{number}").mkdir()
        (tmp_path / f"video{number}" / "name").write_text(name + "\n")
    assert camera_number("c920", tmp_path) == 2
    assert camera_number("nothing", tmp_path) is None
    assert camera_number("x", tmp_path / "gone") is None


class Mjpeg(http.server.BaseHTTPRequestHandler):
    """An IP camera: MJPEG over HTTP at 50 frames/s; the first that is more than a look dies."""

    connections = 0

    def do_GET(self):
        Mjpeg.connections += 1
        count = 15 if Mjpeg.connections == 2 else 500
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        data = encode_image(np.full((48, 64, 3), 99, np.uint8), ".jpg")
        try:
            for _ in range(count):
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.02)
        except OSError:
            return  # the reader has gone

    def log_message(self, *args):
        pass


def test_a_real_stream_over_http_that_dies_and_comes_back():
    Mjpeg.connections = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mjpeg)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    notes = []
    try:
        address = f"http://127.0.0.1:{server.server_port}/video"
        with open_source(address, limit=30, callback=notes.append) as source:
            assert source.kind == "stream"
            frames = list(source)
    finally:
        server.shutdown()
        server.server_close()
    assert len(frames) == 30
    assert all(abs(frame.image.mean() - 99) < 3 for frame in frames)
    assert Mjpeg.connections == 3  # a look at what it is, the stream, and again
    assert len(notes) == 2
