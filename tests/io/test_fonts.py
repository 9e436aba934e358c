"""Names of classes in any script are drawn where a font for it is installed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ImageFont

from fcnseg.classes import ClassMap
from fcnseg.io import draw as fonts
from fcnseg.io.draw import caption, legend
from fcnseg.viz import Panel
from fcnseg.viz.layout import page

SCRIPTS = {
    "Cyrillic": ("дорога", "машина"),
    "Greek": ("δρόμος", "αυτοκίνητο"),
    "Korean": ("도로", "자동차"),
    "Chinese": ("道路", "汽车"),
    "Arabic": ("طريق", "سيارة"),
}


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """What is installed is looked up anew before and after each test."""
    for cached in (fonts._faces, fonts._font):
        cached.cache_clear()
    yield
    for cached in (fonts._faces, fonts._font):
        cached.cache_clear()


def glyphs(font: fonts.Font, text: str) -> list[bytes]:
    """What a font draws for each character."""
    return [bytes(font.getmask(character)) for character in text]


def system_font(text: str) -> fonts.Font:
    """The font that is taken for a text; the test is skipped where none has all its letters."""
    if not any(face.covered(set(text)) == len(set(text)) for face in fonts._faces()):
        pytest.skip("no installed font has these letters")
    return fonts.font_for(text, 16)


@pytest.mark.parametrize("known_to", ["fontconfig", "folders"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_letters_are_drawn_and_not_boxes(
    script: str, known_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known_to == "folders":
        monkeypatch.setattr(fonts, "_from_fontconfig", list)
    text = "".join(SCRIPTS[script])
    font = system_font(text)
    assert bytes(font.getmask("\U0010ffff")) not in glyphs(font, text)


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_names_look_different_everywhere(script: str) -> None:
    first, second = SCRIPTS[script]
    system_font(first + second)
    one, other = first[:2], second[:2]  # of one length, so boxes would be equal
    panels = [legend(ClassMap.of([name]), height=24) for name in (one, other)]
    width = min(panel.shape[1] for panel in panels)
    assert np.any(panels[0][:, 24:width] != panels[1][:, 24:width])
    image = np.zeros((64, 200, 3), np.uint8)
    assert np.any(caption(image, one) != caption(image, other))
    assert np.any(page([Panel(image, one)]) != page([Panel(image, other)]))


def test_each_name_of_a_legend_has_its_own_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """One script without a font does not spoil the others."""
    asked: list[str] = []

    def font_for(text: str, size: int) -> fonts.Font:
        asked.append(text)
        return ImageFont.load_default(size)

    monkeypatch.setattr("fcnseg.io.draw.font_for", font_for)
    legend(ClassMap.of(["road", "дорога", "道路"]))
    assert asked == ["road", "дорога", "道路"]


def test_the_font_with_most_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def face(name: str, *ranges: tuple[int, int]) -> str:
        return f"/fonts/{name}\t0\t" + " ".join(f"{a:x}-{b:x}" for a, b in ranges) + "\n"

    ascii_, greek, hangul = (0x20, 0x7E), (0x370, 0x3FF), (0xAC00, 0xD7A3)
    listed = [
        *(face("DejaVuSans.ttf", ascii_), face("Digits.ttf", (0x30, 0x39))),
        *(face("Han.otf", ascii_, hangul), face("Greek-Bold.ttf", ascii_, greek)),
        *(face("Greek.ttf", ascii_, greek), face("bitmap.pcf", ascii_, greek, hangul)),
        "no fields\n",
        "/fonts/broken.ttf\t0\tzz\n",
    ]
    done = SimpleNamespace(stdout="".join(listed).encode())
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    opened: list[str] = []

    def opened_font(face: fonts._Face, size: int) -> fonts.Font:
        opened.append(Path(face.path).name)
        return ImageFont.load_default(size)

    monkeypatch.setattr(fonts, "_opened", opened_font)
    for text in ("αβ 1", "αβγδ 도", "도로 α", "road 1", "é\u0416", "\u200d\n"):
        fonts.font_for(text, 16)
    assert opened == ["Greek.ttf", "Greek.ttf", "Han.otf"]


def test_ascii_looks_the_same_everywhere_and_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_faces", lambda: pytest.fail("looked for fonts"))
    assert glyphs(fonts.font_for("road 1", 16), "ro1") == glyphs(ImageFont.load_default(16), "ro1")


def test_no_fonts_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("fc-list")

    monkeypatch.setattr(subprocess, "run", absent)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_FOLDERS", {"linux": (str(tmp_path), str(tmp_path / "none"))})
    monkeypatch.setattr(fonts.sys, "platform", "linux")
    assert legend(ClassMap.of(["дорога"])).shape[0] == 24
