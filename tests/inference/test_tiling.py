"""Tiles: they cover, they blend, and what comes out is what the whole would have given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fcnseg.classes import ClassMap
from fcnseg.engines.base import Engine
from fcnseg.errors import OptionError, is_out_of_memory
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import (
    FramePredictor,
    arrays_of,
    cut,
    labels_of,
    parse_tile,
    predict_tiled,
    ramp,
)
from fcnseg.models.spec import Preprocess

RNG = np.random.default_rng(0)
STATS = Preprocess((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Local(Engine):
    """Three 5x5 convolutions and a pooling of 32: what a pixel says depends on 50 around it."""

    name = "local"
    device = "cpu"
    precision = "f32"

    def __init__(self, most_pixels=10**9):
        torch.manual_seed(0)
        self.near = nn.Sequential(
            nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 5, padding=2)
        )
        self.far = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.most_pixels, self.sizes = most_pixels, []

    @torch.inference_mode()
    def forward(self, images):
        height, width = images.shape[1:3]
        self.sizes.append((height, width))
        if height * width > self.most_pixels:
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5
        padded = nn.functional.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")
        cells = self.far(nn.functional.avg_pool2d(padded, 32))
        wide = nn.functional.interpolate(cells, scale_factor=32.0, mode="bilinear")
        return self.near(x) + 20 * wide[:, :, :height, :width]


def segmenter(**options) -> Segmenter:
    return Segmenter(Local(**options), ClassMap.numbered(4), STATS)


def picture(height, width):
    coarse = RNG.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), np.uint8))[:height, :width]


@given(
    length=st.integers(1, 20_000),
    side=st.integers(384, 2048),
    overlap=st.sampled_from([32, 64, 128, 256]),
)
@settings(max_examples=300, deadline=None)
def test_spans_cover_once_when_weighted(length, side, overlap):
    spans = cut(length, side, overlap)
    weights = np.zeros(length)
    for span in spans:
        assert span.start % 32 == 0
        assert span.length <= side + 31
        assert span.before + span.after <= span.length
        weights[span.start : span.stop] += ramp(span)
    assert np.allclose(weights, 1, atol=1e-5)
    assert all(span.before >= min(overlap, side // 4) - 32 for span in spans[1:])


@pytest.mark.parametrize("size", [(1100, 1600), (200, 2000), (999, 768)])
def test_tiled_is_the_whole(size):
    whole, image = segmenter(), picture(*size)
    expected = whole.predict([image], confidence=True, probabilities=True)[0]
    found = predict_tiled(whole, image, side=768, confidence=True, probabilities=True)
    assert len(whole.engine.sizes) >= 3
    assert (found.labels == expected.labels).mean() >= 0.9999
    assert np.abs(found.confidence - expected.confidence).max() < 1e-4
    assert np.abs(found.probabilities - expected.probabilities).max() < 1e-4
    assert np.bincount(expected.labels.ravel()).min() > 1000


def test_without_an_overlap_there_would_be_seams():
    """The test above can fail: hard cuts do not give the whole's answer."""
    whole, image = segmenter(), picture(768, 768)
    expected = whole.predict([image])[0].labels
    halves = [
        whole.predict([image[:, part]])[0].labels for part in (slice(0, 384), slice(384, 768))
    ]
    assert (np.hstack(halves) == expected).mean() < 0.995


def test_auto_takes_small_images_whole_and_large_ones_in_tiles(monkeypatch):
    monkeypatch.setattr("fcnseg.inference.tiling.MAX_UNTILED_PIXELS", 600 * 600)
    monkeypatch.setattr("fcnseg.inference.tiling._LARGEST", 512)
    inner = segmenter()
    tiled = FramePredictor(inner, "auto")
    assert len(tiled.predict([picture(500, 500), picture(500, 500)])) == 2
    assert inner.engine.sizes == [(500, 500)]
    inner.engine.sizes.clear()
    [large] = tiled.predict([picture(900, 900)])
    assert large.labels.shape == (900, 900)
    assert max(inner.engine.sizes) <= (543, 543)
    assert tiled.classes == inner.classes


def test_large_images_are_scored_in_tiles(monkeypatch):
    monkeypatch.setattr("fcnseg.inference.tiling.MAX_UNTILED_PIXELS", 600 * 600)
    monkeypatch.setattr("fcnseg.inference.tiling._LARGEST", 512)
    inner, image = segmenter(), picture(900, 900)
    [labels], [sure] = labels_of(inner)([image]), arrays_of(inner)([image])
    assert max(inner.engine.sizes) <= (543, 543)
    assert (labels == sure.labels).all()
    assert sure.confidence.shape == labels.shape == (900, 900)


def test_auto_continues_in_smaller_and_smaller_tiles_when_memory_runs_out():
    inner, notes = segmenter(most_pixels=530 * 530), []
    tiled = FramePredictor(inner, "auto", notes.append)
    image = picture(900, 1000)
    [found] = tiled.predict([image])
    expected = segmenter().predict([image])[0]
    assert (found.labels == expected.labels).mean() >= 0.999
    assert [note.text.split()[-2] for note in notes] == ["500"]
    inner.engine.sizes.clear()
    tiled.predict([image])
    assert max(inner.engine.sizes) < (531, 531)  # learnt


def test_other_errors_and_off_are_left_alone():
    with pytest.raises(RuntimeError, match="out of memory"):
        FramePredictor(segmenter(most_pixels=10), "off").predict([picture(100, 100)])
    with pytest.raises(RuntimeError, match="out of memory"):  # no tile is small enough
        FramePredictor(segmenter(most_pixels=10), "auto").predict([picture(1000, 1000)])


def test_networks_with_a_size_of_their_own_are_not_tiled():
    own = Segmenter(Local(), ClassMap.numbered(4), Preprocess(STATS.mean, STATS.std, short_side=64))
    FramePredictor(own, "384").predict([picture(500, 600)])
    assert own.engine.sizes == [(64, 77)]


@pytest.mark.parametrize(("text", "side"), [("auto", 0), ("off", 0), ("512", 512)])
def test_tile_option(text, side):
    assert parse_tile(text) == side


@pytest.mark.parametrize("text", ["on", "100", "-512", "1.5"])
def test_tile_options_that_cannot_be(text):
    with pytest.raises(OptionError, match="tile: expected auto, off"):
        parse_tile(text)


def test_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 12 bytes"))
    assert is_out_of_memory(Exception("Failed to allocate memory for requested buffer"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
