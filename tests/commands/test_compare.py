"""Comparing models: the numbers are those of eval, images are paired, classes are matched."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fcnseg.commands.analysis.compare import compare
from fcnseg.commands.eval import evaluate
from fcnseg.config import CompareConfig
from fcnseg.datasets.check import examine
from fcnseg.errors import DatasetError, OptionError
from fcnseg.models.checkpoint import BEST
from tests.cli.test_cli import call
from tests.commands.test_eval import NAMES, renamed


def run_compare(folder: Path, *models: object, **more):
    options = {"data": folder, "model": [str(model) for model in models], "device": "cpu", **more}
    return compare(CompareConfig.make({**options, "workers": 0}))


def test_numbers_are_those_of_eval(drawn_folder: Path, tiny_run: Path, random_model: Path) -> None:
    found = run_compare(drawn_folder, random_model, tiny_run)
    first = evaluate(random_model, drawn_folder, device="cpu", workers=0)
    second = evaluate(tiny_run, drawn_folder, device="cpu", workers=0)
    values = json.loads(json.dumps(found.as_dict()))
    assert values["miou"] == [first.miou, second.miou]
    for row, one, other in zip(values["classes"], first.classes, second.classes, strict=True):
        assert row == {"name": one.name, "iou": [one.iou, other.iou]}
    [difference] = values["differences"]
    assert difference["miou"] == pytest.approx(second.miou - first.miou)
    assert difference["interval"][0] < difference["miou"] < difference["interval"][1]
    better = "B" if second.miou > first.miou else "A"
    assert difference["verdict"].startswith(f"B - A: {100 * difference['miou']:+.2f} points")
    assert difference["verdict"].endswith(f"{better} is better.")
    gaps = [abs(row["miou"][0] - row["miou"][1]) for row in values["images"]]
    assert gaps == sorted(gaps, reverse=True)
    assert {row["name"] for row in values["images"]} == {f"val/000{n}" for n in range(6)}


def test_the_folder_is_examined_once(
    drawn_folder: Path, tiny_run: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for module in ("fcnseg.commands.analysis.compare", "fcnseg.commands.eval"):
        monkeypatch.setattr(
            f"{module}.examine", lambda *a, **b: folders.append(a[0]) or examine(*a, **b)
        )
    run_compare(drawn_folder, tiny_run, random_model)
    assert folders == [drawn_folder]


def test_classes_in_another_order_are_the_same_classes(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    moved = renamed(tiny_run, [NAMES[3], *NAMES[:3]], tmp_path)
    found = run_compare(drawn_folder, tiny_run, moved, precision="f32")
    one, other = (result.scores for result in found.results)
    assert other.classes == NAMES
    assert np.abs(one.matrix - other.matrix).sum() <= 4  # scores that are equal but for rounding
    assert (one.boundary == other.boundary).mean() > 0.8
    assert found.differences[0].value == pytest.approx(0, abs=1e-3)
    assert not found.differences[0].clear or abs(found.differences[0].low) < 1e-3


def test_an_exported_file_is_compared_with_its_checkpoint(
    drawn_folder: Path, random_model: Path, exported_model: Path
) -> None:
    models = (str(random_model), str(exported_model))
    result = compare(CompareConfig(data=drawn_folder, model=models, workers=0))
    before, after = (one.report.miou for one in result.results)
    assert after == pytest.approx(before, abs=1e-3)
    assert not result.differences[0].clear


def test_other_classes_are_refused(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    other = renamed(tiny_run, ["a", "b", "c", "d"], tmp_path)
    with pytest.raises(DatasetError, match="model B has a, b, c, d"):
        run_compare(drawn_folder, tiny_run, other)


@pytest.mark.parametrize("count", [0, 1])
def test_one_model_is_not_compared(drawn_folder: Path, tiny_run: Path, count: int) -> None:
    with pytest.raises(OptionError, match=f"found {count}"):
        run_compare(drawn_folder, *[tiny_run] * count)


def test_one_image_says_nothing_of_how_sure(
    drawn_folder: Path, tiny_run: Path, random_model: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "one.csv"
    image, labels = (drawn_folder / role / "val/0000.png" for role in ("images", "labels"))
    pairs.write_text(f"{image},{labels}\n")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    values = run_compare(pairs, tiny_run, random_model, split="all").as_dict()
    assert values["differences"][0]["interval"] == [None, None]
    assert "one image is too few" in values["differences"][0]["verdict"]


def test_on_the_command_line(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    table = tmp_path / "images.csv"
    copies = [shutil.copy(tiny_run / BEST, tmp_path / f"{name}.safetensors") for name in "bc"]
    models = ["-m", tiny_run, "-m", copies[0], "-m", copies[1]]
    shown = call("compare", drawn_folder, *models, "--csv", table).stdout
    assert "C - A: +0.00 points" in shown
    assert "the difference is not significant" in " ".join(shown.split())
    heading, *rows = csv.reader(table.read_text().splitlines())
    assert [name[0] for name in heading[1:]] == ["A", "B", "C"]
    assert len(rows) == 6
    labels = drawn_folder / "labels/val/0000.png"
    call("compare", drawn_folder, *models, "--csv", labels, status=2)
