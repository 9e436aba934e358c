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
    classes = ClassMap.numbered(5)
    palette = classes.palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert np.array_equal(palette[:5], classes.colors)
    assert tuple(palette[IGNORE]) == (224, 224, 192)


@pytest.mark.parametrize("count", [1, 2, 12, 40, 255])
def test_colours_differ(count: int) -> None:
    assert len({tuple(color) for color in distinct_colors(count).tolist()}) == count
