"""Streams of a web server: an end that is said ends, a loss is taken up again, nothing twice."""

import http.server
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from fcnseg.io.sources import live, open_source
from fcnseg.io.video_writer import VideoWriter

FPS, PER_SEGMENT, SEGMENTS = 20, 4, 6


def segments(folder: Path) -> list[bytes]:
    """An HLS recording's transport streams, of 4 frames each; frame k is of grey 8 * k + 8."""
    options = {
        "hls_time": str(PER_SEGMENT / FPS),
        "hls_list_size": "0",
        "hls_segment_filename": str(folder / "s%d.ts"),
    }
    with av.open(str(folder / "x.m3u8"), "w", format="hls", options=options) as file:
        stream = file.add_stream("libx264", rate=FPS, options={"g": str(PER_SEGMENT), "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for number in range(PER_SEGMENT * SEGMENTS):
            grey = np.full((24, 32, 3), 8 * number + 8, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode())
    return [(folder / f"s{number}.ts").read_bytes() for number in range(SEGMENTS)]


def numbers(frames) -> list[int]:
    """Which of the recording's frames these are."""
    return [round((float(frame.image.mean()) - 8) / 8) for frame in frames]


class Server(http.server.BaseHTTPRequestHandler):
    """An encoder that is one segment further each time it is asked for its playlist.

    plan: for each request of the playlist how many segments there are, "gone", or "end" with all
    of them; the last one repeats. cut: every answer ends after so many bytes of a file.
    """

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        if name == "top.m3u8":
            text = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9000\nlive.m3u8\n"
            return self.answer(text.encode(), "application/vnd.apple.mpegurl")
        if name == "live.m3u8":
            return self.answer_playlist()
        if name == "whole.ts":
            return self.answer(b"".join(self.parts), "video/mp2t", length=False)
        if name == "clip.mp4":
            return self.answer_ranges(self.clip)
        return self.answer(self.parts[int(name[1:-3])], "video/mp2t")

    def answer_playlist(self):
        now = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        if now == "gone":
            return self.send_error(503)
        there = SEGMENTS if now == "end" else now
        first = max(0, there - 3)
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1"]
        lines.append(f"#EXT-X-MEDIA-SEQUENCE:{first}")
        for number in range(first, there):
            lines += [f"#EXTINF:{PER_SEGMENT / FPS},", f"s{number}.ts"]
        lines += ["#EXT-X-ENDLIST"] * (now == "end")
        return self.answer("\n".join([*lines, ""]).encode(), "application/vnd.apple.mpegurl")

    def answer_ranges(self, data):
        """A server that supports ranges and breaks every connection."""
        asked = self.headers["Range"]
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        Server.connections += 1
        self.wfile.write(data[start : start + self.cut])
        self.close_connection = True

    def answer(self, data, kind, *, length=True):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length:
            self.send_header("Content-Length", str(len(data)))
        elif self.protocol_version == "HTTP/1.1":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return segments(tmp_path_factory.mktemp("hls"))


@pytest.fixture
def address(recorded, monkeypatch):
    monkeypatch.setattr(live, "PAUSES", (0.02,))
    Server.parts, Server.connections = recorded, 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def assert_nothing_is_missing(given: list[int], source) -> None:
    """Up to the recording's last, each once; what a busy machine left out is counted."""
    assert given == sorted(set(given))
    assert given[-1] == PER_SEGMENT * SEGMENTS - 1
    assert len(given) + source.dropped >= PER_SEGMENT * SEGMENTS - given[0]


def test_a_live_playlist_that_ends_is_over(address):
    """The last segments were played again and again, and the job never ended."""
    Server.plan, notes = [3, 3, 3, 4, 5, "end"], []
    with open_source(address + "top.m3u8", callback=notes.append) as source:
        assert (source.kind, source.live) == ("stream", True)
        given = numbers(source)
    assert_nothing_is_missing(given, source)
    assert not notes
    assert not source.failures


def test_a_lost_playlist_continues_without_what_was_given(address):
    Server.plan, notes = [3, 3, 3, *["gone"] * 6, 4, 5, "end"], []
    with open_source(address + "live.m3u8", callback=notes.append) as source:
        given = numbers(source)
    assert_nothing_is_missing(given, source)
    assert "lost after" in notes[0].text
    assert "back after" in notes[-1].text
    assert not source.failures


def test_a_playlist_that_only_repeats_itself_is_given_up(address, monkeypatch):
    """Each new connection gave old frames, which is no sign of life."""
    monkeypatch.setattr(live, "PATIENCE", 0.5)
    Server.plan = [3, 3, 3, *["gone", "gone", "gone", 3, 3] * 200]
    with open_source(address + "live.m3u8") as source:
        given = numbers(source)
    assert given == sorted(set(given))
    assert "not back within 0.5 s" in source.failures[0][1]


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_a_file_whose_length_is_not_told_ends(address, monkeypatch, protocol):
    monkeypatch.setattr(Server, "protocol_version", protocol)
    with open_source(address + "whole.ts") as source:
        given = numbers(source)
    assert given == sorted(set(given))
    assert not source.failures


def test_a_file_is_read_on_from_where_a_connection_broke(address, tmp_path):
    path = tmp_path / "clip.mp4"
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (12, 96, 128, 3), np.uint8)
    with VideoWriter(path, FPS, (96, 128)) as writer:
        for frame in frames:
            writer.write(frame)
    Server.clip, Server.cut = path.read_bytes(), path.stat().st_size // 4
    with open_source(address + "clip.mp4") as source, open_source(path) as local:
        assert source.count == 12
        for got, expected in zip(source, local, strict=True):
            np.testing.assert_array_equal(got.image, expected.image)
    assert Server.connections >= 4
    assert not source.failures
