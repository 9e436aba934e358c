"""--show: what keys do in the window, and what it shows of images, videos and nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fcnseg import io as opencv
from fcnseg.commands.viz import ViewResult, view
from fcnseg.errors import Interrupted, OptionError
from fcnseg.io.images import read_image, write_image
from fcnseg.viz.live import HELP, MODES
from tests.inference.test_sinks import FakeWindow

Look = Callable[..., tuple[ViewResult, FakeWindow]]


class Keyboard(FakeWindow):
    """A window in which someone presses keys ("": none for a moment) and then q, or never any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: Sequence[str]) -> None:
        super().__init__(monkeypatch, [-1 if key == "" else ord(key) for key in keys])
        self.last = ord("q") if keys else -1

    def wait(self, milliseconds: int) -> int:
        return self.keys.pop(0) if self.keys else self.last


@pytest.fixture
def look(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Opens the window on a source and presses keys."""

    def opened(source: Path, keys: Sequence[str], **options) -> tuple[ViewResult, Keyboard]:
        window = Keyboard(monkeypatch, keys)
        options = {"model": str(random_model), "out": tmp_path / "out", "device": "cpu"} | options
        return view(source, show=True, **options), window

    return opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        write_image(tmp_path / "in" / f"{name}.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
    (tmp_path / "in" / "d.png").write_bytes(b"no image")
    return tmp_path / "in"


def test_images_stay_until_the_next_is_wanted(look: Look, folder: Path, tmp_path: Path) -> None:
    result, window = look(folder, ["", "", "f", "", "f", "", "", "f"])
    assert (result.frames, len(window.shown)) == (3, 3)
    assert [Path(name).stem for name, _ in result.failed] == ["d"]
    assert (result.out, result.outputs) == (None, ())
    assert not (tmp_path / "out").exists()
    assert window.destroyed


def test_b_goes_back_and_f_forward_again(look: Look, folder: Path) -> None:
    keys = ["", "b", "f", "", "s", "b", "s", "b", "s", "f", "s", "f", "", "s"]
    result, window = look(folder, keys)
    names = ["b_prediction", "a_prediction", "a_prediction_2", "b_prediction_2", "c_prediction"]
    assert [path.stem for path in result.outputs] == names
    a, b, again, forward, c = (image.tobytes() for image in window.shown)
    assert (again, forward) == (a, b)
    assert len({a, b, c}) == 3


def test_frames_that_take_too_much_memory_are_forgotten(
    look: Look, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcnseg.viz.live._MAX_HISTORY", 1)
    result, _ = look(folder, ["", "f", "", "f", "", "b", "b", "s"])
    assert [path.stem for path in result.outputs] == ["b_prediction"]


def test_q_ends_it_at_the_image_that_is_seen(look: Look, folder: Path) -> None:
    result, window = look(folder, ["", "f", "", "q"])
    assert result.frames == 2
    assert window.destroyed


def test_m_shows_every_mode_and_begins_anew(look: Look, folder: Path) -> None:
    _, window = look(folder / "a.png", ["", *"m" * len(MODES)])
    drawn = [image.tobytes() for image in window.shown]
    assert len(drawn) == len(MODES) + 1
    assert len(set(drawn)) == len(MODES)
    assert drawn[0] == drawn[-1]


def test_n_and_p_go_through_the_classes(look: Look, folder: Path) -> None:
    result, _ = look(folder / "a.png", ["", "n", "s", "n", "s", "p", "p", "s"])
    names = [path.stem for path in result.outputs]
    assert names == ["a_heatmap_background", "a_heatmap_disk", "a_heatmap_star"]
    result, _ = look(folder / "b.png", ["n", "s", "n", "n", "s"], classes=("box", "star"))
    assert [path.stem for path in result.outputs] == ["b_heatmap_box", "b_heatmap_box_2"]


def test_opacity_has_steps_and_ends(look: Look, folder: Path) -> None:
    _, window = look(folder / "a.png", ["", *"++++++", *"-" * 12, "="], alpha=0.5)
    drawn = [image.tobytes() for image in window.shown]
    assert drawn[5] == drawn[6]  # 1.0
    assert drawn[16] == drawn[17] == drawn[18]  # 0.0
    assert len({*drawn[:6]}) == 6
    assert drawn[19] == drawn[15]


def test_s_saves_what_is_seen_at_the_images_own_size_beside_what_is_there(
    look: Look, tmp_path: Path
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (900, 700, 3), np.uint8)
    write_image(tmp_path / "large.png", image)
    keys = ["", *["m"] * list(MODES).index("image"), "s", "s"]
    result, window = look(tmp_path / "large.png", keys)
    assert [path.name for path in result.outputs] == ["large_image.png", "large_image_2.png"]
    saved = read_image(result.outputs[0])
    assert window.shown[-1].shape[0] < 900 < saved.shape[0]
    bottom = saved.shape[0] - 8
    np.testing.assert_array_equal(saved[bottom - 900 : bottom, 8:708], image)


def test_a_line_in_the_window_names_the_keys(
    look: Look, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcnseg.viz import live

    feet: list[str] = []
    real = live.figure

    def spy(*sections, **more):
        feet.append(more["foot"])
        return real(*sections, **more)

    monkeypatch.setattr(live, "figure", spy)
    look(folder / "a.png", ["", " ", "+", "s"])
    assert all(foot.startswith(HELP) for foot in feet[:3])
    assert "opacity 0.6)" in feet[0]
    assert "paused" not in feet[0]
    assert "paused" in feet[1]
    assert "opacity 0.7, paused" in feet[2]
    assert feet[3] == ""
    for key in ("m:", "n p:", "+ -:", "space:", "f:", "b:", "s:", "q:"):
        assert key in HELP


def test_a_video_plays_pauses_and_continues(look: Look, drawn_clip: Path) -> None:
    result, window = look(drawn_clip, [])
    assert result.frames == len(window.shown) > 3
    sizes = {image.shape for image in window.shown}
    assert len(sizes) == 1
    paused, window = look(drawn_clip, [" ", "", "", "", "f", "", "q"])
    assert paused.frames == 2
    _, window = look(drawn_clip, [" ", "f", "", "b", "", "f", "q"])
    _, first, second, back, forward = (image.tobytes() for image in window.shown)
    assert (back, forward) == (first, second)
    paused, window = look(drawn_clip, ["b", *[""] * 20])
    assert (paused.frames, len(window.shown)) == (1, 2), "b pauses it"


def test_no_display_is_said_before_the_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(opencv, "has_display", lambda: False)
    with pytest.raises(OptionError, match="no display") as caught:
        view(folder, model="missing.safetensors", show=True)
    assert "--show" in str(caught.value.hint)


@pytest.mark.parametrize(
    "other", [{"rungs": True}, {"term": True}, {"at": (1, 2)}, {"separate": True}]
)
def test_options_that_would_do_nothing_are_refused(
    folder: Path, other: dict[str, object], random_model: Path
) -> None:
    with pytest.raises(OptionError, match="has no effect"):
        view(folder, model=str(random_model), show=True, **other)
    with pytest.raises(OptionError, match="--show has no effect with --show-what"):
        view(folder, model=str(random_model), show=True, show_what=("image",))


def test_ctrl_c_closes_the_window(
    look: Look, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Keyboard, milliseconds: int) -> int:
        raise KeyboardInterrupt

    closed: list[bool] = []
    monkeypatch.setattr(Keyboard, "wait", interrupt)
    monkeypatch.setattr(Keyboard, "destroy", lambda self: closed.append(True))
    with pytest.raises(Interrupted, match="Stopped"):
        look(folder, [])
    assert closed
