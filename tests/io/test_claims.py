"""Image files that claim more pixels than their bytes can hold."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fcnseg.errors import MediaError
from fcnseg.io.bands.files import decode_bands, page_of
from fcnseg.io.content.integrity import check_claim, claimed_size
from fcnseg.io.fingerprint import summarize_image
from fcnseg.io.images import decode_image, encode_image
from fcnseg.io.labels import decode_mask, read_alpha, read_raw_labels

FORMS = (
    "PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "TGA", "PCX", "SGI", "DDS",
)  # fmt: skip


def plain(form, mode="L", size=(48, 32), **options):
    """an image of one color as the bytes of a file."""
    file = io.BytesIO()
    Image.new(mode, size, 1).save(file, form, **options)
    return file.getvalue()


def webp_of(width, height):
    """A lossless WebP of one color: 34 bytes, however large it is."""
    data = bytearray(plain("WEBP", lossless=True))
    struct.pack_into("<I", data, 21, width - 1 | height - 1 << 14)
    return bytes(data)


def png_of(width, height):
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts
    )


def jpeg_of(width, height):
    data = bytearray(plain("JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def bmp_of(width, height):
    data = bytearray(plain("BMP"))
    struct.pack_into("<ii", data, 18, width, height)
    return bytes(data)


def radiance_of(width, height):
    return encode_image(np.full((32, 48, 3), 9, np.uint8), ".hdr").replace(
        b"-Y 32 +X 48", b"-Y %d +X %d" % (height, width)
    )


BOMBS = {
    "webp": webp_of(16000, 13000),
    "png": png_of(30000, 30000),
    "jpg": jpeg_of(60000, 16000),
    "bmp": bmp_of(30000, 30000),
    "hdr": radiance_of(30000, 30000),
}


@pytest.mark.parametrize("form", BOMBS)
def test_a_small_file_that_claims_hundreds_of_megapixels_is_not_decoded(
    form, tmp_path, monkeypatch
):
    def never(*args, **options):
        raise AssertionError("it was decoded")

    monkeypatch.setattr("fcnseg.io.cv2.imdecode", never)
    monkeypatch.setattr(Image.Image, "load", never)
    data = BOMBS[form]
    path = tmp_path / f"a.{form}"
    path.write_bytes(data)
    for read in (
        lambda: decode_image(data, name="a"),
        lambda: decode_bands(data, "a"),
        lambda: page_of(data, 0, "a"),
        lambda: summarize_image("a", data=data),
        lambda: read_raw_labels(path),
        lambda: read_alpha(path),
        lambda: decode_mask(data),
    ):
        with pytest.raises(MediaError, match="can't hold them") as found:
            read()
        assert found.value.hint is not None
        assert "PNG" in found.value.hint


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("PNG", "1", {}),  # the most pixels that deflate puts into a byte
        ("TIFF", "1", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("JPEG", "L", {"optimize": True, "quality": 1}),
    ],
)
def test_a_plain_image_of_50_megapixels_is_none_of_them(form, mode, options):
    data = plain(form, mode, (10_000, 5_000), **options)
    assert claimed_size(data) == (10_000, 5_000)
    check_claim(data, "a")


def test_a_plain_webp_of_50_megapixels_is_none_of_them():
    data = webp_of(10_000, 5_000)
    assert len(data) < 50
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (10_000, 5_000)
    check_claim(data, "a")


def test_a_plain_png_of_200_megapixels_is_none_of_them():
    rows = zlib.compress(bytes((20_000 // 8 + 1) * 10_000))
    assert len(png_of(20_000, 10_000)) + len(rows) > 20_000 * 10_000 / 2**14
    data = png_of(20_000, 10_000).replace(zlib.compress(bytes(1000)), rows)
    check_claim(data, "a")


@pytest.mark.parametrize("form", FORMS)
def test_the_size_is_that_of_the_header(form):
    mode = "RGB" if form in ("JPEG2000", "DDS") else "L"
    assert claimed_size(plain(form, mode)) == (48, 32)


def test_the_size_of_other_kinds_of_webp():
    assert claimed_size(plain("WEBP", "RGB", quality=50)) == (48, 32)
    assert claimed_size(plain("WEBP", "RGBA", quality=50)) == (48, 32)
    assert claimed_size(radiance_of(48, 32)) == (48, 32)
    box = b"dataWindow\0box2i\0\x10\0\0\0" + struct.pack("<4i", -8, 0, 39, 31)
    assert claimed_size(b"v/1\1\2\0\0\0" + box) == (48, 32)  # OpenEXR
    assert claimed_size(b"nothing that is known") is None
    assert claimed_size(webp_of(48, 32)[:24]) is None


def test_a_png_whose_header_has_another_checksum_is_damaged():
    """FFmpeg, asked last, took the damaged size: seconds and 200 MB for 900 bytes."""
    data = bytearray(encode_image(np.zeros((40, 56, 3), np.uint8)))
    data[16:20] = struct.pack(">I", 60_000)
    with pytest.raises(MediaError, match="size does not match its checksum"):
        decode_image(bytes(data), name="a.png")


def tiff_of(width, height, bands=5, order="<"):
    """Uncompressed bands of 16 bits that few readers know; the data of 40 rows."""
    tags = {
        256: width,
        257: height,
        258: 16,
        259: 1,
        262: 1,
        273: 8,
        277: bands,
        278: height,
        279: 22400,
    }
    rows = b"".join(struct.pack(order + "HHLL", code, 4, 1, value) for code, value in tags.items())
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", 8 + 22400)
    return head + bytes(22400) + struct.pack(order + "H", len(tags)) + rows + bytes(4)


@pytest.mark.parametrize("order", "<>")
def test_the_size_of_a_tiff_is_that_of_its_tags(order):
    assert claimed_size(tiff_of(56, 40, order=order)) == (56, 40)
    assert claimed_size(tiff_of(56, 40, order=order)[:20]) is None
    with pytest.raises(MediaError, match="claims 56x16777256 pixels"):
        decode_bands(tiff_of(56, 16_777_256, order=order), "a.tif")


@pytest.mark.parametrize("rows", [41, 900_000])
def test_an_uncompressed_tiff_of_fewer_rows_than_it_claims_is_truncated(rows):
    pytest.importorskip("tifffile")
    with pytest.raises(MediaError, match="its last rows are missing"):
        decode_bands(tiff_of(56, rows), "a.tif")
