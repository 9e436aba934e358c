"""However Python holds an image, it is read as the file of the same content is."""

import io
import os
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fcnseg.errors import FcnsegError, InputError, MediaError
from fcnseg.exporting.parity import sample_images
from fcnseg.io.images import decode_image, read_image
from fcnseg.io.inputs import as_list, to_rgb

RGB = sample_images((1, 24, 36), seed=1)[0]
PIL = Image.fromarray(RGB)
GREY = np.asarray(PIL.convert("L"))
ALPHA = np.linspace(0, 255, RGB[..., 0].size).astype(np.uint8).reshape(RGB.shape[:2])
RGBA = np.dstack([RGB, ALPHA])
GREY_RGB = np.dstack([GREY] * 3)
TENSOR = torch.from_numpy(RGB.transpose(2, 0, 1) / 255)  # float64 (3, H, W)


def as_file(image: Image.Image, format: str, **options: object) -> np.ndarray:
    """What is read from the file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return decode_image(file.getvalue())


def test_open_files_and_addresses_of_files(tmp_path: Path) -> None:
    """Wherever in the file they stand: whoever has just written it stands at its end."""
    path = tmp_path / "ä b%20c.png"  # an address has %2520
    PIL.save(path)
    held = io.BytesIO()
    PIL.save(held, "PNG")
    with path.open("rb") as file:
        paths = (PurePath(path), *os.scandir(tmp_path))
        for image in (held, file, path.as_uri(), path.read_bytes(), *paths):
            np.testing.assert_array_equal(to_rgb(image), RGB)
    with path.open(errors="replace") as text, pytest.raises(InputError, match="not bytes"):
        to_rgb(text)
    with pytest.raises(InputError, match="closed file"):
        to_rgb(file)


@pytest.mark.parametrize(
    "image",
    [
        RGB / 255, (RGB / 255).astype(np.float32), RGB.astype(np.uint16) * 257,
        (RGB.astype(np.uint16) * 257).astype(">u2"), np.dstack([RGB, np.full_like(GREY, 255)]),
        np.asfortranarray(RGB), TENSOR, TENSOR.float(), TENSOR.float().requires_grad_(),
        torch.from_numpy(RGB).permute(2, 0, 1), PIL, PIL.convert("RGBA"),
    ],
)  # fmt: skip
def test_the_same_image_in_other_types(image):
    np.testing.assert_array_equal(to_rgb(image), RGB)
    assert to_rgb(image).flags.c_contiguous


@pytest.mark.parametrize(
    "image",
    [
        GREY, GREY[..., None], GREY / 255, torch.from_numpy(GREY.copy()),
        torch.from_numpy(GREY[None] / 255), Image.fromarray(GREY),
        Image.fromarray(GREY.astype(np.uint16) * 257), Image.fromarray(GREY.astype(np.int32) * 257),
        Image.fromarray((GREY / 255).astype(np.float32)), Image.fromarray(GREY.astype(np.float32)),
        Image.fromarray(GREY).convert("LA"),
    ],
)  # fmt: skip
def test_grey_is_three_equal_channels(image):
    np.testing.assert_array_equal(to_rgb(image), GREY_RGB)


def test_opencvs_order():
    np.testing.assert_array_equal(to_rgb(RGB[..., ::-1], bgr=True), RGB)
    np.testing.assert_array_equal(to_rgb(TENSOR.flip(0), bgr=True), RGB)
    bgra = np.dstack([RGB[..., ::-1], ALPHA])
    np.testing.assert_array_equal(to_rgb(bgra, bgr=True), to_rgb(RGBA))
    np.testing.assert_array_equal(to_rgb(PIL, bgr=True), RGB)


def test_transparency_is_what_the_file_has():
    image = Image.fromarray(RGBA)
    expected = as_file(image, "PNG")
    for same in (RGBA, RGBA / 255, RGBA.astype(np.uint16) * 257, image):
        np.testing.assert_array_equal(to_rgb(same), expected)
    premultiplied = to_rgb(image.convert("RGBa")).astype(int)
    assert np.abs(premultiplied - expected)[ALPHA > 20].max() <= 14, "8 bits lost some"


def with_palette(transparent: bool) -> Image.Image:
    image = PIL.quantize(16)
    if transparent:
        image.info["transparency"] = 3
    return image


@pytest.mark.parametrize(
    ("image", "format", "apart"),
    [
        (PIL.convert("1"), "PNG", 0),
        (PIL.convert("LA"), "PNG", 0),
        (with_palette(False), "PNG", 0),
        (with_palette(True), "PNG", 0),
        (PIL.convert("I;16"), "PNG", 0),
        (PIL.convert("L").convert("I"), "TIFF", 0),
        (Image.fromarray(GREY.astype(np.float32) / 255), "TIFF", 0),
        (Image.fromarray(GREY.astype(np.float32)), "TIFF", 0),
        (PIL.convert("CMYK"), "TIFF", 2),
        (PIL.convert("YCbCr"), "TIFF", 2),
    ],
    ids=lambda value: getattr(value, "mode", str(value)),
)
def test_every_mode_of_pillow_is_its_file(image, format, apart):
    difference = to_rgb(image).astype(int) - as_file(image, format)
    assert np.abs(difference).max() <= apart


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "CMYK", "LAB", "La", "PA", "RGBX"])
def test_modes_that_no_file_has_are_converted(mode):
    image = PIL
    if mode == "LAB":
        from PIL import ImageCms

        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        image = ImageCms.profileToProfile(PIL, *profiles, outputMode="LAB")
    elif mode == "La":
        image = PIL.convert("LA").convert("La")
    elif mode == "PA":
        image = PIL.quantize(16).convert("PA")
    else:
        image = PIL.convert(mode)
    expected = {"La": GREY_RGB, "PA": np.asarray(PIL.quantize(16).convert("RGB"))}.get(mode, RGB)
    assert np.abs(to_rgb(image).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_files_bytes_and_pillows_images(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.jpg", "a.tif"):
        PIL.save(tmp_path / name, exif=exif)
        expected = read_image(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        for same in (tmp_path / name, str(tmp_path / name), data, bytearray(data)):
            np.testing.assert_array_equal(to_rgb(same), expected)
        with Image.open(tmp_path / name) as image:
            assert np.abs(to_rgb(image).astype(int) - expected).max() <= 4, "JPEG decoders differ"
            turned = to_rgb(ImageOps.exif_transpose(image))
            assert turned.shape == expected.shape, "it is not turned twice"


@pytest.mark.parametrize(
    ("image", "cure"),
    [
        (RGB.astype(np.float32), "image / 255"),
        (RGB / 255 * 1.1, "image / 255"),
        (RGB / 127.5 - 1, "normalized"),
        (np.full((4, 4, 3), np.nan), "nan_to_num"),
        (np.full((4, 4, 3), np.inf), "nan_to_num"),
        (RGB * 1e6, "scale it"),
        (RGB.astype(np.int64), "astype"),
        (RGB.astype(np.int8), "astype"),
        (RGB.astype(np.uint32), "astype"),
        (GREY > 100, "255"),
        (RGB.astype(complex), "astype"),
        (RGB.transpose(2, 0, 1), "transpose"),
        (GREY[:, :, None].repeat(2, 2), "shape"),
        (RGB[0, 0], "shape"),
        (np.float32(1.0), "path"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((2, 4, 4, 3), np.uint8), "several"),
        (np.ma.masked_less(RGB, 20), "filled"),
        (TENSOR.permute(1, 2, 0), "permute"),
        (TENSOR * 255, "image / 255"),
        ((TENSOR - 0.45) / 0.22, "normalized"),
        (TENSOR.long(), r"\.to\(torch.uint8\)"),
        (TENSOR.bool(), "255"),
        (TENSOR[None], "several"),
        (torch.zeros(3, 0, 4), "empty"),
        (Image.new("RGB", (0, 4)), "empty"),
        (Image.fromarray(GREY.astype(np.int32) - 90), "16 bits"),
        (Image.fromarray(GREY.astype(np.float32) * 9), "floats"),
        ("missing.png", "no file"),
        ("a\0b.png", "not the path"),
        ("clip.mp4", "stream"),
        (".", "stream"),
        ("rtsp://camera/1", "stream"),
        (b"no image", "image"),
        (b"", "image"),
        (None, "path"),
        (3, "path"),
        (RGB.tolist(), "np.asarray"),
        (TENSOR.to_sparse(), "to_dense"),
        (torch.zeros(3, 4, 4, device="meta"), "no plain numbers"),
        ({"image": RGB}, "path"),
    ],
)  # fmt: skip
def test_what_can_not_be_told_is_refused_with_a_cure(image, cure):
    with pytest.raises(ValueError, match=cure) as caught:
        to_rgb(image)
    assert isinstance(caught.value, FcnsegError)


def test_rounding_beyond_the_range_is_no_mistake():
    image = RGB / 255 * (1 + 1e-7)
    np.testing.assert_array_equal(to_rgb(image), RGB)


def test_a_cut_file_opened_by_pillow(tmp_path: Path):
    PIL.resize((300, 200)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:3000])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(MediaError, match="incomplete"):
        to_rgb(image)


def test_several_are_told_from_one():
    assert len(as_list([RGB, "a.png"])) == len(as_list(np.stack([RGB] * 2))) == 2
    assert as_list(torch.zeros(2, 3, 8, 8))[0].shape == (3, 8, 8)
    for one in (RGB, "a.png", TENSOR, PIL):
        with pytest.raises(InputError, match="for one image"):
            as_list(one)
