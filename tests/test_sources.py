"""Sources: what a name stands for, and that every frame comes once, in order."""

import errno
import io
import os
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnseg.datasets.pairing import list_folder
from fcnseg.errors import MediaError, MissingExtra, OptionError
from fcnseg.io.images import encode_image, write_image
from fcnseg.io.sources import listing, open_source
from fcnseg.io.sources import stdin as piped
from fcnseg.io.sources import video as recorded
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter

SIZE = (32, 48)


def plain(number: int) -> np.ndarray:
    return np.full((*SIZE, 3), number * 10 % 250, np.uint8)


def number_of(image: np.ndarray) -> int:
    return round(float(image.mean()) / 10)


def images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        write_image(folder / name, plain(number))
    return folder


@pytest.fixture
def clip(tmp_path) -> Path:
    path = tmp_path / "clip one.mp4"
    with VideoWriter(path, Fraction(10), SIZE) as writer:
        for number in range(20):
            writer.write(plain(number))
    return path


def names(source) -> list[str]:
    with source:
        return [frame.name for frame in source]


# Images


def test_one_image(tmp_path):
    path = images(tmp_path, "a b.png") / "a b.png"
    with open_source(path) as source:
        assert (source.kind, source.count, source.live, source.fps) == ("image", 1, False, None)
        [frame] = source
    assert (frame.name, frame.path, frame.index, frame.time) == ("a b", path, 0, 0.0)
    assert np.array_equal(frame.image, plain(0))


def test_a_folder_keeps_sub_folders_natural_order_and_skips_the_rest(tmp_path):
    images(
        tmp_path,
        "f10.png",
        "f9.png",
        "sub/f1.JPG",
        ".hidden.png",
        ".git/x.png",
        "@eaDir/f9.png/T.jpg",
    )
    images(tmp_path, "bare.png")
    (tmp_path / "bare.png").rename(tmp_path / "1b2c3d")  # as a cache names it
    for name in ("notes.txt", "README"):
        (tmp_path / name).write_text("no image")
    with open_source(tmp_path) as source:
        assert (source.kind, source.count) == ("folder", 4)
        frames = list(source)
    assert [frame.name for frame in frames] == ["1b2c3d", "f9", "f10", "sub/f1"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]


def test_names_that_would_be_one_get_their_suffix(tmp_path):
    images(tmp_path, "a.png", "a.jpg", "a_png.bmp", "b.png", "x/a.png")
    found = names(open_source(tmp_path))
    assert len({name.casefold() for name in found}) == 5
    assert {"a_jpg", "b", "x/a"} <= set(found)


def test_outputs_inside_the_source_are_skipped(tmp_path):
    images(tmp_path, "a.png", "out/overlay/a.png")
    assert names(open_source(tmp_path, exclude=tmp_path / "out")) == ["a"]


def test_a_glob(tmp_path, monkeypatch):
    images(tmp_path, "a/1.png", "a/2.png", "b/3.png", "b/4.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert names(open_source("~/b/*.png")) == ["3"]
    assert names(open_source(f"{tmp_path}/*/*.png")) == ["a/1", "a/2", "b/3"]
    assert names(open_source(f"{tmp_path}/a/?.png")) == ["1", "2"]
    assert names(open_source(f"{tmp_path}/**/*.jpg")) == ["4"]


def test_a_name_with_glob_characters_that_exists_is_taken_as_it_is(tmp_path):
    path = images(tmp_path, "a[1].png") / "a[1].png"
    assert names(open_source(path)) == ["a[1]"]


def test_a_list_file_keeps_its_order(tmp_path, monkeypatch):
    images(tmp_path, "z.png", "sub/a.png")
    images(tmp_path / "elsewhere", "w.png")
    monkeypatch.chdir(tmp_path / "elsewhere")
    plain = "z.png\n# a comment\n\nsub/a.png\nw.png\n"
    windows = '"z.png"\r\n"sub\\a.png"\r\nw.png\r\n'.encode("utf-16")
    for text in (plain.encode(), windows, b"file 'z.png'\nfile 'sub/a.png'\nw.png"):
        (tmp_path / "list.txt").write_bytes(text)
        with open_source(tmp_path / "list.txt") as source:
            assert source.kind == "folder"
            assert [number_of(frame.image) for frame in source] == [0, 1, 0]


def test_a_list_of_images_and_videos(tmp_path):
    images(tmp_path, "z.png", "a.png")
    (tmp_path / "v.mp4").touch()
    (tmp_path / "list.txt").write_text("z.png\nv.mp4\na.png\n")
    found = listing.collect([str(tmp_path / "list.txt")])
    assert [name for name, _ in (*found.images, *found.videos)] == ["z", "a", "v"]


def test_a_missing_line_of_a_list_is_a_failure_and_the_rest_is_done(tmp_path):
    images(tmp_path, "a.png")
    (tmp_path / "list.txt").write_text("gone.png\na.png\n")
    with open_source(tmp_path / "list.txt") as source:
        assert [frame.name for frame in source] == ["a"]
        assert "gone.png" in source.failures[0][0]


def test_a_broken_image_of_several_is_a_failure_alone_it_is_an_error(tmp_path):
    images(tmp_path, "a.png", "c.png")
    (tmp_path / "b.png").write_text("hello")
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["a", "c"]
        assert [name for name, _ in source.failures] == [str(tmp_path / "b.png")]
        assert source.taken == 3
    with open_source(tmp_path / "b.png") as source, pytest.raises(MediaError, match="not an image"):
        list(source)


@pytest.mark.parametrize(
    ("every", "limit", "expected"),
    [(1, 0, [0, 1, 2, 3, 4]), (2, 0, [0, 2, 4]), (1, 2, [0, 1]), (3, 1, [0]), (9, 9, [0])],
)
def test_every_and_limit(tmp_path, clip, every, limit, expected):
    folder = images(tmp_path / "f", "0.png", "1.png", "2.png", "3.png", "4.png")
    with open_source(folder, every=every, limit=limit) as source:
        assert source.count == len(expected)
        assert [frame.index for frame in source] == expected
    with open_source(clip, every=every, limit=limit) as source:
        count = source.count
        found = [frame.index for frame in source]
    assert found == list(range(0, 20, every))[: limit or None]
    assert count == len(found)


def test_several_processes_take_a_folder_together(tmp_path):
    folder = images(tmp_path, *(f"{number}.png" for number in range(8)))
    first, second = (open_source(folder, limit=5, rank=rank, size=2) for rank in (0, 1))
    for source in (first, second):
        source.skip(lambda name, path: name == "1")
    assert (first.count, second.count) == (3, 2)
    assert (first.skipped, second.skipped) == (1, 0)
    assert names(first) == ["0", "3", "5"]
    assert names(second) == ["2", "4"]


def test_skipping_does_not_change_which_are_every_nth(tmp_path):
    folder = images(tmp_path, *(f"{number}.png" for number in range(6)))
    source = open_source(folder, every=2)
    source.skip(lambda name, path: name == "0")
    assert source.skipped == 1
    assert names(source) == ["2", "4"]


# Videos


def test_a_video(clip):
    with open_source(clip) as source:
        assert (source.kind, source.fps, source.count, source.sound) == ("video", 10, 20, clip)
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(20))
    assert [frame.name for frame in frames][:2] == ["clip_one_000000", "clip_one_000001"]
    assert np.allclose([frame.time for frame in frames], np.arange(20) / 10)


def test_a_part_of_a_video(clip):
    with open_source(clip, start=0.5, end=1.5) as source:
        assert source.count == 10
        assert [frame.index for frame in source] == list(range(5, 15))
    with open_source(clip, start=0.55, every=4) as source:
        assert source.fps == Fraction(5, 2)
        assert [frame.index for frame in source] == [6, 10, 14, 18]


@pytest.mark.parametrize("size", [2, 3, 7, 30])
@pytest.mark.parametrize("selection", [{}, {"every": 3, "limit": 5}, {"start": 0.55, "end": 1.7}])
@pytest.mark.parametrize("counted", [True, False])
def test_several_processes_take_a_video_together(clip, monkeypatch, size, selection, counted):
    """Frame k is frame k, whoever takes it; none is taken twice, none is left out."""

    def uncounted(path):
        reader = open_video(path)
        reader.count = None
        return reader

    if not counted:
        monkeypatch.setattr(recorded, "open_video", uncounted)
    whole = [frame.index for frame in open_source(clip, **selection)]
    pieces = []
    for rank in range(size):
        with open_source(clip, **selection, rank=rank, size=size) as source:
            frames = list(source)
        assert source.count == (len(frames) if counted else None)
        assert [number_of(frame.image) for frame in frames] == [f.index for f in frames]
        assert [frame.name for frame in frames] == [f"clip_one_{f.index:06d}" for f in frames]
        pieces.append([frame.index for frame in frames])
    together = [index for piece in pieces for index in piece]
    assert (together if counted else sorted(together)) == whole
    assert max(map(len, pieces)) <= -(-len(whole) // size)


def test_a_video_of_which_a_part_is_done(clip):
    done = {f"clip_one_{index:06d}" for index in (0, 1, 5, 19)}
    asked = []

    def skip(name, path):
        asked.append(path)
        return name in done

    with open_source(clip) as source:
        source.skip(skip)
        assert [frame.index for frame in source] == [*range(2, 5), *range(6, 19)]
    assert source.skipped == 4
    assert asked == [clip] * 20


def test_several_processes_take_a_cut_video_together(tmp_path, noise_video):
    """What is missing is told once: by the one that comes to the end."""
    path = tmp_path / "a.mp4"
    path.write_bytes(noise_video[: int(len(noise_video) * 0.8)])
    with open_source(path) as source:
        whole = [frame.index for frame in source]
    taken, failures = [], []
    for rank in range(2):
        with open_source(path, rank=rank, size=2) as piece:
            taken += [frame.index for frame in piece]
        failures += piece.failures
    assert taken == whole
    assert failures == source.failures


def test_a_part_that_is_not_there(clip):
    with pytest.raises(MediaError, match=r"2\.0 s long"), open_source(clip, start=9) as source:
        list(source)
    for start, end in [(2.0, 1.0), (-1.0, None)]:
        with pytest.raises(OptionError):
            open_source(clip, start=start, end=end)


def test_a_cut_video_says_after_which_frame(tmp_path, noise_video):
    path = tmp_path / "a.mp4"
    for share in (0.5, 0.96):
        path.write_bytes(noise_video[: int(len(noise_video) * share)])
        with open_source(path) as source:
            frames = list(source)
        [(_, said)] = source.failures
        assert f"of 40 frames are missing: it is truncated after frame {frames[-1].index}" in said


def test_a_video_with_a_broken_middle_continues(tmp_path):
    path = tmp_path / "a.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path, Fraction(10), SIZE) as writer:
        for number in range(40):
            writer.write(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) // 2 + number)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    with open_source(path) as source:
        frames = list(source)
    assert 35 <= len(frames) <= 40
    assert frames[-1].index >= 38
    assert frames[-1].time > 3.7
    assert bool(source.failures) == (len(frames) < 40)


def test_a_video_of_unknown_suffix_is_recognised_by_its_content(clip):
    odd = clip.rename(clip.with_suffix(".recording"))
    with open_source(odd) as source:
        assert source.kind == "video"
    photo = odd.with_name("photo.data")
    photo.write_bytes(encode_image(plain(1)))
    with open_source(photo) as source:
        assert source.kind == "image"


# What can't be used


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gone.png", r"no file or folder .*gone\.png"),
        ("empty", "no images: there are no files"),
        ("texts", r"no images: found 1 x \.md"),
        ("clips", r"no images: found 1 x \.mp4"),
        ("*.tiff", r"No image matches '.*\*\.tiff'"),
        ("texts/a.md", "neither an image nor a video"),
        ("list.txt", "lists no files"),
        ("streams.txt", "the address http://h/a.png"),
        ("-1", "no file or folder"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, clip, spec, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("# hello")
    (tmp_path / "clips").mkdir()
    clip.rename(tmp_path / "clips" / "c.mp4")
    (tmp_path / "list.txt").write_text("# nothing\n")
    (tmp_path / "streams.txt").write_text("http://h/a.png\n")
    with pytest.raises(MediaError, match=message):
        open_source(str(tmp_path / spec))


def test_a_near_miss_is_suggested(tmp_path):
    images(tmp_path, "street.png")
    with pytest.raises(MediaError) as caught:
        open_source(tmp_path / "stret.png")
    assert "street.png" in caught.value.hint


def test_links_to_themselves_and_what_never_ends_in_a_folder(tmp_path):
    """The one was a RuntimeError in Python 3.11; a pipe was waited for, a device filled memory."""
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo.png")
    assert len(listing.collect([str(tmp_path), str(tmp_path)]).images) == 5
    with open_source(tmp_path) as source:
        assert len(list(source)) == 2
        failed = {Path(name).name: why for name, why in source.failures}
    assert failed.keys() == {"self.png", "zero.png", "fifo.png"}
    assert "is a pipe or a device" in failed["fifo.png"]


def test_a_file_address(tmp_path):
    path = images(tmp_path, "ä b%20c.png") / "ä b%20c.png"
    assert names(open_source(path.as_uri())) == ["ä b%20c"]


# Pipes


class Trickle(io.RawIOBase):
    """Bytes that come a few at a time, as through a slow pipe."""

    def __init__(self, data: bytes, step: int):
        self.data, self.step = data, step

    def read1(self, size=-1):
        piece, self.data = self.data[: self.step], self.data[self.step :]
        return piece

    def read(self, size=-1):
        size = len(self.data) if size is None or size < 0 else size
        piece, self.data = self.data[:size], self.data[size:]
        return piece


@pytest.fixture
def pipe(monkeypatch):
    def put(data: bytes, step: int = 1 << 16):
        monkeypatch.setattr(
            piped, "open_stdin", lambda: piped.ByteStream(iter(Trickle(data, step).read1, b""))
        )

    return put


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".ppm"])
def test_piped_images_follow_one_another(pipe, suffix, step):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pictures = [plain(3), noise, plain(7)]
    pipe(b"".join(encode_image(picture, suffix) for picture in pictures), step)
    with open_source("-") as source:
        assert (source.kind, source.count) == ("folder", None)
        frames = list(source)
    assert [frame.name for frame in frames] == ["stdin_000000", "stdin_000001", "stdin_000002"]
    assert frames[1].image.shape == noise.shape
    assert [number_of(frames[0].image), number_of(frames[2].image)] == [3, 7]


def test_a_named_pipe_is_read_as_it_comes(tmp_path):
    """Opened a second time, it would be empty, or never end."""
    os.mkfifo(tmp_path / "pipe")
    data = encode_image(plain(3))
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True)
    writer.start()
    with open_source(tmp_path / "pipe") as source:
        assert [number_of(frame.image) for frame in source] == [3]


def encoded(number, suffix, **options):
    """An image of one color as Pillow writes it."""
    held = io.BytesIO()
    Image.fromarray(plain(number)).save(held, suffix, **options)
    return held.getvalue()


FOLLOWING = {
    "GIF": lambda number: encoded(number, "GIF"),
    "animated GIF": lambda number: encoded(
        number, "GIF", save_all=True, append_images=[Image.fromarray(plain(1))]
    ),
    "TIFF": lambda number: encoded(number, "TIFF"),
    "TIFF pages": lambda number: encoded(
        number, "TIFF", save_all=True, append_images=[Image.fromarray(plain(1))]
    ),
    "big TIFF": lambda number: encoded(number, "TIFF", big_tiff=True),
    "OpenCV TIFF": lambda number: encode_image(plain(number), ".tif"),
    "JPEG 2000": lambda number: encode_image(plain(number), ".jp2"),
    "AVIF": lambda number: encoded(number, "AVIF", quality=100),
    "ICO": lambda number: encoded(number, "ICO"),
    "array": lambda number: array_bytes(plain(number)),
    "fill bytes": lambda number: encode_image(plain(number), ".jpg")[:-2] + b"\xff\xff\xff\xd9",
    "padding": lambda number: encode_image(plain(number), ".png") + b"\n\0",
}


def array_bytes(array):
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


@pytest.mark.parametrize("step", [7, 1 << 16])
@pytest.mark.parametrize("kind", FOLLOWING)
def test_piped_images_without_a_length_follow_one_another(pipe, kind, step):
    """The second and third of several TIFFs or GIFs were lost, and nothing was said."""
    try:
        data = [FOLLOWING[kind](number) for number in (3, 4, 7)]
    except (KeyError, OSError) as error:
        pytest.skip(f"Pillow without it: {error}")
    pipe(b"".join(data), step)
    with open_source("-") as source:
        found = [number_of(frame.image) for frame in source]
        assert (source.kind, source.failures) == ("folder", [])
    assert found == [3, 4, 7]
    pipe(data[0], step)
    with open_source("-") as source:
        assert source.kind == "image"
        assert [number_of(frame.image) for frame in source] == [3]


def damage(data, how):
    middle = len(data) // 2
    if how == "cut":
        return data[:middle]
    if how == "length":  # of a PNG's second chunk, of a JPEG's first segment
        at = 33 if data[:1] == b"\x89" else 4
        return data[:at] + b"\x7f\xff" + data[at + 2 :]
    return data[:middle] + bytes(40) + data[middle + 40 :]


@pytest.mark.parametrize("how", ["cut", "length", "zeros"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "AVIF"])
def test_after_a_damaged_piped_image_the_others_come(pipe, kind, how):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    held = io.BytesIO()
    try:
        Image.fromarray(noise).save(held, kind)
    except (KeyError, OSError) as error:
        pytest.skip(f"Pillow without it: {error}")
    data, good = held.getvalue(), [encoded(n, "PNG") for n in (3, 4, 7)]
    pipe(good[0] + damage(data, how) + good[1] + good[2])
    with open_source("-") as source:
        found = [number_of(f.image) for f in source if f.image.shape != noise.shape]
    assert found[0] == 3
    assert found[-1] == 7
    assert len(found) + len(source.failures) >= 3
    if kind in ("PNG", "JPEG"):
        assert found == [3, 4, 7]
        assert how != "cut" or len(source.failures) == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_one_piped_image(pipe, suffix):
    pipe(encode_image(plain(4), suffix), step=100)
    with open_source("-") as source:
        assert source.kind == "image"
        [frame] = source
    assert (frame.name, number_of(frame.image)) == ("stdin", 4)


def test_a_folder_that_can_not_be_listed_is_told_of(tmp_path, monkeypatch):
    images(tmp_path, "a.png", "b/c.png")
    own, told = os.scandir, []

    def listed(path):
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return own(path)

    monkeypatch.setattr(os, "scandir", listed)
    assert len(listing.in_folder(tmp_path, callback=told.append)) == 1
    assert list_folder(tmp_path, told.append).files == ("a.png",)
    text = f"{tmp_path / 'b'} can't be read and is left out: Permission denied."
    assert [event.text for event in told] == [text, text]


def test_a_piped_jpeg_that_holds_several_images_counts_as_one(pipe):
    """Phones and stereo cameras write such; a file of it is one image, too."""
    first, more = (Image.fromarray(plain(number)) for number in (3, 7))
    first.save(held := io.BytesIO(), "MPO", save_all=True, append_images=[more])
    plain_jpeg = encode_image(plain(5), ".jpg")
    lying = held.getvalue()[: held.getvalue().index(b"\xff\xd9") + 2]
    pipe(held.getvalue() + plain_jpeg + lying + plain_jpeg, step=100)
    with open_source("-") as source:
        assert [number_of(frame.image) for frame in source] == [3, 5, 3, 5]


def test_pages_of_what_is_no_file_are_told_and_not_chosen(pipe):
    held, told = io.BytesIO(), []
    pages = [Image.fromarray(plain(number)) for number in (3, 7)]
    pages[0].save(held, "GIF", save_all=True, append_images=pages[1:])
    pipe(held.getvalue())
    with open_source("-", callback=told.append) as source:
        assert len(list(source)) == 1
    assert "has 2 pages or frames; only the first is used" in told[0].text
    with pytest.raises(OptionError, match="--page is for image files"):
        open_source("-", page="all")


def test_a_piped_video(pipe, clip):
    pipe(clip.read_bytes(), step=1000)
    with open_source("-") as source:
        assert source.kind == "video"
        assert [number_of(frame.image) for frame in source] == list(range(20))


@pytest.fixture
def open_pipe(monkeypatch):
    """The writing end of a pipe that stays open."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with os.fdopen(writing, "wb", buffering=0) as file:
            yield file


@pytest.mark.parametrize("kind", ["png", "jpg", "y4m"])
def test_a_piped_frame_is_given_before_the_next_one_comes(open_pipe, kind):
    def put(number):
        if kind == "y4m":
            plane = np.full((24, 32), number, np.uint8)
            data = b"FRAME\n" + plane.tobytes() + bytes([128]) * (2 * 12 * 16)
            open_pipe.write((b"YUV4MPEG2 W32 H24 F10:1 C420\n" if number == 0 else b"") + data)
        else:
            open_pipe.write(encode_image(plain(number), f".{kind}"))

    put(0)
    with open_source("-", limit=3) as source:
        for count, frame in enumerate(source, 1):
            assert frame.index == count - 1
            if count < 3:
                put(count)
    assert count == 3  # and it ended, though the pipe is open


def test_a_limit_ends_an_open_pipe(open_pipe, clip):
    open_pipe.write(clip.read_bytes()[:60_000])
    with open_source("-", limit=2) as source:
        assert len(list(source)) == 2


def test_a_pipe_is_read_by_a_number_of_its_own(monkeypatch):
    """The thread of one pipe took the bytes of the next one, which had got the closed number."""
    (reading, writing), taken = os.pipe(), []
    os.write(writing, b"1")
    with os.fdopen(reading, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        stream = piped.open_stdin()
    following = os.pipe()
    assert following[0] == reading
    os.write(following[1], b"another")
    for byte in (b"2", b"3"):
        os.write(writing, byte)
        taken.append(stream.peek(int(byte)))
    os.close(writing)
    assert taken == [b"12", b"123"]
    assert stream.read() == b"123"
    for number in following:
        os.close(number)


def test_a_silent_pipe_does_not_hold_up_a_request_to_stop(open_pipe):
    open_pipe.write(encode_image(plain(1), ".png"))
    with open_source("-") as source:
        threading.Timer(0.1, source.stop).start()
        assert len(list(source)) <= 1
    assert source.failures == []


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mpegts", "libx264"), ("matroska", "libx264"), ("mp4", "libx264"), ("yuv4mpegpipe", None)],
)
def test_a_piped_container_gives_what_the_file_gives(pipe, tmp_path, container, codec):
    """MP4 as FFmpeg writes it: the index comes last."""
    av = pytest.importorskip("av")
    path = tmp_path / "x"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec or "wrapped_avframe", rate=50)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            image = np.full((48, 64, 3), number * 20, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    pipe(path.read_bytes(), step=999)
    with open_source(path) as there, open_source("-") as source:
        pairs = list(zip(there, source, strict=True))
        assert (source.kind, source.fps) == ("video", 50)
    assert len(pairs) == 12
    for expected, found in pairs:
        assert found.time == pytest.approx(expected.time)
        assert np.array_equal(found.image, expected.image)


def test_an_index_that_comes_after_too_much_is_said(pipe, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr("fcnseg.io.sources.stdin.MOST_KEPT", 100)
    pipe(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\x10\0mdat" + bytes(4096))
    with pytest.raises(MediaError, match="index at the end") as caught:
        open_source("-")
    assert "faststart" in caught.value.hint


def test_a_piped_video_without_pyav(pipe, clip, monkeypatch):
    monkeypatch.setattr("fcnseg.io.sources.stdin.has_pyav", lambda: False)
    pipe(clip.read_bytes())
    with pytest.raises(MissingExtra, match="piped in needs the extra 'video'"):
        open_source("-")


def test_piped_garbage_is_one_error(pipe):
    pytest.importorskip("av")
    pipe(np.random.default_rng(0).bytes(50_000))
    with pytest.raises(MediaError, match="neither an image nor a video"):
        open_source("-")


def test_a_broken_image_in_a_pipe_is_a_failure(pipe):
    good = encode_image(plain(2), ".jpg")
    bad = good[:200] + bytes(20) + good[220:-2] + b"\xff\xd9"
    pipe(good + bad[:2] + b"\xff\xda\x00\x02\x00\xff\xd9" + good)
    with open_source("-") as source:
        assert [number_of(frame.image) for frame in source] == [2, 2]
        assert source.failures[0][0] == "stdin_000001"


def test_nothing_piped(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(OptionError, match="nothing is piped"):
        open_source("-")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(MediaError, match="empty"):
        open_source("-")


def test_numbers_that_a_sequence_lacks_are_said(tmp_path):
    images(tmp_path, *(f"f_{n:02d}.png" for n in (1, 2, 4, 5, 9, 30)))
    notes = []
    with open_source(tmp_path / "f_%02d.png", fps=5, callback=notes.append) as source:
        assert len(list(source)) == 6
    [note] = notes
    assert note.level == "warning"
    assert "no file has number 3, 6-8, 10-29;" in note.text
