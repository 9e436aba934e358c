import numpy as np
import pytest

from fcnseg.classes import IGNORE, ClassMap, distinct_colors
from fcnseg.errors import InputError, OptionError


def test_round_trip_through_plain_data() -> None:
    classes = ClassMap.of(["road", "sky"], [(1, 2, 3), (4, 5, 6)])
    again = ClassMap.from_dict(classes.as_dict())
    assert again == classes
    assert hash(again) == hash(classes)
    assert again != ClassMap.of(["road", "sky"])


@pytest.mark.parametrize(("wanted", "index"), [("sky", 1), ("0", 0), ("1", 1)])
def test_index_of_takes_names_and_numbers(wanted: str, index: int) -> None:
    assert ClassMap.of(["road", "sky"]).index_of(wanted) == index


def test_a_name_that_is_a_number_wins_over_the_number() -> None:
    assert ClassMap.of(["1", "0"]).index_of("0") == 1


def test_unknown_class_lists_the_known_and_the_near() -> None:
    with pytest.raises(OptionError, match="known: road, sky") as caught:
        ClassMap.of(["road", "sky"]).index_of("raod")
    assert caught.value.hint == "did you mean 'road'?"
    with pytest.raises(OptionError) as caught:
        ClassMap.of(["road", "Sky"]).index_of("SKY")
    assert caught.value.hint == "did you mean 'Sky'?"
    with pytest.raises(OptionError):
        ClassMap.of(["road", "sky"]).index_of("2")


@pytest.mark.parametrize(
    ("names", "colors", "says"),
    [
        ([], None, "0 classes"),
        (["a"] * 2, None, "given twice: a"),
        ([f"c{i}" for i in range(256)], None, "256 classes"),
        (["a", "b"], [(0, 0, 0)], r"shape \(2, 3\)"),
    ],
)
def test_wrong_maps_are_refused(names: list[str], colors: list[tuple[int, ...]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ClassMap.of(names, colors)


@pytest.mark.parametrize("data", [{}, {"names": ["a"]}, {"names": ["a"], "colors": [[0, 0, 300]]}])
def test_foreign_data_is_no_class_map(data: dict[str, object]) -> None:
    with pytest.raises(InputError, match="Not a class map"):
        ClassMap.from_dict(data)


def test_palette_holds_every_colour_and_the_ignore_colour() -> None:
    classes = ClassMap.numbered(np.int64(5))
    palette = classes.palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert np.array_equal(palette[:5], classes.colors)
    assert tuple(palette[IGNORE]) == (224, 224, 192)


@pytest.mark.parametrize("count", [1, 2, 12, 40, 255])
def test_colours_differ(count: int) -> None:
    assert len({tuple(color) for color in distinct_colors(["c"] * count).tolist()}) == count


# Colors that a color-blind reader can tell apart

DICHROMACY = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
}  # fmt: skip
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


def as_seen(colors: np.ndarray, kind: str) -> np.ndarray:
    """sRGB 0..1 as a dichromat sees it."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(DICHROMACY[kind]).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def ciede2000(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The CIEDE2000 differences of Lab colors (..., 3). Source: Sharma, Wu and Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)
    chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1 + 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25**7)))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1 = np.degrees(np.arctan2(b1, a1 * stretch)) % 360
    h2 = np.degrees(np.arctan2(b2, a2 * stretch)) % 360
    turn = (h2 - h1 + 180) % 360 - 180
    grey = c1 * c2 == 0
    step = np.where(grey, 0, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    far = np.abs(h1 - h2) > 180
    hue = np.where(grey, h1 + h2, (h1 + h2) / 2 + np.where(far, 180, 0))
    angle = np.radians(hue)
    weight = (
        1 - 0.17 * np.cos(angle - np.radians(30)) + 0.24 * np.cos(2 * angle)
        + 0.32 * np.cos(3 * angle + np.radians(6)) - 0.20 * np.cos(4 * angle - np.radians(63))
    )  # fmt: skip
    blue = np.exp(-((((hue % 360) - 275) / 25) ** 2))
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(np.radians(60 * blue))
    parts = (
        (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)),
        (c2 - c1) / (1 + 0.045 * chroma),
        step / (1 + 0.015 * chroma * weight),
    )
    return np.sqrt(sum(part**2 for part in parts) + rotation * parts[1] * parts[2])


def test_our_ciede2000_is_scikit_images() -> None:
    color = pytest.importorskip("skimage.color")
    rng = np.random.default_rng(0)
    labs = color.rgb2lab(rng.random((2, 500, 3)))
    expected = color.deltaE_ciede2000(labs[0], labs[1])
    assert np.abs(ciede2000(labs[0], labs[1]) - expected).max() < 1e-3


@pytest.mark.parametrize("names", [[f"class_{i}" for i in range(20)], list("abcdefghijklmnopqrst")])
@pytest.mark.parametrize(("kind", "least"), [(None, 10), ("deuteranopia", 8), ("protanopia", 8)])
def test_the_first_twenty_colours_differ_for_everyone(
    names: list[str], kind: str | None, least: float
) -> None:
    color = pytest.importorskip("skimage.color")
    colors = ClassMap.of(names).colors / 255
    labs = color.rgb2lab(colors if kind is None else as_seen(colors, kind))
    apart = ciede2000(labs[:, None], labs[None])
    np.fill_diagonal(apart, np.inf)
    assert apart.min() >= least


def test_the_background_is_dark_wherever_it_stands() -> None:
    dark = [40, 40, 40]
    assert ClassMap.of(["sky", "road", "Background"]).colors[2].tolist() == dark
    assert dark not in ClassMap.of(["sky", "road"]).colors.tolist()
    assert ClassMap.of(["sky", "bg"]).background == 1
    assert ClassMap.of(["sky", "road"]).background is None
    assert ClassMap.numbered(3).background == 0


def test_a_palette_keeps_what_the_class_list_says() -> None:
    names = ["background", "car", "tree"]
    ours = ClassMap.of(names).colors.tolist()
    classes = ClassMap.of(names, [ours[0], (1, 2, 3), ours[2]])
    kept = classes.with_palette("pascal", given=True)
    assert kept.colors.tolist() == [[0, 0, 0], [1, 2, 3], [0, 128, 0]]
    assert classes.with_palette("pascal").colors.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert np.array_equal(classes.with_palette("default").colors, ours)
