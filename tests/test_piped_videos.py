"""Videos through a pipe: a frame is given when its bytes are there, whatever the format."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import IO

import numpy as np
import pytest

from fcnseg.io.sources import open_source

av = pytest.importorskip("av")

FRAMES = 30


@pytest.fixture
def open_pipe(monkeypatch) -> Iterator[IO[bytes]]:
    """The writing end of a pipe that stays open."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with os.fdopen(writing, "wb", buffering=0) as file:
            yield file


def encoded(container: str, *, sound: bool) -> list[bytes]:
    """What a camera's program writes after each frame, without B-frames."""
    out, pieces, at = io.BytesIO(), [], 0
    options = {"flush_packets": "1", "movflags": "frag_every_frame+empty_moov"}
    if container == "flv":
        options["flvflags"] = "no_duration_filesize"
    out.seekable = lambda: False  # type: ignore[method-assign]
    file = av.open(out, "w", format=container, options=options)
    video = file.add_stream("libx264", rate=30, options={"tune": "zerolatency"})
    video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
    audio = file.add_stream("aac", rate=48000, layout="mono") if sound else None
    heard = 0
    for number in range(FRAMES):
        while audio is not None and heard * 1024 / 48000 <= number / 30 + 0.1:
            silence = np.zeros((1, 1024), np.float32)
            piece = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            piece.sample_rate, piece.pts, heard = 48000, heard * 1024, heard + 1
            file.mux(audio.encode(piece))
        image = np.full((48, 64, 3), 8 * number, np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 30)
        file.mux(video.encode(frame))
        pieces.append(out.getvalue()[at:])
        at += len(pieces[-1])
    return pieces


@pytest.mark.parametrize(
    ("container", "sound", "behind"),
    [
        ("mpegts", False, 2),
        ("h264", False, 1),
        ("flv", False, 1),
        ("nut", False, 1),
        ("mp4", False, 1),
        ("mpegts", True, 5),
        ("flv", True, 5),
    ],
)
def test_a_frame_comes_with_its_bytes(open_pipe, container: str, sound: bool, behind: int) -> None:
    """MPEG-TS tells a frame's end by the next one; sound comes ahead of its frame."""
    pieces = encoded(container, sound=sound)
    for piece in pieces[: behind + 1]:
        open_pipe.write(piece)
    with open_source("-", limit=FRAMES - behind) as source:
        timer = threading.Timer(20, source.stop)  # a frame that does not come fails the test
        timer.start()
        for count, frame in enumerate(source, 1):
            assert int(frame.image[24, 32, 0]) == pytest.approx(8 * (count - 1), abs=6)
            if count + behind < FRAMES:
                open_pipe.write(pieces[count + behind])
        timer.cancel()
    assert count == FRAMES - behind


def test_what_begins_in_the_middle_is_decoded_from_the_next_key_frame(open_pipe) -> None:
    first, second = (b"".join(encoded("mpegts", sound=True)) for _ in range(2))
    open_pipe.write(first[len(first) // 2 :] + second)
    with open_source("-", limit=15) as source:
        assert len(list(source)) == 15
        assert source.fps == 30
