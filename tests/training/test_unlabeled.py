"""Learning from images without labels: what counts, what is skipped, and that it is repeatable."""

import csv
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.commands.train import train
from fcnseg.datasets.loader import UnlabeledBatch
from fcnseg.errors import Interrupted, OptionError
from fcnseg.io.images import read_image, write_image
from fcnseg.progress import Event, Progress
from fcnseg.training.unlabeled import (
    consistency,
    frozen_statistics,
    harms,
    mixed,
    targets,
    weight_at,
)
from tests.conftest import TINY

QUICK = {
    **TINY,
    "width": 8,
    "crop": (48, 48),
    "batch": 2,
    "epochs": 4,
    "lr": 0.01,
    "confident": 0.3,
}


@pytest.fixture(scope="module")
def others(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of other sizes, one twice; one of the dataset; a damaged one."""
    folder, drawn = tmp_path_factory.mktemp("others"), tmp_path_factory.mktemp("drawn")
    write_dataset(drawn, train=4, val=1)
    source = [read_image(path) for path in sorted((data / "images" / "train").iterdir())]
    for number, image in enumerate(source[:3]):
        write_image(folder / f"{number}.png", np.ascontiguousarray(image[::-1, 7 * number :]))
    shutil.copy(folder / "0.png", folder / "again.png")
    shutil.copy(next((data / "images" / "val").iterdir()), folder / "val.png")
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, others: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(data, out=out, unlabeled=others, **QUICK).run


def test_label_files_are_not_learned_from(data: Path, tmp_path: Path, caplog) -> None:
    write_dataset(tmp_path / "more", train=3, val=1, seed=7)
    caplog.set_level("INFO", "fcnseg")
    train(data, out=tmp_path / "run", unlabeled=tmp_path / "more", **QUICK | {"epochs": 1})
    assert any(text.startswith("4 unlabeled images in ") for text in caplog.messages)


def last(run: Path) -> bytes:
    return (run / "last.safetensors").read_bytes()


def test_only_confident_pixels_inside_count() -> None:
    logits = torch.tensor([[[[4.0, 0.1, 4.0]], [[0.0, 0.0, 0.0]]]])  # (1, 2, 1, 3)
    inside = torch.tensor([[[True, True, False]]])
    labels = targets(logits, inside, 0.9)
    assert labels.tolist() == [[[0, 255, 255]]]
    found = consistency(logits, labels, inside.sum())
    assert found == pytest.approx(float(-logits.log_softmax(1)[0, 0, 0, 0]) / 2)


def test_an_image_is_covered_with_its_neighbours_labels() -> None:
    strong = torch.stack([torch.zeros(2, 2, 3), torch.ones(2, 2, 3)]).byte()
    covered = torch.zeros(2, 2, 2, dtype=torch.bool)
    covered[0, 0, 0] = True
    batch = UnlabeledBatch(strong, strong, torch.ones_like(covered), covered)
    labels = torch.stack([torch.full((2, 2), 3), torch.full((2, 2), 5)])
    images, theirs = mixed(batch, labels)
    assert images[0, ..., 0].tolist() == [[1, 0], [0, 0]]
    assert theirs[0].tolist() == [[5, 3], [3, 3]]
    assert theirs[1].tolist() == [[5, 5], [5, 5]]


def test_the_weight_rises_after_the_labels_alone() -> None:
    values = [weight_at(done / 100) for done in range(101)]
    assert values[:50] == [0.0] * 50
    assert values == sorted(values)
    assert values[70] == values[100] == 1.0


def test_statistics_of_norms_stay() -> None:
    norm = torch.nn.BatchNorm2d(1)
    with frozen_statistics(norm):
        norm(torch.randn(4, 1, 3, 3) + 5)
    assert norm.running_mean is not None
    assert float(norm.running_mean) == 0.0
    assert norm.momentum == 0.1


@pytest.mark.parametrize(
    ("alone", "after", "expected"),
    [
        ([0.5, 0.4], [0.45, 0.49, 0.1], True),
        ([0.5, 0.4], [0.45, 0.51, 0.1], False),
        ([0.5], [0.4, 0.4], False),
        ([0.5], [0.6, 0.4, 0.4, 0.4], True),
        ([0.5], [0.6, 0.55, 0.58, 0.59], True),
        ([0.5], [0.6, 0.55, 0.58, 0.61], False),
        ([], [0.1, 0.1, 0.1], False),
    ],
)
def test_what_harms(alone: list[float], after: list[float], expected: bool) -> None:
    rows = [*({"miou": miou} for miou in alone), *({"miou": m, "confident": 0.5} for m in after)]
    assert harms(rows) is expected


def test_what_counted_is_in_the_table(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (run / "results.csv").open(newline="") as file:
        found = [row["confident"] for row in csv.DictReader(file)]
    half = len(found) // 2
    assert found[:half] == [""] * half, "the first half is learned from labels alone"
    assert all(0 < float(value) <= 1 for value in found[half:])


def test_copies_and_bad_images_are_skipped(
    data: Path, others: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    again = train(data, out=tmp_path / "again", unlabeled=others, **QUICK)
    assert "3 unlabeled images in" in caplog.text
    assert "2 skipped" in caplog.text
    assert "bad.png" in caplog.text
    assert last(again.run) == last(run), "the same options, the same weights"


def test_an_interrupted_run_is_resumed_bit_for_bit(
    data: Path, others: Path, run: Path, tmp_path: Path
) -> None:
    steps = 0

    def stop(event: Event) -> None:
        nonlocal steps
        steps += isinstance(event, Progress) and event.task.startswith("epoch")
        if steps == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(data, stop, out=tmp_path / "cut", unlabeled=others, **QUICK)
    assert last(train(tmp_path / "cut", resume=True).run) == last(run)


def test_they_change_what_is_learned(data: Path, run: Path, tmp_path: Path) -> None:
    options = {name: value for name, value in QUICK.items() if name != "confident"}
    assert last(train(data, out=tmp_path / "alone", **options).run) != last(run)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unlabeled": "images/val"}, "none that can be read"),
        ({"unlabeled": "nothing"}, "is not there"),
        ({}, "--confident has no effect"),
    ],
)
def test_refusals(data: Path, options: dict[str, str], text: str, tmp_path: Path) -> None:
    paths = {name: data / value for name, value in options.items()}
    with pytest.raises(OptionError, match=text):
        train(data, out=tmp_path / "run", **{**QUICK, **paths})
    assert not (tmp_path / "run").exists()
