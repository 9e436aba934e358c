"""Several trainings in one command: seeds and folds, resumed, summarised, and used as a model."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fcnseg.cli.tables import show_train
from fcnseg.commands.eval import evaluate
from fcnseg.commands.multi_run import MultiRunResult, TrainResult
from fcnseg.commands.train import train
from fcnseg.commands.viz import view
from fcnseg.config import TrainConfig
from fcnseg.datasets import split_pairs
from fcnseg.datasets.describe import describe
from fcnseg.errors import DatasetError, FcnsegError, Interrupted, OptionError
from fcnseg.inference.loading import load
from fcnseg.io.images import read_image
from fcnseg.models.checkpoint import Checkpoint, find_model, find_models
from fcnseg.progress import EpochEnd, Event, Message
from fcnseg.report import multi_run_page
from fcnseg.training.run_folder import MultiRun, multi_run_in, summarize
from tests.conftest import TINY

QUICK = {**TINY, "width": 8, "crop": (48, 48), "batch": 4, "epochs": 1, "lr": 0.01}


@pytest.fixture(scope="module")
def seeds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> MultiRunResult:
    out = tmp_path_factory.mktemp("runs") / "seeds"
    result = train(data, out=out, seeds=2, seed=3, **QUICK)
    assert isinstance(result, MultiRunResult)
    return result


@pytest.fixture(scope="module")
def folds(data: Path, tmp_path_factory: pytest.TempPathFactory) -> MultiRunResult:
    out = tmp_path_factory.mktemp("runs") / "folds"
    result = train(data, out=out, folds=3, **QUICK)
    assert isinstance(result, MultiRunResult)
    return result


def weights_of(path: Path) -> bytes:
    return (path / "last.safetensors").read_bytes()


def test_a_run_of_several_is_that_of_its_seed_alone(
    seeds: MultiRunResult, data: Path, tmp_path: Path
) -> None:
    assert [run.run.name for run in seeds.runs] == ["seed3", "seed4"]
    alone = train(data, out=tmp_path / "alone", seed=4, **QUICK)
    assert weights_of(alone.run) == weights_of(seeds.run / "seed4")


def test_the_report_has_mean_and_spread(seeds: MultiRunResult) -> None:
    report = json.loads((seeds.run / "report.json").read_text())
    values = [run.report["miou"] for run in seeds.runs]
    assert report["miou"]["mean"] == seeds.miou == pytest.approx(np.mean(values))
    assert report["miou"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert (report["miou"]["min"], report["miou"]["max"]) == (min(values), max(values))
    assert set(report["iou"]) == {"background", "disk", "box", "star"}
    assert report == seeds.report
    assert seeds.best == max(seeds.runs, key=lambda run: run.miou).best


def test_a_class_without_labels_does_not_count_in_its_run() -> None:
    run = {"miou": 0.5, "pixel_accuracy": 0.5}
    found = summarize(
        [{**run, "iou": {"a": 0.2, "b": None}}, {**run, "iou": {"a": 0.4, "b": None}}]
    )
    assert found["iou"]["a"]["mean"] == pytest.approx(0.3)
    assert found["iou"]["b"] == {"mean": None, "std": None, "min": None, "max": None, "runs": 0}


def test_each_image_validates_in_one_fold(folds: MultiRunResult, data: Path) -> None:
    validated = [run["validated_on"] for run in folds.report["runs"]]
    names = [pair.name for pair in split_pairs(describe(data), "all")]
    assert sorted(name for fold in validated for name in fold) == sorted(names)
    assert [len(fold) for fold in validated] == [2, 2, 2]
    for fold, run in zip(validated, folds.runs, strict=True):
        again = describe(run.run / "dataset.toml")
        assert {pair.name for pair in split_pairs(again, "val")} == set(fold)
        assert {pair.name for pair in split_pairs(again, "train")} == set(names) - set(fold)


def test_a_fold_alone_is_that_of_all(folds: MultiRunResult, data: Path, tmp_path: Path) -> None:
    alone = train(data, out=tmp_path / "alone", folds=3, fold=1, **QUICK)
    assert weights_of(alone.run) == weights_of(folds.run / "fold1")


def test_the_report_of_a_fold_is_on_its_own_validation_images(
    folds: MultiRunResult, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    from tests.report.pages import data_of

    alone = train(data, out=tmp_path / "alone", folds=3, fold=1, **{**QUICK, "report": True})
    assert isinstance(alone, TrainResult)
    page = data_of((alone.run / "report.html").read_text(encoding="utf-8"))
    assert set(page["names"].values()) == set(folds.report["runs"][1]["validated_on"])


def test_the_scores_of_a_fold_are_those_of_eval(folds: MultiRunResult) -> None:
    run = folds.runs[2]
    found = evaluate(run.run, run.run / "dataset.toml")
    assert found.split == "val"
    assert found.miou == pytest.approx(folds.report["runs"][2]["miou"], abs=1e-3)


def test_folds_are_warned_of_on_their_own_data(
    folds: MultiRunResult, seeds: MultiRunResult, data: Path
) -> None:
    def warnings(model: Path, on: Path) -> list[str]:
        said: list[str] = []

        def note(event: Event) -> None:
            if isinstance(event, Message) and "optimistic" in event.text:
                said.append(event.text)

        evaluate(model, on, note)
        return said

    [text] = warnings(folds.run, data)
    assert "all but one of the 3 models" in text
    assert warnings(folds.runs[0].run, data) != []
    assert warnings(folds.runs[0].run, folds.runs[0].run / "dataset.toml") == []
    assert warnings(seeds.run, data) == []


def test_the_folder_is_a_model_the_average(seeds: MultiRunResult, data: Path) -> None:
    image = read_image(next((data / "images" / "val").iterdir()))
    whole, *each = (load(path).predict([image], probabilities=True)[0].probabilities
                    for path in (seeds.run, *(run.run for run in seeds.runs)))  # fmt: skip
    assert whole is not None
    np.testing.assert_allclose(whole, np.mean([np.asarray(one) for one in each], 0), atol=1e-5)
    assert [path.parent.name for path in find_models([str(seeds.run)])] == ["seed3", "seed4"]


def test_one_model_is_not_several(seeds: MultiRunResult) -> None:
    with pytest.raises(OptionError, match="holds 2 models") as caught:
        find_model(str(seeds.run))
    assert "seed3" in caught.value.hint


def test_the_newest_run_may_be_of_several(seeds: MultiRunResult) -> None:
    found = find_models(None, runs=seeds.run.parent)
    assert found == [run.best for run in seeds.runs]


def test_an_interrupted_folder_is_resumed_bit_for_bit(
    seeds: MultiRunResult, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cut"

    def interrupt(event: Event) -> None:
        if isinstance(event, EpochEnd):  # the last: there is no step after it
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        train(data, interrupt, out=out, seeds=2, seed=3, **QUICK)
    assert f"fcnseg train {out} --resume" in caught.value.hint
    with pytest.raises(OptionError, match="already contains a run"):
        train(data, out=out, seeds=2, **QUICK)
    begun: list[str] = []
    again = train(out, lambda event: begun.append(getattr(event, "text", "")), resume=True)
    assert isinstance(again, MultiRunResult)
    for name in ("seed3", "seed4"):
        assert weights_of(out / name) == weights_of(seeds.run / name)
    assert {**again.report, "runs": 0} == {**seeds.report, "runs": 0}
    before = (out / "seed3" / "state.pt").stat().st_mtime_ns
    assert train(out, resume=True).miou == again.miou
    assert (out / "seed3" / "state.pt").stat().st_mtime_ns == before, "it was finished"


def test_more_epochs_continue_all_runs(seeds: MultiRunResult, tmp_path: Path) -> None:
    shutil.copytree(seeds.run, tmp_path / "run")
    longer = train(tmp_path / "run", resume=True, epochs=2)
    assert isinstance(longer, MultiRunResult)
    assert [run.epochs for run in longer.runs] == [2, 2]
    with pytest.raises(OptionError, match="--epochs 2"):
        train(tmp_path / "run", resume=True, epochs=1)


def test_minutes_are_divided(tmp_path: Path) -> None:
    several = MultiRun(tmp_path, TrainConfig(minutes=30.0, seeds=3))
    assert [several.options(name).minutes for name in several.names] == [10.0, 10.0, 10.0]


REFUSED = [
    ({"seeds": 1}, "--seeds: expected a whole number at least 2"),
    ({"folds": 1}, "--folds: expected a whole number at least 2"),
    ({"seeds": 2, "folds": 2}, "--seeds and --folds can't be combined"),
    ({"folds": 2, "fold": 2}, "--fold 2 is one of the folds"),
    ({"fold": 0}, "--folds was not given"),
    ({"folds": 7}, "6 images of train and val are 6 groups"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED)
def test_refusals_leave_nothing(
    options: dict[str, int], text: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(FcnsegError, match=text):
        train(data, out=tmp_path / "run", **QUICK, **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_there_stays(data: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DatasetError):
        train(tmp_path / "nothing", out=tmp_path, seeds=2, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(OptionError):
        train(data, out=data, seeds=2, **QUICK)
    assert not (data / "config.toml").exists()


def test_the_terminal_has_the_table(
    seeds: MultiRunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    show_train(seeds)
    said = capsys.readouterr().out
    for word in ("2 seeds", "mean", "std", "mIoU", "pixel accuracy", "star", "infer"):
        assert word in said


def test_the_terminal_names_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = SimpleNamespace(run=tmp_path, best=tmp_path / "best.safetensors", miou=0.5)
    show_train(done)
    assert "report.html" not in capsys.readouterr().out
    (tmp_path / "report.html").touch()
    show_train(done)
    assert "report.html" in capsys.readouterr().out


def test_the_page_has_the_table(seeds: MultiRunResult) -> None:
    page = multi_run_page("runs/<b>", seeds.report)
    assert "IoU star" in page
    assert "seed4" in page
    assert "<b>" not in page


def test_a_page_that_cannot_be_written_loses_no_training(
    seeds: MultiRunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcnseg.commands.multi_run.has_charts", lambda: True)
    shutil.copytree(seeds.run, tmp_path / "run")
    (tmp_path / "run" / "report.html").mkdir()
    assert train(tmp_path / "run", resume=True, report=True).miou == seeds.miou


def test_checkpoints_of_folds_say_so(folds: MultiRunResult, seeds: MultiRunResult) -> None:
    assert Checkpoint.load(folds.best).extra["folds"] == 3
    assert "folds" not in Checkpoint.load(seeds.best).extra
    assert dataclasses.asdict(folds.runs[0])["epochs"] == 1


def test_a_config_of_another_program_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    assert multi_run_in(tmp_path) is None


def test_what_is_inside_one_network_is_not_drawn_of_several(
    seeds: MultiRunResult, data: Path, tmp_path: Path
) -> None:
    image = next((data / "images" / "val").iterdir())
    with pytest.raises(OptionError, match="these are several"):
        view(image, model=str(seeds.run), out=tmp_path / "out", show_what=["scores"])
