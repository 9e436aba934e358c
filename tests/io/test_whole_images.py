"""Images whose data are not all there, whose depth is stated, and files that are something else."""

import io
import struct
import zipfile
import zlib

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from fcnseg.engines.model_files import header_in
from fcnseg.errors import MediaError
from fcnseg.io.bands.files import decode_bands, page_of
from fcnseg.io.content.byte_stream import ByteStream
from fcnseg.io.content.image_stream import next_image
from fcnseg.io.fingerprint import summarize_image
from fcnseg.io.images import decode_image, image_size
from fcnseg.io.sources import open_source
from fcnseg.io.sources.rgb_frames import RgbConverter
from fcnseg.models.checkpoint import KEY

HIGH, WIDE = 64, 96
Y, X = np.mgrid[:HIGH, :WIDE]
COLORS = np.stack([40 + X, 230 - Y * 2, 90 + (X * Y) % 50], -1).astype(np.uint8)
GREY = COLORS[:, :, 0]


def as_jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def as_png(rows, *, interlaced=False):
    """A PNG of COLORS' size that holds these rows of bytes."""
    head = struct.pack(">IIBBBBB", WIDE, HIGH, 8, 2, 0, 0, interlaced)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def as_exr(image):
    stream = av.CodecContext.create("exr", "w")
    stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, "gbrpf32le"
    stream.time_base = 1
    frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="gbrpf32le")
    return b"".join(bytes(packet) for packet in stream.encode(frame))


@pytest.mark.parametrize("kept", [-1, -6])
def test_a_tiff_that_ends_within_its_tags_is_no_image(kept):
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, "TIFF", compression="tiff_lzw")  # tags come last
    assert np.array_equal(decode_image(file.getvalue()), COLORS)
    for decode in (decode_image, decode_bands):
        with pytest.raises(MediaError, match="within the tags"):
            decode(file.getvalue()[:kept], name="a.tif")


def test_a_jpeg_that_ends_before_its_last_row_is_no_image(tmp_path):
    data = as_jpeg(COLORS)
    cut = data[: len(data) // 2] + b"\xff\xd9"
    with pytest.raises(MediaError, match="last rows are missing"):
        decode_image(cut, name="a.jpg")
    with pytest.raises(MediaError, match="last rows are missing"):
        summarize_image("a.jpg", data=cut, colors=False)
    grey = COLORS.copy()
    grey[-16:, -16:] = 128
    assert decode_image(as_jpeg(grey))[-1, -1].tolist() == [128, 128, 128]


def test_a_png_whose_rest_is_zeros_is_no_image():
    """As a lost download or a disk leaves it; Pillow decodes the zeros to rows."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 3, (32, 48, 3), np.uint8)).save(
        file, "PNG"
    )
    whole = file.getvalue()
    data = whole[: len(whole) // 2].ljust(len(whole), b"\0")
    assert np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).any()
    with pytest.raises(MediaError, match="last rows are missing"):
        decode_image(data)


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_with_too_few_rows_is_no_image(interlaced):
    row = b"\0" + bytes(range(96)) * 3
    with pytest.raises(MediaError, match="last rows are missing"):
        decode_image(as_png(row * 20, interlaced=interlaced))
    if not interlaced:
        assert decode_image(as_png(row * HIGH)).shape == (HIGH, WIDE, 3)


def test_a_cut_exr_is_no_image():
    data = as_exr(COLORS)
    assert np.abs(decode_image(data).astype(int) - COLORS).max() <= 1
    for kept in (len(data) // 2, len(data) - 40):
        with pytest.raises(MediaError, match="last rows are missing"):
            decode_image(data[:kept])


def test_tiles_that_a_tiff_leaves_out_are_zero():
    tifffile = pytest.importorskip("tifffile")
    tiles = [np.full((16, 16), 100, np.uint8), *[None] * (HIGH // 16 * WIDE // 16 - 1)]
    file = io.BytesIO()
    tifffile.imwrite(file, iter(tiles), shape=(HIGH, WIDE), dtype=np.uint8, tile=(16, 16),
                     photometric="minisblack")  # fmt: skip
    image = decode_image(file.getvalue())
    assert (image[:16, :16] == 100).all()
    assert image.sum() == 16 * 16 * 3 * 100


@pytest.mark.parametrize("bits", [10, 12])
def test_a_jpeg_2000_has_the_depth_that_it_states(bits):
    codecs = pytest.importorskip("imagecodecs")
    dark = (GREY // 2).astype(np.uint16)
    data = codecs.jpeg2k_encode(
        dark, level=0, codecformat="jp2", reversible=True, bitspersample=bits
    )
    expected = np.rint(dark * (255 / ((1 << bits) - 1)))
    assert np.abs(decode_image(data)[:, :, 0] - expected).max() <= 1


def test_an_array_of_yes_and_no_is_black_and_white():
    file = io.BytesIO()
    np.save(file, GREY > 90)
    assert (decode_image(file.getvalue())[:, :, 0] == np.where(GREY > 90, 255, 0)).all()


@pytest.mark.parametrize("kind", ["pfm", "pam", "hdr", "float tiff"])
def test_the_size_of_what_pillow_does_not_know(tmp_path, kind):
    path = tmp_path / f"a.{kind.split()[0]}"
    if kind == "pfm":
        path.write_bytes(
            b"PF\n%d %d\n-1.0\n" % (WIDE, HIGH) + (COLORS / 255).astype("<f4").tobytes()
        )
    elif kind == "pam":
        head = b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nENDHDR\n" % (WIDE, HIGH)
        path.write_bytes(head + COLORS.tobytes())
    elif kind == "hdr":
        cv2.imwrite(str(path), (COLORS / 255).astype(np.float32))
    else:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, (COLORS / 255).astype(np.float16), photometric="rgb")
    assert image_size(path) == (HIGH, WIDE)


@pytest.mark.parametrize("preview", [False, True])
def test_the_values_of_a_sensor_are_no_image(preview):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        if preview:
            tiff.write(COLORS[::4, ::4], photometric="rgb", subfiletype=1, subifds=1)
        tiff.write(GREY.astype(np.uint16) * 16, photometric="cfa", subfiletype=0)
    with pytest.raises(MediaError, match="a camera's raw file"):
        decode_image(file.getvalue(), name="a.dng")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0" * 128 + b"DICM" + b"\0" * 300, "is a DICOM file"),
        (b"\0" * 344 + b"n+1\0" + b"\0" * 99, "is a NIfTI volume"),
        (b"%PDF-1.4\n" + as_jpeg(COLORS), "is a PDF document"),
        (b"<?xml version='1.0'?>\n<svg width='9' height='9'/>", "is an SVG drawing"),
        (b"\r\n<!DOCTYPE html><title>404</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is only a Git LFS pointer"),
        (b"PK\3\4" + b"\0" * 90, "is a ZIP archive"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".dat"])
def test_what_is_no_image_is_named(tmp_path, start, said, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(start)
    with pytest.raises(MediaError, match=said) as raised:
        open_source(str(path))
    assert raised.value.hint
    with pytest.raises(MediaError, match=said):
        decode_image(start)


@pytest.mark.parametrize("before", [False, True])
def test_the_first_page_of_an_animated_png_is_its_first_image(before):
    images = [np.roll(COLORS, 8 * number, 1) for number in range(3)]
    first, *others = map(Image.fromarray, images)
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=others, default_image=before)
    data = file.getvalue()
    assert np.array_equal(decode_image(data), images[0])
    assert np.array_equal(decode_image(page_of(data, 0, "a.png")), images[0])


@pytest.mark.parametrize("claimed", [
    b"II*\0\x08\0\0\0\x01\0\x11\x01\x04\0\0\0\0\x40\x64\0\0\0" + bytes(4),
    b"BM\xff\xff\xff\xff",
])  # fmt: skip
def test_an_image_of_a_stream_that_claims_gigabytes_is_not_waited_for(claimed):
    asked = []
    data = as_jpeg(COLORS)
    chunks = (
        asked.append(n) or (claimed + bytes(100) + data if not n else data) for n in range(99)
    )
    stream = ByteStream(chunks)
    try:
        assert next_image(stream) == claimed + bytes(100)
        assert next_image(stream) == data
    finally:
        stream.close()
    assert len(asked) < 99


def test_of_an_attached_header_only_so_much_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("fcnseg.engines.model_files._MAX_HEADER_BYTES", 8)
    with zipfile.ZipFile(tmp_path / "a.pt2", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"a/extra/{KEY}", "0" * 100)
    assert header_in(tmp_path / "a.pt2") == "0" * 8


def test_the_matrix_ycgco_is_seen():
    """FFmpeg does not convert it: such a video was called broken."""
    red, green, blue = np.moveaxis(COLORS.astype(float), -1, 0)
    planes = [red / 4 + green / 2 + blue / 4, green / 2 - (red + blue) / 4, (red - blue) / 2]
    for full in (True, False):
        light, *others = planes if full else [plane * 219 / 255 for plane in planes]
        others = [plane * (1 if full else 224 / 219) + 128 for plane in others]
        stored = np.rint([light + (0 if full else 16), *others]).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(stored, format="yuv444p")
        frame.colorspace, frame.color_range = 8, 2 if full else 1
        assert np.abs(RgbConverter().to_rgb(frame).astype(int) - COLORS).max() <= 2
