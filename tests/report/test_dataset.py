"""What check prints for a person, and the page that says the same."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcnseg.commands.check import check
from fcnseg.config import CheckConfig
from fcnseg.datasets.check import CheckResult, examine, suggestions
from tests.datasets import written
from tests.datasets.discs import discs, write
from tests.datasets.written import draw_set


def run(data: Path, **options: Path) -> CheckResult:
    return check(CheckConfig(data=data, contact=data.parent / "contact.png", **options))


def test_the_reading_is_one_sentence(tmp_path: Path) -> None:
    stored = [labels * 255 for labels in discs(10)]
    found = examine(write(tmp_path / "one", stored))
    said = "10 images with labels in masks/ (0/255), not split: 2 held out for validation."
    assert found.summary == said
    written.folders(tmp_path / "two", draw_set())
    assert re.match(
        r"9 images with labels in masks/ \(0/1/2/3, one ignored\), "
        r"split by the folder's train \(6\) and val \(3\)\.",
        examine(tmp_path / "two").summary,
    )
    written.coco(tmp_path / "three", draw_set(), "polygons")
    assert "json" in examine(tmp_path / "three").summary


def test_findings_are_counted_by_severity(tmp_path: Path) -> None:
    data = write(tmp_path / "data", discs(10))
    (data / "masks/3.png").write_bytes(b"")
    (data / "masks/4.png").unlink()
    found = run(data)
    assert re.match(r"1 error, \d warnings? and \d notes?$", found.count)
    assert found.training_time == ""  # nothing can be trained


def test_the_time_follows_from_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    for speed in (100.0, 10.0):
        monkeypatch.setattr(suggestions, "_speed", lambda speed=speed: speed)
        found = run(write(tmp_path / f"data{speed}", discs(10)))
        assert found.seconds is not None
        assert found.training_time.startswith("Training takes about ")
        times.append(found.seconds)
    assert times[1] == pytest.approx(10 * times[0])
    crop, epochs = (64, 64), 300
    pixels = epochs * (8 * 64 * 64 + 0.3 * 2 * 48 * 48)
    expected = suggestions.training_seconds(crop, epochs, {"train": 8, "val": 2}, [(48, 48)], 0)
    assert expected == pytest.approx(pixels / (4200 * 10.0))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(30, "a minute or two"), (400, "7 minutes"), (2500, "40 minutes"), (9000, "2 hours")],
)
def test_times_are_said_roughly(seconds: float, words: str) -> None:
    assert words in suggestions.in_words(seconds)


def test_the_page_holds_everything_and_escapes_it(tmp_path: Path) -> None:
    names = {"classes.txt": "<script>alert(1)</script>\nleaf & stone\n"}
    data = write(tmp_path / "a<b", discs(10), names)
    (data / "masks/4.png").rename(data / "masks/<i>4.png")
    page = tmp_path / "page.html"
    found = run(data, html=page)
    text = page.read_text()
    assert found.page == page
    assert "<script>alert" not in text
    assert "prefers-color-scheme: dark" in text  # the style of all reports
    assert text.count("<main>") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert "leaf &amp; stone" in text
    assert "masks/&lt;i&gt;4.png" in text
    assert found.summary in text
    assert found.count in text
    assert not re.search(r'(src|href)="(?!data:)', text)  # self-contained
    assert text.count('alt="image"') == text.count('alt="labels"') == 9


def test_labels_are_shown_beside_their_image(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = run(write(tmp_path / "data", discs(4)), html=page)

    urls = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]
    colors = {tuple(color) for color in found.description.classes.colors.tolist()}
    assert {tuple(color) for color in pixels[1].reshape(-1, 3).tolist()} <= colors
    assert pixels[0].shape == pixels[1].shape
