# ruff: noqa: E402  (torchmetrics imports torchvision: ours must go first)
"""ECE is torchmetrics' ECE; by class and by distance it is that of the pixels there."""

import numpy as np
import pytest
import torch

from fcnseg.models.backbones.torchvision import import_torchvision

import_torchvision()

from torchmetrics.functional.classification import multiclass_calibration_error

from fcnseg.metrics.regions import distances
from fcnseg.metrics.scores import BINS, GROUPS, RADII, Calibration


def ece(labels: np.ndarray, probabilities: np.ndarray, chosen: np.ndarray) -> float:
    found = multiclass_calibration_error(
        torch.from_numpy(probabilities[:, chosen].T.copy()),
        torch.from_numpy(labels[chosen].astype(np.int64)),
        num_classes=len(probabilities),
        n_bins=BINS,
    )
    return float(found)


def test_ece_is_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 4, (4, 5)), np.ones((10, 10))).astype(np.uint8)
    logits = rng.normal(size=(4, *labels.shape)) + 2 * (np.arange(4)[:, None, None] == labels)
    probabilities = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
    labels[:7, :9] = 255
    found, sure = probabilities.argmax(0).astype(np.uint8), probabilities.max(0)
    ours = Calibration(4)
    for part in (slice(0, 20), slice(20, None)):
        ours.add(labels[part], found[part], sure[part])
    counted = labels != 255
    assert ours.ece == pytest.approx(ece(labels, probabilities, counted), abs=1e-5)
    for k, value in enumerate(ours.by_class):
        wanted = ece(labels, probabilities, counted & (found == k))
        assert value == pytest.approx(wanted, abs=1e-5)
    pixels = sum(pixels for _, _, pixels in ours.curve)
    assert pixels == counted.sum()


def test_by_distance_from_an_outline() -> None:
    """Sure and wrong at the outline, sure and right elsewhere."""
    labels = np.zeros((60, 60), np.uint8)
    labels[:, 30:] = 1
    far = distances(labels, RADII)
    predicted = np.where(far == 0, 1 - labels, labels).astype(np.uint8)
    ours = Calibration(2)
    ours.add(labels, predicted, np.full(labels.shape, 0.9, np.float32))
    wanted = dict.fromkeys(GROUPS, pytest.approx(0.1)) | {GROUPS[0]: pytest.approx(0.9)}
    assert ours.by_distance == wanted


def test_nothing_counted() -> None:
    ours = Calibration(2)
    assert ours.ece is None
    assert ours.by_class == [None, None]
    assert ours.curve == []
