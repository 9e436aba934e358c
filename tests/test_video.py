"""Videos: what goes in comes out, at its time, and never half."""

import errno
import struct
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcnseg.errors import MediaError, OptionError
from fcnseg.io.sources import open_source
from fcnseg.io.sources.video import OpencvReader, open_video
from fcnseg.io.video_writer import VideoWriter, writable_codecs

av = pytest.importorskip("av")

SIZE = (48, 64)


def picture(number: int, size=SIZE) -> np.ndarray:
    """Plain colors that tell the number, in blocks that survive compression."""
    bits = np.array([(number >> bit) & 1 for bit in range(8)], np.uint8).reshape(2, 4) * 200
    blocks = cv2.resize(bits, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.dstack([blocks, np.full_like(blocks, 90), 230 - blocks])


def number_of(image: np.ndarray) -> int:
    height, width = image.shape[0] // 2, image.shape[1] // 4
    rows = [height // 2, height + height // 2]
    columns = [width * k + width // 2 for k in range(4)]
    bits = [int(image[row, column, 0] > 100) for row in rows for column in columns]
    return sum(bit << place for place, bit in enumerate(bits))


def write(path: Path, count: int = 20, fps=Fraction(25), size=SIZE, times=None, **options) -> Path:
    with VideoWriter(path, fps, size, **options) as writer:
        for number in range(count):
            writer.write(picture(number, size), None if times is None else times[number])
    return path


@pytest.fixture
def no_pyav(monkeypatch):
    monkeypatch.setattr("fcnseg.io.video_writer.has_pyav", lambda: False)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize("fps", [Fraction(25, 2), Fraction(30000, 1001), Fraction(24000, 1001)])
def test_frames_rate_and_order(tmp_path, suffix, fps):
    with open_video(write(tmp_path / f"a{suffix}", 20, fps)) as reader:
        assert abs(reader.fps - fps) < Fraction(1, 1000)
        if suffix != ".avi":
            assert reader.fps == fps
        frames = list(reader)
    assert [number_of(image) for image, _ in frames] == list(range(20))
    expected = np.arange(20) / float(fps)
    assert np.abs(np.array([time for _, time in frames]) - expected).max() < 0.0011


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_without_pyav_opencv_writes(tmp_path, no_pyav, suffix):
    with VideoWriter(tmp_path / f"a{suffix}", Fraction(25, 2), SIZE) as writer:
        assert writer.encoder.codec in ("mp4v", "XVID")
        assert not writer.encoder.keeps_time
        for number in range(20):
            writer.write(picture(number))
    with open_video(tmp_path / f"a{suffix}") as reader:
        assert reader.fps == Fraction(25, 2)
        assert [number_of(image) for image, _ in reader] == list(range(20))


@pytest.mark.parametrize("pyav", [True, False])
def test_odd_sizes_are_padded_not_cut(tmp_path, pyav, monkeypatch):
    monkeypatch.setattr("fcnseg.io.video_writer.has_pyav", lambda: pyav)
    write(tmp_path / "a.mp4", 5, size=(47, 63))
    with open_video(tmp_path / "a.mp4") as reader:
        image, _ = next(iter(reader))
    assert image.shape == (48, 64, 3)
    assert np.abs(image[:47, :63].astype(int) - picture(0, (47, 63))).mean() < 6


def test_colours_come_back(tmp_path, monkeypatch):
    """Under a name that begins as FFmpeg's protocols do."""
    monkeypatch.chdir(tmp_path)
    path = Path("12:30.mp4")
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (120, 80, 200)]
    with VideoWriter(path, Fraction(5), SIZE) as writer:
        for color in colors:
            writer.write(np.full((*SIZE, 3), color, np.uint8))
    with open_video(path) as reader:
        for (image, _), color in zip(reader, colors, strict=True):
            assert np.abs(image.mean((0, 1)) - color).max() < 6


def test_variable_frame_rate_keeps_its_times(tmp_path):
    times = np.cumsum([0, 0.04, 0.1, 0.03, 0.25, 0.04, 0.04, 0.5]).tolist()
    write(tmp_path / "a.mp4", 8, times=times)
    with open_video(tmp_path / "a.mp4") as reader:
        found = [time for _, time in reader]
    assert np.abs(np.array(found) - times).max() < 0.0021


def test_times_rounded_to_milliseconds_do_not_spoil_a_constant_rate(tmp_path):
    fps = Fraction(30000, 1001)
    times = [round(number / float(fps), 3) for number in range(30)]
    write(tmp_path / "a.mp4", 30, fps, times=times)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].average_rate == fps


def turn(path: Path) -> Path:
    """Write a rotation by 90 degrees into an MP4's track header."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, matrix, 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    turned = path.with_name("turned.mp4")
    turned.write_bytes(data)
    return turned


def test_rotated_videos_are_read_upright(tmp_path):
    path = write(tmp_path / "a.mp4", 3)
    with open_video(path) as plain, open_video(turn(path)) as turned:
        before, after = next(iter(plain))[0], next(iter(turned))[0]
    assert after.shape == (64, 48, 3)
    assert np.abs(np.rot90(before, -1).astype(int) - after).mean() < 1


def with_sound(path: Path, seconds: float = 2.0, click: float = 1.0, hole: float = 0.0) -> Path:
    """A clip at 10 frames/s with silence and one click; hole: after so much sound there is none."""
    rate = 48000
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=10, options={"g": "5"})
        video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        sound = file.add_stream("aac", rate=rate)
        for number in range(round(seconds * 10)):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            file.mux(video.encode(frame))
        wave = np.zeros((1, round(seconds * rate)), np.float32)
        start = round(click * rate)
        wave[0, start : start + 480] = np.sin(np.arange(480) / 5)[: max(0, wave.shape[1] - start)]
        for at in range(0, wave.shape[1] - 1023, 1024):
            piece = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(wave[:, at : at + 1024]), format="fltp", layout="mono"
            )
            piece.sample_rate, piece.pts = rate, at
            if not hole or not hole <= at / rate < hole + 0.6:
                file.mux(sound.encode(piece))
        file.mux(video.encode(None))
        file.mux(sound.encode(None))
    return path


def click_time(path: Path) -> float:
    """When the loudest sound is, in seconds after the first frame."""
    with av.open(str(path)) as file:
        began = float(file.streams.video[0].start_time * file.streams.video[0].time_base)
        loudest, when = 0.0, 0.0
        for frame in file.decode(audio=0):
            wave = np.abs(frame.to_ndarray()[0])
            if wave.max() > loudest:
                loudest, place = wave.max(), int(wave.argmax())
                when = frame.time + place / frame.sample_rate
    return when - began


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_is_copied_in_sync(tmp_path, suffix):
    clip = with_sound(tmp_path / "clip.mp4")
    out = write(tmp_path / f"out{suffix}", 20, Fraction(10), audio=clip)
    assert abs(click_time(out) - click_time(clip)) < 0.01
    assert abs(click_time(out) - 1.0) < 0.06


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm"])
def test_the_language_of_sound_is_kept(tmp_path, suffix):
    with av.open(str(tmp_path / "clip.mkv"), "w") as file:
        copy = file.add_stream_from_template
        with av.open(str(with_sound(tmp_path / "one.mp4"))) as source:
            made = {stream.index: copy(stream) for stream in source.streams}
            made[1].metadata["language"] = "deu"
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = made[packet.stream.index]
                    file.mux(packet)
    out = write(tmp_path / f"out{suffix}", 5, Fraction(10), audio=tmp_path / "clip.mkv")
    with av.open(str(out)) as file:
        assert file.streams.audio[0].metadata["language"] in ("deu", "ger")


def test_sound_starts_with_the_part_and_ends_with_it(tmp_path):
    clip = with_sound(tmp_path / "clip.mp4")
    out = write(tmp_path / "out.mp4", 10, Fraction(10), audio=clip, audio_start=0.5)
    assert abs(click_time(out) - 0.5) < 0.06
    with av.open(str(out)) as file:
        sound = file.streams.audio[0]
        assert float(sound.duration * sound.time_base) < 1.05


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_sound_that_is_longer_than_the_frames_is_kept_to_its_end(tmp_path, suffix):
    clip = with_sound(tmp_path / "clip.mp4", click=1.9)
    options = {"audio": clip, "audio_start": 0.5, "whole_audio": True}
    out = write(tmp_path / f"out{suffix}", 5, Fraction(10), **options)
    assert abs(click_time(out) - 1.4) < 0.06
    writer = VideoWriter(out, Fraction(10), SIZE, **options)
    writer.write(picture(0))
    writer.close(complete=False)  # no sound for what is not seen
    with av.open(str(tmp_path / f"out.partial{suffix}")) as file:
        assert max(float(frame.time) for frame in file.decode(audio=0)) < 0.4


def copied(clip: Path, out: Path) -> list[str]:
    """A video's frames and sound in another file; what was said of it."""
    with open_source(clip, callback=lambda event: said.append(event.text)) as source:
        said: list[str] = []
        frames = list(source)
        whole = {"audio": source.sound, "clock": source.clock}
        with VideoWriter(out, Fraction(10), SIZE, **whole) as writer:
            for frame in frames:
                writer.write(frame.image, frame.time)
    assert writer.encoder.sound_warning == ""
    return said


def test_a_hole_in_sound_that_is_encoded_again_keeps_what_follows_in_sync(tmp_path):
    clip = with_sound(tmp_path / "clip.mkv", hole=0.2)
    copied(clip, tmp_path / "out.webm")
    assert abs(click_time(tmp_path / "out.webm") - 1.0) < 0.03


def test_sound_is_in_sync_where_a_recording_begins_between_key_frames(tmp_path):
    data = with_sound(tmp_path / "a.ts").read_bytes()
    clip = tmp_path / "clip.ts"
    clip.write_bytes(data[len(data) // 9 // 188 * 188 :])
    said = copied(clip, tmp_path / "out.mp4")
    assert "have no key frame and can't be decoded" in said[0]
    assert abs(click_time(tmp_path / "out.mp4") - 0.5) < 0.03  # of the second group of pictures


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_continues_where_recordings_are_joined(tmp_path, suffix):
    silent = with_sound(tmp_path / "a.ts", click=3.0).read_bytes()
    (tmp_path / "clip.ts").write_bytes(silent + with_sound(tmp_path / "b.ts").read_bytes())
    assert copied(tmp_path / "clip.ts", tmp_path / f"out{suffix}") == []
    assert abs(click_time(tmp_path / f"out{suffix}") - 3.0) < 0.04


def test_other_video_streams_are_said(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        for _ in range(2):
            video = file.add_stream("libx264", rate=10)
            video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        for video in file.streams.video:
            frame = av.VideoFrame.from_ndarray(picture(1), format="rgb24")
            file.mux(video.encode(frame))
            file.mux(video.encode(None))
    with open_video(tmp_path / "a.mp4") as reader:
        assert reader.note == "it has 2 video streams; only stream 0 is read"


def test_a_silent_or_unreadable_source_of_sound_is_no_obstacle(tmp_path):
    silent = write(tmp_path / "silent.mp4", 3)
    (tmp_path / "text.mp4").write_text("no video")
    for audio in (silent, tmp_path / "text.mp4"):
        out = write(tmp_path / "out.mp4", 3, audio=audio)
        with av.open(str(out)) as file:
            assert not file.streams.audio


def test_frames_of_another_size_are_fitted_in(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", Fraction(10), SIZE) as writer:
        writer.write(np.full((*SIZE, 3), 200, np.uint8))
        writer.write(np.full((48, 32, 3), 200, np.uint8))
    with open_video(tmp_path / "a.mp4") as reader:
        images = [image for image, _ in reader]
    assert images[1].shape == images[0].shape
    assert images[1][:, 20:44].mean() > 180
    assert images[1][:, :12].mean() < 20


def test_a_video_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, Fraction(10), SIZE) as writer:
        writer.write(picture(1))
        assert not path.exists()
    assert [item.name for item in tmp_path.iterdir()] == ["a.mp4"]


def test_an_error_keeps_what_was_written_and_the_old_file(tmp_path):
    path = tmp_path / "a.mp4"

    def fail():
        with VideoWriter(path, Fraction(10), SIZE) as writer:
            writer.write(picture(5))
            raise RuntimeError

    for expected in (path, tmp_path / "a.partial.mp4"):
        with pytest.raises(RuntimeError):
            fail()
        with open_video(expected) as reader:
            assert len(list(reader)) == 1


def test_no_frames_no_file(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", Fraction(10), SIZE):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pyav", [True, False])
def test_what_was_not_written_is_noticed(tmp_path, monkeypatch, pyav):
    """An encoder that loses frames silently, as OpenCV does on a full disk."""
    monkeypatch.setattr("fcnseg.io.video_writer.has_pyav", lambda: pyav)
    path = tmp_path / "a.mp4"
    writer = VideoWriter(path, Fraction(10), SIZE)
    for number in range(5):
        writer.write(picture(number))
    writer.encoder.written += 1
    with pytest.raises(MediaError, match="5 of 6 frames can be read back, and are in"):
        writer.close()
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_or_name_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="Can't write"):
        VideoWriter(tmp_path / "file" / "a.mp4", Fraction(10), SIZE)
    with pytest.raises(OptionError, match=r"a\.xyz"):
        VideoWriter(tmp_path / "a.xyz", Fraction(10), SIZE)


def test_files_that_are_no_videos(tmp_path, capfd):
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(MediaError, match="not a video that can be read"):
            open_video(tmp_path / name)
    with pytest.raises(MediaError, match="no file"):
        open_video(tmp_path / "gone.mp4")
    assert capfd.readouterr() == ("", "")


def test_a_video_of_which_no_frame_is_taken_is_let_go(tmp_path):
    with open_source(write(tmp_path / "a.mp4", 2)) as source:
        reader = source._reader
    assert sum(1 for _ in iter(reader.grab, None)) < 2  # the first one was decoded already


def test_a_video_that_may_not_be_read(tmp_path, monkeypatch):
    def deny(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.mp4").touch()
    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(MediaError, match="can't be read: permission denied"):
        open_video(tmp_path / "a.mp4")


def test_a_cut_video_gives_what_is_there_and_says_so(tmp_path, noise_video):
    path = tmp_path / "a.mp4"
    path.write_bytes(noise_video[: len(noise_video) // 2])
    with open_video(path) as reader:
        read = len(list(reader))
        assert 5 < read < 35
        assert reader.missing() + len(reader.broken) == 40 - read
        assert "truncated" in reader.damage_found()


def test_a_rate_that_is_none_is_measured(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", 20, Fraction(25, 2))
    monkeypatch.setattr("fcnseg.io.sources.reader._FASTEST", 5)  # 12.5 counts as nonsense now
    with open_video(path) as reader:
        assert reader.fps == 25  # of no use either: the usual one
    monkeypatch.undo()
    for reader in (open_video(path), OpencvReader(str(path), path)):
        with reader:
            measure = getattr(reader, "_measured_rate", None) or reader._measure_fps
            assert measure() == Fraction(25, 2)
            assert number_of(next(iter(reader))[0]) == 0


def test_late_frames_are_repeated_for_a_camera_without_pyav(tmp_path, no_pyav):
    times = [0.0, 0.1, 0.5, 0.6]
    write(tmp_path / "a.mp4", 4, Fraction(10), times=times, live=True)
    with open_video(tmp_path / "a.mp4") as reader:
        assert [number_of(image) for image, _ in reader] == [0, 1, 1, 1, 1, 2, 3]


def test_writable_codecs():
    assert "H.264" in writable_codecs()
