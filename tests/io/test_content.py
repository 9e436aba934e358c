"""Image files of rare layouts, against Pillow, tifffile, FFmpeg and what they were made of."""

import io
import shutil
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fcnseg.errors import MediaError
from fcnseg.io.bands.files import decode_bands, page_of
from fcnseg.io.content import may_have_profile
from fcnseg.io.images import decode_image, image_size, read_image
from fcnseg.io.sources import open_source
from fcnseg.io.sources.files import count_pages

tifffile = pytest.importorskip("tifffile")

HIGH, WIDE = 24, 32
Y, X = np.mgrid[:HIGH, :WIDE]
COLORS = np.stack([40 + X * 6, 230 - Y * 8, 90 + (X * Y) % 50], -1).astype(np.uint8)
GREY = COLORS[:, :, 0]
GREYS = np.repeat(GREY[:, :, None], 3, 2)
ALPHA = np.where(X < 12, 0, 255).astype(np.uint8)


def as_tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def over_white(image, alpha):
    return np.where(alpha[:, :, None] == 255, image, 255)


def stored_so(image, orientation):
    """What a file of this orientation holds so that the image is seen."""
    turned = {6: 1, 3: 2, 8: 3}.get(orientation)
    if turned:
        return np.ascontiguousarray(np.rot90(image, turned))
    return {
        2: image[:, ::-1],
        4: image[::-1],
        5: image.swapaxes(0, 1),
        7: np.rot90(image, 2).swapaxes(0, 1),
    }[orientation]


PACKED = struct.Struct("<HHI")


def packed_tiff(values, bits):
    """RGB of values that take a few bits each."""
    text = ["".join(f"{value:0{bits}b}" for value in row.ravel()) for row in values]
    strip = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in text)
    entries = [(256, WIDE), (257, HIGH), (259, 1), (262, 2), (273, 14), (277, 3), (278, HIGH)]
    entries += [(258, 8), (279, len(strip))]
    head = b"II*\0" + struct.pack("<I", 14 + len(strip)) + struct.pack("<3H", *[bits] * 3) + strip
    tags = b"".join(
        struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, value)
        for tag, value in sorted(entries)
    )
    return head + struct.pack("<H", len(entries)) + tags + bytes(4)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (as_tiff(1 - (GREY / 255).astype(np.float32), photometric="miniswhite"), GREYS),
        (as_tiff(255 - GREY.astype(np.int16), photometric="miniswhite"), GREYS),
        (packed_tiff(COLORS >> 4, 4), (COLORS >> 4) * 17),
        (packed_tiff(COLORS >> 6, 2), (COLORS >> 6) * 85),
        (packed_tiff(COLORS >> 7, 1), (COLORS >> 7) * 255),
        (
            as_tiff(np.dstack([GREY, ALPHA]), photometric=1, extrasamples=[2], planarconfig=1),
            over_white(GREYS, ALPHA),
        ),
        (
            as_tiff(
                np.dstack([GREY, ALPHA]).astype(np.uint16) * 257,
                photometric=1,
                extrasamples=[2],
                planarconfig=1,
            ),
            over_white(GREYS, ALPHA),
        ),
        (
            as_tiff(np.dstack([COLORS, GREY]), photometric=1, extrasamples=[0] * 3, planarconfig=1),
            COLORS,
        ),
        (
            as_tiff(np.stack([GREY, ALPHA]), photometric=1, extrasamples=[2], planarconfig=2),
            over_white(GREYS, ALPHA),
        ),
        (
            as_tiff(
                np.moveaxis(np.dstack([COLORS * (ALPHA > 0)[:, :, None], ALPHA]), -1, 0),
                photometric=2,
                extrasamples=[1],
                planarconfig=2,
            ),
            over_white(COLORS, ALPHA),
        ),
        (as_tiff((COLORS / 255).astype(np.float16), photometric="rgb"), COLORS),
        (as_tiff((COLORS / 255).astype(np.float64), photometric="rgb"), COLORS),
        (
            as_tiff(np.dstack([255 - COLORS, 0 * GREY]).astype(np.uint16) * 257, photometric=5),
            COLORS,
        ),
    ],
    ids=[
        "white-float",
        "white-int",
        "4bit",
        "2bit",
        "1bit",
        "ga",
        "ga16",
        "four",
        "ga-planes",
        "rgba-planes",
        "half",
        "double",
        "cmyk16",
    ],
)
def test_tiffs_of_rare_layouts(data, expected, request):
    if request.node.callspec.id in ("2bit", "4bit"):
        pytest.importorskip("imagecodecs", reason="tifffile unpacks 2 and 4 bits with it")
    assert np.abs(decode_image(data).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("bits", [10, 12])
def test_packed_values_are_dark_where_they_are_small(bits):
    dark = COLORS.astype(int) // 2
    expected = np.rint(dark * (255 / ((1 << bits) - 1)))
    assert np.abs(decode_image(packed_tiff(dark, bits)) - expected).max() <= 1


@pytest.mark.parametrize("compression", ["png", "jpegxl", "jpeg2000", "webp", "lerc", "zstd"])
def test_what_opencv_can_not_decompress_is_not_black(compression):
    pytest.importorskip("imagecodecs")
    data = as_tiff(COLORS, photometric="rgb", compression=compression)
    expected = tifffile.imread(io.BytesIO(data))
    assert np.array_equal(decode_image(data), expected)
    assert np.array_equal(decode_bands(data, "it").pixels, expected)


@pytest.mark.parametrize("shift", [0, 4], ids=["8bit", "12bit"])
def test_jpegs_that_opencv_and_pillow_do_not_know(shift):
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = COLORS.astype(np.uint16 if shift else np.uint8) << shift
    assert np.abs(decode_image(imagecodecs.jpegls_encode(deep)).astype(int) - COLORS).max() <= 1
    if shift:
        data = imagecodecs.jpeg_encode(deep, level=97, bitspersample=12)
        expected = np.rint(imagecodecs.jpeg_decode(data) * (255 / 4095))
        assert np.abs(decode_image(data) - expected).max() <= 1


@pytest.mark.parametrize("top", [1, -1])
@pytest.mark.parametrize("opacity", [0, 0xFF000000])
def test_a_bmp_says_where_its_colors_are(top, opacity):
    """Red in the lowest byte; the highest is opacity only where the header says so."""
    masks = struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, opacity)
    head = struct.pack("<IiiHHIIiiII", 56, WIDE, -top * HIGH, 1, 32, 3, 0, 0, 0, 0, 0) + masks
    pixels = np.dstack([COLORS, ALPHA])[::top].tobytes()
    data = b"BM" + struct.pack("<IHHI", 70 + len(pixels), 0, 0, 70) + head + pixels
    assert np.array_equal(decode_image(data), over_white(COLORS, ALPHA) if opacity else COLORS)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "planes", "five"])
def test_a_tiff_is_upright_whoever_decodes_it(orientation, kind):
    stored = stored_so(COLORS, orientation)
    options = {"photometric": "rgb", "extratags": [(274, 3, 1, orientation, True)]}
    if kind == "planes":
        stored = np.moveaxis(stored.astype(np.uint16) * 257, -1, 0)
        options["planarconfig"] = "separate"
    elif kind == "five":
        stored = np.concatenate([stored, stored[:, :, :2]], 2)
        options["extrasamples"] = [0, 0]
    elif kind != "uint8":
        stored = stored.astype(np.uint16) * 257 if kind == "uint16" else stored / 255
    array = np.ascontiguousarray(
        stored.astype(kind if kind in ("uint8", "float16") else stored.dtype)
    )
    data = as_tiff(array, **options)
    assert np.abs(decode_image(data).astype(int) - COLORS).max() <= 1
    assert decode_bands(data, "it").pixels.shape[:2] == COLORS.shape[:2]


@pytest.mark.parametrize(
    ("kind", "nothing"), [(np.float32, -9999), (np.int16, -32768), (np.uint16, 65535)]
)
def test_no_data_is_the_least_and_does_not_stretch_the_rest(kind, nothing):
    values = GREY.astype(np.float64)
    values = (values / 255 if kind == np.float32 else values * 16).astype(kind)
    values[:3] = nothing
    tag = [(42113, 2, 0, str(nothing), True)]
    shown = decode_image(as_tiff(values, photometric="minisblack", extratags=tag))
    assert shown[:3].max() <= shown[3:].min()
    assert shown[3:].max() > 200
    stored = decode_bands(as_tiff(values, photometric="minisblack", extratags=tag), "it").pixels
    assert np.isnan(stored[:3]).all() == (kind != np.uint16)


def test_a_smaller_version_is_no_page_wherever_it_stands(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(COLORS[::4, ::4], photometric="rgb", subfiletype=1)
        file.write(COLORS, photometric="rgb")
        file.write(COLORS[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(COLORS[::-1], photometric="rgb")
    data = path.read_bytes()
    assert count_pages(data) == 2
    assert np.array_equal(read_image(path), COLORS)
    assert np.array_equal(decode_bands(data, "it").pixels, COLORS)
    assert image_size(path) == (HIGH, WIDE)
    assert np.array_equal(decode_image(page_of(data, 1, "it")), COLORS[::-1])


@pytest.mark.parametrize("most", [HIGH * WIDE // 3, HIGH * WIDE - 1])
def test_tags_are_known_however_many_pixels_there_are(monkeypatch, recwarn, most):
    """Pillow warns of images larger than its limit, and refuses those twice as large."""
    data = as_tiff(np.dstack([COLORS, ALPHA]), photometric="rgb", extrasamples=["unspecified"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert np.array_equal(decode_image(data), COLORS)
    assert not recwarn.list


def test_a_bigtiff_s_profile_is_seen():
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "TIFF", big_tiff=True, icc_profile=b"any")
    assert may_have_profile(file.getvalue())


def test_what_a_text_of_a_png_says_is_no_transparency():
    file, text = io.BytesIO(), PngInfo()
    text.add(b"teXt", b"tRNS\0" + bytes([GREY[0, 0]]) * 2)
    Image.fromarray(GREY).save(file, "PNG", pnginfo=text)
    assert np.array_equal(decode_image(file.getvalue()), GREYS)


def test_a_page_keeps_its_values_and_tags():
    first = np.dstack([COLORS, GREY]).astype(np.uint16) * 100
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for each in (first, first[::-1]):
            writer.write(each, photometric="rgb", extrasamples=[0], metadata=None)
    page = page_of(file.getvalue(), 1, "it")
    assert np.array_equal(decode_bands(page, "it").pixels, first[::-1])
    assert not decode_bands(page, "it").alpha


def test_colours_in_lab_are_pillows():
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.fromarray(COLORS), *profiles, outputMode="LAB")
    file = io.BytesIO()
    lab.save(file, "TIFF")
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    assert np.array_equal(decode_image(file.getvalue()), expected)


def test_floats_of_formats_that_only_pillow_reads():
    file = io.BytesIO()
    Image.fromarray((GREY / 255).astype(np.float32)).save(file, "SPIDER")
    assert np.array_equal(decode_image(file.getvalue()), GREYS)


def test_plain_numbers_that_are_none_are_an_error():
    with pytest.raises(MediaError):
        decode_image(b"P3 1 1 255\n1 2 x\n")


def tiff_of(data, tags):
    """Bytes and what they are: tag -> type (3: 16 bits, 4: 32) and numbers."""
    entries, tail, at = b"", b"", 8 + len(data)
    for tag, (kind, *numbers) in sorted(tags.items()):
        stored = struct.pack(f"<{len(numbers)}{'HI'[kind - 3]}", *numbers)
        if len(stored) > 4:
            stored, tail = struct.pack("<I", at + len(tail)), tail + stored
        entries += PACKED.pack(tag, kind, len(numbers)) + stored.ljust(4, b"\0")
    listed = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", at + len(tail)) + data + tail + listed


SIDES = {256: (4, WIDE), 257: (4, HIGH), 273: (4, 8), 278: (4, HIGH)}


def test_a_palette_of_two_colors_in_a_tiff():
    which = GREY // 128
    data = np.packbits(which, axis=1).tobytes()
    colors = (3, 0, 200 << 8, 128 << 8, 30 << 8, 0, 90 << 8)
    more = {258: (3, 1), 259: (3, 1), 262: (3, 3), 277: (3, 1), 279: (4, len(data)), 320: colors}
    expected = np.array([[0, 128, 0], [200, 30, 90]], np.uint8)[which]
    assert np.array_equal(decode_image(tiff_of(data, SIDES | more)), expected)


def test_a_palette_of_sixteen_bits_in_a_tiff():
    which = GREY.astype(np.uint16) * 200
    colors = np.zeros((3, 2**16), np.uint16)
    colors[:, which.ravel()] = COLORS.reshape(-1, 3).T.astype(np.uint16) * 256
    expected = (colors[:, which] >> 8).transpose(1, 2, 0)
    data = as_tiff(which, photometric="palette", colormap=colors)
    assert np.array_equal(decode_image(data), expected)
    short = {256: (4, WIDE), 257: (4, HIGH), 258: (3, 16), 259: (3, 1), 262: (3, 3), 277: (3, 1)}
    more = {273: (4, 8), 278: (4, HIGH), 279: (4, which.nbytes), 320: (3, *range(6))}
    with pytest.raises(MediaError, match="palette has 2 colors"):
        decode_image(tiff_of(which.tobytes(), short | more))


def test_the_old_form_of_a_jpeg_in_a_tiff():
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, "JPEG", quality=95, subsampling=0)
    data = file.getvalue()
    length = (4, len(data))
    more = {258: (3, 8, 8, 8), 259: (3, 6), 262: (3, 6), 277: (3, 3), 279: length}
    more |= {513: (4, 8), 514: length, 530: (3, 1, 1)}
    found = decode_image(tiff_of(data, SIDES | more))
    assert np.abs(found.astype(int) - decode_image(data)).max() <= 3


def test_an_old_jpeg_in_a_tiff_that_can_not_be_decoded_is_not_black():
    more = {258: (3, 8), 259: (3, 6), 262: (3, 1), 277: (3, 1), 279: (4, 900)}
    with pytest.raises(MediaError, match="damaged"):
        decode_image(tiff_of(bytes(range(90)) * 10, SIDES | more | {513: (4, 8), 514: (4, 900)}))


def test_a_strip_whose_length_is_not_stated_is_read():
    more = {258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1), 279: (4, 0)}
    data = zlib.compress(GREY.tobytes())
    assert np.array_equal(decode_image(tiff_of(data, SIDES | more)), GREYS)


def test_inks_with_a_band_more():
    inks = np.dstack([255 - COLORS, np.zeros_like(GREY), GREY])
    more = {258: (3, 8, 8, 8, 8, 8), 259: (3, 1), 262: (3, 5), 277: (3, 5), 279: (4, inks.size)}
    found = decode_image(tiff_of(inks.tobytes(), SIDES | more | {338: (3, 0)}))
    assert np.abs(found.astype(int) - COLORS).max() <= 1


@pytest.mark.parametrize("bands", [3, 4])
def test_lab_colors_are_not_taken_for_rgb(bands):
    values = np.dstack([COLORS, GREY])[:, :, :bands].astype(np.uint16)
    more = {258: (3, *[16] * bands), 259: (3, 1), 262: (3, 8), 277: (3, bands)}
    more |= {279: (4, values.nbytes)} | ({338: (3, 2)} if bands == 4 else {})
    with pytest.raises(MediaError, match="L\\*a\\*b"):
        decode_image(tiff_of(values.tobytes(), SIDES | more))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_damaged_strip_of_a_tiff_is_not_black(compression, bands):
    values = np.random.default_rng(0).integers(0, 255, (64, 64, bands), np.uint8).squeeze()
    values[:16] = 0  # which is no damage
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", compression=compression, tiffinfo={278: 16})
    data = bytearray(file.getvalue())
    found = decode_image(bytes(data))
    assert np.array_equal(found, values if bands == 3 else np.dstack([values] * 3))
    at = len(data) // 2
    data[at : at + 100] = b"\xff" * 100
    with pytest.raises(MediaError, match="damaged"):
        decode_image(bytes(data))


def test_run_lengths_of_a_bmp_that_exceed_its_rows():
    """As ImageMagick writes them: rows are filled up to a multiple of four."""
    which = (GREY // 128)[:, :30]
    rows = np.pad(which[::-1], ((0, 0), (0, 2)))
    data = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in rows)
    data += b"\0\1"
    colors = bytes((0, 128, 0, 0, 90, 30, 200, 0)).ljust(1024, b"\0")
    head = struct.pack("<IiiHHIIiiII", 40, 30, HIGH, 1, 8, 1, len(data), 0, 0, 256, 0)
    data = b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + head + colors + data
    expected = np.array([[0, 128, 0], [200, 30, 90]], np.uint8)[which]
    assert np.array_equal(decode_image(data), expected)


def test_a_grey_heic_of_ten_bits_is_not_white():
    pillow_heif = pytest.importorskip("pillow_heif")
    values = GREY.astype(np.uint16) * 257
    file = io.BytesIO()
    made = pillow_heif.from_bytes("I;16", (WIDE, HIGH), values.tobytes())
    made.save(file, quality=-1)
    assert np.abs(decode_image(file.getvalue()).astype(int) - GREYS).max() <= 2


def test_the_palette_of_an_os2_bmp():
    which = np.ascontiguousarray(GREY[::-1] // 128)
    head = struct.pack("<IHHHH", 12, WIDE, HIGH, 1, 8)
    colors = bytes((0, 128, 0, 90, 30, 200)).ljust(768, b"\0")
    start = 14 + len(head + colors)
    size = start + which.size
    data = b"BM" + struct.pack("<IHHI", size, 0, 0, start) + head + colors + which.tobytes()
    expected = np.array([[0, 128, 0], [200, 30, 90]], np.uint8)[GREY // 128]
    assert np.array_equal(decode_image(data), expected)


def test_the_palette_of_a_jpeg_2000():
    file = io.BytesIO()
    Image.fromarray(GREY // 128).save(file, "JPEG2000", irreversible=False)
    data = file.getvalue()
    palette = b"pclr" + struct.pack(">HB3B", 2, 3, 7, 7, 7) + bytes((0, 128, 0, 200, 30, 90))
    where = b"cmap" + b"".join(struct.pack(">HBB", 0, 1, band) for band in range(3))
    boxes = b"".join(struct.pack(">I", 4 + len(box)) + box for box in (palette, where))
    data = data.replace(b"colr\1\0\0" + bytes((0, 0, 0, 17)), b"colr\1\0\0" + bytes((0, 0, 0, 16)))
    at = data.index(b"jp2h") - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    length = struct.pack(">I", end - at + len(boxes))
    data = data[:at] + length + data[at + 4 : end] + boxes + data[end:]
    expected = np.array([[0, 128, 0], [200, 30, 90]], np.uint8)[GREY // 128]
    assert np.array_equal(decode_image(data), expected)


def test_what_is_transparent_in_a_gif_wherever_that_is_said():
    image = Image.fromarray(GREY // 128)
    image.putpalette([0, 128, 0, 200, 30, 90])
    file = io.BytesIO()
    image.save(file, "GIF", transparency=0)
    data = file.getvalue()
    at = data.index(b"!\xf9\4") + 8
    data = data[:at] + b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0" + data[at:]
    expected = np.array([[255, 255, 255], [200, 30, 90]], np.uint8)[GREY // 128]
    assert np.array_equal(decode_image(data), expected)


@pytest.mark.parametrize("kind", ["full", "limited"])
def test_a_grey_avif_of_either_range(kind):
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "AVIF", quality=100, range=kind)
    assert np.abs(decode_image(file.getvalue()).astype(int) - GREYS).max() <= 2


def test_light_is_seen_however_bright_it_is(tmp_path):
    light = (COLORS / 255.0) ** 2.2
    for most in (0.7, 5.0):
        bright = np.where(Y[:, :, None] < 4, most, light * 0.7).astype(np.float32)
        assert cv2.imwrite(str(tmp_path / "a.hdr"), bright[:, :, ::-1])
        seen = read_image(tmp_path / "a.hdr")[4:].astype(int)
        assert np.abs(seen - COLORS[4:] * 0.7 ** (1 / 2.2)).max() <= 3


@pytest.mark.parametrize("most", [1.0, 1.02, 1.6])
def test_floats_that_exceed_white_a_little_are_not_black(most):
    values = np.where(Y[:, :, None] < 4, most, COLORS / 255).astype(np.float32)
    found = decode_image(as_tiff(values, photometric="rgb"))
    assert np.array_equal(found, np.where(Y[:, :, None] < 4, 255, COLORS))


def test_jpeg_xl(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    (tmp_path / "a.bin").write_bytes(imagecodecs.jpegxl_encode(COLORS, lossless=True))
    with open_source(tmp_path / "a.bin") as source:
        assert source.kind == "image"
        assert np.array_equal(next(iter(source)).image, COLORS)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", ["exr", "dpx"])
def test_images_of_film_are_images(tmp_path, suffix):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.png", tmp_path / f"a.{suffix}"]
    subprocess.run(command, check=True)
    with open_source(tmp_path / f"a.{suffix}") as source:
        assert source.kind == "image"
        assert np.abs(next(iter(source)).image.astype(int) - COLORS).max() <= 1
