"""Images: every kind of file people have, against Pillow and plain arithmetic."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from fcnseg.errors import MediaError
from fcnseg.io.images import (
    decode_image,
    encode_image,
    image_size,
    read_image,
    resize_image,
    resize_labels,
    write_bytes,
    write_image,
)

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
CORNERS = np.zeros((40, 60, 3), np.uint8)
CORNERS[:20, :30], CORNERS[20:, :30], CORNERS[20:, 30:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path: Path, array, **options) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_files_are_read_exactly(tmp_path, suffix):
    assert np.array_equal(read_image(save(tmp_path / f"a{suffix}", NOISE)), NOISE)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    path = save(tmp_path / "a.jpg", np.kron(NOISE, np.ones((8, 8, 1), np.uint8)))
    reference = np.asarray(Image.open(path)).astype(int)
    assert np.abs(read_image(path) - reference).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quality = {"quality": 100} if suffix in (".jpg", ".webp") else {}
    path = save(tmp_path / f"a{suffix}", CORNERS, exif=exif, **quality)
    with Image.open(path) as image:
        reference = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    found = read_image(path)
    assert found.shape == reference.shape
    assert np.abs(found - reference).mean() < 3
    assert image_size(path) == found.shape[:2]


def test_grey_and_one_bit_become_three_channels(tmp_path):
    grey = NOISE[:, :, 0]
    found = read_image(save(tmp_path / "a.png", grey))
    assert np.array_equal(found, np.dstack([grey] * 3))
    black_white = Image.fromarray(grey > 100)
    assert set(np.unique(read_image(save(tmp_path / "b.png", black_white)))) == {0, 255}


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, suffix):
    deep = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep)
    reference = np.rint(deep[:, :, ::-1] / 257)
    assert np.array_equal(read_image(tmp_path / f"a{suffix}"), reference)
    cv2.imwrite(str(tmp_path / f"grey{suffix}"), deep[:, :, 0])
    assert np.array_equal(
        read_image(tmp_path / f"grey{suffix}")[:, :, 1], np.rint(deep[:, :, 0] / 257)
    )


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_floats_are_taken_as_0_to_1_or_0_to_255(tmp_path, top):
    values = np.linspace(0, top, 60, dtype=np.float32).reshape(6, 10)
    cv2.imwrite(str(tmp_path / "a.tiff"), values)
    reference = np.rint(values * (255 / top))
    assert np.abs(read_image(tmp_path / "a.tiff")[:, :, 0] - reference).max() <= 1


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.dstack([NOISE, np.full((20, 30), 255, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 128
    found = read_image(save(tmp_path / "a.png", rgba))
    assert found[0, 0].tolist() == [255, 255, 255]
    half = NOISE[0, 1] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(found[0, 1] - half).max() <= 0.5 + 1e-6
    assert np.array_equal(found[1:], NOISE[1:])


def test_palette_images_become_their_colours(tmp_path):
    image = Image.fromarray(RNG.integers(0, 3, (20, 30), dtype=np.uint8))
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0])
    for suffix in (".png", ".gif", ".bmp"):
        path = save(tmp_path / f"a{suffix}", image)
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_the_size_of_a_png_is_in_its_header(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", CORNERS)
    monkeypatch.setattr(PngImageFile, "load", lambda _: pytest.fail("it is decoded"))
    assert image_size(path) == (40, 60)


@pytest.mark.parametrize("name", ["straße.png", "画像 😀.jpg", "a b's.bmp"])
def test_any_name_works(tmp_path, name):
    path = tmp_path / "ordner ü" / name
    write_image(path, CORNERS)
    assert image_size(path) == (40, 60)
    assert np.abs(read_image(path).astype(int) - CORNERS).mean() < 6


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".gif", ".webp"])
def test_a_cut_file_is_an_error_never_half_a_image(tmp_path, suffix, capfd):
    big = RNG.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    data = save(tmp_path / f"a{suffix}", big).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match="truncated"):
        read_image(tmp_path / f"cut{suffix}")
    assert capfd.readouterr() == ("", "")


def test_a_png_chunk_that_claims_gigabytes_is_not_given_them(monkeypatch):
    data = bytearray(encode_image(CORNERS))
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = (0xC5FFFFFF).to_bytes(4, "big")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV would take 3.3 GB"))
    assert np.array_equal(decode_image(bytes(data)), CORNERS)  # all of it is there
    with pytest.raises(MediaError, match="truncated"):
        decode_image(bytes(data[: at + 20]))


def test_a_jpeg_that_lacks_the_mark_of_its_end_alone_is_whole(tmp_path):
    """As every viewer shows it; a byte of its pixels less, and it is truncated."""
    data = encode_image(RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8), ".jpg")
    whole = decode_image(data)
    for cut in (data[:-2], data[:-1]):
        assert np.array_equal(decode_image(cut), whole)
    for lost in (3, 4, 9):
        with pytest.raises(MediaError, match="truncated"):
            decode_image(data[:-lost])
    progressive = save(tmp_path / "a.jpg", CORNERS, progressive=True).read_bytes()
    with pytest.raises(MediaError, match="truncated"):
        decode_image(progressive[:-2])  # whether another scan followed is not known


def test_png_with_more_after_its_end_is_whole():
    assert decode_image(encode_image(CORNERS) + b"\0" * 100).shape == (40, 60, 3)


def test_jpeg_with_more_after_its_end_is_whole():
    data = encode_image(CORNERS, ".jpg")
    assert decode_image(data + b"\0" * 100).shape == (40, 60, 3)


def test_what_is_no_image_is_said_clearly(tmp_path):
    (tmp_path / "text.png").write_text("hello\n" * 50)
    (tmp_path / "empty.png").touch()
    for path, message in [
        (tmp_path / "text.png", "text.png is not an image"),
        (tmp_path / "empty.png", "empty.png is empty"),
        (tmp_path / "gone.png", "no file .*gone.png"),
        (tmp_path, "is a folder"),
    ]:
        with pytest.raises(MediaError, match=message):
            read_image(path)
    with pytest.raises(MediaError, match=r"text.png is not an image"):
        image_size(tmp_path / "text.png")


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, CORNERS)
    before = path.read_bytes()

    class FullDisk(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: FullDisk())
        with pytest.raises(MediaError, match="No space left"):
            write_image(path, NOISE)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="Can't write"):
        write_bytes(tmp_path / "file" / "a.png", b"x")
    with pytest.raises(MediaError, match=r"as '\.xyz'"):
        write_image(tmp_path / "a.xyz", NOISE)


def test_resizing():
    gradient = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (40, 1, 3))
    small = resize_image(gradient, (20, 30))
    assert np.abs(small - gradient.reshape(20, 2, 30, 2, 3).mean((1, 3))).max() <= 0.5
    assert resize_image(gradient, (61, 77)).shape == (61, 77, 3)
    assert resize_image(gradient, (40, 60)) is gradient


@pytest.mark.parametrize("bands", [1, 2, 5, 16])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_any_number_of_bands_is_resized(bands: int, kind: type) -> None:
    image = (np.random.default_rng(0).random((50, 70, bands)) * 200).astype(kind)
    for size in ((33, 47), (80, 90)):
        resized = resize_image(image, size)
        assert (resized.shape, resized.dtype) == ((*size, bands), kind)
        for band in range(bands):
            alone = resize_image(np.ascontiguousarray(image[:, :, band]), size)
            assert np.abs(resized[:, :, band].astype(float) - alone).max() <= 1


@pytest.mark.parametrize("size", [(10, 15), (33, 47), (40, 60), (7, 200)])
def test_labels_are_resized_to_the_nearest(size):
    labels = RNG.integers(0, 5, (20, 30), dtype=np.uint8)
    reference = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(resize_labels(labels, size), np.asarray(reference))


def test_encoding_grey_and_suffix():
    data = encode_image(NOISE[:, :, 0])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), NOISE[:, :, 0])
