import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcnseg.engines import base as module
from fcnseg.engines import open_exported
from fcnseg.engines.base import ScoreGrid, argmax_labels, enlarged_labels, resized
from fcnseg.engines.pytorch import TorchEngine, score_grid_of
from fcnseg.exporting.parity import sample_images
from fcnseg.models.backbones import upsample
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build, build_empty
from fcnseg.models.spec import ModelSpec

PLACES = [(2, 0.5), (2, 0), (4, 3), (4, 0), (4, 1.5), (8, 7), (8, 3.5), (16, 0), (32, 15.5)]
"""Factor and shift of every alignment there is (fcnseg.models.backbones.timm)."""


def smooth(height: int, width: int, *, classes: int = 5, seed: int = 0) -> torch.Tensor:
    """Scores (1, K, h, w) as networks give them: neighbours are alike."""
    make = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, height // 3 + 1, width // 3 + 1, generator=make)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def by_logits(scores: torch.Tensor, factor: int, shift: float, size) -> np.ndarray:
    logits = upsample(scores, factor, shift, (scores.shape[2] * factor, scores.shape[3] * factor))
    return argmax_labels(logits[:, :, : size[0], : size[1]])[0][0]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PLACES),
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(1, 12),
    st.integers(0, 1000),
)
def test_labels_are_those_of_the_logits(place, height, width, classes, seed):
    factor, shift = place
    scores = smooth(height, width, classes=classes, seed=seed)
    size = (height * factor - seed % factor, width * factor - seed // 7 % factor)
    found = ScoreGrid(factor, shift).labels(scores[0].numpy(), size)
    wanted = by_logits(scores, factor, shift, size)
    assert found.dtype == np.uint8
    assert found.shape == size
    # Where two classes are equal to the last bits the order of a sum may decide.
    assert (found != wanted).mean() <= 1e-3
    whole = (height * factor, width * factor)
    logits = ScoreGrid(factor, shift).logits(scores.numpy(), whole)
    np.testing.assert_allclose(logits, upsample(scores, factor, shift, whole), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(1, 9),
    st.floats(1, 9),
    st.integers(1, 30),
    st.integers(0, 1000),
)
def test_labels_of_enlarged_logits_are_those_of_bilinear_resizing(
    height, width, down, across, classes, seed
):
    """By any factor; also at the borders, where torch repeats the last pixel."""
    logits = smooth(height, width, classes=classes, seed=seed)
    size = (round(height * down), round(width * across))
    found = enlarged_labels(logits[0].numpy(), size)
    wanted = argmax_labels(resized(logits, size))[0][0]
    assert found.dtype == np.uint8
    assert found.shape == size
    # Where two classes are equal to the last bits the order of a sum may decide.
    assert (found != wanted).sum() <= max(1, 1e-3 * found.size)


@pytest.mark.parametrize("size", [(64, 96), (48, 71), (32, 49)])
def test_an_engine_enlarges_the_logits_only_where_classes_meet(random_model, monkeypatch, size):
    checkpoint = Checkpoint.load(random_model)
    engine = TorchEngine(checkpoint.build(), checkpoint.preprocess)
    images = sample_images((2, 32, 48), seed=1)
    wanted = argmax_labels(engine.logits(images, size=size))[0]
    sizes = []

    def as_it_is(logits, size):
        sizes.append(size)
        return logits

    monkeypatch.setattr("fcnseg.engines.base.resized", as_it_is)
    found, confidence = engine.labels(images, size=size)
    assert sizes == [None]
    assert confidence is None
    assert (found != wanted).mean() <= 1e-3


@pytest.mark.parametrize("place", [(2, 0.5), (4, 3), (8, 0)])
def test_labels_in_an_onnx_file_are_those_of_the_logits(place):
    """The graph that upsamples only classes that can win, whatever their number in a square.

    TopK of nothing ends the process in ONNX Runtime up to 1.31.
    """
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from fcnseg.exporting.labels import labels_model

    like = onnx.helper.make_model(
        onnx.GraphProto(), opset_imports=[onnx.helper.make_opsetid("", 20)]
    )
    model = labels_model(ScoreGrid(*place), like)
    model.ir_version = 10
    ranked = [node.input[0] for node in model.graph.node if node.op_type == "TopK"]
    for name in ranked:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(value)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    noise = torch.randn(2, 40, 5, 6, generator=torch.Generator().manual_seed(0))
    whole_numbers = noise[:1].round()  # ties
    flat = noise[:1, :, :1, :1].expand(-1, -1, 3, 3)  # one class wins everywhere
    for scores in (noise, whole_numbers, smooth(7, 9, classes=30), noise[:1, :2, :1, :1], flat):
        height, width = (place[0] * length - 1 for length in scores.shape[2:])
        images = np.zeros((len(scores), height, width, 3), np.uint8)
        feeds = {"scores": scores.numpy(), "images": images}
        found, *orders = session.run(["labels", *ranked], feeds)
        assert all(len(order) for order in orders)
        wanted = [by_logits(one[None], *place, (height, width)) for one in scores]
        assert found.dtype == np.uint8
        assert found.shape == images.shape[:3]
        assert (found != np.stack(wanted)).mean() <= 1e-3


def test_noise_without_two_equal_neighbours(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 100)  # several blocks, the last one not full
    scores = torch.randn(1, 6, 19, 23, generator=torch.Generator().manual_seed(1))
    found = ScoreGrid(4, 3).labels(scores[0].numpy(), (76, 92))
    assert (found == by_logits(scores, 4, 3, (76, 92))).all()


def test_a_third_class_may_win_between_two():
    scores = torch.tensor([[[[9.0, 0.0]], [[0.0, 9.0]], [[7.0, 7.0]]]])  # (1, 3, 1, 2)
    found = ScoreGrid(4, 0).labels(scores[0].numpy(), (4, 8))
    assert found[0].tolist() == by_logits(scores, 4, 0, (4, 8))[0].tolist()
    assert set(found[0]) == {0, 1, 2}


def test_the_first_of_equal_classes_wins():
    assert (ScoreGrid(4, 3).labels(np.ones((3, 2, 2), np.float32), (8, 8)) == 0).all()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(PLACES), st.integers(2, 150), st.integers(0, 1000), st.sampled_from([0, 0.5, 4])
)
def test_classes_that_can_not_win_change_no_bit(place, classes, seed, step):
    """step: scores are rounded to it, so that many are equal."""
    random = np.random.default_rng(seed)
    corners = random.normal(0, 4, (4, classes, 40)).astype(np.float32)
    corners += random.normal(0, 8, (classes, 40)).astype(np.float32)  # neighbours are alike
    if step:
        corners = np.round(corners / step) * np.float32(step)
    down, across = (random.random((length, 40), np.float32) for length in (3, place[0]))
    found = module._upsample(corners, down, across)
    one, two, three, four = corners[:, :, None]  # (K, 1, M)
    above, below = one * (1 - across) + two * across, three * (1 - across) + four * across
    for row, weight in enumerate(down):
        assert (found[row] == (above * (1 - weight) + below * weight).argmax(axis=0)).all()


def test_few_classes_upsample_candidates_can_win():
    coarse = smooth(6, 8, classes=150)
    scores = torch.nn.functional.interpolate(coarse, (30, 40), mode="bicubic")[0].numpy()
    corners = np.stack([scores[:, y : y + 29, x : x + 39] for y in (0, 1) for x in (0, 1)])
    assert module.can_win(corners.reshape(4, 150, -1)).mean() < 0.05


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        ({"backbone": "efficientnet_lite0", "decoder": "fcn4s"}, (4, 3)),
        ({"backbone": "resnet18", "decoder": "fcn8s"}, (8, 0)),
        ({"backbone": "tiny", "decoder": "fcn32s", "fuse": "score"}, (32, 15.5)),
        ({"backbone": "tiny", "upsample": "learned"}, None),
        ({"backbone": "tiny", "upsample": "subpixel"}, None),
    ],
)
def test_which_networks_have_cells(options, cells):
    grid = score_grid_of(build_empty(ModelSpec(num_classes=3, width=8, **options)))
    assert (None if grid is None else (grid.factor, grid.shift)) == cells


def test_other_modules_have_no_grid():
    assert score_grid_of(torch.nn.Identity()) is None


def test_scores_and_logits_of_one_pass():
    torch.manual_seed(0)
    network = build(ModelSpec(backbone="tiny", num_classes=3, width=8, decoder="fcn4s")).eval()
    images = torch.randn(2, 3, 50, 71)
    with torch.no_grad():
        scores, logits = network.scores_and_logits(images)
        assert scores.shape == (2, 3, 16, 24)  # of 64x96
        torch.testing.assert_close(scores, network.scores(images))
        torch.testing.assert_close(logits, network(images))


def test_engines_go_the_short_way_and_say_the_same(random_model, exported_model, monkeypatch):
    from fcnseg.models.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(random_model)
    images = sample_images((2, 97, 131), seed=3)
    for engine in (
        TorchEngine(checkpoint.build(), checkpoint.preprocess),
        open_exported(exported_model, "onnxruntime")[0],
    ):
        wanted = engine.logits(images).argmax(axis=1)
        with monkeypatch.context() as patch:
            patch.setattr(type(engine), "forward", None)  # not asked for logits
            labels, sure = engine.labels(images, size=(97, 131))
        assert sure is None
        assert (labels != wanted).mean() <= 1e-3
        assert engine.labels(images, confidence=True)[1] is not None
        resized, _ = engine.labels(images, size=(50, 60))
        assert resized.shape == (2, 50, 60)
