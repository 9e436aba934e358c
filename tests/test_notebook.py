"""Objects show themselves in a notebook, and names in them stay text."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import fcnseg
from fcnseg import notebook
from fcnseg.classes import ClassMap
from fcnseg.commands.analysis.compare import CompareResult
from fcnseg.commands.analysis.review import ReviewResult
from fcnseg.commands.eval import EvalResult
from fcnseg.commands.multi_run import TrainResult
from fcnseg.datasets.check.findings import Finding
from fcnseg.inference.review import Suspect
from fcnseg.metrics import Report
from fcnseg.metrics.bootstrap import Difference
from fcnseg.metrics.scores import Scores
from fcnseg.report.tables import has_charts

EVIL = "<img src=x onerror=alert(1)> & co"


class Seen(HTMLParser):
    """The elements of a document and its text; an element that is not closed stays in `open`."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def model(random_model: Path) -> fcnseg.Segmenter:
    loaded = fcnseg.load(random_model)
    classes = ClassMap.of(["background", EVIL, "box", "star"], loaded.classes.colors.tolist())
    return replace(loaded, classes=classes)


def test_a_model_shows_its_classes_in_their_colours(model: fcnseg.Segmenter) -> None:
    html = model._repr_html_()
    seen = Seen(html)
    assert set(seen.elements) == {"table", "caption", "tbody", "tr", "th", "td", "span"}
    assert seen.open == []
    for text in (EVIL, "box", "4 classes", "random.safetensors", "at their own size"):
        assert text in seen.text
    for red, green, blue in model.classes.colors.tolist():
        assert f"rgb({red}, {green}, {blue})" in html


def test_a_report_is_a_table_of_percents() -> None:
    report = Report(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), ("ground", EVIL, "absent"), 2)
    seen = Seen(report._repr_html_())
    assert seen.elements.count("tr") == 4
    assert "img" not in seen.elements
    for text in (EVIL, "mIoU 77.50 % on 2 images", "75.00 %", "80.00 %", "-"):
        assert text in seen.text


def test_an_evaluation_says_of_what(random_model: Path, drawn_folder: Path) -> None:
    result = fcnseg.evaluate(random_model, drawn_folder, workers=0)
    assert isinstance(result, EvalResult)
    seen = Seen(result._repr_html_())
    for text in ("random.safetensors", "val", "star", "on 6 images"):
        assert text in seen.text
    assert seen.open == []


def test_a_comparison_shows_each_class_and_how_sure_it_is() -> None:
    labels = np.array([[0, 0], [1, 1]], np.uint8)
    results = []
    for name, predicted in (("first", np.zeros_like(labels)), (EVIL, labels)):
        scores = Scores(("ground", EVIL))
        scores.add(0, "image", labels, predicted)
        results.append(EvalResult(scores, {}, "val", Path(name), 0.0))
    result = CompareResult(tuple(results), (Difference(0.1, 0.05, 0.15, 0.99),))
    seen = Seen(result._repr_html_())
    assert seen.open == []
    assert "img" not in seen.elements
    for text in (EVIL, "A IoU", "B IoU", "B - A", "mean", "first", "50.00 %", "100.00 %", "+75.00"):
        assert text in seen.text
    assert "+10.00 points of mIoU, 95 % interval +5.00 to +15.00: B is better." in seen.text


def test_a_review_shows_what_to_look_at() -> None:
    suspect = Suspect(0, "one.png", 0, 1, 2.5, 40, (1, 2, 8, 5), 0.9, 0.05)
    made = ReviewResult(Path("runs/review1"), (), 7, ("ground", EVIL), suspects=(suspect,))
    seen = Seen(made._repr_html_())
    for text in ("one.png", "ground", EVIL, "40", "2.500", "review1", "wrong"):
        assert text in seen.text
    unsure = replace(made, suspects=(), to_label=(("two.png", 0.25),))
    again = Seen(unsure._repr_html_())
    for text in ("two.png", "0.250", "Images to label next"):
        assert text in again.text
    assert seen.open == again.open == []
    assert "img" not in seen.elements


def test_a_check_shows_classes_and_findings(drawn_folder: Path) -> None:
    found = fcnseg.check(drawn_folder)
    evil = Finding("warning", "odd", EVIL, ("a.png",), "see <b>")
    shares = (replace(found.frequencies[0], name=EVIL), *found.frequencies[1:])
    seen = Seen(replace(found, findings=(evil,), frequencies=shares)._repr_html_())
    assert seen.open == []
    assert not {"img", "b"} & set(seen.elements)
    for text in (found.summary, EVIL, "see <b>", "a.png", "star", "1 warning."):
        assert text in seen.text
    assert "No findings." in Seen(replace(found, findings=())._repr_html_()).text


@pytest.mark.parametrize("history", [(), ({"epoch": 1, "miou": 0.5}, {"epoch": 2, "miou": 0.625})])
def test_a_training_shows_where_it_is_and_its_curve(history) -> None:
    run = Path("runs") / EVIL
    result = TrainResult(run, run / "best", run / "last", 0.625, 2, 61.4, history)
    html = result._repr_html_()
    for text in (EVIL, "62.50 %", "61 s"):
        assert text in Seen(html).text
    assert "img" not in Seen(html).elements
    assert ("<svg" in html) == bool(history and has_charts())


def test_a_prediction_is_an_image(model: fcnseg.Segmenter) -> None:
    """Of pixels: a name in its legend can be nothing else."""
    prediction = model(np.zeros((40, 50, 3), np.uint8))
    assert prediction._repr_png_().startswith(b"\x89PNG")
    assert not hasattr(prediction, "_repr_html_")


def test_what_is_not_known_is_left_out() -> None:
    assert "file" not in Seen(notebook.facts("a model", {"file": None, "engine": "torch"})).text
