"""Videos as programs write them, against FFmpeg's own checksums and what was drawn."""

import hashlib
import io
import shutil
import subprocess
import wave
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageOps

from fcnseg.errors import MediaError
from fcnseg.io.sources import open_source
from fcnseg.io.sources import stdin as piped
from fcnseg.io.sources.damage import damage_in, find_damage
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter, left_out_of

av = pytest.importorskip("av")
HIGH, WIDE = 48, 64
Y, X = np.mgrid[:HIGH, :WIDE]
COLORS = np.stack([40 + X * 3, 230 - Y * 4, 90 + X * 0], -1).astype(np.uint8)

with_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def ffmpeg(*arguments, stdin=None):
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


def encode(path, codec="libx264", count=40, pixels="yuv420p", sound="", layout="stereo", **options):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, pixels
        voice = file.add_stream(sound, rate=48000, layout=layout) if sound else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(COLORS, 4 * number, 1), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if voice:
            form = voice.codec_context.format.name
            resampler = av.AudioResampler(format=form, layout=layout, rate=48000)
            for start in range(0, count * 1920, 1024):
                tone = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(np.stack([tone] * 2) * 0.1, "fltp", "stereo")
                frame.sample_rate, frame.pts = 48000, start
                for made in resampler.resample(frame):
                    file.mux(voice.encode(made))
            file.mux(voice.encode(None))
    return path


def frames_of(path):
    with open_video(path) as reader:
        return [image for image, _ in reader], reader.damage_found()


KINDS = {
    "ffv1.mkv": ("ffv1", "yuv420p"),
    "deep.mkv": ("ffv1", "yuv422p10le"),
    "grey.mkv": ("ffv1", "gray"),
    "planes.avi": ("utvideo", "gbrp"),
    "h264.mp4": ("libx264", "yuv420p"),
    "full.mp4": ("libx264", "yuv444p"),
    "hevc.mkv": ("libx265", "yuv420p10le"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "mpeg2.ts": ("mpeg2video", "yuv420p"),
    "motion.avi": ("mjpeg", "yuvj422p"),
    "prores.mov": ("prores_ks", "yuv422p10le"),
}


@with_ffmpeg
@pytest.mark.parametrize("name", KINDS)
def test_frames_are_ffmpegs(tmp_path, name):
    """Before any conversion: the MD5 of each frame as FFmpeg's `framemd5` prints it."""
    codec, pixels = KINDS[name]
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = encode(tmp_path / name, codec, 8, pixels, **options)
    lines = ffmpeg("-i", path, "-map", "0:v", "-vsync", "passthrough", "-f", "framemd5", "-")
    expected = [
        line.split(b",")[5].strip() for line in lines.splitlines() if not line.startswith(b"#")
    ]
    with open_video(path) as reader:
        found = []
        while reader.grab() is not None:
            data = ffmpegs_order(reader._frame)
            found.append(hashlib.md5(data, usedforsecurity=False).hexdigest().encode())
    assert len(expected) == 8
    assert found == expected


def ffmpegs_order(frame):
    """A frame's planes without the padding of their lines."""
    data = b""
    for index, plane in enumerate(frame.planes):
        part = next(c for c in frame.format.components if c.plane == index)
        wide = part.width * -(-part.bits // 8)
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: part.height, :wide]
        data += lines.tobytes()
    return data


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "libx264"), ("a.avi", "mpeg4"), ("a.mxf", "libx264"), ("a.mxf", "mpeg2video")],
)
def test_numbered_frames_that_look_ahead_have_even_times(tmp_path, name, codec):
    path = encode(tmp_path / name, codec, 12, bf="2")
    with open_video(path) as reader:
        times = [time for _, time in reader]
    assert times == pytest.approx([number / 25 for number in range(12)])


def test_a_cover_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp3"), "w") as file:
        voice = file.add_stream("mp3", rate=44100, layout="mono")
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDE, HIGH, "yuvj420p"
        cover.disposition = 0x400
        file.mux(cover.encode(av.VideoFrame.from_ndarray(COLORS, format="rgb24")))
        file.mux(cover.encode(None))
        silence = np.zeros((1, 44100), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
        frame.sample_rate = 44100
        file.mux(voice.encode(frame))
        file.mux(voice.encode(None))
    with pytest.raises(MediaError, match="no video stream"):
        open_video(tmp_path / "a.mp3")


def test_texts_in_other_encodings_than_utf_8_are_no_obstacle(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "caf?"
        stream = file.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8))))
    path.write_bytes(path.read_bytes().replace(b"caf?", b"caf\xe9"))
    with open_source(path) as source:
        assert len(list(source)) == 1
    with VideoWriter(tmp_path / "b.mp4", Fraction(25), (48, 64), audio=path) as writer:
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    assert not writer.encoder.sound_warning


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_of_mjpeg_that_have_exif(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(COLORS).save(data, "JPEG", quality=95, exif=exif)
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream = file.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, "yuvj420p"
        for number in range(3):
            packet = av.Packet(data.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 25), stream
            file.mux(packet)
    with open_source(tmp_path / "a.avi") as source:
        frames = [frame.image for frame in source]
    assert len(frames) == 3
    with Image.open(data) as image:
        expected = np.asarray(ImageOps.exif_transpose(image), int)
    assert np.abs(frames[0] - expected).mean() < 5


def test_sound_alone_is_called_so(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(4000))
    with pytest.raises(MediaError, match="has sound, but no video stream"):
        open_source(tmp_path / "a.wav")


CONTAINERS = {
    "mkv": {}, "webm": {"codec": "libvpx"}, "ts": {}, "avi": {"codec": "mpeg4"}, "flv": {},
    "ivf": {"codec": "libvpx"}, "wmv": {"codec": "wmv2"}, "nut": {}, "mpg": {"codec": "mpeg2video"},
}  # fmt: skip


def end_said(suffix, count):
    if suffix == "flv":  # what is there of the last packet is given to the decoder
        return f"broken, could not be decoded: frame {count}"
    return f"it is truncated after frame {count - 1}"


def piped_frames_of(data):
    file = io.BytesIO(data)
    with piped.read_streamed(
        piped.ByteStream(iter(lambda: file.read(1000), b"")), "stdin"
    ) as reader:
        return [image for image, _ in reader], reader.damage_found()


def through_pipe(suffix):
    """A container as FFmpeg writes it where it can't go back: lengths are not known."""
    form = {"mkv": "matroska", "ts": "mpegts", "mpg": "vob"}.get(suffix, suffix)
    codec = CONTAINERS[suffix].get("codec", "libx264")
    scene = ("-f", "lavfi", "-i", f"testsrc2=s={WIDE}x{HIGH}:r=25:d=1.6")
    return ffmpeg(*scene, "-c:v", codec, "-g", 5, "-f", form, "-")


@with_ffmpeg
@pytest.mark.parametrize("suffix", sorted(CONTAINERS.keys() - {"wmv"}))  # its length is not there
def test_what_is_cut_in_a_pipe_says_so(tmp_path, suffix):
    data = through_pipe(suffix)
    assert (len(piped_frames_of(data)[0]), piped_frames_of(data)[1]) == (40, "")
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert find_damage(tmp_path / f"a.{suffix}") is None
    images, damage = piped_frames_of(data[: len(data) * 8 // 10 + 1])
    assert 0 < len(images) < 40
    assert end_said(suffix, len(images)) in damage


@with_ffmpeg
@pytest.mark.parametrize("options", ["faststart", "frag_keyframe+empty_moov", ""])
def test_a_whole_mp4_in_a_pipe_is_whole(tmp_path, options):
    path = encode(tmp_path / "a.mp4")
    ffmpeg("-i", path, "-c", "copy", "-movflags", options or "+write_colr", tmp_path / "b.mp4")
    data = (tmp_path / "b.mp4").read_bytes()
    assert (len(piped_frames_of(data)[0]), piped_frames_of(data)[1]) == (40, "")


@with_ffmpeg
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_an_ogg_video_without_its_last_page_is_cut(kept):
    scene = ("-f", "lavfi", "-i", f"testsrc2=s={WIDE}x{HIGH}:r=25:d=1.6")
    data = ffmpeg(*scene, "-c:v", "libtheora", "-q:v", 8, "-f", "ogg", "-")
    assert piped_frames_of(data)[1] == ""
    cut = data[: data.index(b"OggS", int(len(data) * kept))]  # between two pages
    assert "truncated" in piped_frames_of(cut)[1]


@pytest.mark.parametrize("suffix", [*CONTAINERS, "mp4", "mov"])
def test_whole_files_are_whole(tmp_path, suffix):
    path = encode(tmp_path / f"a.{suffix}", **CONTAINERS.get(suffix, {}), sound="")
    images, damage = frames_of(path)
    assert (len(images), damage) == (40, "")
    assert find_damage(path) is None


@pytest.mark.parametrize("suffix", sorted(CONTAINERS.keys() - {"mpg"}))  # whose end is padding
def test_a_cut_file_says_after_which_frame(tmp_path, suffix):
    path = encode(tmp_path / f"a.{suffix}", **CONTAINERS[suffix], g="5")
    kept = 5 if suffix == "wmv" else 8  # tenths; its packets are large
    path.write_bytes(path.read_bytes()[: path.stat().st_size * kept // 10])
    images, damage = frames_of(path)
    assert 5 < len(images) < 40
    assert end_said(suffix, len(images)) in damage


RAW = {
    "h264": "libx264",
    "m2v": "mpeg2video",
    "mjpeg": "mjpeg",
    "m4v": "mpeg4",
    "mxf": "mpeg2video",
}


@pytest.mark.parametrize("suffix", RAW)
def test_a_cut_stream_without_a_container_says_so(tmp_path, suffix):
    pixels = "yuvj420p" if suffix == "mjpeg" else "yuv420p"
    path = encode(tmp_path / f"a.{suffix}", RAW[suffix], 8, pixels)
    assert (len(frames_of(path)[0]), frames_of(path)[1]) == (8, "")
    path.write_bytes(path.read_bytes()[: path.stat().st_size - (3 if suffix != "m4v" else 30)])
    images, damage = frames_of(path)
    assert damage == f"it is truncated after frame {len(images) - 1}"


@pytest.mark.parametrize(
    ("data", "whole"),
    [(b"\x12\0\x0a\x81\1" + bytes(129), 134), (b"\x1f\7\0\x3f" + bytes(239_996), 240_000)],
    ids=["av1", "dv"],
)
def test_lengths_within_coded_streams(data, whole):
    assert damage_in(data) is None
    assert damage_in(data[:-3]) == whole - 3


def test_packets_lost_on_the_way_are_said_and_joined_recordings_are_whole(tmp_path):
    data = encode(tmp_path / "a.ts", g="20").read_bytes()
    (tmp_path / "joined.ts").write_bytes(data + data)
    images, damage = frames_of(tmp_path / "joined.ts")
    assert (len(images), damage) == (80, "")
    middle = len(data) // 3 // 188 * 188
    (tmp_path / "lost.ts").write_bytes(data[:middle] + data[middle + 3 * 188 :])
    assert "frames may be missing there" in frames_of(tmp_path / "lost.ts")[1]


def test_cut_raw_frames_with_a_header_say_so(tmp_path):
    frames = [b"FRAME\n" + bytes([number]) * (WIDE * HIGH * 3 // 2) for number in range(4)]
    data = f"YUV4MPEG2 W{WIDE} H{HIGH} F25:1\n".encode() + b"".join(frames)
    (tmp_path / "a.y4m").write_bytes(data)
    assert (len(frames_of(tmp_path / "a.y4m")[0]), frames_of(tmp_path / "a.y4m")[1]) == (4, "")
    for kept in (len(data) - 1, len(data) - len(frames[0]) + 3):
        (tmp_path / "a.y4m").write_bytes(data[:kept])
        images, damage = frames_of(tmp_path / "a.y4m")
        assert (len(images), damage) == (3, "it is truncated after frame 2")


def test_a_fragmented_mp4_that_is_cut_says_so(tmp_path):
    with av.open(
        str(tmp_path / "a.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"}
    ) as file:
        stream = file.add_stream("libx264", rate=25, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, "yuv420p"
        for _ in range(40):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(COLORS, format="rgb24")))
        file.mux(stream.encode(None))
    data = (tmp_path / "a.mp4").read_bytes()
    assert frames_of(tmp_path / "a.mp4")[1] == ""
    (tmp_path / "a.mp4").write_bytes(data[: len(data) * 6 // 10])
    assert "truncated" in frames_of(tmp_path / "a.mp4")[1]


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_damaged_middle_is_said_and_the_rest_is_read(tmp_path, suffix):
    path = encode(tmp_path / f"a.{suffix}", g="5")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    path.write_bytes(data)
    images, damage = frames_of(path)
    assert 5 < len(images) <= 40
    assert "frame" in damage


@with_ffmpeg
def test_what_no_output_gets_is_known(tmp_path):
    path = encode(tmp_path / "a.mkv")
    assert left_out_of(path) == ""
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n", encoding="utf-8")
    chapter = ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=one\n"
    (tmp_path / "a.txt").write_text(chapter, encoding="utf-8")
    inputs = ("-i", path, "-i", tmp_path / "a.srt", "-i", tmp_path / "a.txt")
    chosen = ("-map", 0, "-map", 1, "-map_chapters", 2, "-c:v", "copy")
    ffmpeg(*inputs, *chosen, "-timecode", "01:00:00:00", tmp_path / "b.mkv")
    assert left_out_of(tmp_path / "b.mkv") == "subtitles and chapters and timecode"
    assert left_out_of(tmp_path / "none.mkv") == ""


SOUNDS = [
    ("pcm.mkv", "pcm_s16le", ".mp4"),
    ("opus.mkv", "libopus", ".mov"),
    ("flac.mkv", "flac", ".mov"),
    ("pcm.mov", "pcm_s16le", ".webm"),
    ("ac3.mkv", "ac3", ".mp4"),
]


@pytest.mark.parametrize(("name", "sound", "suffix"), SOUNDS, ids=lambda value: value)
def test_sound_that_a_container_does_not_hold_is_encoded_again(tmp_path, name, sound, suffix):
    path, out = encode(tmp_path / name, count=10, sound=sound), tmp_path / f"out{suffix}"
    with VideoWriter(out, Fraction(25), (HIGH, WIDE), audio=path) as writer:
        for image in frames_of(path)[0]:
            writer.write(image)
        assert writer.encoder.sound_warning == ""
    with av.open(str(out)) as file:
        seconds = [float(frame.pts * frame.time_base) for frame in file.decode(audio=0)]
        assert seconds[-1] == pytest.approx(0.38, abs=0.05)
