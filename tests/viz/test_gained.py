"""What each skip changed sums from the coarsest prediction's mIoU to the last."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcnseg.engines.pytorch import TorchEngine
from fcnseg.metrics import Confusion, Report
from fcnseg.models.networks import build
from fcnseg.models.spec import IMAGENET, ModelSpec
from fcnseg.viz.skips import MADE_RIGHT, MADE_WRONG, STILL_WRONG, Gain, gain_panel, gains

NAMES = ("a", "b", "c")


def miou(truth: np.ndarray, labels: np.ndarray) -> float:
    """By loops: the mean over the classes that are labelled."""
    found = []
    for k in range(3):
        true, said = (truth == k), (labels == k) & (truth != 255)
        if true.any():
            found.append((true & said).sum() / (true | said).sum())
    return float(np.mean(found))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_points_sum_from_the_first_miou_to_the_last(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 255], (12, 9)).astype(np.uint8)
    truth[0, 0] = 1
    steps = {s: rng.integers(0, 3, truth.shape).astype(np.uint8) for s in (32, 16, 8)}
    found = gains(truth, steps, NAMES)
    assert [gain.stride for gain in found] == [32, 16, 8]
    for gain in found:
        assert gain.miou == pytest.approx(miou(truth, steps[gain.stride]))
    assert found[0].points == pytest.approx(100 * miou(truth, steps[32]))
    assert sum(g.points for g in found) == pytest.approx(100 * miou(truth, steps[8]))
    before = steps[32]
    for gain in found[1:]:
        now = steps[gain.stride]
        for y, x in np.ndindex(*truth.shape):
            t, a, b = truth[y, x], before[y, x], now[y, x]
            expected = None
            if t != 255 and a != b:
                expected = MADE_RIGHT if b == t else MADE_WRONG if a == t else STILL_WRONG
            assert [name for name, area in gain.areas.items() if area[y, x]] == (
                [] if expected is None else [expected]
            )
        before = now


def test_the_figures_that_are_shown_add_up() -> None:
    truth = np.zeros((1, 1), np.uint8)
    areas = dict.fromkeys((MADE_RIGHT, MADE_WRONG, STILL_WRONG), truth == 1)
    gain = Gain(16, areas, miou=0.56126, points=56.126 - 37.922)
    panel = gain_panel(truth, gain, "stride 16", truth)  # from 37.92
    assert panel.title == "+ stride 16: +18.21 points of mIoU"
    assert panel.note.endswith("mIoU 56.13")


def test_without_a_label_there_are_no_points() -> None:
    truth = np.full((4, 4), 255, np.uint8)
    [first, second] = gains(truth, {32: truth * 0, 16: truth * 0 + 1}, NAMES)
    assert np.isnan(first.miou)
    assert not any(area.any() for area in second.areas.values())


@pytest.mark.parametrize("fuse", ["score", "feature", "concat"])
def test_predictions_up_to_each_skip(fuse: str) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, decoder="fcn8s", fuse=fuse)
    network = build(spec)
    for module in network.decoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.3)
    engine = TorchEngine(network, IMAGENET)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    found = engine.logits_up_to_skips(images)
    assert list(found) == [32, 16, 8]
    np.testing.assert_allclose(found[8], engine.logits(images), atol=1e-4)
    if fuse == "score":
        np.testing.assert_allclose(found[32], engine.skip_scores(images)[32], atol=1e-5)
    else:
        without = engine.logits_without_skips(images)
        np.testing.assert_allclose(found[16], without[8], atol=1e-5)
        assert np.abs(found[32] - found[16]).max() > 1e-3
    truth = np.random.default_rng(1).integers(0, 3, (64, 96)).astype(np.uint8)
    steps = {s: logits[0].argmax(0).astype(np.uint8) for s, logits in found.items()}
    total = sum(gain.points for gain in gains(truth, steps, NAMES))
    confusion = Confusion(3)
    confusion.add(truth, engine.logits(images)[0].argmax(0).astype(np.uint8))
    assert total == pytest.approx(100 * Report.of(confusion.matrix, NAMES, 1).miou, abs=1e-6)
