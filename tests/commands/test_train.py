"""The command: what a run leaves behind, and that no interruption changes it."""

import csv
import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.commands.eval import EvalResult, evaluate
from fcnseg.commands.multi_run import TrainResult
from fcnseg.commands.train import train
from fcnseg.config import EvalConfig, TrainConfig
from fcnseg.datasets.describe import describe
from fcnseg.errors import (
    DatasetError,
    FcnsegError,
    InputError,
    Interrupted,
    OptionError,
    TrainingError,
)
from fcnseg.inference.loading import load
from fcnseg.io.images import read_image, resize_image, write_labels
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.progress import EpochEnd, Event, Message, Progress
from fcnseg.training.step import TrainStep
from fcnseg.training.validation import load_best
from tests.conftest import TINY

QUICK = {**TINY, "width": 8, "crop": (64, 64), "batch": 3, "epochs": 2, "lr": 0.01}
CLOCKED = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures to train on (3 steps an epoch in batches of three), two to validate."""
    data = tmp_path_factory.mktemp("small")
    write_dataset(data, train=8, val=2)
    return data


def start(
    folder: Path | None, out: Path | None, callback=lambda event: None, **more
) -> TrainResult:
    options = {"data": folder, "out": out, **QUICK, **more}
    return train(TrainConfig.make(options), callback)


@dataclasses.dataclass(frozen=True)
class Told:
    """A training, its events, and what it logged."""

    result: TrainResult
    events: list[Event]
    messages: list[str]


@pytest.fixture(scope="module")
def told(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    events: list[Event] = []
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("fcnseg"), Keep()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        result = start(folder, tmp_path_factory.mktemp("undisturbed"), events.append)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return Told(result, events, messages)


@pytest.fixture(scope="module")
def undisturbed(told: Told) -> Path:
    return told.result.run


def rows(run: Path) -> list[dict[str, str]]:
    """results.csv without what a clock decides."""
    with (run / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKED} for row in csv.DictReader(file)]


def assert_same(run: Path, other: Path) -> None:
    """Two runs ended with the same weights, bit for bit, and the same table."""
    assert rows(run) == rows(other)
    for name in ("best.safetensors", "last.safetensors"):
        ours, theirs = Checkpoint.load(run / name), Checkpoint.load(other / name)
        assert (ours.report, ours.extra) == (theirs.report, theirs.extra)
        assert set(ours.weights) == set(theirs.weights)
        for key, tensor in theirs.weights.items():
            assert torch.equal(ours.weights[key], tensor), f"{name}: {key}"


def at_event(number: int, act: Callable[[], Any]) -> Callable[[Event], None]:
    """A callback that acts at the n-th Progress after the labels were read."""
    seen = 0

    def listen(event: Event) -> None:
        nonlocal seen
        if isinstance(event, Progress) and event.task.startswith(("epoch", "validation")):
            seen += 1
            if seen == number:
                act()

    return listen


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def test_a_run_folder_has_everything(folder: Path, told: Told) -> None:
    result = told.result
    names = {path.name for path in result.run.iterdir()}
    weights = {"best.safetensors", "last.safetensors"}
    assert names == {*weights, "config.toml", "environment.json", "results.csv", "state.pt"}
    table = rows(result.run)
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert list(table[0])[:2] == ["epoch", "loss"]
    assert "iou star" in table[0]
    assert result.miou == pytest.approx(max(float(row["miou"]) for row in table))
    assert (result.epochs, result.best) == (2, result.run / "best.safetensors")
    stored = TrainConfig.load(result.run / "config.toml")
    assert stored.data == folder.resolve()
    assert stored.crop == (64, 64)
    assert result.as_dict()["run"] == str(result.run)


def test_what_is_told_on_the_way(told: Told) -> None:
    events = told.events
    steps = [e for e in events if isinstance(e, Progress) and e.task.startswith("epoch 2")]
    assert [step.done for step in steps] == [3, 6, 8]
    assert set(steps[0].values) == {"loss", "lr", "images/s", "left"}
    assert steps[0].total == 8
    done = [event for event in events if isinstance(event, EpochEnd)]
    assert [(event.epoch, event.epochs) for event in done] == [(1, 2), (2, 2)]
    assert done[0].best
    assert set(done[0].class_iou) == {"background", "disk", "box", "star"}
    assert {"loss", "miou", "pixel_accuracy", "seconds"} <= set(done[0].values)
    assert {type(event) for event in events} == {Progress, EpochEnd}
    assert any("fcn4s on tiny" in text for text in told.messages)


def scored(folder: Path, model: Path, precision: str) -> EvalResult:
    options = {"data": folder, "model": str(model), "precision": precision}
    return evaluate(EvalConfig.make({**options, "device": "cpu", "workers": 0}))


def test_eval_gives_the_score_that_training_gave(folder: Path, undisturbed: Path) -> None:
    result = scored(folder, undisturbed, "f32")
    best = Checkpoint.load(undisturbed / "best.safetensors")
    # Calibration scales all logits; where two are equal to the last bit, rounding decides.
    assert result.miou == pytest.approx(best.report["miou"], abs=1e-4)
    assert best.extra["temperature"] > 0


def test_it_learns(drawn_folder: Path, tmp_path: Path) -> None:
    easy = {"scale": (1.0, 1.0), "color": 0.0, "backbone_lr": 1.0, "decoder": "fcn4s", "width": 16}
    result = start(drawn_folder, tmp_path / "run", epochs=6, crop=(96, 96), batch=4, **easy)
    scores = [float(row["miou"]) for row in rows(result.run)]
    losses = [float(row["loss"]) for row in rows(result.run)]
    assert losses[-1] < 0.8 * losses[0]
    assert scores[-1] > scores[0] + 0.15


def test_the_crop_is_chosen_from_the_images(folder: Path, tmp_path: Path) -> None:
    result = start(folder, tmp_path / "run", crop=None, epochs=1)
    assert TrainConfig.load(result.run / "config.toml").crop == (128, 160)
    text = (result.run / "config.toml").read_text()
    assert "# the median image is 160x128 (width x height); small images" in text
    assert "steps an epoch" not in text, "the reason is for another number"


def test_large_images_are_resized_unless_a_crop_is_given(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    for number in range(3):
        y, x = np.mgrid[:1100, :1120]
        disc = (y - 500) ** 2 + (x - 400 - 80 * number) ** 2 < 300**2
        for part, values in (("images", disc * 200), ("masks", disc)):
            (data / part).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(values.astype(np.uint8))
            image.save(data / part / f"{number}.png", compress_level=1)
    options = {"batch": 2, "epochs": 1, "calibrate": False, "report": False}
    result = start(data, tmp_path / "resized", crop=None, **options)
    assert Checkpoint.load(result.best).preprocess.short_side == 720
    config = TrainConfig.load(result.run / "config.toml")
    assert (config.short_side, config.crop) == (720, (512, 512))
    assert "resized to 720" in (result.run / "config.toml").read_text()
    for name, more in {"crop": {}, "side": {"short_side": 0, "crop": None}}.items():
        result = start(data, tmp_path / name, **(options | more))
        assert Checkpoint.load(result.best).preprocess.short_side is None
    tuned = start(data, tmp_path / "tuned", crop=None, finetune=result.best, **options)
    assert Checkpoint.load(tuned.best).preprocess.short_side is None


def test_a_short_side_is_trained_for_and_kept(folder: Path, tmp_path: Path) -> None:
    result = start(folder, tmp_path / "run", crop=None, epochs=1, short_side=64)
    best = result.run / "best.safetensors"
    assert TrainConfig.load(result.run / "config.toml").crop == (64, 96), "of 80x64, not 160x128"
    assert Checkpoint.load(best).preprocess.short_side == 64
    picture = describe(folder).pairs[-1].image
    as_trained, native = load(best), load(best, short_side=0)
    assert native.preprocess.short_side is None
    image = read_image(picture)
    small = resize_image(image, (64, 80))
    found = as_trained.engine.logits(small[None], size=image.shape[:2])[0]
    np.testing.assert_allclose(as_trained.logits(image), found, atol=1e-5)
    assert np.abs(native.logits(image) - found).max() > 1e-3
    options = {"data": folder, "model": str(best), "short_side": 0, "split": "val"}
    scores = [evaluate(EvalConfig.make({**options, "short_side": s})).miou for s in (None, 64, 0)]
    assert scores[0] == scores[1] != scores[2]


def test_a_rare_one_of_two_classes_is_weighed_and_drawn(folder: Path, tmp_path: Path) -> None:
    several = start(folder, tmp_path / "several", epochs=1).run / "config.toml"
    chosen = TrainConfig.load(several)
    assert (chosen.class_weights, chosen.upsample) == ("none", "fixed")
    assert "however rare\nclass_weights" in several.read_text()
    two = tmp_path / "two"
    shutil.copytree(folder, two)
    for file in two.glob("labels/*/*.png"):
        labels = np.zeros_like(np.array(Image.open(file)))
        labels[40:60, 50:70] = 1
        write_labels(file, labels)
    (two / "classes.txt").write_text("background\nthing\n")
    weighed = start(two, tmp_path / "weighed", epochs=1).run
    chosen = TrainConfig.load(weighed / "config.toml")
    assert (chosen.class_weights, chosen.upsample) == ("sqrt", "subpixel")
    detail = Checkpoint.load(weighed / "last.safetensors").weights["decoder.detail.1.weight"]
    assert detail.abs().max() > 0, "it has learned"
    assert "a pixel of the other\nclass_weights" in (weighed / "config.toml").read_text()
    plain = start(two, tmp_path / "plain", epochs=1, class_weights="none").run
    assert rows(plain)[0]["loss"] != rows(weighed)[0]["loss"]
    scored = start(two, tmp_path / "scored", epochs=1, fuse="score", width=None).run
    scored /= "config.toml"
    assert TrainConfig.load(scored).upsample == "fixed"


class EnoughError(Exception):
    """What the test is about has been seen."""


def test_the_epochs_are_chosen_by_the_number_of_images(folder: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.task.startswith("epoch"):
            raise EnoughError

    with pytest.raises(EnoughError):
        start(folder, tmp_path / "run", stop, epochs=0)
    config = TrainConfig.load(tmp_path / "run" / "config.toml")
    assert config.epochs == 300, "eight pictures in threes: the most there are"
    assert "# 2 steps an epoch: about 600 steps" in (tmp_path / "run" / "config.toml").read_text()


def test_the_batch_is_chosen_for_so_few_images(folder: Path, tmp_path: Path) -> None:
    result = start(folder, tmp_path / "run", batch="auto", epochs=1)
    assert TrainConfig.load(result.run / "config.toml").batch == 2


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_without_calibration_the_best_is_what_was_scored(
    folder: Path, tmp_path: Path, precision: str
) -> None:
    result = start(folder, tmp_path / "run", epochs=1, calibrate=False, precision=precision)
    best, last = Checkpoint.load(result.best), Checkpoint.load(result.last)
    assert "temperature" not in best.extra
    assert all(torch.equal(best.weights[name], last.weights[name]) for name in last.weights)
    miou = scored(folder, result.best, precision).miou
    assert miou == pytest.approx(best.report["miou"], abs=1e-4)


def test_images_are_drawn_on_the_way(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    result = start(folder, tmp_path / "run", pictures=2)
    names = sorted(path.name.split("_")[-1] for path in (result.run / "pictures").iterdir())
    assert names == ["0000.png", "0001.png", "epoch002.png", "epoch002.png"]
    assert_same(result.run, undisturbed)


def test_a_sanity_check_changes_nothing(
    folder: Path, undisturbed: Path, tmp_path: Path, caplog
) -> None:
    caplog.set_level(logging.INFO, "fcnseg")
    result = start(folder, tmp_path / "run", sanity=True)
    assert len([text for text in caplog.messages if text.startswith("Sanity check:")]) == 3
    assert_same(result.run, undisturbed)


def test_the_seed_decides_everything(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    torch.rand(3)
    assert_same(start(folder, tmp_path / "same").run, undisturbed)
    other = start(folder, tmp_path / "other", seed=1)
    assert rows(other.run) != rows(undisturbed)


@pytest.mark.parametrize("number", [1, 3, 4, 8], ids=lambda n: f"event{n}")
def test_ctrl_c_anywhere_changes_nothing(
    folder: Path, undisturbed: Path, tmp_path: Path, number: int
) -> None:
    """Events 1-3 are the steps of an epoch, 4 is its validation."""
    out = tmp_path / "run"
    sent = signal.SIGTERM if number % 2 else signal.SIGINT
    before = signal.getsignal(sent)
    with pytest.raises(Interrupted, match="everything is saved") as caught:
        start(folder, out, at_event(number, send(sent)))
    assert f"fcnseg train {out} --resume" in caught.value.hint
    assert signal.getsignal(sent) == before
    result = train(TrainConfig.make({"data": out, "resume": True, "device": "cpu"}))
    assert result.epochs == 2
    assert_same(out, undisturbed)


def test_interrupted_again_and_again(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    out, starts = tmp_path / "run", 0
    while True:
        starts += 1
        try:
            start(folder, out, at_event(2, send(signal.SIGINT)), resume=starts > 1)
        except Interrupted:
            continue
        break
    assert starts > 3
    assert_same(out, undisturbed)


def test_the_second_ctrl_c_does_not_wait(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start(folder, out, at_event(2, twice))
    start(folder, out, resume=True)
    assert_same(out, undisturbed)


def test_killed_at_any_moment(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL while training or saving, resumed each time (benchmarks/ has more moments)."""
    out = tmp_path / "run"
    options = {**QUICK, "data": str(folder), "out": str(out), "save_every": 0}
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from fcnseg.config import TrainConfig\n"
        "from fcnseg.commands.train import train\n"
        "def tell(event):\n"
        "    print(getattr(event, 'task', ''), flush=True)\n"
        f"train(TrainConfig.make({{**{options!r}, 'resume': '--resume' in sys.argv}}), tell)\n"
    )
    for steps in (2, 6):  # in the first epoch; after the second's last step
        arguments = ["--resume"] if (out / "state.pt").exists() else []
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            steps -= line.startswith(("epoch", "validation"))
            if steps == 0:
                process.kill()
                break
        process.stdout.close()
        assert process.wait() != 0
    start(folder, out, resume=True)
    assert_same(out, undisturbed)


def test_epochs_may_be_raised(folder: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "fcnseg")
    out = tmp_path / "run"
    start(folder, out, epochs=1)
    finished = train(TrainConfig.make({"data": out, "resume": True}))
    assert finished.epochs == 1
    assert any("is finished" in text for text in caplog.messages)
    before = (out / "config.toml").read_text()
    (out / "config.toml").unlink()  # the state has the options, too
    train(TrainConfig.make({"data": out, "resume": True}))
    assert TrainConfig.load(out / "config.toml") == TrainConfig.make(tomllib.loads(before))
    (out / "best.safetensors").unlink()  # by accident: the next epoch's takes its place
    longer = train(TrainConfig.make({"data": out, "epochs": 2, "resume": True}))
    assert longer.epochs == 2
    assert [row["epoch"] for row in rows(out)] == ["1", "2"]
    assert TrainConfig.load(out / "config.toml").epochs == 2


def test_ctrl_c_after_the_last_epoch_says_that_no_epoch_is_lost(
    undisturbed: Path, tmp_path: Path, monkeypatch
) -> None:
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    run = shutil.copytree(undisturbed, tmp_path / "run")
    monkeypatch.setattr("fcnseg.commands.train.finish", interrupted)
    with pytest.raises(Interrupted, match="after the last epoch") as caught:
        train(TrainConfig.make({"data": run, "resume": True}))
    assert caught.value.hint == f"complete it with: fcnseg train {run} --resume"


def test_what_a_run_can_not_resume_with(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--backbone tiny; it can't be resumed with vgg16"):
        train(TrainConfig.make({"data": undisturbed, "resume": True, "backbone": "vgg16"}))
    with pytest.raises(OptionError, match="already contains a run"):
        start(folder, undisturbed)
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    config = run / "config.toml"
    before = config.read_text()
    config.write_text(re.sub(r"(?m)^lr = .*$", "lr = 0.5", before))
    with pytest.raises(OptionError, match=r"lr was 0\.01 and is now 0\.5"):
        train(TrainConfig.make({"data": run, "resume": True}))
    config.write_text(before)
    fewer = tmp_path / "fewer"
    write_dataset(fewer, train=7, val=2)
    with pytest.raises(DatasetError, match="began with 8 training images; now there are 7"):
        train(TrainConfig.make({"data": fewer, "out": run, "resume": True}))


def test_the_newest_run_on_a_folder_resumes(
    folder: Path, undisturbed: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted):
        start(folder, None, at_event(5, send(signal.SIGINT)))
    result = train(TrainConfig.make({"data": folder, "resume": True}))
    assert result.run == Path("runs/train1")
    assert_same(result.run, undisturbed)


def test_other_classes_can_not_go_on(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    run, renamed = tmp_path / "run", tmp_path / "renamed"
    shutil.copytree(undisturbed, run)
    shutil.copytree(folder, renamed)
    (renamed / "classes.txt").write_text("ground\nball\ncrate\nsun\n")
    with pytest.raises(DatasetError, match="began with the classes background, disk, box, star"):
        train(TrainConfig.make({"data": renamed, "out": run, "resume": True}))


def test_a_finetuned_run_resumes_without_what_it_started_from(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    model = shutil.copy(undisturbed / "last.safetensors", tmp_path / "model.safetensors")
    options = {"data": folder, "finetune": str(model), "epochs": 2, "workers": 0, "batch": 3}
    options |= {"crop": QUICK["crop"], "precision": "f32"}  # not what is faster this time
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(TrainConfig.make({**options, "out": out}), at_event(2, send(signal.SIGINT)))
    whole = train(TrainConfig.make({**options, "out": tmp_path / "whole"}))
    model.unlink()
    train(TrainConfig.make({"data": out, "resume": True}))
    assert_same(out, whole.run)


@pytest.mark.parametrize("images", [1, 2])
def test_fewer_images_than_a_batch(tmp_path: Path, images: int) -> None:
    write_dataset(tmp_path / "data", train=images, val=1)
    result = start(tmp_path / "data", tmp_path / "run", batch=8, epochs=2)
    assert result.epochs == 2
    assert len(rows(result.run)) == 2


def test_a_last_batch_of_one_is_left_out(folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    start(folder, tmp_path / "run", events.append, batch=7, epochs=1)
    steps = [e.done for e in events if isinstance(e, Progress) and e.task.startswith("epoch")]
    assert steps == [7]


def test_patience_ends_a_training(folder: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "fcnseg")
    result = start(folder, tmp_path / "run", epochs=9, patience=1, lr=1e-12, freeze_norm=True)
    assert result.epochs == 2, "the second epoch was no better than the first"
    assert any("ends early" in text for text in caplog.messages)
    again = train(TrainConfig.make({"data": result.run, "resume": True}))
    assert again.epochs == 2
    assert any("is finished: no better mIoU for 1 epoch." in text for text in caplog.messages)


def spoil(monkeypatch, steps: set[int], times: int = 99) -> None:
    """Make the loss of some steps not a number."""
    honest = TrainStep._loss
    left = [times]

    def loss(self, images, labels, normalizers, done: float):
        value, aux = honest(self, images, labels, normalizers, done)
        step = round(done * 6)
        if step in steps and left[0]:
            left[0] -= 1
            return value * float("nan"), aux
        return value, aux

    monkeypatch.setattr(TrainStep, "_loss", loss)


def test_after_a_loss_that_is_no_number_it_goes_back(
    folder: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    spoil(monkeypatch, {4}, times=1)
    result = start(folder, tmp_path / "run")
    assert result.epochs == 2
    told = [text for text in caplog.messages if "number" in text]
    assert told == [
        "The loss is not a number at step 5: back to step 3, with 0.5 times the learning rate."
    ]
    assert all(torch.isfinite(t).all() for t in Checkpoint.load(result.last).weights.values())
    rates = [float(row["lr"]) for row in rows(result.run)]
    assert rates[1] < 0.51 * rates[0]


def test_a_training_that_diverges_is_told_once(folder: Path, tmp_path: Path, caplog) -> None:
    start(folder, tmp_path / "high", lr=1000.0, epochs=3, clip=0)
    assert sum("has diverged" in text for text in caplog.messages) == 1
    assert any("--lr below 1000." in text for text in caplog.messages)
    caplog.clear()
    start(folder, tmp_path / "low", epochs=2)
    assert not any("diverged" in text for text in caplog.messages)


@pytest.mark.parametrize("report", [{}, {"classes": [{"name": "a", "iou": None}]}])
def test_classes_that_are_found_nowhere_are_told(
    tiny_run: Path, tmp_path: Path, report: dict[str, Any]
) -> None:
    said: list[Event] = []
    best = Checkpoint.load(tiny_run / "best.safetensors")
    quiet = dataclasses.replace(best, report=report).save(tmp_path / "quiet.safetensors")
    load_best(quiet, said.append)
    assert not said
    scores = {"classes": [{"name": "box", "iou": 0.0}, {"name": "star", "iou": 0.1}]}
    load_best(
        dataclasses.replace(best, report=scores).save(tmp_path / "a.safetensors"), said.append
    )
    assert [e.text.partition(";")[0] for e in said if isinstance(e, Message)] == [
        "Not found in any image scored: box"
    ]


def test_weights_that_overflowed_are_not_saved(folder: Path, tmp_path: Path, monkeypatch, caplog):
    """Statistics of a batch norm can be infinite while the loss, of the batch's own, is not."""
    honest, left = TrainStep._loss, [1]

    def loss(self, images, labels, normalizers, done: float):
        if round(done * 6) == 4 and left[0]:
            left[0] -= 1
            norms = [m for m in self.average.network.modules() if hasattr(m, "running_var")]
            norms[0].running_var.fill_(float("inf"))
        return honest(self, images, labels, normalizers, done)

    monkeypatch.setattr(TrainStep, "_loss", loss)
    result = start(folder, tmp_path / "run", ema=0.99)
    told = [text for text in caplog.messages if "finite" in text]
    assert len(told) == 1
    assert told[0].startswith("Weights are not finite numbers at step 6: back to step 3, with 0.5")
    assert all(t.isfinite().all() for t in Checkpoint.load(result.last).weights.values())


def test_it_gives_up_when_the_loss_stays_no_number(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    spoil(monkeypatch, {4})
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match="not a number at step 5") as caught:
        start(folder, out)
    assert "--lr" in caught.value.hint
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["track"]["step"] == 3
    floats = [t for t in state["learner"].values() if t.is_floating_point()]
    assert all(torch.isfinite(tensor).all() for tensor in floats)


def test_when_memory_runs_out_steps_are_computed_in_parts(
    folder: Path, tmp_path: Path, monkeypatch, caplog
) -> None:
    honest = TrainStep._loss

    def loss(self, images, labels, normalizers, done: float):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return honest(self, images, labels, normalizers, done)

    monkeypatch.setattr(TrainStep, "_loss", loss)
    result = start(folder, tmp_path / "run")
    assert result.epochs == 2
    told = [text for text in caplog.messages if "Memory" in text]
    assert [text.split()[-2] for text in told] == ["2", "3"]


def test_when_one_image_is_too_much(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def loss(self, *arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr(TrainStep, "_loss", loss)
    with pytest.raises(TrainingError, match="Memory ran out at step 1"):
        start(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # there is nothing to resume


def test_a_bug_is_not_taken_for_a_lack_of_memory(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def loss(self, *arguments):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(TrainStep, "_loss", loss)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        start(folder, tmp_path / "run")


def test_processes_load_the_same_batches(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert_same(start(folder, tmp_path / "run", workers=2).run, undisturbed)


def test_finetuning_starts_where_the_other_run_ended(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = {"finetune": str(undisturbed), "epochs": 1, "lr": 1e-9, "backbone_lr": 0.0}
    kept = ("crop", "batch", "workers", "precision")
    more = {key: value for key, value in QUICK.items() if key in kept}
    config = {"data": folder, "out": tmp_path / "run", **more, **options, "freeze_norm": True}
    result = train(TrainConfig.make(config))
    assert result.miou == pytest.approx(
        Checkpoint.load(undisturbed / "best.safetensors").report["miou"], abs=1e-3
    )
    assert TrainConfig.load(result.run / "config.toml").width == 8


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"data": None}, OptionError, "No dataset folder"),
        ({"data": Path("nowhere")}, DatasetError, "nowhere"),
        ({"loss": "cross"}, OptionError, "known: ce"),
        ({"backbone": "vgg61"}, OptionError, "No backbone 'vgg61'"),
        ({"device": "gpu"}, OptionError, "No device"),
        ({"freeze": 9}, OptionError, "5 stages"),
        ({"scale": (2.0, 1.0)}, OptionError, "scale"),
        ({"crop": (32, 32), "batch": 1}, OptionError, "batch norm has a single value"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    folder: Path, tmp_path: Path, options, kind, says: str
) -> None:
    with pytest.raises(kind, match=says):
        start(**{"folder": folder, "out": tmp_path / "run", **_renamed(options)})
    assert not (tmp_path / "run").exists(), "no trace of a run that never began"


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    return {("folder" if name == "data" else name): value for name, value in options.items()}


def test_a_folder_and_options_in_python(folder: Path, undisturbed: Path, tmp_path: Path) -> None:
    import fcnseg

    result = fcnseg.train(str(folder), out=tmp_path / "run", **QUICK)
    assert_same(result.run, undisturbed)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert result.report["miou"] == pytest.approx(result.miou)
    changed = fcnseg.train(
        TrainConfig.make({**QUICK, "data": folder}), epochs=1, out=tmp_path / "1"
    )
    assert changed.epochs == 1
    with pytest.raises(OptionError, match="did you mean --epochs"):
        fcnseg.train(folder, epoch=3)
    # An option that is at its default was asked for all the same.
    with pytest.raises(OptionError, match=r"--lr 0\.01; it can't"):
        fcnseg.train(result.run, resume=True, lr=TrainConfig().lr)


def test_equal_configs_train_the_same_network(folder: Path, undisturbed: Path, tmp_path) -> None:
    """Which options were given makes no difference, nor does a copy."""
    said = TrainConfig.make(
        {**QUICK, "data": folder, "finetune": str(undisturbed), "epochs": 1, "aux": 0.4}
    )
    same = dataclasses.replace(said, out=None)
    assert said == same
    one = train(dataclasses.replace(said, out=tmp_path / "one"))
    other = train(dataclasses.replace(same, out=tmp_path / "other"))
    assert_same(one.run, other.run)
    unsaid = {"width": None, "backbone": None, "backbone_weights": "auto"}
    silent = dataclasses.replace(said, **unsaid, out=tmp_path / "silent")
    assert_same(train(silent).run, one.run)  # the checkpoint says the same


def test_the_printed_loss_is_comparable_between_decoders(folder: Path, tmp_path: Path) -> None:
    """Auxiliary losses, of which a finer decoder has more, have a column of their own."""
    table = {}
    for decoder in ("fcn32s", "fcn4s"):
        options = {"decoder": decoder, "fuse": "score", "width": None}
        result = start(folder, tmp_path / decoder, epochs=1, lr=1e-9, **options)
        table[decoder] = rows(result.run)[0]
    coarse, fine = table["fcn32s"], table["fcn4s"]
    assert float(coarse["aux_loss"]) == 0
    assert float(fine["aux_loss"]) > 0.5
    # Skips start at zero, so both networks say the same.
    assert float(fine["loss"]) == pytest.approx(float(coarse["loss"]), rel=0.1)


def no_space(*args: object) -> None:
    raise InputError("Can't write: No space left on device.")


@pytest.mark.parametrize(
    ("options", "broken"),
    [
        ({"tensorboard": True}, None),
        ({}, "fcnseg.training.run_folder.write_atomically"),
        ({}, "fcnseg.training.trainer.save_state"),
        ({"finetune": "missing.safetensors"}, None),
        ({"mix_share": 0.3}, None),
        ({"crop": (32, 32), "batch": 1}, None),
    ],
    ids=["missing extra", "no config", "no state", "no model", "unused option", "one value"],
)
@pytest.mark.parametrize("theirs", [False, True], ids=["new folder", "folder with a file"])
def test_no_run_folder_stays_of_a_training_that_cannot_start(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    broken: str | None,
    theirs: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    if broken:
        monkeypatch.setattr(broken, no_space)
    out = tmp_path / "run"
    if theirs:
        out.mkdir()
        (out / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FcnsegError):
        start(folder, out, **options)
    assert [path.name for path in out.glob("*")] == (["notes.txt"] if theirs else [])
    assert out.exists() is theirs


def test_like_trains_to_the_same_weights(folder: Path, tmp_path: Path, undisturbed: Path) -> None:
    again = train(like=undisturbed, out=tmp_path / "again")
    for name in ("best.safetensors", "last.safetensors"):
        assert (again.run / name).read_bytes() == (undisturbed / name).read_bytes()
    first, second = (TrainConfig.load(run / "config.toml") for run in (undisturbed, again.run))
    assert dataclasses.replace(second, out=first.out) == first
    assert rows(again.run) == rows(undisturbed)


def test_options_beside_like_take_precedence(tmp_path: Path, undisturbed: Path) -> None:
    again = train(like=undisturbed, out=tmp_path / "other", epochs=1, seed=7)
    stored = TrainConfig.load(again.run / "config.toml")
    assert (stored.epochs, stored.seed, stored.lr, stored.like) == (1, 7, QUICK["lr"], None)


def test_what_differs_from_an_earlier_run_is_said(
    folder: Path, undisturbed: Path, tmp_path: Path, caplog
) -> None:
    """Versions, and data whose files have other contents or are fewer."""
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(undisturbed, run)
    shutil.copytree(folder, data)
    made_with = json.loads((run / "environment.json").read_text())
    assert made_with["torch"] == torch.__version__
    assert made_with["data"]["train"] > 0
    train(like=run, data=data, out=tmp_path / "same", epochs=1)
    assert not [text for text in caplog.messages if "differ" in text], "it is the same data"

    labels = describe(data).pairs[0].labels
    Image.fromarray(np.array(Image.open(labels))[::-1]).save(labels)
    (run / "environment.json").write_text(json.dumps({**made_with, "numpy": "0.1"}))
    train(like=run, data=data, out=tmp_path / "again", epochs=1)
    train(TrainConfig.make({"data": data, "out": run, "resume": True}))
    said = [text for text in caplog.messages if "will differ" in text]
    assert len(said) == 4
    assert sum("numpy 0.1; now it is" in text for text in said) == 2
    assert sum("files have other contents" in text for text in said) == 2
    assert json.loads((run / "environment.json").read_text())["numpy"] == "0.1", "as it began"


def test_like_says_what_it_needs(tmp_path: Path, undisturbed: Path) -> None:
    with pytest.raises(OptionError, match=r"is not a run folder: it contains no config\.toml"):
        train(like=tmp_path)
    with pytest.raises(OptionError, match="both were given"):
        train(like=undisturbed, resume=True)
