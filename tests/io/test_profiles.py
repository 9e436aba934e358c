"""Photos in another color space (Display P3, Adobe RGB) are seen in sRGB, by every way in."""

import io
import struct
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from fcnseg.datasets import Pair
from fcnseg.datasets.formats import read_pair_image
from fcnseg.io.content.profiles import tone_mapped
from fcnseg.io.images import decode_image, read_image
from fcnseg.io.inputs import to_rgb
from fcnseg.io.labels import read_raw_labels
from fcnseg.io.sources import open_source

ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of the primaries, adapted to D50."""

GAMMA = 563 / 256

COLORS = np.random.default_rng(0).integers(40, 216, (16, 24, 3), dtype=np.uint8)


def profile(primaries=ADOBE, *, space: bytes = b"RGB ") -> bytes:
    """A profile of version 2 with three primaries and a gamma, byte by byte."""
    fixed = [struct.pack(">3i", *(round(v * 65536) for v in one)) for one in primaries]
    tags = {
        name: b"XYZ \0\0\0\0" + xyz
        for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), fixed, strict=True)
    }
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256)) + b"\0\0"
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC", b"kTRC"), curve)
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4xI4s4s4s12x4s28x3i48x", at + len(body), 0x02400000, b"mntr", space,
                       b"XYZ ", b"acsp", 63190, 65536, 54061)  # fmt: skip
    return head + table + body


def expected(image: np.ndarray) -> np.ndarray:
    """Adobe RGB as sRGB, by the standards' own formulas; what sRGB has not is cut."""
    from_d50 = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.033454],
                [0.0719453, -0.2289914, 1.4052427]]  # fmt: skip
    light = (image / 255) ** GAMMA @ np.array(ADOBE) @ np.array(from_d50).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def off(image: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(image.astype(float) - right).max())


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp", ".jpg", ".avif"])
def test_a_photo_of_another_colour_space(tmp_path: Path, suffix: str) -> None:
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    lossless = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}
    path, options = tmp_path / f"a{suffix}", lossless.get(suffix, {"quality": 100})
    smooth = np.asarray(Image.fromarray(COLORS[:4, :6]).resize((48, 32), Image.Resampling.BILINEAR))
    Image.fromarray(smooth).save(path, icc_profile=profile(), **options)
    with Image.open(path) as stored:
        right = expected(np.asarray(stored.convert("RGB")))
    assert off(smooth, right) > 12
    assert off(read_image(path), right) <= 6
    assert np.array_equal(decode_image(path.read_bytes()), read_image(path))


def test_every_way_in_is_the_same(tmp_path: Path) -> None:
    """Training, prediction and Python see one image."""
    path = tmp_path / "a.png"
    Image.fromarray(COLORS).save(path, icc_profile=profile())
    right = read_image(path)
    assert off(right, expected(COLORS)) <= 2
    with Image.open(path) as image:
        assert np.array_equal(to_rgb(image), right)
        clear = image.convert("RGBA")
        clear.putalpha(255)
        assert np.array_equal(to_rgb(clear), right)
        turned = io.BytesIO()
        clear.save(turned, "PNG", icc_profile=profile())
    assert np.array_equal(to_rgb(turned), right)
    assert np.array_equal(next(iter(open_source(str(path)))).image, right)
    assert np.array_equal(read_pair_image(Pair(path, path, "train", "a")), right)


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="pillow-heif is not installed")
def test_heic_photos(tmp_path: Path) -> None:
    import pillow_heif

    smooth = Image.fromarray(np.full((64, 64, 3), (90, 200, 60), np.uint8))
    pillow_heif.from_pillow(smooth).save(tmp_path / "a.heic", icc_profile=profile(), quality=-1)
    assert off(read_image(tmp_path / "a.heic")[32, 32], expected(np.array([90, 200, 60]))) <= 4


@pytest.mark.parametrize(
    "content",
    [
        None,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        b"no profile",
        profile()[:200],
        profile(space=b"GRAY"),
    ],
    ids=["none", "sRGB", "broken", "cut", "grey"],
)
def test_all_others_stay_as_they_are(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLORS).save(path, icc_profile=content)
    assert np.array_equal(read_image(path), COLORS)
    with Image.open(path) as image:
        assert np.array_equal(to_rgb(image), COLORS)


def test_labels_are_no_photos(tmp_path: Path) -> None:
    """An editor puts its profile into masks, too: their values stay."""
    path = tmp_path / "a.png"
    Image.fromarray(COLORS).save(path, icc_profile=profile())
    assert np.array_equal(read_raw_labels(path).values, COLORS)


def png_chunks(image: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with these chunks after its header."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data = file.getvalue()
    written = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))
        for kind, content in chunks
    )
    return data[:33] + written + data[33:]


def test_a_png_is_seen_by_the_gamma_that_it_states() -> None:
    light = np.round((COLORS / 255) ** 2.2 * 255).astype(np.uint8)
    linear = (b"gAMA", struct.pack(">I", 100_000))
    assert off(decode_image(png_chunks(light, linear)), COLORS) <= 4
    assert off(decode_image(png_chunks(light[:, :, 0], linear)), COLORS[:, :, :1]) <= 4
    usual = (b"gAMA", struct.pack(">I", 45_455))
    for chunks in ([usual], [linear, (b"sRGB", b"\0")]):
        assert off(decode_image(png_chunks(COLORS, *chunks)), COLORS) == 0


@pytest.mark.parametrize(("primaries", "transfer"), [(12, 13), (9, 16), (1, 13)])
def test_a_png_is_seen_by_the_numbers_of_its_colours(primaries: int, transfer: int) -> None:
    """Display P3, HDR as a video of PQ, sRGB."""
    data = png_chunks(COLORS, (b"cICP", bytes([primaries, transfer, 0, 1])))
    grey = np.repeat(COLORS[:, :, :1], 3, 2)
    seen = decode_image(data)
    if transfer == 16:
        assert np.array_equal(seen, tone_mapped(COLORS.astype(np.uint16) * 257, transfer))
    elif primaries == 1:
        assert np.array_equal(seen, COLORS)
    else:
        assert off(seen, COLORS) > 8
        data = png_chunks(grey, (b"cICP", bytes([primaries, transfer, 0, 1])))
        assert off(decode_image(data), grey) <= 1


@pytest.mark.parametrize(("primaries", "is_pure"), [(1, True), (2, False), (9, False)])
def test_hdr_of_other_primaries_than_bt2020(primaries: int, is_pure: bool) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0], red[:, :, 1:] = 120, 20
    seen = decode_image(png_chunks(red, (b"cICP", bytes([primaries, 16, 0, 1])))).astype(int)
    assert (seen[:, :, 1].min() > 0) == is_pure  # of BT.2020 it is redder than sRGB can show


def test_an_avif_is_seen_by_the_numbers_of_its_colours() -> None:
    file = io.BytesIO()
    if not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    Image.fromarray(COLORS).save(file, "AVIF", quality=100, subsampling="4:4:4")
    data, plain = bytearray(file.getvalue()), decode_image(file.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", 9, 16)
    expected = tone_mapped(plain.astype(np.uint16) * 257, 16)
    assert off(decode_image(bytes(data)), expected) <= 1
