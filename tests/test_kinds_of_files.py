"""Images and videos as cameras and programs write them: what was recorded is what is read."""

import io
import random
import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from fcnseg.errors import FcnsegError
from fcnseg.io.content import is_image
from fcnseg.io.content.pixels import eight_bits
from fcnseg.io.content.profiles import tone_mapped
from fcnseg.io.images import decode_image, read_image
from fcnseg.io.sources import open_source
from fcnseg.io.sources.files import count_pages
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter

av = pytest.importorskip("av")

HIGH, WIDE = 64, 64
Y, X = np.mgrid[:HIGH, :WIDE]
COLORS = np.stack([40 + X * 3, 200 - Y * 2, 90 + X * 0], -1).astype(np.uint8)
GREY = COLORS[:, :, :1]


def as_png(array, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def as_tiff(array, **options) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [4, 5])
def test_a_band_that_no_tag_calls_opacity_is_none(depth, bands):
    more = np.repeat(255 - GREY, bands - 3, axis=2)
    stored = np.dstack([COLORS, more]).astype(depth) * (257 if depth == np.uint16 else 1)
    data = as_tiff(stored, photometric="rgb", extrasamples=["unspecified"] * (bands - 3))
    assert np.array_equal(decode_image(data), COLORS)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_opacity_that_a_tag_names_lies_over_white(depth):
    alpha = 255 - GREY
    stored = np.dstack([COLORS, alpha]).astype(depth) * (257 if depth == np.uint16 else 1)
    data = as_tiff(stored, photometric="rgb", extrasamples=["unassalpha"])
    expected = decode_image(as_png(np.dstack([COLORS, alpha])))
    assert np.abs(decode_image(data).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("options", [{"tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}])
def test_layouts_of_tiff(options):
    wide = COLORS.astype(np.uint16) * 257
    assert np.array_equal(decode_image(as_tiff(COLORS, photometric="rgb", **options)), COLORS)
    assert np.array_equal(decode_image(as_tiff(wide, photometric="rgb", **options)), COLORS)
    planes = np.moveaxis(wide, -1, 0).copy()
    planar = as_tiff(planes, photometric="rgb", planarconfig="separate")
    assert np.array_equal(decode_image(planar), COLORS)


def test_grey_where_0_is_white():
    for stored in (255 - GREY[..., 0], 65535 - GREY[..., 0].astype(np.uint16) * 257):
        data = as_tiff(stored, photometric="miniswhite")
        assert np.array_equal(decode_image(data), np.repeat(GREY, 3, 2))


@pytest.mark.parametrize(("form", "maximum"), [(5, 100), (5, 1023), (6, 4095), (2, 1023)])
def test_the_stated_maximum_is_white(form, maximum):
    image = COLORS if form == 6 else GREY
    values = np.round(image / 255 * maximum).astype(">u2" if maximum > 255 else np.uint8)
    body = " ".join(map(str, values.ravel())).encode() if form == 2 else values.tobytes()
    data = f"P{form}\n# a camera\n{WIDE} {HIGH}\n{maximum}\n".encode() + body
    assert np.abs(decode_image(data).astype(int) - image).max() <= 255 / maximum + 1


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sensors_values_in_sixteen_bits_are_not_black(bits):
    values = np.linspace(0, (1 << bits) - 1, 256).round().astype(np.uint16)
    assert np.abs(eight_bits(values, "x").astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.int64])
def test_wide_integers_are_read_as_those_of_sixteen_bits(kind):
    """As Pillow's mode I: a program that writes 32 bits does not change the image."""
    values = np.arange(20, 3000, 8, np.uint16)
    assert (eight_bits(values.astype(kind), "x") == eight_bits(values, "x")).all()
    spread = np.linspace(-300, 30000, 256).astype(kind) if np.dtype(kind).kind == "i" else values
    assert eight_bits(spread, "x").min() <= 2


def test_floats_beyond_0_to_255_are_stretched():
    values = np.linspace(-300, 4000, 256).astype(np.float32)
    assert np.abs(eight_bits(values, "x").astype(int) - np.arange(256)).max() <= 1
    assert eight_bits(np.full((2, 2), np.nan, np.float32), "x").max() == 0


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_grey_with_a_transparent_value_is_as_with_opacity(depth):
    grey = np.full((HIGH, WIDE), 130, depth)
    grey[16:32, 16:32] = 0
    expected = np.full((HIGH, WIDE), 130 if depth == np.uint8 else 255, np.uint8)
    expected[16:32, 16:32] = 255
    seen = decode_image(as_png(grey, transparency=0))[..., 0]
    assert np.array_equal(seen[16:32, 16:32], expected[16:32, 16:32])
    assert (seen[0] < 255).all()


def test_pages_are_counted_and_said(tmp_path):
    frames = [Image.fromarray(np.roll(COLORS, 9 * n, 1)) for n in range(3)]
    for suffix in (".tif", ".gif", ".webp", ".png"):
        path = tmp_path / f"a{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert count_pages(path.read_bytes()) == 3
        said = []
        with open_source(path, callback=said.append) as source:
            assert len(list(source)) == 1
        assert "only the first is used" in said[0].text
    assert count_pages(as_png(COLORS)) == 1


@pytest.mark.parametrize("form", ["AVIF", "ICO", "TIFF", "BMP", "JPEG2000", "PCX"])
def test_images_are_known_by_content(tmp_path, form):
    path = tmp_path / "a.data"
    Image.fromarray(COLORS).save(path, form)
    with open_source(path) as source:
        [frame] = source
        assert (source.kind, frame.image.dtype) == ("image", np.uint8)
    if form not in ("PCX",):
        assert is_image(path.read_bytes()[:64])
        path.rename(tmp_path / "a.mp4")
        with open_source(tmp_path / "a.mp4") as source:
            assert source.kind == "image"


def test_a_folder_is_done_but_for_its_bad_images(tmp_path):
    for number in range(2):
        (tmp_path / f"good{number}.png").write_bytes(as_png(COLORS))
    huge = bytearray(as_png(COLORS))
    huge[16:24] = struct.pack(">II", 60000, 60000)
    import zlib

    huge[29:33] = struct.pack(">I", zlib.crc32(bytes(huge[12:29])))
    (tmp_path / "huge.png").write_bytes(huge)
    (tmp_path / "empty.png").write_bytes(b"")
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == ["good0", "good1"]
        assert len(source.failures) == 2


@pytest.mark.parametrize(
    "form", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "AVIF", "ICO", "PPM"]
)
def test_nothing_an_image_holds_escapes_as_another_error(form):
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, form)
    chance = random.Random(form)
    for _ in range(40):
        data = bytearray(file.getvalue())
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
        try:
            image = decode_image(bytes(data[: chance.choice([len(data), len(data) // 2])]))
        except FcnsegError:
            continue
        assert image.dtype == np.uint8
        assert image.shape[2] == 3


# Videos


def encode(path, codec="libx264", *, count=10, pixels="yuv420p", times=None, sound=False, **set_):
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=set_.pop("options", {}))
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, pixels
        for key, value in set_.items():
            setattr(stream.codec_context, key, value)
        voice = file.add_stream("aac", rate=48000, layout="mono") if sound else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(COLORS, 6 * number, 1), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for start in range(0, 19200 if voice else 0, 1024):
            wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave * 0.1, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, start
            file.mux(voice.encode(frame))
        if voice:
            file.mux(voice.encode(None))
    return path


def assert_seen(path, count=10, slack=12.0):
    with open_video(path) as reader:
        frames = list(reader)
        assert reader.damage_found() == ""
    assert len(frames) == count
    for number, (image, _) in enumerate(frames):
        assert np.abs(image.astype(int) - np.roll(COLORS, 6 * number, 1)).mean() < slack
    times = [time for _, time in frames]
    assert times == sorted(times)
    assert len(set(times)) == count


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libsvtav1", {}),
        ("a.mp4", "libx265", {"x265-params": "log-level=none"}),
        ("a.mov", "prores_ks", {"pix": "yuv422p10le"}),
        ("a.mpg", "mpeg2video", {"flags": "+ildct+ilme", "top": "1"}),
        ("a.mp4", "libx264", {"x264-params": "tff=1"}),
    ],
)
def test_codecs_and_interlaced_frames(tmp_path, name, codec, options, capfd):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    pixels = options.pop("pix", "yuv420p")
    path = encode(tmp_path / name, codec, pixels=pixels, options=options, bit_rate=4_000_000)
    assert_seen(path)


def test_a_clock_that_starts_again_and_uneven_times(tmp_path):
    part = encode(tmp_path / "a.ts").read_bytes()
    (tmp_path / "b.ts").write_bytes(part * 2)
    with open_video(tmp_path / "b.ts") as reader:
        times = [time for _, time in reader]
    assert len(times) == 20
    assert np.diff(times).min() > 0.03
    times = [0, 1, 2, 9, 10, 30, 31, 32, 50, 90]
    assert_seen(encode(tmp_path / "c.mkv", times=times))


@pytest.mark.parametrize(
    ("name", "aspect", "wide"),
    [
        ("b.mp4", Fraction(16, 11), WIDE),
        ("b.webm", 1, WIDE * 16 / 11),
        ("b.avi", 1, WIDE * 16 / 11),
    ],
)
def test_the_aspect_of_pixels_is_kept(tmp_path, name, aspect, wide):
    path = encode(tmp_path / "a.mp4", sample_aspect_ratio=Fraction(16, 11))
    with open_source(path) as source:
        assert source.aspect == Fraction(16, 11)
    with VideoWriter(tmp_path / name, Fraction(25), (HIGH, WIDE), aspect=source.aspect) as writer:
        writer.write(COLORS)
    with open_video(tmp_path / name) as reader:
        assert reader.aspect == aspect
        assert abs(next(iter(reader))[0].shape[1] - wide) <= 1


@pytest.mark.parametrize("name", ["out.webm", "out.mp4", "out.mkv"])
def test_sound_is_kept_in_every_container(tmp_path, name):
    path = encode(tmp_path / "a.mp4", sound=True)
    with VideoWriter(tmp_path / name, Fraction(25), (HIGH, WIDE), audio=path) as writer:
        for _ in range(10):
            writer.write(COLORS)
    assert writer.encoder.sound_warning == ""
    with av.open(str(tmp_path / name)) as file:
        seconds = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    assert 0.3 < seconds < 0.6


def test_opacity_in_a_video_lies_over_white(tmp_path):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, "argb"
        rgba = np.dstack([COLORS, np.where(X < 32, 0, 255).astype(np.uint8)])
        file.mux(
            stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="argb"))
        )
        file.mux(stream.encode(None))
    with open_video(path) as reader:
        [(image, _)] = reader
    assert (image[:, :32] == 255).all()
    assert np.array_equal(image[:, 32:], COLORS[:, 32:])


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58), (18, 0.75)])
def test_hdr_white_is_white_and_black_black(transfer, white):
    levels = np.array([[[0] * 3, [round(white * 65535)] * 3, [65535] * 3]], np.uint16)
    black, diffuse, peak = tone_mapped(levels, transfer)[0, :, 0].astype(int)
    assert black == 0
    assert 235 <= diffuse <= peak <= 255


def test_hdr_is_said(tmp_path):
    if "libx265" not in av.codecs_available:
        pytest.skip("this PyAV has no libx265")
    path = encode(
        tmp_path / "a.mp4", "libx265", pixels="yuv420p10le",
        options={"x265-params": "log-level=none"},
        color_primaries=9, color_trc=16, colorspace=9,
    )  # fmt: skip
    said = []
    with open_source(path, callback=said.append) as source:
        assert len(list(source)) == 10
    assert "HDR (PQ)" in said[0].text


def test_a_path_is_read_as_its_bytes_are(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(COLORS).save(path, "AVIF", quality=95)
    assert np.abs(read_image(path).astype(int) - COLORS).mean() < 4
