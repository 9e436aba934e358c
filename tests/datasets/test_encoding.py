"""Every encoding, written and read back; every format; and what values are taken for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from fcnseg.classes import CAMVID_32, IGNORE, pack, unpack, voc_palette
from fcnseg.datasets import Encoding
from fcnseg.datasets.describe import describe
from fcnseg.datasets.encoding import read_values
from fcnseg.datasets.encoding.colors import read_colors
from fcnseg.datasets.encoding.entries import Entry
from fcnseg.datasets.encoding.values import Values, count_values, decode, decode_values, total
from fcnseg.datasets.formats import read_sample
from fcnseg.errors import DatasetError
from fcnseg.io.labels import RawLabels, read_raw_labels
from tests.datasets import written
from tests.datasets.test_describe import assert_same, samples, wanted
from tests.datasets.written import NAMES, Drawn, draw_set, folders, mapped


def of_labels(write: Callable[..., None], **changes: Any) -> Callable[[Path, list[Drawn]], None]:
    return lambda root, drawn: write(root, drawn, **changes)


def of_files(encode: written.Encode, suffix: str = ".png", **options: Any) -> Any:
    return lambda root, drawn: folders(root, drawn, encode, suffixes=(".png", suffix), **options)


def with_table(write: Any) -> Any:
    def both(root: Path, drawn: list[Drawn]) -> None:
        write(root, drawn)
        written.class_table(root)

    return both


MANY: dict[str, Any] = {
    "index": of_files(written.as_index),
    "palette": of_files(written.as_palette),
    "colors with a table": with_table(of_files(written.as_color)),
    "16 bit": of_files(written.as_wide),
    "bmp": of_files(written.as_index, ".bmp"),
    "tiff": of_files(written.as_index, ".tiff"),
    "tiff 16": of_files(written.as_wide, ".tif"),
    "webp": of_files(written.as_index, ".webp", lossless=True),
    "webp colors": with_table(of_files(written.as_color, ".webp", lossless=True)),
    "gif": of_files(written.as_index, ".gif"),
    "gif colors": with_table(of_files(lambda labels: written.as_color(labels).quantize(), ".gif")),
    "jpeg colors": with_table(of_files(written.as_color, ".jpg", quality=97, subsampling=0)),
}
"""Four classes and an ignored stripe."""

GREYS: dict[str, Any] = {
    "greys": of_files(mapped(0, 85, 170, 255)),
    "few greys": of_files(mapped(0, 60, 120, 180)),
    "jpeg greys": of_files(mapped(0, 85, 170, 255), ".jpg", quality=92),
    "webp greys": of_files(mapped(0, 85, 170, 255), ".webp", quality=95),
    "colors, black first": of_files(
        lambda labels: Image.fromarray(
            np.array([(0, 0, 0), (0, 0, 200), (0, 200, 0), (200, 0, 0)], np.uint8)[labels]
        )
    ),
    "voc colors": of_files(
        lambda labels: Image.fromarray(
            np.array([unpack(c) for c in voc_palette(4)], np.uint8)[labels]
        )
    ),
}
"""Four classes, nothing ignored."""

BINARY: dict[str, Any] = {
    "0/255": of_files(mapped(0, 255)),
    "255/0": of_files(mapped(255, 0)),
    "0/1": of_files(mapped(0, 1)),
    "0/128": of_files(mapped(0, 128)),
    "one bit": of_files(written.as_bits),
    "alpha": of_files(written.as_alpha),
    "jpeg": of_files(mapped(0, 255), ".jpg", quality=85),
    "jpeg, black on white": of_files(mapped(255, 0), ".jpg", quality=85),
    "gif": of_files(mapped(0, 255), ".gif"),
    "bmp": of_files(mapped(0, 255), ".bmp"),
    "rgb": of_files(lambda labels: mapped(0, 255)(labels).convert("RGB")),
    "rgba": of_files(lambda labels: mapped(0, 255)(labels).convert("RGBA")),
    "palette, white first": of_files(
        lambda labels: _palette(labels, (255, 255, 255), (0, 0, 0)), ".png"
    ),
    "16 bit 0/65535": of_files(
        lambda labels: Image.fromarray(np.where(labels > 0, 65535, 0).astype(np.uint16))
    ),
}


def _palette(labels: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(labels)
    image.putpalette(np.array(colors, np.uint8).tobytes())
    return image


@pytest.mark.parametrize("name", MANY)
def test_many_classes_and_an_ignored_stripe(name: str, tmp_path: Path) -> None:
    drawn = draw_set()
    MANY[name](tmp_path, drawn)
    description = describe(tmp_path)
    assert_same(samples(description), wanted(drawn))
    assert description.ignore_index is not None
    if "colors" in name:
        assert description.classes.names == NAMES
        assert description.classes.colors.tolist() == [list(c) for c in written.COLORS]


@pytest.mark.parametrize("name", GREYS)
def test_a_few_greys_or_colors(name: str, tmp_path: Path) -> None:
    drawn = draw_set(void=False)
    GREYS[name](tmp_path, drawn)
    description = describe(tmp_path)
    assert len(description.classes) == 4
    assert_same(samples(description), wanted(drawn))


@pytest.mark.parametrize("name", BINARY)
def test_two_classes(name: str, tmp_path: Path) -> None:
    drawn = draw_set(void=False, classes=2)
    BINARY[name](tmp_path, drawn)
    description = describe(tmp_path)
    assert description.classes.names == ("background", "object")
    assert description.ignore_index is None
    assert_same(samples(description), wanted(drawn))


FORMATS = {".png": {}, ".bmp": {}, ".tiff": {}, ".webp": {"lossless": True}, ".gif": {}}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    classes=st.integers(2, 20),
    suffix=st.sampled_from(sorted(FORMATS)),
    seed=st.integers(0, 2**20),
)
def test_a_labelled_pixel_is_never_changed(
    size: tuple[int, int],
    classes: int,
    suffix: str,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any size, any number of classes, any lossless format: what was written is what is read."""
    folder = tmp_path_factory.mktemp("any")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size).astype(np.uint8)
    labels[rng.random(size) < 0.1] = 255
    assume(classes > 2 or 1 in labels or 255 not in labels)  # 0 and 255 alone is another meaning
    # Every class occurs in some file: a class that occurs nowhere can't be known of.
    every = np.arange(classes, dtype=np.uint8)[None, :]
    for name, array in (("a", labels), ("b", every)):
        picture = np.zeros((*array.shape, 3), np.uint8)
        written.save(Image.fromarray(picture), folder / "images" / f"{name}.png")
        written.save(
            Image.fromarray(array), folder / "masks" / f"{name}{suffix}", **FORMATS[suffix]
        )
    description = describe(folder)
    pair = next(pair for pair in description.pairs if pair.name == "a")
    np.testing.assert_array_equal(read_sample(pair, description.encoding)[1], labels)


def values_of(*files: list[list[int]], **changes: Any) -> Values:
    arrays = [np.array(rows, np.int32) for rows in files]
    return total([count_values(RawLabels(array, None, "I")) for array in arrays], **changes)


@pytest.mark.parametrize(
    ("files", "classes", "ignore"),
    [
        ([[[0, 1], [2, 3]]], 4, None),
        ([[[0, 0], [1, 1]], [[2, 2], [5, 5]]], 6, None),  # gaps are classes not seen
        ([[[0, 1], [2, 255]]], 3, 255),
        ([[[1, 1], [255, 255]]], 2, 255),
        ([[[0, 0], [0, 0]]], 1, None),
        ([[[0, 1], [2, 65535]]], 3, 65535),
        ([[[0, 1000], [2000, 3000]]], 4, None),  # 16 bit: a class for each
        ([[[0, 1], [-1, 1]]], 2, -1),
    ],
)
def test_what_numbers_are_taken_for(
    files: list[list[list[int]]], classes: int, ignore: int | None
) -> None:
    reading = read_values(values_of(*files))
    assert (len(reading.classes), reading.ignore_index) == (classes, ignore)
    assert reading.why


def test_a_stray_value_is_no_class() -> None:
    files = [[[index % 3] * 40] * 40 for index in range(30)]
    files[7][3] = [77, *files[7][3][1:]]
    reading = read_values(values_of(*files))
    assert len(reading.classes) == 3
    assert decode_values(np.array([0, 2, 77]), reading.encoding).tolist() == [0, 2, IGNORE]


def test_class_lists_name_numbers() -> None:
    values = values_of([[0, 1], [2, 2]])
    plain = [Entry("sea"), Entry("sand"), Entry("void"), Entry("palm")]
    reading = read_values(values, plain)
    assert reading.classes.names == ("sea", "sand", "palm")
    assert reading.ignore_index == 2
    assert reading.encoding.values == ((0,), (1,), (3,))
    numbered = [Entry("palm", 2), Entry("sand", 1), Entry("sea", 0)]
    assert read_values(values, numbered).classes.names == ("sea", "sand", "palm")
    without_background = [Entry("sand"), Entry("palm")]
    assert read_values(values, without_background).classes.names == ("background", "sand", "palm")


def test_a_class_list_that_does_not_fit_is_not_used() -> None:
    reading = read_values(values_of([[0, 1], [2, 3], [4, 5]]), [Entry("a"), Entry("b")])
    assert reading.classes.names[0] == "class_0"


def test_two_names_for_a_mask() -> None:
    mask = [[0] * 6, [0, 0, 255, 255, 0, 0], [0] * 6]
    assert read_values(values_of(mask), [Entry("crack")]).classes.names == ("background", "crack")


def colors_of(*colors: int, **changes: Any) -> Values:
    counted = dict.fromkeys(colors, 100)
    return Values("color", counted, dict(counted), dict.fromkeys(colors, 1), count=1, **changes)


def test_published_colors_are_known() -> None:
    some = [CAMVID_32[name] for name in ("Road", "Sky", "Car", "Void", "Tree", "Building")]
    reading = read_colors(colors_of(*some))
    assert "Sky" in reading.classes.names
    assert len(reading.classes) == 31
    assert decode_values(np.array([0]), reading.encoding).tolist() == [IGNORE]
    streets = read_colors(colors_of(0x804080, 0xF423E8, 0x464646, 0x00008E, 0x000000))
    assert streets.classes.names[:2] == ("road", "sidewalk")
    border = read_colors(colors_of(0, 0x800000, 0x008000, 0xE0E0C0))
    assert (len(border.classes), border.ignore_index) == (3, 255)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_photographs_are_no_labels(mode: str, suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [
        Drawn(one.name, one.split, one.image, rng.integers(0, 255, (48, 64)).astype(np.uint8))
        for one in draw_set()
    ]
    folders(
        tmp_path,
        drawn,
        lambda labels: (
            Image.fromarray(np.dstack([labels, labels.T.reshape(48, 64), labels // 2]))
            .resize((64, 48), Image.Resampling.BICUBIC, box=(0, 0, 20, 15))
            .convert(mode)
        ),
        suffixes=(".png", suffix),
    )
    with pytest.raises(DatasetError, match="photographs"):
        describe(tmp_path)


def test_colors_not_in_the_list_are_ignored_or_snapped() -> None:
    encoding = Encoding("color", ((pack(0, 0, 0),), (pack(200, 0, 0),)))
    seen = np.array([pack(200, 0, 0), pack(190, 5, 5)])
    assert decode_values(seen, encoding).tolist() == [1, IGNORE]
    snapping = Encoding("color", encoding.values, nearest=True)
    assert decode_values(seen, snapping).tolist() == [1, 1]


def test_colors_with_red_and_blue_exchanged_are_those_of_the_list() -> None:
    """OpenCV writes BGR: the list has none of the files' colors, and all of them exchanged."""
    listed = [Entry("sky", color=0x0080FF), Entry("road", color=0x804080), Entry("car", color=0x8E)]
    reading = read_colors(colors_of(0xFF8000, 0x804080), listed)
    assert reading.encoding.values == ((0xFF8000,), (0x804080,), (0x8E0000,))
    assert reading.classes.names == ("sky", "road", "car")
    mixed = read_colors(colors_of(0xFF8000, 0x8E, 0x123456), listed)  # another one's colors
    assert mixed.encoding.values[2] == (0x8E,)


def test_nearest_color_is_the_nearest(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stored = rng.integers(0, 256, (9, 3))
    encoding = Encoding("color", tuple((pack(*c),) for c in stored.tolist()), nearest=True)
    picture = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = decode(read_raw_labels(tmp_path / "a.png"), encoding)
    distance = ((picture[:, :, None].astype(int) - stored) ** 2).sum(-1)
    chosen = np.take_along_axis(distance, found[..., None].astype(int), -1)[..., 0]
    np.testing.assert_array_equal(chosen, distance.min(-1))


def test_an_encoding_is_consistent() -> None:
    with pytest.raises(DatasetError, match="two meanings"):
        Encoding.of([0, 1], [1])
    with pytest.raises(DatasetError, match="between 1 and 255"):
        Encoding("index", ())
    encoding = Encoding("color", ((1, 2), ()), (3,), nearest=True)
    assert Encoding.from_dict(encoding.as_dict()) == encoding
    with pytest.raises(DatasetError, match="Not a label encoding"):
        Encoding.from_dict({"kind": "index"})


@pytest.mark.parametrize("nearest", [False, True])
def test_a_large_stored_value_takes_no_table(
    nearest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class list that named 2147483647 took 2 GB."""
    monkeypatch.delattr(np, "full")  # which makes the table
    encoding = Encoding.of([0, 7, 2**31 - 1], [255], nearest=nearest)
    stored = np.array([[0, 7, 255], [2**31 - 1, 9, 2**31 - 9]])
    other = [1, 2] if nearest else [IGNORE, IGNORE]
    assert decode_values(stored, encoding).tolist() == [[0, 1, IGNORE], [2, *other]]
    negative = Encoding.of([0, -1])  # -1 was the class of every unknown value, too
    assert decode_values(np.array([-1, 300]), negative).tolist() == [1, IGNORE]
