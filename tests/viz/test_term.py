"""--term: the overlay in half blocks, in colors where the terminal has them."""

from pathlib import Path

import numpy as np
import pytest

from fcnseg.cli import half_blocks, plain_console
from fcnseg.cli.console import Screen
from fcnseg.commands.viz import view
from fcnseg.errors import OptionError
from fcnseg.inference.loading import load
from fcnseg.io.draw import overlay
from fcnseg.io.images import write_image
from fcnseg.progress import Preview


def test_a_character_is_two_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    text = half_blocks(image, 5, colors=True, key=[("road", (1, 2, 3))])
    lines = text.plain.split("\n")
    assert lines[:3] == ["▀" * 5] * 3
    assert "road" in lines[3]
    styles = [span.style for span in text.spans]
    for index, style in enumerate(styles[:15]):
        row, column = divmod(index, 5)
        assert style.color.triplet == tuple(image[2 * row, column].tolist())
        assert style.bgcolor.triplet == tuple(image[2 * row + 1, column].tolist())
    assert styles[15].bgcolor.triplet == (1, 2, 3)


def test_without_colours_letters_are_brighter_where_the_image_is() -> None:
    image = np.repeat(np.linspace(0, 255, 10, dtype=np.uint8)[None, :, None], 3, axis=2)
    text = half_blocks(image.repeat(2, axis=0), 10, colors=False)
    assert text.plain.split("\n")[0] == " .:-=+*#%@"
    assert not text.spans


def test_a_preview_is_as_wide_as_the_terminal_and_not_higher(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w+", encoding="utf-8") as file:
        console = plain_console(file=file, width=60, height=20)
        for size in ((30, 300), (300, 30)):
            Screen(console)(Preview("a [b]", np.full((*size, 3), 255, np.uint8)))
        file.seek(0)
        lines = file.read().split("\n")
    assert lines[0] == "a [b]"
    assert max(map(len, lines)) <= 60
    assert len(lines) <= 2 * 20 + 2


def test_frames_are_shown_and_nothing_is_written(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    write_image(Path("in/a.png"), image)
    Path("in/b.png").write_bytes(b"no image")
    heard: list[object] = []
    result = view("in", heard.append, model=str(random_model), device="cpu", term=True)
    [preview] = [event for event in heard if isinstance(event, Preview)]
    model = load(random_model, device="cpu")
    labels = model.predict([image])[0].labels
    np.testing.assert_array_equal(preview.image, overlay(image, labels, model.classes, alpha=0.6))
    assert {name for name, _ in preview.key} == {
        model.classes.names[index] for index in np.unique(labels)
    }
    assert result.out is None
    assert result.as_dict()["out"] is None
    assert result.frames == 1
    assert [Path(name).stem for name, _ in result.failed] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("other", [{"out": "x"}, {"rungs": True}, {"theme": "light"}])
def test_options_of_files_are_refused(
    random_model: Path, tmp_path: Path, other: dict[str, object]
) -> None:
    write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(OptionError, match="has no effect with --term"):
        view(tmp_path / "a.png", model=str(random_model), term=True, **other)  # type: ignore[arg-type]
