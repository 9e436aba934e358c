# ruff: noqa: E402  (torchmetrics imports torchvision: ours must go first)
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fcnseg.models.backbones.torchvision import import_torchvision

import_torchvision()

from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
)

from fcnseg.classes import ClassMap
from fcnseg.errors import InputError
from fcnseg.metrics import Confusion, Report


def pixels(seed: int, classes: int, absent: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (3, 13, 17)).astype(np.uint8)
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, classes))
    labels[rng.random(labels.shape) < 0.2] = 255
    if absent is not None:
        labels[labels == absent] = 255
    return labels, predicted.astype(np.uint8)


def report(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Report:
    confusion = Confusion(classes)
    confusion.add(labels, predicted)
    return Report.of(confusion.matrix, ClassMap.numbered(classes), len(labels))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 7))
def test_the_matrix_is_torchmetrics_matrix(data: st.DataObject, classes: int) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, max_side=9))
    values = st.one_of(st.integers(0, classes - 1), st.just(255))
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=values))
    predicted = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    confusion = Confusion(classes)
    confusion.add(labels, predicted)
    if classes == 1:  # torchmetrics wants two
        assert confusion.matrix.sum() == (labels != 255).sum()
        return
    oracle = MulticlassConfusionMatrix(classes, ignore_index=255)
    wanted = oracle(torch.from_numpy(predicted).long(), torch.from_numpy(labels).long())
    assert (confusion.matrix == wanted.numpy()).all()


@pytest.mark.parametrize("absent", [None, 2])
def test_scores_are_torchmetrics_scores(absent: int | None) -> None:
    labels, predicted = pixels(1, 5, absent)
    ours = report(labels, predicted, 5)
    true, found = torch.from_numpy(labels).long(), torch.from_numpy(predicted).long()
    iou = MulticlassJaccardIndex(5, average=None, ignore_index=255)(found, true)
    recall = MulticlassAccuracy(5, average=None, ignore_index=255)(found, true)
    micro = MulticlassAccuracy(5, average="micro", ignore_index=255)(found, true)
    dice = MulticlassF1Score(5, average=None, ignore_index=255)(found, true)
    precision = MulticlassPrecision(5, average=None, ignore_index=255)(found, true)
    for index, score in enumerate(ours.classes):
        if index == absent:
            assert score.iou is None
            assert score.accuracy is None
            assert score.pixels == 0
            continue
        assert score.iou == pytest.approx(float(iou[index]), abs=1e-6)
        assert score.accuracy == pytest.approx(float(recall[index]), abs=1e-6)
        assert score.dice == pytest.approx(float(dice[index]), abs=1e-6)
        assert score.precision == pytest.approx(float(precision[index]), abs=1e-6)
        assert score.pixels == (labels == index).sum()
    here = [index for index in range(5) if index != absent]
    assert ours.miou == pytest.approx(float(iou[here].mean()), abs=1e-6)
    assert ours.mean_dice == pytest.approx(float(dice[here].mean()), abs=1e-6)
    assert ours.mean_accuracy == pytest.approx(float(recall[here].mean()), abs=1e-6)
    assert ours.pixel_accuracy == pytest.approx(float(micro), abs=1e-6)


def test_frequency_weighted_iou_by_hand() -> None:
    # true 0: 3 right of 4; true 1: 2 right of 2, one 0 called 1; class 2 absent.
    matrix = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    ours = Report.of(matrix, ["a", "b", "c"], 1)
    assert ours.fw_iou == pytest.approx((4 * 3 / 4 + 2 * 2 / 3) / 6)
    assert ours.miou == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_classes_that_are_absent_or_have_one_pixel() -> None:
    ours = Report.of(np.array([[1, 0, 5], [0, 1, 0], [0, 0, 0]]), ["a", "b", "c"], 1)
    assert ours.class_iou == {"a": pytest.approx(1 / 6), "b": 1.0, "c": None}
    assert ours.absent_predicted == {"c": 5}
    assert ours.miou_with_absent == pytest.approx((1 / 6 + 1 + 0) / 3)
    assert ours.mean_precision == 1.0
    assert ours.fw_iou == pytest.approx((6 * 1 / 6 + 1) / 7)


def test_pieces_add_up_to_the_whole() -> None:
    labels, predicted = pixels(3, 4)
    whole, pieces = Confusion(4), Confusion(4)
    whole.add(labels, predicted)
    for one, other in zip(labels, predicted, strict=True):
        pieces.add(one, other)
    assert (whole.matrix == pieces.matrix).all()
    assert whole.matrix.dtype == np.int64
    assert whole.matrix.sum() == (labels != 255).sum()


def test_as_dict_is_json_with_null_for_absent_classes() -> None:
    labels, predicted = pixels(4, 3, absent=1)
    values = json.loads(json.dumps(report(labels, predicted, 3).as_dict()))
    assert list(values) == [
        "miou",
        "pixel_accuracy",
        "mean_accuracy",
        "fw_iou",
        "mean_dice",
        "mean_precision",
        "images",
        "classes",
    ]
    assert values["images"] == 3
    absent = {"dice": None, "precision": None, "recall": None}
    assert values["classes"][1] == {
        "name": "class_1", "iou": None, "accuracy": None, "pixels": 0, **absent,
    }  # fmt: skip


def test_nothing_labelled_scores_nothing() -> None:
    labels = np.full((4, 4), 255, np.uint8)
    ours = report(labels, np.zeros_like(labels), 2)
    assert np.isnan(ours.miou)
    assert ours.as_dict()["miou"] is None
    assert ours.as_dict()["fw_iou"] is None


@pytest.mark.parametrize(
    ("labels", "predicted", "says"),
    [
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), "one size"),
        (
            np.full((2, 2), 3, np.uint8),
            np.zeros((2, 2), np.uint8),
            r"Class 3 in labels, .* 3 classes \(0 to 2,",
        ),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), "Class 255 in the prediction"),
    ],
)
def test_what_can_not_be_counted(labels, predicted, says) -> None:
    with pytest.raises(InputError, match=says):
        Confusion(3).add(labels, predicted)


def test_a_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="2 classes"):
        Report.of(np.zeros((3, 3), np.int64), ["a", "b"], 0)
