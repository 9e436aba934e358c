"""A page is one file, valid, and names in it are text."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fcnseg
from fcnseg.classes import ClassMap
from fcnseg.datasets.loader import Sample
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.metrics.regions import COLORS, KINDS, kinds_of_errors
from fcnseg.models.checkpoint import BEST
from fcnseg.report import _curves
from fcnseg.report import gallery as galleries
from fcnseg.report.gallery import Gallery
from fcnseg.report.tables import has_charts, line_chart
from tests.cli.test_cli import TINY_FLAGS, call
from tests.report.pages import CLASSES, EVIL, data_of, make_page, scene


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_names_are_text_and_nothing_is_fetched() -> None:
    page = make_page()
    parser = Elements()
    parser.feed(page)
    for tag, attributes in parser.found:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, (tag, attributes)
        assert tag not in ("b", "link") or "x" not in attributes
    kinds = [attributes.get("type") for tag, attributes in parser.found if tag == "script"]
    assert kinds == ["application/json", "application/json", None, *4 * ["application/json"]]
    assert 'id="view-4"' in page.split('"use strict"')[0]  # the first to be seen, the worst
    assert EVIL not in page
    assert "&lt;img src=x" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert data_of(page)["confusion"]["names"] == list(CLASSES.names)
    ids = [attributes["id"] for _, attributes in parser.found if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_what_the_page_says_is_what_was_scored() -> None:
    page = make_page()
    data = data_of(page)
    assert sum(map(sum, data["confusion"]["counts"])) == 5 * 48 * 64
    # The image with the most pixels of class 1 called class 0 is the one that is off the most.
    [index, pixels] = data["confusion"]["images"]["1,0"][0]
    assert (index, pixels) == (4, 5 * 64)
    assert data["order"] == [4, 3, 2, 1, 0]
    assert "Not in the labels, so in no mean: absent." in page
    assert "They sum to 100" in page


def png(source: str) -> np.ndarray:
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_layers_are_labels_prediction_errors_and_probabilities() -> None:
    sample, found = scene(3)
    kept = Gallery(CLASSES, 2)
    kept.add(7, sample, {"prediction": found}, [0.5])
    layers = kept.views[7]["layers"]
    assert [layer["title"] for layer in layers[:3]] == ["labels", "prediction", "errors"]
    assert (png(layers[0]["src"])[..., :3] == CLASSES.colors[sample.labels]).all()
    assert (png(layers[1]["src"])[..., :3] == CLASSES.colors[found.labels]).all()
    errors, kinds = png(layers[2]["src"]), kinds_of_errors(sample.labels, found.labels, 2)
    assert ((errors[..., 3] > 0) == (kinds < len(KINDS))).all()
    assert (errors[kinds == 3][:, :3] == COLORS[3]).all()
    for k, layer in enumerate(layers[3:]):
        assert layer["heat"] == CLASSES.names[k]
        levels = png(layer["src"])[..., 0]
        assert found.probabilities is not None
        assert np.abs(levels / 255 - found.probabilities[k]).max() <= 0.5 / 255 + 1e-6


def test_a_wrong_pixel_is_seen_in_a_small_view() -> None:
    labels = np.zeros((900, 1200), np.uint8)
    predicted = labels.copy()
    predicted[451, 700] = 1
    kept = Gallery(ClassMap.numbered(2), 2)
    sample = Sample(np.zeros((900, 1200, 3), np.uint8), labels, "large")
    kept.add(0, sample, {"prediction": PredictedArrays(predicted)}, [1.0])
    errors = png(kept.views[0]["layers"][2]["src"])
    assert errors.shape == (240, 320, 4)
    assert (errors[..., 3] > 0).sum() == 1


def test_a_gallery_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(galleries, "BUDGET", 60_000)
    kept = Gallery(CLASSES, 2)

    class Noise:
        def __getitem__(self, index: int) -> Sample:
            return scene(index % 5)[0]

        def to_rgb(self, image: np.ndarray) -> np.ndarray:
            return image

    def predict(image: np.ndarray, wanted: bool) -> PredictedArrays:
        return scene(0)[1]

    order = list(range(100))
    galleries.fill(kept, Noise(), {"a": predict}, order, {i: [0.5] for i in order})  # type: ignore[arg-type]
    assert 1 < len(kept.views) < 100
    one = max(len(json.dumps(view)) for view in kept.views.values())
    assert kept.spent < 60_000 + one


def test_eval_and_compare_and_train_write_pages(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    call("eval", drawn_folder, "-m", tiny_run, "--html", one)
    same = shutil.copy(tiny_run / BEST, tmp_path / "copy.safetensors")
    call("compare", drawn_folder, "-m", tiny_run, "-m", same, "--html", two)
    pages = [one.read_text(encoding="utf-8"), two.read_text(encoding="utf-8")]
    for page in pages:
        assert len(data_of(page)["views"]) == 6
    assert "Training loss" in pages[0]
    assert "Configuration of the training" in pages[0]
    assert data_of(pages[1])["sides"] == ["A", "B"]
    assert "the difference is not significant" in pages[1]
    flags = [flag for flag in TINY_FLAGS if flag != "--no-report"]
    call("train", drawn_folder, "-o", tmp_path / "run", "--epochs", 1, *flags)
    assert len(data_of((tmp_path / "run/report.html").read_text(encoding="utf-8"))["views"]) == 6
    assert not (tiny_run / "report.html").exists()


def test_without_the_extra(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """eval says what to install before it begins; train says nothing and writes no page."""
    monkeypatch.setattr("fcnseg.report.tables.find_spec", lambda name: None)
    page = tmp_path / "one.html"
    shown = call("eval", drawn_folder, "-m", tiny_run, "--html", page, status=1).stderr
    assert "pip install 'fcnseg[report]'" in shown
    assert "on 6 images" not in shown
    flags = [flag for flag in TINY_FLAGS if flag != "--no-report"]
    shown = call("train", drawn_folder, "-o", tmp_path / "run", "--epochs", 1, *flags).stderr
    assert "report" not in shown
    assert not (tmp_path / "run/report.html").exists()


def test_the_skips_terms_sum_to_the_logits(random_model: Path) -> None:
    """At each point of the grid, for the classes that are kept."""
    model = fcnseg.load(random_model, engine="torch", precision="f32")
    rng = np.random.default_rng(0)
    sample = Sample(
        rng.integers(0, 256, (96, 160, 3), np.uint8), np.zeros((96, 160), np.uint8), "a"
    )
    kept = Gallery(model.classes, 2)
    found = model.predict([sample.image], probabilities=True)[0]
    kept.add(0, sample, {"prediction": found}, [0.5], model.skip_scores(sample.image))
    terms = kept.views[0]["terms"]
    shape = (len(terms["strides"]), len(terms["classes"]), terms["height"], terms["width"])
    assert shape == (4, 4, 38, 64)
    assert terms["strides"] == [32, 16, 8, 4]
    values = np.frombuffer(base64.b64decode(terms["values"]), "<i2").reshape(shape)
    order = [model.classes.names.index(name) for name in terms["classes"]]
    logits = model.logits(sample.image)[order]
    rows = [int((row + 0.5) * 96 / 38) for row in range(38)]
    columns = [int((column + 0.5) * 2.5) for column in range(64)]
    wanted = logits[:, rows][:, :, columns]
    np.testing.assert_allclose(terms["step"] * values.sum(axis=0), wanted, atol=3 * terms["step"])


def test_a_page_is_no_input(drawn_folder: Path, tiny_run: Path) -> None:
    labels = drawn_folder / "labels/val/0000.png"
    for command in (["eval"], ["compare", "-m", tiny_run]):
        call(*command, drawn_folder, "-m", tiny_run, "--html", labels, status=2)


def test_curves_have_no_parts_of_epochs() -> None:
    """Text in the picture is drawn as text, so that it can be read there."""
    if not has_charts():
        pytest.skip("needs matplotlib")
    drawn = line_chart({"loss": [0.6, 0.5, 0.4]}, x=[1.0, 2.0, 3.0], x_name="epoch", name="loss")
    ticks = re.findall(r">([0-9.]+)</text>", drawn)
    assert {"1", "2", "3"} <= set(ticks)
    assert not {"1.5", "2.5", "1.25"} & set(ticks)


def test_damaged_results_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "results.csv").write_text("epoch,loss,miou\n1,x,0.5\n")
    assert _curves(tmp_path / "best.safetensors") == []
