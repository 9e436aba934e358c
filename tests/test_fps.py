"""The rate of what states none: a header's, or --fps; refused where it has no meaning."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from fcnseg.commands.viz import view
from fcnseg.config import VizConfig
from fcnseg.errors import OptionError
from fcnseg.io.images import encode_image, write_image
from fcnseg.io.sources import open_source
from fcnseg.io.sources.video import open_video
from tests.inference.test_pipeline import run
from tests.test_live import FakeCamera
from tests.test_sources import pipe  # noqa: F401

RAW = [("h264", "libx264"), ("hevc", "libx265"), ("mpeg2video", "mpeg2video"), ("m4v", "mpeg4")]


def stream(path, container, codec, rate=50):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=container) as file:
        video = file.add_stream(codec, rate=rate)
        video.width, video.height = 64, 48
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(8):
            image = np.full((48, 64, 3), number * 30, np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(video.encode(None))
    return path


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize(
    ("container", "codec"), [*RAW, ("ivf", "libvpx"), ("yuv4mpegpipe", "wrapped_avframe")]
)
def test_a_header_states_the_rate(tmp_path, pipe, container, codec, piped):  # noqa: F811
    path = stream(tmp_path / "x.raw", container, codec)
    pipe(path.read_bytes())
    notes = []
    with open_source("-" if piped else path, callback=notes.append) as source:
        frames = list(source)
        assert (source.fps, notes) == (50, [])
    assert [frame.time for frame in frames] == pytest.approx([n / 50 for n in range(8)])


def test_where_none_is_stated_it_is_assumed_and_said_or_given(tmp_path):
    path = stream(tmp_path / "x.mjpeg", "mjpeg", "mjpeg")
    notes = []
    with open_source(path, callback=notes.append) as source:
        assert (source.fps, len(list(source))) == (25, 8)
    assert "states no rate; 25 frames/s" in notes[0].text
    notes.clear()
    with open_source(path, fps=12.5, every=2, callback=notes.append) as source:
        assert source.fps == Fraction(25, 4)
        assert [frame.time for frame in source] == pytest.approx([0, 0.16, 0.32, 0.48])
    assert notes == []
    run(path, tmp_path / "out.mp4", fps=12.5)
    with open_video(tmp_path / "out.mp4") as reader:
        assert reader.fps == Fraction(25, 2)


@pytest.mark.parametrize("piped", [False, True])
def test_images_get_a_rate(tmp_path, pipe, piped):  # noqa: F811
    image = np.full((48, 64, 3), 90, np.uint8)
    for number in range(4):
        write_image(tmp_path / "in" / f"{number}.png", image)
    pipe(encode_image(image, ".png") * 4)
    shares = tmp_path / "shares.jsonl"
    run("-" if piped else tmp_path / "in", tmp_path / "out.mp4", fps=30, every=2, shares=shares)
    with open_video(tmp_path / "out.mp4") as reader:
        assert (reader.fps, len(list(reader))) == (15, 2)
    times = [json.loads(line)["time"] for line in shares.read_text().splitlines()]
    assert times == pytest.approx([0, 2 / 30], abs=1e-5)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_an_animation_keeps_its_times(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    images = [Image.new("RGB", (64, 48), (60 * number, 9, 9)) for number in range(4)]
    shown = {"save_all": True, "append_images": images[1:], "duration": [100, 500, 100, 900]}
    images[0].save(path, **shown)
    for options, times in (
        ({}, [0, 0.1, 0.6, 0.7]), ({"every": 2}, [0, 0.6]), ({"fps": 5}, [0, 0.2, 0.4, 0.6]),
    ):  # fmt: skip
        with open_source(path, page="all", **options) as source:
            assert [frame.time for frame in source] == pytest.approx(times)
    if suffix == "gif":
        run(path, tmp_path / "out.mp4", page="all")
        with open_video(tmp_path / "out.mp4") as reader:
            assert [reader.grab() for _ in range(4)] == pytest.approx([0, 0.1, 0.6, 0.7], abs=1e-3)


def test_it_is_refused_where_it_has_no_meaning(tmp_path, random_model):
    video = stream(tmp_path / "x.mp4", "mp4", "libx264")
    write_image(tmp_path / "in" / "a.png", np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(OptionError, match="has its own, 50"):
        open_source(video, fps=10)
    with pytest.raises(OptionError, match="one image has no rate"):
        open_source(tmp_path / "in" / "a.png", fps=10)
    with pytest.raises(OptionError, match="a camera has its own"):
        open_source("0", fps=10, connect=lambda address: FakeCamera())
    with pytest.raises(OptionError, match="files for each image have none"):
        run(tmp_path / "in", tmp_path / "out", fps=10)
    options = {"source": str(tmp_path / "in"), "model": str(random_model), "out": tmp_path / "o"}
    with pytest.raises(OptionError, match="viz draws a folder"):
        view(VizConfig.make({**options, "fps": 10.0}))
