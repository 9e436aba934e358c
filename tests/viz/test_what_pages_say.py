"""Pages name what they show: partial sums are no networks, and every class has its color."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from fcnseg.config import VizConfig
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.inference.loading import load
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.sources.base import Frame
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.viz import Panel, View, heatmaps
from fcnseg.viz.heatmaps import HeatmapFigures
from fcnseg.viz.layout import page
from fcnseg.viz.show import SHOWN
from fcnseg.viz.skips import pool_name


@pytest.fixture
def segmenter(random_model: Path) -> Segmenter:
    return load(random_model, device="cpu", engine="torch", precision="f32")


def pages_of(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[str]], list[list[str]]]:
    """The titles of each page's panels with skips, and the names in its key."""
    titles, keys = [], []

    def spy(panels, *, key=(), **more):
        titles.append([panel.title for panel in panels])
        keys.append([name for name, _ in key])
        return page(panels, key=key, **more)

    monkeypatch.setattr(heatmaps, "page", spy)
    config = VizConfig.make({"source": ["a.png"], "rungs": True})
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    figures = HeatmapFigures.of(segmenter, config)
    dict(figures.images(Frame(image)))
    return titles, keys


def test_a_partial_sum_is_not_called_a_network(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles, keys = pages_of(segmenter, monkeypatch)
    [skips] = [row for row in titles if row[:2] == ["input", "stride 32 (like pool5) alone"]]
    assert skips[2:] == [
        "sum to stride 16 (like pool4)",
        "sum to stride 8 (like pool3)",
        "sum of all: FCN-4s",
    ]
    assert not any("FCN-32s" in title for row in titles for title in row)
    found = segmenter.predict([np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)])
    classes = {segmenter.classes.names[index] for index in np.unique(found[0].labels)}
    with_key = [set(key) for key in keys if key]
    # overview, uncertainty, skips, each class's skips
    assert len(with_key) == 3 + len(segmenter.classes)
    assert all(key >= classes for key in with_key)


def test_a_vgg_has_the_papers_names(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    network = cast(TorchEngine, segmenter.engine).network
    monkeypatch.setattr(network, "spec", replace(network.spec, backbone="vgg16"))
    titles, _ = pages_of(segmenter, monkeypatch)
    assert any(row[:2] == ["pool5 (stride 32)", "+ pool4 (stride 16)"] for row in titles)


def test_the_last_stage_of_a_dilated_network_has_no_pools_name() -> None:
    spec = ModelSpec(backbone="resnet18", num_classes=2, decoder="fcn4s", output_stride=8)
    network = build(spec)
    names = [pool_name(network, stride) for stride in network.backbone.channels]
    assert names == ["like pool1", "like pool2", ""]


def test_a_key_shows_each_colour_and_wraps() -> None:
    key = [(f"a long name of a class {k}", (10 * k, 200, 255 - 10 * k)) for k in range(20)]
    panel = Panel(np.zeros((50, 300, 3), np.uint8), "title")
    plain, drawn = page([panel]), page([panel], key=key)
    assert drawn.shape[1] == plain.shape[1]
    assert drawn.shape[0] > plain.shape[0] + 100
    colors = set(map(tuple, drawn.reshape(-1, 3).tolist()))
    assert {color for _, color in key} <= colors


def test_skips_that_join_as_features_are_left_out_one_by_one(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    classes = len(segmenter.classes)
    spec = ModelSpec(
        backbone="tiny", num_classes=classes, decoder="fcn8s", width=8, upsample="learned"
    )
    engine = TorchEngine(build(spec), segmenter.preprocess)
    of_features = replace(segmenter, engine=engine)
    titles, _ = pages_of(of_features, monkeypatch)
    assert [
        "input",
        "prediction",
        "without stride 16 (like pool4)",
        "without stride 8 (like pool3)",
    ] in titles
    row = [
        "change by stride 16 (like pool4)",
        "change by stride 8 (like pool3)",
        "without stride 16 (like pool4)",
        "without stride 8 (like pool3)",
    ]
    assert titles.count(row) == classes
    figures = HeatmapFigures.of(of_features, VizConfig(source=("a.png",)))
    view = View(figures, Frame(np.zeros((64, 64, 3), np.uint8)))
    section = SHOWN["partial-sums"](view)
    panels = section.panels
    assert "zeros for the features of its finer skips" in section.heading
    assert [panel.title for panel in panels] == [
        *(
            "stride 32 (like pool5) alone",
            "skips to stride 16 (like pool4)",
            "with all skips: FCN-8s",
        )
    ]
    assert panels[0].note.endswith("as with all skips")
    assert SHOWN["scores"](view).panels[1].note == "by the learned kernels"


def test_pages_of_a_video_keep_their_size(segmenter: Segmenter) -> None:
    config = VizConfig.make({"source": ["a.mp4"], "rungs": True})
    figures = replace(HeatmapFigures.of(segmenter, config), full_key=True)
    frames = [np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 250)]
    frames.append(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    sizes = [{n: page.shape for n, page in figures.videos(Frame(image))} for image in frames]
    assert all(size == sizes[0] for size in sizes)
    labels = np.zeros((64, 64), np.uint8)
    assert [name for name, _ in figures.key(labels)] == list(segmenter.classes.names)


def test_a_large_image_is_drawn_in_the_size_of_the_pages(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network sees the image itself; probabilities are computed in the panels' size."""
    monkeypatch.setattr(heatmaps, "LARGEST_PANEL", 64)
    panels: list[Panel] = []

    def spy(some, **more):
        panels.extend(some)
        return page(some, **more)

    monkeypatch.setattr(heatmaps, "page", spy)
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    figures = HeatmapFigures.of(segmenter, VizConfig.make({"source": ["a.png"]}))
    dict(figures.images(Frame(image)))
    assert {panel.image.shape for panel in panels} == {(48, 64, 3)}
    _, labels, probabilities = figures._predict(Frame(image))
    whole = torch.from_numpy(segmenter.logits(image))[None]
    smaller = torch.nn.functional.interpolate(whole, (48, 64), mode="bilinear").softmax(1)[0]
    assert probabilities == pytest.approx(smaller.numpy(), abs=1e-4)
    assert (labels == smaller.numpy().argmax(0)).mean() > 0.99


def test_skips_of_a_large_image_are_drawn_in_its_own_size(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heatmaps, "LARGEST_PANEL", 32)
    titles, _ = pages_of(segmenter, monkeypatch)
    assert any(row[0] == "input" and "stride 32" in row[1] for row in titles)
