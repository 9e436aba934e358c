"""Videos through pipes and numbered images: what goes in comes out, as soon as it is there."""

from __future__ import annotations

import io
import os
import threading
import time
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.errors import MediaError, OptionError
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io.encoders import StreamWriter
from fcnseg.io.images import read_image, write_image
from fcnseg.io.sources import open_source

av = pytest.importorskip("av")

SIZE = 33, 49
IMAGES = [np.full((*SIZE, 3), 20 + 40 * number, np.uint8) for number in range(5)]


class Known:
    """A model that finds its second class in the upper half of every image."""

    classes = ClassMap.of(["background", "leaf"])
    num_parallel = 1

    def predict(self, images, **_):
        labels = np.zeros(SIZE, np.uint8)
        labels[:16] = 1
        return [PredictedArrays(labels) for _ in images]


class Out(io.BytesIO):
    """Standard output's bytes; after `room` of them the reader is gone."""

    room = 10**9

    def write(self, data):
        if self.tell() >= self.room:
            raise BrokenPipeError
        return super().write(data)


@pytest.fixture
def stdout(monkeypatch):
    out = Out()
    stream = SimpleNamespace(buffer=out, isatty=lambda: False)
    monkeypatch.setattr("fcnseg.inference.outputs.sinks.sys", SimpleNamespace(stdout=stream))
    return out


@pytest.fixture(scope="module")
def pipes():
    """What is closed at the end: a thread may still read from it by its number."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def stdin(monkeypatch, pipes):
    """The writing end of a pipe that is standard input."""
    reading, writing = os.pipe()
    file = pipes.enter_context(os.fdopen(reading, "rb"))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=file, isatty=lambda: False))
    with os.fdopen(writing, "wb", buffering=0) as end:
        yield end


def y4m(images, fps=Fraction(12)):
    file = io.BytesIO()
    writer = StreamWriter(file, "yuv4mpegpipe", fps, SIZE)
    for image in images:
        writer.write(image, 0.0)
    return file.getvalue()


def run(source="-", messages=None, **options):
    config = InferConfig.make({"source": (source,), "out": Path("-"), **options})
    return infer(
        config, (lambda _: None) if messages is None else messages.append, segmenter=Known()
    )


def test_y4m_in_and_out(stdin, stdout):
    stdin.write(y4m(IMAGES))
    stdin.close()
    result = run(alpha=0.0)
    assert (result.frames_out, result.outputs) == (5, ())
    with av.open(io.BytesIO(stdout.getvalue()), format="yuv4mpegpipe") as file:
        assert file.streams.video[0].average_rate == 12
        found = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert np.abs(np.int64(found) - np.int64(IMAGES)).max() <= 2


def test_y4m_that_is_cut_within_a_frame(stdin, stdout):
    stdin.write(y4m(IMAGES)[:-7])
    stdin.close()
    result = run()
    assert result.frames_out == 4
    assert result.failed[0][1] == "it is truncated after frame 3"


def test_a_frame_is_passed_on_before_the_next_comes(stdin, stdout):
    data = y4m(IMAGES)
    frame = (len(data) - data.index(b"\n") - 1) // len(IMAGES)
    head = len(data) - 5 * frame
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for count in range(1, 6):
        stdin.write(data[0 if count == 1 else head + (count - 1) * frame : head + count * frame])
        until = time.monotonic() + 20
        while stdout.getvalue().count(b"FRAME\n") < count and time.monotonic() < until:
            time.sleep(0.005)
        assert stdout.getvalue().count(b"FRAME\n") == count
    stdin.close()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("layout", ["rgb24", "bgr24", "gray", "yuv444p", "rgb48le"])
def test_raw_frames(stdin, stdout, layout):
    for image in IMAGES:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=layout)
        stdin.write(frame.to_ndarray().tobytes())
    stdin.close()
    run(video_size="49x33", pix_fmt=layout, fps=12, format="rawvideo", alpha=0.0)
    found = np.frombuffer(stdout.getvalue(), np.uint8).reshape(5, *SIZE, 3)
    assert np.abs(np.int64(found) - np.int64(IMAGES)).max() <= (2 if "yuv" in layout else 1)


def test_raw_frames_of_a_file_and_one_that_is_cut(tmp_path):
    path = tmp_path / "clip.rgb"
    path.write_bytes(b"".join(image.tobytes() for image in IMAGES)[:-7])
    result = run(str(path), out=tmp_path / "out", video_size="49x33", pix_fmt="rgb24", fps=12)
    assert result.frames_out == 4
    assert "frame 4" in result.failed[0][1]


def test_labels_as_raw_bytes(stdin, stdout):
    stdin.write(y4m(IMAGES[:1]))
    stdin.close()
    run(format="rawvideo", save=("labels",))
    found = np.frombuffer(stdout.getvalue(), np.uint8).reshape(SIZE)
    assert np.array_equal(found, Known().predict([0])[0].labels)


def test_a_reader_that_leaves(stdin, stdout):
    stdout.room = 5000
    stdin.write(y4m(IMAGES))
    stdin.close()
    messages: list[object] = []
    with pytest.raises(BrokenPipeError):
        run(messages=messages)
    assert not [each for each in messages if getattr(each, "level", "") == "warning"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"video_size": "49x33"}, "both its size and its pixel format"),
        ({"video_size": "49", "pix_fmt": "rgb24"}, "WIDTHxHEIGHT"),
        ({"video_size": "0x33", "pix_fmt": "rgb24"}, "WIDTHxHEIGHT"),
        ({"video_size": "49x33", "pix_fmt": "rgb25"}, "no pixel format 'rgb25'"),
        ({"shares": Path("-")}, "both write to standard output"),
        ({"save": ("labels",)}, "can't carry 'labels'"),
        ({"save": ("overlay", "side")}, "can't carry overlay and side"),
        ({"save": ("coco",), "format": "rawvideo"}, "can't carry 'coco'"),
        ({"out": Path("out"), "format": "rawvideo"}, "--format has no effect"),
        ({"skip_done": True}, "standard output can't be read again"),
    ],
)
def test_what_cannot_be(stdin, stdout, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stdin.write(y4m(IMAGES))
    stdin.close()
    with pytest.raises(OptionError, match=said):
        run(**options)
    assert not stdout.getvalue()


@pytest.fixture
def numbered(tmp_path):
    """Images 1 to 5, one of them missing, beside other files."""
    for number in (1, 2, 4, 5, 11):
        write_image(tmp_path / f"frame_{number:04}.png", np.full((*SIZE, 3), number, np.uint8))
    write_image(tmp_path / "frame_x.png", IMAGES[0])
    write_image(tmp_path / "other_0003.png", IMAGES[0])
    return tmp_path / "frame_%04d.png"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, [(1, 0.0), (2, 0.5), (4, 1.0), (5, 1.5), (11, 2.0)]),
        ({"start": 0.6, "end": 2.0}, [(4, 1.0), (5, 1.5)]),
        ({"every": 2, "limit": 2}, [(1, 0.0), (4, 1.0)]),
    ],
)
def test_a_numbered_sequence_is_a_video(numbered, options, found):
    with open_source(str(numbered), fps=2, **options) as source:
        assert (source.kind, source.name) == ("video", "frame")
        assert source.fps == Fraction(2) / options.get("every", 1)
        assert [(frame.image[0, 0, 0], frame.time) for frame in source] == found


def test_a_numbered_sequence_into_a_video_and_another_sequence(numbered):
    out = numbered.parent / "out"
    assert run(str(numbered), out=out, fps=5).outputs == (out / "frame_overlay.mp4",)
    result = run(str(numbered), out=out / "seen_%03d.png", alpha=0.0)
    assert result.outputs == (out / "seen_%03d.png",)
    files = sorted(out.glob("seen_*"))
    assert [path.name for path in files] == [f"seen_{number:03}.png" for number in range(1, 6)]
    assert [read_image(path)[0, 0, 0] for path in files] == [1, 2, 4, 5, 11]


def test_a_sequence_never_overwrites_itself(numbered):
    with pytest.raises(OptionError):
        run(str(numbered), out=numbered)
    with pytest.raises(OptionError):
        run(str(numbered), out=numbered.parent / "frame_%d.png", fps=5)


def test_a_sequence_without_files(tmp_path):
    with pytest.raises(MediaError, match="No image matches"):
        open_source(str(tmp_path / "a_%04d.png"))
