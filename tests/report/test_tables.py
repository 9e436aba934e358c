"""Tables hold the numbers of the scores, whatever the classes and images are called."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from fcnseg.commands.eval import evaluate
from fcnseg.metrics.scores import Scores
from fcnseg.report.tables import (
    comparison_table,
    confusion_table,
    image_table,
    latex_table,
    markdown_table,
)
from tests.cli.test_cli import call

NAMES = ("back_ground", "50% | <b>", 'say "hi", x')
PROTOCOL = {
    "images": 2, "split": "val", "tta": False, "tta_views": "", "ignored": 0.1, "tolerance": 2,
    "boundary_iou_band": 0.02,
}  # fmt: skip


@pytest.fixture
def scores() -> Scores:
    """Two images, the second the worse; the third class is not in the first."""
    found = Scores(NAMES)
    rng = np.random.default_rng(0)
    for number, skill in enumerate((0.9, 0.6)):
        labels = np.kron(rng.integers(0, 2 + number, (3, 4)), np.ones((8, 8))).astype(np.uint8)
        guess = np.where(rng.random(labels.shape) < skill, labels, 0).astype(np.uint8)
        labels[0, :5] = 255
        sure = np.full(labels.shape, 0.8, np.float32)
        found.add(number, f"part/{number}, a", labels, guess, sure)
    return found


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_the_table_of_images(scores: Scores) -> None:
    heading, *lines = rows(image_table(scores))
    assert heading[:4] == ["image", "height", "width", "ignored"]
    assert heading[-3:] == [f"iou {name}" for name in NAMES]
    assert [line[0] for line in lines] == ["part/1, a", "part/0, a"]
    for line, image in zip(lines, scores.images[::-1], strict=True):
        assert line[1:4] == ["24", "32", "5"]
        assert float(line[4]) == pytest.approx(image.report.miou, abs=1e-6)
        for cell, one in zip(line[7:], image.report.classes, strict=True):
            assert cell == ("" if one.iou is None else f"{one.iou:.6f}")
    assert lines[1][-1] == ""


def test_the_confusion_matrix(scores: Scores) -> None:
    heading, *lines = rows(confusion_table(scores))
    assert heading[1:] == [line[0] for line in lines] == list(NAMES)
    assert np.array([line[1:] for line in lines], int).tolist() == scores.matrix.tolist()
    assert (sum(image.matrix for image in scores.images) == scores.matrix).all()


def test_a_spreadsheet_runs_no_name() -> None:
    named = comparison_table({"A": "=1"}, [("=cmd|' /C calc'!A0", [-0.5]), ("@a", [0.5])])
    assert rows(named)[0] == ["image", "A =1"]
    assert rows(named)[1:] == [["'=cmd|' /C calc'!A0", "-0.500000"], ["'@a", "0.500000"]]


def test_latex_and_markdown(scores: Scores) -> None:
    latex, markdown = latex_table(scores, PROTOCOL), markdown_table(scores, PROTOCOL)
    assert r"back\_ground & " in latex
    assert r"50\% | \textless{}b\textgreater{} & " in latex
    assert r"| 50% \| \<b\> |" in markdown
    values = scores.as_dict()
    for table in (latex, markdown):
        assert f"{100 * values['classes'][1]['dice']:.2f}" in table
        assert f"{100 * values['mean_precision']:.2f}" in table
        assert "2 images, split val" in table
    width = {line.count(" & ") for line in latex.splitlines() if line.endswith("\\\\")}
    assert width == {6}
    cells = {line.replace("\\|", "").count("|") for line in markdown.splitlines()[:6]}
    assert cells == {8}


def test_parts_of_a_dataset_join_to_the_scores_of_all(scores: Scores) -> None:
    one, other = Scores(NAMES), Scores(NAMES)
    rng = np.random.default_rng(1)
    whole = Scores(NAMES)
    for index in range(4):
        labels, guess = rng.integers(0, 3, (2, 9, 9)).astype(np.uint8)
        for part in (whole, (one, other)[index % 2]):
            part.add(index, str(index), labels, guess, np.full((9, 9), 0.5, np.float32))
    joined = Scores.joined([one, other])
    assert joined.as_dict() == whole.as_dict()
    assert [image.name for image in joined.images] == ["0", "1", "2", "3"]


def test_eval_writes_tables(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / "new" / f"{name}.txt" for name in ("csv", "confusion")}
    files |= {name: tmp_path / f"{name}.txt" for name in ("latex", "markdown")}
    flags = [text for name, path in files.items() for text in (f"--{name}", path)]
    shown = call("eval", drawn_folder, "-m", tiny_run, "--json", *flags).stdout
    values = json.loads(shown)
    assert values["outputs"] == [str(path) for path in files.values()]
    assert len(rows(files["csv"].read_text())) == 7
    matrix = [line[1:] for line in rows(files["confusion"].read_text())[1:]]
    assert np.array(matrix, int).sum() == 6 * 128 * 160
    assert "\\toprule" in files["latex"].read_text()
    assert "| star |" in files["markdown"].read_text()
    protocol = values["protocol"]
    assert (protocol["split"], protocol["tta"], protocol["tolerance"]) == ("val", False, 2)
    assert protocol["ignored"] == 0
    assert "absent" not in protocol["absent_classes"]
    assert sum(values["missing"].values()) == pytest.approx(1 - values["miou"], abs=1e-9)


def test_outputs_are_no_folders_and_no_inputs(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    labels = drawn_folder / "labels/val/0000.png"
    before = labels.read_bytes()
    call("eval", drawn_folder, "-m", tiny_run, "--csv", labels, status=2)
    assert labels.read_bytes() == before
    call("eval", drawn_folder, "-m", tiny_run, "--latex", tmp_path, status=2)
    call("eval", drawn_folder, "-m", tiny_run, "--latex", tiny_run / "best.safetensors", status=2)
    table = tmp_path / "a.txt"
    call("eval", drawn_folder, "-m", tiny_run, "--latex", table, "--csv", table, status=2)


def test_a_second_model_is_not_silently_taken_alone(drawn_folder: Path, tiny_run: Path) -> None:
    shown = call("review", drawn_folder, "-m", tiny_run, "-m", "other", status=2).stderr
    assert "--model was given 2 times" in shown
    assert "once for" in " ".join(shown.split())


def test_scores_with_views_have_confidence(drawn_folder: Path, tiny_run: Path) -> None:
    found = evaluate(tiny_run, drawn_folder, tta=True, device="cpu", workers=0)
    assert found.scores.calibration.ece is not None
    assert found.protocol["tta"]
