"""Labels: the stored indices come back, whatever the mode of the file."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fcnseg.classes import ClassMap
from fcnseg.errors import MediaError
from fcnseg.io.images import encode_labels, write_labels
from fcnseg.io.labels import read_array, read_raw_labels

RNG = np.random.default_rng(0)
INDICES = RNG.integers(0, 4, (21, 33), dtype=np.uint8)
PALETTE = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [200, 200, 0]], np.uint8)
ADAM7 = [
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
    (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
]  # fmt: skip


def with_palette(indices) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(PALETTE.tobytes())
    return image


def png(size: tuple[int, int], bits: int, color: int, rows: bytes, interlace: int = 0) -> bytes:
    """A PNG by hand, for the kinds no library at hand writes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", size[1], size[0], bits, color, 0, 0, interlace)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def rows_of(values) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in values)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".tiff"])
def test_palette_indices_survive(tmp_path, suffix):
    with_palette(INDICES).save(tmp_path / f"a{suffix}")
    raw = read_raw_labels(tmp_path / f"a{suffix}")
    assert raw.mode == "P"
    assert np.array_equal(raw.values, INDICES)
    assert raw.palette is not None
    assert np.array_equal(raw.palette[:4], PALETTE)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_of_few_bits(tmp_path, bits):
    indices = INDICES % (2 if bits == 1 else 4)
    with_palette(indices).save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_raw_labels(tmp_path / "a.png").values, indices)


def test_palette_with_transparency(tmp_path):
    with_palette(INDICES).save(tmp_path / "a.png", transparency=0)
    assert np.array_equal(read_raw_labels(tmp_path / "a.png").values, INDICES)


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "LA", "RGB", "RGBA"])
def test_every_png_mode(tmp_path, mode):
    wide = INDICES.astype(np.uint16) * 300
    colors = PALETTE[INDICES]
    alpha = np.full((*INDICES.shape, 1), 77, np.uint8)
    array, expected = {
        "L": (INDICES, INDICES),
        "1": (INDICES > 1, INDICES > 1),
        "I;16": (wide, wide),
        "LA": (np.dstack([INDICES, alpha]), INDICES),
        "RGB": (colors, colors),
        "RGBA": (np.dstack([colors, alpha]), colors),
    }[mode]
    Image.fromarray(array).save(tmp_path / "a.png")
    raw = read_raw_labels(tmp_path / "a.png")
    assert raw.mode.startswith(mode[0])
    assert raw.palette is None
    assert np.array_equal(raw.values, expected)
    assert raw.values.dtype == (np.uint8 if raw.values.ndim == 3 else np.int32)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path, bits):
    values = np.random.default_rng(1).integers(0, 2**bits, (21, 32), dtype=np.uint8)
    per_byte = 8 // bits
    shifts = np.arange(per_byte)[::-1] * bits
    packed = (values.reshape(21, -1, per_byte) << shifts).sum(2).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(values.shape, bits, 0, rows_of(packed)))
    assert np.array_equal(read_raw_labels(tmp_path / "a.png").values, values)


def test_grey_with_alpha_at_16_bits(tmp_path):
    """Pillow keeps the upper 8 bits only, where small indices are all 0."""
    values = np.dstack([INDICES.astype(">u2") * 300, np.full(INDICES.shape, 9, ">u2")])
    (tmp_path / "a.png").write_bytes(png(INDICES.shape, 16, 4, rows_of(values.astype(">u2"))))
    assert np.array_equal(read_raw_labels(tmp_path / "a.png").values, INDICES.astype(int) * 300)


def test_interlaced_png(tmp_path):
    passes = [INDICES[y::dy, x::dx] for y, x, dy, dx in ADAM7]
    data = png(INDICES.shape, 8, 0, b"".join(map(rows_of, passes)), interlace=1)
    (tmp_path / "a.png").write_bytes(data)
    assert np.array_equal(read_raw_labels(tmp_path / "a.png").values, INDICES)


def test_jpeg_and_webp(tmp_path):
    two = np.kron(INDICES > 1, np.ones((16, 16), bool)).astype(np.uint8) * 255
    Image.fromarray(two).save(tmp_path / "a.jpg")
    raw = read_raw_labels(tmp_path / "a.jpg")
    assert raw.mode == "L"
    assert np.array_equal(raw.values > 127, two > 127)
    Image.fromarray(PALETTE[INDICES]).save(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(read_raw_labels(tmp_path / "a.webp").values, PALETTE[INDICES])


def test_tiff_of_floats(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tiff"), INDICES.astype(np.float32))
    assert np.array_equal(read_raw_labels(tmp_path / "a.tiff").values, INDICES)
    cv2.imwrite(str(tmp_path / "b.tiff"), INDICES.astype(np.float32) / 3)
    with pytest.raises(MediaError, match="not integers"):
        read_raw_labels(tmp_path / "b.tiff")


def test_orientation_is_applied_as_to_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(INDICES).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_raw_labels(tmp_path / "a.png").values, np.rot90(INDICES, -1))


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@settings(max_examples=30, deadline=None)
def test_written_labels_come_back(labels):
    for palette in (None, ClassMap.numbered(3).palette()):
        image = Image.open(io.BytesIO(encode_labels(labels, palette)))
        assert image.mode == ("L" if palette is None else "P")
        assert np.array_equal(np.asarray(image), labels)


def test_written_palette_is_the_classes(tmp_path):
    classes = ClassMap.of(["a", "b"], [[1, 2, 3], [200, 100, 0]])
    path = tmp_path / "ünter" / "a.png"
    write_labels(path, (INDICES % 2).astype(np.uint8), classes.palette())
    raw = read_raw_labels(path)
    assert raw.palette is not None
    assert np.array_equal(raw.palette[:2], classes.colors)


def test_what_is_no_label_file_is_said(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(MediaError, match="not an image"):
        read_raw_labels(tmp_path / "a.png")
    with pytest.raises(MediaError, match="no file"):
        read_raw_labels(tmp_path / "b.png")


def test_of_a_tiff_the_first_page_is_read_wherever_a_smaller_version_stands(tmp_path):
    file, is_smaller = io.BytesIO(), struct.pack("<HHII", 254, 4, 1, 1)
    pages = [Image.fromarray(INDICES)]
    Image.new("L", (3, 2)).save(file, "TIFF", save_all=True, append_images=pages, tiffinfo={254: 1})
    before, _, after = file.getvalue().rpartition(is_smaller)
    (tmp_path / "a.tif").write_bytes(before + struct.pack("<HHII", 254, 4, 1, 0) + after)
    raw = read_raw_labels(tmp_path / "a.tif")
    assert np.array_equal(raw.values, INDICES)
    assert raw.pages == 1


@pytest.mark.parametrize(
    "array", [np.zeros((0, 4, 3), np.uint8), np.array([[0, 1, -(2**63)]])], ids=["empty", "wide"]
)
def test_arrays_that_hold_no_labels_are_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(MediaError, match="labels are whole numbers"):
        read_array(tmp_path / "a.npy")
