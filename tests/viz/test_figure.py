import numpy as np
import pytest

from fcnseg.io.draw import heatmap
from fcnseg.viz import Panel
from fcnseg.viz.drawing import grey, heat_scale, signed_map, signed_scale
from fcnseg.viz.layout import page


def panel(title: str = "a title", size: tuple[int, int] = (240, 320), **more) -> Panel:
    return Panel(np.full((*size, 3), 200, np.uint8), title, **more)


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 2), (6, 3), (12, 4), (14, 5)]
)
def test_a_page_is_about_as_wide_as_a_screen(count, columns):
    drawn = page([panel() for _ in range(count)])
    width = (drawn.shape[1] - 8) // 328  # 320 wide, a gap of 8
    assert width == columns


def test_columns_can_be_given():
    wide = page([panel(), panel(), panel(), panel()], columns=4)
    tall = page([panel(), panel(), panel(), panel()], columns=1)
    assert wide.shape[1] > 4 * 320
    assert tall.shape[0] > 4 * 240
    assert tall.shape[1] < 2 * 320


@pytest.mark.parametrize("size", [(30, 40), (4000, 3000), (100, 2000), (2000, 100), (1, 1)])
def test_images_of_any_size_are_brought_to_a_legible_one(size):
    drawn = page([panel(size=size), panel(size=size)])
    assert max(drawn.shape) <= 2700
    assert (drawn == 200).all(axis=2).any()


def test_images_are_on_the_page_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    drawn = page([Panel(image, "first"), panel(size=(300, 400))])
    tops = [y for y in range(len(drawn) - 300) if (drawn[y : y + 300, 8] == image[:, 0]).all()]
    assert len(tops) == 1
    np.testing.assert_array_equal(drawn[tops[0] : tops[0] + 300, 8:408], image)


def test_title_note_and_mark_are_drawn():
    bare = page([panel("")])
    titled = page([panel("road")])
    noted = page([panel("road", note="12 %")])
    marked = page([panel("road", note="12 %", color=(255, 0, 0))])
    assert bare.shape == titled.shape == noted.shape == marked.shape
    bright = [(drawn[:30].max(axis=2) > 120).sum() for drawn in (bare, titled, noted)]
    assert bright[0] < bright[1] < bright[2]
    assert (marked == (255, 0, 0)).all(axis=2).sum() > 50


def test_a_long_title_wraps_and_is_cut_where_pages_keep_their_size():
    long, short = [panel("a very long title " * 20), panel()], [panel(), panel()]
    assert page(long).shape[1] == page(short).shape[1]
    assert page(long).shape[0] > page(short).shape[0] + 50
    assert page(long, fixed=True).shape == page(short).shape


def test_the_scale_has_the_colours_of_the_map():
    scale = heat_scale("0", "1", "probability")
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    np.testing.assert_array_equal(
        scale.bar, heatmap(np.zeros((1, 256, 3), np.uint8), values, alpha=1.0)[0]
    )
    drawn = page([panel()], scale=scale)
    foot = drawn[page([panel()]).shape[0] :].reshape(-1, 3).astype(int)
    for color in scale.bar[::32].astype(int):
        assert np.abs(foot - color).max(axis=1).min() <= 4


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_scale_over_an_image_has_the_colours_that_are_seen(level):
    image = np.full((90, 256, 3), level, np.uint8)
    image[:30] = 40  # a third of it is of another lightness
    values = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (90, 1))
    bar = heat_scale("0", "1", "probability", image=image, alpha=0.6).bar
    np.testing.assert_array_equal(bar, heatmap(grey(image), values, alpha=0.6)[60])
    signed = signed_scale("-1", "+1", "score", image=image).bar
    np.testing.assert_array_equal(signed, signed_map(image, values * 2 - 1)[60])


def test_signed_colours_are_red_and_blue_and_alike_in_strength():
    black = np.zeros((1, 3, 3), np.uint8)
    values = np.array([[-1.0, 0.0, 1.0]])
    low, middle, high = signed_map(black, values, alpha=1.0)[0].astype(int)
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert middle.min() > 235
    assert abs(low.sum() - high.sum()) < 60
    assert min(low.max(), high.max()) > 140  # as single pixels, darker ones look black
    bar = signed_scale("-1", "+1", "score").bar.astype(int)
    np.testing.assert_array_equal(bar[[0, -1]], [low, high])


def test_signed_map_cuts_what_is_beyond_and_what_is_no_number():
    black = np.zeros((1, 3, 3), np.uint8)
    drawn = signed_map(black, np.array([[-9.0, np.nan, 9.0]]), alpha=1.0)
    np.testing.assert_array_equal(drawn, signed_map(black, np.array([[-1.0, 0.0, 1.0]]), alpha=1.0))


def test_grey_keeps_the_lightness():
    image = np.array([[[255, 255, 255], [255, 0, 0], [0, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(grey(image)[0, :, 0], [255, 76, 0])
    assert (grey(image)[..., :1] == grey(image)).all()
