"""Addresses: one image is one image, a video file ends, a stream stays one."""

import gzip
import http.server
import socket
import threading
import time
from urllib.parse import quote

import numpy as np
import pytest

from fcnseg.errors import MediaError, OptionError
from fcnseg.io.images import encode_image
from fcnseg.io.sources import network, open_source
from fcnseg.io.sources.network import served
from fcnseg.io.video_writer import VideoWriter

PNG = encode_image(np.full((24, 32, 3), 77, np.uint8), ".png")


class Server(http.server.BaseHTTPRequestHandler):
    """Gives what `answers` has for a path: (status, type, bytes, how many it says they are)."""

    def do_GET(self):
        status, kind, data, length, encoding = self.answers[self.path.partition("?")[0]]
        self.asked.append(self.headers["Authorization"])
        if status == "silent":
            self.wait.wait(5)
            return
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if encoding:
            self.send_header("Content-Encoding", encoding)
        if length:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    Server.answers, Server.wait, Server.asked = {}, threading.Event(), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def put(path, data, kind="", *, status=200, length=None, encoding=""):
        length = len(data) if length is None else length
        Server.answers[quote(path.partition("?")[0], safe="/%")] = (
            status,
            kind,
            data,
            length,
            encoding,
        )
        return f"http://127.0.0.1:{server.server_port}{path}"

    yield put
    Server.wait.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "kind", "length", "name"),
    [
        ("/n.png", "image/png", None, "n"),
        ("/n.png?size=2&key=a/b", "image/png", None, "n"),
        ("/frame.mp4", "image/jpeg", None, "frame"),
        ("/snapshot", "", None, "snapshot"),
        ("/a%20b.png", "application/octet-stream", None, "a_b"),
        ("/ä b.png?of=ö", "image/png", None, "ä_b"),
        ("/n.png", "image/png", 0, "n"),  # its length is not told
        ("/zipped.png", "image/png", None, "zipped"),  # though nobody asked for that
    ],
)
def test_an_image_is_one_image(serve, path, kind, length, name):
    data = gzip.compress(PNG) if name == "zipped" else PNG
    address = serve(path, data, kind, length=length, encoding="gzip" if data != PNG else "")
    with pytest.raises(OptionError, match="--page is for image files"):
        open_source(address, page="2")
    with open_source(address) as source:
        assert (source.kind, source.count, source.live) == ("image", 1, False)
        [frame] = source
    assert (frame.name, frame.image[0, 0].tolist()) == (name, [77, 77, 77])


@pytest.mark.parametrize("address", ["http://[::1/x.png", "rtsp://[::1/x"])
def test_a_malformed_address_is_told(address):
    with pytest.raises(MediaError, match="malformed: Invalid IPv6"):
        open_source(address)


def test_a_host_name_that_none_can_have_is_left_to_a_player():
    assert served.probe(f"http://{'a' * 70}.example/x.png") is None


@pytest.mark.parametrize("container", [".mp4", ".mkv"])
def test_a_video_file_ends(serve, tmp_path, container):
    with VideoWriter(tmp_path / f"v{container}", 10, (32, 32)) as writer:
        for number in range(4):
            writer.write(np.full((32, 32, 3), number * 50, np.uint8))
    data = (tmp_path / f"v{container}").read_bytes()
    with open_source(serve("/v", data, "video/x-of-some-sort")) as source:
        assert source.kind == "video"
        assert len(list(source)) == 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"data": b"gone", "status": 404}, "404 Not Found for http"),
        ({"data": b"<html>", "kind": "text/html"}, "is text/html: neither"),
        ({"data": b"no image", "kind": "image/png"}, "called image/png, but its content"),
        ({"data": PNG[:70], "kind": "image/png", "length": 500}, "broke off after 70 of 500"),
        ({"data": b"", "status": "silent"}, "said nothing for 0.3 s"),
        ({"data": gzip.compress(PNG)[:-12], "kind": "image/png", "encoding": "gzip"}, "broke off"),
    ],
)
def test_what_is_no_image_is_said(serve, monkeypatch, answer, message):
    monkeypatch.setattr(served, "SECONDS", 0.3)
    with pytest.raises(MediaError, match=message):
        open_source(serve("/x.png", **answer))


def test_nobody_there():
    with pytest.raises(MediaError, match="Nothing comes from"):
        open_source("http://127.0.0.1:9/x.png")


def test_a_password_is_used_and_not_shown(serve):
    address = serve("/n.png", PNG, "image/png").replace("//", "//me:se%40cret@")
    with open_source(address) as source:
        assert len(list(source)) == 1
    assert Server.asked == ["Basic bWU6c2VAY3JldA=="]
    gone = serve("/gone", b"", status=404).replace("//", "//me:secret@")
    with pytest.raises(MediaError) as caught:
        open_source(gone)
    assert "secret" not in caught.value.message


def test_a_stream_stays_a_stream(serve):
    assert served.probe(serve("/s", PNG * 3, "multipart/x-mixed-replace; boundary=b")) == (
        served.Served("multipart/x-mixed-replace", None, ends=False)
    )


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "[fe80::1]", "[::ffff:169.254.1.1]", "2852039166", "0xa9fea9fe",
        "0251.0376.0251.0376", "[fd00:ec2::254]", "100.100.100.200",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https", "rtsp"])
def test_link_local_addresses_are_refused(scheme, host):
    began = time.perf_counter()
    with pytest.raises(MediaError, match="link-local or metadata address"):
        open_source(f"{scheme}://user:pass@{host}/latest/meta-data/a.png")
    assert time.perf_counter() - began < 5, "nothing was asked"


def test_a_redirect_or_a_name_does_not_lead_there(serve, monkeypatch):
    away = serve("/away.png", b"", "x\r\nLocation: http://169.254.169.254/a.png", status=302)
    with pytest.raises(MediaError, match="link-local or metadata address"):
        open_source(away)
    host = "metadata.example"
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("169.254.169.254", 80))]
    )
    for scheme in ("http", "rtsp"):
        with pytest.raises(MediaError, match="link-local or metadata address"):
            open_source(f"{scheme}://{host}/a.png")


def test_what_a_name_stands_for_later_is_looked_at_too(serve, monkeypatch):
    """A server's name may stand for another address when the connection is made."""
    address = serve("/n.png", PNG, "image/png")
    monkeypatch.setattr(network, "refuse_link_local", lambda _: None)
    monkeypatch.setattr(network, "is_refused", lambda host: host == "127.0.0.1")
    with pytest.raises(MediaError, match=r"127\.0\.0\.1 is a link-local"):
        open_source(address)
    assert Server.asked == [], "nothing is sent there"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "192.168.1.5", "::1", "fd12::1", "a.b"])
def test_private_networks_are_allowed(host):
    assert not network.is_refused(host)
